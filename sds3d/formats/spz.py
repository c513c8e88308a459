"""Niantic's .spz (https://github.com/nianticlabs/spz), about a tenth of a PLY: version 3 written, 1 to 4 read.

Frame: the world frame as it is. The format's axes are x right, y up, z back, which is the same.
Layout of version 3: gzip of a 16-byte header (`NGSP`, version, number, degree, fraction bits, flags, 0; little endian),
followed by one array after another: centres (3 x 24 bits, fixed point), opacities (8 bits), colours (3 x 8 bits),
scales (3 x 8 bits, logarithm in sixteenths), rotations (32 bits: which of x, y, z, w is largest, and the other three as
sign and 9-bit magnitude), then the harmonics above the constant one (8 bits each, r, g, b next to each other), then
extensions if a flag says so.
Version 2 has rotations of 3 x 8 bits (x, y, z), version 1 also centres of 3 x 16-bit floats. Version 4 is not gzipped:
after the header, the offset of a table (4 bytes), 12 unused bytes and the extensions comes the table with the packed
and the real size of each array (8 bytes each), then the arrays, each compressed by Zstandard.
"""

from __future__ import annotations

import math
import struct
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sds3d.formats.base import ANTIALIASED, FileFormat, valid_gaussians
from sds3d.formats.splat_bits import OTHERS, largest_restored
from sds3d.geometry.mesh import FloatArray
from sds3d.geometry.splats import Splats

_NAME = b"NGSP"
_GZIP_SIGNATURE = b"\x1f\x8b"
_HEADER = struct.Struct("<4sIIBBBB")
_GZIP = 31  # zlib's number for a gzip header and trailer
_FRACTION_BITS = 16  # 15 micrometres, up to 128 m from the origin
_COLOR_SCALE = 0.15  # colours are 0.5 + 0.15 f_dc, in 1/255: they may exceed [0, 1] a little
_ANTIALIASED, _HAS_EXTENSIONS = 1, 2  # flags
_MOST_EXTENSIONS = 1 << 20  # bytes
_AXES_EXTENSION = 0xADBE0003
_RIGHT_UP_BACK = 4


def to_spz(splats: Splats) -> bytes:
    """Return the Gaussians as one .spz file.

    Precision: centres 15 micrometres (coarser beyond 128 m from the origin), scales 3 % from 45 micrometres to 380
    metres, angles a quarter of a degree, opacities and colours 8 bits, harmonics 1/128 within [-1, 1].

    Raises ValueError for splats that `Splats.checked` refuses, and for centres beyond 8000 km.
    """
    splats = splats.checked()
    farthest = float(np.abs(splats.means).max())
    bits = _FRACTION_BITS
    while bits >= 0 and round(farthest * 2**bits) >= 2**23:
        bits -= 1
    if bits < 0:
        raise ValueError(f"a centre is {farthest:g} m from the origin, farther than .spz can hold")
    fixed = np.rint(splats.means.astype(np.float64) * 2**bits).astype("<i4")
    parts = [
        _HEADER.pack(_NAME, 3, len(splats), splats.degree, bits, 0, 0),
        fixed.view(np.uint8).reshape(-1, 4)[:, :3].tobytes(),
        _bytes(255 * splats.opacities),
        _bytes(255 * (0.5 + _COLOR_SCALE * splats.sh[:, 0])),
        _bytes(16 * (10 + np.log(splats.scales))),
        _packed(splats.quats).tobytes(),
        _bytes(128 + 128 * splats.sh[:, 1:]),
    ]
    compressor = zlib.compressobj(wbits=_GZIP)
    return b"".join([*(compressor.compress(part) for part in parts), compressor.flush()])


