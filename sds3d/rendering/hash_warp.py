"""Multi-resolution hash encoding with NVIDIA Warp, forward and backward (Mueller et al. 2022, arXiv:2201.05989).

The rules are those of `hash_numba`. A thread takes a point in a level; levels come one after the other, so that a table
stays in the GPU's cache. In the backward pass threads add to the table's gradient by atomics. On the CPU, Warp runs one
thread after the other: sums have a fixed order there, and on CUDA they do not.
"""

# Kernels are Warp's language: pyright reads them as Python and finds errors where there are none.
# pyright: reportInvalidTypeForm=false, reportMissingImports=false, reportOperatorIssue=false
# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportCallIssue=false, reportIndexIssue=false, reportAttributeAccessIssue=false

from functools import cache
from typing import Any

import torch
import warp as wp
from torch import Tensor

from sds3d.rendering.hash_numba import FEATURES, PRIMES
from sds3d.rendering.launch_warp import launch

wp.set_module_options({"enable_backward": False})

_P1, _P2 = wp.constant(wp.uint32(PRIMES[1])), wp.constant(wp.uint32(PRIMES[2]))
_Table = wp.array2d(dtype=wp.vec2)  # (L, T)


@wp.struct
class _Cell:
    """A point's cell in a level, and its place in the cell."""

    x: wp.uint32
    y: wp.uint32
    z: wp.uint32
    place: wp.vec3


@wp.func
def _axis_cell(scaled: wp.float32, cells: wp.int32):
    return wp.uint32(wp.clamp(wp.int32(scaled), 0, cells - 1))  # NaN also gives a valid cell


@wp.func
def cell_of(point: wp.vec3, cells: wp.int32):
    """Return the cell of a point in the unit cube; one outside has that of the border."""
    n = wp.float32(cells)
    x = wp.clamp(point[0], 0.0, 1.0) * n
    y = wp.clamp(point[1], 0.0, 1.0) * n
    z = wp.clamp(point[2], 0.0, 1.0) * n
    cell = _Cell()
    cell.x = _axis_cell(x, cells)
    cell.y = _axis_cell(y, cells)
    cell.z = _axis_cell(z, cells)
    cell.place = wp.vec3(x - wp.float32(cell.x), y - wp.float32(cell.y), z - wp.float32(cell.z))
    return cell


@wp.func
def entry_of(cell: _Cell, corner: wp.int32, cells: wp.int32, entries: wp.int32):
    """Return the table's entry of a corner, z fastest: a grid if its corners fit, else equation 4's hash."""
    x = cell.x + wp.uint32(corner >> 2)
    y = cell.y + wp.uint32((corner >> 1) & 1)
    z = cell.z + wp.uint32(corner & 1)
    side = wp.int64(cells + 1)
    if side * side * side <= wp.int64(entries):
        row = wp.uint32(cells + 1)
        return wp.int32((x * row + y) * row + z)
    return wp.int32((x ^ (y * _P1) ^ (z * _P2)) & wp.uint32(entries - 1))


@wp.func
def _weight(place: wp.vec3, corner: wp.int32):
    x = wp.where((corner >> 2) == 1, place[0], 1.0 - place[0])
    y = wp.where(((corner >> 1) & 1) == 1, place[1], 1.0 - place[1])
    return x * y * wp.where((corner & 1) == 1, place[2], 1.0 - place[2])


@wp.kernel
def _encode(
    points: wp.array(dtype=wp.vec3), table: _Table, cells: wp.array(dtype=wp.int32), out: wp.array2d(dtype=wp.vec2)
):
    level, p = wp.tid()
    cell = cell_of(points[p], cells[level])
    total = wp.vec2()
    for corner in range(8):
        entry = entry_of(cell, corner, cells[level], table.shape[1])
        total += _weight(cell.place, corner) * table[level, entry]
    out[p, level] = total


@wp.kernel
def _scatter(
    points: wp.array(dtype=wp.vec3),
    d_out: wp.array2d(dtype=wp.vec2),
    cells: wp.array(dtype=wp.int32),
    gradient: _Table,
):
    level, p = wp.tid()
    cell = cell_of(points[p], cells[level])
    given = d_out[p, level]
    for corner in range(8):
        entry = entry_of(cell, corner, cells[level], gradient.shape[1])
        wp.atomic_add(gradient, level, entry, _weight(cell.place, corner) * given)


# ---- torch ----


class HashEncode(torch.autograd.Function):
    """Encode points (P, 3) by tables (L, T, 2) with cells (L,) per side: features (P, 2 L), like `hash_numba.encode`.

    All float32, the cells int64 on the CPU. Differentiable in the tables.
    """

    @staticmethod
    def forward(ctx: Any, points: Tensor, table: Tensor, cells: Tensor) -> Tensor:
        """See the class."""
        points, table = points.detach().contiguous(), table.detach().contiguous()
        cells = on_device(tuple(cells.tolist()), points.device)
        out = points.new_empty(len(points), FEATURES * len(table))
        launch(_encode, (len(table), len(points)), points, table, cells, out.view(-1, len(table), FEATURES))
        ctx.save_for_backward(points, cells)
        ctx.shape = table.shape
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the tables."""
        points, cells = ctx.saved_tensors
        d_out = gradients[0].contiguous().view(-1, len(cells), FEATURES)
        gradient = points.new_zeros(ctx.shape)
        launch(_scatter, (len(cells), len(points)), points, d_out, cells, gradient)
        return None, gradient, None


@cache
def on_device(cells: tuple[int, ...], device: torch.device) -> Tensor:
    """Copy the cells once: a copy in every step would wait for the device."""
    return torch.tensor(cells, dtype=torch.int32, device=device)
