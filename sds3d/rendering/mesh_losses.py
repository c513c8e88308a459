"""Regularisers of a mesh's shape: differentiable functions of vertices (V, 3) in metres and faces (F, 3), to scalars.

The mesh may be open or not a manifold, how its faces are wound does not matter, and without faces all losses are 0.
All raise ValueError for arrays of the wrong shape and for faces that index no vertex.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from sds3d.rendering.mesh_differentiable import check_mesh, mesh_edges
from sds3d.rendering.mesh_edges import MeshEdges


def edge_length(vertices: Tensor, faces: Tensor, target: float = 0.0) -> Tensor:
    """Mean over the edges of (length - target)^2, in square metres. target: metres."""
    edges = _edges(vertices, faces)
    squares = _steps(vertices, edges).square().sum(1)  # (E,)
    if target == 0.0:
        return _mean(squares)
    # The slope of a length is not defined at 0: such an edge is left where it is.
    lengths = torch.where(squares > 0, squares, 1.0).sqrt() * (squares > 0)
    return _mean((lengths - target).square())


def normal_consistency(vertices: Tensor, faces: Tensor) -> Tensor:
    """Mean over the edges between two faces of 1 - cos of the angle by which the surface bends there; in [0, 2].

    0 for a flat surface, 1 for right angles, 2 for one folded onto itself. Faces without area bend nowhere.
    """
    edges = _edges(vertices, faces)
    first, opposite = edges.starts[:-1].long(), _opposite(faces, edges)
    inner = edges.starts.diff() == 2
    start, step = vertices[edges.vertices[inner, 0].long()], _steps(vertices, edges)[inner]  # (I, 3)
    one, other = (torch.linalg.cross(step, vertices[opposite[first[inner] + i]] - start) for i in (0, 1))
    whole = (one.square().sum(1) > 0) & (other.square().sum(1) > 0)
    # Seen along the edge, the faces of a flat surface lie on opposite sides: their two normals then sum to nothing.
    cosines = -functional.cosine_similarity(one[whole], other[whole], dim=1, eps=1e-30)
    return (1 - cosines).sum() / max(len(one), 1)


def laplacian(vertices: Tensor, faces: Tensor) -> Tensor:
    """Mean over the vertices of |mean of its neighbours - itself|^2, in square metres (uniform weights).

    It shrinks the surface and evens out its triangles. A vertex without an edge has none.
    """
    edges = _edges(vertices, faces)
    return _mean(_weighted_steps(vertices, edges, vertices.new_ones(len(edges.vertices))).square().sum(1))


def cotangent_laplacian(vertices: Tensor, faces: Tensor) -> Tensor:
    """`laplacian` weighted by cotangents: blind to how the surface is triangulated, 0 at the inside of a flat one.

    A neighbour's weight is the sum of the cotangents of the angles across from the edge, each at least 0 (Meyer et al.
    2003, "Discrete differential-geometry operators for triangulated 2-manifolds"); the weights are held constant, as
    the gradient then moves vertices along the surface's normal only.
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
    """The vertices (S,) across from the edges."""
    return faces.reshape(-1)[edges.corners.long()].long()


def _steps(vertices: Tensor, edges: MeshEdges) -> Tensor:
    """From each edge's first vertex to its second, (E, 3)."""
    ends = vertices[edges.vertices.long()]  # (E, 2, 3)
    return ends[:, 1] - ends[:, 0]


def _weighted_steps(vertices: Tensor, edges: MeshEdges, weights: Tensor) -> Tensor:
    """From each vertex to the mean of its neighbours (V, 3); weights: (E,)."""
    i, j = edges.vertices.long().unbind(1)
    pull = weights[:, None] * _steps(vertices, edges)
    sums = torch.zeros_like(vertices).index_add(0, i, pull).index_add(0, j, -pull)
    total = weights.new_zeros(len(vertices)).index_add(0, i, weights).index_add(0, j, weights)
    return sums / torch.where(total > 0, total, 1.0)[:, None]


def _mean(values: Tensor) -> Tensor:
    """The mean, 0 of nothing."""
    return values.sum() / max(len(values), 1)
