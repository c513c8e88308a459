"""Niantic's .spz (https://github.com/nianticlabs/spz), version 3: about a tenth of a PLY.

Frame: the world frame as it is. The format's axes are x right, y up, z back, which is the same.
Layout: gzip of a 16-byte header (`NGSP`, version, number, degree, fraction bits, flags, 0; little endian), followed by
one array after another: centres (3 x 24 bits, fixed point), opacities (8 bits), colours (3 x 8 bits), scales (3 x 8
bits, logarithm in sixteenths), rotations (32 bits: which of x, y, z, w is largest, and the other three as sign and
9-bit magnitude), then the harmonics above the constant one (8 bits each, r, g, b next to each other).
"""

from __future__ import annotations

import math
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from sds3d.formats.base import FileFormat, valid_gaussians
from sds3d.geometry.mesh import FloatArray
from sds3d.geometry.splats import Splats

_NAME = b"NGSP"
_GZIP_SIGNATURE = b"\x1f\x8b"
_HEADER = struct.Struct("<4sIIBBBB")
_GZIP = 31  # zlib's number for a gzip header and trailer
_FRACTION_BITS = 16  # 15 micrometres, up to 128 m from the origin
_COLOR_SCALE = 0.15  # colours are 0.5 + 0.15 f_dc, in 1/255: they may exceed [0, 1] a little
_HAS_EXTENSIONS = 2
_OTHERS = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])  # components other than the largest one


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
    """Return the Gaussians of a .spz file of version 3 without extensions, of ours or of another program.

    Raises ValueError, in one line, if data is truncated or not such a file.
    """
    if data[:4] == _NAME:
        raise ValueError("this .spz has version 4 or later, but only version 3 can be read: convert it")
    if data[:2] != _GZIP_SIGNATURE:
        raise ValueError("this is not a .spz file: it must begin with gzip's 1f 8b")
    decompressor = zlib.decompressobj(wbits=_GZIP)
    try:
        header = decompressor.decompress(data, _HEADER.size)
        if len(header) < _HEADER.size:
            raise ValueError("the .spz is truncated: its header is not complete")
        magic, version, count, degree, bits, flags, _ = _HEADER.unpack(header)
        if magic != _NAME:
            raise ValueError("this is not a .spz file: NGSP is missing at its beginning")
        if version != 3 or degree > 3 or bits > 23 or flags & _HAS_EXTENSIONS:
            raise ValueError(
                "a .spz of version 3 and degree 0 to 3 without extensions can be read, this one has "
                f"version {version}, degree {degree} and flags {flags}"
            )
        rest = (degree + 1) ** 2 - 1
        sizes = [9 * count, count, 3 * count, 3 * count, 4 * count, 3 * rest * count]
        body = decompressor.decompress(decompressor.unconsumed_tail, sum(sizes) + 1)
    except zlib.error as error:
        raise ValueError(f"the .spz is damaged: {error}") from None
    if len(body) != sum(sizes) or not decompressor.eof:
        raise ValueError(f"the .spz is truncated or damaged: it promises {sum(sizes)} bytes of Gaussians")
    ends = np.cumsum(sizes)
    arrays = (np.frombuffer(body, np.uint8, size, end - size) for size, end in zip(sizes, ends, strict=True))
    centres, opacities, colors, scales, rotations, harmonics = arrays
    wide = np.zeros((3 * count, 4), np.uint8)
    wide[:, 1:] = centres.reshape(-1, 3)
    means = (wide.view("<i4").reshape(count, 3) >> 8).astype(np.float32) / 2**bits  # the shift keeps the sign
    sh = np.empty((count, 1 + rest, 3), np.float32)
    sh[:, 0] = (np.divide(colors.reshape(count, 3), 255, dtype=np.float32) - 0.5) / _COLOR_SCALE
    sh[:, 1:] = np.divide(harmonics.reshape(count, rest, 3), 128, dtype=np.float32) - 1
    return valid_gaussians(
        Splats(
            means,
            _unpacked(rotations.view("<u4")),
            np.exp(np.divide(scales.reshape(count, 3), 16, dtype=np.float32) - 10),
            np.divide(opacities, 255, dtype=np.float32),
            sh,
        )
    )


def _bytes(values: FloatArray) -> bytes:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8).tobytes()


def _packed(quats: FloatArray) -> NDArray[np.uint32]:
    """Return 32 bits (N,) for each quaternion (N, 4) w, x, y, z."""
    xyzw = np.roll(quats, -1, axis=1)
    largest = np.abs(xyzw).argmax(axis=1)[:, None]
    sign = np.where(np.take_along_axis(xyzw, largest, axis=1) < 0, -1, 1)  # the largest is not stored: make it positive
    others = np.take_along_axis(xyzw, _OTHERS[largest[:, 0]], axis=1) * sign
    magnitudes = np.minimum(np.rint(np.abs(others) * (511 * math.sqrt(2))), 511).astype(np.uint32)
    codes = magnitudes | (others < 0).astype(np.uint32) << 9
    return (largest[:, 0].astype(np.uint32) << 30 | codes[:, 0] << 20 | codes[:, 1] << 10 | codes[:, 2]).astype("<u4")


def _unpacked(packed: NDArray[np.uint32]) -> FloatArray:
    codes = packed[:, None] >> np.array([20, 10, 0], np.uint32)
    others = (codes & 511).astype(np.float32) / np.float32(511 * math.sqrt(2))
    others = np.where(codes & 512, -others, others)
    largest = (packed >> 30).astype(np.intp)[:, None]
    xyzw = np.empty((len(packed), 4), np.float32)
    np.put_along_axis(xyzw, _OTHERS[largest[:, 0]], others, axis=1)
    np.put_along_axis(xyzw, largest, np.sqrt(np.maximum(1 - (others**2).sum(axis=1, keepdims=True), 0)), axis=1)
    return np.roll(xyzw, 1, axis=1)


SPZ = FileFormat(
    "spz",
    ".spz",
    Splats,
    write=lambda splats, _: to_spz(splats),
    read=lambda data, _: from_spz(data),
    recognises=lambda data: data[:2] == _GZIP_SIGNATURE or data[:4] == _NAME,
    default=True,
)
