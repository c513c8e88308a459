"""Accessors of glTF 2.0: typed arrays in buffers, dense or sparse, plain or normalised integers.

Specification: https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html, sections 3.6.2 and 3.11.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sds3d.formats.gltf_document import Document

_TYPES = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
_MOST = 1 << 27  # elements that a file may ask for without giving their bytes


def stored(document: Document, index: int) -> NDArray[Any]:
    """Return the elements of an accessor (N, K) as they are stored, K of its type. Raises ValueError."""
    accessor = document.items("accessors")[index]
    kind, width, count = np.dtype(_TYPES[accessor["componentType"]]), _WIDTHS[accessor["type"]], accessor["count"]
    if accessor["type"] in ("MAT2", "MAT3") and kind.itemsize < 4:
        raise ValueError("the glTF has small matrices of small integers, which cannot be read: export it again")
    if count < 0:
        raise ValueError("the glTF is malformed: an accessor has a negative count")
    if "bufferView" in accessor:
        stride = document.items("bufferViews")[accessor["bufferView"]].get("byteStride", 0)
        values = _table(document, accessor, kind, count, width, stride)
    elif count * width > _MOST:
        raise ValueError(f"the glTF asks for {count} elements without data: it is malformed")
    else:
        values = np.zeros((count, width), kind)
    if "sparse" not in accessor:
        return values
    sparse = accessor["sparse"]
    changed = sparse["count"]
    rows = _table(document, sparse["indices"], np.dtype(_TYPES[sparse["indices"]["componentType"]]), changed, 1)[:, 0]
    if changed and rows.max() >= count:
        raise ValueError("the glTF is malformed: a sparse accessor changes an element that does not exist")
    values = values.copy()
    values[rows] = _table(document, sparse["values"], kind, changed, width)
    return values


def numbers(document: Document, index: int) -> NDArray[np.float64]:
    """Return the elements of an accessor (N, K) as numbers; normalised integers in [-1, 1] or [0, 1]."""
    return plain(stored(document, index), document.items("accessors")[index])


def plain(values: NDArray[Any], accessor: dict[str, Any]) -> NDArray[np.float64]:
    """Return stored elements as numbers."""
    if accessor.get("normalized") and values.dtype.kind in "iu":
        return np.maximum(values / np.iinfo(values.dtype).max, -1.0)
    return values.astype(np.float64)


def _table(
    document: Document, place: dict[str, Any], kind: np.dtype[Any], count: int, width: int, stride: int = 0
) -> NDArray[Any]:
    """Return rows (count, width) of a buffer view. stride: bytes from row to row; 0: without gaps."""
    data, start, row = document.view(place["bufferView"]), place.get("byteOffset", 0), width * kind.itemsize
    stride = stride or row
    if stride < row or start < 0 or count < 0 or (count and start + (count - 1) * stride + row > len(data)):
        raise ValueError("the glTF is truncated or malformed: an accessor reaches beyond its buffer view")
    return (
        np.ndarray((count, width), kind, data, start, (stride, kind.itemsize)) if count else np.zeros((0, width), kind)
    )
