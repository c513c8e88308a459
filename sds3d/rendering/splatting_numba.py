"""Splatting kernels on the CPU: tiles, and blending with its analytic backward.

A picture is cut into tiles of 8 x 8 pixels; a tile's row is one vector register. Each camera's Gaussians are sorted by
depth (a radix sort of the float's bits) and entered into the tiles that their ellipse alpha >= 1/255 really touches;
within a tile, rows it does not touch are skipped too. The backward walks front to back like the forward, so it needs
no record of where each pixel stopped. One thread adds a tile's gradients to the Gaussians' sums, tile after tile. With
several, every (Gaussian, tile) pair has a slot of its own, so tiles are handed to whichever thread is free; the slots
are summed in the order of the tiles, and the sums come out bit-identical.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sds3d.compiled import njit
from sds3d.rendering.simd import (
    bits8,
    ceil8,
    count_bits,
    exp2_8,
    floor8,
    iota8,
    lane8,
    load4,
    load8,
    log8,
    lowest_bit,
    max8,
    min8,
    minus_abs8,
    next_item,
    parallel,
    parallel_map,
    select8,
    splat8,
    sqrt8,
    store4,
    store8,
    sums8,
    threads,
)

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]

TILE = 8
MIN_ALPHA = 1 / 255
"""A Gaussian's opacity at a pixel below which it is left out."""
MAX_ALPHA = 0.999
MIN_TRANSMITTANCE = 1e-4
"""A pixel is finished before the Gaussian that would bring its transmittance down to this."""

# Numba widens float32 times a Python literal to float64, hence named float32 constants.
_ZERO, _HALF, _ONE, _TWO = np.float32(0), np.float32(0.5), np.float32(1), np.float32(2)
_SEVEN = np.float32(7)
_MIN_ALPHA, _MAX_ALPHA, _MIN_T = np.float32(MIN_ALPHA), np.float32(MAX_ALPHA), np.float32(MIN_TRANSMITTANCE)
_TINY = np.float32(1e-3)  # by which a row's ellipse is taken to be larger
_SLACK = np.float32(0.01)  # pixels by which an ellipse is taken to be larger, so that rounding drops no pair
_FLAT = np.float32(1e-30)  # the smallest determinant of a conic
_LIMIT = np.float32(np.log(255))  # the exponent -ln alpha at which a Gaussian ends
_FAINTEST = np.float32(np.log2(MIN_ALPHA))
_LOG2E = np.float32(np.log2(np.e))
_PACKED = 12  # floats of a packed splat: mean 2, conic 3, -ln opacity, 2 limit, -b/a, features 4
_SLOT = 12  # floats of a gradient slot: six moments of d loss/d exponent, features 4, unused 2
_NO_SHAPE = (_ZERO, _ZERO, _ZERO, _ZERO, _ZERO)
_CHUNK = 16  # pairs of a tile that are blended at a time
_SHAPE = 40  # floats of a pair in a chunk: four vectors and four features
_BLOCK = 1024
_ALONE = 24000  # pairs below which a second thread costs more than it takes over

_KERNEL: Any = {"nogil": True, "cache": True, "error_model": "numpy", "fastmath": {"contract", "nsz", "arcp", "afn"}}

# ---- tiles ----

# A packed splat's limit is twice the exponent of its ellipse: a dx^2 + 2 b dx dy + c dy^2 <= limit.


@njit(**_KERNEL)
def _sorted_by_depth(depths, visible):
    """The indices in `visible`, nearest first: a stable radix sort of positive floats by their bits."""
    n = len(visible)
    bits = depths.view(np.uint32)
    least, most = np.uint32(0xFFFFFFFF), np.uint32(0)
    for j in range(n):
        least, most = min(least, bits[visible[j]]), max(most, bits[visible[j]])
    # Key and index move as one word; 12 bits a round, and depths are so alike that two rounds are the rule.
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
    """What `_column_span` needs of an ellipse's shape, once for all its rows.

    The last is the height, from the centre, of the ellipse's rightmost point; the leftmost lies opposite.
    """
    a, b, c, limit = packed[2], packed[3], packed[4], packed[6]
    inverse = _ONE / a
    determinant = a * c - b * b
    extreme = -b * np.sqrt(limit / (c * determinant)) if determinant > _ZERO else _ZERO
    return inverse, packed[7], limit, determinant * inverse, extreme


