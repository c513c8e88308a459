"""Binary glTF 2.0 of meshes, which Blender, Unity, Godot, three.js and every web viewer open.

Frame: the world frame is glTF's (right-handed, +Y up, front +Z, metres), so nothing is converted.
Layout, as it is written: one mesh with one triangle primitive and one metallic-roughness material.
Specification: https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sds3d.formats.base import FileFormat, check_faces, check_uv
from sds3d.formats.glb_chunks import FLOAT, Binary, is_glb, one_mesh_glb, primitives, read_chunks
from sds3d.formats.pictures import png
from sds3d.geometry.colors import srgb_to_linear
from sds3d.geometry.mesh import Mesh

_COMPRESSIONS = {"KHR_draco_mesh_compression", "EXT_meshopt_compression", "KHR_meshopt_compression"}
_LINEAR, _LINEAR_MIPMAP_LINEAR, _CLAMP_TO_EDGE = 9729, 9987, 33071


def to_glb(mesh: Mesh, name: str = "asset") -> bytes:
    """Return the mesh as one GLB file.

    A texture becomes the material's base colour (sRGB PNG). Without one, vertex colours become COLOR_0, converted to
    linear light as glTF defines it. Metallic and roughness factors are always written, since glTF's default of 1 for
    both is a dark mirror. A metallic-roughness texture gets factors of 1, which leave it unchanged.

    Raises ValueError for a mesh without faces, and for a texture without uv.
    """
    check_faces(mesh, "glTF")
    check_uv(mesh)
    binary = Binary()
    attributes = {"POSITION": binary.attribute(mesh.vertices, bounded=True)}
    if mesh.normals is not None:
        attributes["NORMAL"] = binary.attribute(mesh.normals)
    material: dict[str, Any] = {"metallicFactor": mesh.metallic, "roughnessFactor": mesh.roughness}
    images: dict[str, Any] = {}
    maps = {"baseColorTexture": mesh.texture, "metallicRoughnessTexture": mesh.metallic_roughness}
    pictures = {key: picture for key, picture in maps.items() if picture is not None}
    if pictures and mesh.uv is not None:
        attributes["TEXCOORD_0"] = binary.attribute(mesh.uv)
        material |= {key: {"index": i} for i, key in enumerate(pictures)}
        images = {
            "textures": [{"sampler": 0, "source": i} for i in range(len(pictures))],
            "samplers": [
                {
                    "magFilter": _LINEAR,
                    "minFilter": _LINEAR_MIPMAP_LINEAR,
                    "wrapS": _CLAMP_TO_EDGE,
                    "wrapT": _CLAMP_TO_EDGE,
                }
            ],
            "images": [
                {"bufferView": binary.view(png(picture)), "mimeType": "image/png"} for picture in pictures.values()
            ],
        }
    if mesh.metallic_roughness is not None:
        material |= {"metallicFactor": 1.0, "roughnessFactor": 1.0}
    if mesh.texture is None and mesh.colors is not None:
        attributes["COLOR_0"] = binary.attribute(srgb_to_linear(mesh.colors))
    primitive = {"attributes": attributes, "indices": binary.indices(mesh.faces), "material": 0}
    materials = [{"pbrMetallicRoughness": material, "doubleSided": False, "name": name}]
    return one_mesh_glb(primitive, binary, name, {"materials": materials, **images})


def from_glb(data: bytes, folder: Path) -> Mesh:
    """Return the mesh of a GLB file, with all its parts joined. folder: holds textures that the file refers to.

    Raises ValueError, in one line, if data is not a GLB, is truncated, has no triangles, or uses features of glTF that
    would be misread.
    """
    from sds3d.formats.parts import joined
    from sds3d.formats.trimesh_parts import parts

    document, _ = read_chunks(data)
    # trimesh would silently read these as zeros, or as other numbers.
    accessors = document.get("accessors", [])
    if any("sparse" in accessor for accessor in accessors):
        raise ValueError("the GLB has sparse accessors, which cannot be read: export it without morph targets")
    if wrong := _COMPRESSIONS & set(document.get("extensionsUsed", [])):
        raise ValueError(f"the GLB is compressed by {min(wrong)}, which cannot be read: export it uncompressed")
    for primitive in primitives(document):
        uv = primitive["attributes"].get("TEXCOORD_0")
        if uv is not None and accessors[uv]["componentType"] != FLOAT:
            raise ValueError("the GLB has texture coordinates in integers: export it without quantisation")
    has_normals = any("NORMAL" in primitive["attributes"] for primitive in primitives(document))
    return joined(parts(data, "glb", folder, has_normals=has_normals))


GLB = FileFormat("glb", ".glb", Mesh, write=to_glb, read=from_glb, recognises=is_glb, textured=True, default=True)
