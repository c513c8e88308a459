"""Points spread evenly over meshes, and the Gaussian splats that meshes and clouds of points become."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import KDTree

from sds3d.geometry.mesh import FloatArray, Mesh
from sds3d.geometry.splats import SH_C0, Splats

_FLAT = 0.15  # thickness of a surface's splat over its width
_SUNK = 1.5  # widths that a surface's splats lie below it: a disc on it reaches beyond the outline
_COVER = 0.45  # standard deviation of a surface's splat over the width of its share of the surface


class SurfaceSamples(NamedTuple):
    """Points spread evenly over a mesh: places and unit normals (P, 3), faces (P,), barycentric weights (P, 3)."""

    points: NDArray[np.float64]
    normals: NDArray[np.float64]
    face: NDArray[np.int64]
    weights: NDArray[np.float64]


def splats_from_mesh(mesh: Mesh, count: int, generator: torch.Generator) -> Splats:
    """`count` flat Gaussians evenly over a mesh's surface, in its colours (white when it has none).

    Raises ValueError for a mesh without area or with vertices that are not finite.
    """
    samples = sample_surface(mesh, count, torch.rand(3, generator=generator).tolist())
    widths = np.full(count, _COVER * math.sqrt(mesh_area(mesh) / count))
    return surface_splats(samples.points, samples.normals, widths, mesh_colors(mesh, samples.face, samples.weights))


def sample_surface(mesh: Mesh, count: int, shift: Sequence[float] = (0.5, 0.0, 0.0)) -> SurfaceSamples:
    """`count` points spread evenly over a mesh. shift: three numbers in [0, 1) that choose another such spread.

    Raises ValueError for a mesh without area or with vertices that are not finite.
    """
    corners = mesh.vertices[mesh.faces].astype(np.float64)  # (F, 3, 3)
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    twice = np.linalg.norm(cross, axis=1)
    # Even steps along the summed areas: no face is met too often by chance.
    index = np.arange(count)
    steps = (index + shift[0]) / count * (2 * mesh_area(mesh))
    face = np.searchsorted(np.cumsum(twice), steps, side="right").clip(max=np.flatnonzero(twice)[-1])
    # Multiples of these two numbers, modulo 1, fill the square evenly (Roberts' R2 sequence).
    u, v = (index * 0.7548776662466927 + shift[1]) % 1, (index * 0.5698402909980532 + shift[2]) % 1
    u, v = np.where(u + v > 1, [1 - u, 1 - v], [u, v])
    weights = np.stack([1 - u - v, u, v], axis=1)  # (P, 3)
    points = np.einsum("pk,pkc->pc", weights, corners[face])
    return SurfaceSamples(points, cross[face] / twice[face, None], face, weights)


def mesh_area(mesh: Mesh) -> float:
    """Square metres. Raises ValueError when there are none, or vertices that are not finite."""
    a, b, c = (mesh.vertices[mesh.faces[:, k]].astype(np.float64) for k in range(3))
    area = float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)
    if not 0 < area < np.inf:
        raise ValueError("the mesh has no area or vertices that are not finite, so it has no surface to start from")
    return area


def mesh_colors(mesh: Mesh, face: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Base colours (P, 3) in [0, 1] at barycentric points: face (P,), weights (P, 3)."""
    corners = mesh.faces[face]  # (P, 3)
    if mesh.texture is not None and mesh.uv is not None:
        height, width = mesh.texture.shape[:2]
        u, v = (mesh.uv[corners] * weights[..., None]).sum(1).T
        row = (v * height).astype(int).clip(0, height - 1)
        column = (u * width).astype(int).clip(0, width - 1)
        return mesh.texture[row, column] / 255
    if mesh.colors is not None:
        return (mesh.colors[corners] * weights[..., None]).sum(1)
    return np.ones((len(face), 3))


def surface_splats(means: np.ndarray, normals: np.ndarray, widths: np.ndarray, colors: np.ndarray) -> Splats:
    """Nearly opaque discs: means (N, 3), unit normals (N, 3), standard deviations (N,) in metres, colours (N, 3)."""
    scales = widths[:, None] * np.array([1.0, 1.0, _FLAT])
    means = means - _SUNK * widths[:, None] * normals
    opacities = np.full(len(means), 0.9)
    arrays = (means, quats_to(normals), scales, opacities, ((colors - 0.5) / SH_C0)[:, None])
    return Splats(*(array.astype(np.float32) for array in arrays)).checked()


def quats_to(normals: np.ndarray) -> np.ndarray:
    """Unit quaternions (N, 4) w, x, y, z that turn +Z into the unit normals (N, 3)."""
    x, y, z = normals.T
    quats = np.stack([1 + z, -y, x, np.zeros_like(x)], axis=1)  # half-way between +Z and the normal
    quats[z < -1 + 1e-9] = [0.0, 1.0, 0.0, 0.0]
    return quats / np.linalg.norm(quats, axis=1, keepdims=True)


def splats_from_points(points: FloatArray, colors: FloatArray | None = None) -> Splats:
    """A round Gaussian a point (N, 3), as wide as its three nearest neighbours are far (2308.04079, sec. 5.1).

    colors: (N, 3) in [0, 1]; grey when left out. Raises ValueError for fewer than two points.
    """
    if len(points) < 2:
        raise ValueError(f"a cloud needs at least two points, got {len(points)}")
    distance, _ = KDTree(points).query(points, k=min(4, len(points)))
    widths = np.maximum(distance[:, 1:].mean(axis=1), 1e-4)
    colors = np.full(points.shape, 0.5) if colors is None else colors
    return Splats(
        np.asarray(points),
        np.tile([1.0, 0.0, 0.0, 0.0], (len(points), 1)),
        np.repeat(widths[:, None], 3, axis=1),
        np.full(len(points), 0.1),
        ((colors - 0.5) / SH_C0)[:, None],
    ).checked()
