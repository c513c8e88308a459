"""Regularisers of a mesh's shape: differentiable scalars of vertices (V, 3) in metres and faces (F, 3).

The mesh may be open or not a manifold. The winding of its faces does not matter. Without faces all losses are 0.
All functions raise ValueError for arrays of the wrong shape and for faces with indices out of range.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from sds3d.rendering.mesh_differentiable import check_mesh, mesh_edges
from sds3d.rendering.mesh_edges import MeshEdges


def edge_length(vertices: Tensor, faces: Tensor, target: float = 0.0) -> Tensor:
    """Return the mean of (length - target)^2 over the edges, in square metres. target: metres."""
    edges = _edges(vertices, faces)
    squares = _steps(vertices, edges).square().sum(1)  # (E,)
    if target == 0.0:
        return _mean(squares)
    # A length has no gradient at 0: such an edge gets none.
    lengths = torch.where(squares > 0, squares, 1.0).sqrt() * (squares > 0)
    return _mean((lengths - target).square())


def normal_consistency(vertices: Tensor, faces: Tensor) -> Tensor:
    """Return the mean of 1 - cos(bending angle) over the edges between two faces, in [0, 2].

    0 for a flat surface, 1 for right angles, 2 for a surface folded onto itself. Faces without area do not count.
    """
    edges = _edges(vertices, faces)
    first, opposite = edges.starts[:-1].long(), _opposite(faces, edges)
    inner = edges.starts.diff() == 2
    start, step = vertices[edges.vertices[inner, 0].long()], _steps(vertices, edges)[inner]  # (I, 3)
    one, other = (torch.linalg.cross(step, vertices[opposite[first[inner] + i]] - start) for i in (0, 1))
    whole = (one.square().sum(1) > 0) & (other.square().sum(1) > 0)
    # On a flat surface the two faces are on opposite sides of the edge, so these normals are opposite.
    cosines = -functional.cosine_similarity(one[whole], other[whole], dim=1, eps=1e-30)
    return (1 - cosines).sum() / max(len(one), 1)


def laplacian(vertices: Tensor, faces: Tensor) -> Tensor:
    """Return the mean over the vertices of |mean of the neighbours - vertex|^2, in square metres (uniform weights).

    Shrinks the surface and makes its triangles more regular. Vertices without edges contribute 0.
    """
    edges = _edges(vertices, faces)
    return _mean(_weighted_steps(vertices, edges, vertices.new_ones(len(edges.vertices))).square().sum(1))


def pull_length(vertices: Tensor, faces: Tensor) -> Tensor:
    """Return the mean over the vertices of |sum of the vectors to the neighbours|, in metres: threestudio's Laplacian.

    Unlike `laplacian`, it pulls as strongly at small bumps as at large ones. Vertices without edges contribute 0.
    """
    edges = _edges(vertices, faces)
    i, j = edges.vertices.long().unbind(1)
    steps = _steps(vertices, edges)
    squares = torch.zeros_like(vertices).index_add(0, i, steps).index_add(0, j, -steps).square().sum(1)
    # A length has no gradient at 0: such a vertex gets none.
    return _mean(torch.where(squares > 0, squares, 1.0).sqrt() * (squares > 0))


def cotangent_laplacian(vertices: Tensor, faces: Tensor) -> Tensor:
    """`laplacian` with cotangent weights: independent of the triangulation, 0 inside a flat surface.

    A neighbour's weight is the sum of the cotangents of the angles opposite the edge, each clamped to at least 0 (Meyer
    et al. 2003, "Discrete differential-geometry operators for triangulated 2-manifolds"). The weights are treated as
    constants, so that the gradient moves vertices only along the surface's normal.
    """
    edges = _edges(vertices, faces)
    with torch.no_grad():
        of = torch.repeat_interleave(edges.starts.diff())  # (S,), the edge of each opposite vertex
        ends, third = vertices[edges.vertices.long()[of]], vertices[_opposite(faces, edges)]  # (S, 2, 3), (S, 3)
        one, other = (ends - third[:, None]).unbind(1)
        sine = torch.linalg.cross(one, other).norm(dim=1)
        cotangent = ((one * other).sum(1) / sine.clamp(min=1e-12)).clamp(0, 1e3)
        weights = vertices.new_zeros(len(edges.vertices)).index_add(0, of, cotangent)
    return _mean(_weighted_steps(vertices, edges, weights).square().sum(1))


def _edges(vertices: Tensor, faces: Tensor) -> MeshEdges:
    check_mesh(vertices, faces)
    return mesh_edges(faces, len(vertices))


def _opposite(faces: Tensor, edges: MeshEdges) -> Tensor:
    """Return the vertices (S,) opposite the edges."""
    return faces.reshape(-1)[edges.corners.long()].long()


def _steps(vertices: Tensor, edges: MeshEdges) -> Tensor:
    """Return the vectors (E, 3) from each edge's first vertex to its second."""
    ends = vertices[edges.vertices.long()]  # (E, 2, 3)
    return ends[:, 1] - ends[:, 0]


def _weighted_steps(vertices: Tensor, edges: MeshEdges, weights: Tensor) -> Tensor:
    """Return the vectors (V, 3) from each vertex to the weighted mean of its neighbours. weights: (E,)."""
    i, j = edges.vertices.long().unbind(1)
    pull = weights[:, None] * _steps(vertices, edges)
    sums = torch.zeros_like(vertices).index_add(0, i, pull).index_add(0, j, -pull)
    total = weights.new_zeros(len(vertices)).index_add(0, i, weights).index_add(0, j, weights)
    return sums / torch.where(total > 0, total, 1.0)[:, None]


def _mean(values: Tensor) -> Tensor:
    """Return the mean, 0 for no values."""
    return values.sum() / max(len(values), 1)
