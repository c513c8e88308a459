"""The container of PLY, for meshes, points and Gaussian splats: a header that names elements, then their values.

Layout: text lines up to `end_header`, then the rows of each element, as text or as binary numbers of either byte order.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"},
    **{"float": "f4", "double": "f8", "float32": "f4", "float64": "f8"},
}
_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": ""}
_HEADER_END = re.compile(rb"\n\s*end_header\s*?\n")


@dataclass
class Element:
    """An element of a PLY's header."""

    name: str
    count: int
    properties: list[tuple[str, str]]  # (name, numpy type), type "list" for lists


def ply_header(frame: str, elements: dict[str, tuple[int, list[str]]]) -> bytes:
    """Return the header of a binary little-endian PLY.

    frame: the axes and the unit, for a comment. elements: by name, the number of rows and the properties, each a type
    and a name such as "float x".
    """
    lines = ["ply", "format binary_little_endian 1.0", "comment generator sds3d", f"comment frame {frame}"]
    for name, (count, properties) in elements.items():
        lines += [f"element {name} {count}", *(f"property {words}" for words in properties)]
    return "\n".join([*lines, "end_header", ""]).encode()


def is_ply(data: bytes) -> bool:
    """Whether data begins as a PLY file does."""
    return re.match(rb"ply\s*\n", data) is not None


def read_header(data: bytes) -> tuple[str, list[Element], int]:
    """Return the byte order of a PLY ("" for text), its elements, and the offset of their values.

    Raises ValueError in one line.
    """
    if not is_ply(data):
        raise ValueError("this is not a PLY file: it must begin with a line 'ply'")
    end = _HEADER_END.search(data, 0, 1 << 20)
    if end is None:
        raise ValueError("the PLY's header has no end: the file is truncated")
    order: str | None = None
    elements: list[Element] = []
    for line in data[: end.start()].decode("latin-1").splitlines()[1:]:
        match line.split():
            case ["format", name, "1.0"]:
                order = _ORDERS.get(name)
            case ["element", name, count] if count.isdecimal():
                elements.append(Element(name, int(count), []))
            case ["property", "list", _, _, name] if elements:
                elements[-1].properties.append((name, "list"))
            case ["property", kind, name] if elements and kind in _TYPES:
                elements[-1].properties.append((name, _TYPES[kind]))
            case [] | ["comment" | "obj_info", *_]:
                pass
            case _:
                raise ValueError(f"the PLY's header has a line that makes no sense: {line[:80]!r}")
    if order is None:
        raise ValueError("the PLY's header names no known format")
    return order, elements, end.end()


def read_vertices(data: bytes) -> dict[str, NDArray]:
    """Return the properties of a PLY's vertices by name, each (N,).

    Raises ValueError, in one line, if data is not a PLY, is truncated, or has no vertices.
    """
    order, elements, start = read_header(data)
    index = next((i for i, element in enumerate(elements) if element.name == "vertex"), None)
    if index is None:
        raise ValueError("the PLY has no vertices")
    before, vertex = elements[:index], elements[index]
    names = [name for name, _ in vertex.properties]
    if len(set(names)) < len(names) or any(kind == "list" for _, kind in vertex.properties):
        raise ValueError("the PLY's vertices have a list property, or two of one name")
    if not vertex.count or not names:
        raise ValueError("the file holds no Gaussians")
    if not order:
        return _text_columns(data[start:], sum(element.count for element in before), vertex.count, names)
    if any(kind == "list" for element in before for _, kind in element.properties):
        raise ValueError("the PLY has lists before its vertices, which cannot be read")
    row = np.dtype([(name, order + kind) for name, kind in vertex.properties])
    start += sum(element.count * np.dtype(kind).itemsize for element in before for _, kind in element.properties)
    if len(data) < start + vertex.count * row.itemsize:
        whole = max(len(data) - start, 0) // row.itemsize
        raise ValueError(f"the PLY is truncated: it promises {vertex.count} vertices and has {whole}")
    rows = np.frombuffer(data, row, vertex.count, start)
    return {name: rows[name] for name in names}


def _text_columns(text: bytes, skip: int, count: int, names: list[str]) -> dict[str, NDArray]:
    try:
        values = np.loadtxt(io.BytesIO(text), comments=None, skiprows=skip, max_rows=count, ndmin=2)
    except ValueError as error:
        raise ValueError(f"the PLY is truncated or has words among its numbers: {error}") from None
    if values.shape != (count, len(names)):
        raise ValueError(f"the PLY is truncated: it promises {count} vertices and has {len(values)}")
    return {name: values[:, i] for i, name in enumerate(names)}