def from_spz(data: bytes) -> Splats:
    """Return the Gaussians of a .spz file of version 1 to 4, of ours or of another program.

    Harmonics of degree 4 and extensions are left out with a warning. Raises ValueError, in one line, if data is
    truncated or not such a file, or if an extension says that its axes are other ones.
    """
    if data[:4] == _NAME:
        header, arrays = _zstd_arrays(data)
    elif data[:2] == _GZIP_SIGNATURE:
        header, arrays = _gzip_arrays(data)
    else:
        raise ValueError("this is not a .spz file: it must begin with gzip's 1f 8b, or with NGSP")
    if header.flags & _ANTIALIASED:
        warnings.warn(ANTIALIASED, stacklevel=2)
    if header.degree > 3:
        warnings.warn("the harmonics of degree 4 are left out: 3 is the highest that can be shown", stacklevel=2)
    centres, opacities, colors, scales, rotations, harmonics = arrays
    count, kept = header.count, (min(header.degree, 3) + 1) ** 2
    sh = np.empty((count, kept, 3), np.float32)
    sh[:, 0] = (np.divide(colors.reshape(count, 3), 255, dtype=np.float32) - 0.5) / _COLOR_SCALE
    rest = harmonics.reshape(count, (header.degree + 1) ** 2 - 1, 3)[:, : kept - 1]
    sh[:, 1:] = np.divide(rest, 128, dtype=np.float32) - 1
    return valid_gaussians(
        Splats(
            _centres(centres, header),
            _unpacked(rotations.view("<u4")) if header.version >= 3 else _first_three(rotations),
            np.exp(np.divide(scales.reshape(count, 3), 16, dtype=np.float32) - 10),
            np.divide(opacities, 255, dtype=np.float32),
            sh,
        )
    )


@dataclass(frozen=True)
class _Header:
    """What a file says about its arrays."""

    version: int
    count: int
    degree: int
    bits: int
    flags: int

    def sizes(self) -> list[int]:
        """Return the sizes in bytes of centres, opacities, colours, scales, rotations and harmonics."""
        centre, rotation = 6 if self.version == 1 else 9, 4 if self.version >= 3 else 3
        return [self.count * size for size in (centre, 1, 3, 3, rotation, 3 * ((self.degree + 1) ** 2 - 1))]


def _header(data: bytes, versions: Sequence[int]) -> tuple[_Header, int]:
    """Return the header, and its last byte: in version 4 the number of arrays.

    Raises ValueError if it names another version or impossible values.
    """
    name, version, count, degree, bits, flags, last = _HEADER.unpack(data)
    if name != _NAME:
        raise ValueError("this is not a .spz file: NGSP is missing at its beginning")
    if version not in versions:
        raise ValueError(f"the .spz has version {version}, but versions 1 to 4 can be read: save it again as one")
    if degree > 4 or bits > 23:
        raise ValueError(f"the .spz is damaged: harmonics of degree {degree}, {bits} fraction bits")
    return _Header(version, count, degree, bits, flags), last


def _gzip_arrays(data: bytes) -> tuple[_Header, list[NDArray[np.uint8]]]:
    """Return header and arrays of versions 1 to 3."""
    decompressor = zlib.decompressobj(wbits=_GZIP)
    try:
        start = decompressor.decompress(data, _HEADER.size)
        if len(start) < _HEADER.size:
            raise ValueError("the .spz is truncated: its header is not complete")
        header, _ = _header(start, (1, 2, 3))
        sizes = header.sizes()
        extra = _MOST_EXTENSIONS if header.flags & _HAS_EXTENSIONS else 0
        body = decompressor.decompress(decompressor.unconsumed_tail, sum(sizes) + extra + 1)
    except zlib.error as error:
        raise ValueError(f"the .spz is damaged: {error}") from None
    if not 0 <= len(body) - sum(sizes) <= extra or not decompressor.eof:
        raise ValueError(f"the .spz is truncated or damaged: it promises {sum(sizes)} bytes of Gaussians")
    _check_extensions(body[sum(sizes) :])
    ends = np.cumsum(sizes)
    return header, [np.frombuffer(body, np.uint8, size, end - size) for size, end in zip(sizes, ends, strict=True)]


def _zstd_arrays(data: bytes) -> tuple[_Header, list[NDArray[np.uint8]]]:
    """Return header and arrays of version 4. Arrays without bytes, the harmonics of degree 0, have no stream."""
    import zstandard

    if len(data) < _HEADER.size + 16:
        raise ValueError("the .spz is truncated: its header is not complete")
    header, streams = _header(data[: _HEADER.size], (4,))
    (table,) = struct.unpack_from("<I", data, _HEADER.size)
    sizes = header.sizes()
    kept = [size for size in sizes if size]
    start = table + 16 * streams
    if streams != len(kept) or table < _HEADER.size + 16 or start > len(data):
        raise ValueError("the .spz is truncated or damaged: its table of arrays does not fit")
    if header.flags & _HAS_EXTENSIONS:
        _check_extensions(data[_HEADER.size + 16 : table])
    arrays: list[NDArray[np.uint8]] = []
    for i, size in enumerate(kept):
        packed, promised = struct.unpack_from("<QQ", data, table + 16 * i)
        stream = data[start : start + packed]
        try:
            # The size in the stream itself is what the decompressor allocates.
            if promised != size or len(stream) != packed or zstandard.frame_content_size(stream) not in (size, -1):
                raise ValueError(f"the .spz is truncated or damaged: array {i} does not have {size} bytes")
            array = zstandard.ZstdDecompressor().decompress(stream, max_output_size=size)
        except zstandard.ZstdError as error:
            raise ValueError(f"the .spz is damaged: {error}") from None
        if len(array) != size:
            raise ValueError(f"the .spz is truncated or damaged: array {i} does not have {size} bytes")
        arrays.append(np.frombuffer(array, np.uint8))
        start += packed
    return header, [*arrays, *[np.empty(0, np.uint8)] * (len(sizes) - len(kept))]


