"""Products of plane and line look-ups on the CPU, forward and backward ("TensoRF", Chen et al. 2022, 2203.09517).

Memory and threads are as in `triplane_numba`: in the backward pass, eight channels of a plane and of its line have one
thread, the only one that adds to them. This is bit-identical for any number of threads.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sds3d.compiled import njit
from sds3d.rendering.simd import load8, store8
from sds3d.rendering.threads import parallel
from sds3d.rendering.triplane_numba import cell

FloatArray = NDArray[np.float32]

_BLOCK = 1024  # points that one thread takes at a time
_ONE = np.float32(1)


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "nsz", "arcp", "afn"})
def _encode(thread, n_threads, points, planes, lines, size, channels, out):
    n = points.shape[0]
    row = size * channels
    for block in range(thread, (n + _BLOCK - 1) // _BLOCK, n_threads):
        for p in range(block * _BLOCK, min((block + 1) * _BLOCK, n)):
            for plane in range(3):
                u = 1 if plane == 2 else 0
                v = 1 if plane == 0 else 2
                iu, fu = cell(points[p, u], size)
                iv, fv = cell(points[p, v], size)
                iw, fw = cell(points[p, 2 - plane], size)
                eu, ev, ew = _ONE - fu, _ONE - fv, _ONE - fw
                place, along = (plane * size + iu) * row + iv * channels, plane * row + iw * channels
                for k in range(0, channels, 8):
                    a, b = place + k, place + k + row
                    wide = eu * ev * load8(planes, a) + eu * fv * load8(planes, a + channels)
                    wide = wide + fu * ev * load8(planes, b) + fu * fv * load8(planes, b + channels)
                    long = ew * load8(lines, along + k) + fw * load8(lines, along + k + channels)
                    store8(out, (3 * p + plane) * channels + k, wide * long)


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "nsz", "arcp", "afn"})
def _scatter(thread, n_threads, points, planes, lines, d_out, size, channels, d_planes, d_lines):
    n = points.shape[0]
    row = size * channels
    for block in range((n + _BLOCK - 1) // _BLOCK):
        for task in range(thread, 3 * (channels // 8), n_threads):
            plane, k = task % 3, 8 * (task // 3)
            u = 1 if plane == 2 else 0
            v = 1 if plane == 0 else 2
            for p in range(block * _BLOCK, min((block + 1) * _BLOCK, n)):
                iu, fu = cell(points[p, u], size)
                iv, fv = cell(points[p, v], size)
                iw, fw = cell(points[p, 2 - plane], size)
                eu, ev, ew = _ONE - fu, _ONE - fv, _ONE - fw
                a = (plane * size + iu) * row + iv * channels + k
                b, c, along = a + channels, a + row, plane * row + iw * channels + k
                d = c + channels
                given = load8(d_out, (3 * p + plane) * channels + k)
                wide = eu * ev * load8(planes, a) + eu * fv * load8(planes, b)
                wide = (wide + fu * ev * load8(planes, c) + fu * fv * load8(planes, d)) * given
                store8(d_lines, along, load8(d_lines, along) + ew * wide)
                store8(d_lines, along + channels, load8(d_lines, along + channels) + fw * wide)
                long = (ew * load8(lines, along) + fw * load8(lines, along + channels)) * given
                store8(d_planes, a, load8(d_planes, a) + eu * ev * long)
                store8(d_planes, b, load8(d_planes, b) + eu * fv * long)
                store8(d_planes, c, load8(d_planes, c) + fu * ev * long)
                store8(d_planes, d, load8(d_planes, d) + fu * fv * long)


def encode(points: FloatArray, planes: FloatArray, lines: FloatArray) -> FloatArray:
    """Return products (P, 3, C) float32 at points (P, 3) in the unit cube. Points outside get those of the border.

    planes: (3, N, N, C), samples on the borders of the cube, C a multiple of 8. Plane i is indexed by
    `triplane_numba.AXES[i]`. lines: (3, N, C) along the remaining axes z, y and x.
    """
    _, size, _, channels = planes.shape
    out = np.empty((len(points), 3, channels), np.float32)
    parallel(_encode, points, planes.reshape(-1), lines.reshape(-1), size, channels, out.reshape(-1))
    return out


def encode_backward(
    points: FloatArray, planes: FloatArray, lines: FloatArray, d_out: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return the gradients of planes and lines, given that of the products, `d_out` (P, 3, C)."""
    _, size, _, channels = planes.shape
    d_planes, d_lines = np.zeros_like(planes), np.zeros_like(lines)
    flat = [array.reshape(-1) for array in (planes, lines, d_out)]
    parallel(_scatter, points, *flat, size, channels, d_planes.reshape(-1), d_lines.reshape(-1))
    return d_planes, d_lines
