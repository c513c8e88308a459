"""Differentiable meshes on the CPU: antialias silhouettes, with an analytic backward pass.

There are two steps. `crossings` walks the silhouette edges along the lines through pixel centres. For each pair of
neighbouring pixels it keeps the edge that separates them. `blend` then mixes the two pixels, depending on where this
edge passes.
"""

# Arrays are passed unpacked, and pyright cannot count them.
# pyright: reportCallIssue=false

from __future__ import annotations

from typing import Any

import numpy as np

from sds3d.compiled import njit
from sds3d.geometry.mesh import FloatArray, IntArray
from sds3d.rendering.threads import parallel_map

# Numba widens float32 times a Python literal to float64, hence named float32 constants.
_ZERO, _HALF, _ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)

_KERNEL: Any = {"nogil": True, "cache": True, "error_model": "numpy"}

# ---- edges ----


@njit(**_KERNEL)
def edges_of(faces: IntArray, n_vertices: int) -> tuple[IntArray, IntArray, IntArray]:
    """Return the arrays of `MeshEdges`: sides of faces (F, 3), sorted by smaller vertex (counting), then larger."""
    begin = np.zeros(n_vertices + 2, np.int32)
    for f in range(len(faces)):
        for i in range(3):
            a, b = _side(faces, f, i)
            begin[min(a, b) + 2] += a != b  # skip sides from a vertex to itself
    for v in range(n_vertices):
        begin[v + 2] += begin[v + 1]
    sides = begin[n_vertices + 1]
    larger, corners = np.empty(sides, np.int32), np.empty(sides, np.int32)
    for f in range(len(faces)):
        for i in range(3):
            a, b = _side(faces, f, i)
            if a != b:
                at = begin[min(a, b) + 1]
                begin[min(a, b) + 1] = at + 1  # ends up where the next vertex begins
                larger[at], corners[at] = max(a, b), 3 * f + i
    ends, starts = np.empty((sides, 2), np.int32), np.empty(sides + 1, np.int32)
    n = 0
    for v in range(n_vertices):
        first = begin[v]
        for i in range(first, begin[v + 1]):
            key, value, j = larger[i], corners[i], i
            while j > first and larger[j - 1] > key:
                larger[j], corners[j] = larger[j - 1], corners[j - 1]
                j -= 1
            larger[j], corners[j] = key, value
        for i in range(first, begin[v + 1]):
            if i == first or larger[i] != larger[i - 1]:
                ends[n, 0], ends[n, 1], starts[n] = v, larger[i], i
                n += 1
    starts[n] = sides
    return ends[:n], starts[: n + 1], corners


@njit(inline="always", **_KERNEL)
def _side(faces, f, corner):
    """Return the two vertices opposite a face's corner, in the face's order."""
    return faces[f, corner + 1 - 3 * (corner == 2)], faces[f, corner + 2 - 3 * (corner > 0)]


# ---- silhouettes ----


def crossings(screen: FloatArray, focal: FloatArray, faces: IntArray, edges: Any, depth: FloatArray) -> IntArray:
    """Return the silhouette edge (or -1) between each pixel and its right [:, 0] or lower [:, 1] one: (B, 2, H, W)."""
    batch, height, width, _ = depth.shape
    crossing = np.full((batch, 2, height, width), -1, np.int32)
    parallel_map(lambda i: _crossings(screen[i], focal[i], faces, *edges, depth[i, ..., 0], crossing[i]), batch)
    return crossing


@njit(**_KERNEL)
def _turns(screen, faces):
    """Return for each corner (3 F,) on which side of the opposite edge its face is: -1 or 1.

    The edge points from its smaller vertex to its larger. 0 for faces that are not drawn or seen edge-on.
    """
    turns = np.zeros(3 * len(faces), np.int8)
    for f in range(len(faces)):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ax, ay = screen[a, 0], screen[a, 1]
        area = (screen[b, 0] - ax) * (screen[c, 1] - ay) - (screen[b, 1] - ay) * (screen[c, 0] - ax)
        if min(screen[a, 2], screen[b, 2], screen[c, 2]) > _ZERO and abs(area) < np.inf:
            sign = np.int8(area > _ZERO) - np.int8(area < _ZERO)
            turns[3 * f] = sign if b < c else -sign
            turns[3 * f + 1] = sign if c < a else -sign
            turns[3 * f + 2] = sign if a < b else -sign
    return turns


