"""A glTF 2.0 document with its buffers: what `.glb` and `.gltf` have in common, before any of it is understood.

Buffers come from the binary chunk, from data URIs and from files in the asset's folder. Specification:
https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from sds3d.extras import install_command
from sds3d.formats.glb_chunks import is_glb, read_chunks
from sds3d.formats.neighbours import Neighbours

DRACO = "KHR_draco_mesh_compression"
MESHOPT = ("EXT_meshopt_compression", "KHR_meshopt_compression")
INSTANCING = "EXT_mesh_gpu_instancing"
TEXTURE_TRANSFORM = "KHR_texture_transform"
SPECULAR_GLOSSINESS = "KHR_materials_pbrSpecularGlossiness"
SPLATS = "KHR_gaussian_splatting"
BASISU = "KHR_texture_basisu"
VISIBILITY = "KHR_node_visibility"

_READ = {DRACO, *MESHOPT, INSTANCING, TEXTURE_TRANSFORM, SPECULAR_GLOSSINESS, SPLATS, VISIBILITY}
_READ |= {"KHR_mesh_quantization", "EXT_texture_webp", "EXT_texture_avif", "KHR_materials_unlit"}
_HARMLESS = {BASISU, "KHR_lights_punctual", "KHR_animation_pointer", "KHR_xmp_json_ld", "MSFT_lod"}
"""Extensions without which a file still has its shape and most of its look. What they add is left out."""

_MOST = 1 << 30  # bytes of a decompressed view: what a small file can make of itself


@dataclass
class Document:
    """A parsed document.

    json: the document. binary: the binary chunk of a GLB. files: the files beside it. left_out: what the file has and
    the result lacks, in the order of discovery, for a warning.
    """

    json: dict[str, Any]
    binary: memoryview | None
    files: Neighbours
    left_out: dict[str, None] = field(default_factory=dict)
    _buffers: dict[int, memoryview] = field(default_factory=dict)
    _views: dict[int, memoryview] = field(default_factory=dict)

    def items(self, key: str) -> list[dict[str, Any]]:
        """Return a list of the document, such as "nodes"; empty if there is none."""
        return self.json.get(key, [])

    def leave_out(self, what: str) -> None:
        """Note something that the result lacks."""
        self.left_out[what] = None

    def buffer(self, index: int) -> memoryview:
        """Return the bytes of a buffer. Raises ValueError if they are missing or fewer than promised."""
        if index not in self._buffers:
            buffer = self.items("buffers")[index]
            uri = buffer.get("uri")
            if uri is not None:
                data = memoryview(self.uri(uri))
            elif index == 0 and self.binary is not None:
                data = self.binary
            else:
                raise ValueError(f"buffer {index} of the glTF has no data: export it again")
            if len(data) < buffer["byteLength"]:
                raise ValueError(
                    f"buffer {index} is truncated: {buffer['byteLength']} bytes promised, {len(data)} there"
                )
            self._buffers[index] = data
        return self._buffers[index]

    def view(self, index: int) -> memoryview:
        """Return the bytes of a buffer view, decompressed. Raises ValueError."""
        if index not in self._views:
            view = self.items("bufferViews")[index]
            packed = next((view["extensions"][name] for name in MESHOPT if name in view.get("extensions", {})), None)
            self._views[index] = self._slice(view) if packed is None else _unpacked(self._slice(packed), packed)
        return self._views[index]

    def _slice(self, view: dict[str, Any]) -> memoryview:
        start, length = view.get("byteOffset", 0), view["byteLength"]
        data = self.buffer(view["buffer"])
        if start < 0 or length < 0 or start + length > len(data):
            raise ValueError("the glTF is truncated or malformed: a buffer view reaches beyond its buffer")
        return data[start : start + length]

    def uri(self, uri: str) -> bytes:
        """Return the bytes that a URI names: within it, or in a file of the asset's folder. Raises ValueError."""
        if uri.startswith("data:"):
            header, _, text = uri.partition(",")
            try:
                return base64.b64decode(text, validate=True) if header.endswith(";base64") else unquote(text).encode()
            except binascii.Error as error:
                raise ValueError(f"a data URI of the glTF is damaged ({error}): export it again") from None
        if "://" in uri:
            raise ValueError(f"the glTF needs {uri[:80]}, and nothing is downloaded: save it beside the file")
        name = unquote(uri)
        try:
            return self.files.read(name)
        except OSError:
            raise ValueError(f"the glTF needs {name[:80]} in its folder: copy it there, or export as .glb") from None


def parse(data: bytes, folder: Path) -> Document:
    """Return the document of a `.glb` or `.gltf` file. folder: holds the files that it refers to.

    Raises ValueError, in one line, for a file that is not glTF 2.0 or requires an extension that is unknown.
    """
    if is_glb(data):
        content, binary = read_chunks(data)
    else:
        try:
            content, binary = json.loads(data.decode("utf-8-sig")), None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"this is not a glTF file: its JSON cannot be read ({error})") from None
        version = content.get("asset", {}).get("version") if isinstance(content, dict) else None
        if version is None:
            raise ValueError("this is not a glTF file: it has no asset.version")
        if not str(version).startswith("2."):
            raise ValueError(f"this glTF has version {version}, but only version 2 can be read: export it as glTF 2.0")
    document = Document(content, binary, Neighbours(folder))
    for name in content.get("extensionsRequired", []):
        if name not in _READ | _HARMLESS and not str(name).startswith("KHR_materials_"):
            raise ValueError(f"the glTF requires the extension {name}, which cannot be read: export it without")
    return document


def _unpacked(data: memoryview, packed: dict[str, Any]) -> memoryview:
    """Return the bytes of a view that meshoptimizer compressed."""
    try:
        import meshopt
    except ImportError:
        raise ValueError(compressed("meshoptimizer")) from None
    count, stride = packed["count"], packed["byteStride"]
    if not 0 <= count * stride <= _MOST:
        raise ValueError(f"a buffer view of the glTF unpacks to {count * stride} bytes, more than {_MOST}")
    rows = meshopt.decode_gltf_buffer(bytes(data), count, stride, packed["mode"], packed.get("filter"))
    return memoryview(rows.tobytes())


def draco_attributes(data: memoryview, wanted: dict[str, int]) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
    """Return the faces (F, 3) and the attributes by name, each (V, K), of a mesh that Draco compressed.

    wanted: Draco's number of each attribute.
    """
    try:
        import DracoPy
    except ImportError:
        raise ValueError(compressed("Draco")) from None
    try:
        mesh = DracoPy.decode(bytes(data))
    except Exception as error:  # it raises classes of its own
        raise ValueError(f"the Draco data are damaged ({error}): export the file again") from None
    if not isinstance(mesh, DracoPy.DracoMesh):
        raise ValueError("the Draco data hold points, not a mesh: export the object as a mesh")
    found = {name: mesh.get_attribute_by_unique_id(number) for name, number in wanted.items()}
    if missing := [name for name, attribute in found.items() if attribute is None]:
        raise ValueError(f"the Draco data lack {missing[0]}: export the file again")
    values = {name: np.asarray(attribute["data"]) for name, attribute in found.items()}
    return np.asarray(mesh.faces), {name: array.reshape(len(array), -1) for name, array in values.items()}


def compressed(how: str) -> str:
    """What to do about a compressed file when the package that unpacks it is missing, in one line."""
    return f"the glTF is compressed by {how}: {install_command('compressed')}, or unpack it: gltf-transform copy IN OUT"
