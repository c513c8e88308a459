"""Volume rendering of any radiance field from packed samples: only occupied space in front of surfaces is evaluated.

An occupancy grid (Mueller et al. 2022, arXiv:2201.05989, appendix E.2) says where samples are worth their cost. `march`
lays them out one ray after the other, the field is evaluated at all of them at once, and `composite` sums them along
their rays by emission and absorption (Max 1995; NeRF, 2003.08934, eq. 3). Both take Numba kernels on a CPU, nerfacc on
CUDA, and have a plain-torch reference. With an occupancy grid that is full, samples and pictures are those of
`volume.render_rays`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from sds3d.rendering import packed_numba
from sds3d.rendering.volume import BOUND, RaySamples, empty_distance, fusable, sample_rays
from sds3d.rendering.volume_numba import MIN_TRANSMITTANCE

FieldFunction = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Points (P, 3) in metres to densities (P,) >= 0 per metre and features (P, C)."""

_TRUST = 0.5  # share of a cell's least density that is counted on when rays end behind it: it may have changed since


class Occupancy(NamedTuple):
    """What is known of where matter is, on the N^3 corners of (N - 1)^3 cells that fill the cube of BOUND.

    skip: (N, N, N) uint8, cells to the nearest occupied one, 0 for occupied, as from `volume.empty_distance`.
    solid: (N, N, N) density per metre that a cell has at least. Rays end where it says that nothing gets through.
    """

    skip: Tensor
    solid: Tensor


class Samples(NamedTuple):
    """S samples on R rays, a ray's own one after the other, near to far.

    ray: (S,) int64. t, dt: (S,) metres, place on the ray and length that the sample stands for. points: (S, 3) metres.
    offsets: (R + 1,) int64; ray r owns the samples offsets[r] to offsets[r + 1].
    """

    ray: Tensor
    t: Tensor
    dt: Tensor
    points: Tensor
    offsets: Tensor


class Composited(NamedTuple):
    """What R rays see. features: (R, C) premultiplied by alpha. alpha, depth: (R,), depth in metres along the ray,
    weighted by alpha. weights: (S,), the samples' shares of their rays."""

    features: Tensor
    alpha: Tensor
    depth: Tensor
    weights: Tensor


class FieldPictures(NamedTuple):
    """What rays of any leading shape see of a field.

    features: (..., C) premultiplied by alpha. alpha: (...) in [0, 1]. depth: (...) metres, weighted by alpha.
    """

    features: Tensor
    alpha: Tensor
    depth: Tensor


def occupancy_of(density: Tensor, threshold: float) -> Occupancy:
    """Occupancy from densities (N, N, N) per metre at the cells' corners; cells with a corner that reaches `threshold`
    count as occupied."""
    density = density.detach()
    cells = -functional.max_pool3d(-density[None, None], 2, stride=1)[0, 0]  # (N - 1, N - 1, N - 1)
    solid = functional.pad(_TRUST * cells, (0, 1, 0, 1, 0, 1))
    return Occupancy(empty_distance(density, threshold), solid)


def march(
    origins: Tensor,
    directions: Tensor,
    occupancy: Occupancy | None,
    *,
    samples: int = 64,
    jitter: Tensor | None = None,
) -> Samples:
    """Samples of rays, origins and unit directions (R, 3), in occupied cells that can be seen.

    occupancy: None takes everything as occupied. samples: steps along an edge of the cube; a diagonal takes more.
    jitter: (R,) in [0, 1), the samples' place in their steps; None for the middle. Nothing is differentiable.
    On CUDA nerfacc walks the cells: its steps lie elsewhere in the ray, and rays do not end behind solid cells.
    """
    with torch.no_grad():
        rays, occupancy = _prepare(origins, directions, occupancy, samples, jitter)
        if origins.is_cuda:
            return _march_nerfacc(origins, directions, occupancy, rays, samples)
        if not fusable(origins):
            return _march(origins, directions, occupancy, rays)
        arrays = [tensor.contiguous().numpy() for tensor in (origins, directions, *occupancy, *rays)]
        packed = packed_numba.march(arrays[0], arrays[1], arrays[2], arrays[3], tuple(arrays[4:]))
        return Samples(*(torch.from_numpy(array) for array in packed))


def march_reference(
    origins: Tensor,
    directions: Tensor,
    occupancy: Occupancy | None,
    *,
    samples: int = 64,
    jitter: Tensor | None = None,
) -> Samples:
    """`march` in plain torch, for any device and floating dtype."""
    with torch.no_grad():
        rays, occupancy = _prepare(origins, directions, occupancy, samples, jitter)
        return _march(origins, directions, occupancy, rays)


