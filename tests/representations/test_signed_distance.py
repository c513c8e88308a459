"""Closest faces on a grid, compared with a brute-force search."""

import numpy as np
import trimesh

from sds3d.representations.signed_distance_numba import closest_faces
from tests.rendering.bounds import rounding

N = 16


def closest_of_all(corners: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the distances (P,) from points (P, 3) to the closest of the triangles (F, 3, 3)."""
    f, p = len(corners), len(points)
    closest = trimesh.triangles.closest_point(np.tile(corners, (p, 1, 1)), np.repeat(points, f, axis=0))
    return np.linalg.norm(closest.reshape(p, f, 3) - points[:, None], axis=-1).min(axis=1)


def test_distances_faces_and_weights() -> None:
    """Distances are exact within a voxel of a triangle's box. Beyond it, closest faces spread from point to point."""
    rng = np.random.default_rng(0)
    middles = rng.uniform(1, N - 2, (20, 1, 3))
    corners = middles + rng.uniform(-3, 3, (20, 3, 3))  # long and short, some beyond the grid
    distance, face, weights = closest_faces(corners, N)
    points = np.stack(np.meshgrid(*[np.arange(N)] * 3, indexing="ij"), axis=-1).reshape(-1, 3).astype(np.float64)
    true = closest_of_all(corners, points).reshape(N, N, N)
    assert (distance >= true - 1e-9).all()
    within = true <= 1
    assert within.sum() > 300
    np.testing.assert_allclose(distance[within], true[within], atol=1e-9)
    assert (distance - true).max() < 0.1
    assert (distance > true + 1e-9).mean() < 0.02
    # The weights give the closest point at this distance. They are float32, and corners are up to N voxels away.
    assert (weights > -1e-6).all()
    named = (weights[..., None] * corners[face]).sum(axis=-2)
    gap = np.linalg.norm(named - points.reshape(N, N, N, 3), axis=-1)
    np.testing.assert_allclose(gap, distance, atol=rounding(8, N))


def test_triangles_without_area_are_segments_and_points() -> None:
    segment = np.array([[[3.0, 4.0, 5.0], [9.0, 4.0, 5.0], [6.0, 4.0, 5.0]]])
    point = np.array([[[3.0, 4.0, 5.0]] * 3])
    for corners, end in ((segment, 9.0), (point, 3.0)):
        distance, _, _ = closest_faces(corners, N)
        x, y, z = np.meshgrid(*[np.arange(N, dtype=float)] * 3, indexing="ij")
        beyond = np.maximum(np.maximum(3.0 - x, x - end), 0)
        np.testing.assert_allclose(distance, np.sqrt(beyond**2 + (y - 4) ** 2 + (z - 5) ** 2), atol=1e-9)
