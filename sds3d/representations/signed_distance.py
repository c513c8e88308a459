"""Signed distances and colours of a triangle mesh on a grid, from which a learnable surface starts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sds3d.geometry.mesh import FloatArray, Mesh
from sds3d.geometry.sampling import SurfaceSamples, mesh_area, mesh_colors, sample_surface
from sds3d.rendering.volume import BOUND
from sds3d.representations.signed_distance_numba import closest_faces

_FEWEST, _MOST = 1000, 2_000_000  # points of `surface_points`


def mesh_to_sdf(mesh: Mesh, resolution: int, bound: float = BOUND) -> FloatArray:
    """Distances in metres to a mesh at the points of a grid, negative inside: (N, N, N) float32, axes x, y, z.

    A point is inside if the surface winds around it; parts may overlap. The winding is counted along each of the three
    axes, and the majority decides, so that a hole does little harm. Raises ValueError for a mesh without area or with
    vertices that are not finite.
    """
    distance, _, _ = closest_faces(_corners_in_voxels(mesh, resolution, bound), resolution)
    return _signed(mesh, distance, bound)


def mesh_to_occupancy(mesh: Mesh, resolution: int, bound: float = BOUND) -> NDArray[np.bool_]:
    """Return whether the points of a grid are inside a mesh, by the rule of `mesh_to_sdf`: (N, N, N) bool, x, y, z."""
    x, y, z = (_winding(mesh, resolution, bound, axis) > 0 for axis in range(3))
    return (x & y) | (y & z) | (z & x)


def mesh_to_colors(mesh: Mesh, resolution: int, bound: float = BOUND) -> FloatArray:
    """Return the colour of the mesh's nearest point at each point of a grid: (N, N, N, 3) float32 sRGB in [0, 1].

    White where the mesh has no colours. Raises ValueError for a mesh without area or with vertices that are not finite.
    """
    _, face, weights = closest_faces(_corners_in_voxels(mesh, resolution, bound), resolution)
    return _colored(mesh, face, weights)


def mesh_to_sdf_and_colors(mesh: Mesh, resolution: int, bound: float = BOUND) -> tuple[FloatArray, FloatArray]:
    """Return `mesh_to_sdf` and `mesh_to_colors` with a single search for the closest faces."""
    distance, face, weights = closest_faces(_corners_in_voxels(mesh, resolution, bound), resolution)
    return _signed(mesh, distance, bound), _colored(mesh, face, weights)


def surface_points(mesh: Mesh, spacing: float) -> SurfaceSamples:
    """Return points (P, 3) spread evenly over a mesh, about `spacing` metres apart; see `sample_surface`.

    Raises ValueError for a mesh without area or with vertices that are not finite.
    """
    return sample_surface(mesh, int(np.clip(mesh_area(mesh) / spacing**2, _FEWEST, _MOST)))


def _signed(mesh: Mesh, distance: NDArray[np.float64], bound: float) -> FloatArray:
    """Convert distances (N, N, N) in voxels to signed distances in metres."""
    n = len(distance)
    metres = 2 * bound / (n - 1) * distance
    return np.where(mesh_to_occupancy(mesh, n, bound), -metres, metres).astype(np.float32)


def _colored(mesh: Mesh, face: NDArray[np.int32], weights: NDArray[np.float32]) -> FloatArray:
    """Return colours (N, N, N, 3) at the points of faces (N, N, N) with barycentric weights (N, N, N, 3)."""
    return mesh_colors(mesh, face.ravel(), weights.reshape(-1, 3)).reshape(weights.shape).astype(np.float32)


def _corners_in_voxels(mesh: Mesh, resolution: int, bound: float) -> NDArray[np.float64]:
    """Return corners of the faces (F, 3, 3) in the grid's coordinates."""
    mesh_area(mesh)  # raises where there is none
    return (mesh.vertices[mesh.faces].astype(np.float64) + bound) * ((resolution - 1) / (2 * bound))


def _winding(mesh: Mesh, resolution: int, bound: float, axis: int) -> NDArray[np.int64]:
    """Return how often the mesh winds around each point of the grid, counted along one axis: (N, N, N)."""
    n = resolution
    order = [(axis + 1) % 3, (axis + 2) % 3, axis]
    # In voxels. The shifts keep grid lines off edges and vertices, which would be counted twice.
    shift = np.array([1.7e-4, 2.9e-4, 0.0])
    corners = _corners_in_voxels(mesh, n, bound)[..., order] + shift
    low = np.ceil(corners[..., :2].min(1)).clip(0, n).astype(np.int64)  # (F, 2) grid lines within the bounding box
    high = np.floor(corners[..., :2].max(1)).clip(-1, n - 1).astype(np.int64)
    size = (high - low + 1).clip(min=0)  # (F, 2)
    pairs = size.prod(1)
    face = np.repeat(np.arange(len(corners)), pairs)  # (P,) one row per grid line in a face's bounding box
    place = np.arange(len(face)) - np.repeat(np.cumsum(pairs) - pairs, pairs)
    u = low[face, 0] + place // size[face, 1]
    v = low[face, 1] + place % size[face, 1]
    a, b, c = (corners[face, k] for k in range(3))  # (P, 3)

    def twice_area(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
        return (p[:, 0] - u) * (q[:, 1] - v) - (p[:, 1] - v) * (q[:, 0] - u)

    weights = np.stack([twice_area(b, c), twice_area(c, a), twice_area(a, b)], axis=1)  # (P, 3)
    hit = (weights > 0).all(1) | (weights < 0).all(1)
    weights, face, u, v = weights[hit], face[hit], u[hit], v[hit]
    total = weights.sum(1)
    height = (weights * corners[face, :, 2]).sum(1) / total
    crossings = np.zeros((n, n, n + 1), np.int64)
    # The axis enters at a face that faces back along it.
    first_above = np.floor(height).clip(-1, n - 1).astype(np.int64) + 1
    np.add.at(crossings, (u, v, first_above), np.where(total < 0, 1, -1))
    winding = np.cumsum(crossings[..., :n], axis=-1)
    return np.moveaxis(winding, [0, 1, 2], order)
