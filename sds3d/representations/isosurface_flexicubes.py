"""FlexiCubes (Shen et al. 2023, arXiv:2308.05371): extract a mesh from signed distances, with vertices on sharp edges.

This is dual marching cubes (Nielson 2004) with weights. A cube has one vertex for every sheet of the surface that
passes through it: the weighted mean of the points where the sheet crosses the cube's edges. Each crossed edge of the
grid becomes a quad between the four cubes around it. The edges of each sheet are derived for all 256 cases when they
are first needed. Where four quads would meet in one edge, the sheets of the two cubes are separated (Wenger,
"Isosurfaces", 2013, chapter 5), so that the surface is a manifold for any distances.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from sds3d.rendering.volume import BOUND
from sds3d.representations.isosurface import (
    active_cubes,
    check_grid,
    corner_offsets,
    cube_cases,
    flat_index,
    positions,
    zero_crossing,
)

WEIGHTS = 8 + 12 + 1
"""Number of weights of a cube: alpha of its corners, beta of its edges, gamma."""

_SPREAD = 0.99  # alpha and beta stay within 1 +- this, and gamma within this share of (0, 1)

# The cubes of a quad, counter-clockwise when viewed from the upper end of the edge: the side of the cube that the edge
# is on, along each of the two axes that follow the edge's axis.
_AROUND = ((0, 0), (1, 0), (1, 1), (0, 1))


def _edges() -> list[tuple[int, int]]:
    """Return the lower and upper corners of a cube's twelve edges; edge 4 a + q runs along axis a at `_AROUND[q]`."""
    lower = [(axis, u << (axis + 1) % 3 | v << (axis + 2) % 3) for axis in range(3) for u, v in _AROUND]
    return [(corner, corner | 1 << axis) for axis, corner in lower]


EDGES = np.array(_edges())
"""(12, 2) corners of a cube's edges, with the lower corner first."""


class DualSurface(NamedTuple):
    """A `Surface`, and the crossings that it was made from.

    vertices: (V, 3) metres, first one for each sheet in a cube, then the middles of quads. faces: (F, 3) int64.
    crossings: (K, 3) metres, points where the surface crosses the edges of cubes. sheets: (K,) int64, index of the
    vertex that each crossing was averaged into.
    """

    vertices: Tensor
    faces: Tensor
    crossings: Tensor
    sheets: Tensor


def flexicubes(
    sdf: Tensor,
    offsets: Tensor | None = None,
    weights: Tensor | None = None,
    bound: float = BOUND,
    *,
    middles: bool = False,
) -> DualSurface:
    """Extract the zero level of signed distances by dual marching cubes. Vertices are differentiable in all arguments.

    sdf: (N, N, N) floating, negative inside, axes x, y, z, sampled at `grid_points(N, bound)`; a sample of exactly 0
    is outside. offsets: (N, N, N, 3), or None; moves the grid's points by tanh(offsets) half-voxels.
    weights: (N - 1, N - 1, N - 1, 21) pre-activations of each cube's weights, 8 alpha in the order of `CORNERS`, 12
    beta in the order of `EDGES` and gamma (paper, section 4.2); None: equal weights. middles: split each quad into four
    triangles around a vertex placed by gamma, for gradients; otherwise into two along its stronger diagonal.
    The surface is a closed manifold, except where it leaves the grid: there it is open.
    Raises EmptySurfaceError if no two neighbours differ in sign, ValueError for shapes that do not match.
    """
    check_grid(sdf, offsets)
    n = len(sdf)
    if weights is not None and weights.shape != (n - 1, n - 1, n - 1, WEIGHTS):
        raise ValueError(f"weights must be {(n - 1, n - 1, n - 1, WEIGHTS)}, got {tuple(weights.shape)}")
    case, cubes = active_cubes(sdf)
    table = _sheets_table(sdf.device)
    cut = _cut_apart(sdf, case, cubes, table)  # (A,) 0 or 1
    sheet = table.sheet[cut, case]  # (A, 12), -1 where an edge is not crossed
    count = table.sheets[cut, case]  # (A,)
    alpha, beta, gamma = _activated(weights, cubes, sdf)

    # One row per crossed edge of a cube: K rows, in ascending order of cubes.
    cube, edge = (sheet >= 0).nonzero().unbind(-1)
    ends = table.ends[edge]  # (K, 2)
    points = flat_index(cubes, n)[cube, None] + corner_offsets(n, sdf.device)[ends]  # (K, 2)
    values = sdf.reshape(-1).index_select(0, points.reshape(-1)).reshape(-1, 2) * alpha[cube[:, None], ends]
    low, high = (positions(points[:, end], n, offsets, bound, sdf) for end in (0, 1))
    crossings = zero_crossing(low, high, values[:, 0], values[:, 1])  # (K, 3)

    first = count.cumsum(0) - count
    sheets = first[cube] + sheet[cube, edge]  # (K,)
    share = beta[cube, edge]
    total = share.new_zeros(int(count.sum())).index_add(0, sheets, share)  # (D,)
    sums = share.new_zeros(len(total), 3).index_add(0, sheets, share[:, None] * crossings)
    vertices = sums / total[:, None]

    quads, quad_cubes = _quads(sdf, cubes, first, sheet)  # (Q, 4) vertices and (Q, 4) cubes
    strength = gamma[quad_cubes]  # (Q, 4)
    even, odd = strength[:, 0] * strength[:, 2], strength[:, 1] * strength[:, 3]
    if middles:
        corner = vertices[quads]  # (Q, 4, 3)
        along, across = (corner[:, 0] + corner[:, 2]) / 2, (corner[:, 1] + corner[:, 3]) / 2
        middle = (even[:, None] * along + odd[:, None] * across) / (even + odd)[:, None]
        peak = len(vertices) + torch.arange(len(quads), device=sdf.device)
        faces = torch.stack([torch.stack([quads[:, k], quads[:, (k + 1) % 4], peak], -1) for k in range(4)], 1)
        return DualSurface(torch.cat([vertices, middle]), faces.reshape(-1, 3), crossings, sheets)
    turned = torch.where((even >= odd)[:, None], quads, quads.roll(-1, 1))  # the diagonal runs from 0 to 2
    faces = torch.stack([turned[:, [0, 1, 2]], turned[:, [0, 2, 3]]], 1)
    return DualSurface(vertices, faces.reshape(-1, 3), crossings, sheets)


