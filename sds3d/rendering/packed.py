"""Volume rendering of any radiance field from packed samples, evaluated only in occupied space in front of surfaces.

An occupancy grid (Mueller et al. 2022, arXiv:2201.05989, appendix E.2) limits where samples are taken. `march` packs
the samples ray by ray, the field is evaluated at all of them at once, and `composite` sums them along their rays by
emission and absorption (Max 1995; NeRF, arXiv:2003.08934, eq. 3). Both functions use Numba kernels on a CPU, nerfacc or
NVIDIA Warp on CUDA, and have a plain-torch reference. With a full occupancy grid, samples and pictures are those of
`volume.render_rays`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from sds3d.rendering import gpu, packed_numba
from sds3d.rendering.volume import BOUND, RaySamples, empty_distance, sample_rays
from sds3d.rendering.volume_numba import MIN_TRANSMITTANCE

FieldFunction = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Points (P, 3) in metres to densities (P,) >= 0 per metre and features (P, C)."""

_TRUST = 0.5  # share of a cell's least density that may end rays, because the density may have changed since


class Occupancy(NamedTuple):
    """Where matter is, on (N - 1)^3 cells that fill the cube of BOUND. The last layer of each axis is not a cell.

    skip: (N, N, N) uint8, distance in cells to the nearest occupied cell, 0 if occupied, as from
    `volume.empty_distance`. solid: (N, N, N), least density per metre in a cell. Rays end where it is opaque.
    """

    skip: Tensor
    solid: Tensor


class Samples(NamedTuple):
    """S samples on R rays, ray by ray, near to far.

    ray: (S,) int64. t, dt: (S,) metres, the place on the ray and the length that the sample represents.
    points: (S, 3) metres. offsets: (R + 1,) int64; ray r has the samples offsets[r] to offsets[r + 1].
    """

    ray: Tensor
    t: Tensor
    dt: Tensor
    points: Tensor
    offsets: Tensor


class Composited(NamedTuple):
    """The sums along R rays.

    features: (R, C), premultiplied by alpha. alpha: (R,). depth: (R,), metres along the ray, weighted by alpha.
    weights: (S,), the share of each sample in its ray.
    """

    features: Tensor
    alpha: Tensor
    depth: Tensor
    weights: Tensor


class FieldPictures(NamedTuple):
    """Pictures of a field, for rays of any leading shape.

    features: (..., C) premultiplied by alpha. alpha: (...) in [0, 1]. depth: (...) metres, weighted by alpha.
    """

    features: Tensor
    alpha: Tensor
    depth: Tensor


Shade = Callable[[Samples, Tensor, Tensor], Tensor]
"""Samples, their weights (S,) without gradient and their features (S, C) to the features (S, D) that are rendered."""

Refine = Callable[[Samples, Tensor, Tensor, Tensor, Tensor | None], Samples]
"""Samples, their weights (S,), origins and directions (R, 3), and jitter (R,) or None to the samples that are
rendered."""


def occupancy_of(density: Tensor, threshold: float) -> Occupancy:
    """Return the occupancy of densities (N, N, N) per metre at the corners of cells.

    A cell is occupied if the density at one of its corners reaches `threshold`.
    """
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
    backend: gpu.Backend | None = None,
) -> Samples:
    """Return the samples of rays in visible occupied cells. Not differentiable.

    origins, directions: (R, 3), unit directions. occupancy: None means that everything is occupied.
    samples: steps per side of the cube; a diagonal takes more.
    jitter: (R,) in [0, 1), position of samples within their steps; None: the middle.
    backend: default: the fastest that works. nerfacc, on CUDA, walks the cells: its steps are at other places, and rays
    do not end behind solid cells.
    """
    backend = backend or gpu.choose("rays", origins, directions)
    with torch.no_grad():
        rays, occupancy = _prepare(origins, directions, occupancy, samples, jitter, backend)
        if backend == "nerfacc":
            return _march_nerfacc(origins, directions, occupancy, rays, samples)
        if backend == "torch":
            return _march(origins, directions, occupancy, rays)
        if backend == "warp":
            from sds3d.rendering import packed_warp

            return Samples(*packed_warp.march(origins, directions, *occupancy, rays))
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