def _check_extensions(records: bytes) -> None:
    """Warn about extensions that are left out. Raises ValueError for one that changes the axes.

    records: each a type (4 bytes), the length of its content (4 bytes), and its content.
    """
    start, left_out = 0, []
    while start + 8 <= len(records):
        kind, length = struct.unpack_from("<II", records, start)
        content = records[start + 8 : start + 8 + length]
        if kind == _AXES_EXTENSION and content not in (struct.pack("<I", axes) for axes in (0, _RIGHT_UP_BACK)):
            raise ValueError("the .spz names other axes than right, up, back (SPZ_ADOBE_coordinate_system): convert it")
        if kind != _AXES_EXTENSION:
            left_out.append(f"{kind:#010x}")
        start += 8 + length
    if left_out:
        warnings.warn(f"extensions of the .spz are left out: {', '.join(left_out[:3])}", stacklevel=4)


def _centres(stored: NDArray[np.uint8], header: _Header) -> FloatArray:
    """Return centres (N, 3): 16-bit floats in version 1, else 24-bit fixed point."""
    if header.version == 1:
        return stored.view("<f2").reshape(-1, 3).astype(np.float32)
    wide = np.zeros((3 * header.count, 4), np.uint8)
    wide[:, 1:] = stored.reshape(-1, 3)
    return (wide.view("<i4").reshape(-1, 3) >> 8).astype(np.float32) / 2**header.bits  # the shift keeps the sign


def _bytes(values: FloatArray) -> bytes:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8).tobytes()


def _packed(quats: FloatArray) -> NDArray[np.uint32]:
    """Return 32 bits (N,) for each quaternion (N, 4) w, x, y, z."""
    xyzw = np.roll(quats, -1, axis=1)
    largest = np.abs(xyzw).argmax(axis=1)[:, None]
    sign = np.where(np.take_along_axis(xyzw, largest, axis=1) < 0, -1, 1)  # the largest is not stored: make it positive
    others = np.take_along_axis(xyzw, OTHERS[largest[:, 0]], axis=1) * sign
    magnitudes = np.minimum(np.rint(np.abs(others) * (511 * math.sqrt(2))), 511).astype(np.uint32)
    codes = magnitudes | (others < 0).astype(np.uint32) << 9
    return (largest[:, 0].astype(np.uint32) << 30 | codes[:, 0] << 20 | codes[:, 1] << 10 | codes[:, 2]).astype("<u4")


def _unpacked(packed: NDArray[np.uint32]) -> FloatArray:
    codes = packed[:, None] >> np.array([20, 10, 0], np.uint32)
    others = (codes & 511).astype(np.float32) / np.float32(511 * math.sqrt(2))
    others = np.where(codes & 512, -others, others)
    return np.roll(largest_restored(others, (packed >> 30).astype(np.intp)), 1, axis=1)


def _first_three(stored: NDArray[np.uint8]) -> FloatArray:
    """Return quaternions (N, 4) w, x, y, z from 8 bits each of x, y and z; w is positive."""
    xyz = stored.reshape(-1, 3).astype(np.float32) / np.float32(127.5) - 1
    w = np.sqrt(np.maximum(1 - (xyz**2).sum(axis=1, keepdims=True), 0))
    return np.concatenate([w, xyz], axis=1)


SPZ = FileFormat(
    "spz",
    ".spz",
    Splats,
    write=lambda splats, _: to_spz(splats),
    read=lambda data, _: from_spz(data),
    recognises=lambda data: data[:2] == _GZIP_SIGNATURE or data[:4] == _NAME,
    default=True,
)