@njit(inline="always", **_KERNEL)
def _distance(depth, row, column, center_x, center_y, focal):
    """Return z of what a pixel shows, infinity if it is empty."""
    if depth[row, column] == _ZERO:
        return np.float32(np.inf)
    x, y = (np.float32(column) + _HALF - center_x) / focal, (np.float32(row) + _HALF - center_y) / focal
    return depth[row, column] / np.sqrt(_ONE + x * x + y * y)


@njit(**_KERNEL)
def _crossings(screen, focal, faces, ends, starts, corners, depth, crossing):
    height, width = depth.shape
    center_x, center_y = np.float32(width) * _HALF, np.float32(height) * _HALF
    outermost = np.full(crossing.shape, -1, np.float32)
    turns = _turns(screen, faces)
    for e in range(len(ends)):
        left, right = False, False  # on which sides of the edge its faces are
        for i in range(starts[e], starts[e + 1]):
            left |= turns[corners[i]] < 0
            right |= turns[corners[i]] > 0
        if left == right:
            continue  # not a silhouette, or not visible
        x0, y0, w0 = screen[ends[e, 0], 0], screen[ends[e, 0], 1], screen[ends[e, 0], 2]
        x1, y1, w1 = screen[ends[e, 1], 0], screen[ends[e, 1], 1], screen[ends[e, 1], 2]
        # Lines of pixel centres that the edge crosses, excluding the last one.
        top, bottom = np.ceil(min(y0, y1) - _HALF), np.ceil(max(y0, y1) - _HALF)
        before, behind = np.ceil(min(x0, x1) - _HALF), np.ceil(max(x0, x1) - _HALF)
        dx, dy = x1 - x0, y1 - y0
        steep = abs(dy) >= abs(dx)
        for axis in range(2):
            if axis == 0:
                first, last, lines, across, s0, ds, o0, do = top, bottom, height, width, y0, dy, x0, dx
            else:
                first, last, lines, across, s0, ds, o0, do = before, behind, width, height, x0, dx, y0, dy
            # Whether the surface covers the first of the two pixels (the one with the smaller column or row).
            surface_first = left == ((ds < _ZERO) if axis == 0 else (ds > _ZERO))
            for line in range(int(max(first, _ZERO)), int(max(min(last, np.float32(lines)), _ZERO))):
                along = (np.float32(line) + _HALF - s0) / ds
                place = o0 + along * do - _HALF
                pixel = np.floor(place)
                if not _ZERO <= pixel < np.float32(across - 1):
                    continue
                t, k = place - pixel, int(pixel)
                outwards = t if surface_first else _ONE - t
                row, column = (line, k) if axis == 0 else (k, line)
                if outwards <= outermost[axis, row, column]:
                    continue
                here = _distance(depth, row, column, center_x, center_y, focal)
                there = _distance(depth, row + axis, column + 1 - axis, center_x, center_y, focal)
                inside, outside = (here, there) if surface_first else (there, here)
                # One pixel must show the surface, and the other something behind the edge.
                if inside < outside and (w0 + along * (w1 - w0)) * outside > _ONE:
                    outermost[axis, row, column] = outwards
                    # Steep edges separate pixels of a row, others pixels of a column, so that none counts twice. In
                    # either case the outermost edge hides the others.
                    crossing[axis, row, column] = e if steep == (axis == 0) else -1


@njit(inline="always", **_KERNEL)
def _place(screen, ends, edge, axis, row, column):
    """Return where an edge passes between two pixel centres (from 0 to 1), its part up to there, and its slope."""
    i, j = ends[edge, 0], ends[edge, 1]
    line, pixel = (row, column) if axis == 0 else (column, row)
    s0, s1, o0, o1 = screen[i, 1 - axis], screen[j, 1 - axis], screen[i, axis], screen[j, axis]
    along = (np.float32(line) + _HALF - s0) / (s1 - s0)
    slope = (o1 - o0) / (s1 - s0)
    return o0 + along * (o1 - o0) - np.float32(pixel) - _HALF, along, slope


