"""A z-buffer on the CPU, one view at a time. Shared by `mesh_zbuffer` and the differentiable renderer.

The first pass walks the triangles and keeps the nearest face of each pixel centre. The second pass visits each covered
pixel once and interpolates there, so hidden triangles cost only coverage tests. Edge functions follow Pineda, "A
parallel algorithm for polygon rasterization" (SIGGRAPH 1988).
"""

from __future__ import annotations

import numpy as np

from sds3d.compiled import njit
from sds3d.geometry.mesh import FloatArray, IntArray
from sds3d.rendering.simd import bits8, iota8, load8, lowest_bit, select8, store8

# Numba widens float32 times a Python literal to float64, hence named float32 constants.
_ZERO, _HALF, _ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)


@njit(cache=True, nogil=True, error_model="numpy")
def project(
    vertices: FloatArray,
    viewmat: FloatArray,
    focal: np.float32,
    height: int,
    width: int,
    near: np.float32,
    screen: FloatArray,
) -> None:
    """Fill `screen` (V, 3) with x and y in pixels (y down) and 1/z. All are 0 for vertices before the near plane."""
    center_x, center_y = np.float32(width) * _HALF, np.float32(height) * _HALF
    for i in range(vertices.shape[0]):
        x, y, z = vertices[i, 0], vertices[i, 1], vertices[i, 2]
        depth = viewmat[2, 0] * x + viewmat[2, 1] * y + viewmat[2, 2] * z + viewmat[2, 3]
        if depth > near:
            inverse = _ONE / depth
            right = viewmat[0, 0] * x + viewmat[0, 1] * y + viewmat[0, 2] * z + viewmat[0, 3]
            down = viewmat[1, 0] * x + viewmat[1, 1] * y + viewmat[1, 2] * z + viewmat[1, 3]
            screen[i, 0] = focal * right * inverse + center_x
            screen[i, 1] = focal * down * inverse + center_y
            screen[i, 2] = inverse
        else:
            screen[i, 0], screen[i, 1], screen[i, 2] = _ZERO, _ZERO, _ZERO


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _ordered(ax, ay, bx, by):
    """Return an edge with its ends in a fixed order, and the sign that this gives its edge function.

    The two triangles at a shared edge then evaluate bit-identical expressions of opposite sign, so no pixel is missed.
    """
    dx, dy = bx - ax, by - ay
    swapped = (dx < _ZERO) | ((dx == _ZERO) & (dy < _ZERO))
    sign = -_ONE if swapped else _ONE
    return bx if swapped else ax, by if swapped else ay, dx * sign, dy * sign, sign


