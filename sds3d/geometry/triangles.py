"""Operations on any triangle mesh: components, colours at its vertices, normals, fewer faces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sds3d.geometry.mesh import FloatArray, IntArray, Mesh

ColorFn = Callable[[FloatArray], FloatArray]
"""sRGB colours (P, 3) in [0, 1] at world points (P, 3)."""

_BATCH = 1 << 18
_PASSES = 8
"""Most reductions of a thin mesh; one is nearly always enough."""


def sample_colors(color_fn: ColorFn, points: FloatArray) -> FloatArray:
    """Return colours (P, 3) float32, clipped to [0, 1]. They are computed in batches, to fit millions into memory."""
    parts = [np.asarray(color_fn(points[i : i + _BATCH]), np.float32) for i in range(0, len(points), _BATCH)]
    colors = np.concatenate(parts) if parts else np.zeros((0, 3), np.float32)
    if colors.shape != points.shape:
        raise ValueError(f"color_fn must return (P, 3) colours, got {colors.shape} for {points.shape} points")
    return np.clip(np.nan_to_num(colors), 0.0, 1.0)


def surface_area(vertices: NDArray[np.floating], faces: IntArray) -> float:
    """Return the area of all faces in square metres."""
    a, b, c = (vertices[faces[:, k]].astype(np.float64) for k in range(3))
    return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)


def without_repeated_corners(faces: NDArray[np.integer]) -> NDArray[Any]:
    """Return the faces (F, 3) with three different corners."""
    return faces[(faces != np.roll(faces, 1, axis=1)).all(axis=1)]


def connected(faces: IntArray, count: int) -> tuple[int, NDArray[np.int32]]:
    """Return the number of connected components of `count` vertices, and that of each vertex (V,)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    starts, ends = faces[:, [0, 1]].ravel(), faces[:, [1, 2]].ravel()
    graph = coo_array((np.ones(len(starts), np.bool_), (starts, ends)), (count, count))
    return connected_components(graph, directed=False)


def vertex_normals(vertices: FloatArray, faces: IntArray) -> FloatArray:
    """Return unit vertex normals (V, 3) float32: means of the adjacent faces' normals, weighted by area."""
    corners = vertices[faces].astype(np.float64)  # (F, 3, 3)
    weighted = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.zeros((len(vertices), 3))
    for corner in range(3):
        np.add.at(normals, faces[:, corner], weighted)
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    up = np.array([0.0, 1.0, 0.0])  # if the faces at a vertex cancel: glTF requires unit length
    return np.where(length > 1e-20, normals / np.maximum(length, 1e-20), up).astype(np.float32)


def decimate(vertices: FloatArray, faces: IntArray, max_faces: int) -> tuple[FloatArray, IntArray]:
    """Reduce a mesh to at most `max_faces` by quadric edge collapse (Garland and Heckbert 1997). Smaller ones stay the
    same.

    An edge is kept if its collapse would leave slivers, which is all that thin shapes have. If too many faces remain,
    the mesh is therefore reduced in coordinates in which it is as thick as it is wide.
    """
    if len(faces) <= max_faces:
        return vertices, faces
    import fast_simplification

    points = vertices.astype(np.float64)
    simplified = fast_simplification.simplify(points, faces, target_count=max_faces)
    if len(simplified[1]) > max_faces:
        simplified = points, faces
    for _ in range(_PASSES):
        if len(simplified[1]) <= max_faces:
            break
        middle = simplified[0].mean(axis=0)
        variances, axes = np.linalg.eigh(np.cov((simplified[0] - middle).T))
        widths = np.sqrt(np.maximum(variances, 1e-12 * variances.max()))
        scaled = (simplified[0] - middle) @ axes / widths
        simplified = fast_simplification.simplify(scaled, simplified[1].astype(np.int32), target_count=max_faces)
        simplified = (simplified[0] * widths) @ axes.T + middle, simplified[1]
    return simplified[0].astype(np.float32), simplified[1].astype(np.int32)


def simplify(mesh: Mesh, max_faces: int) -> Mesh:
    """Reduce a mesh to at most `max_faces` by `decimate`. Each new vertex takes colour and material of the
    nearest old one.

    Vertices at the same place are joined first. UVs and textures are dropped: bake new ones. A mesh that is small
    enough is returned unchanged.
    """
    if len(mesh.faces) <= max_faces:
        return mesh
    from scipy.spatial import KDTree

    places, joined = np.unique(mesh.vertices, axis=0, return_inverse=True)
    vertices, faces = decimate(places, joined.reshape(-1)[mesh.faces].astype(np.int32), max_faces)
    nearest = KDTree(mesh.vertices).query(vertices)[1]
    return Mesh(
        vertices,
        faces,
        None if mesh.colors is None else mesh.colors[nearest],
        vertex_normals(vertices, faces),
        metallic=mesh.metallic,
        roughness=mesh.roughness,
        materials=None if mesh.materials is None else mesh.materials[nearest],
    )