def composite(density: Tensor, features: Tensor, samples: Samples, n_rays: int) -> Composited:
    """Sum S samples along R rays; differentiable in density (S,) >= 0 per metre and features (S, C).

    A ray ends where its transmittance falls below 1e-4.
    """
    _check(density, features, samples, n_rays)
    if density.is_cuda:
        return _composite_nerfacc(density, features, samples, n_rays)
    if not fusable(density) or not fusable(features):
        return _composite(density, features, samples, n_rays)
    return Composited(*_Composite.apply(density, features, samples.t, samples.dt, samples.offsets))


def composite_reference(density: Tensor, features: Tensor, samples: Samples, n_rays: int) -> Composited:
    """`composite` in plain torch, for any device and floating dtype."""
    _check(density, features, samples, n_rays)
    return _composite(density, features, samples, n_rays)


def render_field(
    field: FieldFunction,
    origins: Tensor,
    directions: Tensor,
    *,
    samples: int = 64,
    jitter: Tensor | None = None,
    occupancy: Occupancy | None = None,
) -> FieldPictures:
    """Render a field from rays, origins and unit directions (..., 3); differentiable in the field's parameters.

    samples, jitter (...), occupancy: see `march`.
    """
    shape = directions.shape[:-1]
    origins, directions = origins.reshape(-1, 3), directions.reshape(-1, 3)
    packed = march(
        origins, directions, occupancy, samples=samples, jitter=None if jitter is None else jitter.reshape(-1)
    )
    seen = composite(*field(packed.points), packed, len(origins))
    return FieldPictures(
        seen.features.reshape(*shape, seen.features.shape[-1]), seen.alpha.reshape(shape), seen.depth.reshape(shape)
    )


def field_normals(
    field: FieldFunction, origins: Tensor, directions: Tensor, seen: FieldPictures, *, step: float
) -> Tensor:
    """Unit vectors (..., 3) against the density's gradient at the rays' mean depth; 0 where next to nothing is hit.

    By central differences of half-width `step` metres: six evaluations a ray that hits something. Differentiable in
    the field's parameters, the places held fixed.
    """
    alpha, depth = seen.alpha.detach(), seen.depth.detach()
    hit = alpha > 0.01  # (...)
    points = origins[hit] + (depth[hit] / alpha[hit])[:, None] * directions[hit]  # (H, 3)
    axes = step * torch.eye(3).to(points)[:, None]  # (3, 1, 3)
    density, _ = field(torch.cat([points - axes, points + axes]).reshape(-1, 3))  # (6 H,)
    before, after = density.reshape(2, 3, -1)
    # Where the density is flat to rounding there is no direction to tell.
    outward = functional.normalize((before - after).T, dim=-1, eps=1e-4)  # (H, 3)
    return torch.zeros_like(origins).index_put((hit,), outward)


def _prepare(
    origins: Tensor, directions: Tensor, occupancy: Occupancy | None, samples: int, jitter: Tensor | None
) -> tuple[RaySamples, Occupancy]:
    if not 1 <= samples <= 16384:
        raise ValueError(f"samples must be from 1 to 16384 along an edge of the cube, got {samples}")
    if occupancy is None:
        occupancy = Occupancy(
            torch.zeros(2, 2, 2, dtype=torch.uint8, device=origins.device), origins.new_zeros(2, 2, 2)
        )
    size = occupancy.skip.shape[0]
    if occupancy.skip.shape != (size, size, size) or occupancy.solid.shape != (size, size, size) or size < 2:
        raise ValueError(
            f"occupancy must be two grids (N, N, N) with N >= 2, got {tuple(occupancy.skip.shape)} and "
            f"{tuple(occupancy.solid.shape)}"
        )
    rays = sample_rays(origins, directions, jitter, size, samples)
    longest = math.ceil(math.sqrt(3) * samples) + 1  # more only for directions without length
    return rays._replace(steps=rays.steps.clamp(max=longest)), occupancy._replace(solid=occupancy.solid.to(origins))


def _march(origins: Tensor, directions: Tensor, occupancy: Occupancy, rays: RaySamples) -> Samples:
    size, n = occupancy.skip.shape[0], len(origins)
    longest = max(int(rays.steps.max()), 1) if n else 1
    index = torch.arange(longest, device=origins.device, dtype=origins.dtype)
    t = rays.near[:, None] + (index + rays.jitter[:, None]) * rays.step[:, None]  # (R, L)
    places = rays.starts[:, None] + t[..., None] * rays.slopes[:, None]  # (R, L, 3) in cells
    x, y, z = places.nan_to_num().long().clamp(0, size - 2).unbind(-1)
    occupied = (index < rays.steps[:, None]) & (occupancy.skip[x, y, z] == 0)
    optical = occupancy.solid[x, y, z] * rays.step[:, None] * occupied
    # Behind how much certain matter a sample lies; the one that makes the ray opaque still counts.
    visible = torch.cumsum(optical, dim=1) - optical <= -math.log(MIN_TRANSMITTANCE)
    ray, place = (occupied & visible).nonzero(as_tuple=True)  # (S,)
    t, dt = t[ray, place], rays.step[ray]
    offsets = torch.zeros(n + 1, dtype=torch.int64, device=origins.device)
    offsets[1:] = torch.bincount(ray, minlength=n).cumsum(0)
    return Samples(ray, t, dt, origins[ray] + t[:, None] * directions[ray], offsets)


