"""Signed distances and colours of a given triangle mesh on a grid, the form that a learnable surface starts from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from sds3d.export.surface import grid_points
from sds3d.mesh import FloatArray, Mesh
from sds3d.rendering.volume import BOUND
from sds3d.representations.convert import mesh_colors

_SPACING = 6  # points on the surface that distances are measured to, along an edge of a voxel
_MAX_POINTS = 2_000_000


def mesh_to_sdf(mesh: Mesh, resolution: int, bound: float = BOUND) -> FloatArray:
    """Distances in metres to a mesh at the points of a grid, negative inside: (N, N, N) float32, axes x, y, z.

    Inside is what the surface winds round (parts may overlap); along each axis it is counted anew, and the majority
    decides, so that a hole does little harm. Distances are good to a twelfth of a voxel.
    Raises ValueError for a mesh without area or with vertices that are not finite.
    """
    points, _, _ = surface_points(mesh, 2 * bound / (resolution - 1) / _SPACING)
    distance, _ = KDTree(points).query(grid_points(resolution, (-bound, bound)))
    distance = distance.reshape(resolution, resolution, resolution).astype(np.float32)
    votes = sum((_winding(mesh, resolution, bound, axis) > 0).astype(int) for axis in range(3))
    return np.where(votes >= 2, -distance, distance)


def mesh_to_colors(mesh: Mesh, resolution: int, bound: float = BOUND) -> FloatArray:
    """The colour of the mesh's nearest point at each point of a grid: (N, N, N, 3) float32 sRGB in [0, 1].

    White where the mesh has no colours. Raises ValueError for a mesh without area.
    """
    points, face, weights = surface_points(mesh, 2 * bound / (resolution - 1) / _SPACING)
    _, nearest = KDTree(points).query(grid_points(resolution, (-bound, bound)))
    colors = mesh_colors(mesh, face, weights)[nearest]
    return colors.reshape(resolution, resolution, resolution, 3).astype(np.float32)


def surface_points(mesh: Mesh, spacing: float) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Points spread evenly over a mesh, about `spacing` metres apart: (P, 3), their faces (P,), barycentrics (P, 3).

    Raises ValueError for a mesh without area or with vertices that are not finite.
    """
    corners = mesh.vertices[mesh.faces].astype(np.float64)  # (F, 3, 3)
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
    total = float(area.sum())
    if not 0 < total < np.inf:
        raise ValueError("the mesh has no area or vertices that are not finite, so it has no surface to start from")
    count = int(np.clip(total / spacing**2, 1000, _MAX_POINTS))
    index = np.arange(count)
    face = np.searchsorted(np.cumsum(area) / total, (index + 0.5) / count).clip(max=len(area) - 1)
    # Multiples of these two numbers, modulo 1, fill the square evenly (Roberts' R2 sequence).
    u, v = index * 0.7548776662466927 % 1, index * 0.5698402909980532 % 1
    u, v = np.where(u + v > 1, [1 - u, 1 - v], [u, v])
    weights = np.stack([1 - u - v, u, v], axis=1)  # (P, 3)
    return np.einsum("pk,pkc->pc", weights, corners[face]), face, weights


def _winding(mesh: Mesh, resolution: int, bound: float, axis: int) -> NDArray[np.int64]:
    """How often the mesh's surface winds round each point of the grid, counted along one axis: (N, N, N)."""
    n = resolution
    order = [(axis + 1) % 3, (axis + 2) % 3, axis]
    # In voxels; the shifts keep grid lines off edges and vertices, which would be counted twice.
    shift = np.array([1.7e-4, 2.9e-4, 0.0])
    corners = ((mesh.vertices[mesh.faces].astype(np.float64) + bound) * ((n - 1) / (2 * bound)))[..., order] + shift
    low = np.ceil(corners[..., :2].min(1)).clip(0, n).astype(np.int64)  # (F, 2) grid lines within the bounding box
    high = np.floor(corners[..., :2].max(1)).clip(-1, n - 1).astype(np.int64)
    size = (high - low + 1).clip(min=0)  # (F, 2)
    pairs = size.prod(1)
    face = np.repeat(np.arange(len(corners)), pairs)  # (P,) one row a grid line in a face's box
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
    # A face that looks back along the axis is where the axis enters.
    first_above = np.floor(height).clip(-1, n - 1).astype(np.int64) + 1
    np.add.at(crossings, (u, v, first_above), np.where(total < 0, 1, -1))
    winding = np.cumsum(crossings[..., :n], axis=-1)
    return np.moveaxis(winding, [0, 1, 2], order)
