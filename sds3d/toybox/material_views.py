"""Pictures of the toy world's materials under environments, with the truth about each pixel."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from sds3d.cameras import Cameras, orbit
from sds3d.formats.pictures import png, to_uint8
from sds3d.geometry.mesh import FloatArray, Mesh
from sds3d.rendering.mesh_zbuffer import antialiased, rasterize
from sds3d.rendering.panoramas import random_lamps
from sds3d.rendering.shading import (
    Environment,
    linear_to_srgb,
    metallic_roughness,
    prefilter,
    srgb_to_linear,
    toward_viewer,
)
from sds3d.toybox.materials import Look, build_look, caption, parse, sample
from sds3d.toybox.render import (
    FOVY,
    ObjectViews,
    in_bytes,
    in_chunks,
    mesh_structure,
    sample_background,
    sample_views,
)

_LEAST = np.float32(1e-6)


@dataclass(frozen=True)
class MaterialViews:
    """B views of an object. All maps are float32 in [0, 1] but the normals; they are 0 where there is no object.

    pictures: (B, S, S, 3) sRGB, over the background. albedo: (B, S, S, 3) sRGB base colour. metallic, roughness, alpha:
    (B, S, S, 1). normal: (B, S, S, 3) unit vectors in the world frame.
    """

    pictures: FloatArray
    albedo: FloatArray
    metallic: FloatArray
    roughness: FloatArray
    normal: FloatArray
    alpha: FloatArray


@dataclass(frozen=True)
class LitObject:
    """An object of the set with materials: its look, views and cameras, and the seed of its lamps, see `lamps`."""

    look: Look
    views: MaterialViews
    cameras: Cameras
    light: int


def lamps(seed: int, tint: float = 0.3) -> Environment:
    """Return the environment of a seed, 2 to 4 lamps, prefiltered. tint: how strongly they are coloured."""
    return prefilter(random_lamps(torch.Generator().manual_seed(seed), tint=tint))


def render_materials(
    mesh: Mesh,
    cameras: Cameras,
    environment: Environment,
    background: ArrayLike = (1.0, 1.0, 1.0),
    supersampling: int = 2,
) -> MaterialViews:
    """Render a mesh with vertex colours, normals and materials in the first light of an environment.

    Light that other parts reflect or hide is left out, as in all renders of this project.
    Raises ValueError for a mesh without them.
    """
    if mesh.colors is None or mesh.normals is None or mesh.materials is None:
        raise ValueError("the mesh needs vertex colours, normals and materials: build it with build_look")
    attributes = np.concatenate([mesh.normals, mesh.colors, mesh.materials], axis=1)  # (V, 8)
    behind = np.asarray(background, np.float32)

    def render(large: Cameras) -> FloatArray:
        hits = rasterize(mesh.vertices, mesh.faces, attributes, large)
        hit = torch.from_numpy(hits.face >= 0)
        values = torch.from_numpy(hits.attributes)[hit]  # (P, 8)
        to_camera = -large.rays()[1][hit]
        normal = toward_viewer(torch.nn.functional.normalize(values[:, :3], dim=-1), to_camera)
        color, metallic, roughness = values[:, 3:6], values[:, 6:7], values[:, 7:]
        base, metal, rough, facing, viewer = (
            row[None, None] for row in (srgb_to_linear(color), metallic, roughness, normal, to_camera)
        )
        light = metallic_roughness(base, metal, rough, facing, viewer, environment)[0, 0]
        seen = torch.cat([linear_to_srgb(light).clamp(0, 1), color, metallic, roughness, normal], dim=-1)
        out = torch.zeros(*hit.shape, 12)
        out[..., :3] = torch.from_numpy(behind)
        out[hit] = torch.cat([seen, torch.ones(len(seen), 1)], dim=-1)
        return out.numpy()

    values = antialiased(render, cameras, supersampling)
    pictures, rest = values[..., :3], values[..., 3:]
    alpha = rest[..., 8:]
    maps: FloatArray = (rest[..., :8] / np.maximum(alpha, _LEAST)).astype(np.float32)
    albedo, metallic, roughness, normal = maps[..., :3], maps[..., 3:4], maps[..., 4:5], maps[..., 5:]
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    normal = (normal / np.maximum(length, _LEAST)).astype(np.float32)
    return MaterialViews(pictures, albedo, metallic, roughness, normal, alpha)


def lit_object(look: Look, rng: np.random.Generator, size: int = 64, supersampling: int = 2) -> LitObject:
    """Build the object of a look and draw its four views, its light and its background from `rng`."""
    mesh = build_look(look, rng)
    cameras = sample_views(rng, size)
    light = int(rng.integers(2**31))
    background = sample_background(rng)
    return LitObject(look, render_materials(mesh, cameras, lamps(light), background, supersampling), cameras, light)


def lit_views(look: Look, rng: np.random.Generator, size: int = 64, maps: int = 64) -> ObjectViews:
    """Build the object of a look, and draw its views, light and background from `rng`, for the training of a prior.

    maps: height and width of the maps of its structure, which tell the light. The lamps of most objects are nearly
    white, and those of some are strongly coloured.
    """
    mesh = build_look(look, rng)
    cameras = sample_views(rng, size)
    light = lamps(int(rng.integers(2**31)), tint=float(rng.uniform()) ** 2)
    background = sample_background(rng)
    pictures = render_materials(mesh, cameras, light, background).pictures
    structure = mesh_structure(mesh, cameras.resized(maps, maps), light=light)
    return ObjectViews(
        to_uint8(pictures),
        look.spec,
        cameras.azimuth.numpy(),
        float(cameras.elevation[0]),
        float(cameras.distance[0]),
        background,
        in_bytes(structure),
    )


def save_lit_objects(
    folder: Path,
    n_objects: int,
    seed: int = 0,
    workers: int = 1,
    *,
    size: int = 64,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Write random objects with materials as PNG files and a metadata.jsonl with one line per picture, as
    `save_dataset` does. Return the number of pictures.

    Each picture has its truth beside it: `_albedo` (sRGB), `_orm` (coverage, roughness and metallic in R, G and B,
    linear) and `_normal` (world frame, (n + 1) / 2). workers: processes, see `iterate_objects`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    save = partial(_save_objects, folder=folder, seed=seed, size=size)
    with (folder / "metadata.jsonl").open("w", encoding="utf-8") as file:
        for i, lines in enumerate(in_chunks(save, range(n_objects), workers, chunk=1)):
            file.writelines(lines)
            count += len(lines)
            if progress is not None:
                progress(i + 1)
    return count


def _save_objects(indices: range, folder: Path, seed: int, size: int) -> list[list[str]]:
    """Write the pictures of objects. Return the lines of each in metadata.jsonl."""
    objects = []
    for i in indices:
        rng = np.random.default_rng([seed, i])
        made = lit_object(sample(rng), rng, size)
        views, words = made.views, caption(made.look, rng)
        orm = np.concatenate([views.alpha, views.roughness, views.metallic], axis=-1)
        pictures = {"": views.pictures, "_albedo": views.albedo, "_orm": orm, "_normal": 0.5 * (views.normal + 1)}
        lines = []
        for j, azimuth in enumerate(made.cameras.azimuth.tolist()):
            for name, values in pictures.items():
                (folder / f"{i:06d}_{j}{name}.png").write_bytes(png(to_uint8(values[j])))
            line = {
                "file_name": f"{i:06d}_{j}.png",
                "prompt": words,
                **asdict(made.look.spec),
                "material": made.look.material,
                "accent_material": made.look.accent_material,
                "light": made.light,
                "object": i,
                "azimuth": azimuth,
                "elevation": float(made.cameras.elevation[0]),
                "distance": float(made.cameras.distance[0]),
                "fovy": FOVY,
            }
            lines.append(json.dumps(line) + "\n")
        objects.append(lines)
    return objects


def material_rows(
    text: str, azimuths: Sequence[float], seed: int, size: int
) -> list[tuple[str, NDArray[np.float32]]] | None:
    """Return rows of pictures (B, S, S, 3) in [0, 1] with headings: an object of a prompt in the lamps of `seed`, and
    its albedo, roughness and metallic. None: the prompt names no material. Raises ValueError of `parse`.
    """
    look = parse(text)
    if look is None:
        return None
    mesh = build_look(look, np.random.default_rng(seed))
    views = render_materials(mesh, orbit(azimuths, 15.0, fovy=FOVY, size=size), lamps(seed), supersampling=3)
    roughness, metallic = (np.repeat(values, 3, axis=-1) for values in (views.roughness, views.metallic))
    return [("lit", views.pictures), ("albedo", views.albedo), ("roughness", roughness), ("metallic", metallic)]
