"""PLY of meshes, for MeshLab, CloudCompare and numerical work, and of points.

Frame: the world frame as it is (right-handed, +Y up, front +Z, metres), stated in comment lines.
Layout (`binary_little_endian 1.0`): vertices `x y z` float, `nx ny nz` float if the mesh has normals,
`red green blue` uchar sRGB if it has colours; faces as `list uchar int vertex_indices`. PLY has no textures.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from sds3d.formats.base import FileFormat, check_faces, far_offset
from sds3d.formats.neighbours import Neighbours
from sds3d.formats.parts import joined
from sds3d.formats.ply_elements import colors_of, is_ply, ply_header, read_header, read_rows
from sds3d.geometry.mesh import FRAME, Mesh
from sds3d.geometry.splats import Geometry, Splats


def to_ply(mesh: Mesh) -> bytes:
    """Return the mesh as one PLY file. Raises ValueError for a mesh without faces."""
    check_faces(mesh, "PLY")
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
    properties = [f"{'uchar' if kind == 'u1' else 'float'} {name}" for name, (kind, _) in columns.items()]
    elements = {"vertex": (len(vertices), properties), "face": (len(faces), ["list uchar int vertex_indices"])}
    return ply_header(FRAME, elements) + vertices.tobytes() + faces.tobytes()


def from_ply(data: bytes, folder: Path) -> Geometry:
    """Return the mesh of a PLY file of faces or strips, or round Gaussians at its points if it has neither.

    folder: holds the texture that the file may name. Raises ValueError, in one line, if data is not a PLY, is
    truncated, or has neither faces nor points.
    """
    from sds3d.formats.ply_strips import ELEMENT, strips_part
    from sds3d.formats.trimesh_parts import parts

    _, elements, _ = read_header(data)
    counts = {element.name: element.count for element in elements}
    names = {name for element in elements if element.name == "vertex" for name, _ in element.properties}
    if not counts.get("vertex"):
        raise ValueError("the PLY has neither faces nor points: export it again")
    if not counts.get("face") and counts.get(ELEMENT):
        return joined([strips_part(data)])
    if not counts.get("face"):
        return _from_points(data)
    if counts.get(ELEMENT):
        warnings.warn("the PLY has faces and strips of triangles: the strips are left out", stacklevel=3)
    mesh = joined(parts(data, "ply", Neighbours(folder), has_normals="nx" in names))
    if len(mesh.faces) < counts["face"]:
        raise ValueError(f"the PLY is truncated: it promises {counts['face']} faces and has {len(mesh.faces)}")
    return mesh


def _from_points(data: bytes) -> Splats:
    from sds3d.geometry.sampling import splats_from_points

    columns = read_rows(data)
    if not columns.keys() >= {"x", "y", "z"}:
        raise ValueError("the PLY's vertices have no x, y and z")
    points = np.stack([columns[axis] for axis in "xyz"], axis=1)
    points = (points - far_offset(points)).astype(np.float32)
    finite = np.isfinite(points).all(axis=1)
    colors = colors_of(columns)
    if colors is not None:
        finite &= np.isfinite(colors).all(axis=1)
    if finite.sum() < 2:
        raise ValueError(f"the PLY has no faces, and fewer than two of its {len(points)} points are finite")
    if not finite.all():
        warnings.warn(f"{(~finite).sum()} of {len(points)} points are not finite and are left out", stacklevel=4)
    return splats_from_points(points[finite], None if colors is None else colors[finite])


PLY = FileFormat(
    "ply", ".ply", Mesh, write=lambda mesh, _: to_ply(mesh), read=from_ply, recognises=is_ply, default=True
)
