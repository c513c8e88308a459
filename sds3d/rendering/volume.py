"""Volume rendering of a dense voxel grid: emission and absorption along rays (Max 1995; NeRF, arXiv:2003.08934, eq. 3).

A voxel holds a density sigma per metre and an RGB colour, both interpolated trilinearly. Samples t_i are a distance
delta apart. A sample's opacity is 1 - exp(-sigma_i delta), and its weight is that times the transmittance in front of
it. `render_rays` uses a fused kernel if it can, Numba's on a CPU and NVIDIA Warp's on CUDA, and the plain-torch
reference otherwise. All take the same samples and agree except for rounding.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from sds3d.rendering import gpu, volume_numba
from sds3d.rendering.volume_numba import MAX_SKIP, MIN_TRANSMITTANCE

BOUND = 0.55
"""The grid's outermost voxels are on the faces of the cube [-BOUND, BOUND]^3, in metres."""


class RayPictures(NamedTuple):
    """Pictures of a grid, for rays of any leading shape.

    rgb: (..., 3), premultiplied by alpha. alpha: (...), opacity. depth: (...), metres along the ray, weighted by alpha
    (0 where nothing is hit). normal: (..., 3), unit vectors pointing out of the density, or 0. depth_square: (...),
    square metres, the squared distance weighted like the depth.
    """

    rgb: Tensor
    alpha: Tensor
    depth: Tensor
    normal: Tensor
    depth_square: Tensor


class RaySamples(NamedTuple):
    """Samples of R rays in the grid. Sample i of a ray is at t = near + (i + jitter) step, for i < steps.

    starts, slopes: (R, 3); the position in voxels is starts + t slopes. near, step: (R,) metres. steps: (R,) int32.
    jitter: (R,) in [0, 1).
    """

    starts: Tensor
    slopes: Tensor
    near: Tensor
    step: Tensor
    steps: Tensor
    jitter: Tensor


def sample_rays(
    origins: Tensor,
    directions: Tensor,
    jitter: Tensor | None,
    size: int,
    samples: int,
    *,
    backend: gpu.Backend | None = None,
) -> RaySamples:
    """Cut the part of each ray (R, 3) in the grid's cube into equal steps of at most 2 BOUND / samples metres.

    jitter: (R,) in [0, 1), position of samples within their steps; None: the middle. backend: see `render_rays`. Rays
    that miss get no samples.
    """
    backend = backend or gpu.choose("grids", origins, directions)
    numbers = BOUND, (size - 1) / (2 * BOUND), samples / (2 * BOUND)
    if backend == "warp":
        from sds3d.rendering import rays_warp

        cut = rays_warp.sample(origins, directions, *numbers)
    elif backend == "numba":
        arrays = (origins.detach().contiguous().numpy(), directions.detach().contiguous().numpy())
        cut = tuple(torch.from_numpy(array) for array in volume_numba.sample(*arrays, *numbers))
    else:
        return sample_rays_reference(origins, directions, jitter, size, samples)
    return RaySamples(*cut, jitter=torch.full_like(cut[2], 0.5) if jitter is None else jitter)


def sample_rays_reference(
    origins: Tensor, directions: Tensor, jitter: Tensor | None, size: int, samples: int
) -> RaySamples:
    """`sample_rays` in plain torch."""
    scale = (size - 1) / (2 * BOUND)
    # Replace zero slopes by tiny ones: the ray then meets the planes of that axis far outside.
    safe = torch.where(directions.abs() < 1e-7, torch.full_like(directions, 1e-7), directions)
    low, high = (-BOUND - origins) / safe, (BOUND - origins) / safe  # (R, 3)
    near = torch.minimum(low, high).amax(-1).clamp(min=0)  # (R,)
    length = torch.maximum(low, high).amin(-1) - near
    hit = length > 1e-6  # False for NaN
    length = torch.where(hit, length, 0)
    steps = (length * (samples / (2 * BOUND))).ceil()
    return RaySamples(
        starts=(origins + BOUND) * scale,
        slopes=directions * scale,
        near=torch.where(hit, near, 0),
        step=length / steps.clamp(min=1),
        steps=steps.int(),
        jitter=torch.full_like(near, 0.5) if jitter is None else jitter,
    )


