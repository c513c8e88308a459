"""How a multi-resolution hash encoding changes with the points, on the CPU: what normals of a field need.

With features f (P, 2 L) of points x and given weights g (P, 2 L), the slope is the gradient of the sum of g f by x. It
is linear in the tables and in g. Like those of `hash_numba`, results are the same for any number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sds3d.compiled import njit
from sds3d.rendering.hash_numba import FEATURES, FloatArray, cell_of, corner_indices
from sds3d.rendering.threads import parallel

_BLOCK = 1024  # points that one thread takes at a time
_ZERO, _ONE = np.float32(0), np.float32(1)
_KERNEL: dict[str, Any] = {
    "nogil": True, "cache": True, "error_model": "numpy", "fastmath": {"contract", "nsz", "arcp", "afn"},
}  # fmt: skip


@njit(inline="always", error_model="numpy")
def _inside(place: Any, cells: Any) -> Any:
    """Return the factor from cells to the unit cube's coordinate; 0 outside, where features are those of the border."""
    return np.float32(cells) if _ZERO <= place <= _ONE else _ZERO


@njit(inline="always", error_model="numpy")
def _weights_along(fx: Any, fy: Any, fz: Any, ux: Any, uy: Any, uz: Any) -> Any:
    """Return how fast the weights of the eight corners, z fastest, change along a direction."""
    ex, ey, ez = _ONE - fx, _ONE - fy, _ONE - fz
    a, b, c, d = ux * ey * ez, ux * ey * fz, ux * fy * ez, ux * fy * fz
    e, f, g, h = uy * ex * ez, uy * ex * fz, uy * fx * ez, uy * fx * fz
    i, j, k, m = uz * ex * ey, uz * ex * fy, uz * fx * ey, uz * fx * fy
    return -a - e - i, -b - f + i, -c + e - j, -d + f + j, a - g - k, b - h + k, c + g - m, d + h + m


@njit(inline="always", error_model="numpy")
def _weights_of(point: Any, direction: Any, fx: Any, fy: Any, fz: Any, cells: Any) -> Any:
    """Return how fast the weights of a point's eight corners change along a direction, both (3,)."""
    ux = direction[0] * _inside(point[0], cells)
    uy = direction[1] * _inside(point[1], cells)
    uz = direction[2] * _inside(point[2], cells)
    return _weights_along(fx, fy, fz, ux, uy, uz)


@njit(**_KERNEL)
def _slope(thread, n_threads, points, table, cells, given, out):
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
                along_x = _weights_along(fx, fy, fz, _inside(points[p, 0], resolution), _ZERO, _ZERO)
                along_y = _weights_along(fx, fy, fz, _ZERO, _inside(points[p, 1], resolution), _ZERO)
                along_z = _weights_along(fx, fy, fz, _ZERO, _ZERO, _inside(points[p, 2], resolution))
                x, y, z = _ZERO, _ZERO, _ZERO
                for k in range(8):
                    entry = np.uint64(corners[k])
                    value = values[entry, 0] * given[p, 2 * level] + values[entry, 1] * given[p, 2 * level + 1]
                    x += along_x[k] * value
                    y += along_y[k] * value
                    z += along_z[k] * value
                out[p, 0] += x
                out[p, 1] += y
                out[p, 2] += z


@njit(**_KERNEL)
def _encode_along(thread, n_threads, points, table, cells, direction, out):
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
                weights = _weights_of(points[p], direction[p], fx, fy, fz, resolution)
                first, second = _ZERO, _ZERO
                for k in range(8):
                    entry = np.uint64(corners[k])
                    first += weights[k] * values[entry, 0]
                    second += weights[k] * values[entry, 1]
                out[p, 2 * level], out[p, 2 * level + 1] = first, second


@njit(**_KERNEL)
def _scatter_along(thread, n_threads, points, given, cells, direction, gradient):
    levels, entries = gradient.shape[0], gradient.shape[1]
    mask = np.uint32(entries - 1)
    for level in range(thread, levels, n_threads):
        resolution = cells[level]
        dense = (resolution + 1) ** 3 <= entries
        values = gradient[level]
        for p in range(points.shape[0]):
            ix, fx = cell_of(points[p, 0], resolution)
            iy, fy = cell_of(points[p, 1], resolution)
            iz, fz = cell_of(points[p, 2], resolution)
            corners = corner_indices(ix, iy, iz, resolution, mask, dense)
            weights = _weights_of(points[p], direction[p], fx, fy, fz, resolution)
            first, second = given[p, 2 * level], given[p, 2 * level + 1]
            for k in range(8):
                entry = np.uint64(corners[k])
                values[entry, 0] += weights[k] * first
                values[entry, 1] += weights[k] * second


def slope(points: FloatArray, table: FloatArray, cells: NDArray[np.int64], given: FloatArray) -> FloatArray:
    """Return the slope (P, 3) float32 of points (P, 3) in the unit cube; 0 along axes outside of it.

    table: (L, T, 2). cells: (L,) as for `hash_numba.encode`. given: (P, 2 L), the weights g.
    """
    out = np.zeros((len(points), 3), np.float32)
    parallel(_slope, points, table, cells, given, out)
    return out


def slope_backward(
    points: FloatArray, table: FloatArray, cells: NDArray[np.int64], given: FloatArray, d_out: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return the gradients of the table (L, T, 2) and of `given` (P, 2 L), given that of the slope `d_out` (P, 3)."""
    d_table, d_given = np.zeros_like(table), np.empty((len(points), FEATURES * len(table)), np.float32)
    parallel(_scatter_along, points, given, cells, d_out, d_table)
    parallel(_encode_along, points, table, cells, d_out, d_given)
    return d_table, d_given
