"""The parts of a mesh file as trimesh parses it.

Nothing is unpickled or executed. Files that the mesh refers to (materials, textures) are read only from its own folder
or below.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from numpy.typing import NDArray
from PIL import Image
from trimesh.resolvers import Resolver
from trimesh.visual import ColorVisuals
from trimesh.visual.material import PBRMaterial

from sds3d.formats.base import first_line
from sds3d.formats.parts import Look, Part, Picture
from sds3d.geometry.colors import linear_to_srgb, srgb_to_linear
from sds3d.geometry.mesh import FloatArray


def parts(data: bytes, kind: str, folder: Path, *, has_normals: bool, **options: bool) -> Iterator[Part]:
    """Yield the triangle meshes of a file.

    kind: trimesh's name of the format. has_normals: whether the file has normals; trimesh would make them up.
    options: of trimesh's parser. Raises ValueError for a file that cannot be parsed.
    """
    files = _Neighbours(folder)
    try:
        loaded: Any = trimesh.load(
            io.BytesIO(data), file_type=kind, resolver=files, process=False, force="scene", **options
        )
    except MemoryError:
        raise
    except Exception as error:  # parsers raise anything on files they did not expect
        raise ValueError(f"the file is truncated or damaged ({first_line(error)}): write it again") from error
    pictures: dict[int, Picture] = {}
    for node in loaded.graph.nodes_geometry:
        transform, name = loaded.graph[node]
        shape = loaded.geometry[name]
        if not isinstance(shape, trimesh.Trimesh) or not len(shape.faces):
            continue
        faces = np.asarray(shape.faces)
        if faces.min() < 0 or faces.max() >= len(shape.vertices):
            raise ValueError("a face names a vertex that does not exist: the file is damaged, write it again")
        linear = transform[:3, :3]
        normals = None
        if has_normals:
            normals = shape.vertex_normals @ np.linalg.pinv(linear)  # normals transform by the inverse transpose
            normals = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)
        yield Part(
            shape.vertices @ linear.T + transform[:3, 3],
            # The triangles of a mirrored part would look inwards.
            (faces[:, ::-1] if np.linalg.det(linear) < 0 else faces).astype(np.int32),
            normals,
            _look(shape.visual, len(shape.vertices), kind == "glb", files, pictures),
        )


class _Neighbours(Resolver):
    """The files in a folder and below it, for trimesh. Others are refused, with a warning."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    def get(self, key: str) -> bytes:
        path = (self.folder / key.strip().replace("\\", "/")).resolve()
        if not path.is_relative_to(self.folder):
            warnings.warn(f"{key.strip()} is outside the asset's folder and is left out", stacklevel=2)
            raise PermissionError(key)
        if not path.is_file():
            warnings.warn(f"{key.strip()} is missing in the asset's folder and is left out", stacklevel=2)
            raise FileNotFoundError(key)
        return path.read_bytes()

    def keys(self) -> list[str]:
        return []

    def write(self, name: str, data: Any) -> None:
        raise PermissionError(name)

    def namespaced(self, namespace: str) -> _Neighbours:
        raise PermissionError(namespace)


def _look(visual: Any, count: int, linear: bool, files: _Neighbours, pictures: dict[int, Picture]) -> Look:
    """Return the colours and the material of a part. linear: vertex colours are linear light, as in glTF."""

    def picture(image: Any) -> Picture | None:
        if image is not None and id(image) not in pictures:  # one that parts share is converted once
            pictures[id(image)] = np.asarray(image.convert("RGB"))
        return None if image is None else pictures[id(image)]

    colors = _vertex_colors(visual, count)
    material: Any = getattr(visual, "material", None)
    if material is None:
        return Look(linear_to_srgb(colors) if linear and colors is not None else colors)
    uv = visual.uv
    if uv is not None:
        usable = len(uv) == count and np.isfinite(uv).all()
        uv = np.asarray(uv, np.float64)[:, :2] * [1, -1] + [0, 1] if usable else None
    if not isinstance(material, PBRMaterial):
        return _simple_look(material, colors, uv, picture(material.image), files)
    factor = np.ones(3) if material.baseColorFactor is None else np.asarray(material.baseColorFactor)[:3] / 255
    metallic, roughness = (1.0 if f is None else float(f) for f in (material.metallicFactor, material.roughnessFactor))
    look = Look(None, uv, picture(material.baseColorTexture), picture(material.metallicRoughnessTexture))
    if look.metallic_roughness is not None and (metallic, roughness) != (1, 1):
        scaled = look.metallic_roughness * [1, roughness, metallic]
        look = replace(look, metallic_roughness=np.rint(scaled.clip(0, 255)).astype(np.uint8))
    if look.texture is not None and (factor < 1).any():
        table = linear_to_srgb(srgb_to_linear(np.arange(256)[:, None] / 255) * factor)  # (256, 3)
        table = np.rint(table * 255).astype(np.uint8)
        look = replace(look, texture=np.stack([table[look.texture[..., c], c] for c in range(3)], axis=-1))
    if colors is not None or (factor < 1).any():
        colors = linear_to_srgb((np.ones((count, 3)) if colors is None else colors) * factor)
    return replace(look, colors=colors, metallic=metallic, roughness=roughness)


def _simple_look(
    material: Any,
    colors: FloatArray | None,
    uv: NDArray[np.float64] | None,
    texture: Picture | None,
    files: _Neighbours,
) -> Look:
    """Return the look of an MTL material, with the PBR extension of MTL.

    The material's colour does not multiply its texture, since most programs ignore the colour then.
    """
    words: dict[str, Any] = getattr(material, "kwargs", {})
    if texture is not None and texture.shape == (2, 2, 3) and (texture == 100).all():
        texture = None  # trimesh makes up this grey one when the material is missing
    look = Look(colors, uv, texture)
    metallic, roughness = (
        float(words[key][0]) if key in words else default for key, default in (("pm", 0.0), ("pr", look.roughness))
    )
    if colors is None and texture is None and material.diffuse is not None and "kd" in words:
        colors = (np.asarray(material.diffuse)[None, :3] / 255).astype(np.float32)
    maps: dict[str, Image.Image] = {}
    for key in ("map_pr", "map_pm"):
        if key in words:
            with suppress(OSError):  # the resolver has warned
                maps[key] = Image.open(io.BytesIO(files.get(" ".join(words[key])))).convert("L")
    both = None
    if maps:
        size = max(image.size for image in maps.values())
        both = np.full((size[1], size[0], 3), 255, np.uint8)
        for key, channel, factor in (("map_pr", 1, roughness), ("map_pm", 2, metallic)):
            both[..., channel] = np.asarray(maps[key].resize(size)) if key in maps else round(255 * factor)
    return replace(look, colors=colors, metallic_roughness=both, metallic=metallic, roughness=roughness)


def _vertex_colors(visual: Any, count: int) -> FloatArray | None:
    """Return vertex colours (V, 3) in [0, 1] as the file stores them, or None."""
    if isinstance(visual, ColorVisuals):
        stored = visual.vertex_colors if visual.kind else None
    else:
        stored = visual.vertex_attributes.get("color")
    if stored is None or len(stored) != count:
        return None
    stored = np.asarray(stored)
    whole = np.iinfo(stored.dtype).max if stored.dtype.kind in "iu" else 1
    return np.clip(np.nan_to_num(stored[:, :3]) / whole, 0, 1).astype(np.float32)
