"""Files of others as assets: meshes and Gaussian splats, to begin a run from or to measure.

Meshes are parsed by trimesh, splats by the readers beside our writers. Nothing is unpickled or executed, and what a
file refers to (materials, textures) is read only from the folder it lies in, or below.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from numpy.typing import NDArray
from PIL import Image
from trimesh.resolvers import Resolver
from trimesh.visual import ColorVisuals
from trimesh.visual.material import PBRMaterial

from sds3d.config import nearest
from sds3d.formats.glb import linear_to_srgb, srgb_to_linear
from sds3d.formats.glb_chunks import read_chunks
from sds3d.formats.splat import from_splat
from sds3d.formats.splat_glb import EXTENSION, from_splat_glb
from sds3d.formats.splat_ply import from_splat_ply, read_header, read_vertices
from sds3d.formats.spz import from_spz
from sds3d.geometry.mesh import FloatArray, IntArray, Mesh
from sds3d.geometry.sampling import splats_from_points
from sds3d.geometry.splats import Geometry, Splats

EXTENSIONS = (".glb", ".obj", ".ply", ".stl", ".splat", ".spz")
"""Endings of the files that `load_asset` reads."""

RADIUS = 0.5
"""Metres: of the sphere round the origin that an asset fits."""

_FITS = 1.01  # an asset this much larger than the sphere is left as it is
_SMALL = 0.25  # metres: one that reaches no further from the origin is enlarged
_FLOAT = 5126  # glTF's number for it

_BEGINNINGS = {".glb": "'glTF'", ".ply": "a line 'ply'", ".spz": "gzip's 1f 8b"}

Picture = NDArray[np.uint8]  # (H, W, 3)


class AssetError(ValueError):
    """A file that cannot be read, and what to do about it, in one line."""


def load_asset(path: Path | str) -> Geometry:
    """The mesh or the Gaussian splats of a file.

    Meshes: GLB, OBJ (with MTL), PLY and STL, in the file's own coordinates, taken for metres and +Y up; the parts of a
    scene are put in their places and joined. Vertex colours, base colours and textures are kept, metallic and roughness
    too. Parts that share one texture keep it; where textures differ, or repeat, their colours become vertex colours. A
    mesh with a texture has the vertex colours of the texture, too. Splats: PLY, .splat, .spz and GLB with
    KHR_gaussian_splatting. A PLY of points without faces becomes round Gaussians.

    Raises AssetError for a file that is missing, empty, truncated, of an unknown kind, without triangles or with
    positions that are no numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise AssetError(f"{path} is {'a folder, not a file' if path.is_dir() else 'not there: is the path right?'}")
    suffix = path.suffix.lower()
    if suffix not in EXTENSIONS:
        close = nearest(suffix, EXTENSIONS)
        hint = f'did you mean "{close[0]}"?' if close else f"files that can be read: {', '.join(EXTENSIONS)}"
        raise AssetError(f'{path}: files ending in "{suffix}" cannot be read; {hint}')
    try:
        data = path.read_bytes()
        if not data:
            raise AssetError("the file is empty: write or copy it again")
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is complained about
            asset = _asset(data, suffix, path.parent)
        return _checked(asset) if isinstance(asset, Mesh) else asset
    except AssetError as error:
        raise AssetError(f"{path}: {error}") from None
    except ValueError as error:
        raise AssetError(f"{path}: {_line(error)}") from error
    except (MemoryError, RecursionError) as error:
        raise AssetError(f"{path}: the file is too large, or too deeply nested, for this machine") from error
    except OSError as error:
        raise AssetError(f"{path}: {error.strerror or _line(error)}") from error
    except Exception as error:  # a parser met what it had not foreseen: the file is at fault
        name = type(error).__name__
        raise AssetError(f"{path}: the file is damaged ({name}: {_line(error)}); write it again") from error


