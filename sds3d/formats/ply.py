"""Binary PLY of a mesh, for MeshLab, CloudCompare and numerical work.

Frame: the world frame as it is (right-handed, +Y up, front +Z, metres), stated in comment lines.
Layout (`binary_little_endian 1.0`): vertices `x y z` float, `nx ny nz` float when the mesh has normals,
`red green blue` uchar sRGB when it has colours; faces as `list uchar int vertex_indices`. PLY has no textures.
"""

from __future__ import annotations

import numpy as np

from sds3d.geometry.mesh import FRAME, Mesh


def to_ply(mesh: Mesh) -> bytes:
    """The mesh as one PLY file. Raises ValueError for a mesh without faces."""
    if not len(mesh.faces):
        raise ValueError("a mesh without faces cannot be written as PLY")
    columns = {axis: ("<f4", mesh.vertices[:, i]) for i, axis in enumerate("xyz")}
    if mesh.normals is not None:
        columns |= {f"n{axis}": ("<f4", mesh.normals[:, i]) for i, axis in enumerate("xyz")}
    if mesh.colors is not None:
        bytes_ = np.rint(np.clip(mesh.colors, 0, 1) * 255)
        columns |= {color: ("u1", bytes_[:, i]) for i, color in enumerate(["red", "green", "blue"])}
    vertices = np.zeros(len(mesh.vertices), dtype=[(name, kind) for name, (kind, _) in columns.items()])
    for name, (_, values) in columns.items():
        vertices[name] = values
    faces = np.zeros(len(mesh.faces), dtype=[("count", "u1"), ("indices", "<i4", 3)])
    faces["count"], faces["indices"] = 3, mesh.faces
    header = [
        "ply",
        "format binary_little_endian 1.0",
        "comment generator sds3d",
        f"comment frame {FRAME}",
        f"element vertex {len(vertices)}",
        *(f"property {'uchar' if kind == 'u1' else 'float'} {name}" for name, (kind, _) in columns.items()),
        f"element face {len(faces)}",
        "property list uchar int vertex_indices",
        "end_header",
    ]
    return ("\n".join(header) + "\n").encode() + vertices.tobytes() + faces.tobytes()
