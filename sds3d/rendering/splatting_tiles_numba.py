"""Splatting on the CPU, step 2 of 3: list which Gaussians touch which tile of 8 x 8 pixels, nearest first.

Each camera's Gaussians are sorted by depth (a radix sort of the floats' bits) and entered into exactly those tiles
that their ellipse alpha >= 1/255 touches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sds3d.compiled import njit
from sds3d.rendering.simd import bits8, ceil8, floor8, load8, log8, max8, min8, select8, splat8, sqrt8, store8
from sds3d.rendering.threads import parallel_map

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]

TILE = 8
MIN_ALPHA = 1 / 255
"""A Gaussian is left out at a pixel where its alpha is below this."""
PACKED = 12
"""Floats of a packed Gaussian: mean 2, conic 3, -ln opacity, limit, -b/a, features 4.

The limit is twice the exponent of the Gaussian's ellipse: a dx^2 + 2 b dx dy + c dy^2 <= limit.
"""

# Numba widens float32 times a Python literal to float64, hence named float32 constants.
_ZERO, _HALF, _ONE, _TWO = np.float32(0), np.float32(0.5), np.float32(1), np.float32(2)
_SEVEN = np.float32(7)
_MIN_ALPHA = np.float32(MIN_ALPHA)
_SLACK = np.float32(0.01)  # pixels by which ellipses are enlarged, so that rounding drops no pair
_FLAT = np.float32(1e-30)  # the smallest determinant of a conic
_LIMIT = np.float32(np.log(255))  # the exponent -ln alpha at which a Gaussian ends
_NO_SHAPE = (_ZERO, _ZERO, _ZERO, _ZERO, _ZERO)

_KERNEL: Any = {"nogil": True, "cache": True, "error_model": "numpy", "fastmath": {"contract", "nsz", "arcp", "afn"}}


@njit(**_KERNEL)
def _sorted_by_depth(depths, visible):
    """Return the indices in `visible`, nearest first: a stable radix sort of positive floats by their bits."""
    n = len(visible)
    bits = depths.view(np.uint32)
    least, most = np.uint32(0xFFFFFFFF), np.uint32(0)
    for j in range(n):
        least, most = min(least, bits[visible[j]]), max(most, bits[visible[j]])
    # Key and index move as one word. A round sorts by 12 bits; depths are so similar that two rounds usually suffice.
    words, other = np.empty(n, np.uint64), np.empty(n, np.uint64)
    for j in range(n):
        words[j] = np.uint64(bits[visible[j]] - least) << np.uint64(32) | np.uint64(visible[j])
    counts = np.empty(4096, np.int32)
    shift = 32
    while shift < 64 and np.uint64(most - least) >> np.uint64(shift - 32) > 0:
        counts[:] = 0
        for j in range(n):
            counts[words[j] >> np.uint64(shift) & np.uint64(4095)] += 1
        total = 0
        for k in range(4096):
            counts[k], total = total, total + counts[k]
        for j in range(n):
            k = words[j] >> np.uint64(shift) & np.uint64(4095)
            other[counts[k]] = words[j]
            counts[k] += 1
        words, other = other, words
        shift += 12
    order = np.empty(n, np.int32)
    for j in range(n):
        order[j] = np.int32(words[j] & np.uint64(0xFFFFFFFF))
    return order


@njit(inline="always", **_KERNEL)
def _ellipse(packed):
    """Return the numbers that `_column_span` needs about an ellipse's shape, computed once for all its rows.

    The last value is the height of the ellipse's rightmost point above its centre. The leftmost point is opposite.
    """
    a, b, c, limit = packed[2], packed[3], packed[4], packed[6]
    inverse = _ONE / a
    determinant = a * c - b * b
    extreme = -b * np.sqrt(limit / (c * determinant)) if determinant > _ZERO else _ZERO
    return inverse, packed[7], limit, determinant * inverse, extreme


@njit(inline="always", **_KERNEL)
def _column_span(x, y, shape, low_y, high_y, columns):
    """Return the first and last tile column that the ellipse touches between two heights; first > last if none."""
    inverse, lean, limit, steepness, extreme = shape
    low_y, high_y = low_y - y, high_y - y
    right_y, left_y = min(max(extreme, low_y), high_y), min(max(-extreme, low_y), high_y)
    right_half = np.sqrt(max((limit - steepness * right_y * right_y) * inverse, _ZERO))
    left_half = np.sqrt(max((limit - steepness * left_y * left_y) * inverse, _ZERO))
    right = x + lean * right_y + right_half + _SLACK - _HALF
    left = x + lean * left_y - left_half - _SLACK - _HALF
    last = np.int64(np.floor(min(max(right, -_ONE), np.float32(columns * TILE - 1))))
    first = np.int64(np.ceil(max(min(left, np.float32(columns * TILE)), _ZERO)))
    return first >> 3, last >> 3 if last >= first else (first >> 3) - 1


@njit(inline="always", **_KERNEL)
def _pixel_span(center, half, tiles):
    """Return the first and last pixel whose centre is within `half` of `center`, as floats."""
    last = floor8(min8(max8(center + half - _HALF, splat8(-_ONE)), splat8(np.float32(tiles * TILE - 1))))
    first = ceil8(max8(min8(center - half - _HALF, splat8(np.float32(tiles * TILE))), splat8(_ZERO)))
    return first, last


@njit(**_KERNEL)
def _pack(means2d, conics, opacities, features, rows, columns, packed, spans, visible):
    """Gather what blending needs into rows (N, 12) and list the Gaussians that reach alpha >= 1/255 at a pixel.

    spans: (N, 4), filled with the first and last row and column of tiles in each Gaussian's bounding box.
    visible: (N,), filled with the indices of the listed Gaussians.
    Returns the number of listed Gaussians and the number of tiles in all their bounding boxes.
    """
    n, channels = features.shape
    zero, count, total = splat8(_ZERO), 0, 0
    lanes = np.zeros(96, np.float32)  # twelve vectors
    for i in range(0, n, 8):
        width = min(8, n - i)
        for lane in range(width):
            lanes[lane], lanes[8 + lane] = means2d[i + lane, 0], means2d[i + lane, 1]
            lanes[16 + lane], lanes[24 + lane] = conics[i + lane, 0], conics[i + lane, 1]
            lanes[32 + lane], lanes[40 + lane] = conics[i + lane, 2], opacities[i + lane]
        a, b, c, opacity = load8(lanes, 16), load8(lanes, 24), load8(lanes, 32), load8(lanes, 40)
        drawn = (a > _ZERO) & (opacity >= _MIN_ALPHA)
        faintness = select8(drawn, zero - log8(opacity), zero)
        limit = max8((_LIMIT - faintness) * _TWO, zero)
        scale = limit / max8(a * c - b * b, splat8(_FLAT))
        first_row, last_row = _pixel_span(load8(lanes, 8), sqrt8(scale * a) + _SLACK, rows)
        first_column, last_column = _pixel_span(load8(lanes, 0), sqrt8(scale * c) + _SLACK, columns)
        on_a_pixel = bits8(drawn & (first_row <= last_row) & (first_column <= last_column))
        store8(lanes, 40, faintness)
        store8(lanes, 48, limit)
        store8(lanes, 56, select8(drawn, (zero - b) / a, zero))
        store8(lanes, 64, first_row)
        store8(lanes, 72, last_row)
        store8(lanes, 80, first_column)
        store8(lanes, 88, last_column)
        for lane in range(width):
            row = packed[i + lane]
            for k in range(8):
                row[k] = lanes[8 * k + lane]
            for k in range(4):
                row[8 + k] = features[i + lane, k] if k < channels else _ZERO
            if on_a_pixel >> lane & 1:
                span = spans[i + lane]
                span[0], span[1] = np.int32(lanes[64 + lane]) >> 3, np.int32(lanes[72 + lane]) >> 3
                span[2], span[3] = np.int32(lanes[80 + lane]) >> 3, np.int32(lanes[88 + lane]) >> 3
                total += (span[1] - span[0] + 1) * (span[3] - span[2] + 1)
                visible[count] = i + lane
                count += 1
    return count, total


@njit(**_KERNEL)
def _bin(means2d, conics, opacities, features, depths, rows, columns, packed):
    """Bin the Gaussians of one camera. Returns the Gaussian of each pair, tile by tile, and where each tile begins."""
    spans, visible = np.empty((len(depths), 4), np.int32), np.empty(len(depths), np.int32)
    count, total = _pack(means2d, conics, opacities, features, rows, columns, packed, spans, visible)
    order = _sorted_by_depth(depths, visible[:count])
    tile_start = np.zeros(rows * columns + 1, np.int64)
    splat_of, tile_of = np.empty(total, np.int32), np.empty(total, np.int32)
    n = 0
    for j in range(count):
        i = order[j]
        first_row, last_row, first, last = spans[i]
        # A small bounding box is taken whole. In a large one the ellipse may miss the corners.
        cornered = (last_row - first_row + 1) * (last - first + 1) > 4
        shape = _ellipse(packed[i]) if cornered else _NO_SHAPE
        for tile_y in range(first_row, last_row + 1):
            if cornered:
                low = np.float32(tile_y * TILE) + _HALF
                first, last = _column_span(packed[i, 0], packed[i, 1], shape, low, low + _SEVEN, columns)
            for tile in range(tile_y * columns + first, tile_y * columns + last + 1):
                splat_of[n], tile_of[n] = i, tile
                tile_start[tile + 1] += 1
                n += 1
    for k in range(rows * columns):
        tile_start[k + 1] += tile_start[k]
    place = tile_start[:-1].copy()
    splat = np.empty(n, np.int32)
    for k in range(n):
        tile = tile_of[k]
        splat[place[tile]] = splat_of[k]
        place[tile] += 1
    return splat, tile_start


@dataclass(frozen=True)
class Bins:
    """The (Gaussian, tile) pairs of C cameras with T tiles each; within a tile, nearest first.

    packed: (C, N, 12), what blending needs of each Gaussian. width, height: pixels. rows, columns: tiles.
    channels: number of features. start, end: (C T,), the range of each tile's pairs. splat: (P,) int32, the Gaussian of
    each pair.
    """

    packed: FloatArray
    width: int
    height: int
    rows: int
    columns: int
    channels: int
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    splat: IntArray


def bin_splats(
    means2d: FloatArray,
    conics: FloatArray,
    opacities: FloatArray,
    features: FloatArray,
    depths: FloatArray,
    width: int,
    height: int,
) -> Bins:
    """Enter the Gaussians of C cameras into tiles.

    means2d: (C, N, 2) pixels. conics: (C, N, 3), the first entry 0 for Gaussians that are not visible.
    opacities: (C, N). features: (C, N, D), D at most 4. depths: (C, N), positive.
    """
    (cameras, n, channels), rows, columns = features.shape, -(-height // TILE), -(-width // TILE)
    packed = np.empty((cameras, n, PACKED), np.float32)

    def camera(c: int) -> tuple[IntArray, NDArray[np.int64]]:
        return _bin(means2d[c], conics[c], opacities[c], features[c], depths[c], rows, columns, packed[c])

    binned = parallel_map(camera, cameras)
    if cameras == 1:  # no copies needed
        splat, tile_start = binned[0]
        start, end = tile_start[:-1], tile_start[1:].copy()
    else:
        pairs = np.cumsum([0, *(len(splat) for splat, _ in binned)])
        start = np.concatenate([tile_start[:-1] + at for (_, tile_start), at in zip(binned, pairs, strict=False)])
        end = np.concatenate([tile_start[1:] + at for (_, tile_start), at in zip(binned, pairs, strict=False)])
        splat = np.concatenate([splat for splat, _ in binned])
    return Bins(packed, width, height, rows, columns, channels, start, end, splat)
