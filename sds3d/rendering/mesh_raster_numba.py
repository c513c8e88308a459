"""Differentiable meshes on the CPU: project, rasterise and interpolate, with analytic backward passes.

Each view is one task with its own output arrays, so results do not depend on the order of threads. The exception is the
gradient of interpolated attributes: it is summed over views, in one array per thread.
"""

# Arrays are passed unpacked, and pyright cannot count them.
# pyright: reportCallIssue=false

from __future__ import annotations

from typing import Any

import numpy as np

from sds3d.compiled import njit
from sds3d.geometry.mesh import FloatArray, IntArray
from sds3d.rendering import mesh_zbuffer_numba as zbuffer
from sds3d.rendering.threads import parallel, parallel_map, threads

# Numba widens float32 times a Python literal to float64, hence named float32 constants.
_ZERO, _HALF, _ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)
_BLOCK = 4096  # vertices that one thread takes at a time

_KERNEL: Any = {"nogil": True, "cache": True, "error_model": "numpy"}

# ---- projection ----


def project(vertices: FloatArray, viewmats: FloatArray, focal: FloatArray, size: tuple[int, int], near: float) -> Any:
    """Return screen positions (B, V, 3) of vertices (V, 3): x and y in pixels and 1/z."""
    screen = np.empty((len(viewmats), *vertices.shape), np.float32)
    parallel_map(
        lambda view: zbuffer.project(vertices, viewmats[view], focal[view], *size, np.float32(near), screen[view]),
        len(viewmats),
    )
    return screen


def project_backward(
    screen: FloatArray, viewmats: FloatArray, focal: FloatArray, size: tuple[int, int], d_screen: FloatArray
) -> FloatArray:
    """Return the gradient (V, 3) of the vertices."""
    d_vertices = np.empty(screen.shape[1:], np.float32)
    parallel(_project_backward, screen, viewmats, focal, size, d_screen, d_vertices)
    return d_vertices


