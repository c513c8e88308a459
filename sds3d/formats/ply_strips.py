"""Meshes of PLY files that store strips of triangles instead of faces, as early scanning software writes them.

A strip is a list of vertices. Each vertex from the third on forms a triangle with the two before it. The triangles face
alternating sides, so every second one is reversed. -1 ends a strip within a list.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sds3d.formats.looks import Look, Part
from sds3d.formats.ply_elements import colors_of, read_lists, read_rows
from sds3d.geometry.mesh import IntArray
from sds3d.geometry.triangles import without_repeated_corners

ELEMENT = "tristrips"
"""Name of the element that holds the strips."""


def strips_part(data: bytes) -> Part:
    """Return the mesh of a PLY file with strips. Raises ValueError, in one line, if it is truncated or damaged."""
    columns = read_rows(data)
    if not columns.keys() >= {"x", "y", "z"}:
        raise ValueError("the PLY's vertices have no x, y and z")
    vertices = np.stack([columns[axis] for axis in "xyz"], axis=1).astype(np.float64)
    normals = None
    if columns.keys() >= {"nx", "ny", "nz"}:
        normals = np.stack([columns[f"n{axis}"] for axis in "xyz"], axis=1).astype(np.float64)
    rows = read_lists(data, ELEMENT)
    faces = np.concatenate([triangles(row.astype(np.int64)) for row in rows] or [np.empty((0, 3), np.int32)])
    if not len(faces):
        raise ValueError("there are no triangles in the PLY's strips: export it again")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise ValueError("a strip names a vertex that does not exist: the file is damaged, write it again")
    return Part(vertices, faces, normals, Look(colors_of(columns)))


def triangles(strip: NDArray[np.int64]) -> IntArray:
    """Return the triangles (F, 3) of a list of strips. Triangles with two equal corners only join strips: left out."""
    place = np.arange(len(strip))
    ends = strip == -1
    first = np.maximum.accumulate(np.where(ends, place + 1, 0)) if len(strip) else place  # of each strip
    corners = np.stack([strip[:-2], strip[1:-1], strip[2:]], axis=1)
    whole = first[2:] <= place[:-2]
    whole &= ~ends[2:]
    odd = (place[:-2] - first[2:]) % 2 == 1
    corners[odd] = corners[odd][:, [1, 0, 2]]
    return without_repeated_corners(corners[whole]).astype(np.int32)
