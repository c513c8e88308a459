"""Rays through a grid of cells with NVIDIA Warp: cut them into steps, and walk over the steps in occupied cells.

The rules are those of `volume_numba`. The functions are for kernels in which a thread takes a ray.
"""

# Kernels are Warp's language: pyright reads them as Python and finds errors where there are none.
# pyright: reportInvalidTypeForm=false, reportMissingImports=false, reportOperatorIssue=false
# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportCallIssue=false, reportIndexIssue=false, reportAttributeAccessIssue=false

import torch
import warp as wp
from torch import Tensor

from sds3d.rendering.launch_warp import launch

wp.set_module_options({"enable_backward": False})

_TINY = 1e-7  # replaces slopes that are smaller: the ray then meets the planes of that axis far outside
_SHORTEST = 1e-6  # metres of a ray in the cube; shorter ones miss it
_CAUTION = 0.999  # shortens leaps, so that rounding cannot skip an occupied cell
_LONGEST = 1e6  # steps of a leap

Vectors, Floats, Ints = wp.array(dtype=wp.vec3), wp.array(dtype=wp.float32), wp.array(dtype=wp.int32)
Cells = wp.array3d(dtype=wp.uint8)


@wp.struct
class Ray:
    """A ray in a grid, see `volume.RaySamples`. leap: steps per cell along its steepest axis."""

    start: wp.vec3
    slope: wp.vec3
    near: wp.float32
    step: wp.float32
    jitter: wp.float32
    steps: wp.int32
    leap: wp.float32


@wp.func
def ray_at(r: wp.int32, starts: Vectors, slopes: Vectors, near: Floats, step: Floats, steps: Ints, jitter: Floats):
    """Return ray r."""
    ray = Ray()
    slope = slopes[r]
    ray.start = starts[r]
    ray.slope = slope
    ray.near = near[r]
    ray.step = step[r]
    ray.jitter = jitter[r]
    ray.steps = steps[r]
    steepest = wp.max(wp.abs(slope[0]), wp.max(wp.abs(slope[1]), wp.abs(slope[2])))
    ray.leap = wp.min(_CAUTION / (step[r] * steepest), _LONGEST)  # finite even for a direction without length
    return ray


@wp.func
def time_of(ray: Ray, i: wp.int32):
    """Return the distance of a sample along the ray in metres."""
    return ray.near + (wp.float32(i) + ray.jitter) * ray.step


@wp.func
def cell_of(place: wp.vec3, top: wp.int32):
    """Return the cell of a place in a grid whose last cell is `top`."""
    return wp.vec3i(
        wp.clamp(wp.int32(place[0]), 0, top), wp.clamp(wp.int32(place[1]), 0, top), wp.clamp(wp.int32(place[2]), 0, top)
    )


@wp.func
def next_occupied(ray: Ray, first: wp.int32, skip: Cells):
    """Return the first step in an occupied cell from `first` on; `ray.steps` or more if there is none."""
    i = first
    while i < ray.steps:
        cell = cell_of(ray.start + time_of(ray, i) * ray.slope, skip.shape[0] - 2)
        empty = wp.int32(skip[cell[0], cell[1], cell[2]])
        if empty == 0:
            return i
        i += 1 + wp.int32(wp.float32(empty - 1) * ray.leap)
    return i


@wp.kernel
def _sample(
    origins: Vectors,
    directions: Vectors,
    bound: wp.float32,
    scale: wp.float32,
    density: wp.float32,
    starts: Vectors,
    slopes: Vectors,
    near: Floats,
    step: Floats,
    steps: Ints,
):
    r = wp.tid()
    origin = origins[r]
    direction = directions[r]
    enter = wp.float32(0.0)
    leave = wp.float32(1e30)
    total = wp.float32(0.0)
    for axis in range(3):
        safe = wp.where(wp.abs(direction[axis]) < _TINY, _TINY, direction[axis])
        low = (-bound - origin[axis]) / safe
        high = (bound - origin[axis]) / safe
        enter = wp.max(enter, wp.min(low, high))
        leave = wp.min(leave, wp.max(low, high))
        total += low + high
    starts[r] = (origin + wp.vec3(bound, bound, bound)) * scale
    slopes[r] = direction * scale
    length = leave - enter
    if length > _SHORTEST and total - total == 0.0:  # False for NaN and infinity
        count = wp.ceil(length * density)
        near[r] = enter
        step[r] = length / wp.max(count, 1.0)
        steps[r] = wp.int32(count)
    else:
        near[r] = 0.0
        step[r] = 0.0
        steps[r] = 0


def sample(origins: Tensor, directions: Tensor, bound: float, scale: float, density: float) -> tuple[Tensor, ...]:
    """Cut rays (R, 3) in a cube into steps; see `volume_numba.sample`, whose arrays are tensors here."""
    origins, directions = origins.detach().contiguous(), directions.detach().contiguous()
    n = len(origins)
    outputs = (torch.empty_like(origins), torch.empty_like(origins), origins.new_empty(n), origins.new_empty(n))
    outputs += (origins.new_empty(n, dtype=torch.int32),)
    launch(_sample, n, origins, directions, bound, scale, density, *outputs)
    return outputs
