"""The UV atlas of a mesh, and baking of its base-colour texture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy
from numpy.typing import NDArray

from sds3d.compiled import njit
from sds3d.console import err
from sds3d.geometry.mesh import FloatArray, IntArray, Mesh
from sds3d.geometry.triangles import ColorFn, sample_colors, surface_area
from sds3d.geometry.unwrapping import Unwrapped, unwrapped, unwrapped_apart

MOST_FACES = 1_000_000
"""Faces of the largest mesh that is unwrapped: some minutes of work."""

_ALONE = 10_000  # faces; with larger ones, other threads would wait for a second or more


def bake(mesh: Mesh, color_fn: ColorFn | None = None, size: int = 1024) -> Mesh:
    """Return the mesh with `uv` and a (size, size, 3) sRGB texture. Vertices on the seams of the atlas are doubled.

    color_fn: returns sRGB (P, 3) in [0, 1] of world points (P, 3) on the surface. Without it, vertex colours are
    interpolated. The colours of an island continue outside it, so that filtering shows no seam.

    Raises ValueError for a mesh without faces, or without both color_fn and vertex colours.
    """
    if not len(mesh.faces):
        raise ValueError("a mesh without faces cannot be textured")
    if color_fn is None and mesh.colors is None:
        raise ValueError("baking needs a color_fn or a mesh with vertex colours")
    origin, faces, uv = unwrap(mesh.vertices, mesh.faces, size)
    split = replace(
        mesh,
        vertices=mesh.vertices[origin],
        faces=faces,
        colors=None if mesh.colors is None else mesh.colors[origin],
        normals=None if mesh.normals is None else mesh.normals[origin],
        materials=None,
        uv=uv,
    )
    face, weights = rasterize_uv(uv, faces, size)
    inside = face >= 0
    corners, weight = faces[face[inside]], weights[inside][:, :, None]  # (P, 3), (P, 3, 1)
    if color_fn is None:
        assert split.colors is not None
        colors = np.clip((split.colors[corners] * weight).sum(axis=1), 0.0, 1.0)
    else:
        colors = sample_colors(color_fn, (split.vertices[corners] * weight).sum(axis=1))
    baked = replace(split, texture=filled(inside, np.rint(colors * 255).astype(np.uint8)))
    if mesh.materials is None:
        return baked
    return with_materials(baked, inside, (mesh.materials[origin][corners] * weight).sum(axis=1))


def with_materials(mesh: Mesh, inside: NDArray[np.bool_], values: NDArray[np.floating]) -> Mesh:
    """Return the mesh with metallic and roughness (P, 2) of the texels inside islands as a texture, or as factors if
    they are the same everywhere.
    """
    rounded = np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)
    mean = (rounded.mean(axis=0) / 255).tolist()
    mesh = replace(mesh, materials=None, metallic=mean[0], roughness=mean[1], metallic_roughness=None)
    if not np.ptp(rounded, axis=0).any():
        return mesh
    channels = np.stack([np.zeros_like(rounded[:, 0]), rounded[:, 1], rounded[:, 0]], axis=-1)
    return replace(mesh, metallic_roughness=filled(inside, channels))


def filled(inside: NDArray[np.bool_], values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture (H, W, C) of the values (P, C) of the texels inside islands (H, W). Others have the value of the
    nearest, so that filtering shows no seam.
    """
    picture = np.zeros((*inside.shape, values.shape[1]), np.uint8)
    picture[inside] = values
    return picture.reshape(-1, values.shape[1])[nearest_inside(inside)]


def nearest_inside(inside: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return each texel's nearest texel inside an island, itself included, as flat indices (H, W). inside: (H, W)."""
    nearest = np.zeros((2, *inside.shape), np.int32)
    scipy.ndimage.distance_transform_edt(~inside, return_distances=False, return_indices=True, indices=nearest)
    return nearest[0].astype(np.int64) * inside.shape[1] + nearest[1]


def unwrap(vertices: FloatArray, faces: IntArray, size: int) -> Unwrapped:
    """Make an atlas of size x size texels without overlaps.

    Returns the original vertex of each new one (V',), faces (F, 3) and uv (V', 2) in [0, 1]. A large mesh is unwrapped
    in another process, which Ctrl-C ends; lines on stderr report the time. Raises ValueError for more than
    MOST_FACES.
    """
    if len(faces) > MOST_FACES:
        raise ValueError(
            f"{len(faces)} faces are too many to unwrap, {MOST_FACES} at most: simplify the mesh, or give it UVs"
        )
    # Growing a chart takes time quadratic in its size. This cap makes 20k faces three times faster and adds few seams.
    area = surface_area(vertices, faces) / 30
    if len(faces) <= _ALONE:
        return unwrapped(vertices, faces, area, size)
    reported = 0

    def waiting(seconds: float) -> None:
        nonlocal reported
        if seconds >= 5 * reported + 2:
            reported += 1
            err.print(f"unwrapping {len(faces)} faces for a texture, {seconds:.0f} s so far")

    return unwrapped_apart(vertices, faces, area, size, waiting)


def rasterize_uv(uv: FloatArray, faces: IntArray, size: int) -> tuple[IntArray, FloatArray]:
    """Return the face (size, size) int32 at each texel's centre, -1 outside, and barycentric weights (size, size, 3).

    A face that contains no centre gets the texel at its middle, if that is free, so that small islands have a colour.
    """
    face = np.full((size, size), -1, np.int32)
    weights = np.zeros((size, size, 3), np.float32)
    _rasterize_uv(uv.astype(np.float64) * size - 0.5, faces, face, weights)
    return face, weights


@njit(cache=True, nogil=True)
def _rasterize_uv(texels: NDArray[np.float64], faces: IntArray, face: IntArray, weights: FloatArray) -> None:
    size = face.shape[0]
    found = np.zeros(faces.shape[0], np.bool_)
    for f in range(faces.shape[0]):
        ax, ay = texels[faces[f, 0]]
        bx, by = texels[faces[f, 1]]
        cx, cy = texels[faces[f, 2]]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if area == 0.0:
            continue
        for y in range(max(int(np.ceil(min(ay, by, cy))), 0), min(int(np.floor(max(ay, by, cy))), size - 1) + 1):
            for x in range(max(int(np.ceil(min(ax, bx, cx))), 0), min(int(np.floor(max(ax, bx, cx))), size - 1) + 1):
                u = ((bx - x) * (cy - y) - (by - y) * (cx - x)) / area
                v = ((cx - x) * (ay - y) - (cy - y) * (ax - x)) / area
                w = 1.0 - u - v
                # Slightly outside counts: rounding must not lose a texel on a shared edge.
                if u >= -1e-6 and v >= -1e-6 and w >= -1e-6:
                    face[y, x], found[f] = f, True
                    weights[y, x, 0], weights[y, x, 1], weights[y, x, 2] = u, v, w
    for f in range(faces.shape[0]):
        if not found[f]:
            a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
            x = int(np.rint((texels[a, 0] + texels[b, 0] + texels[c, 0]) / 3))
            y = int(np.rint((texels[a, 1] + texels[b, 1] + texels[c, 1]) / 3))
            if 0 <= x < size and 0 <= y < size and face[y, x] < 0:
                face[y, x] = f
                weights[y, x] = np.float32(1 / 3)