def fit_to_cube(asset: Geometry) -> tuple[Geometry, bool]:
    """The asset in the toy world's size, and whether it had to be changed for that.

    It is changed when it reaches out of the sphere of radius 0.5 round the origin by more than 1 %, or not even half as
    far: then the centre of its bounding box is moved to the origin and its farthest point to that sphere. What counts
    are a mesh's triangles and the centres of Gaussians, every one of them: cut strays off a captured cloud first.
    """
    points = asset.means if isinstance(asset, Splats) else asset.vertices[np.unique(asset.faces)]
    points = points.astype(np.float64)
    if _SMALL < np.linalg.norm(points, axis=1).max() <= RADIUS * _FITS:
        return asset, False
    centre = (points.min(axis=0) + points.max(axis=0)) / 2
    reach = float(np.linalg.norm(points - centre, axis=1).max())
    scale = RADIUS / reach if reach > 0 else 1.0

    def moved(positions: FloatArray) -> FloatArray:
        return ((positions.astype(np.float64) - centre) * scale).astype(np.float32)

    if isinstance(asset, Splats):
        scales = (asset.scales * scale).astype(np.float32)
        return replace(asset, means=moved(asset.means), scales=scales).checked(), True
    return replace(asset, vertices=moved(asset.vertices)), True


def _asset(data: bytes, suffix: str, folder: Path) -> Geometry:
    """What the bytes hold: by their beginning where that tells, else by the file's ending."""
    if data[:4] == b"glTF":
        return _from_glb(data, folder)
    if re.match(rb"ply\s*\n", data):
        return _from_ply(data, folder)
    if data[:2] == b"\x1f\x8b" or data[:4] == b"NGSP":
        return from_spz(data)
    if suffix in _BEGINNINGS:
        raise AssetError(f"this is not a {suffix[1:].upper()} file: it must begin with {_BEGINNINGS[suffix]}")
    if suffix == ".splat":
        return from_splat(data)
    return _from_stl(data, folder) if suffix == ".stl" else _from_obj(data, folder)


def _from_glb(data: bytes, folder: Path) -> Geometry:
    document, _ = read_chunks(data)
    primitives = [part for mesh in document.get("meshes", []) for part in mesh["primitives"]]
    if any(EXTENSION in primitive.get("extensions", {}) for primitive in primitives):
        return from_splat_glb(data)
    # trimesh would take these for zeros, or for other numbers, without a word.
    accessors = document.get("accessors", [])
    if any("sparse" in accessor for accessor in accessors):
        raise AssetError("the GLB has sparse accessors, which cannot be read: export it without morph targets")
    compressed = {"KHR_draco_mesh_compression", "EXT_meshopt_compression", "KHR_meshopt_compression"}
    if wrong := compressed & set(document.get("extensionsUsed", [])):
        raise AssetError(f"the GLB is compressed by {min(wrong)}, which cannot be read: export it uncompressed")
    for primitive in primitives:
        uv = primitive["attributes"].get("TEXCOORD_0")
        if uv is not None and accessors[uv]["componentType"] != _FLOAT:
            raise AssetError("the GLB has texture coordinates in integers: export it without quantisation")
    normals = any("NORMAL" in primitive["attributes"] for primitive in primitives)
    return _joined(_parts(data, "glb", folder, normals))


def _from_ply(data: bytes, folder: Path) -> Geometry:
    _, elements, _ = read_header(data)
    counts = {element.name: element.count for element in elements}
    names = {name for element in elements if element.name == "vertex" for name, _ in element.properties}
    if {"f_dc_0", "packed_position"} & names:
        return from_splat_ply(data)
    if not counts.get("vertex"):
        raise AssetError("the PLY has neither faces nor points: export it again")
    if not counts.get("face"):
        return _from_points(data)
    mesh = _joined(_parts(data, "ply", folder, "nx" in names))
    if len(mesh.faces) < counts["face"]:
        raise AssetError(f"the PLY is truncated: it promises {counts['face']} faces and has {len(mesh.faces)}")
    return mesh


