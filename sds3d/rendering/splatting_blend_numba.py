"""Splatting on the CPU, step 3 of 3: blend the Gaussians of each tile, with an analytic backward pass.

A row of a tile, eight pixels, is one vector register. Rows that a Gaussian does not touch are skipped. The backward
pass walks front to back like the forward pass, so it needs no record of where each pixel stopped.

A single thread adds each tile's gradients to the Gaussians' sums. With several threads, every (Gaussian, tile) pair has
its own slot, so that any free thread can take the next tile. The slots are then summed in the order of the tiles, which
gives bit-identical sums for any number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sds3d.compiled import njit
from sds3d.rendering.simd import (
    bits8,
    count_bits,
    exp2_8,
    iota8,
    lane8,
    load4,
    load8,
    lowest_bit,
    minus_abs8,
    next_item,
    select8,
    splat8,
    store4,
    store8,
    sums8,
)
from sds3d.rendering.splatting_tiles_numba import MIN_ALPHA, PACKED, TILE, Bins, FloatArray
from sds3d.rendering.threads import parallel, threads

MAX_ALPHA = 0.999
MIN_TRANSMITTANCE = 1e-4
"""A pixel is finished before the Gaussian that would reduce its transmittance to this."""

# Numba widens float32 times a Python literal to float64, hence named float32 constants.
_ZERO, _HALF, _ONE, _TWO = np.float32(0), np.float32(0.5), np.float32(1), np.float32(2)
_SEVEN = np.float32(7)
_MAX_ALPHA, _MIN_T = np.float32(MAX_ALPHA), np.float32(MIN_TRANSMITTANCE)
_TINY = np.float32(1e-3)  # added to an ellipse's limit, so that rounding drops no row
_FAINTEST = np.float32(np.log2(MIN_ALPHA))
_LOG2E = np.float32(np.log2(np.e))
_SLOT = 12  # floats of a gradient slot: six moments of d loss/d exponent, features 4, unused 2
_CHUNK = 16  # pairs of a tile that are blended at a time
_SHAPE = 40  # floats of a pair in a chunk: four vectors and four features
_BLOCK = 1024  # Gaussians that one thread takes at a time
_ALONE = 24000  # pairs below which a second thread costs more than it saves

_KERNEL: Any = {"nogil": True, "cache": True, "error_model": "numpy", "fastmath": {"contract", "nsz", "arcp", "afn"}}


@njit(inline="always", **_KERNEL)
def rows_touched(packed, base, x, y):
    """Return as bits the rows whose pixel centres may be in the ellipse. (x, y): offset of the tile's first pixel."""
    a, b, c = packed[base + 2], packed[base + 3], packed[base + 4]
    dy = iota8() + y
    dx = dy * packed[base + 7]  # centre of the ellipse's chord on each row, clamped to the tile below
    low, high = splat8(x), splat8(x + _SEVEN)
    dx = select8(dx < low, low, dx)
    dx = select8(dx > high, high, dx)
    reach = dx * dx * a + dx * dy * (_TWO * b) + dy * dy * c
    return bits8(reach <= packed[base + 6] + _TINY)


@njit(inline="always", **_KERNEL)
def _gather(packed, splat, first, last, before, left, top, unfinished, shapes, masks, pairs):
    """Copy a tile's pairs first to last that touch unfinished rows into a chunk's arrays.

    before: number of Gaussians of earlier cameras in `packed`. left, top: centre of the tile's first pixel.
    shapes: filled with what blending a row needs. masks: filled with the touched rows. pairs: filled with the indices.
    Returns the number of copied pairs and the total number of rows they touch.

    Blending then loops once over all rows of the chunk. A loop over the three to five rows of each pair would be
    slower: the processor mispredicts its end, and starts the rows of the next pair too late.
    """
    kept, rows = 0, 0
    for j in range(first, last):
        base, at = (before + splat[j]) * PACKED, kept * _SHAPE
        x, y = left - packed[base], top - packed[base + 1]
        touched = rows_touched(packed, base, x, y) & unfinished
        dx, dy = iota8() + x, iota8() + y
        # log2 alpha = first vector (per pixel of a row) + second * dy + last vector (one value per row).
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
    """Return as bits the rows with an unfinished pixel."""
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
    # A row: transmittance, remaining linear part of the loss, d loss/d ln(final transmittance), d loss/d features.
    state = np.empty(TILE * 56, np.float32)
    shapes, masks = np.empty((_CHUNK + 1) * _SHAPE, np.float32), np.zeros(_CHUNK + 1, np.int64)
    pairs = np.empty(_CHUNK + 1, np.int64)
    # A pair: sums over rows of d loss/d (-exponent) times 1, dy and dy^2, and of d loss/d features.
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
                # dy * dy must be rounded alike everywhere: a needle's gradients cancel, which magnifies differences.
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
                dx = iota8() + (left - packed[(c * n + splat[pairs[k]]) * PACKED])
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
    """Give each pair a slot: Gaussian by Gaussian, and within a Gaussian in the order of the tiles.

    Returns the pairs' slots (P,) and where the slots of each of the C N Gaussians begin (C N + 1,).
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
    """Sum each Gaussian's slots into its gradients. packed and the gradients are (C N, ...)."""
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
    """Return pictures (C, H, W, D) of premultiplied features, and their alpha (C, H, W, 1).

    Also records in `bins.end` where each tile was finished.
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
    """Return the gradients of means (C, N, 2), conics (C, N, 3), opacities (C, N) and features (C, N, D).

    picture, alpha: as returned by `blend`. d_picture, d_alpha: gradients of the loss in them.
    """
    cameras, n, _ = bins.packed.shape
    n_threads = _threads(bins)
    if n_threads == 1:  # tiles come in order, so one slot per Gaussian is enough
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
        _reduce, slot_start, bins.packed.reshape(-1, PACKED), slots, d_means2d.reshape(-1, 2),
        d_conics.reshape(-1, 3), d_opacities.reshape(-1), d_features.reshape(-1, bins.channels), n=n_threads,
    )  # fmt: skip
    return d_means2d, d_conics, d_opacities, d_features
