"""Splatting on the CPU, step 1 of 3: project Gaussians, eight at a time, with an analytic backward pass."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sds3d.compiled import njit
from sds3d.rendering.simd import (
    bits8,
    ceil8,
    load8,
    load_rows2,
    load_rows3,
    load_rows4,
    log8,
    max8,
    min8,
    select8,
    splat8,
    sqrt8,
    store8,
    store_rows2,
    store_rows3,
    store_rows4,
)
from sds3d.rendering.threads import parallel, threads

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]

# Numba widens float32 times a Python literal to float64, hence named float32 constants.
_ZERO, _HALF, _ONE, _TWO = np.float32(0), np.float32(0.5), np.float32(1), np.float32(2)
_MARGIN = np.float32(0.15)  # fraction of the picture beyond its edge where the Jacobian is clamped
_OPAQUEST, _FAINT, _FAR = np.float32(255), np.float32(1e-6), np.float32(1e6)
_BLOCK = 1024  # Gaussians that one thread takes at a time
_ALONE = 16384  # Gaussians below which a second thread costs more than it saves

_KERNEL: Any = {"nogil": True, "cache": True, "error_model": "numpy", "fastmath": {"contract", "nsz", "arcp", "afn"}}


@njit(inline="always", **_KERNEL)
def _rotation(w, x, y, z):
    """Return the rows of the rotation matrix of a unit quaternion."""
    return (
        (_ONE - _TWO * (y * y + z * z), _TWO * (x * y - w * z), _TWO * (x * z + w * y)),
        (_TWO * (x * y + w * z), _ONE - _TWO * (x * x + z * z), _TWO * (y * z - w * x)),
        (_TWO * (x * z - w * y), _TWO * (y * z + w * x), _ONE - _TWO * (x * x + y * y)),
    )


@njit(inline="always", **_KERNEL)
def _seen(view, x, y, z):
    """Rotate a direction into the camera's frame."""
    return (
        view[0, 0] * x + view[0, 1] * y + view[0, 2] * z,
        view[1, 0] * x + view[1, 1] * y + view[1, 2] * z,
        view[2, 0] * x + view[2, 1] * y + view[2, 2] * z,
    )


@njit(inline="always", **_KERNEL)
def _turned_back(view, x, y, z):
    """Rotate a gradient from the camera's frame into the world's."""
    return (
        view[0, 0] * x + view[1, 0] * y + view[2, 0] * z,
        view[0, 1] * x + view[1, 1] * y + view[2, 1] * z,
        view[0, 2] * x + view[1, 2] * y + view[2, 2] * z,
    )


@njit(inline="always", **_KERNEL)
def _slope_limits(center, focal, extent):
    """Return the limits to which x/z or y/z is clamped in the projection's Jacobian."""
    margin = _MARGIN * extent
    return splat8(-(center + margin) / focal), splat8((extent - center + margin) / focal)


