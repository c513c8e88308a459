"""March rays and composite packed samples with NVIDIA Warp. A thread takes a ray.

The rules are those of `packed_numba`, and so are the results except for rounding. Marching walks each ray twice: to
count its samples, and to write them behind those of the rays before it. In between, the host waits for their number,
because memory for them has to be allocated; nothing else waits.
"""

# Kernels are Warp's language: pyright reads them as Python and finds errors where there are none.
# pyright: reportInvalidTypeForm=false, reportMissingImports=false, reportOperatorIssue=false
# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportCallIssue=false, reportIndexIssue=false, reportAttributeAccessIssue=false

import math
from typing import Any

import torch
import warp as wp
from torch import Tensor
from torch.nn import functional

from sds3d.rendering.launch_warp import launch
from sds3d.rendering.rays_warp import Cells, Floats, Ints, Ray, Vectors, cell_of, next_occupied, ray_at, time_of
from sds3d.rendering.volume_numba import MIN_TRANSMITTANCE

wp.set_module_options({"enable_backward": False})

_OPAQUE = -math.log(MIN_TRANSMITTANCE)

_Longs, _Rows = wp.array(dtype=wp.int64), wp.array2d(dtype=wp.float32)


# ---- marching ----


@wp.func
def _solid_depth(ray: Ray, i: wp.int32, solid: wp.array3d(dtype=wp.float32)):
    """Return the optical depth that a step certainly has. Rays end where it adds up to opacity."""
    cell = cell_of(ray.start + time_of(ray, i) * ray.slope, solid.shape[0] - 2)
    return solid[cell[0], cell[1], cell[2]] * ray.step


@wp.kernel
def _count(
    starts: Vectors,
    slopes: Vectors,
    near: Floats,
    step: Floats,
    steps: Ints,
    jitter: Floats,
    skip: Cells,
    solid: wp.array3d(dtype=wp.float32),
    counts: _Longs,
):
    r = wp.tid()
    ray = ray_at(r, starts, slopes, near, step, steps, jitter)
    count = wp.int64(0)
    i = next_occupied(ray, 0, skip)
    depth = wp.float32(0.0)
    while i < ray.steps:
        count += wp.int64(1)
        depth += _solid_depth(ray, i, solid)
        i = next_occupied(ray, wp.where(depth > _OPAQUE, ray.steps, i + 1), skip)
    counts[r] = count


@wp.kernel
def _fill(
    starts: Vectors,
    slopes: Vectors,
    near: Floats,
    step: Floats,
    steps: Ints,
    jitter: Floats,
    skip: Cells,
    solid: wp.array3d(dtype=wp.float32),
    offsets: _Longs,
    origins: Vectors,
    directions: Vectors,
    ray_of: _Longs,
    times: Floats,
    lengths: Floats,
    points: Vectors,
):
    r = wp.tid()
    ray = ray_at(r, starts, slopes, near, step, steps, jitter)
    s = wp.int32(offsets[r])
    i = next_occupied(ray, 0, skip)
    depth = wp.float32(0.0)
    while i < ray.steps:
        t = time_of(ray, i)
        ray_of[s] = wp.int64(r)
        times[s] = t
        lengths[s] = ray.step
        points[s] = origins[r] + t * directions[r]
        s += 1
        depth += _solid_depth(ray, i, solid)
        i = next_occupied(ray, wp.where(depth > _OPAQUE, ray.steps, i + 1), skip)