@njit(cache=True, nogil=True, error_model="numpy")
def nearest_faces(screen: FloatArray, faces: IntArray, face: IntArray) -> None:
    """Write the nearest face of each pixel into `face` (H, W), which must be filled with -1. Ties go to the first face.

    Processes eight pixels of a row at once.
    """
    height, width = face.shape
    last_x, last_y = np.float32(width - 1), np.float32(height - 1)
    stride = width + 8
    nearest = np.zeros(height * stride, np.float32)  # 1/z, which is linear on the screen
    for row in range(height):  # no face is nearer than the padding
        nearest[row * stride + width : (row + 1) * stride] = np.inf
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ax, ay, bx, by, cx, cy = screen[a, 0], screen[a, 1], screen[b, 0], screen[b, 1], screen[c, 0], screen[c, 1]
        # Pixel centres within the bounding box; most faces of a fine mesh have none.
        low_x, high_x = np.ceil(min(ax, bx, cx) - _HALF), np.floor(max(ax, bx, cx) - _HALF)
        low_y, high_y = np.ceil(min(ay, by, cy) - _HALF), np.floor(max(ay, by, cy) - _HALF)
        if low_x > high_x or low_y > high_y or low_x > last_x or high_x < _ZERO or low_y > last_y or high_y < _ZERO:
            continue
        az, bz, cz = screen[a, 2], screen[b, 2], screen[c, 2]
        if min(az, bz, cz) <= _ZERO:
            continue  # at least one vertex is closer than the near plane
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        # This also skips the NaN and infinite areas of broken vertices.
        if not (_ZERO < abs(area) < np.inf):
            continue
        # Clamp as floats: distant vertices would overflow an integer.
        left, right = int(max(low_x, _ZERO)), int(min(high_x, last_x))
        top, bottom = int(max(low_y, _ZERO)), int(min(high_y, last_y))
        orientation = _ONE if area > _ZERO else -_ONE
        scale = _ONE / abs(area)
        ux, uy, udx, udy, usign = _ordered(bx, by, cx, cy)
        vx, vy, vdx, vdy, vsign = _ordered(cx, cy, ax, ay)
        wx, wy, wdx, wdy, wsign = _ordered(ax, ay, bx, by)
        usign, vsign, wsign = usign * orientation, vsign * orientation, wsign * orientation
        udx, udy, vdx, vdy, wdx, wdy = udx * usign, udy * usign, vdx * vsign, vdy * vsign, wdx * wsign, wdy * wsign
        for row in range(top, bottom + 1):
            py = np.float32(row) + _HALF
            urow, vrow, wrow = udx * (py - uy), vdx * (py - vy), wdx * (py - wy)
            for column in range(left, right + 1, 8):
                px = iota8() + (np.float32(column) + _HALF)
                u = urow - (px - ux) * udy
                v = vrow - (px - vx) * vdy
                w = wrow - (px - wx) * wdy
                inverse = (u * az + v * bz + w * cz) * scale
                before = load8(nearest, row * stride + column)
                nearer = (u >= _ZERO) & (v >= _ZERO) & (w >= _ZERO) & (inverse > before)
                hits = bits8(nearer)
                if hits:
                    store8(nearest, row * stride + column, select8(nearer, inverse, before))
                    while hits:
                        face[row, column + lowest_bit(hits)] = f
                        hits &= hits - 1


@njit(cache=True, nogil=True, error_model="numpy")
def locate(
    screen: FloatArray, faces: IntArray, focal: np.float32, face: IntArray, barycentric: FloatArray, depth: FloatArray
) -> None:
    """Fill the barycentrics (H, W, 3) and depth (H, W) of one view where `face` (H, W) is not -1."""
    height, width = face.shape
    center_x, center_y = np.float32(width) * _HALF, np.float32(height) * _HALF
    inverse_focal = _ONE / focal
    for row in range(height):
        py = np.float32(row) + _HALF
        for column in range(width):
            f = face[row, column]
            if f < 0:
                continue
            px = np.float32(column) + _HALF
            a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
            ax, ay, az = screen[a, 0] - px, screen[a, 1] - py, screen[a, 2]
            bx, by, bz = screen[b, 0] - px, screen[b, 1] - py, screen[b, 2]
            cx, cy, cz = screen[c, 0] - px, screen[c, 1] - py, screen[c, 2]
            u, v, w = bx * cy - by * cx, cx * ay - cy * ax, ax * by - ay * bx
            screen_sum = u + v + w
            u, v, w = u * az, v * bz, w * cz
            total = u + v + w
            if total == _ZERO:  # a sliver whose area cancelled to 0: use its first vertex
                u, screen_sum, total = az, _ONE, az
            scale = _ONE / total
            barycentric[row, column, 0], barycentric[row, column, 1] = u * scale, v * scale
            barycentric[row, column, 2] = w * scale
            x, y = (px - center_x) * inverse_focal, (py - center_y) * inverse_focal
            depth[row, column] = screen_sum * scale * np.sqrt(_ONE + x * x + y * y)


@njit(cache=True, nogil=True, error_model="numpy")
def interpolate(
    attributes: FloatArray, faces: IntArray, face: IntArray, barycentric: FloatArray, out: FloatArray
) -> None:
    """Fill the attributes (H, W, C) of one view where `face` (H, W) is not -1."""
    height, width = face.shape
    for row in range(height):
        for column in range(width):
            f = face[row, column]
            if f < 0:
                continue
            a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
            u, v, w = barycentric[row, column, 0], barycentric[row, column, 1], barycentric[row, column, 2]
            for k in range(attributes.shape[1]):
                out[row, column, k] = u * attributes[a, k] + v * attributes[b, k] + w * attributes[c, k]
