"""Parts of a scene, each with its own colours and material, and the one mesh that they are joined to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sds3d.geometry.mesh import FloatArray, IntArray, Mesh

Picture = NDArray[np.uint8]
"""(H, W, 3)"""


@dataclass(frozen=True)
class Look:
    """The colours and the material of a part with V vertices.

    colors: (V, 3) or (1, 3) sRGB, or None.
    uv: (V, 2), v down from the picture's top row, also outside [0, 1], or None.
    texture, metallic_roughness: pictures that the factors multiply, as in glTF, or None.
    """

    colors: FloatArray | None = None
    uv: NDArray[np.float64] | None = None
    texture: Picture | None = None
    metallic_roughness: Picture | None = None
    metallic: float = 0.0
    roughness: float = 0.8

    @property
    def pictures(self) -> tuple[Picture | None, Picture | None]:
        """The base colour and the metallic-roughness texture, None without uv."""
        return (None, None) if self.uv is None else (self.texture, self.metallic_roughness)


@dataclass(frozen=True)
class Part:
    """One piece of a scene, in its place: V vertices, F faces."""

    vertices: NDArray[np.float64]  # (V, 3)
    faces: IntArray  # (F, 3)
    normals: NDArray[np.float64] | None  # (V, 3)
    look: Look


def joined(pieces: Iterable[Part]) -> Mesh:
    """Return one mesh of all parts.

    A texture that all parts share is kept. Where textures differ, or repeat, their colours become vertex colours.
    Raises ValueError if there are no parts, or if a vertex is not finite.
    """
    parts = list(pieces)
    if not parts:
        raise ValueError("there are no triangles in the file: export the object as a mesh")
    counts = np.array([len(part.vertices) for part in parts])
    vertices = np.concatenate([part.vertices for part in parts])
    if bad := int((~np.isfinite(vertices)).any(axis=1).sum()):
        raise ValueError(f"{bad} of {len(vertices)} vertices are NaN or infinite: repair the mesh where it was made")
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
    shared = all(_same(look.pictures[i], looks[0].pictures[i]) for look in looks for i in range(2))
    if not shared or len(uv) < len(parts) or (texture is None and metallic_roughness is None):
        return mesh
    return replace(
        mesh, uv=np.concatenate(uv).astype(np.float32), texture=texture, metallic_roughness=metallic_roughness
    )


def _joined_colors(looks: list[Look], counts: NDArray[np.intp]) -> FloatArray | None:
    """Return vertex colours (V, 3) of all parts, sampled from textures if present; None if no part has any."""
    colors = [look.colors if look.pictures[0] is None else _sampled(look) for look in looks]
    if all(color is None for color in colors):
        return None
    filled = [
        np.ones((count, 3)) if color is None else np.broadcast_to(color, (count, 3))
        for color, count in zip(colors, counts, strict=True)
    ]
    return np.concatenate(filled).astype(np.float32)


def _sampled(look: Look) -> FloatArray:
    """Return the colours (V, 3) of the texture at the vertices. It repeats outside [0, 1]."""
    assert look.uv is not None
    assert look.texture is not None
    uv = np.where((look.uv < 0) | (look.uv > 1), look.uv % 1, look.uv)
    size = np.array(look.texture.shape[1::-1])  # width, height
    column, row = np.minimum((uv * size).astype(np.int64), size - 1).T
    return (look.texture[row, column] / 255).astype(np.float32)


def _same(a: Picture | None, b: Picture | None) -> bool:
    return a is b or (a is not None and b is not None and np.array_equal(a, b))


def _level(look: Look, channel: int) -> float:
    """Return the mean of a channel of the metallic-roughness texture, 1 without a texture."""
    picture = look.pictures[1]
    return 1.0 if picture is None else float(picture[..., channel].mean()) / 255


def _average(values: list[float], weights: list[int]) -> float:
    return values[0] if len(set(values)) == 1 else float(np.average(values, weights=weights))


def _in_one_tile(uv: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Return coordinates in [0, 1] of the same texels, or None if the texture repeats."""
    slack = 1e-4  # for rounding
    moved = uv - np.floor(uv.min(axis=0) + slack)
    return None if moved.max() > 1 + slack else moved.clip(0, 1)