def march(
    origins: Tensor, directions: Tensor, skip: Tensor, solid: Tensor, rays: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """Return the samples of rays; see `packed_numba.march`, whose arrays are tensors here."""
    origins, directions, skip, solid = (tensor.contiguous() for tensor in (origins, directions, skip, solid))
    rays = tuple(tensor.contiguous() for tensor in rays)
    counts = torch.empty(len(origins), dtype=torch.int64, device=origins.device)
    launch(_count, len(origins), *rays, skip, solid, counts)
    offsets = functional.pad(counts.cumsum(0), (1, 0))
    total = int(offsets[-1])
    ray_of, points = torch.empty(total, dtype=torch.int64, device=origins.device), origins.new_empty(total, 3)
    times, lengths = origins.new_empty(total), origins.new_empty(total)
    launch(
        _fill, len(origins), *rays, skip, solid, offsets, origins, directions, ray_of, times, lengths, points
    )  # fmt: skip
    return ray_of, times, lengths, points, offsets


# ---- compositing ----


@wp.kernel
def _composite(
    density: Floats,
    features: _Rows,
    times: Floats,
    lengths: Floats,
    offsets: _Longs,
    out: _Rows,
    alpha: Floats,
    depth: Floats,
    weights: Floats,
):
    """Sum a ray's samples. out and weights: filled with zeros before."""
    r = wp.tid()
    light = wp.float32(1.0)  # transmittance
    reach = wp.float32(0.0)
    for s in range(wp.int32(offsets[r]), wp.int32(offsets[r + 1])):
        after = light * wp.exp(-density[s] * lengths[s])
        weight = light - after
        light = after
        weights[s] = weight
        reach += weight * times[s]
        for c in range(features.shape[1]):
            out[r, c] = out[r, c] + weight * features[s, c]
        if not light > MIN_TRANSMITTANCE:
            break
    alpha[r] = 1.0 - light
    depth[r] = reach


@wp.kernel
def _composite_backward(
    density: Floats,
    features: _Rows,
    times: Floats,
    lengths: Floats,
    offsets: _Longs,
    weights: Floats,
    d_out: _Rows,
    d_alpha: Floats,
    d_depth: Floats,
    d_weights: Floats,
    d_density: Floats,
    d_features: _Rows,
):
    """Fill the gradients of a ray's samples. d_density: filled with zeros before."""
    r = wp.tid()
    begin = wp.int32(offsets[r])
    end = wp.int32(offsets[r + 1])
    # For fixed features the loss is linear in the weights. `value` is its slope in a sample's weight, and `rest` what
    # the samples still to come add to it.
    rest = wp.float32(0.0)
    for s in range(begin, end):
        value = d_alpha[r] + times[s] * d_depth[r] + d_weights[s]
        for c in range(features.shape[1]):
            value += features[s, c] * d_out[r, c]
            d_features[s, c] = weights[s] * d_out[r, c]
        rest += weights[s] * value
    light = wp.float32(1.0)
    for s in range(begin, end):
        value = d_alpha[r] + times[s] * d_depth[r] + d_weights[s]
        for c in range(features.shape[1]):
            value += features[s, c] * d_out[r, c]
        light = light * wp.exp(-density[s] * lengths[s])
        rest -= weights[s] * value
        d_density[s] = lengths[s] * (light * value - rest)
        if not light > MIN_TRANSMITTANCE:
            break


class Composite(torch.autograd.Function):
    """Sum packed samples along their rays, like `packed_numba.composite`, whose arrays are tensors here.

    Takes density (S,), features (S, C), t (S,), dt (S,) and offsets (R + 1,) int64. Returns features (R, C), alpha
    (R,), depth (R,) and weights (S,). Differentiable in density and features.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        density, features, *others = (tensor.detach().contiguous() for tensor in inputs)
        n = len(others[-1]) - 1
        out, alpha, depth = features.new_zeros(n, features.shape[1]), density.new_empty(n), density.new_empty(n)
        weights = torch.zeros_like(density)
        launch(_composite, n, density, features, *others, out, alpha, depth, weights)
        ctx.save_for_backward(density, features, *others, weights)
        return out, alpha, depth, weights

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of density and features."""
        density, features, *others = ctx.saved_tensors
        d_density, d_features = torch.zeros_like(density), torch.empty_like(features)
        given = (gradient.contiguous() for gradient in gradients)
        n = len(gradients[1])
        launch(_composite_backward, n, density, features, *others, *given, d_density, d_features)
        return d_density, d_features, None, None, None
