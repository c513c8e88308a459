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
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sds3d.formats.base import FileFormat, check_faces, check_uv
from sds3d.formats.looks import Look
from sds3d.formats.neighbours import Neighbours
from sds3d.formats.parts import joined
from sds3d.formats.pictures import png
from sds3d.geometry.mesh import FRAME, FloatArray, Mesh

if TYPE_CHECKING:
    from sds3d.formats.mtl import Material


def to_obj(mesh: Mesh, name: str = "asset") -> dict[str, bytes]:
    """Return the files `<name>.obj`, `<name>.mtl` and, for a textured mesh, `<name>.png`, by file name.

    A metallic-roughness texture adds `<name>_roughness.png` and `<name>_metallic.png`, a normal map `<name>_normal.png`
    (`norm` of the PBR extension). Warns of an occlusion map, which is left out. Raises ValueError for a mesh
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
    maps = (mesh.texture, mesh.metallic_roughness, mesh.normal_map)
    textured = mesh.uv is not None and any(picture is not None for picture in maps)
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
    if mesh.normal_map is not None:
        material += f"norm {name}_normal.png\n"
        files[f"{name}_normal.png"] = png(mesh.normal_map)
    if mesh.occlusion is not None:
        warnings.warn("OBJ cannot hold the occlusion map, which is left out: use glb or usdz", stacklevel=2)
    files[f"{name}.mtl"] = material.encode()
    return files


def _rows(keyword: str, values: np.ndarray) -> str:
    line = " ".join([keyword] + ["%.7g"] * values.shape[1]) + "\n"
    return line * len(values) % tuple(values.astype(np.float64).ravel().tolist())


def from_obj(data: bytes, folder: Path) -> Mesh:
    """Return the mesh of an OBJ file. folder: holds its MTL and its textures.

    A file that names no material but has an MTL with a single one is taken to use it. Warns in one line of what is left
    out. Raises ValueError, in one line, if data is not OBJ, is damaged, or has no triangles.
    """
    from sds3d.formats.mtl import Pictures
    from sds3d.formats.trimesh_parts import parts

    if b"\0" in data[:4096]:
        raise ValueError("this is not an OBJ file: it is not text")
    data = data.removeprefix(b"\xef\xbb\xbf")
    if b"\n" not in data:
        data = data.replace(b"\r", b"\n")
    has_normals = re.search(rb"^\s*vn\s", data, re.MULTILINE) is not None
    files = Neighbours(folder)
    materials = _materials(data, files)
    if len(materials) == 1 and re.search(rb"^\s*usemtl\s", data, re.MULTILINE) is None:
        data = b"usemtl %s\n%s" % (next(iter(materials)).encode(), data)
    # trimesh takes a material's colour or the vertices' own, not both.
    colored = re.search(rb"^v([ \t]+[^\s]+){6}", data, re.MULTILINE) and not re.search(rb"^vt\s", data, re.MULTILINE)
    if colored:
        materials = {}
    pictures = Pictures(files)
    # trimesh gets the names of the materials alone; what they are, and where their pictures lie, is read here.
    data = b"mtllib names.mtl\n" + re.sub(rb"^\s*mtllib[^\n]*", b"", data, flags=re.MULTILINE)
    names = _Names("".join(f"newmtl {name}\nKd 1 1 1\n" for name in materials).encode())

    def look_of(name: str, colors: FloatArray | None, uv: NDArray[np.float64] | None) -> Look:
        return pictures.look(materials[name], colors, uv) if name in materials else Look(colors, uv)

    mesh = joined(parts(data, "obj", names, has_normals=has_normals, look_of=look_of))
    if pictures.left_out:
        warnings.warn(f"left out of the mesh: {', '.join(pictures.left_out)}", stacklevel=3)
    return mesh


class _Names(Neighbours):
    """In place of the files beside an OBJ: an MTL with the materials' names."""

    def __init__(self, mtl: bytes) -> None:
        super().__init__(Path())
        self._mtl = mtl

    def read(self, name: str) -> bytes:
        return self._mtl


def _materials(data: bytes, files: Neighbours) -> dict[str, Material]:
    """Return the materials of all MTL files that an OBJ names, as far as they can be read."""
    from sds3d.formats.mtl import read_mtl

    materials: dict[str, Material] = {}
    for line in re.findall(rb"^\s*mtllib[ \t]+([^\r\n]+)", data, re.MULTILINE):
        try:
            name = line.decode().strip()
        except UnicodeDecodeError:
            name = line.decode("latin-1").strip()
        # The name of one file may have spaces, and a line may name several files.
        for each in re.split(r"(?<=\.mtl)\s+", name, flags=re.IGNORECASE):
            with suppress(OSError):  # `Neighbours` has warned
                materials |= read_mtl(files.read(each))
    return materials


OBJ = FileFormat("obj", ".obj", Mesh, write=to_obj, read=from_obj, textured=True, default=True)
