"""Deep marching tetrahedra (Shen et al. 2021, arXiv:2111.04276): extract a mesh from signed distances, differentiably.

Each cube of the grid is cut into six tetrahedra along one diagonal (Kuhn 1960), so that neighbouring cubes share the
faces of their tetrahedra. An edge whose ends differ in sign has a vertex where the linearly interpolated distance is
zero. The triangles of all 256 cases of a cube are derived from this construction when they are first needed.
"""

from __future__ import annotations

from functools import cache
from itertools import permutations
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sds3d.geometry.mesh import EmptySurfaceError
from sds3d.rendering.volume import BOUND

CORNERS = np.array([[corner >> axis & 1 for axis in range(3)] for corner in range(8)])
"""(8, 3) x, y, z of a cube's corners, 0 or 1: bit k of a corner's number is its coordinate on axis k."""

_TINY = 1e-12  # with a smaller difference of distances, the position of the surface between two points is undefined


class Surface(NamedTuple):
    """Triangles, wound counter-clockwise when viewed from outside, where distances are positive.

    vertices: (V, 3) metres. faces: (F, 3) int64.
    """

    vertices: Tensor
    faces: Tensor


def dmtet(sdf: Tensor, offsets: Tensor | None = None, bound: float = BOUND) -> Surface:
    """Extract the zero level of signed distances by marching tetrahedra. Vertices are differentiable in both arguments.

    sdf: (N, N, N) floating, negative inside, axes x, y, z, sampled at `grid_points(N, bound)`; a sample of exactly 0
    is outside. offsets: (N, N, N, 3), or None; moves the grid's points by tanh(offsets) half-voxels.
    The surface is a closed manifold, except where it leaves the grid: there it is open.
    Raises EmptySurfaceError if no two neighbours differ in sign, ValueError for shapes that do not match.
    """
    check_grid(sdf, offsets)
    case, cubes = active_cubes(sdf)
    n = len(sdf)
    # Positions in the flat grid of each triangle's three edges, and their directions.
    table = _tetrahedra_table(sdf.device)
    count = table.triangles[case]  # (A,) triangles of each cube
    owner = torch.repeat_interleave(torch.arange(len(case), device=sdf.device), count)  # (F,)
    first = count.cumsum(0) - count
    row = (table.start[case] - first)[owner] + torch.arange(len(owner), device=sdf.device)
    edges = table.edges[row]  # (F, 3, 2) lower corner and direction
    keys = 8 * (flat_index(cubes, n)[owner, None] + corner_offsets(n, sdf.device)[edges[..., 0]]) + edges[..., 1]
    used, faces = numbered(keys, 8 * n**3)
    low = used // 8  # (V,)
    high = low + corner_offsets(n, sdf.device)[used % 8]
    flat = sdf.reshape(-1)
    vertices = zero_crossing(
        positions(low, n, offsets, bound, sdf),
        positions(high, n, offsets, bound, sdf),
        flat.index_select(0, low),
        flat.index_select(0, high),
    )
    return Surface(vertices, faces)


def grid_points(resolution: int, bound: float = BOUND) -> Tensor:
    """Return grid points (N, N, N, 3) float32, axes x, y, z, from -bound to bound metres. N is `resolution`."""
    axis = torch.linspace(-bound, bound, resolution)
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)


def check_grid(sdf: Tensor, offsets: Tensor | None) -> None:
    """Raise ValueError if the distances are not a cube or the offsets do not match them."""
    n = len(sdf) if sdf.ndim else 0
    if sdf.shape != (n, n, n) or n < 2:
        raise ValueError(f"sdf must be a cube of at least 2 samples per side, (N, N, N), got {tuple(sdf.shape)}")
    if offsets is not None and offsets.shape != (n, n, n, 3):
        raise ValueError(f"offsets must be {(n, n, n, 3)}, one for each sample of the sdf, got {tuple(offsets.shape)}")