@njit(**_KERNEL)
def _project_backward(thread, n_threads, screen, viewmats, focal, size, d_screen, d_vertices):
    center_x, center_y = np.float32(size[1]) * _HALF, np.float32(size[0]) * _HALF
    n = len(d_vertices)
    for block in range(thread, (n + _BLOCK - 1) // _BLOCK, n_threads):
        for i in range(block * _BLOCK, min((block + 1) * _BLOCK, n)):
            x, y, z = _ZERO, _ZERO, _ZERO
            for view in range(len(screen)):
                gx, gy, gz = d_screen[view, i, 0], d_screen[view, i, 1], d_screen[view, i, 2]
                inverse = screen[view, i, 2]
                if inverse == _ZERO or (gx == _ZERO and gy == _ZERO and gz == _ZERO):
                    continue
                matrix = viewmats[view]
                right, down = focal[view] * inverse * gx, focal[view] * inverse * gy
                offset_x, offset_y = screen[view, i, 0] - center_x, screen[view, i, 1] - center_y
                forward = -inverse * (offset_x * gx + offset_y * gy + inverse * gz)
                x += matrix[0, 0] * right + matrix[1, 0] * down + matrix[2, 0] * forward
                y += matrix[0, 1] * right + matrix[1, 1] * down + matrix[2, 1] * forward
                z += matrix[0, 2] * right + matrix[1, 2] * down + matrix[2, 2] * forward
            d_vertices[i, 0], d_vertices[i, 1], d_vertices[i, 2] = x, y, z


# ---- faces, barycentrics, depth ----


def rasterize(
    screen: FloatArray, faces: IntArray, focal: FloatArray, size: tuple[int, int]
) -> tuple[IntArray, FloatArray, FloatArray]:
    """Return face (B, H, W), barycentric (B, H, W, 3) and depth (B, H, W, 1), as in `Raster`."""
    shape = (len(screen), *size)
    face, barycentric = np.full(shape, -1, np.int32), np.zeros((*shape, 3), np.float32)
    depth = np.zeros((*shape, 1), np.float32)

    def one(view: int) -> None:
        zbuffer.nearest_faces(screen[view], faces, face[view])
        zbuffer.locate(screen[view], faces, focal[view], face[view], barycentric[view], depth[view, ..., 0])

    parallel_map(one, len(screen))
    return face, barycentric, depth


def rasterize_backward(
    screen: FloatArray, faces: IntArray, focal: FloatArray, face: IntArray, gradients: tuple[FloatArray, FloatArray]
) -> FloatArray:
    """Return the gradient (B, V, 3) of the screen positions, given those of barycentric and depth."""
    d_screen = np.zeros(screen.shape, np.float32)
    d_barycentric, d_depth = gradients
    parallel_map(
        lambda i: _locate_backward(screen[i], faces, focal[i], face[i], d_barycentric[i], d_depth[i], d_screen[i]),
        len(screen),
    )
    return d_screen


@njit(**_KERNEL)
def _locate_backward(screen, faces, focal, face, d_barycentric, d_depth, d_screen):
    height, width = face.shape
    center_x, center_y = np.float32(width) * _HALF, np.float32(height) * _HALF
    inverse_focal = _ONE / focal
    for row in range(height):
        py = np.float32(row) + _HALF
        for column in range(width):
            f = face[row, column]
            if f < 0:
                continue
            gu, gv, gw = d_barycentric[row, column, 0], d_barycentric[row, column, 1], d_barycentric[row, column, 2]
            gd = d_depth[row, column, 0]
            if gu == _ZERO and gv == _ZERO and gw == _ZERO and gd == _ZERO:
                continue
            px = np.float32(column) + _HALF
            a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
            ax, ay, az = screen[a, 0] - px, screen[a, 1] - py, screen[a, 2]
            bx, by, bz = screen[b, 0] - px, screen[b, 1] - py, screen[b, 2]
            cx, cy, cz = screen[c, 0] - px, screen[c, 1] - py, screen[c, 2]
            # Twice the areas of the triangles opposite a, b and c.
            u, v, w = bx * cy - by * cx, cx * ay - cy * ax, ax * by - ay * bx
            total = u * az + v * bz + w * cz
            if total == _ZERO:
                continue
            scale = _ONE / total
            x, y = (px - center_x) * inverse_focal, (py - center_y) * inverse_focal
            gd *= np.sqrt(_ONE + x * x + y * y) * scale  # depth = ray (u + v + w) / total
            # barycentric = (u az, v bz, w cz) / total. `mean` is the gradient of dividing by total.
            mean = (gu * u * az + gv * v * bz + gw * w * cz) * scale + gd * (u + v + w)
            gu, gv, gw = (gu - mean) * scale, (gv - mean) * scale, (gw - mean) * scale
            du, dv, dw = gu * az + gd, gv * bz + gd, gw * cz + gd
            d_screen[a, 0] += by * dw - cy * dv
            d_screen[a, 1] += cx * dv - bx * dw
            d_screen[a, 2] += gu * u
            d_screen[b, 0] += cy * du - ay * dw
            d_screen[b, 1] += ax * dw - cx * du
            d_screen[b, 2] += gv * v
            d_screen[c, 0] += ay * dv - by * du
            d_screen[c, 1] += bx * du - ax * dv
            d_screen[c, 2] += gw * w


# ---- interpolation ----


def interpolate(attributes: FloatArray, faces: IntArray, face: IntArray, barycentric: FloatArray) -> FloatArray:
    """Interpolate vertex attributes (V, C) at every pixel: (B, H, W, C)."""
    out = np.zeros((*face.shape, attributes.shape[1]), np.float32)
    parallel_map(
        lambda view: zbuffer.interpolate(attributes, faces, face[view], barycentric[view], out[view]),
        len(face),
    )
    return out


def interpolate_backward(
    attributes: FloatArray, faces: IntArray, face: IntArray, barycentric: FloatArray, d_out: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return the gradients of the attributes (V, C) and of the barycentrics (B, H, W, 3)."""
    d_attributes = np.zeros((max(1, min(threads(), len(face))), *attributes.shape), np.float32)
    d_barycentric = np.zeros(barycentric.shape, np.float32)
    parallel(_interpolate_backward, attributes, faces, face, barycentric, d_out, d_attributes, d_barycentric)
    return d_attributes[0] if len(d_attributes) == 1 else d_attributes.sum(0), d_barycentric


@njit(**_KERNEL)
def _interpolate_backward(thread, n_threads, attributes, faces, face, barycentric, d_out, d_attributes, d_barycentric):
    for view in range(thread, len(face), n_threads):
        mine = d_attributes[thread]
        for row in range(face.shape[1]):
            for column in range(face.shape[2]):
                f = face[view, row, column]
                if f < 0:
                    continue
                a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
                weights = barycentric[view, row, column]
                u, v, w = weights[0], weights[1], weights[2]
                du, dv, dw = _ZERO, _ZERO, _ZERO
                for k in range(attributes.shape[1]):
                    g = d_out[view, row, column, k]
                    mine[a, k] += g * u
                    mine[b, k] += g * v
                    mine[c, k] += g * w
                    du += g * attributes[a, k]
                    dv += g * attributes[b, k]
                    dw += g * attributes[c, k]
                at = d_barycentric[view, row, column]
                at[0], at[1], at[2] = du, dv, dw