def _from_points(data: bytes) -> Splats:
    columns = read_vertices(data)
    if not columns.keys() >= {"x", "y", "z"}:
        raise AssetError("the PLY's vertices have no x, y and z")
    points = np.stack([columns[axis] for axis in "xyz"], axis=1).astype(np.float32)
    colors = None
    for names in (("red", "green", "blue"), ("diffuse_red", "diffuse_green", "diffuse_blue"), ("r", "g", "b")):
        if columns.keys() >= set(names):
            stored = np.stack([columns[name] for name in names], axis=1)
            # Text files do not tell bytes from fractions: then what exceeds 1 does.
            whole = 255 if stored.dtype.kind in "iu" or stored.max() > 1 else 1
            colors = np.clip(stored / whole, 0, 1).astype(np.float32)
            break
    finite = np.isfinite(points).all(axis=1)
    if colors is not None:
        finite &= np.isfinite(colors).all(axis=1)
    if finite.sum() < 2:
        raise AssetError(f"the PLY has neither faces nor at least two points that are numbers, of {len(points)}")
    if not finite.all():
        warnings.warn(f"{(~finite).sum()} of {len(points)} points are no numbers and are left out", stacklevel=4)
    return splats_from_points(points[finite], None if colors is None else colors[finite])


def _from_stl(data: bytes, folder: Path) -> Mesh:
    binary = len(data) >= 84 and len(data) >= 84 + 50 * int.from_bytes(data[80:84], "little")
    if not binary:
        if not data.lstrip().startswith(b"solid"):
            raise AssetError("the STL is truncated, or no STL: its length does not fit its number of triangles")
        if b"endsolid" not in data:
            raise AssetError("the STL is truncated: endsolid is missing")
    mesh = _joined(_parts(data, "stl" if binary else "stl_ascii", folder, False))
    # STL repeats every corner for each of its triangles.
    vertices, index = np.unique(mesh.vertices, axis=0, return_inverse=True)
    return replace(mesh, vertices=vertices, faces=index.reshape(-1)[mesh.faces].astype(np.int32), colors=None)


def _from_obj(data: bytes, folder: Path) -> Mesh:
    if b"\0" in data[:4096]:
        raise AssetError("this is not an OBJ file: it is not text")
    normals = re.search(rb"^vn\s", data, re.MULTILINE) is not None
    # trimesh takes a material's colour or the vertices' own, not both.
    colored = re.search(rb"^v([ \t]+[^\s]+){6}", data, re.MULTILINE) and not re.search(rb"^vt\s", data, re.MULTILINE)
    return _joined(_parts(data, "obj", folder, normals, maintain_order=True, skip_materials=bool(colored)))


@dataclass
class _Part:
    """One piece of a scene in its place: V vertices, F faces."""

    vertices: NDArray[np.float64]  # (V, 3)
    faces: IntArray  # (F, 3)
    normals: NDArray[np.float64] | None  # (V, 3)
    look: _Look


@dataclass
class _Look:
    """Colours and material of a part. The texture's pictures stand beside the factors, as glTF multiplies them."""

    colors: FloatArray | None = None  # (V, 3) or (1, 3) sRGB
    uv: NDArray[np.float64] | None = None  # (V, 2), v down, also outside [0, 1]
    texture: Picture | None = None
    metallic_roughness: Picture | None = None
    metallic: float = 0.0
    roughness: float = 0.8

    @property
    def pictures(self) -> tuple[Picture | None, Picture | None]:
        return (None, None) if self.uv is None else (self.texture, self.metallic_roughness)


