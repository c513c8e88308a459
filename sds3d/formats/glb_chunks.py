"""The container of binary glTF 2.0: attributes gathered into a binary chunk, and the file round it.

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
_UNSIGNED_SHORT, _UNSIGNED_INT, _FLOAT = 5123, 5125, 5126


class Binary:
    """The binary chunk under construction, with the views and accessors that describe it."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.views: list[dict[str, int]] = []
        self.accessors: list[dict[str, Any]] = []

    def view(self, data: bytes | memoryview, target: int | None = None) -> int:
        """The index of a new buffer view of `data`."""
        self.data += b"\0" * (-len(self.data) % 4)  # accessors must start on their component's size
        start = len(self.data)
        self.data += data
        view = {"buffer": 0, "byteOffset": start, "byteLength": len(self.data) - start}
        self.views.append(view if target is None else {**view, "target": target})
        return len(self.views) - 1

    def attribute(self, values: FloatArray, bounded: bool = False) -> int:
        """The index of a new accessor of floats, (N,) scalars or (N, 2 to 4) vectors; `bounded` with min and max."""
        values = np.ascontiguousarray(values, dtype="<f4")
        accessor: dict[str, Any] = {
            "bufferView": self.view(values.data, _ARRAY_BUFFER),
            "componentType": _FLOAT,
            "count": len(values),
            "type": "SCALAR" if values.ndim == 1 else f"VEC{values.shape[1]}",
        }
        if bounded:
            accessor |= {"min": values.min(axis=0).tolist(), "max": values.max(axis=0).tolist()}
        self.accessors.append(accessor)
        return len(self.accessors) - 1

    def indices(self, faces: NDArray[np.int32]) -> int:
        """The index of a new accessor of vertex indices, 16 bits wide where that is enough."""
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


def one_mesh_glb(primitive: dict[str, Any], binary: Binary, name: str, extra: dict[str, Any]) -> bytes:
    """A GLB file of one node with one mesh of one primitive.

    extra: what the document has besides, such as materials. Raises ValueError beyond the 4 GiB that a GLB can hold.
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
        raise ValueError(f"a GLB file holds 4 GiB at most, this would have {size / 2**30:.1f}")
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


def read_chunks(data: bytes) -> tuple[dict[str, Any], memoryview]:
    """The document and the binary chunk of a GLB file. Raises ValueError for another or a truncated file."""
    if data[:4] != b"glTF":
        raise ValueError("this is not a GLB file: it must begin with 'glTF'")
    if len(data) < 20:
        raise ValueError("the GLB is truncated: its header is not complete")
    version, size, length, kind = struct.unpack_from("<III4s", data, 4)
    if version != 2:
        raise ValueError(f"only GLB of version 2 can be read, this has version {version}")
    if len(data) < size:
        raise ValueError(f"the GLB is truncated: it promises {size} bytes and has {len(data)}")
    if kind != b"JSON" or 20 + length > size:
        raise ValueError("the GLB is malformed: it has no JSON chunk")
    try:
        document = json.loads(data[20 : 20 + length])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the GLB's JSON cannot be read: {error}") from None
    start = 20 + length + 8
    if not isinstance(document, dict) or start > size:
        raise ValueError("the GLB is malformed: it has no binary chunk")
    length, kind = struct.unpack_from("<I4s", data, start - 8)
    if kind != b"BIN\0" or start + length > size:
        raise ValueError("the GLB is malformed: it has no binary chunk")
    return document, memoryview(data)[start : start + length]
