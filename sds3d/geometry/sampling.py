"""Points spread evenly over meshes, and Gaussian splats made from meshes and from clouds of points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy
import torch
from numpy.typing import NDArray

from sds3d.geometry.mesh import FloatArray, Mesh
from sds3d.geometry.splats import SH_C0, Splats
from sds3d.geometry.triangles import surface_area

_FLAT = 0.02  # thickness of a splat on a surface, relative to its width
_SUNK = 0.8  # depth of splats below the surface, in widths: a disc on it would reach beyond the outline
_COVER = 0.75  # standard deviation of a splat, relative to the width of its share of the surface: leaves no gaps
_FROM_EDGE = 1.7  # least distance of splats from sharp convex edges, in widths: keeps discs from crossing the edge
_SHARP = math.radians(40)  # smallest angle between the normals of two faces whose edge is sharp


class SurfaceSamples(NamedTuple):
    """Points spread evenly over a mesh: positions and unit normals (P, 3), faces (P,), barycentric weights (P, 3)."""

    points: NDArray[np.float64]
    normals: NDArray[np.float64]
    face: NDArray[np.int64]
    weights: NDArray[np.float64]


def splats_from_mesh(mesh: Mesh, count: int, generator: torch.Generator) -> Splats:
    """Return `count` flat Gaussians spread evenly over a mesh, in its colours (white if it has none).

    They overlap enough to hide what is behind them, and keep a distance from sharp edges, so that outlines stay sharp.
    Raises ValueError for a mesh without area or with vertices that are not finite.
    """
    samples = sample_surface(mesh, count, torch.rand(3, generator=generator).tolist())
    width = _COVER * math.sqrt(mesh_area(mesh) / count)
    points = _away_from_edges(mesh, samples, _FROM_EDGE * width)
    colors = mesh_colors(mesh, samples.face, samples.weights)
    return surface_splats(points, samples.normals, np.full(count, width), colors)


def _away_from_edges(mesh: Mesh, samples: SurfaceSamples, least: float) -> NDArray[np.float64]:
    """Move samples within their tangent planes until sharp convex edges and borders are at least `least` away."""
    edges = _sharp_edges(mesh, least / 4)
    points = samples.points.copy()
    if not len(edges):
        return points
    distance, nearest = scipy.spatial.KDTree(edges).query(points, distance_upper_bound=least)
    near = np.isfinite(distance)
    away, normals = points[near] - edges[np.asarray(nearest)[near]], samples.normals[near]
    away -= np.einsum("pc,pc->p", away, normals)[:, None] * normals
    length = np.linalg.norm(away, axis=1, keepdims=True)
    points[near] += away / np.maximum(length, 1e-9) * np.maximum(least - length, 0)
    return points


def _sharp_edges(mesh: Mesh, spacing: float) -> NDArray[np.float64]:
    """Return points (P, 3) on sharp convex edges and borders, at most `spacing` metres apart."""
    import trimesh

    welded = trimesh.Trimesh(mesh.vertices.astype(np.float64), mesh.faces, process=True)
    sharp = (welded.face_adjacency_angles > _SHARP) & welded.face_adjacency_convex
    borders = welded.edges_sorted[trimesh.grouping.group_rows(welded.edges_sorted, require_count=1)]
    ends = np.concatenate([welded.face_adjacency_edges[sharp], borders])  # (E, 2)
    start, end = np.asarray(welded.vertices[ends[:, 0]]), np.asarray(welded.vertices[ends[:, 1]])
    parts = np.ceil(np.linalg.norm(end - start, axis=1) / spacing).astype(int).clip(min=1)
    edge = np.repeat(np.arange(len(parts)), parts)
    number = np.arange(len(edge)) - np.repeat(np.cumsum(parts) - parts, parts)
    share = ((number + 0.5) / parts[edge])[:, None]
    return start[edge] * (1 - share) + end[edge] * share


def sample_surface(mesh: Mesh, count: int, shift: Sequence[float] = (0.5, 0.0, 0.0)) -> SurfaceSamples:
    """Return `count` points spread evenly over a mesh. shift: three numbers in [0, 1); other numbers, other points.

    Raises ValueError for a mesh without area or with vertices that are not finite.
    """
    corners = mesh.vertices[mesh.faces].astype(np.float64)  # (F, 3, 3)
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    twice = np.linalg.norm(cross, axis=1)
    # Even steps along the cumulative area, so that no face gets too many points by chance.
    index = np.arange(count)
    steps = (index + shift[0]) / count * (2 * mesh_area(mesh))
    face = np.searchsorted(np.cumsum(twice), steps, side="right").clip(max=np.flatnonzero(twice)[-1])
    # Multiples of these two numbers modulo 1 fill the square evenly (Roberts' R2 sequence).
    u, v = (index * 0.7548776662466927 + shift[1]) % 1, (index * 0.5698402909980532 + shift[2]) % 1
    u, v = np.where(u + v > 1, [1 - u, 1 - v], [u, v])
    weights = np.stack([1 - u - v, u, v], axis=1)  # (P, 3)
    points = np.einsum("pk,pkc->pc", weights, corners[face])
    return SurfaceSamples(points, cross[face] / twice[face, None], face, weights)


def mesh_area(mesh: Mesh) -> float:
    """Return the area in square metres. Raises ValueError if it is zero, or if vertices are not finite."""
    area = surface_area(mesh.vertices, mesh.faces)
    if not 0 < area < np.inf:
        raise ValueError("the mesh has no area, or vertices that are not finite: it has no surface to start from")
    return area


def mesh_colors(mesh: Mesh, face: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return base colours (P, 3) in [0, 1] at barycentric points. face: (P,). weights: (P, 3)."""
    corners = mesh.faces[face]  # (P, 3)
    if mesh.texture is not None and mesh.uv is not None:
        return _texels(mesh.texture, mesh.uv[corners], weights)
    if mesh.colors is not None:
        return (mesh.colors[corners] * weights[..., None]).sum(1)
    return np.ones((len(face), 3))