def _march_nerfacc(
    origins: Tensor, directions: Tensor, occupancy: Occupancy, rays: RaySamples, samples: int
) -> Samples:
    """Through nerfacc's CUDA kernels, which compile when they are first used. Not run where this was written."""
    import nerfacc

    step = 2 * BOUND / samples
    cube = origins.new_tensor([[-BOUND] * 3 + [BOUND] * 3])
    binaries = (occupancy.skip[:-1, :-1, :-1] == 0).contiguous()[None]  # (1, N - 1, N - 1, N - 1)
    # Steps begin at the near planes, which the jitter moves.
    near = (rays.jitter - 0.5) * step
    intervals, found, _ = nerfacc.traverse_grids(
        origins.contiguous(), directions.contiguous(), binaries, cube, near_planes=near, step_size=step
    )
    assert found.packed_info is not None
    assert found.ray_indices is not None
    assert intervals.is_left is not None
    assert intervals.is_right is not None
    t, ray = found.vals, found.ray_indices.long()
    dt = intervals.vals[intervals.is_right] - intervals.vals[intervals.is_left]
    offsets = functional.pad(found.packed_info[:, 1].long().cumsum(0), (1, 0))
    return Samples(ray, t, dt, origins[ray] + t[:, None] * directions[ray], offsets)


def _check(density: Tensor, features: Tensor, samples: Samples, n_rays: int) -> None:
    n = len(samples.t)
    if density.shape != (n,) or features.ndim != 2 or len(features) != n:
        raise ValueError(
            f"density must be ({n},) and features ({n}, C) for {n} samples, got {tuple(density.shape)} and "
            f"{tuple(features.shape)}"
        )
    if len(samples.offsets) != n_rays + 1:
        raise ValueError(f"the samples are of {len(samples.offsets) - 1} rays, not of {n_rays}")


def _composite(density: Tensor, features: Tensor, samples: Samples, n_rays: int) -> Composited:
    # Laid out as (R, L), rays padded with nothing, so that sums along rays are sums along rows.
    place = torch.arange(len(samples.t), device=density.device) - samples.offsets[samples.ray]
    longest = int((samples.offsets[1:] - samples.offsets[:-1]).max()) if n_rays else 0
    optical = density.new_zeros(n_rays, longest).index_put((samples.ray, place), density * samples.dt)
    before = torch.exp(optical - torch.cumsum(optical, dim=1))  # transmittance in front of a sample
    alive = before.detach() > MIN_TRANSMITTANCE
    weights = (before * -torch.expm1(-optical) * alive)[samples.ray, place]  # (S,)

    def along(values: Tensor) -> Tensor:
        return values.new_zeros(n_rays, *values.shape[1:]).index_add(0, samples.ray, values)

    return Composited(along(weights[:, None] * features), along(weights), along(weights * samples.t), weights)


def _composite_nerfacc(density: Tensor, features: Tensor, samples: Samples, n_rays: int) -> Composited:
    """Through nerfacc's CUDA kernels, which compile when they are first used. Not run where this was written."""
    import nerfacc

    half = samples.dt / 2
    weights, _, _ = nerfacc.render_weight_from_density(
        samples.t - half, samples.t + half, density, ray_indices=samples.ray, n_rays=n_rays
    )
    pictures = (
        nerfacc.accumulate_along_rays(weights, values, samples.ray, n_rays)
        for values in (features, None, samples.t[:, None])
    )
    out, alpha, depth = pictures
    return Composited(out, alpha[:, 0], depth[:, 0], weights)


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, density: Tensor, features: Tensor, t: Tensor, dt: Tensor, offsets: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)  # an output that the loss leaves out then costs nothing in the backward
        inputs = tuple(tensor.detach().contiguous() for tensor in (density, features, t, dt, offsets))
        outputs = tuple(torch.from_numpy(array) for array in packed_numba.composite(*(i.numpy() for i in inputs)))
        ctx.save_for_backward(*inputs, outputs[3])
        return outputs

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        density, features, t, dt, offsets, weights = (tensor.numpy() for tensor in ctx.saved_tensors)
        given = tuple(None if grad is None else grad.numpy() for grad in grad_outputs)
        d_density, d_features = packed_numba.composite_backward(density, features, t, dt, offsets, weights, given)
        return torch.from_numpy(d_density), torch.from_numpy(d_features), None, None, None