def composite(
    density: Tensor, features: Tensor, samples: Samples, n_rays: int, *, backend: gpu.Backend | None = None
) -> Composited:
    """Sum S samples along R rays. Differentiable in density (S,) >= 0 per metre and features (S, C).

    A ray ends where its transmittance falls below 1e-4. backend: see `march`.
    """
    _check(density, features, samples, n_rays)
    backend = backend or gpu.choose("rays", density, features)
    if backend == "nerfacc":
        return _composite_nerfacc(density, features, samples, n_rays)
    if backend == "torch":
        return _composite(density, features, samples, n_rays)
    if backend == "warp":
        from sds3d.rendering.packed_warp import Composite

        return Composited(*Composite.apply(density, features, samples.t, samples.dt, samples.offsets))
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
    shade: Shade | None = None,
    refine: Refine | None = None,
) -> FieldPictures:
    """Render a field from rays. Differentiable in the field's parameters.

    origins, directions: (..., 3), unit directions. samples, jitter (...), occupancy: see `march`. shade: changes the
    samples' features before they are summed. refine: changes the samples, by their weights.
    """
    shape = directions.shape[:-1]
    origins, directions = origins.reshape(-1, 3), directions.reshape(-1, 3)
    jitter = None if jitter is None else jitter.reshape(-1)
    packed = march(origins, directions, occupancy, samples=samples, jitter=jitter)
    if refine is not None:
        with torch.no_grad():
            density, _ = field(packed.points)
            weights = composite(density, density[:, None], packed, len(origins)).weights
            packed = refine(packed, weights, origins, directions, jitter)
    density, features = field(packed.points)
    if shade is not None:
        with torch.no_grad():
            weights = composite(density, density[:, None], packed, len(origins)).weights
        features = shade(packed, weights, features)
    seen = composite(density, features, packed, len(origins))
    return FieldPictures(
        seen.features.reshape(*shape, seen.features.shape[-1]), seen.alpha.reshape(shape), seen.depth.reshape(shape)
    )


def density_normals(field: FieldFunction, points: Tensor, step: float) -> Tensor:
    """Return unit vectors (P, 3) opposite to the density's gradient at points (P, 3) in metres; 0 where it is constant.

    step: half-width of central differences in metres; there are six evaluations for each point. Differentiable in the
    field's parameters for fixed points.
    """
    axes = step * torch.eye(3, dtype=points.dtype, device=points.device)[:, None]  # (3, 1, 3)
    density, _ = field(torch.cat([points - axes, points + axes]).reshape(-1, 3))  # (6 P,)
    before, after = density.reshape(2, 3, -1)
    # Where the density is constant except for rounding, there is no direction.
    return functional.normalize((before - after).T, dim=-1, eps=1e-4)


def field_normals(
    field: FieldFunction, origins: Tensor, directions: Tensor, seen: FieldPictures, *, step: float
) -> Tensor:
    """Return unit vectors (..., 3) opposite to the density's gradient at the rays' mean depth; 0 where alpha < 0.01.

    Uses central differences of half-width `step` metres: six evaluations for each ray that hits something.
    Differentiable in the field's parameters for fixed points.
    """
    alpha, depth = seen.alpha.detach(), seen.depth.detach()
    hit = (alpha > 0.01).nonzero(as_tuple=True)  # once, since each search waits for a GPU
    points = origins[hit] + (depth[hit] / alpha[hit])[:, None] * directions[hit]  # (H, 3)
    return torch.zeros_like(origins).index_put(hit, density_normals(field, points, step))


def _prepare(
    origins: Tensor,
    directions: Tensor,
    occupancy: Occupancy | None,
    samples: int,
    jitter: Tensor | None,
    backend: gpu.Backend | None = None,
) -> tuple[RaySamples, Occupancy]:
    if not 1 <= samples <= 16384:
        raise ValueError(f"samples must be from 1 to 16384 per side of the cube, got {samples}")
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
    cut_by = "warp" if backend == "warp" else None
    rays = sample_rays(origins, directions, jitter, size, samples, backend=cut_by)
    longest = math.ceil(math.sqrt(3) * samples) + 1  # only directions without length would take more
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
    # The sample that makes the ray opaque is the last visible one.
    visible = torch.cumsum(optical, dim=1) - optical <= -math.log(MIN_TRANSMITTANCE)
    ray, place = (occupied & visible).nonzero(as_tuple=True)  # (S,)
    t, dt = t[ray, place], rays.step[ray]
    offsets = torch.zeros(n + 1, dtype=torch.int64, device=origins.device)
    offsets[1:] = torch.bincount(ray, minlength=n).cumsum(0)
    return Samples(ray, t, dt, origins[ray] + t[:, None] * directions[ray], offsets)


def _march_nerfacc(
    origins: Tensor, directions: Tensor, occupancy: Occupancy, rays: RaySamples, samples: int
) -> Samples:
    """Use nerfacc's CUDA kernels, which are compiled beforehand."""
    import nerfacc

    step = 2 * BOUND / samples
    cube = torch.tensor([[-BOUND] * 3 + [BOUND] * 3]).to(origins, non_blocking=True)
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
    # Arrange samples as (R, L), padded with empty ones, so that sums along rays are sums along rows.
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
    """Use nerfacc's CUDA kernels, which are compiled beforehand."""
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
        ctx.set_materialize_grads(False)  # outputs that the loss does not use then cost nothing in the backward pass
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
