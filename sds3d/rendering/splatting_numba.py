"""Splatting kernels on the CPU: projection, tiles, and blending with its analytic backward.

A picture is cut into tiles of 8 x 8 pixels; a tile's row is one vector register. Each camera's Gaussians are sorted by
depth (a radix sort of the float's bits) and entered into the tiles that their ellipse alpha >= 1/255 really touches;
within a tile, rows it does not touch are skipped too. The backward walks front to back like the forward, so it needs
no record of where each pixel stopped. Every (Gaussian, tile) pair has a slot of its own for its gradient, so tiles are
handed to whichever thread is free and the sums still come out bit-identical.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sds3d.rendering.simd import (
    bits8,
    exp_minus8,
    iota8,
    lane8,
    load4,
    load8,
    lowest_bit,
    next_item,
    parallel,
    parallel_map,
    select8,
    splat8,
    store4,
    store8,
    sums8,
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
_MARGIN = np.float32(0.15)  # part of the picture beyond its edge up to which the projection's slope follows
_LIMIT = np.float32(np.log(255))  # the exponent -ln alpha at which a Gaussian ends
_PACKED = 12  # floats of a packed splat: mean 2, conic 3, -ln opacity, 2 limit, -b/a, features 4
_SLOT = 12  # floats of a gradient slot: six moments of d loss/d exponent, features 4, unused 2
_BLOCK = 1024

_KERNEL: Any = {"nogil": True, "cache": True, "error_model": "numpy", "fastmath": {"contract", "nsz", "arcp", "afn"}}

# ---- projection ----


@njit(inline="always", **_KERNEL)
def _rotation(w, x, y, z):
    """Rows of the rotation matrix of a unit quaternion."""
    return (
        (_ONE - _TWO * (y * y + z * z), _TWO * (x * y - w * z), _TWO * (x * z + w * y)),
        (_TWO * (x * y + w * z), _ONE - _TWO * (x * x + z * z), _TWO * (y * z - w * x)),
        (_TWO * (x * z - w * y), _TWO * (y * z + w * x), _ONE - _TWO * (x * x + y * y)),
    )


@njit(inline="always", **_KERNEL)
def _dot(a, b0, b1, b2):
    return a[0] * b0 + a[1] * b1 + a[2] * b2


@njit(inline="always", **_KERNEL)
def _slope(ratio, center, focal, extent):
    """x/z or y/z as the projection's Jacobian sees it, and whether it was held at the picture's margin."""
    margin = _MARGIN * extent
    held = min(max(ratio, -(center + margin) / focal), (extent - center + margin) / focal)
    return held, held != ratio


@njit(**_KERNEL)
def _project(
    thread, n_threads, means, quats, scales, viewmats, intrinsics, size, planes, blur, radius_clip, reach,
    means2d, depths, conics, compensations, radii,
):  # fmt: skip
    width, height = np.float32(size[0]), np.float32(size[1])
    n = len(means)
    for block in range(thread, (n + _BLOCK - 1) // _BLOCK, n_threads):
        for i in range(block * _BLOCK, min((block + 1) * _BLOCK, n)):
            qw, qx, qy, qz = quats[i, 0], quats[i, 1], quats[i, 2], quats[i, 3]
            inverse = _ONE / np.sqrt(qw * qw + qx * qx + qy * qy + qz * qz)
            r0, r1, r2 = _rotation(qw * inverse, qx * inverse, qy * inverse, qz * inverse)
            for c in range(len(viewmats)):
                view = viewmats[c]
                fx, fy, cx, cy = intrinsics[c, 0], intrinsics[c, 1], intrinsics[c, 2], intrinsics[c, 3]
                x = view[0, 0] * means[i, 0] + view[0, 1] * means[i, 1] + view[0, 2] * means[i, 2] + view[0, 3]
                y = view[1, 0] * means[i, 0] + view[1, 1] * means[i, 1] + view[1, 2] * means[i, 2] + view[1, 3]
                z = view[2, 0] * means[i, 0] + view[2, 1] * means[i, 1] + view[2, 2] * means[i, 2] + view[2, 3]
                depths[c, i] = z
                radii[c, i, 0], radii[c, i, 1] = 0, 0
                means2d[c, i, 0], means2d[c, i, 1] = _ZERO, _ZERO
                conics[c, i, 0], conics[c, i, 1], conics[c, i, 2] = _ZERO, _ZERO, _ZERO
                compensations[c, i] = _ZERO
                if not planes[0] < z < planes[1]:
                    continue
                rz = _ONE / z
                tx, _ = _slope(x * rz, cx, fx, width)
                ty, _ = _slope(y * rz, cy, fy, height)
                a, b = fx * rz, fy * rz
                xx, xy, yy = _ZERO, _ZERO, _ZERO
                for k in range(3):
                    s = scales[i, k]
                    m0, m1, m2 = r0[k] * s, r1[k] * s, r2[k] * s
                    u0 = view[0, 0] * m0 + view[0, 1] * m1 + view[0, 2] * m2
                    u1 = view[1, 0] * m0 + view[1, 1] * m1 + view[1, 2] * m2
                    u2 = view[2, 0] * m0 + view[2, 1] * m1 + view[2, 2] * m2
                    p, q = a * (u0 - tx * u2), b * (u1 - ty * u2)
                    xx, xy, yy = xx + p * p, xy + p * q, yy + q * q
                sharp = xx * yy - xy * xy
                xx, yy = xx + blur, yy + blur
                determinant = xx * yy - xy * xy
                if not determinant > _ZERO:
                    continue
                inverse = _ONE / determinant
                px, py = a * x + cx, b * y + cy
                rx, ry = np.ceil(reach[i] * np.sqrt(xx)), np.ceil(reach[i] * np.sqrt(yy))
                if reach[i] <= _ZERO or (rx <= radius_clip and ry <= radius_clip):
                    continue
                # Negated, so that NaN is left out as well.
                if not (px + rx > _ZERO and px - rx < width and py + ry > _ZERO and py - ry < height):
                    continue
                means2d[c, i, 0], means2d[c, i, 1] = px, py
                conics[c, i, 0], conics[c, i, 1], conics[c, i, 2] = yy * inverse, -xy * inverse, xx * inverse
                compensations[c, i] = np.sqrt(max(sharp * inverse, _ZERO))
                radii[c, i, 0], radii[c, i, 1] = np.int32(min(rx, np.float32(1e6))), np.int32(min(ry, np.float32(1e6)))


@njit(**_KERNEL)
def _project_backward(
    thread, n_threads, means, quats, scales, viewmats, intrinsics, size, blur, conics, compensations, radii,
    d_means2d, d_depths, d_conics, d_compensations, d_means, d_quats, d_scales,
):  # fmt: skip
    width, height = np.float32(size[0]), np.float32(size[1])
    n = len(means)
    for block in range(thread, (n + _BLOCK - 1) // _BLOCK, n_threads):
        for i in range(block * _BLOCK, min((block + 1) * _BLOCK, n)):
            qw, qx, qy, qz = quats[i, 0], quats[i, 1], quats[i, 2], quats[i, 3]
            norm = _ONE / np.sqrt(qw * qw + qx * qx + qy * qy + qz * qz)
            qw, qx, qy, qz = qw * norm, qx * norm, qy * norm, qz * norm
            r0, r1, r2 = _rotation(qw, qx, qy, qz)
            dx, dy, dz = _ZERO, _ZERO, _ZERO
            # Gradient of R diag(s), its columns one after the other.
            m00, m10, m20 = _ZERO, _ZERO, _ZERO
            m01, m11, m21 = _ZERO, _ZERO, _ZERO
            m02, m12, m22 = _ZERO, _ZERO, _ZERO
            for c in range(len(viewmats)):
                if radii[c, i, 0] == 0:
                    continue
                view = viewmats[c]
                fx, fy, cx, cy = intrinsics[c, 0], intrinsics[c, 1], intrinsics[c, 2], intrinsics[c, 3]
                x = view[0, 0] * means[i, 0] + view[0, 1] * means[i, 1] + view[0, 2] * means[i, 2] + view[0, 3]
                y = view[1, 0] * means[i, 0] + view[1, 1] * means[i, 1] + view[1, 2] * means[i, 2] + view[1, 3]
                z = view[2, 0] * means[i, 0] + view[2, 1] * means[i, 1] + view[2, 2] * means[i, 2] + view[2, 3]
                rz = _ONE / z
                tx, x_held = _slope(x * rz, cx, fx, width)
                ty, y_held = _slope(y * rz, cy, fy, height)
                a, b = fx * rz, fy * rz
                # d loss/d covariance = -conic (d loss/d conic) conic, with g01 for both off-diagonal entries.
                p, q, r = conics[c, i, 0], conics[c, i, 1], conics[c, i, 2]
                h0, h1, h2 = d_conics[c, i, 0], _HALF * d_conics[c, i, 1], d_conics[c, i, 2]
                e00, e01, e10, e11 = p * h0 + q * h1, p * h1 + q * h2, q * h0 + r * h1, q * h1 + r * h2
                g00, g01, g11 = -(e00 * p + e01 * q), -_TWO * (e00 * q + e01 * r), -(e10 * q + e11 * r)
                d_compensation = d_compensations[c, i]
                if d_compensation != _ZERO and compensations[c, i] > _ZERO:
                    # compensation^2 = (det of the sharp covariance) / (det of the blurred one)
                    inverse = p * r - q * q  # 1 / det blurred
                    xx, xy, yy = r / inverse, -q / inverse, p / inverse
                    ratio = compensations[c, i] * compensations[c, i]
                    h = _HALF * d_compensation / compensations[c, i] * inverse
                    g00 += h * ((yy - blur) - ratio * yy)
                    g11 += h * ((xx - blur) - ratio * xx)
                    g01 += h * _TWO * (ratio - _ONE) * xy
                da, db, dtx, dty = _ZERO, _ZERO, _ZERO, _ZERO
                for k in range(3):
                    s = scales[i, k]
                    n0, n1, n2 = r0[k] * s, r1[k] * s, r2[k] * s
                    u0 = view[0, 0] * n0 + view[0, 1] * n1 + view[0, 2] * n2
                    u1 = view[1, 0] * n0 + view[1, 1] * n1 + view[1, 2] * n2
                    u2 = view[2, 0] * n0 + view[2, 1] * n1 + view[2, 2] * n2
                    e, f = u0 - tx * u2, u1 - ty * u2
                    dp = _TWO * g00 * a * e + g01 * b * f
                    dq = _TWO * g11 * b * f + g01 * a * e
                    da, db = da + dp * e, db + dq * f
                    dtx, dty = dtx - dp * a * u2, dty - dq * b * u2
                    du0, du1, du2 = dp * a, dq * b, -(dp * a * tx + dq * b * ty)
                    w0 = view[0, 0] * du0 + view[1, 0] * du1 + view[2, 0] * du2
                    w1 = view[0, 1] * du0 + view[1, 1] * du1 + view[2, 1] * du2
                    w2 = view[0, 2] * du0 + view[1, 2] * du1 + view[2, 2] * du2
                    if k == 0:
                        m00, m10, m20 = m00 + w0, m10 + w1, m20 + w2
                    elif k == 1:
                        m01, m11, m21 = m01 + w0, m11 + w1, m21 + w2
                    else:
                        m02, m12, m22 = m02 + w0, m12 + w1, m22 + w2
                # The mean moves the picture's point and the Jacobian's slopes; held slopes do not move.
                vx, vy = a * d_means2d[c, i, 0], b * d_means2d[c, i, 1]
                vz = d_depths[c, i] - rz * (x * vx + y * vy + da * a + db * b)
                if not x_held:
                    vx += rz * dtx
                    vz -= rz * tx * dtx
                if not y_held:
                    vy += rz * dty
                    vz -= rz * ty * dty
                dx += view[0, 0] * vx + view[1, 0] * vy + view[2, 0] * vz
                dy += view[0, 1] * vx + view[1, 1] * vy + view[2, 1] * vz
                dz += view[0, 2] * vx + view[1, 2] * vy + view[2, 2] * vz
            d_means[i, 0], d_means[i, 1], d_means[i, 2] = dx, dy, dz
            d_scales[i, 0] = r0[0] * m00 + r1[0] * m10 + r2[0] * m20
            d_scales[i, 1] = r0[1] * m01 + r1[1] * m11 + r2[1] * m21
            d_scales[i, 2] = r0[2] * m02 + r1[2] * m12 + r2[2] * m22
            s0, s1, s2 = scales[i, 0], scales[i, 1], scales[i, 2]
            m00, m10, m20 = m00 * s0, m10 * s0, m20 * s0
            m01, m11, m21 = m01 * s1, m11 * s1, m21 * s1
            m02, m12, m22 = m02 * s2, m12 * s2, m22 * s2
            dw = _TWO * (qx * (m21 - m12) + qy * (m02 - m20) + qz * (m10 - m01))
            ex = _TWO * (qy * (m01 + m10) + qz * (m02 + m20) + qw * (m21 - m12) - _TWO * qx * (m11 + m22))
            ey = _TWO * (qx * (m01 + m10) + qz * (m12 + m21) + qw * (m02 - m20) - _TWO * qy * (m00 + m22))
            ez = _TWO * (qx * (m02 + m20) + qy * (m12 + m21) + qw * (m10 - m01) - _TWO * qz * (m00 + m11))
            along = dw * qw + ex * qx + ey * qy + ez * qz  # the quaternion's length does not matter
            d_quats[i, 0], d_quats[i, 1] = norm * (dw - along * qw), norm * (ex - along * qx)
            d_quats[i, 2], d_quats[i, 3] = norm * (ey - along * qy), norm * (ez - along * qz)


# ---- tiles ----

# A packed splat's limit is twice the exponent of its ellipse: a dx^2 + 2 b dx dy + c dy^2 <= limit.


@njit(**_KERNEL)
def _sorted_by_depth(depths, visible):
    """The indices in `visible`, nearest first: a stable radix sort of positive floats by their bits."""
    n = len(visible)
    keys, other_keys = np.empty(n, np.uint32), np.empty(n, np.uint32)
    order, other_order = visible.copy(), np.empty(n, np.int32)
    bits = depths.view(np.uint32)
    for j in range(n):
        keys[j] = bits[order[j]]
    counts = np.empty(2048, np.int64)
    for shift in (0, 11, 22):
        counts[:] = 0
        for j in range(n):
            counts[(keys[j] >> np.uint32(shift)) & np.uint32(2047)] += 1
        total = 0
        for k in range(2048):
            counts[k], total = total, total + counts[k]
        for j in range(n):
            k = (keys[j] >> np.uint32(shift)) & np.uint32(2047)
            other_keys[counts[k]], other_order[counts[k]] = keys[j], order[j]
            counts[k] += 1
        keys, other_keys, order, other_order = other_keys, keys, other_order, order
    return order


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
def _row_span(packed, rows):
    """First and last tile row that the ellipse touches; the first is larger when none."""
    y, a, b, c, limit = packed[1], packed[2], packed[3], packed[4], packed[6]
    half = np.sqrt(limit * a / (a * c - b * b)) + _SLACK
    last = np.int64(np.floor(min(max(y + half - _HALF, -_ONE), np.float32(rows * TILE - 1))))
    first = np.int64(np.ceil(max(min(y - half - _HALF, np.float32(rows * TILE)), _ZERO)))
    return first >> 3, last >> 3 if last >= first else (first >> 3) - 1


@njit(**_KERNEL)
def _pack(means2d, conics, opacities, features, visible, packed):
    """Gather what blending needs into (N, 12) rows and list the Gaussians that reach alpha >= 1/255 somewhere."""
    count = 0
    for i in range(len(means2d)):
        opacity = opacities[i]
        if not (conics[i, 0] > _ZERO and opacity >= _MIN_ALPHA):
            continue
        row = packed[i]
        row[0], row[1] = means2d[i, 0], means2d[i, 1]
        row[2], row[3], row[4] = conics[i, 0], conics[i, 1], conics[i, 2]
        row[5] = -np.log(opacity)
        row[6] = max(_TWO * (_LIMIT - row[5]), _ZERO)
        row[7] = -conics[i, 1] / conics[i, 0]
        row[8], row[9], row[10], row[11] = features[i, 0], features[i, 1], features[i, 2], features[i, 3]
        visible[count] = i
        count += 1
    return count


@njit(**_KERNEL)
def _bin(means2d, conics, opacities, features, depths, rows, columns, packed):
    """Sort and bin the Gaussians of one camera; returns the arrays of `Bins`, for this camera alone."""
    visible = np.empty(len(depths), np.int32)
    count = _pack(means2d, conics, opacities, features, visible, packed)
    order = _sorted_by_depth(depths, visible[:count])
    slot_start = np.zeros(count + 1, np.int64)
    tile_start = np.zeros(rows * columns + 1, np.int64)
    capacity = max(4 * count, 64)
    tile_of = np.empty(capacity, np.int32)
    n = 0
    for j in range(count):
        row = packed[order[j]]
        x, y, shape = row[0], row[1], _ellipse(row)
        first, last = _row_span(row, rows)
        for tile_y in range(first, last + 1):
            low = np.float32(tile_y * TILE) + _HALF
            start, end = _column_span(x, y, shape, low, low + _SEVEN, columns)
            if n + end - start + 1 > capacity:
                capacity = 2 * (n + end - start + 1)
                larger = np.empty(capacity, np.int32)
                larger[:n] = tile_of[:n]
                tile_of = larger
            for tile_x in range(start, end + 1):
                tile = tile_y * columns + tile_x
                tile_of[n] = tile
                tile_start[tile + 1] += 1
                n += 1
        slot_start[j + 1] = n
    for k in range(rows * columns):
        tile_start[k + 1] += tile_start[k]
    place = tile_start[:-1].copy()
    splat, slot = np.empty(n, np.int32), np.empty(n, np.int64)
    for j in range(count):
        for k in range(slot_start[j], slot_start[j + 1]):
            tile = tile_of[k]
            splat[place[tile]], slot[place[tile]] = order[j], k
            place[tile] += 1
    return splat, slot, tile_start, order, slot_start


@dataclass(frozen=True)
class Bins:
    """The (Gaussian, tile) pairs of C cameras, each tile's nearest first.

    packed: (C, N, 12) what blending needs of a Gaussian. rows, columns: of tiles. start, end: (C T,) each tile's pairs.
    splat: (P,) the Gaussian of a pair, int32. slot: (P,) the pair's place in its camera's and Gaussian's order.
    order: the visible Gaussians of each camera, nearest first. slot_start: where the slots of each begin, and the end.
    """

    packed: FloatArray
    rows: int
    columns: int
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    splat: IntArray
    slot: NDArray[np.int64]
    order: list[IntArray]
    slot_start: list[NDArray[np.int64]]


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
    features: (C, N, 4). depths: (C, N) positive.
    """
    cameras, n = opacities.shape
    rows, columns = -(-height // TILE), -(-width // TILE)
    packed = np.empty((cameras, n, _PACKED), np.float32)

    def camera(c: int) -> tuple[Any, ...]:
        return _bin(means2d[c], conics[c], opacities[c], features[c], depths[c], rows, columns, packed[c])

    binned = parallel_map(camera, cameras)
    pairs = np.cumsum([0, *(len(splat) for splat, *_ in binned)])
    if cameras > 1:  # one after the other; alone, nothing is moved
        binned = [
            (splat, slot + at, tile_start + at, order, slot_start + at)
            for (splat, slot, tile_start, order, slot_start), at in zip(binned, pairs, strict=False)
        ]
    return Bins(
        packed,
        rows,
        columns,
        np.concatenate([tile_start[:-1] for _, _, tile_start, *_ in binned]),
        np.concatenate([tile_start[1:] for _, _, tile_start, *_ in binned]),
        _joined([splat for splat, *_ in binned]),
        _joined([slot for _, slot, *_ in binned]),
        [order for *_, order, _ in binned],
        [slot_start for *_, slot_start in binned],
    )


def _joined(arrays: list[Any]) -> Any:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


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


@njit(**_KERNEL)
def _blend(thread, n_threads, packed, splat, start, end, n, rows, columns, counter, planes):
    tiles = rows * columns
    stride = rows * columns * TILE * TILE  # floats of a plane
    state = np.empty(TILE * 40, np.float32)  # a row: transmittance (negative when finished), four features
    zero, most = splat8(_ZERO), splat8(_MAX_ALPHA)
    while True:
        item = next_item(counter)
        if item >= len(start):
            return
        c, tile = item // tiles, item % tiles
        tile_y, tile_x = tile // columns, tile % columns
        for k in range(0, TILE * 40, 8):
            store8(state, k, zero)
        for k in range(0, TILE * 40, 40):
            store8(state, k, splat8(_ONE))
        left, top = np.float32(tile_x * TILE) + _HALF, np.float32(tile_y * TILE) + _HALF
        unfinished = 255
        used = end[item]
        for j in range(start[item], end[item]):
            base = (c * n + splat[j]) * _PACKED
            x, y = left - packed[base], top - packed[base + 1]
            touched = _rows_touched(packed, base, x, y) & unfinished
            if touched == 0:
                continue
            dx = iota8() + x
            half_c = _HALF * packed[base + 4]
            in_row = dx * dx * (_HALF * packed[base + 2]) + packed[base + 5]
            across = dx * packed[base + 3]
            f0, f1, f2, f3 = packed[base + 8], packed[base + 9], packed[base + 10], packed[base + 11]
            while touched != 0:
                row = lowest_bit(touched)
                touched &= touched - 1
                at = row * 40
                dy = y + np.float32(row)
                exponent = in_row + across * dy + half_c * dy * dy
                alpha = exp_minus8(exponent)
                alpha = select8(alpha > most, most, alpha)
                before = load8(state, at)
                hit = (exponent <= _LIMIT) & (before > _ZERO)
                taken = before * alpha
                through = before - taken > _MIN_T
                weight = select8(hit & through, taken, zero)
                # A difference, because a choice between old and new would become a masked store, slow on many CPUs.
                before = before - select8(hit, select8(through, taken, before + before), zero)
                store8(state, at, before)
                store8(state, at + 8, load8(state, at + 8) + weight * f0)
                store8(state, at + 16, load8(state, at + 16) + weight * f1)
                store8(state, at + 24, load8(state, at + 24) + weight * f2)
                store8(state, at + 32, load8(state, at + 32) + weight * f3)
                if bits8(before > _ZERO) == 0:
                    unfinished &= ~(1 << row)
            if unfinished == 0:
                used = j + 1
                break
        end[item] = used
        for row in range(TILE):
            at = c * 5 * stride + (tile_y * TILE + row) * columns * TILE + tile_x * TILE
            left_over = load8(state, row * 40)
            left_over = select8(left_over > _ZERO, left_over, zero - left_over)
            for k in range(4):
                store8(planes, at + k * stride, load8(state, row * 40 + 8 + 8 * k))
            store8(planes, at + 4 * stride, _ONE - left_over)


@njit(**_KERNEL)
def _blend_backward(
    thread, n_threads, packed, splat, slot, start, end, n, rows, columns, counter, planes, d_planes, slots
):
    tiles = rows * columns
    stride = rows * columns * TILE * TILE
    # A row: transmittance, what of the loss's linear part is left, d loss/d ln(final transmittance), d features.
    state = np.empty(TILE * 56, np.float32)
    zero, one, most = splat8(_ZERO), splat8(_ONE), splat8(_MAX_ALPHA)
    while True:
        item = next_item(counter)
        if item >= len(start):
            return
        c, tile = item // tiles, item % tiles
        tile_y, tile_x = tile // columns, tile % columns
        for row in range(TILE):
            at = c * 5 * stride + (tile_y * TILE + row) * columns * TILE + tile_x * TILE
            rest = zero
            for k in range(4):
                given = load8(d_planes, at + k * stride)
                rest = rest + given * load8(planes, at + k * stride)
                store8(state, row * 56 + 24 + 8 * k, given)
            store8(state, row * 56, one)
            store8(state, row * 56 + 8, rest)
            last = one - load8(planes, at + 4 * stride)
            store8(state, row * 56 + 16, last * load8(d_planes, at + 4 * stride))
        left, top = np.float32(tile_x * TILE) + _HALF, np.float32(tile_y * TILE) + _HALF
        unfinished = 255
        for j in range(start[item], end[item]):
            base = (c * n + splat[j]) * _PACKED
            x, y = left - packed[base], top - packed[base + 1]
            touched = _rows_touched(packed, base, x, y) & unfinished
            if touched == 0:
                continue
            dx = iota8() + x
            half_c = _HALF * packed[base + 4]
            in_row = dx * dx * (_HALF * packed[base + 2]) + packed[base + 5]
            across = dx * packed[base + 3]
            f0, f1, f2, f3 = packed[base + 8], packed[base + 9], packed[base + 10], packed[base + 11]
            # Sums over rows of d loss/d (-exponent) times 1, dy, dy^2, and of the features' gradients.
            g, gy, gyy, e0, e1, e2, e3 = zero, zero, zero, zero, zero, zero, zero
            while touched != 0:
                row = lowest_bit(touched)
                touched &= touched - 1
                at = row * 56
                dy = y + np.float32(row)
                exponent = in_row + across * dy + half_c * dy * dy
                alpha = exp_minus8(exponent)
                moves = alpha <= most
                alpha = select8(moves, alpha, most)
                before = load8(state, at)
                hit = (exponent <= _LIMIT) & (before > _ZERO)
                taken = before * alpha
                through = before - taken > _MIN_T
                blended = hit & through
                weight = select8(blended, taken, zero)
                before = before - select8(hit, select8(through, taken, before + before), zero)
                store8(state, at, before)
                h0, h1 = load8(state, at + 24), load8(state, at + 32)
                h2, h3 = load8(state, at + 40), load8(state, at + 48)
                value = h0 * f0 + h1 * f1 + h2 * f2 + h3 * f3
                rest = load8(state, at + 8) - weight * value
                store8(state, at + 8, rest)
                slope = weight * value + (load8(state, at + 16) - rest) * alpha / (one - alpha)
                slope = select8(blended & moves, slope, zero)
                g, gy, gyy = g + slope, gy + slope * dy, gyy + slope * (dy * dy)
                e0, e1, e2, e3 = e0 + weight * h0, e1 + weight * h1, e2 + weight * h2, e3 + weight * h3
                if bits8(before > _ZERO) == 0:
                    unfinished &= ~(1 << row)
            gx = g * dx
            at = slot[j] * _SLOT
            store8(slots, at, sums8(g, gx, gy, gx * dx, gy * dx, gyy, e0, e1))
            store4(slots, at + 8, sums8(e2, e3, zero, zero, zero, zero, zero, zero))
            if unfinished == 0:
                break


@njit(**_KERNEL)
def _reduce(thread, n_threads, order, slot_start, packed, slots, d_means2d, d_conics, d_opacities, d_features):
    """Sum each Gaussian's slots of one camera into gradients of what was splatted."""
    for block in range(thread, (len(order) + _BLOCK - 1) // _BLOCK, n_threads):
        for j in range(block * _BLOCK, min((block + 1) * _BLOCK, len(order))):
            low, high = splat8(_ZERO), splat8(_ZERO)
            for k in range(slot_start[j], slot_start[j + 1]):
                low, high = low + load8(slots, k * _SLOT), high + load4(slots, k * _SLOT + 8)
            i = order[j]
            a, b, c = packed[i, 2], packed[i, 3], packed[i, 4]
            g, gx, gy = lane8(low, 0), lane8(low, 1), lane8(low, 2)
            d_means2d[i, 0], d_means2d[i, 1] = a * gx + b * gy, b * gx + c * gy
            d_conics[i, 0], d_conics[i, 1], d_conics[i, 2] = (
                -_HALF * lane8(low, 3),
                -lane8(low, 4),
                -_HALF * lane8(low, 5),
            )
            d_opacities[i] = g * np.exp(packed[i, 5])
            d_features[i, 0], d_features[i, 1] = lane8(low, 6), lane8(low, 7)
            d_features[i, 2], d_features[i, 3] = lane8(high, 0), lane8(high, 1)


def blend(bins: Bins) -> FloatArray:
    """Pictures of C cameras as planes (C, 5, 8 rows, 8 columns): four premultiplied features and alpha."""
    cameras, n, _ = bins.packed.shape
    planes = np.empty((cameras, 5, bins.rows * TILE, bins.columns * TILE), np.float32)
    parallel(
        _blend, bins.packed.reshape(-1), bins.splat, bins.start, bins.end, n, bins.rows, bins.columns,
        np.zeros(1, np.int64), planes.reshape(-1),
    )  # fmt: skip
    return planes


def blend_backward(
    bins: Bins, planes: FloatArray, d_planes: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Gradients (C, N, 2) of the means, (C, N, 3) of the conics, (C, N) of opacities, (C, N, 4) of features.

    planes: what `blend` returned. d_planes: the loss's gradient of it, of the same shape.
    """
    cameras, n, _ = bins.packed.shape
    slots = np.zeros(len(bins.splat) * _SLOT, np.float32)
    parallel(
        _blend_backward, bins.packed.reshape(-1), bins.splat, bins.slot, bins.start, bins.end, n, bins.rows,
        bins.columns, np.zeros(1, np.int64), planes.reshape(-1), d_planes.reshape(-1), slots,
    )  # fmt: skip
    gradients = (
        np.zeros((cameras, n, 2), np.float32),
        np.zeros((cameras, n, 3), np.float32),
        np.zeros((cameras, n), np.float32),
        np.zeros((cameras, n, 4), np.float32),
    )
    for c in range(cameras):
        parallel(
            _reduce, bins.order[c], bins.slot_start[c], bins.packed[c], slots, *(gradient[c] for gradient in gradients)
        )
    return gradients


# ---- from and to arrays ----


def project(
    means: FloatArray,
    quats: FloatArray,
    scales: FloatArray,
    opacities: FloatArray,
    viewmats: FloatArray,
    intrinsics: FloatArray,
    *,
    width: int,
    height: int,
    near: float,
    far: float,
    blur: float,
    radius_clip: float,
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, IntArray]:
    """Project N Gaussians into C pinhole cameras.

    means, scales: (N, 3). quats: (N, 4) w, x, y, z of any length. opacities: (N,). viewmats: (C, 4, 4) OpenCV.
    intrinsics: (C, 4) fx, fy, cx, cy.
    Returns means2d (C, N, 2), depths (C, N), conics (C, N, 3), compensations (C, N) and radii (C, N, 2) int32, which
    are 0 for what is not visible.
    """
    shape = (len(viewmats), len(means))
    reach = np.sqrt(np.maximum(2 * np.log(np.maximum(255 * opacities, 1e-6)), 0)).astype(np.float32)
    means2d, depths, conics = (
        np.empty((*shape, 2), np.float32),
        np.empty(shape, np.float32),
        np.empty((*shape, 3), np.float32),
    )
    compensations, radii = np.empty(shape, np.float32), np.empty((*shape, 2), np.int32)
    parallel(
        _project, means, quats, scales, viewmats, intrinsics, (width, height), (np.float32(near), np.float32(far)),
        np.float32(blur), np.float32(radius_clip), reach, means2d, depths, conics, compensations, radii,
    )  # fmt: skip
    return means2d, depths, conics, compensations, radii


def project_backward(
    means: FloatArray,
    quats: FloatArray,
    scales: FloatArray,
    viewmats: FloatArray,
    intrinsics: FloatArray,
    outputs: tuple[Any, ...],
    gradients: tuple[FloatArray, FloatArray, FloatArray, FloatArray],
    *,
    width: int,
    height: int,
    blur: float,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Gradients of means, quats and scales, given those of means2d, depths, conics and compensations.

    outputs: conics, compensations and radii as `project` returned them.
    """
    results = np.empty_like(means), np.empty_like(quats), np.empty_like(scales)
    parallel(
        _project_backward, means, quats, scales, viewmats, intrinsics, (width, height), np.float32(blur), *outputs,
        *gradients, *results,
    )  # fmt: skip
    return results