def render_rays(
    grid: Tensor,
    origins: Tensor,
    directions: Tensor,
    *,
    samples: int = 64,
    jitter: Tensor | None = None,
    skip: Tensor | None = None,
    backend: gpu.Backend | None = None,
) -> RayPictures:
    """Render rays. Differentiable in `grid`.

    grid: (N, N, N, 4), density >= 0 per metre and r, g, b; axes x, y, z. origins, unit directions: (..., 3).
    samples: steps per side of the cube; a diagonal takes more. jitter: (...) in [0, 1), position of samples within
    their steps; None: the middle. skip: (N, N, N) uint8 from `empty_distance`; cells above 0 count as empty.
    backend: numba, warp or torch; default: the fastest that works.
    """
    return _render(grid, origins, directions, samples, jitter, skip, backend or gpu.choose("grids", grid))


def render_rays_reference(
    grid: Tensor,
    origins: Tensor,
    directions: Tensor,
    *,
    samples: int = 64,
    jitter: Tensor | None = None,
    skip: Tensor | None = None,
) -> RayPictures:
    """`render_rays` in plain torch, for any device and floating dtype."""
    return _render(grid, origins, directions, samples, jitter, skip, "torch")


def fusable(tensor: Tensor) -> bool:
    """Return whether the CPU kernels accept this tensor."""
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32


def empty_distance(density: Tensor, threshold: float) -> Tensor:
    """Return the distance in cells to the nearest cell that reaches `threshold`: (N, N, N) uint8, 0 if occupied."""
    density = density.detach()
    if density.device.type == "cpu":
        return torch.from_numpy(volume_numba.empty_distance(density.numpy(), threshold))
    return empty_distance_reference(density, threshold)


def empty_distance_reference(density: Tensor, threshold: float) -> Tensor:
    """`empty_distance` in plain torch, without waiting for the device."""
    near = (functional.max_pool3d(density.float()[None, None], 2, stride=1) >= threshold).float()  # 1 where occupied
    distance = torch.zeros_like(near)
    for _ in range(MAX_SKIP):
        distance += near == 0
        near = functional.max_pool3d(near, 3, stride=1, padding=1)  # 1 also in the cells around
    return functional.pad(distance[0, 0], (0, 1, 0, 1, 0, 1), value=MAX_SKIP).to(torch.uint8)


def smoothness(values: Tensor) -> Tensor:
    """Return the mean squared difference of neighbouring voxels, summed over the three axes.

    values: (N, N, N) or (N, N, N, C). This is quadratic total variation, as in Plenoxels (arXiv:2112.05131).
    """
    return _Smoothness.apply(values) if fusable(values) else smoothness_reference(values)


def smoothness_reference(values: Tensor) -> Tensor:
    """`smoothness` in plain torch."""
    return torch.stack([values.diff(dim=axis).square().mean() for axis in range(3)]).sum()


def _render(
    grid: Tensor,
    origins: Tensor,
    directions: Tensor,
    samples: int,
    jitter: Tensor | None,
    skip: Tensor | None,
    backend: gpu.Backend,
) -> RayPictures:
    size = grid.shape[0]
    if grid.shape != (size, size, size, 4) or size < 2:
        raise ValueError(f"grid must be (N, N, N, 4) with N >= 2, got {tuple(grid.shape)}")
    if skip is None:
        skip = torch.zeros(grid.shape[:3], dtype=torch.uint8, device=grid.device)
    elif skip.shape != grid.shape[:3] or skip.dtype != torch.uint8:
        raise ValueError(f"skip must be uint8 {tuple(grid.shape[:3])}, got {skip.dtype} {tuple(skip.shape)}")
    shape = directions.shape[:-1]
    rays = sample_rays(
        origins.reshape(-1, 3).to(grid.dtype),
        directions.reshape(-1, 3).to(grid.dtype),
        None if jitter is None else jitter.reshape(-1).to(grid.dtype),
        size,
        samples,
        backend="warp" if backend == "warp" else None,
    )
    if backend == "warp":
        from sds3d.rendering.volume_warp import Render

        outputs = Render.apply(grid, skip, (size - 1) / (2 * BOUND), *rays)
    else:
        outputs = _Fused.apply(grid, skip, *rays) if backend == "numba" else _march(grid, skip, rays)
    rgb, alpha, depth, normal, square = outputs
    normal = functional.normalize(normal, dim=-1, eps=1e-4).reshape(*shape, 3)
    return RayPictures(
        rgb.reshape(*shape, 3), alpha.reshape(shape), depth.reshape(shape), normal, square.reshape(shape)
    )


