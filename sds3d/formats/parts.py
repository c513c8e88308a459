"""The one mesh that the parts of a scene are joined to."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from sds3d.formats.atlas import one_atlas, with_uvs
from sds3d.formats.base import far_offset
from sds3d.formats.looks import Look, Part, texel
from sds3d.geometry.colors import linear_to_srgb, srgb_to_linear
from sds3d.geometry.mesh import FloatArray, Mesh
from sds3d.geometry.triangles import vertex_normals

MOST_VERTICES = 50_000_000
"""Of all instances together: what a small file can make of itself."""

_ROUGHNESS, _METALLIC = 1, 2  # channels of a metallic-roughness texture


def joined(pieces: Iterable[Part]) -> Mesh:
    """Return one mesh of all parts, near the origin.

    UVs that all parts share are kept, with their texture if there is one. Otherwise the layouts and the pictures of the
    parts become one atlas; see `sds3d.formats.atlas`. The vertices also get the colours of the texture.
    Raises ValueError if there are no parts, or if a vertex is not finite.
    """
    parts = list(pieces)
    if not parts:
        raise ValueError("there are no triangles in the file: export the object as a mesh")
    total = sum(len(part.vertices) for part in parts)
    if bad := sum(int((~np.isfinite(part.vertices)).any(axis=1).sum()) for part in parts):
        raise ValueError(f"{bad} of {total} vertices are NaN or infinite: repair the mesh where it was made")
    weights = [len(part.faces) for part in parts]
    metallic, roughness = (
        _average([_level(part.look, channel) for part in parts], weights) for channel in (_METALLIC, _ROUGHNESS)
    )
    texture = metallic_roughness = uv = None
    if any(part.look.uv is not None for part in parts):
        parts = with_uvs(parts)
        uv, texture, metallic_roughness = one_atlas(parts)
    counts = [len(part.vertices) for part in parts]
    vertices = np.concatenate([part.vertices for part in parts])
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
    normals = [_smooth(part) if part.normals is None else part.normals for part in parts]
    return np.concatenate(normals).astype(np.float32)


def _smooth(part: Part) -> NDArray[np.float64]:
    centred = part.vertices - part.vertices.mean(axis=0)  # 32 bits are enough there
    return vertex_normals(centred.astype(np.float32), part.faces).astype(np.float64)


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


def _level(look: Look, channel: int) -> float:
    """Return the mean of a channel of the metallic-roughness texture, the factor without a texture."""
    picture = look.pictures[1]
    factor = look.metallic if channel == _METALLIC else look.roughness
    return factor if picture is None else float(picture[..., channel].mean()) / 255


def _average(values: list[float], weights: list[int]) -> float:
    return values[0] if len(set(values)) == 1 else float(np.average(values, weights=weights))
