"""The container of PLY, for meshes, points and Gaussian splats: a header that names elements, then their values.

Layout: text lines up to `end_header`, then the rows of each element, as text or as binary numbers of either byte order.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sds3d.geometry.mesh import FloatArray

_TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"},
    **{"float": "f4", "double": "f8", "float32": "f4", "float64": "f8"},
}
_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": ""}
_COLOR_NAMES = (("red", "green", "blue"), ("diffuse_red", "diffuse_green", "diffuse_blue"), ("r", "g", "b"))
_MOST_FRACTION = 2.0  # the largest value of colours that are fractions: some are slightly above 1
_HEADER_END = re.compile(rb"\n\s*end_header\s*?\n")


@dataclass
class Element:
    """An element of a PLY's header."""

    name: str
    count: int
    properties: list[tuple[str, str]]  # (name, numpy type), type "list u1 i4" for lists: of the count and the items


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
            case ["property", "list", count, kind, name] if elements and {count, kind} <= _TYPES.keys():
                elements[-1].properties.append((name, f"list {_TYPES[count]} {_TYPES[kind]}"))
            case ["property", kind, name] if elements and kind in _TYPES:
                elements[-1].properties.append((name, _TYPES[kind]))
            case [] | ["comment" | "obj_info", *_]:
                pass
            case _:
                raise ValueError(f"the PLY's header has a line that makes no sense: {line[:80]!r}")
    if order is None:
        raise ValueError("the PLY's header names no known format")
    return order, elements, end.end()


def read_rows(data: bytes, name: str = "vertex") -> dict[str, NDArray]:
    """Return the properties of an element of a PLY by their names, each (N,).

    In text files, integers get the declared type, and other numbers become float64.

    Raises ValueError, in one line, if data is not a PLY, is truncated, or has no such element.
    """
    order, elements, start = read_header(data)
    index = next((i for i, element in enumerate(elements) if element.name == name), None)
    if index is None:
        raise ValueError(f"the PLY has no {_called(name)}")
    before, element = elements[:index], elements[index]
    names = [name for name, _ in element.properties]
    if len(set(names)) < len(names) or _has_lists(element):
        raise ValueError(f"the PLY's {_called(name)} have a list property, or two of one name")
    if not element.count or not names:
        raise ValueError("the file holds no Gaussians")
    if not order:
        return _text_columns(data[start:], sum(element.count for element in before), element)
    start += _size(before)
    row = np.dtype([(name, order + kind) for name, kind in element.properties])
    if len(data) < start + element.count * row.itemsize:
        whole = max(len(data) - start, 0) // row.itemsize
        raise ValueError(f"the PLY is truncated: it promises {element.count} {_called(name)} and has {whole}")
    rows = np.frombuffer(data, row, element.count, start)
    return {name: rows[name] for name in names}


def read_lists(data: bytes, name: str) -> list[NDArray]:
    """Return the lists of an element of a PLY, one per row. The element must have no other property.

    Raises ValueError, in one line, if the file is truncated or the element has other properties.
    """
    order, elements, start = read_header(data)
    index = next(i for i, element in enumerate(elements) if element.name == name)
    before, element = elements[:index], elements[index]
    kinds = [kind.split() for _, kind in element.properties]
    if len(kinds) != 1 or kinds[0][0] != "list":
        raise ValueError(f"the PLY's element {name} must have one list and nothing else: export triangles")
    count_kind, kind = (np.dtype((order or "<") + part) for part in kinds[0][1:])
    lists: list[NDArray] = []
    skip = sum(one.count for one in before)
    lines = [] if order else data[start:].splitlines()[skip : skip + element.count]
    start += _size(before) if order else 0
    try:
        for row in range(element.count):
            if order:
                (count,) = np.frombuffer(data, count_kind, 1, start)
                lists.append(np.frombuffer(data, kind, int(count), start + count_kind.itemsize))
                start += count_kind.itemsize + int(count) * kind.itemsize
            else:
                count, *items = lines[row].split()
                lists.append(np.array(items[: int(count)], dtype=kind))
                if len(items) < int(count):
                    raise IndexError
    except (IndexError, ValueError, OverflowError):
        raise ValueError(f"the PLY is truncated or damaged: row {len(lists)} of {name} makes no sense") from None
    return lists


def _called(element: str) -> str:
    return "vertices" if element == "vertex" else f"rows of {element}"


def _has_lists(element: Element) -> bool:
    return any(kind.startswith("list") for _, kind in element.properties)


def _size(elements: Sequence[Element]) -> int:
    """Return the size in bytes of elements of a binary file. Raises ValueError if they have lists."""
    if any(_has_lists(element) for element in elements):
        raise ValueError("the PLY has lists before its vertices, which cannot be read")
    return sum(element.count * np.dtype(kind).itemsize for element in elements for _, kind in element.properties)


def colors_of(columns: dict[str, NDArray]) -> FloatArray | None:
    """Return the colours (N, 3) float32 in [0, 1] of points, or None if they have none. NaN stays.

    They are fractions, bytes or 16-bit numbers; the largest one decides, because programs write bytes into wider types.
    """
    found = next((names for names in _COLOR_NAMES if columns.keys() >= set(names)), None)
    if found is None:
        return None
    stored = np.stack([columns[name] for name in found], axis=1)
    largest = stored[np.isfinite(stored)].max(initial=0)
    fractions = [] if stored.dtype.kind in "iu" else [(_MOST_FRACTION, 1)]
    whole = next((whole for most, whole in [*fractions, (255, 255), (65535, 65535)] if largest <= most), largest)
    return np.clip(stored / whole, 0, 1).astype(np.float32)


def _text_columns(text: bytes, skip: int, element: Element) -> dict[str, NDArray]:
    try:
        values = np.loadtxt(io.BytesIO(text), comments=None, skiprows=skip, max_rows=element.count, ndmin=2)
    except ValueError as error:
        raise ValueError(f"the PLY is truncated or has words among its numbers: {error}") from None
    if values.shape != (element.count, len(element.properties)):
        called = _called(element.name)
        raise ValueError(f"the PLY is truncated: it promises {element.count} {called} and has {len(values)}")
    return {name: _typed(values[:, i], np.dtype(kind)) for i, (name, kind) in enumerate(element.properties)}


def _typed(values: NDArray[np.float64], kind: np.dtype) -> NDArray:
    if kind.kind == "f" or not np.isfinite(values).all():
        return values
    limits = np.iinfo(kind)
    return np.clip(values, limits.min, limits.max).astype(kind)