def deviation(surface: DualSurface) -> Tensor:
    """Return the regulariser L_dev (eq. 8 of the paper) as a mean over vertices, in metres; 0 for a regular surface.

    For each sheet's vertex, it is the mean absolute deviation of the distances to the vertex's crossings.
    """
    distance = (surface.vertices.index_select(0, surface.sheets) - surface.crossings).square().sum(-1)
    distance = (distance + 1e-16).sqrt()  # (K,); the root's slope is infinite at 0
    zeros = distance.new_zeros(len(surface.vertices))
    count = zeros.index_add(0, surface.sheets, torch.ones_like(distance))  # (V,) at least 3, or 0 for middles of quads
    mean = zeros.index_add(0, surface.sheets, distance) / count.clamp(min=1)
    spread = (distance - mean.index_select(0, surface.sheets)).abs() / count[surface.sheets]
    return spread.sum() / (count > 0).sum()


def _activated(weights: Tensor | None, cubes: Tensor, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the positive weights alpha (A, 8), beta (A, 12) and gamma (A,) of the active cubes."""
    if weights is None:
        rows = like.new_zeros(len(cubes), WEIGHTS)
    else:
        m = len(weights)
        rows = weights.reshape(-1, WEIGHTS).index_select(0, flat_index(cubes, m))
    alpha, beta, gamma = rows.split((8, 12, 1), dim=-1)
    return (
        1 + _SPREAD * torch.tanh(alpha),
        1 + _SPREAD * torch.tanh(beta),
        (1 - _SPREAD) / 2 + _SPREAD * torch.sigmoid(gamma[:, 0]),
    )


def _quads(sdf: Tensor, cubes: Tensor, first: Tensor, sheet: Tensor) -> tuple[Tensor, Tensor]:
    """Return the four vertices and the four cubes around each crossed edge inside the grid: two (Q, 4) int64.

    first: (A,) index of a cube's first vertex. sheet: (A, 12) which of the cube's vertices an edge belongs to.
    """
    m = len(sdf) - 1
    inside = sdf.detach() < 0
    place = torch.full((m**3,), -1, dtype=torch.int64, device=sdf.device)
    place[flat_index(cubes, m)] = torch.arange(len(cubes), device=sdf.device)
    crossed, lowers = [], []
    for axis in range(3):
        # Edges on the grid's faces have fewer than four cubes.
        lower, upper = inside.narrow(axis, 0, m), inside.narrow(axis, 1, m)
        for other in ((axis + 1) % 3, (axis + 2) % 3):
            lower, upper = lower.narrow(other, 1, m - 1), upper.narrow(other, 1, m - 1)
        crossed.append((lower != upper).reshape(-1))
        lowers.append(lower.reshape(-1))
    found = torch.cat(crossed).nonzero()[:, 0]  # (Q,) edges of all axes at once, because a search waits for a GPU
    leaves = torch.cat(lowers)[found][:, None]  # the lower end is inside: the edge leads outwards
    axis, index = found // (m * (m - 1) ** 2), found % (m * (m - 1) ** 2)
    width, height = m - 1 + (axis == 2).long(), m - 1 + (axis == 1).long()
    across, last = (one_hot((axis + k) % 3, 3) for k in (1, 2))  # (Q, 3)
    start = torch.stack([index // (width * height), index // width % height, index % width], -1) + across + last
    around = torch.stack([place[flat_index(start - u * across - v * last, m)] for u, v in _AROUND], -1)  # (Q, 4)
    around = torch.where(leaves, around, around.flip(-1))
    quarter = torch.arange(4, device=sdf.device)
    edge = 4 * axis[:, None] + torch.where(leaves, quarter, quarter.flip(-1))  # (Q, 4)
    return first[around] + sheet[around, edge], around


def _cut_apart(sdf: Tensor, case: Tensor, cubes: Tensor, table: _SheetsTable) -> Tensor:
    """Return (A,) 1 if a cube's sheets are separated, at a face where a sheet of both cubes touches itself; else 0."""
    m = len(sdf) - 1
    cut = torch.zeros_like(case)
    suspects = (table.pinched[case] >= 0).nonzero()[:, 0]
    face = table.pinched[case[suspects]]  # (S,) 2 axis + side
    ahead = one_hot(face // 2, 3) * (2 * (face % 2) - 1)[:, None]
    neighbour = cubes[suspects] + ahead  # (S, 3)
    within = ((neighbour >= 0) & (neighbour < m)).all(-1)
    x, y, z = neighbour.clamp(0, m - 1).unbind(-1)
    other = cube_cases(sdf)[x, y, z].long()
    cut[suspects] = (within & (table.pinched[other] == (face ^ 1))).long()
    return cut


class _SheetsTable(NamedTuple):
    """The sheets that a cube's crossed edges form, by case; at index 1, with the links in the pinched face swapped.

    sheet: (2, 256, 12) number of the sheet that an edge belongs to, -1 if it is not crossed. sheets: (2, 256) number of
    sheets. pinched: (256,) the face, 2 axis + side, whose four edges all belong to one sheet; -1 if there is none.
    ends: (12, 2) `EDGES`.
    """

    sheet: Tensor
    sheets: Tensor
    pinched: Tensor
    ends: Tensor


@cache
def _sheets_table(device: torch.device) -> _SheetsTable:
    sheet = torch.full((2, 256, 12), -1)
    pinched = torch.full((256,), -1)
    for case in range(256):
        sheet[0, case] = sheet[1, case] = torch.tensor(_sheets(case, turned=-1))
        for face in range(6):
            own = sheet[0, case, _face_edges(face)]
            if (own >= 0).all() and (own == own[0]).all():
                pinched[case] = face  # no case has two such faces
                sheet[1, case] = torch.tensor(_sheets(case, turned=face))
    tables = sheet, sheet.amax(-1) + 1, pinched, torch.as_tensor(EDGES)
    return _SheetsTable(*(table.to(device) for table in tables))


def _face_edges(face: int) -> list[int]:
    """Return the four edges of face 2 axis + side."""
    axis, side = divmod(face, 2)
    return [edge for edge in range(12) if edge // 4 != axis and EDGES[edge, 0] >> axis & 1 == side]


def _sheets(case: int, turned: int) -> list[int]:
    """Return the sheet of each edge, numbered from 0 in the order of their first edges; -1 if an edge is not crossed.

    Two crossed edges of a face are linked. Of four, the two pairs that meet in an inside corner are linked, which
    separates inside corners; in the face `turned`, the pairs that meet in an outside corner.
    """
    inside = [bool(case >> corner & 1) for corner in range(8)]
    crossed = [inside[low] != inside[high] for low, high in EDGES]
    label = list(range(12))
    for face in range(6):
        own = [edge for edge in _face_edges(face) if crossed[edge]]
        for edge in own:
            for other in own:
                shared = set(EDGES[edge].tolist()) & set(EDGES[other].tolist())
                if len(own) == 2 or any(inside[corner] != (face == turned) for corner in shared):
                    old, new = label[edge], label[other]
                    label = [new if value == old else value for value in label]
    roots = list(dict.fromkeys(label[edge] for edge in range(12) if crossed[edge]))
    return [roots.index(label[edge]) if crossed[edge] else -1 for edge in range(12)]
