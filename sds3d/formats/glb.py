"""Binary glTF 2.0 of meshes, which Blender, Unity, Godot, three.js and every web viewer open.

Frame: the world frame is glTF's (right-handed, +Y up, front +Z, metres), so nothing is converted.
Layout, as it is written: one mesh with one triangle primitive and one metallic-roughness material.
Specification: https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html
"""

from __future__ import annotations

from typing import Any

from sds3d.formats.base import FileFormat, check_faces, check_uv
from sds3d.formats.glb_chunks import Binary, is_glb, one_mesh_glb
from sds3d.formats.gltf import from_gltf
from sds3d.formats.pictures import png
from sds3d.geometry.colors import srgb_to_linear
from sds3d.geometry.mesh import Mesh

_LINEAR, _LINEAR_MIPMAP_LINEAR, _CLAMP_TO_EDGE = 9729, 9987, 33071


def to_glb(mesh: Mesh, name: str = "asset") -> bytes:
    """Return the mesh as one GLB file.

    A texture becomes the material's base colour (sRGB PNG). Without one, vertex colours become COLOR_0, converted to
    linear light as glTF defines it. Metallic and roughness factors are always written, since glTF's default of 1 for
    both is a dark mirror. A metallic-roughness texture gets factors of 1, which leave it unchanged. A normal map is
    written with the tangents of its basis, an occlusion map as a grey picture.

    Raises ValueError for a mesh without faces, and for a texture without uv.
    """
    check_faces(mesh, "glTF")
    check_uv(mesh)
    binary = Binary()
    attributes = {"POSITION": binary.attribute(mesh.vertices, bounded=True)}
    if mesh.normals is not None:
        attributes["NORMAL"] = binary.attribute(mesh.normals)
    material: dict[str, Any] = {"metallicFactor": mesh.metallic, "roughnessFactor": mesh.roughness}
    look: dict[str, Any] = {"pbrMetallicRoughness": material, "doubleSided": False, "name": name}
    images: dict[str, Any] = {}
    maps = {
        "baseColorTexture": (material, mesh.texture),
        "metallicRoughnessTexture": (material, mesh.metallic_roughness),
        "normalTexture": (look, mesh.normal_map),
        "occlusionTexture": (look, mesh.occlusion),
    }
    pictures = {key: (owner, picture) for key, (owner, picture) in maps.items() if picture is not None}
    if pictures and mesh.uv is not None:
        attributes["TEXCOORD_0"] = binary.attribute(mesh.uv)
        if mesh.normal_map is not None and mesh.tangents is not None and mesh.normals is not None:
            attributes["TANGENT"] = binary.attribute(mesh.tangents)
        for i, (key, (owner, _)) in enumerate(pictures.items()):
            owner[key] = {"index": i}
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
                {"bufferView": binary.view(png(picture)), "mimeType": "image/png"} for _, picture in pictures.values()
            ],
        }
    if mesh.metallic_roughness is not None:
        material |= {"metallicFactor": 1.0, "roughnessFactor": 1.0}
    if mesh.texture is None and mesh.colors is not None:
        attributes["COLOR_0"] = binary.attribute(srgb_to_linear(mesh.colors))
    primitive = {"attributes": attributes, "indices": binary.indices(mesh.faces), "material": 0}
    return one_mesh_glb(primitive, binary, name, {"materials": [look], **images})


GLB = FileFormat("glb", ".glb", Mesh, write=to_glb, read=from_gltf, recognises=is_glb, textured=True, default=True)
