"""PLY of Gaussian splats, in the layout of the reference code of Kerbl et al. 2023 (arXiv:2308.04079).

Frame: the world frame turned by 180 degrees about Z (right-handed, -Y up, front +Z, metres). PLY names no axes, but
splats in PLY come from cameras whose y runs down, so SuperSplat, PlayCanvas and Babylon.js turn every such file by as
much when they load it: ours then stand upright and face +Z. Comment lines of the header say so.
Layout (`binary_little_endian 1.0`): a vertex a Gaussian, all float: `x y z`, `nx ny nz` (zeros), `f_dc_0..2` (constant
harmonic of r, g, b), `f_rest_0..44` (the other 15 of r, then of g, then of b), `opacity` (logit), `scale_0..2`
(logarithms), `rot_0..3` (w, x, y, z): 62 floats, 248 bytes. Some programs demand all of them.
"""

from __future__ import annotations

import io
import math
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from sds3d.geometry.mesh import FloatArray
from sds3d.geometry.splats import Splats, from_file, turned

_BLOCK = 65536  # Gaussians converted at a time, so that memory holds little more than the file
_LOGIT = 20.0  # opacities 0 and 1 have infinite logits; the sigmoids of +-20 are within 2e-9 of them
_NORMALS = ["nx", "ny", "nz"]
_CENTRE, _CONSTANT = ["x", "y", "z"], ["f_dc_0", "f_dc_1", "f_dc_2"]
_SHAPE = ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
_TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"},
    **{"float": "f4", "double": "f8", "float32": "f4", "float64": "f8"},
}
_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": ""}
_HEADER_END = re.compile(rb"\n\s*end_header\s*?\n")


def to_splat_ply(splats: Splats, *, compact: bool = False) -> bytes:
    """The Gaussians as one PLY file, 248 bytes each.

    compact: leave out the normals and the harmonics that the splats do not have; 56 bytes each at degree 0. Most
    viewers read such files. Raises ValueError for splats that `Splats.checked` refuses.
    """
    splats = splats.checked()
    rest = splats.sh.shape[1] - 1 if compact else 15
    names = [*_CENTRE, *([] if compact else _NORMALS), *_CONSTANT, *(f"f_rest_{i}" for i in range(3 * rest)), *_SHAPE]
    header = [
        "ply",
        "format binary_little_endian 1.0",
        "comment generator sds3d",
        "comment frame right-handed, -Y up, front +Z, metres",
        f"element vertex {len(splats)}",
        *(f"property float {name}" for name in names),
        "end_header",
    ]
    file = io.BytesIO()
    file.write(("\n".join(header) + "\n").encode())
    first = names.index("f_dc_0")
    for start in range(0, len(splats), _BLOCK):
        block = turned(splats[start : start + _BLOCK])
        rows = np.zeros((len(block), len(names)), "<f4")
        rows[:, :3] = block.means
        rows[:, first : first + 3] = block.sh[:, 0]
        harmonics = rows[:, first + 3 : -8].reshape(len(block), 3, rest)  # a view
        harmonics[:, :, : block.sh.shape[1] - 1] = block.sh[:, 1:].transpose(0, 2, 1)
        rows[:, -8] = np.clip(logit(block.opacities.astype(np.float64)), -_LOGIT, _LOGIT)
        rows[:, -7:-4] = np.log(block.scales)
        rows[:, -4:] = block.quats
        file.write(rows.data)
    return file.getvalue()


