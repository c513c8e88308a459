"""Parts of a scene, each with its own colours and material, and the one mesh that they are joined to."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sds3d.formats.base import far_offset
from sds3d.geometry.colors import linear_to_srgb, srgb_to_linear
from sds3d.geometry.mesh import FloatArray, IntArray, Mesh
from sds3d.geometry.triangles import vertex_normals

Picture: TypeAlias = NDArray[np.uint8]
"""(H, W, 3)"""

Wrap = Literal["repeat", "mirror", "clamp"]
"""How a picture goes on outside [0, 1]."""


@dataclass(frozen=True)
class Look:
    """The colours and the material of a part with V vertices.

    colors: (V, 3) or (1, 3) sRGB, or None. They multiply the texture, in linear light.
    uv: (V, 2), v down from the picture's top row, also outside [0, 1], or None.
    texture, metallic_roughness: pictures. Factors are already in them. Or None.
    metallic, roughness: what holds without a metallic-roughness picture.
    wrap: how the pictures go on along u and along v.
    layout: parts of one layout share their UV space, as those of one material do.
    """

    colors: FloatArray | None = None
    uv: NDArray[np.float64] | None = None
    texture: Picture | None = None
    metallic_roughness: Picture | None = None
    metallic: float = 0.0
    roughness: float = 0.8
    wrap: tuple[Wrap, Wrap] = ("repeat", "repeat")
    layout: Hashable = None

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

    def taken(self, origin: NDArray[np.int64], faces: IntArray, uv: NDArray[np.float64]) -> Part:
        """The part with vertices doubled where new UVs (V', 2) have a seam. origin: (V',), the old vertex of each."""
        colors = self.look.colors
        if colors is not None and len(colors) > 1:
            colors = colors[origin]
        normals = None if self.normals is None else self.normals[origin]
        return Part(self.vertices[origin], faces, normals, replace(self.look, colors=colors, uv=uv))


def joined(pieces: Iterable[Part]) -> Mesh:
    """Return one mesh of all parts, near the origin.

    UVs that all parts share are kept, with their texture if there is one. Otherwise the layouts and the pictures of the
    parts become one atlas; see `sds3d.formats.atlas`. The vertices also get the colours of the texture.
    Raises ValueError if there are no parts, or if a vertex is not finite.
    """
    parts = list(pieces)
    if not parts:
        raise ValueError("there are no triangles in the file: export the object as a mesh")
    weights = [len(part.faces) for part in parts]
    metallic, roughness = (
        _average([_level(part.look, name, channel) for part in parts], weights)
        for name, channel in (("metallic", 2), ("roughness", 1))
    )
    texture = metallic_roughness = uv = None
    if any(part.look.uv is not None for part in parts):
        from sds3d.formats.atlas import one_atlas, with_uvs  # it imports compiled code

        parts = with_uvs(parts)
        uv, texture, metallic_roughness = one_atlas(parts)
    counts = [len(part.vertices) for part in parts]
    vertices = np.concatenate([part.vertices for part in parts])
    if bad := int((~np.isfinite(vertices)).any(axis=1).sum()):
        raise ValueError(f"{bad} of {len(vertices)} vertices are NaN or infinite: repair the mesh where it was made")
    starts = np.cumsum(counts) - counts
    return Mesh(
        (vertices - far_offset(vertices)).astype(np.float32),
        np.concatenate([part.faces + start for part, start in zip(parts, starts, strict=True)]).astype(np.int32),
        _joined_colors([part.look for part in parts], counts),
        _joined_normals(parts),
        None if uv is None else uv.astype(np.float32),
        texture,
        metallic,
        roughness,
        metallic_roughness,
    )


def _joined_normals(parts: list[Part]) -> FloatArray | None:
    """Return vertex normals (V, 3) if any part has some; those of the others are means of their faces'."""
    if all(part.normals is None for part in parts):
        return None
    normals = [vertex_normals(part.vertices, part.faces) if part.normals is None else part.normals for part in parts]
    return np.concatenate(normals).astype(np.float32)


def _joined_colors(looks: list[Look], counts: list[int]) -> FloatArray | None:
    """Return vertex colours (V, 3) of all parts, with their textures' at the vertices; None if no part has any."""
    colors = [look.colors if look.pictures[0] is None else _sampled(look) for look in looks]
    if all(color is None for color in colors):
        return None
    filled = [
        np.ones((count, 3)) if color is None else np.broadcast_to(color, (count, 3))
        for color, count in zip(colors, counts, strict=True)
    ]
    return np.concatenate(filled).astype(np.float32)


def _sampled(look: Look) -> FloatArray:
    """Return the colours (V, 3) of the texture at the vertices, times the vertices' own."""
    assert look.uv is not None
    assert look.texture is not None
    height, width = look.texture.shape[:2]
    column, row = (texel(look.uv[:, i], size, look.wrap[i]) for i, size in enumerate((width, height)))
    colors = look.texture[row, column] / 255
    if look.colors is not None:
        colors = linear_to_srgb(srgb_to_linear(colors) * srgb_to_linear(look.colors))
    return colors.astype(np.float32)


def texel(coordinate: NDArray[np.float64], size: int, wrap: Wrap) -> NDArray[np.int64]:
    """Return the numbers of the texels of a row of `size` that coordinates fall on."""
    inside = (coordinate >= 0) & (coordinate <= 1)
    if wrap == "mirror":
        within = 1 - np.abs(coordinate % 2 - 1)
    else:
        within = coordinate % 1 if wrap == "repeat" else coordinate.clip(0, 1)
    return np.minimum((np.where(inside, coordinate, within) * size).astype(np.int64), size - 1)


def _level(look: Look, name: Literal["metallic", "roughness"], channel: int) -> float:
    """Return the mean of a channel of the metallic-roughness texture, the factor without a texture."""
    picture = look.pictures[1]
    return float(getattr(look, name)) if picture is None else float(picture[..., channel].mean()) / 255


def _average(values: list[float], weights: list[int]) -> float:
    return values[0] if len(set(values)) == 1 else float(np.average(values, weights=weights))