def mesh_materials(mesh: Mesh, face: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return metallic and roughness (P, 2) in [0, 1] at barycentric points. face: (P,). weights: (P, 3)."""
    corners = mesh.faces[face]  # (P, 3)
    if mesh.metallic_roughness is not None and mesh.uv is not None:
        return _texels(mesh.metallic_roughness, mesh.uv[corners], weights)[:, 2:0:-1]
    if mesh.materials is not None:
        return (mesh.materials[corners] * weights[..., None]).sum(1)
    return np.tile([mesh.metallic, mesh.roughness], (len(face), 1))


def _texels(picture: np.ndarray, uv: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return values (P, C) in [0, 1] of a picture at barycentric points. uv: (P, 3 corners, 2)."""
    height, width = picture.shape[:2]
    u, v = (uv * weights[..., None]).sum(1).T
    row = (v * height).astype(int).clip(0, height - 1)
    column = (u * width).astype(int).clip(0, width - 1)
    return picture[row, column] / 255


def surface_splats(means: np.ndarray, normals: np.ndarray, widths: np.ndarray, colors: np.ndarray) -> Splats:
    """Return nearly opaque discs.

    means: (N, 3). normals: (N, 3) unit. widths: (N,) standard deviations in metres. colors: (N, 3) in [0, 1].
    """
    scales = widths[:, None] * np.array([1.0, 1.0, _FLAT])
    means = means - _SUNK * widths[:, None] * normals
    opacities = np.full(len(means), 0.99)
    arrays = (means, quats_to(normals), scales, opacities, ((colors - 0.5) / SH_C0)[:, None])
    return Splats(*(array.astype(np.float32) for array in arrays)).checked()


def quats_to(normals: np.ndarray) -> np.ndarray:
    """Return unit quaternions (N, 4) w, x, y, z that rotate +Z to the unit normals (N, 3)."""
    x, y, z = normals.T
    quats = np.stack([1 + z, -y, x, np.zeros_like(x)], axis=1)  # half-way between +Z and the normal
    quats[z < -1 + 1e-9] = [0.0, 1.0, 0.0, 0.0]
    return quats / np.linalg.norm(quats, axis=1, keepdims=True)


def points_around(
    points: NDArray[np.floating],
    colors: NDArray[np.floating],
    tries: int,
    distance: float,
    brighter: float,
    generator: torch.Generator,
) -> tuple[FloatArray, FloatArray]:
    """Return points (N, 3) with colours (N, 3) in [0, 1], preceded by random ones near them (GaussianDreamer,
    arXiv:2310.08529, section 3.3).

    Of `tries` points, uniform in the box around all, those less than `distance` metres from the nearest are taken, in
    its colour plus up to `brighter` in each channel.
    """
    low, high = points.min(axis=0), points.max(axis=0)
    tried = low + (high - low) * torch.rand(tries, 3, generator=generator, dtype=torch.float64).numpy()
    apart, nearest = scipy.spatial.KDTree(points).query(tried, distance_upper_bound=distance)
    near = np.isfinite(apart)
    more = brighter * torch.rand(int(near.sum()), 3, generator=generator, dtype=torch.float64).numpy()
    tinted = np.minimum(colors[np.asarray(nearest)[near]] + more, 1.0)
    both = np.concatenate([tried[near], points]), np.concatenate([tinted, colors])
    return both[0].astype(np.float32), both[1].astype(np.float32)


def splats_from_points(points: FloatArray, colors: FloatArray | None = None) -> Splats:
    """Return a round Gaussian per point (N, 3), as wide as the mean distance to its three nearest neighbours.

    This is the initialisation of 3D Gaussian splatting (arXiv:2308.04079, sec. 5.1). colors: (N, 3) in [0, 1], grey if
    None. Raises ValueError for fewer than two points.
    """
    if len(points) < 2:
        raise ValueError(f"a cloud needs at least two points, got {len(points)}")
    distance, _ = scipy.spatial.KDTree(points).query(points, k=min(4, len(points)))
    widths = np.maximum(distance[:, 1:].mean(axis=1), 1e-4)
    colors = np.full(points.shape, 0.5) if colors is None else colors
    return Splats(
        np.asarray(points),
        np.tile([1.0, 0.0, 0.0, 0.0], (len(points), 1)),
        np.repeat(widths[:, None], 3, axis=1),
        np.full(len(points), 0.1),
        ((colors - 0.5) / SH_C0)[:, None],
    ).checked()
