"""PLY of meshes, for MeshLab, CloudCompare and numerical work, and of points.

Frame: the world frame as it is (right-handed, +Y up, front +Z, metres), stated in comment lines.
Layout (`binary_little_endian 1.0`): vertices `x y z` float, `nx ny nz` float if the mesh has normals,
`red green blue` uchar sRGB if it has colours; faces as `list uchar int vertex_indices`. PLY has no textures.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from sds3d.formats.base import FileFormat, check_faces
from sds3d.formats.ply_elements import is_ply, ply_header, read_header, read_vertices
from sds3d.geometry.mesh import FRAME, Mesh
from sds3d.geometry.splats import Geometry, Splats

_COLOR_NAMES = (("red", "green", "blue"), ("diffuse_red", "diffuse_green", "diffuse_blue"), ("r", "g", "b"))


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
    """Return the mesh of a PLY file, or round Gaussians at its points if it has no faces.

    folder: holds the texture that the file may name. Raises ValueError, in one line, if data is not a PLY, is
    truncated, or has neither faces nor points.
    """
    from sds3d.formats.parts import joined
    from sds3d.formats.trimesh_parts import parts

    _, elements, _ = read_header(data)
    counts = {element.name: element.count for element in elements}
    names = {name for element in elements if element.name == "vertex" for name, _ in element.properties}
    if not counts.get("vertex"):
        raise ValueError("the PLY has neither faces nor points: export it again")
    if not counts.get("face"):
        return _from_points(data)
    mesh = joined(parts(data, "ply", folder, has_normals="nx" in names))
    if len(mesh.faces) < counts["face"]:
        raise ValueError(f"the PLY is truncated: it promises {counts['face']} faces and has {len(mesh.faces)}")
    return mesh


def _from_points(data: bytes) -> Splats:
    from sds3d.geometry.sampling import splats_from_points

    columns = read_vertices(data)
    if not columns.keys() >= {"x", "y", "z"}:
        raise ValueError("the PLY's vertices have no x, y and z")
    points = np.stack([columns[axis] for axis in "xyz"], axis=1).astype(np.float32)
    finite = np.isfinite(points).all(axis=1)
    colors = None
    if found := next((names for names in _COLOR_NAMES if columns.keys() >= set(names)), None):
        stored = np.stack([columns[name] for name in found], axis=1)
        # Text files do not distinguish bytes from fractions: there, a value above 1 means bytes.
        whole = 255 if stored.dtype.kind in "iu" or stored.max() > 1 else 1
        colors = np.clip(stored / whole, 0, 1).astype(np.float32)
        finite &= np.isfinite(colors).all(axis=1)
    if finite.sum() < 2:
        raise ValueError(f"the PLY has no faces, and fewer than two of its {len(points)} points are finite")
    if not finite.all():
        warnings.warn(f"{(~finite).sum()} of {len(points)} points are not finite and are left out", stacklevel=4)
    return splats_from_points(points[finite], None if colors is None else colors[finite])


PLY = FileFormat(
    "ply", ".ply", Mesh, write=lambda mesh, _: to_ply(mesh), read=from_ply, recognises=is_ply, default=True
)
