"""OFF, the format of Geomview: vertices and triangles as text. Its name here is "geomview": YAML reads "off" as false.

Frame: the world frame (right-handed, +Y up, metres). Colours are not written.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sds3d.formats.base import FileFormat, check_faces
from sds3d.geometry.mesh import Mesh


def to_off(mesh: Mesh, name: str) -> bytes:
    """Return the mesh as one OFF file. Raises ValueError for a mesh without faces."""
    check_faces(mesh, "OFF")
    lines = ["OFF", f"{len(mesh.vertices)} {len(mesh.faces)} 0"]
    lines += [f"{x:.6g} {y:.6g} {z:.6g}" for x, y, z in mesh.vertices]
    lines += [f"3 {a} {b} {c}" for a, b, c in mesh.faces]
    return ("\n".join(lines) + "\n").encode()


def from_off(data: bytes, folder: Path) -> Mesh:
    """Return the mesh of an OFF file of triangles. Raises ValueError if data is not one."""
    words = data.split()
    if words[:1] != [b"OFF"]:
        raise ValueError("this is no OFF file: it does not begin with OFF")
    vertices, faces = int(words[1]), int(words[2])
    numbers = np.array(words[4:], dtype=np.float64)
    if len(numbers) != 3 * vertices + 4 * faces:
        raise ValueError("the OFF file is truncated, or holds other polygons than triangles")
    corners = numbers[3 * vertices :].reshape(faces, 4)[:, 1:]
    return Mesh(numbers[: 3 * vertices].reshape(-1, 3).astype(np.float32), corners.astype(np.int32))


OFF = FileFormat("geomview", ".off", Mesh, write=to_off, read=from_off, recognises=lambda data: data.startswith(b"OFF"))