class _Neighbours(Resolver):
    """The files in a folder and below it, for trimesh; others are refused, with a warning."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    def get(self, key: str) -> bytes:
        path = (self.folder / key.strip().replace("\\", "/")).resolve()
        if not path.is_relative_to(self.folder):
            warnings.warn(f"{key.strip()} lies outside of the asset's folder and is left out", stacklevel=2)
            raise PermissionError(key)
        if not path.is_file():
            warnings.warn(f"{key.strip()} is missing beside the asset and is left out", stacklevel=2)
            raise FileNotFoundError(key)
        return path.read_bytes()

    def keys(self) -> list[str]:
        return []

    def write(self, name: str, data: Any) -> None:
        raise PermissionError(name)

    def namespaced(self, namespace: str) -> _Neighbours:
        raise PermissionError(namespace)


def _parts(data: bytes, kind: str, folder: Path, normals: bool, **options: bool) -> Iterator[_Part]:
    """The triangle meshes of a file as trimesh reads it. normals: whether it has any; trimesh would make them up."""
    files = _Neighbours(folder)
    try:
        loaded: Any = trimesh.load(
            io.BytesIO(data), file_type=kind, resolver=files, process=False, force="scene", **options
        )
    except MemoryError:
        raise
    except Exception as error:  # parsers meet what they had not foreseen
        raise AssetError(f"the file is truncated or damaged ({_line(error)}): write it again") from error
    pictures: dict[int, Picture] = {}
    for node in loaded.graph.nodes_geometry:
        transform, name = loaded.graph[node]
        shape = loaded.geometry[name]
        if not isinstance(shape, trimesh.Trimesh) or not len(shape.faces):
            continue
        faces = np.asarray(shape.faces)
        if faces.min() < 0 or faces.max() >= len(shape.vertices):
            raise AssetError("a face names a vertex that is not there: the file is damaged, write it again")
        turn = transform[:3, :3]
        directions = None
        if normals:
            directions = shape.vertex_normals @ np.linalg.pinv(turn)  # normals go by the inverse transpose
            directions = directions / np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-30)
        yield _Part(
            shape.vertices @ turn.T + transform[:3, 3],
            # A mirrored part's triangles would look inwards.
            (faces[:, ::-1] if np.linalg.det(turn) < 0 else faces).astype(np.int32),
            directions,
            _look(shape.visual, len(shape.vertices), kind == "glb", files, pictures),
        )


def _look(visual: Any, count: int, linear: bool, files: _Neighbours, pictures: dict[int, Picture]) -> _Look:
    """What trimesh says of a part's colours. linear: vertex colours are linear light, as in glTF."""

    def picture(image: Any) -> Picture | None:
        if image is not None and id(image) not in pictures:  # one that parts share is converted once
            pictures[id(image)] = np.asarray(image.convert("RGB"))
        return None if image is None else pictures[id(image)]

    colors = _vertex_colors(visual, count)
    material: Any = getattr(visual, "material", None)
    if material is None:
        return _Look(linear_to_srgb(colors) if linear and colors is not None else colors)
    uv = visual.uv
    if uv is not None:
        usable = len(uv) == count and np.isfinite(uv).all()
        uv = np.asarray(uv, np.float64)[:, :2] * [1, -1] + [0, 1] if usable else None
    if not isinstance(material, PBRMaterial):
        return _obj_look(material, colors, uv, picture(material.image), files)
    factor = np.ones(3) if material.baseColorFactor is None else np.asarray(material.baseColorFactor)[:3] / 255
    metallic, roughness = (1.0 if f is None else float(f) for f in (material.metallicFactor, material.roughnessFactor))
    look = _Look(None, uv, picture(material.baseColorTexture), picture(material.metallicRoughnessTexture))
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


def _obj_look(
    material: Any,
    colors: FloatArray | None,
    uv: NDArray[np.float64] | None,
    texture: Picture | None,
    files: _Neighbours,
) -> _Look:
    """A material of MTL, with its PBR extension. Its colour does not multiply its texture: most programs ignore it."""
    words: dict[str, Any] = getattr(material, "kwargs", {})
    if texture is not None and texture.shape == (2, 2, 3) and (texture == 100).all():
        texture = None  # trimesh makes this grey one up where the material is missing
    look = _Look(colors, uv, texture)
    metallic, roughness = (
        float(words[key][0]) if key in words else default for key, default in (("pm", 0.0), ("pr", look.roughness))
    )
    if colors is None and texture is None and material.diffuse is not None and "kd" in words:
        colors = (np.asarray(material.diffuse)[None, :3] / 255).astype(np.float32)
    maps: dict[str, Image.Image] = {}
    for key in ("map_pr", "map_pm"):
        if key in words:
            with suppress(OSError):  # the warning is given
                maps[key] = Image.open(io.BytesIO(files.get(" ".join(words[key])))).convert("L")
    both = None
    if maps:
        size = max(image.size for image in maps.values())
        both = np.full((size[1], size[0], 3), 255, np.uint8)
        for key, channel, factor in (("map_pr", 1, roughness), ("map_pm", 2, metallic)):
            both[..., channel] = np.asarray(maps[key].resize(size)) if key in maps else round(255 * factor)
    return replace(look, colors=colors, metallic_roughness=both, metallic=metallic, roughness=roughness)


