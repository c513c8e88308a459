"""Volume rendering of a dense grid with NVIDIA Warp: forward, and an analytic backward pass. A thread takes a ray.

The rules are those of `volume_numba`. The backward pass marches again, front to back, so that memory is that of the
rays and the grid, whatever the number of samples. Threads add to the grid's gradient by atomics. On the CPU, Warp runs
one thread after the other: sums have a fixed order there, and on CUDA they do not.
"""

# Kernels are Warp's language: pyright reads them as Python and finds errors where there are none.
# pyright: reportInvalidTypeForm=false, reportMissingImports=false, reportOperatorIssue=false
# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportCallIssue=false, reportIndexIssue=false, reportAttributeAccessIssue=false

from typing import Any

import torch
import warp as wp
from torch import Tensor

from sds3d.rendering.launch_warp import launch
from sds3d.rendering.rays_warp import Cells, Floats, Ints, Vectors, cell_of, next_occupied, ray_at, time_of
from sds3d.rendering.volume_numba import MIN_TRANSMITTANCE

wp.set_module_options({"enable_backward": False})

_Grid = wp.array3d(dtype=wp.vec4)  # density per metre, r, g, b


@wp.struct
class _Look:
    """A place in the grid: its cell and place in it, values, and the density's slope per voxel."""

    cell: wp.vec3i
    place: wp.vec3
    value: wp.vec4
    slope: wp.vec3


@wp.func
def _weights(place: wp.vec3, corner: wp.int32):
    """Return the trilinear weight of a corner of the cell, and its derivatives in the place."""
    a = wp.where((corner >> 2) == 1, 1.0, -1.0)
    b = wp.where(((corner >> 1) & 1) == 1, 1.0, -1.0)
    c = wp.where((corner & 1) == 1, 1.0, -1.0)
    x = wp.where(a > 0.0, place[0], 1.0 - place[0])
    y = wp.where(b > 0.0, place[1], 1.0 - place[1])
    z = wp.where(c > 0.0, place[2], 1.0 - place[2])
    return x * y * z, wp.vec3(a * y * z, x * b * z, x * y * c)


@wp.func
def _look(grid: _Grid, place: wp.vec3):
    look = _Look()
    cell = cell_of(place, grid.shape[0] - 2)
    inside = place - wp.vec3(wp.float32(cell[0]), wp.float32(cell[1]), wp.float32(cell[2]))
    value = wp.vec4()
    slope = wp.vec3()
    for corner in range(8):
        weight, steepness = _weights(inside, corner)
        voxel = grid[cell[0] + (corner >> 2), cell[1] + ((corner >> 1) & 1), cell[2] + (corner & 1)]
        value += weight * voxel
        slope += steepness * voxel[0]
    look.cell = cell
    look.place = inside
    look.value = value
    look.slope = slope
    return look


@wp.kernel
def _forward(
    grid: _Grid,
    skip: Cells,
    scale: wp.float32,
    starts: Vectors,
    slopes: Vectors,
    near: Floats,
    step: Floats,
    steps: Ints,
    jitter: Floats,
    rgb: Vectors,
    alpha: Floats,
    depth: Floats,
    normal: Vectors,
    depth_square: Floats,
    ends: Ints,
):
    r = wp.tid()
    ray = ray_at(r, starts, slopes, near, step, steps, jitter)
    light = wp.float32(1.0)  # transmittance
    color = wp.vec3()
    outward = wp.vec3()
    reach = wp.float32(0.0)
    square = wp.float32(0.0)
    end = wp.int32(0)
    i = next_occupied(ray, 0, skip)
    while i < ray.steps:
        t = time_of(ray, i)
        look = _look(grid, ray.start + t * ray.slope)
        after = light * wp.exp(-look.value[0] * ray.step)
        weight = light - after
        light = after
        color += weight * wp.vec3(look.value[1], look.value[2], look.value[3])
        outward -= weight * look.slope
        reach += weight * t
        square += weight * t * t
        end = i + 1
        i = next_occupied(ray, wp.where(light > MIN_TRANSMITTANCE, i + 1, ray.steps), skip)
    rgb[r] = color
    alpha[r] = 1.0 - light
    depth[r] = reach
    normal[r] = outward * scale
    depth_square[r] = square
    ends[r] = end


