"""Binary STL: triangles and nothing else, for slicers, CAD and simulation.

Frame: the world frame as it is (right-handed, +Y up, front +Z), numbers in metres. STL itself names no axis and no
unit: a slicer takes the numbers for millimetres and Z for up, so scale by 1000 and turn by 90 degrees about X there.
Layout: an 80-byte header, the number of triangles (uint32), and 50 bytes a triangle, little endian: unit normal, three
corners (12 float) and an attribute of two bytes, zero. Corners are counter-clockwise seen from outside.
"""

from __future__ import annotations

import numpy as np

from sds3d.geometry.mesh import FRAME, Mesh

_HEADER = f"sds3d: {FRAME}".encode().ljust(80)  # must not begin with "solid", as the text form does
_TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])


def to_stl(mesh: Mesh) -> bytes:
    """The mesh as one STL file, without colours; a triangle without area has the normal zero.

    Raises ValueError for a mesh without faces.
    """
    if not len(mesh.faces):
        raise ValueError("a mesh without faces cannot be written as STL")
    rows = np.zeros(len(mesh.faces), _TRIANGLE)
    rows["corners"] = mesh.vertices[mesh.faces]
    corners = rows["corners"].astype(np.float64)  # (F, 3, 3)
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(cross, axis=1, keepdims=True)
    rows["normal"] = cross / np.where(length > 0, length, 1)
    return b"".join([_HEADER, np.uint32(len(rows)).astype("<u4").tobytes(), rows.tobytes()])
