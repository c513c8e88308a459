"""How a multi-resolution hash encoding changes with the points, with NVIDIA Warp: the rules of `hash_slope_numba`."""

# Kernels are Warp's language: pyright reads them as Python and finds errors where there are none.
# pyright: reportInvalidTypeForm=false, reportMissingImports=false, reportOperatorIssue=false
# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportCallIssue=false, reportIndexIssue=false, reportAttributeAccessIssue=false

from typing import Any

import torch
import warp as wp
from torch import Tensor

from sds3d.rendering.hash_numba import FEATURES
from sds3d.rendering.hash_warp import cell_of, entry_of, on_device
from sds3d.rendering.launch_warp import launch

wp.set_module_options({"enable_backward": False})


@wp.func
def _inside(point: wp.vec3, cells: wp.int32):
    """Return the factors from cells to the unit cube's coordinates; 0 along axes that the point is outside of."""
    n = wp.float32(cells)
    x = wp.where(point[0] >= 0.0 and point[0] <= 1.0, n, 0.0)
    y = wp.where(point[1] >= 0.0 and point[1] <= 1.0, n, 0.0)
    return wp.vec3(x, y, wp.where(point[2] >= 0.0 and point[2] <= 1.0, n, 0.0))


@wp.func
def _weight_slope(place: wp.vec3, corner: wp.int32):
    """Return the gradient of a corner's weight by the place in the cell."""
    sx = wp.where((corner >> 2) == 1, 1.0, -1.0)
    sy = wp.where(((corner >> 1) & 1) == 1, 1.0, -1.0)
    sz = wp.where((corner & 1) == 1, 1.0, -1.0)
    x = wp.where(sx > 0.0, place[0], 1.0 - place[0])
    y = wp.where(sy > 0.0, place[1], 1.0 - place[1])
    z = wp.where(sz > 0.0, place[2], 1.0 - place[2])
    return wp.vec3(sx * y * z, sy * x * z, sz * x * y)


@wp.kernel
def _slope(
    points: wp.array(dtype=wp.vec3),
    table: wp.array2d(dtype=wp.vec2),
    cells: wp.array(dtype=wp.int32),
    given: wp.array2d(dtype=wp.vec2),
    out: wp.array(dtype=wp.vec3),
):
    p = wp.tid()
    total = wp.vec3()
    for level in range(table.shape[0]):
        cell = cell_of(points[p], cells[level])
        inside = _inside(points[p], cells[level])
        for corner in range(8):
            entry = entry_of(cell, corner, cells[level], table.shape[1])
            change = wp.cw_mul(_weight_slope(cell.place, corner), inside)
            total += change * wp.dot(table[level, entry], given[p, level])
    out[p] = total


@wp.kernel
def _along(
    points: wp.array(dtype=wp.vec3),
    table: wp.array2d(dtype=wp.vec2),
    cells: wp.array(dtype=wp.int32),
    given: wp.array2d(dtype=wp.vec2),
    direction: wp.array(dtype=wp.vec3),
    d_table: wp.array2d(dtype=wp.vec2),
    d_given: wp.array2d(dtype=wp.vec2),
):
    level, p = wp.tid()
    cell = cell_of(points[p], cells[level])
    along = wp.cw_mul(direction[p], _inside(points[p], cells[level]))
    total = wp.vec2()
    for corner in range(8):
        entry = entry_of(cell, corner, cells[level], table.shape[1])
        weight = wp.dot(_weight_slope(cell.place, corner), along)
        total += weight * table[level, entry]
        wp.atomic_add(d_table, level, entry, weight * given[p, level])
    d_given[p, level] = total


class HashSlope(torch.autograd.Function):
    """The slope (P, 3) of points (P, 3), tables (L, T, 2), cells (L,) and weights (P, 2 L), like `hash_slope_numba`.

    All float32, the cells int64 on the CPU. Differentiable in the tables and in the weights.
    """

    @staticmethod
    def forward(ctx: Any, points: Tensor, table: Tensor, cells: Tensor, given: Tensor) -> Tensor:
        """See the class."""
        points, table, given = (tensor.detach().contiguous() for tensor in (points, table, given))
        cells = on_device(tuple(cells.tolist()), points.device)
        out = torch.empty_like(points)
        launch(_slope, (len(points),), points, table, cells, given.view(-1, len(table), FEATURES), out)
        ctx.save_for_backward(points, table, cells, given)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the tables and of the weights."""
        points, table, cells, given = ctx.saved_tensors
        d_table, d_given = torch.zeros_like(table), torch.empty_like(given)
        shape = (-1, len(table), FEATURES)
        launch(
            _along, (len(table), len(points)),
            points, table, cells, given.view(shape), gradients[0].contiguous(), d_table, d_given.view(shape),
        )  # fmt: skip
        return None, d_table, None, d_given
