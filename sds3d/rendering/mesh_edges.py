"""The edges of a triangle mesh, which several ways of rendering it share."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class MeshEdges(NamedTuple):
    """The E edges of a mesh, each once, sorted by their vertices; it may be open or not a manifold.

    vertices: (E, 2) int32, the smaller first. starts: (E + 1,) int32. corners: (S,) int32, places in faces.reshape(-1):
    across from edge e, as the third corners of its faces, in their order, are corners[starts[e]:starts[e + 1]].
    """

    vertices: Tensor
    starts: Tensor
    corners: Tensor
