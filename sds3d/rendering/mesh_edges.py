"""The edges of a triangle mesh, as used by renderers and regularisers."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class MeshEdges(NamedTuple):
    """The E edges of a mesh, each once, sorted by their vertices. The mesh may be open or not a manifold.

    vertices: (E, 2) int32, the smaller index first.
    starts: (E + 1,) int32. corners: (S,) int32, indices into faces.reshape(-1). corners[starts[e] : starts[e + 1]] are
    the corners opposite edge e, one for each of its faces, in the order of the faces.
    """

    vertices: Tensor
    starts: Tensor
    corners: Tensor