@njit(inline="always", **_KERNEL)
def _weight(screen, ends, crossing, side, row, column):
    """Return how much of a pixel its neighbour covers (0 right, 1 below, 2 left, 3 above), the edge, part and slope."""
    axis = side & 1
    first_row, first_column = row - (side == 3), column - (side == 2)
    if first_row < 0 or first_column < 0:
        return _ZERO, -1, _ZERO, _ZERO
    edge = crossing[axis, first_row, first_column]
    if edge < 0:
        return _ZERO, -1, _ZERO, _ZERO
    t, along, slope = _place(screen, ends, edge, axis, first_row, first_column)
    return max((_HALF - t) if side < 2 else (t - _HALF), _ZERO), edge, along, slope


@njit(inline="always", **_KERNEL)
def _is_parted(crossing, row, column):
    """Return whether an edge passes between a pixel and one of its neighbours."""
    # In the first row and column, the pixel's own entries replace those of a missing neighbour. Only -1 is negative.
    above, before = crossing[1, max(row - 1, 0), column], crossing[0, row, max(column - 1, 0)]
    return (crossing[0, row, column] & crossing[1, row, column] & above & before) >= 0


def blend(pictures: FloatArray, screen: FloatArray, ends: IntArray, crossing: IntArray) -> FloatArray:
    """Return pictures (B, H, W, C) with the pixels at silhouettes mixed."""
    out = pictures.copy()
    parallel_map(lambda i: _blend(pictures[i], screen[i], ends, crossing[i], out[i]), len(pictures))
    return out


@njit(**_KERNEL)
def _blend(pictures, screen, ends, crossing, out):
    height, width, channels = pictures.shape
    for row in range(height):
        for column in range(width):
            if not _is_parted(crossing, row, column):
                continue
            total = _ZERO
            for side in range(4):
                weight, _, _, _ = _weight(screen, ends, crossing, side, row, column)
                if weight > _ZERO:
                    total += weight
                    r, c = row + (side == 1) - (side == 3), column + (side == 0) - (side == 2)
                    for k in range(channels):
                        out[row, column, k] += weight * (pictures[r, c, k] - pictures[row, column, k])
            if total > _ONE:  # at a tip narrower than a pixel, take the mean of the neighbours
                for k in range(channels):
                    out[row, column, k] = (
                        pictures[row, column, k] + (out[row, column, k] - pictures[row, column, k]) / total
                    )


def blend_backward(
    pictures: FloatArray, screen: FloatArray, ends: IntArray, crossing: IntArray, d_out: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return the gradients of the pictures and of the screen positions (B, V, 3)."""
    d_pictures, d_screen = d_out.copy(), np.zeros(screen.shape, np.float32)
    parallel_map(
        lambda i: _blend_backward(pictures[i], screen[i], ends, crossing[i], d_out[i], d_pictures[i], d_screen[i]),
        len(pictures),
    )
    return d_pictures, d_screen


@njit(**_KERNEL)
def _blend_backward(pictures, screen, ends, crossing, d_out, d_pictures, d_screen):
    height, width, channels = pictures.shape
    pulls = np.empty(4, np.float32)  # d loss/d weight of each neighbour, before limiting the total weight
    for row in range(height):
        for column in range(width):
            if not _is_parted(crossing, row, column):
                continue
            total = _ZERO
            for side in range(4):
                total += _weight(screen, ends, crossing, side, row, column)[0]
            if total == _ZERO:
                continue
            scale, mean = _ONE / max(total, _ONE), _ZERO
            for side in range(4):
                weight = _weight(screen, ends, crossing, side, row, column)[0] * scale
                if weight == _ZERO:
                    continue
                r, c = row + (side == 1) - (side == 3), column + (side == 0) - (side == 2)
                pull = _ZERO
                for k in range(channels):
                    g = d_out[row, column, k]
                    d_pictures[r, c, k] += weight * g
                    d_pictures[row, column, k] -= weight * g
                    pull += g * (pictures[r, c, k] - pictures[row, column, k])
                pulls[side] = pull
                mean += weight * pull
            if total <= _ONE:
                mean = _ZERO
            for side in range(4):
                weight, edge, along, slope = _weight(screen, ends, crossing, side, row, column)
                if weight == _ZERO:
                    continue
                axis, d_weight = side & 1, scale * (pulls[side] - mean)
                d_place = -d_weight if side < 2 else d_weight
                i, j = ends[edge, 0], ends[edge, 1]
                d_screen[i, axis] += d_place * (_ONE - along)
                d_screen[j, axis] += d_place * along
                d_screen[i, 1 - axis] -= d_place * (_ONE - along) * slope
                d_screen[j, 1 - axis] -= d_place * along * slope
