"""STL: triangles and nothing else, for slicers, CAD and simulation.

Frame: right-handed, +Z up, front -Y, millimetres. STL itself names no axis and no unit, and this is what slicers and
CAD programs take it to be. Exports stand on the plane z = 0; the setting `print_size` is their longest side.
Layout, as it is written: an 80-byte header, the number of triangles (uint32), and 50 bytes per triangle, little endian:
unit normal, three corners (12 float) and an attribute of two bytes, zero. Corners are counter-clockwise seen from
outside. The text form is read as well.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from sds3d.formats.base import FileFormat, check_faces
from sds3d.formats.neighbours import Neighbours
from sds3d.formats.parts import joined
from sds3d.geometry.mesh import Mesh

_HEADER = b"sds3d: right-handed, +Z up, front -Y, millimetres".ljust(
    80
)  # must not begin with "solid", as the text form does
_TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])


def to_stl(mesh: Mesh) -> bytes:
    """Return the mesh as one binary STL file, without colours. A triangle without area gets a normal of zeros.

    mesh: in millimetres with +Z up; `sds3d.geometry.placing.for_printing` makes it. Raises ValueError for a
    mesh without faces.
    """
    check_faces(mesh, "STL")
    rows = np.zeros(len(mesh.faces), _TRIANGLE)
    rows["corners"] = mesh.vertices[mesh.faces]
    corners = rows["corners"].astype(np.float64)  # (F, 3, 3)
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(cross, axis=1, keepdims=True)
    rows["normal"] = cross / np.where(length > 0, length, 1)
    return b"".join([_HEADER, np.uint32(len(rows)).astype("<u4").tobytes(), rows.tobytes()])


def from_stl(data: bytes, folder: Path) -> Mesh:
    """Return the mesh of a binary or text STL file in its own frame, without colours. Coinciding corners are joined.

    Raises ValueError, in one line, if data is truncated or not STL.
    """
    from sds3d.formats.trimesh_parts import parts

    start = len(_HEADER) + 4
    size = start + _TRIANGLE.itemsize * int.from_bytes(data[len(_HEADER) : start], "little")
    binary = len(data) >= start and len(data) >= size
    if not binary:
        data = data.removeprefix(b"\xef\xbb\xbf").lower()  # keywords in any case
        if not data.lstrip().startswith(b"solid"):
            raise ValueError("the STL is truncated, or this is not STL: its length does not fit its triangle count")
        if b"endsolid" not in data:
            raise ValueError("the STL is truncated: endsolid is missing")
    mesh = joined(parts(data, "stl" if binary else "stl_ascii", Neighbours(folder), has_normals=False))
    # STL repeats every corner for each of its triangles.
    vertices, index = np.unique(mesh.vertices, axis=0, return_inverse=True)
    return replace(mesh, vertices=vertices, faces=index.reshape(-1)[mesh.faces].astype(np.int32), colors=None)


STL = FileFormat(
    "stl", ".stl", Mesh, write=lambda mesh, _: to_stl(mesh), read=from_stl, printed=True, up="z", default=True
)