@njit(inline="always", **_KERNEL)
def _column_span(x, y, shape, low_y, high_y, columns):
    """First and last tile column that the ellipse touches between two heights; the first is larger when none."""
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
    """First and last pixel whose centre lies within `half` of `center`, as floats."""
    last = floor8(min8(max8(center + half - _HALF, splat8(-_ONE)), splat8(np.float32(tiles * TILE - 1))))
    first = ceil8(max8(min8(center - half - _HALF, splat8(np.float32(tiles * TILE))), splat8(_ZERO)))
    return first, last


@njit(**_KERNEL)
def _pack(means2d, conics, opacities, features, rows, columns, packed, spans, visible):
    """Gather what blending needs into (N, 12) rows; list the Gaussians that reach alpha >= 1/255 at a pixel.

    spans: (N, 4) receives the first and last row and column of the tiles that frame each. Returns how many Gaussians
    are visible, and how many tiles their frames have together.
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
    """Sort and bin the Gaussians of one camera: the pairs' Gaussians, tile by tile, and where each tile's begin."""
    spans, visible = np.empty((len(depths), 4), np.int32), np.empty(len(depths), np.int32)
    count, total = _pack(means2d, conics, opacities, features, rows, columns, packed, spans, visible)
    order = _sorted_by_depth(depths, visible[:count])
    tile_start = np.zeros(rows * columns + 1, np.int64)
    splat_of, tile_of = np.empty(total, np.int32), np.empty(total, np.int32)
    n = 0
    for j in range(count):
        i = order[j]
        first_row, last_row, first, last = spans[i]
        # A small frame is taken whole; of a large one the ellipse may miss the corners.
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
    """The (Gaussian, tile) pairs of C cameras, each tile's nearest first.

    packed: (C, N, 12) what blending needs of a Gaussian. width, height: of the pictures. rows, columns: of tiles.
    channels: how many features. start, end: (C T,) each tile's pairs. splat: (P,) the Gaussian of a pair, int32.
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

    means2d: (C, N, 2) pixels. conics: (C, N, 3), a leading 0 for what is not visible. opacities: (C, N).
    features: (C, N, D), D at most 4. depths: (C, N) positive.
    """
    (cameras, n, channels), rows, columns = features.shape, -(-height // TILE), -(-width // TILE)
    packed = np.empty((cameras, n, _PACKED), np.float32)

    def camera(c: int) -> tuple[IntArray, NDArray[np.int64]]:
        return _bin(means2d[c], conics[c], opacities[c], features[c], depths[c], rows, columns, packed[c])

    binned = parallel_map(camera, cameras)
    if cameras == 1:  # nothing is moved
        splat, tile_start = binned[0]
        start, end = tile_start[:-1], tile_start[1:].copy()
    else:
        pairs = np.cumsum([0, *(len(splat) for splat, _ in binned)])
        start = np.concatenate([tile_start[:-1] + at for (_, tile_start), at in zip(binned, pairs, strict=False)])
        end = np.concatenate([tile_start[1:] + at for (_, tile_start), at in zip(binned, pairs, strict=False)])
        splat = np.concatenate([splat for splat, _ in binned])
    return Bins(packed, width, height, rows, columns, channels, start, end, splat)


# ---- blending ----


@njit(inline="always", **_KERNEL)
def _rows_touched(packed, base, x, y):
    """Bits of the tile's rows whose pixel centres may lie in the ellipse; (x, y) is the first pixel's offset."""
    a, b, c = packed[base + 2], packed[base + 3], packed[base + 4]
    dy = iota8() + y
    dx = dy * packed[base + 7]  # the ellipse's middle on a row, moved to the nearest point within the tile
    low, high = splat8(x), splat8(x + _SEVEN)
    dx = select8(dx < low, low, dx)
    dx = select8(dx > high, high, dx)
    reach = dx * dx * a + dx * dy * (_TWO * b) + dy * dy * c
    return bits8(reach <= packed[base + 6] + _TINY)


@njit(inline="always", **_KERNEL)
def _gather(packed, splat, first, last, before, left, top, unfinished, shapes, masks, pairs):
    """Of a tile's pairs from first to last, those that touch unfinished rows, into the arrays of a chunk.

    shapes: what a row's pixels need. masks: the rows touched. pairs: indices. before: packed splats of earlier cameras.
    Returns how many pairs there are, and how many rows they touch together.

    A chunk's rows are then blended in one loop over all of them: a loop for each pair, of three rows or five, would
    end where the processor does not expect it, and what the next pair touches would be known late.
    """
    kept, rows = 0, 0
    for j in range(first, last):
        base, at = (before + splat[j]) * _PACKED, kept * _SHAPE
        x, y = left - packed[base], top - packed[base + 1]
        touched = _rows_touched(packed, base, x, y) & unfinished
        dx, dy = iota8() + x, iota8() + y
        # alpha is the power of two of the first, in a row, + the second times dy + the last, one for each row.
        store8(shapes, at, dx * dx * (-_HALF * _LOG2E * packed[base + 2]) - _LOG2E * packed[base + 5])
        store8(shapes, at + 8, dx * (-_LOG2E * packed[base + 3]))
        store8(shapes, at + 16, dy)
        store8(shapes, at + 24, dy * dy * (-_HALF * _LOG2E * packed[base + 4]))
        store4(shapes, at + 32, load4(packed, base + 8))
        masks[kept], pairs[kept] = touched, j
        kept += touched != 0
        rows += count_bits(touched)
    return kept, rows


@njit(inline="always", **_KERNEL)
def _unfinished(state, stride):
    """Bits of the rows that have a pixel that is not finished."""
    rows = 0
    for row in range(TILE):
        rows |= (bits8(load8(state, row * stride) > _ZERO) != 0) << row
    return rows


@njit(**_KERNEL)
def _blend(thread, n_threads, packed, splat, start, end, n, rows, columns, counter, picture, alpha_of):
    _, height, width, channels = picture.shape
    state = np.empty(TILE * 40, np.float32)  # a row: transmittance (negative when finished), four features
    shapes, masks = np.empty((_CHUNK + 1) * _SHAPE, np.float32), np.zeros(_CHUNK + 1, np.int64)
    pairs = np.empty(_CHUNK + 1, np.int64)
    zero, most, least, faintest = splat8(_ZERO), splat8(_MAX_ALPHA), splat8(_MIN_T), splat8(_FAINTEST)
    while True:
        item = next_item(counter)
        if item >= len(start):
            return
        c, tile = item // (rows * columns), item % (rows * columns)
        tile_y, tile_x = tile // columns, tile % columns
        for k in range(0, TILE * 40, 8):
            store8(state, k, zero)
        for k in range(0, TILE * 40, 40):
            store8(state, k, splat8(_ONE))
        left, top = np.float32(tile_x * TILE) + _HALF, np.float32(tile_y * TILE) + _HALF
        j, last, unfinished = start[item], end[item], 255
        while j < last and unfinished != 0:
            until = min(j + _CHUNK, last)
            _, touches = _gather(packed, splat, j, until, c * n, left, top, unfinished, shapes, masks, pairs)
            j = until
            pair, touched = 0, masks[0]
            for _ in range(touches):
                row, shape = lowest_bit(touched), pair * _SHAPE
                at = row * 40
                power = load8(shapes, shape) + load8(shapes, shape + 8) * shapes[shape + 16 + row]
                power = power + shapes[shape + 24 + row]
                alpha = exp2_8(power)
                alpha = select8(alpha > most, most, alpha)
                before = load8(state, at)
                taken = select8(power >= faintest, before * alpha, zero)
                after = before - taken
                through = after > least
                weight = select8(through, taken, zero)
                store8(state, at, select8(through, after, minus_abs8(before)))
                store8(state, at + 8, load8(state, at + 8) + weight * shapes[shape + 32])
                store8(state, at + 16, load8(state, at + 16) + weight * shapes[shape + 33])
                store8(state, at + 24, load8(state, at + 24) + weight * shapes[shape + 34])
                store8(state, at + 32, load8(state, at + 32) + weight * shapes[shape + 35])
                touched &= touched - 1
                if touched == 0:
                    pair += 1
                    touched = masks[pair]
            unfinished = _unfinished(state, 40)
        end[item] = j
        for row in range(min(TILE, height - tile_y * TILE)):
            for k in range(min(TILE, width - tile_x * TILE)):
                y, x, at = tile_y * TILE + row, tile_x * TILE + k, row * 40 + k
                alpha_of[c, y, x, 0] = _ONE - abs(state[at])
                for channel in range(channels):
                    picture[c, y, x, channel] = state[at + 8 + 8 * channel]


@njit(**_KERNEL)
def _blend_backward(
    thread, n_threads, packed, splat, slot, slots_between, start, end, n, rows, columns, counter, picture, alpha_of,
    d_picture, d_alpha, slots,
):  # fmt: skip
    _, height, width, channels = picture.shape
    # A row: transmittance, what of the loss's linear part is left, d loss/d ln(final transmittance), d features.
    state = np.empty(TILE * 56, np.float32)
    shapes, masks = np.empty((_CHUNK + 1) * _SHAPE, np.float32), np.zeros(_CHUNK + 1, np.int64)
    pairs = np.empty(_CHUNK + 1, np.int64)
    # A pair: sums over rows of d loss/d (-exponent) times 1, dy, dy^2, and of the features' gradients.
    sums = np.empty(_CHUNK * 56, np.float32)
    zero, most, least, faintest = splat8(_ZERO), splat8(_MAX_ALPHA), splat8(_MIN_T), splat8(_FAINTEST)
    one = splat8(_ONE)
    while True:
        item = next_item(counter)
        if item >= len(start):
            return
        c, tile = item // (rows * columns), item % (rows * columns)
        tile_y, tile_x = tile // columns, tile % columns
        for k in range(0, TILE * 56, 8):
            store8(state, k, zero)
        for row in range(min(TILE, height - tile_y * TILE)):
            for k in range(min(TILE, width - tile_x * TILE)):
                y, x, at = tile_y * TILE + row, tile_x * TILE + k, row * 56 + k
                rest = _ZERO
                for channel in range(channels):
                    given = d_picture[c, y, x, channel]
                    rest += given * picture[c, y, x, channel]
                    state[at + 24 + 8 * channel] = given
                state[at], state[at + 8] = _ONE, rest
                state[at + 16] = (_ONE - alpha_of[c, y, x, 0]) * d_alpha[c, y, x, 0]
        left, top = np.float32(tile_x * TILE) + _HALF, np.float32(tile_y * TILE) + _HALF
        j, last, unfinished = start[item], end[item], 255
        while j < last and unfinished != 0:
            until = min(j + _CHUNK, last)
            kept, touches = _gather(packed, splat, j, until, c * n, left, top, unfinished, shapes, masks, pairs)
            j = until
            for k in range(0, kept * 56, 8):
                store8(sums, k, zero)
            pair, touched = 0, masks[0]
            for _ in range(touches):
                row, shape, sum_at = lowest_bit(touched), pair * _SHAPE, pair * 56
                at = row * 56
                dy = shapes[shape + 16 + row]
                power = load8(shapes, shape) + load8(shapes, shape + 8) * dy + shapes[shape + 24 + row]
                alpha = exp2_8(power)
                moves = alpha <= most
                alpha = select8(moves, alpha, most)
                before = load8(state, at)
                hit = power >= faintest
                taken = select8(hit, before * alpha, zero)
                after = before - taken
                through = after > least
                weight = select8(through, taken, zero)
                store8(state, at, select8(through, after, minus_abs8(before)))
                h0, h1 = load8(state, at + 24), load8(state, at + 32)
                h2, h3 = load8(state, at + 40), load8(state, at + 48)
                value = h0 * shapes[shape + 32] + h1 * shapes[shape + 33]
                value = value + h2 * shapes[shape + 34] + h3 * shapes[shape + 35]
                rest = load8(state, at + 8) - weight * value
                store8(state, at + 8, rest)
                slope = weight * value + (load8(state, at + 16) - rest) * alpha / (one - alpha)
                slope = select8(hit & through & moves, slope, zero)
                # dy * dy rounded alike for all: a needle's gradients cancel, and magnify what differs.
                store8(sums, sum_at, load8(sums, sum_at) + slope)
                store8(sums, sum_at + 8, load8(sums, sum_at + 8) + slope * dy)
                store8(sums, sum_at + 16, load8(sums, sum_at + 16) + slope * (dy * dy))
                store8(sums, sum_at + 24, load8(sums, sum_at + 24) + weight * h0)
                store8(sums, sum_at + 32, load8(sums, sum_at + 32) + weight * h1)
                store8(sums, sum_at + 40, load8(sums, sum_at + 40) + weight * h2)
                store8(sums, sum_at + 48, load8(sums, sum_at + 48) + weight * h3)
                touched &= touched - 1
                if touched == 0:
                    pair += 1
                    touched = masks[pair]
            for k in range(kept):
                dx = iota8() + (left - packed[(c * n + splat[pairs[k]]) * _PACKED])
                g, gy, gyy = load8(sums, k * 56), load8(sums, k * 56 + 8), load8(sums, k * 56 + 16)
                gx, gxy = g * dx, gy * dx
                e0, e1, e2 = load8(sums, k * 56 + 24), load8(sums, k * 56 + 32), load8(sums, k * 56 + 40)
                at = (slot[pairs[k]] + c * slots_between) * _SLOT
                store8(slots, at, load8(slots, at) + sums8(g, gx, gy, gx * dx, gxy, gyy, e0, e1))
                high = sums8(e2, load8(sums, k * 56 + 48), zero, zero, zero, zero, zero, zero)
                store4(slots, at + 8, load4(slots, at + 8) + high)
            unfinished = _unfinished(state, 56)


@njit(**_KERNEL)
def _slots(splat, start, end, n, cameras):
    """Of each pair its slot, the Gaussians' slots one after the other and each in the order of the tiles.

    Returns the slots (P,) and where those of each of the C N Gaussians begin (C N + 1,).
    """
    tiles = len(start) // cameras
    slot_start = np.zeros(cameras * n + 1, np.int64)
    slot = np.empty(len(splat), np.int32)
    for item in range(len(start)):
        for j in range(start[item], end[item]):
            slot_start[item // tiles * n + splat[j] + 1] += 1
    for i in range(cameras * n):
        slot_start[i + 1] += slot_start[i]
    place = slot_start[:-1].copy()
    for item in range(len(start)):
        for j in range(start[item], end[item]):
            i = item // tiles * n + splat[j]
            slot[j] = place[i]
            place[i] += 1
    return slot, slot_start


@njit(**_KERNEL)
def _reduce(thread, n_threads, slot_start, packed, slots, d_means2d, d_conics, d_opacities, d_features):
    """Sum each Gaussian's slots into gradients of what was splatted; packed and gradients are (C N, ...)."""
    n, channels = d_features.shape
    for block in range(thread, (n + _BLOCK - 1) // _BLOCK, n_threads):
        for i in range(block * _BLOCK, min((block + 1) * _BLOCK, n)):
            low, high = splat8(_ZERO), splat8(_ZERO)
            for k in range(slot_start[i], slot_start[i + 1]):
                low, high = low + load8(slots, k * _SLOT), high + load4(slots, k * _SLOT + 8)
            a, b, c = packed[i, 2], packed[i, 3], packed[i, 4]
            gx, gy = lane8(low, 1), lane8(low, 2)
            d_means2d[i, 0], d_means2d[i, 1] = a * gx + b * gy, b * gx + c * gy
            d_conics[i, 0], d_conics[i, 1] = -_HALF * lane8(low, 3), -lane8(low, 4)
            d_conics[i, 2] = -_HALF * lane8(low, 5)
            d_opacities[i] = lane8(low, 0) * np.exp(packed[i, 5])
            features = lane8(low, 6), lane8(low, 7), lane8(high, 0), lane8(high, 1)
            for channel in range(channels):
                d_features[i, channel] = features[channel]


def _threads(bins: Bins) -> int:
    return 1 if len(bins.splat) < _ALONE else threads()


def blend(bins: Bins) -> tuple[FloatArray, FloatArray]:
    """Pictures of C cameras (C, H, W, D), premultiplied features, and their alpha (C, H, W, 1).

    `bins` learns where each tile was finished.
    """
    cameras, n, _ = bins.packed.shape
    picture = np.empty((cameras, bins.height, bins.width, bins.channels), np.float32)
    alpha = np.empty((cameras, bins.height, bins.width, 1), np.float32)
    parallel(
        _blend, bins.packed.reshape(-1), bins.splat, bins.start, bins.end, n, bins.rows, bins.columns,
        np.zeros(1, np.int64), picture, alpha, n=_threads(bins),
    )  # fmt: skip
    return picture, alpha


def blend_backward(
    bins: Bins, picture: FloatArray, alpha: FloatArray, d_picture: FloatArray, d_alpha: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Gradients (C, N, 2) of the means, (C, N, 3) of the conics, (C, N) of opacities, (C, N, D) of features.

    picture, alpha: what `blend` returned. d_picture, d_alpha: the loss's gradients of them.
    """
    cameras, n, _ = bins.packed.shape
    n_threads = _threads(bins)
    if n_threads == 1:  # a Gaussian's tiles come in order, one slot takes them all
        slot, slots_between, slot_start = bins.splat, n, np.arange(cameras * n + 1)
    else:
        slot, slot_start = _slots(bins.splat, bins.start, bins.end, n, cameras)
        slots_between = 0
    slots = np.zeros(slot_start[-1] * _SLOT, np.float32)
    parallel(
        _blend_backward, bins.packed.reshape(-1), bins.splat, slot, slots_between, bins.start, bins.end, n, bins.rows,
        bins.columns, np.zeros(1, np.int64), picture, alpha, d_picture, d_alpha, slots, n=n_threads,
    )  # fmt: skip
    d_means2d, d_conics = np.empty((cameras, n, 2), np.float32), np.empty((cameras, n, 3), np.float32)
    d_opacities, d_features = np.empty((cameras, n), np.float32), np.empty((cameras, n, bins.channels), np.float32)
    parallel(
        _reduce, slot_start, bins.packed.reshape(-1, _PACKED), slots, d_means2d.reshape(-1, 2),
        d_conics.reshape(-1, 3), d_opacities.reshape(-1), d_features.reshape(-1, bins.channels), n=n_threads,
    )  # fmt: skip
    return d_means2d, d_conics, d_opacities, d_features
