"""Binary glTF 2.0: what Blender, Unity, Godot, three.js and every web viewer open.

Frame: the world frame is glTF's (right-handed, +Y up, front +Z, metres), so nothing is converted.
Layout: one mesh with one triangle primitive and one metallic-roughness material.
Specification: https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sds3d.formats.glb_chunks import Binary, one_mesh_glb
from sds3d.geometry.mesh import FloatArray, Mesh

_LINEAR, _LINEAR_MIPMAP_LINEAR, _CLAMP_TO_EDGE = 9729, 9987, 33071


def to_glb(mesh: Mesh, name: str = "asset") -> bytes:
    """The mesh as one GLB file.

    With a texture it is the material's base colour (sRGB PNG). Without one the vertex colours become COLOR_0, decoded
    to linear light as glTF defines it. Metallic and roughness factors are always written: both default to 1, which
    is a dark mirror. A metallic-roughness texture is written beside factors of 1, which leave it as it is. Raises
    ValueError for a mesh without faces, and for a texture without uv.
    """
    if not len(mesh.faces):
        raise ValueError("a mesh without faces cannot be written as glTF")
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


def check_uv(mesh: Mesh) -> None:
    """Raise ValueError for a mesh with a texture, of either kind, and without uv."""
    if mesh.uv is None and (mesh.texture is not None or mesh.metallic_roughness is not None):
        raise ValueError("a textured mesh needs uv coordinates: bake() makes both")


def srgb_to_linear(colors: NDArray[np.floating]) -> FloatArray:
    """Linear light of sRGB values in [0, 1] (IEC 61966-2-1), same shape."""
    colors = np.clip(colors, 0.0, 1.0)
    return np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4).astype(np.float32)


def linear_to_srgb(light: NDArray[np.floating]) -> FloatArray:
    """sRGB values in [0, 1] of linear light, the inverse of `srgb_to_linear`, same shape."""
    light = np.clip(light, 0.0, 1.0)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055).astype(np.float32)


def png(picture: NDArray[np.uint8]) -> bytes:
    """A (H, W, 3) or grey (H, W) uint8 picture as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(file, format="PNG")
    return file.getvalue()
