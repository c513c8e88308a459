"""Sums of bilinear look-ups in three feature planes on the CPU, forward and backward (Chan et al. 2022, 2112.07945).

Channels are the fastest axis of the planes, so that a look-up loads eight of them at once. In the backward pass, eight
channels of a plane have one thread, the only one that adds to them. This is bit-identical for any number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sds3d.compiled import njit
from sds3d.rendering.simd import load8, store8
from sds3d.rendering.threads import parallel

FloatArray = NDArray[np.float32]

AXES = ((0, 1), (0, 2), (1, 2))
"""Coordinates that index the rows and columns of the three planes."""

_BLOCK = 1024  # points that one thread takes at a time
_ZERO, _ONE = np.float32(0), np.float32(1)


@njit(inline="always", error_model="numpy")
def cell(place: Any, size: Any) -> Any:
    """Return the cell of a coordinate in [0, 1] between `size` samples, and the position in it."""
    scaled = min(max(place, _ZERO), _ONE) * np.float32(size - 1)
    index = min(max(np.int64(scaled), 0), size - 2)  # NaN also gives a valid cell
    return index, scaled - np.float32(index)


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "nsz", "arcp", "afn"})
def _encode(thread, n_threads, points, planes, size, channels, out):
    n = points.shape[0]
    row = size * channels
    slab = size * row
    for block in range(thread, (n + _BLOCK - 1) // _BLOCK, n_threads):
        for p in range(block * _BLOCK, min((block + 1) * _BLOCK, n)):
            ix, fx = cell(points[p, 0], size)
            iy, fy = cell(points[p, 1], size)
            iz, fz = cell(points[p, 2], size)
            ex, ey, ez = _ONE - fx, _ONE - fy, _ONE - fz
            for k in range(0, channels, 8):
                xy, xz = ix * row + iy * channels + k, slab + ix * row + iz * channels + k
                yz = 2 * slab + iy * row + iz * channels + k
                total = ex * ey * load8(planes, xy) + ex * fy * load8(planes, xy + channels)
                total = total + fx * ey * load8(planes, xy + row) + fx * fy * load8(planes, xy + row + channels)
                total = total + ex * ez * load8(planes, xz) + ex * fz * load8(planes, xz + channels)
                total = total + fx * ez * load8(planes, xz + row) + fx * fz * load8(planes, xz + row + channels)
                total = total + ey * ez * load8(planes, yz) + ey * fz * load8(planes, yz + channels)
                total = total + fy * ez * load8(planes, yz + row) + fy * fz * load8(planes, yz + row + channels)
                store8(out, p * channels + k, total)


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "nsz", "arcp", "afn"})
def _scatter(thread, n_threads, points, d_out, size, channels, gradient):
    n = points.shape[0]
    row = size * channels
    for block in range((n + _BLOCK - 1) // _BLOCK):
        for task in range(thread, 3 * (channels // 8), n_threads):
            plane, k = task % 3, 8 * (task // 3)
            u = 1 if plane == 2 else 0
            v = 1 if plane == 0 else 2
            start = plane * size * row + k
            for p in range(block * _BLOCK, min((block + 1) * _BLOCK, n)):
                iu, fu = cell(points[p, u], size)
                iv, fv = cell(points[p, v], size)
                value = load8(d_out, p * channels + k)
                far = fu * value
                near = value - far
                place = start + iu * row + iv * channels
                near_far, far_far = fv * near, fv * far
                store8(gradient, place, load8(gradient, place) + (near - near_far))
                store8(gradient, place + channels, load8(gradient, place + channels) + near_far)
                place += row
                store8(gradient, place, load8(gradient, place) + (far - far_far))
                store8(gradient, place + channels, load8(gradient, place + channels) + far_far)


def encode(points: FloatArray, planes: FloatArray) -> FloatArray:
    """Return features (P, C) float32 of points (P, 3) in the unit cube. Points outside get those of the border.

    planes: (3, N, N, C), samples on the borders of the cube, C a multiple of 8. Plane i is indexed by `AXES[i]`.
    """
    _, size, _, channels = planes.shape
    out = np.empty((len(points), channels), np.float32)
    parallel(_encode, points, planes.reshape(-1), size, channels, out.reshape(-1))
    return out


def encode_backward(points: FloatArray, d_out: FloatArray, size: int) -> FloatArray:
    """Return the gradient of the planes (3, N, N, C), given that of the features `d_out` (P, C)."""
    channels = d_out.shape[1]
    gradient = np.zeros((3, size, size, channels), np.float32)
    parallel(_scatter, points, d_out.reshape(-1), size, channels, gradient.reshape(-1))
    return gradient