def _vertex_colors(visual: Any, count: int) -> FloatArray | None:
    """(V, 3) in [0, 1] as they stand in the file, or None."""
    if isinstance(visual, ColorVisuals):
        stored = visual.vertex_colors if visual.kind else None
    else:
        stored = visual.vertex_attributes.get("color")
    if stored is None or len(stored) != count:
        return None
    stored = np.asarray(stored)
    whole = np.iinfo(stored.dtype).max if stored.dtype.kind in "iu" else 1
    return np.clip(np.nan_to_num(stored[:, :3]) / whole, 0, 1).astype(np.float32)


def _joined(pieces: Iterator[_Part]) -> Mesh:
    """One mesh of all parts. Raises AssetError when there is none, and for positions that are no numbers."""
    parts = list(pieces)
    if not parts:
        raise AssetError("there are no triangles in the file: export the object as a mesh")
    counts = np.array([len(part.vertices) for part in parts])
    vertices = np.concatenate([part.vertices for part in parts])
    if bad := int((~np.isfinite(vertices)).any(axis=1).sum()):
        raise AssetError(f"{bad} of {len(vertices)} vertices are NaN or infinite: repair the mesh where it was made")
    starts = np.cumsum(counts) - counts
    normals = [part.normals for part in parts if part.normals is not None]
    looks = [part.look for part in parts]
    weights = [len(part.faces) for part in parts]
    mesh = Mesh(
        vertices.astype(np.float32),
        np.concatenate([part.faces + start for part, start in zip(parts, starts, strict=True)]).astype(np.int32),
        _joined_colors(looks, counts),
        np.concatenate(normals).astype(np.float32) if len(normals) == len(parts) else None,
        metallic=_average([look.metallic * _level(look, 2) for look in looks], weights),
        roughness=_average([look.roughness * _level(look, 1) for look in looks], weights),
    )
    tiles = [None if look.uv is None else _in_one_tile(look.uv) for look in looks]
    uv = [tile for tile in tiles if tile is not None]
    texture, metallic_roughness = looks[0].pictures
    one = all(_same(look.pictures[i], looks[0].pictures[i]) for look in looks for i in range(2))
    if not one or len(uv) < len(parts) or (texture is None and metallic_roughness is None):
        return mesh
    return replace(
        mesh, uv=np.concatenate(uv).astype(np.float32), texture=texture, metallic_roughness=metallic_roughness
    )


def _joined_colors(looks: list[_Look], counts: NDArray[np.intp]) -> FloatArray | None:
    """Vertex colours (V, 3) of all parts, from the textures where there are some; None when no part has any."""
    colors = [look.colors if look.pictures[0] is None else _sampled(look) for look in looks]
    if all(color is None for color in colors):
        return None
    filled = [
        np.ones((count, 3)) if color is None else np.broadcast_to(color, (count, 3))
        for color, count in zip(colors, counts, strict=True)
    ]
    return np.concatenate(filled).astype(np.float32)


def _sampled(look: _Look) -> FloatArray:
    """Colours (V, 3) of the texture at the vertices; outside [0, 1] it repeats."""
    assert look.uv is not None
    assert look.texture is not None
    uv = np.where((look.uv < 0) | (look.uv > 1), look.uv % 1, look.uv)
    size = np.array(look.texture.shape[1::-1])  # width, height
    column, row = np.minimum((uv * size).astype(np.int64), size - 1).T
    return (look.texture[row, column] / 255).astype(np.float32)


def _same(a: Picture | None, b: Picture | None) -> bool:
    return a is b or (a is not None and b is not None and np.array_equal(a, b))


def _level(look: _Look, channel: int) -> float:
    """The mean of a channel of the metallic-roughness texture, 1 without one."""
    picture = look.pictures[1]
    return 1.0 if picture is None else float(picture[..., channel].mean()) / 255


def _average(values: list[float], weights: list[int]) -> float:
    return values[0] if len(set(values)) == 1 else float(np.average(values, weights=weights))


def _in_one_tile(uv: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """The same texels by coordinates in [0, 1], or None where the texture repeats."""
    hair = 1e-4  # rounding
    moved = uv - np.floor(uv.min(axis=0) + hair)
    return None if moved.max() > 1 + hair else moved.clip(0, 1)


def _checked(mesh: Mesh) -> Mesh:
    if np.isfinite(mesh.vertices).all():
        return mesh
    raise AssetError("the mesh is larger than numbers of 32 bits can say: scale it down where it was made")


def _line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
