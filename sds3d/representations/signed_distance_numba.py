"""Closest faces of a mesh to the points of a grid, on one CPU thread."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sds3d.compiled import njit

FloatArray = NDArray[np.float64]


@njit(cache=True, nogil=True, error_model="numpy")
def closest_faces(corners: FloatArray, resolution: int) -> tuple[FloatArray, NDArray[np.int32], NDArray[np.float32]]:
    """Return, for each point of a grid, the distance to the closest of F triangles, its face and barycentric weights.

    corners: (F, 3, 3) in voxels. The results are (N, N, N) in voxels, (N, N, N) and (N, N, N, 3), axes x, y, z.
    Exact within a voxel of a triangle. From there, the closest faces spread from point to point, in sweeps along all
    eight diagonals (Zhao 2005, "A fast sweeping method for eikonal equations", as in Bridson's level sets).
    """
    n = resolution
    square = np.full((n, n, n), np.inf)
    face = np.full((n, n, n), -1, np.int32)
    weights = np.zeros((n, n, n, 3), np.float32)
    low, high = np.zeros(3, np.int64), np.zeros(3, np.int64)
    for f in range(len(corners)):
        for k in range(3):
            # A face outside the grid is still a candidate for the grid's nearest points.
            low[k] = min(max(np.ceil(corners[f, :, k].min()) - 1, 0), n - 1)
            high[k] = min(max(np.floor(corners[f, :, k].max()) + 1, 0), n - 1)
        for x in range(low[0], high[0] + 1):
            for y in range(low[1], high[1] + 1):
                for z in range(low[2], high[2] + 1):
                    _offer(corners, f, x, y, z, square, face, weights)
    for sweep in range(8):
        dx, dy, dz = 1 - 2 * (sweep & 1), 1 - 2 * (sweep >> 1 & 1), 1 - 2 * (sweep >> 2 & 1)
        for i in range(n):
            x = i if dx > 0 else n - 1 - i
            for j in range(n):
                y = j if dy > 0 else n - 1 - j
                for k in range(n):
                    z = k if dz > 0 else n - 1 - k
                    for neighbour in range(1, 8):
                        u = x - dx * (neighbour & 1)
                        v = y - dy * (neighbour >> 1 & 1)
                        w = z - dz * (neighbour >> 2 & 1)
                        if 0 <= u < n and 0 <= v < n and 0 <= w < n:
                            f = face[u, v, w]
                            if f >= 0 and f != face[x, y, z]:
                                _offer(corners, f, x, y, z, square, face, weights)
    return np.sqrt(square), face, weights


@njit(cache=True, nogil=True, error_model="numpy")
def _offer(
    corners: FloatArray,
    f: int,
    x: int,
    y: int,
    z: int,
    square: FloatArray,
    face: NDArray[np.int32],
    weights: NDArray[np.float32],
) -> None:
    """Give grid point (x, y, z) face f, if that is closer than the face that it has."""
    s, u, v, w = _closest(corners[f], x, y, z)
    if s < square[x, y, z]:
        square[x, y, z], face[x, y, z] = s, f
        weights[x, y, z, 0], weights[x, y, z, 1], weights[x, y, z, 2] = u, v, w


@njit(cache=True, nogil=True, error_model="numpy")
def _closest(triangle: FloatArray, x: float, y: float, z: float) -> tuple[float, float, float, float]:
    """Return the squared distance from a point to a triangle (3, 3), and the closest point's barycentric weights."""
    ux, uy, uz = triangle[1] - triangle[0]
    vx, vy, vz = triangle[2] - triangle[0]
    px, py, pz = x - triangle[0, 0], y - triangle[0, 1], z - triangle[0, 2]
    uu, uv, vv = ux * ux + uy * uy + uz * uz, ux * vx + uy * vy + uz * vz, vx * vx + vy * vy + vz * vz
    pu, pv = px * ux + py * uy + pz * uz, px * vx + py * vy + pz * vz
    area = uu * vv - uv * uv
    s, t = (vv * pu - uv * pv) / area, (uu * pv - uv * pu) / area
    if not (area > 0 and s >= 0 and t >= 0 and s + t <= 1):  # otherwise the closest point is on one of the edges
        best = np.inf
        s = t = 0.0
        for edge in range(3):
            if edge == 0:  # from the first corner to the second
                a = min(max(pu / uu, 0.0), 1.0) if uu > 0 else 0.0
                b = 0.0
            elif edge == 1:  # from the first to the third
                a = 0.0
                b = min(max(pv / vv, 0.0), 1.0) if vv > 0 else 0.0
            else:  # from the second to the third
                length = uu - 2 * uv + vv
                b = min(max((pv - pu + uu - uv) / length, 0.0), 1.0) if length > 0 else 0.0
                a = 1.0 - b
            square = (px - a * ux - b * vx) ** 2 + (py - a * uy - b * vy) ** 2 + (pz - a * uz - b * vz) ** 2
            if square < best:
                best, s, t = square, a, b
    square = (px - s * ux - t * vx) ** 2 + (py - s * uy - t * vy) ** 2 + (pz - s * uz - t * vz) ** 2
    return square, 1 - s - t, s, t
