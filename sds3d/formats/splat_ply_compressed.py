"""PlayCanvas' compressed PLY of Gaussian splats, as splat-transform and SuperSplat write it; it is read only.

Layout: each row of element `chunk` has the limits of centre, logarithm of scales and colour of 256 Gaussians. Each row
of `vertex` has four 32-bit numbers. The centre and the scales have 11, 10 and 11 bits between these limits, the colour
and the opacity 8 bits each. The rotation has 2 bits for the index of the largest of w, x, y, z, and 10 bits for each of
the others, from -sqrt(1/2) to sqrt(1/2). Element `sh`, if any, has the harmonics `f_rest` in 8 bits each, from -4 to 4.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from sds3d.formats.ply_elements import read_header, read_rows
from sds3d.formats.splat_bits import largest_restored
from sds3d.geometry.splats import SH_C0

_CHUNK = 256


def decompressed(data: bytes) -> dict[str, NDArray]:
    """Return the columns of the ordinary layout, float32 (N,). Raises ValueError, in one line, for a damaged file."""
    chunks, rows = read_rows(data, "chunk"), read_rows(data)
    count = len(rows["packed_position"])
    chunk = np.arange(count) // _CHUNK
    if len(next(iter(chunks.values()))) * _CHUNK < count:
        raise ValueError("the compressed PLY is damaged: it has too few chunks for its Gaussians")

    def limited(name: str, fraction: NDArray[np.float32]) -> NDArray[np.float32]:
        low, high = chunks[f"min_{name}"][chunk], chunks[f"max_{name}"][chunk]
        return low * (1 - fraction) + high * fraction

    try:
        columns: dict[str, NDArray] = {}
        centres, scales = _fields(rows["packed_position"]), _fields(rows["packed_scale"])
        for i, axis in enumerate("xyz"):
            columns[axis] = limited(axis, centres[i])
            columns[f"scale_{i}"] = limited(f"scale_{axis}", scales[i])
        for i, (channel, shift) in enumerate(zip("rgb", (24, 16, 8), strict=True)):
            color = _bits(rows["packed_color"], shift, 8)
            color = limited(channel, color) if f"min_{channel}" in chunks else color
            columns[f"f_dc_{i}"] = (color - np.float32(0.5)) / np.float32(SH_C0)
        opacity = _bits(rows["packed_color"], 0, 8)
        with np.errstate(divide="ignore"):  # the logits of 0 and 1 are infinite
            columns["opacity"] = np.log(opacity / (1 - opacity))
        columns |= {f"rot_{i}": values for i, values in enumerate(_rotations(rows["packed_rotation"]).T)}
    except KeyError as error:
        raise ValueError(f"the compressed PLY is damaged: it lacks {error.args[0]}") from None
    if any(element.name == "sh" for element in read_header(data)[1]):
        harmonics = read_rows(data, "sh")
        if len(next(iter(harmonics.values()))) != count:
            raise ValueError("the compressed PLY is damaged: its harmonics are not as many as its Gaussians")
        columns |= {name: _harmonics(values) for name, values in harmonics.items()}
    return columns


def _bits(packed: NDArray[np.uint32], shift: int, width: int) -> NDArray[np.float32]:
    """Return `width` bits from `shift` on as a fraction in [0, 1]."""
    most = (1 << width) - 1
    return (packed >> np.uint32(shift) & np.uint32(most)).astype(np.float32) / np.float32(most)


def _fields(packed: NDArray[np.uint32]) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    return _bits(packed, 21, 11), _bits(packed, 11, 10), _bits(packed, 0, 11)


def _rotations(packed: NDArray[np.uint32]) -> NDArray[np.float32]:
    """Return quaternions (N, 4) w, x, y, z."""
    others = np.stack([(_bits(packed, shift, 10) - 0.5) * np.float32(math.sqrt(2)) for shift in (20, 10, 0)], axis=1)
    return largest_restored(others, (packed >> np.uint32(30)).astype(np.intp))


def _harmonics(stored: NDArray) -> NDArray[np.float32]:
    """Return harmonics from bytes. 0 and 255 are -4 and 4; the other bytes are the middles of 256 steps between."""
    fraction = np.where(stored == 0, 0, np.where(stored == 255, 1, (stored.astype(np.float32) + 0.5) / 256))
    return ((fraction - 0.5) * 8).astype(np.float32)