@wp.kernel
def _backward(
    grid: _Grid,
    skip: Cells,
    scale: wp.float32,
    starts: Vectors,
    slopes: Vectors,
    near: Floats,
    step: Floats,
    ends: Ints,
    jitter: Floats,
    rgb: Vectors,
    alpha: Floats,
    depth: Floats,
    normal: Vectors,
    depth_square: Floats,
    d_rgb: Vectors,
    d_alpha: Floats,
    d_depth: Floats,
    d_normal: Vectors,
    d_depth_square: Floats,
    gradient: _Grid,
):
    """Add a ray's gradient. ends: the number of its steps up to the last sample of the forward pass."""
    r = wp.tid()
    ray = ray_at(r, starts, slopes, near, step, ends, jitter)
    given = d_rgb[r]
    steep = d_normal[r] * scale
    # What the samples still to come add to the loss, which is linear in the weights.
    rest = wp.dot(rgb[r], given) + depth[r] * d_depth[r] + depth_square[r] * d_depth_square[r]
    rest += wp.dot(normal[r], d_normal[r])
    through = d_alpha[r] * (1.0 - alpha[r])
    light = wp.float32(1.0)
    i = next_occupied(ray, 0, skip)
    while i < ray.steps:
        t = time_of(ray, i)
        look = _look(grid, ray.start + t * ray.slope)
        after = light * wp.exp(-look.value[0] * ray.step)
        weight = light - after
        light = after
        value = wp.dot(wp.vec3(look.value[1], look.value[2], look.value[3]), given)
        value += t * (d_depth[r] + t * d_depth_square[r]) - wp.dot(look.slope, steep)
        rest -= weight * value
        d_density = ray.step * (after * value - rest + through)
        for corner in range(8):
            share, steepness = _weights(look.place, corner)
            # The normal also depends on the density's slope.
            of_density = share * d_density - weight * wp.dot(steepness, steep)
            change = wp.vec4(
                of_density, share * weight * given[0], share * weight * given[1], share * weight * given[2]
            )
            x = look.cell[0] + (corner >> 2)
            y = look.cell[1] + ((corner >> 1) & 1)
            wp.atomic_add(gradient, x, y, look.cell[2] + (corner & 1), change)
        i = next_occupied(ray, i + 1, skip)


class Render(torch.autograd.Function):
    """Render R rays through a grid (N, N, N, 4), like `volume_numba.forward`, whose arrays are tensors here.

    Takes the grid, skip, the scale in voxels per metre, and rays as in `volume.RaySamples`. Returns rgb (R, 3), alpha
    (R,), depth (R,), the weighted negative gradient of the density (R, 3) and the weighted squared depth (R,).
    Differentiable in the grid.
    """

    @staticmethod
    def forward(ctx: Any, grid: Tensor, skip: Tensor, scale: float, *rays: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        grid, skip, rays = grid.detach().contiguous(), skip.contiguous(), tuple(ray.contiguous() for ray in rays)
        starts, near, steps = rays[0], rays[2], rays[4]
        rgb, normal = torch.empty_like(starts), torch.empty_like(starts)
        alpha, depth, depth_square = (torch.empty_like(near) for _ in range(3))
        outputs, ends = (rgb, alpha, depth, normal, depth_square), torch.empty_like(steps)
        launch(_forward, len(near), grid, skip, scale, *rays, *outputs, ends)
        ctx.save_for_backward(grid, skip, *rays, *outputs, ends)
        ctx.scale = scale
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the grid."""
        grid, skip, starts, slopes, near, step, _, jitter, *outputs, ends = ctx.saved_tensors
        gradient = torch.zeros_like(grid)
        rays = (starts, slopes, near, step, ends, jitter)
        given = (each.contiguous() for each in gradients)
        launch(_backward, len(near), grid, skip, ctx.scale, *rays, *outputs, *given, gradient)
        return gradient, *[None] * 8
