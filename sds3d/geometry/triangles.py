"""What can be done to any triangle mesh: normals, fewer faces, colours at its vertices."""

from __future__ import annotations

from collections.abc import Callable

import fast_simplification
import numpy as np
from scipy.spatial import KDTree

from sds3d.geometry.mesh import FloatArray, IntArray, Mesh

ColorFn = Callable[[FloatArray], FloatArray]
"""sRGB colours (P, 3) in [0, 1] at world points (P, 3)."""

_BATCH = 1 << 18


def sample_colors(color_fn: ColorFn, points: FloatArray) -> FloatArray:
    """Colours (P, 3) float32 clipped to [0, 1], asked for in batches so that millions of points fit in memory."""
    parts = [np.asarray(color_fn(points[i : i + _BATCH]), np.float32) for i in range(0, len(points), _BATCH)]
    colors = np.concatenate(parts) if parts else np.zeros((0, 3), np.float32)
    if colors.shape != points.shape:
        raise ValueError(f"color_fn must return (P, 3) colours, got {colors.shape} for {points.shape} points")
    return np.clip(np.nan_to_num(colors), 0.0, 1.0)


def vertex_normals(vertices: FloatArray, faces: IntArray) -> FloatArray:
    """Unit vertex normals (V, 3) float32: means of the adjacent faces' normals, weighted by area."""
    corners = vertices[faces].astype(np.float64)  # (F, 3, 3)
    weighted = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.zeros((len(vertices), 3))
    for corner in range(3):
        np.add.at(normals, faces[:, corner], weighted)
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    up = np.array([0.0, 1.0, 0.0])  # for the rare vertex whose faces cancel: glTF demands unit length
    return np.where(length > 1e-20, normals / np.maximum(length, 1e-20), up).astype(np.float32)


def decimate(vertices: FloatArray, faces: IntArray, max_faces: int) -> tuple[FloatArray, IntArray]:
    """Quadric edge collapse (Garland and Heckbert 1997) down to `max_faces`; smaller meshes come back as they are."""
    if len(faces) <= max_faces:
        return vertices, faces
    simplified = fast_simplification.simplify(vertices.astype(np.float64), faces, target_count=max_faces)
    return simplified[0].astype(np.float32), simplified[1].astype(np.int32)


def simplify(mesh: Mesh, max_faces: int) -> Mesh:
    """The mesh with at most so many faces, by `decimate`; each vertex takes the colour of the nearest one before.

    Vertices that stand at one place are joined first. UVs and textures are left behind: bake new ones. A mesh that is
    small enough comes back as it is.
    """
    if len(mesh.faces) <= max_faces:
        return mesh
    places, joined = np.unique(mesh.vertices, axis=0, return_inverse=True)
    vertices, faces = decimate(places, joined.reshape(-1)[mesh.faces].astype(np.int32), max_faces)
    colors = None if mesh.colors is None else mesh.colors[KDTree(mesh.vertices).query(vertices)[1]]
    return Mesh(
        vertices, faces, colors, vertex_normals(vertices, faces), metallic=mesh.metallic, roughness=mesh.roughness
    )
