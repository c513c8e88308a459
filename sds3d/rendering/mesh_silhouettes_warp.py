"""Silhouettes of differentiable meshes with NVIDIA Warp: mix the pixels beside them, forward and backward.

The rules are those of `mesh_antialias_numba`. `mesh_warp` chooses the edges. A thread takes a pixel. In the backward
pass it adds to the gradients of its neighbours and of vertices by atomics, on the CPU in a fixed order.
"""

# Kernels are Warp's language: pyright reads them as Python and finds errors where there are none.
# pyright: reportInvalidTypeForm=false, reportMissingImports=false, reportOperatorIssue=false
# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportCallIssue=false, reportIndexIssue=false, reportAttributeAccessIssue=false

from typing import Any

import torch
import warp as wp
from torch import Tensor

from sds3d.rendering import mesh_warp
from sds3d.rendering.launch_warp import launch
from sds3d.rendering.mesh_edges import MeshEdges

wp.set_module_options({"enable_backward": False})

_Screen, _Ends = wp.array2d(dtype=wp.vec3), wp.array(dtype=wp.vec2i)  # (B, V), see `mesh_surface_warp`; (E,)
_Crossings, _Pictures = wp.array4d(dtype=wp.int32), wp.array4d(dtype=wp.float32)


@wp.struct
class _Side:
    """What a neighbour covers of a pixel. edge: -1 if nothing. along: share of the edge up to the crossing."""

    weight: wp.float32
    edge: wp.int32
    along: wp.float32
    slope: wp.float32
    row: wp.int32
    column: wp.int32


@wp.func
def _side(screen: _Screen, ends: _Ends, crossing: _Crossings, view: int, row: int, column: int, side: int):
    """Return the neighbour on the right (0), below (1), on the left (2) or above (3)."""
    result = _Side()
    result.edge = -1
    axis = side % 2
    step = wp.where(side < 2, 1, -1)
    result.row = row + wp.where(axis == 1, step, 0)
    result.column = column + wp.where(axis == 0, step, 0)
    first_row = wp.min(row, result.row)
    first_column = wp.min(column, result.column)
    if first_row < 0 or first_column < 0:
        return result
    edge = crossing[view, axis, first_row, first_column]
    if edge < 0:
        return result
    start = screen[view, ends[edge][0]]
    end = screen[view, ends[edge][1]]
    line = wp.float32(wp.where(axis == 0, first_row, first_column)) + 0.5
    pixel = wp.float32(wp.where(axis == 0, first_column, first_row)) + 0.5
    across = end[1 - axis] - start[1 - axis]
    along = (line - start[1 - axis]) / across
    place = start[axis] + along * (end[axis] - start[axis]) - pixel  # 0 at the first centre, 1 at the next
    weight = wp.where(side < 2, 0.5 - place, place - 0.5)
    if weight > 0.0:
        result.weight = weight
        result.edge = edge
        result.along = along
        result.slope = (end[axis] - start[axis]) / across
    return result


@wp.kernel
def _blend(pictures: _Pictures, screen: _Screen, ends: _Ends, crossing: _Crossings, out: _Pictures):
    view, row, column = wp.tid()
    total = wp.float32(0.0)
    for side in range(4):
        total += _side(screen, ends, crossing, view, row, column, side).weight
    scale = 1.0 / wp.max(total, 1.0)  # at a tip narrower than a pixel, take the mean of the neighbours
    for k in range(pictures.shape[3]):
        out[view, row, column, k] = pictures[view, row, column, k]
    if total > 0.0:
        for side in range(4):
            other = _side(screen, ends, crossing, view, row, column, side)
            if other.edge >= 0:
                for k in range(pictures.shape[3]):
                    change = pictures[view, other.row, other.column, k] - pictures[view, row, column, k]
                    out[view, row, column, k] = out[view, row, column, k] + scale * other.weight * change


@wp.kernel
def _blend_backward(
    pictures: _Pictures,
    screen: _Screen,
    ends: _Ends,
    crossing: _Crossings,
    d_out: _Pictures,
    d_pictures: _Pictures,
    d_screen: _Screen,
):
    """Add to the gradients. d_pictures: a copy of d_out before."""
    view, row, column = wp.tid()
    total = wp.float32(0.0)
    for side in range(4):
        total += _side(screen, ends, crossing, view, row, column, side).weight
    if total == 0.0:
        return
    scale = 1.0 / wp.max(total, 1.0)
    pulls = wp.vec4()  # d loss / d weight of each neighbour, before limiting the total weight
    mean = wp.float32(0.0)
    for side in range(4):
        other = _side(screen, ends, crossing, view, row, column, side)
        if other.edge >= 0:
            weight = other.weight * scale
            pull = wp.float32(0.0)
            for k in range(pictures.shape[3]):
                given = d_out[view, row, column, k]
                wp.atomic_add(d_pictures, view, other.row, other.column, k, weight * given)
                wp.atomic_add(d_pictures, view, row, column, k, -weight * given)
                pull += given * (pictures[view, other.row, other.column, k] - pictures[view, row, column, k])
            pulls[side] = pull
            if total > 1.0:
                mean += weight * pull
    for side in range(4):
        other = _side(screen, ends, crossing, view, row, column, side)
        if other.edge >= 0:
            d_place = wp.where(side < 2, -scale, scale) * (pulls[side] - mean)
            axis = side % 2
            i = ends[other.edge][0]
            j = ends[other.edge][1]
            of_start = d_place * (1.0 - other.along)
            of_end = d_place * other.along
            if axis == 0:
                wp.atomic_add(d_screen, view, i, wp.vec3(of_start, -of_start * other.slope, 0.0))
                wp.atomic_add(d_screen, view, j, wp.vec3(of_end, -of_end * other.slope, 0.0))
            else:
                wp.atomic_add(d_screen, view, i, wp.vec3(-of_start * other.slope, of_start, 0.0))
                wp.atomic_add(d_screen, view, j, wp.vec3(-of_end * other.slope, of_end, 0.0))


class Antialias(torch.autograd.Function):
    """Mix the pixels at silhouettes in pictures (B, H, W, C)."""

    @staticmethod
    def forward(
        ctx: Any, pictures: Tensor, screen: Tensor, faces: Tensor, edges: MeshEdges, distance: Tensor
    ) -> Tensor:
        """screen: (B, V, 3). faces: (F, 3) int32. distance: (B, H, W), z of what each pixel shows."""
        pictures, screen = pictures.detach().contiguous(), screen.detach().contiguous()
        crossing = mesh_warp.crossings(screen, faces, edges, distance)
        ends, out = edges.vertices.int().contiguous(), torch.empty_like(pictures)
        launch(_blend, pictures.shape[:3], pictures, screen, ends, crossing, out)
        ctx.save_for_backward(pictures, screen, ends, crossing)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the pictures and the screen positions."""
        pictures, screen, ends, crossing = ctx.saved_tensors
        given = gradients[0].contiguous()
        results = given.clone(), torch.zeros_like(screen)
        launch(_blend_backward, pictures.shape[:3], pictures, screen, ends, crossing, given, *results)
        return *results, None, None, None
