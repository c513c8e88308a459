"""Multi-resolution hash encoding on the CPU, forward and backward (Mueller et al. 2022, arXiv:2201.05989, section 3).

In the forward pass, threads take blocks of points. In the backward pass, each level has one thread, the only one that
adds to its table. This needs neither atomics nor copies and is bit-identical for any number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sds3d.compiled import njit
from sds3d.rendering.threads import parallel

FloatArray = NDArray[np.float32]

FEATURES = 2
"""Features per entry of a table: best according to the paper, and a single 64-bit access."""
PRIMES = (1, 2654435761, 805459861)

_P1, _P2 = np.uint32(PRIMES[1]), np.uint32(PRIMES[2])
_BLOCK = 1024  # points that one thread takes at a time, for all levels, so that their output stays in the cache
_ZERO, _ONE = np.float32(0), np.float32(1)


@njit(inline="always", error_model="numpy")
def cell_of(place: Any, cells: Any) -> Any:
    """Return the cell of a coordinate in [0, 1], and the position in it."""
    scaled = min(max(place, _ZERO), _ONE) * np.float32(cells)
    index = min(max(np.int64(scaled), 0), cells - 1)  # NaN also gives a valid cell
    return np.uint32(index), scaled - np.float32(index)


@njit(inline="always", error_model="numpy")
def corner_indices(ix: Any, iy: Any, iz: Any, cells: Any, mask: Any, dense: Any) -> Any:
    """Return the table entries of a cell's eight corners, z fastest."""
    if dense:
        row = np.uint32(cells + 1)
        i00 = (ix * row + iy) * row + iz
        i01 = i00 + row
        i10 = i00 + row * row
        i11 = i10 + row
        one = np.uint32(1)
        return i00, i00 + one, i01, i01 + one, i10, i10 + one, i11, i11 + one
    one = np.uint32(1)
    x0, x1 = ix, ix + one
    y0 = iy * _P1
    z0 = iz * _P2
    y1, z1 = y0 + _P1, z0 + _P2
    a, b, c, d = x0 ^ y0, x0 ^ y1, x1 ^ y0, x1 ^ y1
    return (
        (a ^ z0) & mask, (a ^ z1) & mask, (b ^ z0) & mask, (b ^ z1) & mask,
        (c ^ z0) & mask, (c ^ z1) & mask, (d ^ z0) & mask, (d ^ z1) & mask,
    )  # fmt: skip


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "nsz", "arcp", "afn"})
def _encode(thread, n_threads, points, table, cells, out):
    levels, entries = table.shape[0], table.shape[1]
    n = points.shape[0]
    mask = np.uint32(entries - 1)
    for block in range(thread, (n + _BLOCK - 1) // _BLOCK, n_threads):
        for level in range(levels):
            resolution = cells[level]
            dense = (resolution + 1) ** 3 <= entries
            values = table[level]
            for p in range(block * _BLOCK, min((block + 1) * _BLOCK, n)):
                ix, fx = cell_of(points[p, 0], resolution)
                iy, fy = cell_of(points[p, 1], resolution)
                iz, fz = cell_of(points[p, 2], resolution)
                corners = corner_indices(ix, iy, iz, resolution, mask, dense)
                ex, ey, ez = _ONE - fx, _ONE - fy, _ONE - fz
                w00, w01, w10, w11 = ex * ey, ex * fy, fx * ey, fx * fy
                weights = (w00 * ez, w00 * fz, w01 * ez, w01 * fz, w10 * ez, w10 * fz, w11 * ez, w11 * fz)
                first, second = _ZERO, _ZERO
                for k in range(8):
                    entry = np.uint64(corners[k])
                    first += weights[k] * values[entry, 0]
                    second += weights[k] * values[entry, 1]
                out[p, 2 * level], out[p, 2 * level + 1] = first, second


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "nsz", "arcp", "afn"})
def _scatter(thread, n_threads, points, d_out, cells, gradient):
    levels, entries = gradient.shape[0], gradient.shape[1]
    n = points.shape[0]
    mask = np.uint32(entries - 1)
    for block in range((n + _BLOCK - 1) // _BLOCK):
        for level in range(thread, levels, n_threads):
            resolution = cells[level]
            dense = (resolution + 1) ** 3 <= entries
            values = gradient[level]
            for p in range(block * _BLOCK, min((block + 1) * _BLOCK, n)):
                ix, fx = cell_of(points[p, 0], resolution)
                iy, fy = cell_of(points[p, 1], resolution)
                iz, fz = cell_of(points[p, 2], resolution)
                corners = corner_indices(ix, iy, iz, resolution, mask, dense)
                first, second = d_out[p, 2 * level], d_out[p, 2 * level + 1]
                ex, ey, ez = _ONE - fx, _ONE - fy, _ONE - fz
                w00, w01, w10, w11 = ex * ey, ex * fy, fx * ey, fx * fy
                weights = (w00 * ez, w00 * fz, w01 * ez, w01 * fz, w10 * ez, w10 * fz, w11 * ez, w11 * fz)
                for k in range(8):
                    entry = np.uint64(corners[k])
                    values[entry, 0] += weights[k] * first
                    values[entry, 1] += weights[k] * second


def encode(points: FloatArray, table: FloatArray, cells: NDArray[np.int64]) -> FloatArray:
    """Return features (P, 2 L) float32 of points (P, 3) in the unit cube. Points outside get those of the border.

    table: (L, T, 2), T a power of two. cells: (L,), cells per side. A level is stored as a grid, x slowest, if its
    (cells + 1)^3 corners fit into the table. Otherwise a hash maps corners to shared entries.
    """
    out = np.empty((len(points), FEATURES * len(table)), np.float32)
    parallel(_encode, points, table, cells, out)
    return out


def encode_backward(points: FloatArray, d_out: FloatArray, cells: NDArray[np.int64], entries: int) -> FloatArray:
    """Return the gradient of the table (L, T, 2), given that of the features `d_out` (P, 2 L)."""
    gradient = np.zeros((len(cells), entries, FEATURES), np.float32)
    parallel(_scatter, points, d_out, cells, gradient)
    return gradient
