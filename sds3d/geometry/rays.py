"""Rays against triangles, by a tree of boxes (bounding volume hierarchy) over the triangles."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sds3d.compiled import njit
from sds3d.geometry.mesh import FloatArray, IntArray

_LEAF = 4  # triangles of a leaf
_DEPTH = 64  # of the stack: the tree halves its triangles at each level


class Tree(NamedTuple):
    """Boxes around triangles.

    corners: (F, 3, 3) float64, in the order of the leaves. face: (F,) int32, their numbers in the mesh.
    low, high: (N, 3) corners of the boxes. first, size: (N,) int32, the triangles of a leaf; for an inner box, size
    is 0 and `first` is the first of its two boxes, which lie side by side.
    """

    corners: NDArray[np.float64]
    face: IntArray
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    first: IntArray
    size: IntArray


def tree(vertices: FloatArray, faces: IntArray) -> Tree:
    """Build the tree of a mesh with at least one face. Halves are divided at the median of the longest side."""
    corners = vertices[faces].astype(np.float64)
    nodes = 2 * len(faces)  # more than there can be
    order, first, size = np.arange(len(faces), dtype=np.int32), np.zeros(nodes, np.int32), np.zeros(nodes, np.int32)
    low, high = np.empty((nodes, 3)), np.empty((nodes, 3))
    n = _build(corners, corners.mean(axis=1), order, low, high, first, size)
    return Tree(np.ascontiguousarray(corners[order]), order, low[:n], high[:n], first[:n], size[:n])


@njit(cache=True, nogil=True, error_model="numpy")
def _build(
    corners: NDArray[np.float64],
    middle: NDArray[np.float64],
    order: IntArray,
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    first: IntArray,
    size: IntArray,
) -> int:
    """Fill in the nodes and sort `order`. Return the number of nodes."""
    waiting = [(0, order.shape[0], 0)]
    n = 1
    while len(waiting) > 0:
        start, end, node = waiting.pop()
        widest, axis = -1.0, 0
        for k in range(3):
            least, most, first_middle, last_middle = np.inf, -np.inf, np.inf, -np.inf
            for i in range(start, end):
                f = order[i]
                for c in range(3):
                    least, most = min(least, corners[f, c, k]), max(most, corners[f, c, k])
                first_middle, last_middle = min(first_middle, middle[f, k]), max(last_middle, middle[f, k])
            low[node, k], high[node, k] = least, most
            if last_middle - first_middle > widest:
                widest, axis = last_middle - first_middle, k
        if end - start <= _LEAF:
            first[node], size[node] = start, end - start
            continue
        mine = order[start:end].copy()
        order[start:end] = mine[np.argsort(middle[mine, axis], kind="mergesort")]
        half = start + (end - start) // 2
        first[node], size[node] = n, 0
        waiting.append((start, half, n))
        waiting.append((half, end, n + 1))
        n += 2
    return n


@njit(cache=True, nogil=True, error_model="numpy")
def nearest_hits(
    tree: Tree,
    origins: NDArray[np.float64],
    directions: NDArray[np.float64],
    reach: float,
    side: int,
    face: IntArray,
    distance: NDArray[np.float64],
    weights: NDArray[np.float64],
) -> None:
    """Fill in what rays (P, 3) meet first within `reach`.

    side: 1, triangles whose normals agree with the ray, so that it leaves through them; -1, those that it enters by; 0,
    both. directions: of any length, in which distances count. face: (P,), -1 where a ray meets nothing. distance:
    (P,), and weights: (P, 3), barycentric.
    """
    for i in range(origins.shape[0]):
        f, t, u, v = _first(tree, origins[i], directions[i], 0.0, reach, side, False)
        face[i] = tree.face[f] if f >= 0 else -1
        distance[i] = t
        weights[i, 0], weights[i, 1], weights[i, 2] = 1.0 - u - v, u, v


@njit(cache=True, nogil=True, error_model="numpy")
def open_share(
    tree: Tree,
    points: NDArray[np.float64],
    normals: NDArray[np.float64],
    sphere: NDArray[np.float64],
    begin: float,
    reach: float,
    out: FloatArray,
) -> None:
    """Fill in the share of the light from everywhere that reaches points (P, 3), out (P,) in [0, 1].

    sphere: (D, 3) unit vectors, spread evenly. With each point's normal added they have the density of a cosine. begin,
    reach: where rays begin and end, in metres from the point.
    """
    direction = np.empty(3)
    for i in range(points.shape[0]):
        free = 0
        for d in range(sphere.shape[0]):
            length = 0.0
            for k in range(3):
                direction[k] = normals[i, k] + 0.9999 * sphere[d, k]
                length += direction[k] * direction[k]
            length = np.sqrt(length)
            for k in range(3):
                direction[k] /= length
            f, _, _, _ = _first(tree, points[i], direction, begin, reach, 0, True)
            free += f < 0
        out[i] = np.float32(free / sphere.shape[0])


@njit(cache=True, nogil=True, error_model="numpy")
def _first(
    tree: Tree,
    origin: NDArray[np.float64],
    direction: NDArray[np.float64],
    begin: float,
    reach: float,
    side: int,
    any_: bool,
):
    """Return the place of the nearest triangle in the tree (-1: none), its distance and two weights. side: see
    `nearest_hits`. any_: the first that is found will do."""
    stack = np.empty(_DEPTH, np.int32)
    stack[0] = 0
    waiting = 1
    found, best, bu, bv = -1, reach, 0.0, 0.0
    while waiting > 0:
        waiting -= 1
        node = stack[waiting]
        near, far = begin, best
        for k in range(3):
            if direction[k] == 0.0:
                if origin[k] < tree.low[node, k] or origin[k] > tree.high[node, k]:
                    near = np.inf
            else:
                a = (tree.low[node, k] - origin[k]) / direction[k]
                b = (tree.high[node, k] - origin[k]) / direction[k]
                near, far = max(near, min(a, b)), min(far, max(a, b))
        if near > far + 1e-12:
            continue
        if tree.size[node] == 0:
            stack[waiting] = tree.first[node]
            stack[waiting + 1] = tree.first[node] + 1
            waiting += 2
            continue
        for f in range(tree.first[node], tree.first[node] + tree.size[node]):
            t, u, v = _crossing(tree.corners[f], origin, direction, side)
            if begin <= t < best:
                found, best, bu, bv = f, t, u, v
                if any_:
                    return found, best, bu, bv
    return found, best, bu, bv


@njit(cache=True, nogil=True, error_model="numpy")
def _crossing(corner: NDArray[np.float64], origin: NDArray[np.float64], direction: NDArray[np.float64], side: int):
    """Return distance and weights of the second and third corner where a ray crosses a triangle (Moller and Trumbore
    1997, "Fast, minimum storage ray-triangle intersection"); a distance of -1: it does not. side: see `nearest_hits`.
    """
    ex, ey, ez = corner[1, 0] - corner[0, 0], corner[1, 1] - corner[0, 1], corner[1, 2] - corner[0, 2]
    fx, fy, fz = corner[2, 0] - corner[0, 0], corner[2, 1] - corner[0, 1], corner[2, 2] - corner[0, 2]
    px = direction[1] * fz - direction[2] * fy
    py = direction[2] * fx - direction[0] * fz
    pz = direction[0] * fy - direction[1] * fx
    det = ex * px + ey * py + ez * pz
    if det == 0.0 or side * det > 0.0:  # det > 0: from the front
        return -1.0, 0.0, 0.0
    sx, sy, sz = origin[0] - corner[0, 0], origin[1] - corner[0, 1], origin[2] - corner[0, 2]
    u = (sx * px + sy * py + sz * pz) / det
    if u < -1e-9 or u > 1.0 + 1e-9:
        return -1.0, 0.0, 0.0
    qx, qy, qz = sy * ez - sz * ey, sz * ex - sx * ez, sx * ey - sy * ex
    v = (direction[0] * qx + direction[1] * qy + direction[2] * qz) / det
    if v < -1e-9 or u + v > 1.0 + 1e-9:
        return -1.0, 0.0, 0.0
    return (fx * qx + fy * qy + fz * qz) / det, u, v