@njit(**_KERNEL)
def _project(
    thread, n_threads, means, quats, scales, opacities, viewmats, intrinsics, size, planes, blur, radius_clip,
    means2d, depths, conics, compensations, radii,
):  # fmt: skip
    width, height = np.float32(size[0]), np.float32(size[1])
    zero = splat8(_ZERO)
    n = len(means)
    for block in range(thread, (n + _BLOCK - 1) // _BLOCK, n_threads):
        for begin in range(block * _BLOCK, min((block + 1) * _BLOCK, n), 8):
            i = min(begin, n - 8)  # the last eight overlap those before
            mean_x, mean_y, mean_z = load_rows3(means, i)
            qw, qx, qy, qz = load_rows4(quats, i)
            inverse = _ONE / sqrt8(qw * qw + qx * qx + qy * qy + qz * qz)
            r0, r1, r2 = _rotation(qw * inverse, qx * inverse, qy * inverse, qz * inverse)
            s0, s1, s2 = load_rows3(scales, i)
            # How far from its mean a Gaussian reaches alpha = 1/255, in standard deviations.
            opacity = max8(load8(opacities, i) * _OPAQUEST, splat8(_FAINT))
            reach = sqrt8(max8(log8(opacity) * _TWO, zero))
            for c in range(len(viewmats)):
                view, at = viewmats[c], c * n + i
                fx, fy, cx, cy = intrinsics[c, 0, 0], intrinsics[c, 1, 1], intrinsics[c, 0, 2], intrinsics[c, 1, 2]
                x, y, z = _seen(view, mean_x, mean_y, mean_z)
                x, y, z = x + view[0, 3], y + view[1, 3], z + view[2, 3]
                rz = _ONE / z
                x_low, x_high = _slope_limits(cx, fx, width)
                y_low, y_high = _slope_limits(cy, fy, height)
                tx, ty = min8(max8(x * rz, x_low), x_high), min8(max8(y * rz, y_low), y_high)
                a, b = rz * fx, rz * fy
                # The Gaussian's axes in the picture, a square root of its covariance.
                u0, u1, u2 = _seen(view, r0[0] * s0, r1[0] * s0, r2[0] * s0)
                p0, q0 = a * (u0 - tx * u2), b * (u1 - ty * u2)
                u0, u1, u2 = _seen(view, r0[1] * s1, r1[1] * s1, r2[1] * s1)
                p1, q1 = a * (u0 - tx * u2), b * (u1 - ty * u2)
                u0, u1, u2 = _seen(view, r0[2] * s2, r1[2] * s2, r2[2] * s2)
                p2, q2 = a * (u0 - tx * u2), b * (u1 - ty * u2)
                xx, xy, yy = p0 * p0 + p1 * p1 + p2 * p2, p0 * q0 + p1 * q1 + p2 * q2, q0 * q0 + q1 * q1 + q2 * q2
                sharp = xx * yy - xy * xy
                xx, yy = xx + blur, yy + blur
                determinant = xx * yy - xy * xy
                inverse = _ONE / determinant
                px, py = a * x + cx, b * y + cy
                rx, ry = ceil8(reach * sqrt8(xx)), ceil8(reach * sqrt8(yy))
                # These comparisons also leave out NaN.
                visible = (z > planes[0]) & (z < planes[1]) & (determinant > _ZERO) & (reach > _ZERO)
                visible = visible & (max8(rx, ry) > radius_clip)
                visible = visible & (px + rx > _ZERO) & (px - rx < width) & (py + ry > _ZERO) & (py - ry < height)
                store8(depths, at, z)
                store_rows2(means2d, at, (select8(visible, px, zero), select8(visible, py, zero)))
                conic = yy * inverse, zero - xy * inverse, xx * inverse
                conic = (
                    select8(visible, conic[0], zero),
                    select8(visible, conic[1], zero),
                    select8(visible, conic[2], zero),
                )
                store_rows3(conics, at, conic)
                store8(compensations, at, select8(visible, sqrt8(max8(sharp * inverse, zero)), zero))
                rx, ry = min8(rx, splat8(_FAR)), min8(ry, splat8(_FAR))
                store_rows2(radii, at, (select8(visible, rx, zero), select8(visible, ry, zero)))


@njit(inline="always", **_KERNEL)
def _axis_backward(view, slopes, cotangents, m0, m1, m2):
    """Return gradients through one axis of a Gaussian: of the axis, of focal length / z and of the clamped slopes."""
    a, b, tx, ty = slopes
    g00, g01, g11 = cotangents
    u0, u1, u2 = _seen(view, m0, m1, m2)
    e, f = u0 - tx * u2, u1 - ty * u2
    dp = g00 * a * e * _TWO + g01 * b * f
    dq = g11 * b * f * _TWO + g01 * a * e
    du0, du1 = dp * a, dq * b
    axis = _turned_back(view, du0, du1, splat8(_ZERO) - (du0 * tx + du1 * ty))
    return axis, dp * e, dq * f, du0 * u2, du1 * u2


@njit(inline="always", **_KERNEL)
def _added(mask, sums, new):
    """Return three sums, with new terms added where the mask is true."""
    zero = splat8(_ZERO)
    return (
        sums[0] + select8(mask, new[0], zero),
        sums[1] + select8(mask, new[1], zero),
        sums[2] + select8(mask, new[2], zero),
    )


@njit(**_KERNEL)
def _project_backward(
    thread, n_threads, means, quats, scales, viewmats, intrinsics, size, blur, conics, compensations,
    d_means2d, d_depths, d_conics, d_compensations, d_means, d_quats, d_scales,
):  # fmt: skip
    width, height = np.float32(size[0]), np.float32(size[1])
    zero = splat8(_ZERO)
    n = len(means)
    for block in range(thread, (n + _BLOCK - 1) // _BLOCK, n_threads):
        for begin in range(block * _BLOCK, min((block + 1) * _BLOCK, n), 8):
            i = min(begin, n - 8)  # the last eight overlap those before
            mean_x, mean_y, mean_z = load_rows3(means, i)
            qw, qx, qy, qz = load_rows4(quats, i)
            norm = _ONE / sqrt8(qw * qw + qx * qx + qy * qy + qz * qz)
            qw, qx, qy, qz = qw * norm, qx * norm, qy * norm, qz * norm
            r0, r1, r2 = _rotation(qw, qx, qy, qz)
            s0, s1, s2 = load_rows3(scales, i)
            d_mean, m0, m1, m2 = (zero, zero, zero), (zero, zero, zero), (zero, zero, zero), (zero, zero, zero)
            for c in range(len(viewmats)):
                view, at = viewmats[c], c * n + i
                p, q, r = load_rows3(conics, at)
                visible = p > _ZERO
                if bits8(visible) == 0:
                    continue
                fx, fy, cx, cy = intrinsics[c, 0, 0], intrinsics[c, 1, 1], intrinsics[c, 0, 2], intrinsics[c, 1, 2]
                x, y, z = _seen(view, mean_x, mean_y, mean_z)
                x, y, z = x + view[0, 3], y + view[1, 3], z + view[2, 3]
                rz = _ONE / z
                x_low, x_high = _slope_limits(cx, fx, width)
                y_low, y_high = _slope_limits(cy, fy, height)
                tx, ty = x * rz, y * rz
                x_free, y_free = (tx >= x_low) & (tx <= x_high), (ty >= y_low) & (ty <= y_high)
                tx, ty = min8(max8(tx, x_low), x_high), min8(max8(ty, y_low), y_high)
                a, b = rz * fx, rz * fy
                # d loss/d covariance = -conic (d loss/d conic) conic. g01 is for both off-diagonal entries together.
                h0, h1, h2 = load_rows3(d_conics, at)
                h1 = h1 * _HALF
                e00, e01, e10, e11 = p * h0 + q * h1, p * h1 + q * h2, q * h0 + r * h1, q * h1 + r * h2
                g00, g01, g11 = zero - (e00 * p + e01 * q), (e00 * q + e01 * r) * -_TWO, zero - (e10 * q + e11 * r)
                compensation, d_compensation = load8(compensations, at), load8(d_compensations, at)
                dimmed = (max8(d_compensation, zero - d_compensation) > _ZERO) & (compensation > _ZERO)
                if bits8(dimmed) != 0:
                    # compensation^2 = det(covariance before the blur) / det(covariance after it)
                    inverse = p * r - q * q  # 1 / det blurred
                    xx, xy, yy = r / inverse, q / (zero - inverse), p / inverse
                    ratio = compensation * compensation
                    h = select8(dimmed, _HALF * d_compensation / compensation * inverse, zero)
                    g00 = g00 + select8(dimmed, h * ((yy - blur) - ratio * yy), zero)
                    g11 = g11 + select8(dimmed, h * ((xx - blur) - ratio * xx), zero)
                    g01 = g01 + select8(dimmed, h * _TWO * (ratio - _ONE) * xy, zero)
                slopes, cotangents = (a, b, tx, ty), (g00, g01, g11)
                new0, a0, b0, x0, y0 = _axis_backward(view, slopes, cotangents, r0[0] * s0, r1[0] * s0, r2[0] * s0)
                new1, a1, b1, x1, y1 = _axis_backward(view, slopes, cotangents, r0[1] * s1, r1[1] * s1, r2[1] * s1)
                new2, a2, b2, x2, y2 = _axis_backward(view, slopes, cotangents, r0[2] * s2, r1[2] * s2, r2[2] * s2)
                m0, m1, m2 = _added(visible, m0, new0), _added(visible, m1, new1), _added(visible, m2, new2)
                # The mean moves the projected point and the Jacobian's slopes, unless they are clamped.
                d_x, d_y = load_rows2(d_means2d, at)
                vx, vy = a * d_x, b * d_y
                vz = load8(d_depths, at) - rz * (x * vx + y * vy + (a0 + a1 + a2) * a + (b0 + b1 + b2) * b)
                along_x = select8(x_free, rz * (x0 + x1 + x2), zero)
                along_y = select8(y_free, rz * (y0 + y1 + y2), zero)
                v = _turned_back(view, vx - along_x, vy - along_y, vz + tx * along_x + ty * along_y)
                d_mean = _added(visible, d_mean, v)
            store_rows3(d_means, i, d_mean)
            d_scale0 = r0[0] * m0[0] + r1[0] * m0[1] + r2[0] * m0[2]
            d_scale1 = r0[1] * m1[0] + r1[1] * m1[1] + r2[1] * m1[2]
            d_scale2 = r0[2] * m2[0] + r1[2] * m2[1] + r2[2] * m2[2]
            store_rows3(d_scales, i, (d_scale0, d_scale1, d_scale2))
            # Gradient of the rotation matrix: mjk is that of row j, column k.
            m00, m10, m20 = m0[0] * s0, m0[1] * s0, m0[2] * s0
            m01, m11, m21 = m1[0] * s1, m1[1] * s1, m1[2] * s1
            m02, m12, m22 = m2[0] * s2, m2[1] * s2, m2[2] * s2
            dw = _TWO * (qx * (m21 - m12) + qy * (m02 - m20) + qz * (m10 - m01))
            dx = _TWO * (qy * (m01 + m10) + qz * (m02 + m20) + qw * (m21 - m12) - _TWO * qx * (m11 + m22))
            dy = _TWO * (qx * (m01 + m10) + qz * (m12 + m21) + qw * (m02 - m20) - _TWO * qy * (m00 + m22))
            dz = _TWO * (qx * (m02 + m20) + qy * (m12 + m21) + qw * (m10 - m01) - _TWO * qz * (m00 + m11))
            # The quaternion's length does not matter: remove the gradient along it.
            along = dw * qw + dx * qx + dy * qy + dz * qz
            d_quat = (
                norm * (dw - along * qw),
                norm * (dx - along * qx),
                norm * (dy - along * qy),
                norm * (dz - along * qz),
            )
            store_rows4(d_quats, i, d_quat)


# ---- arrays ----


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
    intrinsics: (C, 3, 3).
    width, height, blur, radius_clip: pixels, the blur squared. near, far: metres.
    Returns means2d (C, N, 2), depths (C, N), conics (C, N, 3), compensations (C, N) and radii (C, N, 2) int32. The
    radii are 0 for Gaussians that are not visible.
    """
    cameras, n = len(viewmats), len(means)
    inputs, rows = tuple(_filled(array, 0) for array in (means, quats, scales, opacities)), max(n, 8)
    outputs = (
        np.empty((cameras, rows, 2), np.float32),
        np.empty((cameras, rows), np.float32),
        np.empty((cameras, rows, 3), np.float32),
        np.empty((cameras, rows), np.float32),
        np.empty((cameras, rows, 2), np.int32),
    )
    parallel(
        _project, *inputs, viewmats, intrinsics, (width, height), (np.float32(near), np.float32(far)),
        np.float32(blur), np.float32(radius_clip), *outputs, n=1 if cameras * n < _ALONE else threads(),
    )  # fmt: skip
    return outputs if rows == n else tuple(output[:, :n] for output in outputs)  # type: ignore[return-value]


def project_backward(
    means: FloatArray,
    quats: FloatArray,
    scales: FloatArray,
    viewmats: FloatArray,
    intrinsics: FloatArray,
    outputs: tuple[FloatArray, FloatArray],
    gradients: tuple[FloatArray, FloatArray, FloatArray, FloatArray],
    *,
    width: int,
    height: int,
    blur: float,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the gradients of means, quats and scales, given those of means2d, depths, conics and compensations.

    outputs: conics and compensations as returned by `project`.
    """
    n = len(means)
    inputs = tuple(_filled(array, 0) for array in (means, quats, scales))
    results = np.empty_like(inputs[0]), np.empty_like(inputs[1]), np.empty_like(inputs[2])
    parallel(
        _project_backward, *inputs, viewmats, intrinsics, (width, height), np.float32(blur),
        *(_filled(array, 1) for array in (*outputs, *gradients)), *results,
        n=1 if len(viewmats) * n < _ALONE else threads(),
    )  # fmt: skip
    return results[0][:n], results[1][:n], results[2][:n]


def _filled(array: Any, axis: int) -> Any:
    """Pad the array with zeros to at least eight Gaussians, so that no vector reaches beyond it."""
    missing = 8 - array.shape[axis]
    if missing <= 0:
        return array
    return np.pad(array, [(0, missing if k == axis else 0) for k in range(array.ndim)])