def from_splat_ply(data: bytes) -> Splats:
    """The Gaussians of a PLY file, in the world frame; the file is taken to have its y axis down, as is usual.

    Reads binary files of both byte orders and ascii ones, properties in any order and of any number type, with or
    without normals and `f_rest`; other properties and elements are passed over. Bands of harmonics that are zero
    throughout are left out. Gaussians with NaN are left out with a warning.

    Raises ValueError, in one line, for what is not a PLY, is truncated, or holds no Gaussian splats.
    """
    columns = read_vertices(data)
    missing = [name for name in (*_CENTRE, *_CONSTANT, *_SHAPE) if name not in columns]
    if "packed_position" in columns:
        raise ValueError("this is a compressed splat PLY, which cannot be read: convert it to an ordinary one")
    if missing:
        raise ValueError(f"the PLY holds no Gaussian splats: its vertices lack {', '.join(missing)}")
    harmonics = [name for name in columns if name.startswith("f_rest_")]
    if len(harmonics) not in (0, 9, 24, 45) or set(harmonics) != {f"f_rest_{i}" for i in range(len(harmonics))}:
        raise ValueError(f"the PLY has {len(harmonics)} f_rest properties: 0, 9, 24 or 45, from f_rest_0, make sense")

    n = len(columns["x"])
    blocks = [{name: column[i : i + _BLOCK] for name, column in columns.items()} for i in range(0, n, _BLOCK)]
    degree = max(_degree(block, len(harmonics) // 3) for block in blocks)
    shapes = [(n, 3), (n, 4), (n, 3), (n,), (n, (degree + 1) ** 2, 3)]
    whole = Splats(*(np.empty(shape, np.float32) for shape in shapes))
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is left out
        for i, block in enumerate(blocks):
            rows = slice(i * _BLOCK, (i + 1) * _BLOCK)
            part = turned(_block_splats(block, len(harmonics) // 3, whole.sh.shape[1]))
            whole.means[rows], whole.quats[rows], whole.scales[rows] = part.means, part.quats, part.scales
            whole.opacities[rows], whole.sh[rows] = part.opacities, part.sh
    return from_file(whole)


def _degree(columns: dict[str, NDArray], rest: int) -> int:
    """The lowest degree beyond which the `rest` harmonics of each channel are zero."""
    used = [i for i in range(rest) if any(columns[f"f_rest_{rest * c + i}"].any() for c in range(3))]
    return math.isqrt(max(used) + 1) if used else 0


def _block_splats(columns: dict[str, NDArray], rest: int, kept: int) -> Splats:
    """The Gaussians as they stand in the file, with the first `kept` harmonics."""

    def gather(names: list[str]) -> FloatArray:
        return np.stack([columns[name].astype(np.float32) for name in names], axis=1)

    names = [_CONSTANT, *([f"f_rest_{rest * channel + i}" for channel in range(3)] for i in range(kept - 1))]
    sh = np.stack([gather(channels) for channels in names], axis=1)
    opacities = expit(gather(_SHAPE[:1])[:, 0])
    return Splats(gather(_CENTRE), gather(_SHAPE[4:]), np.exp(gather(_SHAPE[1:4])), opacities, sh)


@dataclass
class Element:
    """An element of a PLY's header."""

    name: str
    count: int
    properties: list[tuple[str, str]]  # (name, numpy type), type "list" for lists


def read_vertices(data: bytes) -> dict[str, NDArray]:
    """The properties of a PLY's vertices by name, each (N,), of Gaussians or of any points.

    Raises ValueError, in one line, for what is not a PLY, is truncated, or has no vertices.
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
        return _ascii_columns(data[start:], sum(element.count for element in before), vertex.count, names)
    if any(kind == "list" for element in before for _, kind in element.properties):
        raise ValueError("the PLY has lists before its vertices, which cannot be read")
    row = np.dtype([(name, order + kind) for name, kind in vertex.properties])
    start += sum(element.count * np.dtype(kind).itemsize for element in before for _, kind in element.properties)
    if len(data) < start + vertex.count * row.itemsize:
        whole = max(len(data) - start, 0) // row.itemsize
        raise ValueError(f"the PLY is truncated: it promises {vertex.count} vertices and has {whole}")
    rows = np.frombuffer(data, row, vertex.count, start)
    return {name: rows[name] for name in names}


def _ascii_columns(text: bytes, skip: int, count: int, names: list[str]) -> dict[str, NDArray]:
    try:
        values = np.loadtxt(io.BytesIO(text), comments=None, skiprows=skip, max_rows=count, ndmin=2)
    except ValueError as error:
        raise ValueError(f"the PLY is truncated or has words among its numbers: {error}") from None
    if values.shape != (count, len(names)):
        raise ValueError(f"the PLY is truncated: it promises {count} vertices and has {len(values)}")
    return {name: values[:, i] for i, name in enumerate(names)}


def read_header(data: bytes) -> tuple[str, list[Element], int]:
    """The byte order of a PLY ("" for ascii), its elements, and where these begin. Raises ValueError in one line."""
    if not re.match(rb"ply\s*\n", data):
        raise ValueError("this is not a PLY file: the first line must be 'ply'")
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
        raise ValueError("the PLY's header names no format that is known")
    return order, elements, end.end()