def active_cubes(sdf: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cubes that the surface passes through: cases (A,) in 1 to 254 and lowest corners (A, 3), both int64.

    Bit c of a case is set if corner c is inside. Raises EmptySurfaceError if there are no such cubes.
    """
    case = cube_cases(sdf)
    cubes = ((case > 0) & (case < 255)).nonzero()  # (A, 3)
    if not len(cubes):
        side = "inside" if bool((sdf < 0).any()) else "outside"
        raise EmptySurfaceError(
            f"every sample of the signed distances is {side}, so there is no surface: start from a shape inside the "
            "grid, or lower the learning rate of the sdf"
        )
    return case[cubes[:, 0], cubes[:, 1], cubes[:, 2]].long(), cubes


def cube_cases(sdf: Tensor) -> Tensor:
    """Return which corners of each cube are inside, one bit per corner: (N - 1, N - 1, N - 1) uint8."""
    m = len(sdf) - 1
    case = (sdf.detach() < 0).to(torch.uint8)
    for axis in range(3):  # 2, 4, then 8 corners in each value
        case = case.narrow(axis, 0, m) | case.narrow(axis, 1, m) << (1 << axis)
    return case


def flat_index(points: Tensor, n: int) -> Tensor:
    """Return the indices (...) of grid coordinates (..., 3) in a flattened (n, n, n) grid."""
    return (points[..., 0] * n + points[..., 1]) * n + points[..., 2]


@cache  # a copy to a GPU waits for it
def corner_offsets(n: int, device: torch.device) -> Tensor:
    """Return the index of each corner of a cube minus that of its lowest corner, in a flattened grid: (8,) int64."""
    return torch.as_tensor(CORNERS @ np.array([n * n, n, 1]), device=device)


def positions(index: Tensor, n: int, offsets: Tensor | None, bound: float, like: Tensor) -> Tensor:
    """Return the positions (P, 3) in metres of grid points, moved by `offsets`. index: (P,) in the flattened grid.

    like: a tensor of the result's dtype and device.
    """
    coordinates = torch.stack([index // (n * n), index // n % n, index % n], dim=-1).to(like)
    if offsets is not None:
        coordinates = coordinates + 0.5 * torch.tanh(offsets.reshape(-1, 3).index_select(0, index))
    return (2 * bound / (n - 1)) * coordinates - bound


def zero_crossing(a: Tensor, b: Tensor, value_a: Tensor, value_b: Tensor) -> Tensor:
    """Return the points (..., 3) between a and b (..., 3) where a linear function is zero.

    value_a, value_b: its values (...) at a and b, of different signs.
    """
    difference = value_a - value_b
    difference = torch.where(difference < 0, difference.clamp(max=-_TINY), difference.clamp(min=_TINY))
    return a + (value_a / difference)[..., None] * (b - a)


def numbered(keys: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Return the distinct values of `keys` in ascending order, and the index of each key among them.

    Keys are in [0, limit).
    """
    # A table of marks is several times faster than sorting.
    mark = torch.zeros(limit, dtype=torch.bool, device=keys.device)
    mark.index_fill_(0, keys.reshape(-1), True)
    distinct = mark.nonzero()[:, 0]
    place = torch.empty(limit, dtype=torch.int64, device=keys.device)
    place[distinct] = torch.arange(len(distinct), device=keys.device)
    return distinct, place[keys]


class _TetrahedraTable(NamedTuple):
    """The triangles of a cube's six tetrahedra, for its 256 cases.

    triangles, start: (256,) number of triangles and index of the first in `edges`. edges: (T, 3, 2) the three edges of
    each triangle, as lower corner and direction; the upper corner is their sum.
    """

    triangles: Tensor
    start: Tensor
    edges: Tensor


@cache
def _tetrahedra_table(device: torch.device) -> _TetrahedraTable:
    rows: list[list[tuple[int, int]]] = []
    count = []
    for case in range(256):
        before = len(rows)
        for first, second, _ in permutations((1, 2, 4)):
            # A tetrahedron's corners: a walk along the three axes from the lowest corner of the cube to the highest.
            rows += _tetrahedron_triangles((0, first, first + second, 7), case)
        count.append(len(rows) - before)
    counts = torch.tensor(count)
    tables = counts, counts.cumsum(0) - counts, torch.tensor(rows)
    return _TetrahedraTable(*(table.to(device) for table in tables))


def _tetrahedron_triangles(corners: tuple[int, ...], case: int) -> list[list[tuple[int, int]]]:
    """Return the triangles between a tetrahedron's inner and outer corners, as edges (lower corner, direction)."""
    inner = [corner for corner in corners if case >> corner & 1]
    outer = [corner for corner in corners if not case >> corner & 1]
    if not inner or not outer:
        return []
    if len(inner) == 2:  # a quad: neighbouring edges share a corner, and so a face of the tetrahedron
        loop = [(inner[0], outer[0]), (inner[0], outer[1]), (inner[1], outer[1]), (inner[1], outer[0])]
    else:
        loop = [(i, o) for i in inner for o in outer]
    outwards = CORNERS[outer].mean(0) - CORNERS[inner].mean(0)
    middle = np.array([(CORNERS[i] + CORNERS[o]) / 2 for i, o in loop])  # (3 or 4, 3)
    if np.cross(middle[1] - middle[0], middle[2] - middle[0]) @ outwards < 0:
        loop.reverse()
    # Along the walk, corners only gain bits, so the smaller number is the lower corner.
    edges = [(min(i, o), i ^ o) for i, o in loop]
    return [[edges[0], edges[k], edges[k + 1]] for k in range(1, len(edges) - 1)]
