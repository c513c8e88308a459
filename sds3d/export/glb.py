"""Binary glTF 2.0: what Blender, Unity, Godot, three.js and every web viewer open.

Frame: the world frame is glTF's (right-handed, +Y up, front +Z, metres), so nothing is converted.
Layout: a 12-byte header, one JSON chunk, one binary chunk; one mesh with one triangle primitive and one
metallic-roughness material. Specification: https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html
"""

from __future__ import annotations

import io
import json
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sds3d.mesh import FloatArray, Mesh

_ARRAY_BUFFER, _ELEMENT_ARRAY_BUFFER = 34962, 34963
_UNSIGNED_SHORT, _UNSIGNED_INT, _FLOAT = 5123, 5125, 5126
_LINEAR, _LINEAR_MIPMAP_LINEAR, _CLAMP_TO_EDGE = 9729, 9987, 33071


def to_glb(mesh: Mesh, name: str = "asset") -> bytes:
    """The mesh as one GLB file.

    With a texture it is the material's base colour (sRGB PNG). Without one the vertex colours become COLOR_0, decoded
    to linear light as glTF defines it. Metallic and roughness factors are always written: both default to 1, which
    is a dark mirror. Raises ValueError for a mesh without faces, and for a texture without uv.
    """
    if not len(mesh.faces):
        raise ValueError("a mesh without faces cannot be written as glTF")
    if mesh.texture is not None and mesh.uv is None:
        raise ValueError("a textured mesh needs uv coordinates: bake() makes both")
    binary = _Binary()
    attributes = {"POSITION": binary.attribute(mesh.vertices, bounded=True)}
    if mesh.normals is not None:
        attributes["NORMAL"] = binary.attribute(mesh.normals)
    material: dict[str, Any] = {"metallicFactor": mesh.metallic, "roughnessFactor": mesh.roughness}
    images: dict[str, Any] = {}
    if mesh.texture is not None and mesh.uv is not None:
        attributes["TEXCOORD_0"] = binary.attribute(mesh.uv)
        material["baseColorTexture"] = {"index": 0}
        images = {
            "textures": [{"sampler": 0, "source": 0}],
            "samplers": [
                {
                    "magFilter": _LINEAR,
                    "minFilter": _LINEAR_MIPMAP_LINEAR,
                    "wrapS": _CLAMP_TO_EDGE,
                    "wrapT": _CLAMP_TO_EDGE,
                }
            ],
            "images": [{"bufferView": binary.view(png(mesh.texture)), "mimeType": "image/png"}],
        }
    elif mesh.colors is not None:
        attributes["COLOR_0"] = binary.attribute(srgb_to_linear(mesh.colors))
    primitive = {"attributes": attributes, "indices": binary.indices(mesh.faces), "material": 0}
    document = {
        "asset": {"version": "2.0", "generator": "sds3d"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": name}],
        "meshes": [{"primitives": [primitive], "name": name}],
        "materials": [{"pbrMetallicRoughness": material, "doubleSided": False, "name": name}],
        **images,
        "accessors": binary.accessors,
        "bufferViews": binary.views,
        "buffers": [{"byteLength": len(binary.data)}],
    }
    header = json.dumps(document, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 4)
    body = bytes(binary.data) + b"\0" * (-len(binary.data) % 4)
    return b"".join(
        [
            struct.pack("<4sII", b"glTF", 2, 12 + 8 + len(header) + 8 + len(body)),
            struct.pack("<I4s", len(header), b"JSON"),
            header,
            struct.pack("<I4s", len(body), b"BIN\0"),
            body,
        ]
    )


def srgb_to_linear(colors: FloatArray) -> FloatArray:
    """Linear light of sRGB values in [0, 1] (IEC 61966-2-1), same shape."""
    colors = np.clip(colors, 0.0, 1.0)
    return np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4).astype(np.float32)


def png(picture: NDArray[np.uint8]) -> bytes:
    """A (H, W, 3) uint8 picture as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(file, format="PNG")
    return file.getvalue()


class _Binary:
    """The binary chunk under construction, with the views and accessors that describe it."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.views: list[dict[str, int]] = []
        self.accessors: list[dict[str, Any]] = []

    def view(self, data: bytes, target: int | None = None) -> int:
        self.data += b"\0" * (-len(self.data) % 4)  # accessors must start on their component's size
        view = {"buffer": 0, "byteOffset": len(self.data), "byteLength": len(data)}
        self.views.append(view if target is None else {**view, "target": target})
        self.data += data
        return len(self.views) - 1

    def attribute(self, values: FloatArray, bounded: bool = False) -> int:
        values = np.ascontiguousarray(values, dtype="<f4")
        accessor: dict[str, Any] = {
            "bufferView": self.view(values.tobytes(), _ARRAY_BUFFER),
            "componentType": _FLOAT,
            "count": len(values),
            "type": f"VEC{values.shape[1]}",
        }
        if bounded:
            accessor |= {"min": values.min(axis=0).tolist(), "max": values.max(axis=0).tolist()}
        self.accessors.append(accessor)
        return len(self.accessors) - 1

    def indices(self, faces: NDArray[np.int32]) -> int:
        short = faces.max() < 65535  # the largest value of a type restarts primitives and is forbidden
        data = faces.astype("<u2" if short else "<u4").tobytes()
        self.accessors.append(
            {
                "bufferView": self.view(data, _ELEMENT_ARRAY_BUFFER),
                "componentType": _UNSIGNED_SHORT if short else _UNSIGNED_INT,
                "count": faces.size,
                "type": "SCALAR",
            }
        )
        return len(self.accessors) - 1