def _march(grid: Tensor, skip: Tensor, rays: RaySamples) -> tuple[Tensor, ...]:
    """Render rays in plain torch.

    Returns rgb (R, 3), alpha (R,), depth (R,), the weighted negative gradient of the density (R, 3) and the squared
    depth (R,).
    """
    size, longest = grid.shape[0], max(int(rays.steps.max()), 1) if rays.steps.numel() else 1
    index = torch.arange(longest, device=grid.device, dtype=grid.dtype)
    t = rays.near[:, None] + (index + rays.jitter[:, None]) * rays.step[:, None]  # (R, S)
    valid = index < rays.steps[:, None]
    points = rays.starts[:, None] + t[..., None] * rays.slopes[:, None]  # (R, S, 3) in voxels
    cell = points.nan_to_num().long().clamp(0, size - 2)
    voxel = (cell[..., 0] * size + cell[..., 1]) * size + cell[..., 2]  # (R, S)
    valid = valid & (skip.reshape(-1)[voxel] == 0)

    values, slopes = _trilinear(grid, points[valid], cell[valid], voxel[valid])  # (M, 4), (M, 3)
    density = grid.new_zeros(t.shape).masked_scatter(valid, values[:, 0])
    optical = density * rays.step[:, None]
    before = torch.exp(optical - torch.cumsum(optical, dim=1))  # transmittance in front of a sample
    alive = before.detach() > MIN_TRANSMITTANCE
    weights = before * -torch.expm1(-optical) * alive  # (R, S)
    color = grid.new_zeros(*t.shape, 3).masked_scatter(valid[..., None], values[:, 1:])
    outward = grid.new_zeros(*t.shape, 3).masked_scatter(valid[..., None], -slopes)
    return (
        torch.einsum("rs,rsc->rc", weights, color),
        weights.sum(-1),
        (weights * t).sum(-1),
        torch.einsum("rs,rsc->rc", weights, outward) * ((size - 1) / (2 * BOUND)),
        (weights * t.square()).sum(-1),
    )


def _trilinear(grid: Tensor, points: Tensor, cell: Tensor, voxel: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values (M, 4) at points (M, 3), and the gradient of the density (M, 3) per voxel."""
    size = grid.shape[0]
    fraction = points - cell
    flat = grid.reshape(-1, 4)
    values, slopes = flat.new_zeros(len(points), 4), flat.new_zeros(len(points), 3)
    for x in (0, 1):
        for y in (0, 1):
            for z in (0, 1):
                corner = flat[voxel + (x * size + y) * size + z]  # (M, 4)
                wx, wy, wz = (f if side else 1 - f for f, side in zip(fraction.unbind(-1), (x, y, z), strict=True))
                sx, sy, sz = (1.0 if side else -1.0 for side in (x, y, z))
                values = values + (wx * wy * wz)[:, None] * corner
                slopes = slopes + torch.stack([sx * wy * wz, wx * sy * wz, wx * wy * sz], -1) * corner[:, :1]
    return values, slopes


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grid: Tensor, skip: Tensor, *rays: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)  # pictures that the loss does not use then cost nothing in the backward pass
        grid, skip, rays = grid.contiguous(), skip.contiguous(), tuple(ray.contiguous() for ray in rays)
        ctx.scale = (grid.shape[0] - 1) / (2 * BOUND)
        outputs = volume_numba.forward(grid.numpy(), skip.numpy(), ctx.scale, tuple(ray.numpy() for ray in rays))
        tensors = tuple(torch.from_numpy(output) for output in outputs)
        ctx.save_for_backward(grid, skip, *rays, *tensors)
        return tensors[:5]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        grid, skip, *others = (tensor.numpy() for tensor in ctx.saved_tensors)
        rays, outputs = tuple(others[: len(RaySamples._fields)]), tuple(others[len(RaySamples._fields) :])
        given = tuple(None if grad is None else grad.numpy() for grad in grad_outputs)
        gradient = volume_numba.backward(grid, skip, ctx.scale, rays, outputs, given)
        return torch.from_numpy(gradient), None, *[None] * len(rays)


class _Smoothness(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        # The value is quadratic: its gradient is nearly free in the same sweep over memory.
        value, gradient = volume_numba.smoothness(values.detach().numpy())
        ctx.gradient = torch.from_numpy(gradient)
        return values.new_tensor(value)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        return ctx.gradient * grad_outputs[0]
