"""Wavefront OBJ with its MTL and PNG files, which every modelling program opens.

Frame: the world frame as it is (right-handed, +Y up, front +Z, metres). OBJ itself names no axis and no unit. If an
importer asks, choose "Y up, -Z forward", which is Blender's default.
Layout: `v x y z` (followed by `r g b` in [0, 1] sRGB if the mesh has vertex colours and no texture),
`vt u v` with v running up from the bottom row (glTF's runs down, hence 1 - v), `vn`, and `f` with 1-based indices.
MTL cannot hold metallic and roughness in one picture: the two channels become the grey `map_Pr` and `map_Pm` of the PBR
extension that Blender and tinyobjloader read.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from sds3d.formats.base import FileFormat, check_faces, check_uv
from sds3d.formats.pictures import png
from sds3d.geometry.mesh import FRAME, Mesh


def to_obj(mesh: Mesh, name: str = "asset") -> dict[str, bytes]:
    """Return the files `<name>.obj`, `<name>.mtl` and, for a textured mesh, `<name>.png`, by file name.

    A metallic-roughness texture adds `<name>_roughness.png` and `<name>_metallic.png`. Raises ValueError for a mesh
    without faces, for a texture without uv, and for a name with spaces, which MTL references cannot hold.
    """
    check_faces(mesh, "OBJ")
    if not name or any(character.isspace() or character in "/\\" for character in name):
        raise ValueError(f"an OBJ name must be free of spaces and slashes, got {name!r}")
    check_uv(mesh)
    positions = mesh.vertices
    if mesh.texture is None and mesh.colors is not None:
        positions = np.concatenate([positions, mesh.colors], axis=1)
    sections = [f"# sds3d: {FRAME}\nmtllib {name}.mtl\no {name}\n", _rows("v", positions)]
    # One index serves all attributes of a corner. Absent ones stay empty, as in 1//1.
    indices = [mesh.faces + 1]
    corner = "%d"
    textured = mesh.uv is not None and (mesh.texture is not None or mesh.metallic_roughness is not None)
    if textured and mesh.uv is not None:
        sections.append(_rows("vt", mesh.uv * [1, -1] + [0, 1]))
        indices.append(mesh.faces + 1)
        corner = "%d/%d"
    if mesh.normals is not None:
        sections.append(_rows("vn", mesh.normals))
        indices.append(mesh.faces + 1)
        corner += "/%d" if textured else "//%d"
    sections.append(f"usemtl {name}\n")
    line = f"f {corner} {corner} {corner}\n"
    columns = np.stack(indices, axis=-1).reshape(len(mesh.faces), -1)  # (F, 3 * attributes)
    sections.append(line * len(columns) % tuple(columns.ravel().tolist()))

    roughness, metallic = (mesh.roughness, mesh.metallic) if mesh.metallic_roughness is None else (1, 1)
    material = f"newmtl {name}\nKa 0 0 0\nKd 1 1 1\nKs 0 0 0\nillum 1\nPr {roughness:g}\nPm {metallic:g}\n"
    files = {f"{name}.obj": "".join(sections).encode()}
    if mesh.texture is not None:
        material += f"map_Kd {name}.png\n"
        files[f"{name}.png"] = png(mesh.texture)
    if mesh.metallic_roughness is not None:
        for key, word, channel in (("map_Pr", "roughness", 1), ("map_Pm", "metallic", 2)):
            material += f"{key} {name}_{word}.png\n"
            files[f"{name}_{word}.png"] = png(mesh.metallic_roughness[..., channel])
    files[f"{name}.mtl"] = material.encode()
    return files


def _rows(keyword: str, values: np.ndarray) -> str:
    line = " ".join([keyword] + ["%.7g"] * values.shape[1]) + "\n"
    return line * len(values) % tuple(values.astype(np.float64).ravel().tolist())


def from_obj(data: bytes, folder: Path) -> Mesh:
    """Return the mesh of an OBJ file. folder: holds its MTL and its textures.

    Raises ValueError, in one line, if data is not OBJ, is damaged, or has no triangles.
    """
    from sds3d.formats.parts import joined
    from sds3d.formats.trimesh_parts import parts

    if b"\0" in data[:4096]:
        raise ValueError("this is not an OBJ file: it is not text")
    has_normals = re.search(rb"^vn\s", data, re.MULTILINE) is not None
    # trimesh takes a material's colour or the vertices' own, not both.
    colored = re.search(rb"^v([ \t]+[^\s]+){6}", data, re.MULTILINE) and not re.search(rb"^vt\s", data, re.MULTILINE)
    options = {"maintain_order": True, "skip_materials": bool(colored)}
    return joined(parts(data, "obj", folder, has_normals=has_normals, **options))


OBJ = FileFormat("obj", ".obj", Mesh, write=to_obj, read=from_obj, textured=True, default=True)
