"""The container of binary glTF 2.0: a JSON document and a binary chunk that holds its attributes.

Layout: a 12-byte header, one JSON chunk, one binary chunk, all little endian.
Specification: https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html, sections 3.6 and 4.
"""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sds3d.geometry.mesh import FloatArray

_ARRAY_BUFFER, _ELEMENT_ARRAY_BUFFER = 34962, 34963
_UNSIGNED_SHORT, _UNSIGNED_INT = 5123, 5125
FLOAT = 5126
"""glTF's number for the component type float."""


class Binary:
    """A binary chunk under construction, with the views and accessors that describe it."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.views: list[dict[str, int]] = []
        self.accessors: list[dict[str, Any]] = []

    def view(self, data: bytes | memoryview, target: int | None = None) -> int:
        """Append `data` and return the index of its buffer view."""
        self.data += b"\0" * (-len(self.data) % 4)  # an accessor must start at a multiple of its component's size
        start = len(self.data)
        self.data += data
        view = {"buffer": 0, "byteOffset": start, "byteLength": len(self.data) - start}
        self.views.append(view if target is None else {**view, "target": target})
        return len(self.views) - 1

    def attribute(self, values: FloatArray, bounded: bool = False) -> int:
        """Append floats, (N,) or (N, 2 to 4), and return the index of their accessor. bounded: it gets min and max."""
        values = np.ascontiguousarray(values, dtype="<f4")
        accessor: dict[str, Any] = {
            "bufferView": self.view(values.data, _ARRAY_BUFFER),
            "componentType": FLOAT,
            "count": len(values),
            "type": "SCALAR" if values.ndim == 1 else f"VEC{values.shape[1]}",
        }
        if bounded:
            accessor |= {"min": values.min(axis=0).tolist(), "max": values.max(axis=0).tolist()}
        self.accessors.append(accessor)
        return len(self.accessors) - 1

    def indices(self, faces: NDArray[np.int32]) -> int:
        """Append vertex indices, 16 bits wide if that is enough, and return the index of their accessor."""
        short = faces.max() < 65535  # glTF forbids the largest value of a type, which restarts primitives
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


def one_mesh_glb(primitive: dict[str, Any], binary: Binary, name: str, extra: dict[str, Any]) -> bytes:
    """Return a GLB file of one node with one mesh of one primitive.

    extra: further parts of the document, such as materials. Raises ValueError beyond the 4 GiB that a GLB can hold.
    """
    document = {
        "asset": {"version": "2.0", "generator": "sds3d"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": name}],
        "meshes": [{"primitives": [primitive], "name": name}],
        **extra,
        "accessors": binary.accessors,
        "bufferViews": binary.views,
        "buffers": [{"byteLength": len(binary.data)}],
    }
    header = json.dumps(document, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 4)
    padding = b"\0" * (-len(binary.data) % 4)
    body = len(binary.data) + len(padding)
    size = 12 + 8 + len(header) + 8 + body
    if size >= 2**32:
        raise ValueError(f"a GLB file holds at most 4 GiB, this one would have {size / 2**30:.1f}")
    return b"".join(
        [
            struct.pack("<4sII", b"glTF", 2, size),
            struct.pack("<I4s", len(header), b"JSON"),
            header,
            struct.pack("<I4s", body, b"BIN\0"),
            binary.data,
            padding,
        ]
    )


def is_glb(data: bytes) -> bool:
    """Whether data begins as a GLB file does."""
    return data[:4] == b"glTF"


def primitives(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the primitives of all meshes of a document."""
    return [primitive for mesh in document.get("meshes", []) for primitive in mesh["primitives"]]


def read_chunks(data: bytes) -> tuple[dict[str, Any], memoryview]:
    """Return the document and the binary chunk of a GLB file. Raises ValueError if data is truncated or not a GLB."""
    if not is_glb(data):
        raise ValueError("this is not a GLB file: it must begin with 'glTF'")
    if len(data) < 20:
        raise ValueError("the GLB is truncated: its header is not complete")
    version, size, length, kind = struct.unpack_from("<III4s", data, 4)
    if version != 2:
        raise ValueError(f"this GLB has version {version}, but only version 2 can be read: export it as glTF 2.0")
    if len(data) < size:
        raise ValueError(f"the GLB is truncated: it promises {size} bytes and has {len(data)}")
    if kind != b"JSON" or 20 + length > size:
        raise ValueError("the GLB is malformed: it has no JSON chunk")
    try:
        document = json.loads(data[20 : 20 + length])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the GLB's JSON cannot be read: {error}") from None
    start = 20 + length + 8
    if isinstance(document, dict) and 20 + length == size:  # all buffers lie elsewhere
        return document, memoryview(b"")
    if not isinstance(document, dict) or start > size:
        raise ValueError("the GLB is malformed: it has no binary chunk")
    length, kind = struct.unpack_from("<I4s", data, start - 8)
    if kind != b"BIN\0" or start + length > size:
        raise ValueError("the GLB is malformed: it has no binary chunk")
    return document, memoryview(data)[start : start + length]
