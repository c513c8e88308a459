"""Packed ray marching and compositing: kernels against plain torch, plain torch against closed forms and nerfacc."""

import math
from collections.abc import Sequence
from functools import partial

import nerfacc
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sds3d.cameras import orbit
from sds3d.rendering.gpu import Backend
from sds3d.rendering.packed import (
    Composited,
    Occupancy,
    Samples,
    composite,
    composite_reference,
    field_normals,
    march,
    march_reference,
    occupancy_of,
    render_field,
)
from sds3d.rendering.volume import BOUND, render_rays_reference
from sds3d.rendering.volume_numba import MIN_TRANSMITTANCE
from sds3d.representations.fields import trilinear
from tests.rendering.bounds import assert_within_rounding, rounding

KERNELS: tuple[Backend, ...] = ("numba", "warp")
"""Kernels that run on a CPU. Those of Warp are the same on a GPU."""


def rays(size: int = 11, views: int = 2) -> tuple[Tensor, Tensor]:
    origins, directions = orbit([17.0 + 80.0 * i for i in range(views)], 25.0, size=size).rays()
    return origins.reshape(-1, 3), directions.reshape(-1, 3)


def lattice(n: int) -> Tensor:
    axis = torch.linspace(-BOUND, BOUND, n)
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)


def ball_grid(n: int = 16, radius: float = 0.35) -> Tensor:
    grid = torch.rand(n, n, n, 4, generator=torch.Generator().manual_seed(0))
    grid[..., 0] = ((radius - lattice(n).norm(dim=-1)) * 60).clamp(0, 12) * (0.5 + grid[..., 0])
    return grid


def field_of(grid: Tensor):
    def field(points: Tensor) -> tuple[Tensor, Tensor]:
        values = trilinear(grid.to(points), points)
        return values[:, 0], values[:, 1:]

    return field


def random_occupancy(n: int = 10, seed: int = 0) -> Occupancy:
    """Return an occupancy with an odd number of cells: no sample is on a border, where rounding would decide."""
    g = torch.Generator().manual_seed(seed)
    return occupancy_of(60 * torch.rand(n, n, n, generator=g).clamp(min=0.7) - 40, 8.0)


def random_samples(n_rays: int, longest: int, seed: int = 0) -> tuple[Samples, Tensor, Tensor]:
    """Return packed samples with densities and two features. Some rays are empty."""
    g = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, longest + 1, (n_rays,), generator=g)
    counts[::3] = 0
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    n = int(offsets[-1])
    ray = torch.repeat_interleave(torch.arange(n_rays), counts)
    t = 1 + torch.rand(n, generator=g) + torch.arange(n) * 0.01
    samples = Samples(ray, t, 0.01 + 0.05 * torch.rand(n, generator=g), torch.zeros(n, 3), offsets)
    return samples, 40 * torch.rand(n, generator=g), torch.randn(n, 2, generator=g)


def outputs_and_gradients(
    function, parts: Sequence[str], samples: Samples, density: Tensor, features: Tensor, t: Tensor, dt: Tensor
) -> list[Tensor]:
    """Return the outputs of `function` for samples at t, and gradients of some of them in density and features."""
    leaves = [tensor.clone().requires_grad_() for tensor in (density, features)]
    out = function(*leaves, samples._replace(t=t, dt=dt), len(samples.offsets) - 1)
    g = torch.Generator().manual_seed(5)
    weighed = [(torch.randn(part.shape, generator=g).to(part) * part).sum() for part in out]
    loss = sum(weighed[Composited._fields.index(part)] for part in parts)
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    return [*(part.detach() for part in out), *gradients]


# ---- marching ----


@pytest.mark.parametrize("jittered", [False, True])
@pytest.mark.parametrize("occupied", ["everywhere", "in parts", "opaque in parts"])
def test_march_kernel_equals_the_reference(jittered: bool, occupied: str) -> None:
    origins, directions = rays()
    jitter = torch.rand(len(origins), generator=torch.Generator().manual_seed(1)) if jittered else None
    occupancy = None if occupied == "everywhere" else random_occupancy()
    if occupancy and occupied == "opaque in parts":
        occupancy = occupancy._replace(solid=40 * occupancy.solid)

    def marched(function, origins: Tensor, directions: Tensor) -> list[Tensor]:
        shifts = None if jitter is None else jitter.to(origins)
        return list(function(origins, directions, occupancy, samples=24, jitter=shifts))

    for backend in KERNELS:
        ours = marched(partial(march, backend=backend), origins, directions)
        assert len(ours[1]) > 300
        assert_within_rounding(ours, partial(marched, march_reference), origins, directions)


def test_samples_are_in_occupied_cells() -> None:
    origins, directions = rays()
    occupancy = random_occupancy()._replace(solid=torch.zeros(10, 10, 10))
    every, some = (march(origins, directions, o, samples=24) for o in (None, occupancy))
    cell = ((every.points + BOUND) / (2 * BOUND) * 9).long().clamp(0, 8)
    kept = occupancy.skip[tuple(cell.unbind(-1))] == 0
    assert 0.1 < kept.float().mean() < 0.9
    for name in ("ray", "t", "dt", "points"):
        torch.testing.assert_close(getattr(some, name), getattr(every, name)[kept])
    torch.testing.assert_close(every.points, origins[every.ray] + every.t[:, None] * directions[every.ray])
    assert torch.equal(every.ray, torch.repeat_interleave(every.offsets.diff()))


def test_rays_end_behind_certain_matter_and_nothing_changes() -> None:
    n = 24
    density = ((0.35 - lattice(n).norm(dim=-1)) * 4000).clamp(0, 300)
    grid = torch.cat([density[..., None], torch.rand(n, n, n, 3, generator=torch.Generator().manual_seed(2))], -1)
    occupancy = occupancy_of(density, 0.5)
    origins, directions = rays(24)
    through = march(origins, directions, occupancy._replace(solid=torch.zeros_like(density)), samples=40)
    ended = march(origins, directions, occupancy, samples=40)
    assert len(ended.t) < 0.6 * len(through.t)
    whole = render_field(field_of(grid), origins, directions, samples=40)
    short = render_field(field_of(grid), origins, directions, samples=40, occupancy=occupancy)
    assert whole.alpha.max() > 0.999
    # At most MIN_TRANSMITTANCE of the light passes the end of a ray, and features are at most 1.
    torch.testing.assert_close(short.features, whole.features, atol=MIN_TRANSMITTANCE, rtol=0)
    torch.testing.assert_close(short.alpha, whole.alpha, atol=MIN_TRANSMITTANCE, rtol=0)


def test_occupancy_is_cautious() -> None:
    density = torch.zeros(5, 5, 5)
    density[2, 2, 2] = 1.0
    density[3:, 3:, 3:] = 10.0
    occupancy = occupancy_of(density, 0.5)
    occupied = (occupancy.skip == 0).nonzero()
    assert set(map(tuple, occupied.tolist())) == {
        (x, y, z) for x in (1, 2, 3) for y in (1, 2, 3) for z in (1, 2, 3) if (max(x, y, z) < 3) or min(x, y, z) >= 2
    }
    assert occupancy.solid.nonzero().tolist() == [[3, 3, 3]]
    assert 0 < occupancy.solid[3, 3, 3] < 10.0


@pytest.mark.parametrize(
    ("origin", "direction"),
    [
        ([0.0, 0.0, 2.0], [0.0, 0.0, 1.0]),  # away from the cube
        ([2.0, 2.0, 2.0], [0.0, 0.0, -1.0]),  # past it
        ([math.nan, 0.0, 2.0], [0.0, 0.0, -1.0]),
        ([0.0, 0.0, 2.0], [math.nan, 0.0, -1.0]),
    ],
)
def test_rays_that_meet_nothing(origin: list[float], direction: list[float]) -> None:
    samples = march(torch.tensor([origin]), torch.tensor([direction]), random_occupancy())
    assert samples.offsets.tolist() == [0, 0]
    assert samples.points.shape == (0, 3)


def test_a_direction_without_length_ends() -> None:
    # The origin's cell is empty, the next one is not.
    occupancy = Occupancy(torch.ones(9, 9, 9, dtype=torch.uint8), torch.zeros(9, 9, 9))
    for backend in KERNELS:
        assert len(march(torch.zeros(1, 3), torch.zeros(1, 3), occupancy, samples=16, backend=backend).t) == 0
        assert len(march(torch.zeros(1, 3), torch.zeros(1, 3), None, samples=16, backend=backend).t) <= 30


def test_no_rays() -> None:
    for function in (march, partial(march, backend="warp"), march_reference):
        assert function(torch.zeros(0, 3), torch.zeros(0, 3), random_occupancy()).offsets.tolist() == [0]


# ---- compositing ----


def test_composite_kernel_equals_the_reference() -> None:
    samples, density, features = random_samples(100, 30)
    inputs = density, features, samples.t, samples.dt
    reference = partial(outputs_and_gradients, composite_reference, Composited._fields, samples)
    for backend in KERNELS:
        ours = outputs_and_gradients(partial(composite, backend=backend), Composited._fields, samples, *inputs)
        assert ours[1].max() > 0.9998  # some rays end early
        assert_within_rounding(ours, reference, *inputs)


@pytest.mark.parametrize("output", Composited._fields)
def test_the_gradient_of_one_output_alone(output: str) -> None:
    samples, density, features = random_samples(40, 12, seed=1)
    inputs = density, features, samples.t, samples.dt
    for backend in KERNELS:
        ours = outputs_and_gradients(partial(composite, backend=backend), [output], samples, *inputs)
        assert ours[-2].abs().max() > 0
        assert_within_rounding(ours, partial(outputs_and_gradients, composite_reference, [output], samples), *inputs)


def test_the_reference_has_the_gradient_of_finite_differences() -> None:
    samples, density, features = random_samples(6, 5, seed=2)
    samples = samples._replace(t=samples.t.double(), dt=samples.dt.double())

    def outputs(density: Tensor, features: Tensor) -> tuple[Tensor, ...]:
        return tuple(composite_reference(density, features, samples, 6))

    assert torch.autograd.gradcheck(outputs, (density.double().requires_grad_(), features.double().requires_grad_()))


@pytest.mark.parametrize(
    "function",
    [composite, partial(composite, backend="warp"), composite_reference],
    ids=["kernel", "Warp", "reference"],
)
def test_even_density_in_closed_form(function) -> None:
    sigma, length, n = 2.5, 0.8, 400
    t = 1 + (torch.arange(n) + 0.5) * length / n
    samples = Samples(
        torch.zeros(n, dtype=torch.long), t, torch.full((n,), length / n), torch.zeros(n, 3), torch.tensor([0, n])
    )
    out = function(torch.full((n,), sigma), torch.tensor([[0.2, 3.0]]).expand(n, 2), samples, 1)
    through = math.exp(-sigma * length)
    alpha = 1 - through
    # Each of the n factors of the transmittance has up to four roundings, including those in exp.
    off = rounding(4 * n, through)
    assert float(out.alpha) == pytest.approx(alpha, abs=off)
    assert out.features[0].tolist() == pytest.approx([0.2 * alpha, 3.0 * alpha], abs=3 * off)
    mean = 1 / sigma - length * through / alpha  # of a truncated exponential
    assert float(out.depth) == pytest.approx((1 + mean) * alpha, abs=2 * off + (sigma * length / n) ** 2)


def test_nerfacc_agrees() -> None:
    n_rays, n = 30, 20
    g = torch.Generator().manual_seed(3)
    edges = 1 + torch.rand(n_rays, n + 1, generator=g).cumsum(1) * 0.02
    density, features = 10 * torch.rand(n_rays, n, generator=g), torch.rand(n_rays, n, 3, generator=g)
    ray, weight = torch.arange(n_rays).repeat_interleave(n), torch.randn(n_rays, 3, generator=g)

    def nerfaccs(density: Tensor, features: Tensor, starts: Tensor, ends: Tensor) -> Composited:
        weights = nerfacc.render_weight_from_density(starts, ends, density)[0].reshape(-1)
        t = ((starts + ends) / 2).reshape(-1, 1)
        pictures = (
            nerfacc.accumulate_along_rays(weights, values, ray, n_rays) for values in (features.reshape(-1, 3), None, t)
        )
        out, alpha, depth = pictures
        return Composited(out, alpha[:, 0], depth[:, 0], weights)

    def ours(density: Tensor, features: Tensor, starts: Tensor, ends: Tensor) -> Composited:
        t, dt = ((starts + ends) / 2).reshape(-1), (ends - starts).reshape(-1)
        samples = Samples(ray, t, dt, torch.zeros(n_rays * n, 3), torch.arange(n_rays + 1) * n)
        return composite(density.reshape(-1), features.reshape(-1, 3), samples, n_rays)

    def with_gradients(function, density: Tensor, features: Tensor, starts: Tensor, ends: Tensor) -> list[Tensor]:
        leaves = [tensor.clone().requires_grad_() for tensor in (density, features)]
        out = function(*leaves, starts, ends)
        loss = (weight.to(density) * out.features).sum() + out.alpha.square().sum() + out.depth.square().sum()
        return [*(part.detach() for part in out), *torch.autograd.grad(loss, leaves)]

    inputs = density, features, edges[:, :-1].contiguous(), edges[:, 1:].contiguous()
    mine = with_gradients(ours, *inputs)
    assert mine[1].max() < 0.9999  # nerfacc does not end rays early
    assert_within_rounding(mine, partial(with_gradients, nerfaccs), *inputs)


# ---- fields ----


@pytest.mark.parametrize("jittered", [False, True])
def test_a_full_grid_renders_as_the_dense_renderer_does(jittered: bool) -> None:
    grid, (origins, directions) = ball_grid(), rays()
    jitter = torch.rand(len(origins), generator=torch.Generator().manual_seed(4)) if jittered else None

    def with_gradient(packed: bool, leaf: Tensor, origins: Tensor, directions: Tensor) -> list[Tensor]:
        leaf, shifts = leaf.clone().requires_grad_(), None if jitter is None else jitter.to(leaf)
        field = field_of(leaf) if packed else leaf
        out = (render_field if packed else render_rays_reference)(field, origins, directions, samples=24, jitter=shifts)
        pictures = out[0], out.alpha, out.depth
        loss = (out[0] * torch.arange(3)).sum() + out.alpha.square().sum() + out.depth.sum()
        return [*(picture.detach() for picture in pictures), *torch.autograd.grad(loss, leaf)]

    ours = with_gradient(True, grid, origins, directions)
    assert_within_rounding(ours, partial(with_gradient, False), grid, origins, directions)


def test_empty_cells_agree_with_the_dense_renderer() -> None:
    grid, (origins, directions) = ball_grid(), rays()
    occupancy = occupancy_of(grid[..., 0], 0.5)

    def dense(grid: Tensor, origins: Tensor, directions: Tensor) -> list[Tensor]:
        out = render_rays_reference(grid, origins, directions, samples=24, skip=occupancy.skip)
        return [out.rgb, out.alpha, out.depth]

    hollow = occupancy._replace(solid=torch.zeros(16, 16, 16))
    ours = render_field(field_of(grid), origins, directions, samples=24, occupancy=hollow)
    assert_within_rounding(list(ours), dense, grid, origins, directions)


def test_normals_point_out_of_a_ball_and_have_gradients() -> None:
    radius = torch.tensor(0.3, requires_grad=True)
    shift = torch.zeros(3, requires_grad=True)

    def ball(points: Tensor) -> tuple[Tensor, Tensor]:
        density = 200 * torch.sigmoid((radius - (points - shift).norm(dim=-1)) * 80)
        return density, torch.ones_like(points)

    origins, directions = rays(24)
    out = render_field(ball, origins, directions, samples=64)
    normal = field_normals(ball, origins, directions, out, step=BOUND / 64)
    hit = out.alpha > 0.9
    assert hit.sum() > 100
    outward = torch.nn.functional.normalize(origins + (out.depth / out.alpha)[:, None] * directions, dim=-1)
    assert ((normal * outward).sum(-1)[hit] > 0.995).all()
    assert (normal[out.alpha < 0.01] == 0).all()
    # If the ball moves to +x, every normal turns to -x.
    (gradient,) = torch.autograd.grad(normal[hit][:, 0].mean(), shift)
    assert gradient[0] < -1


def test_latents_of_any_number_of_channels() -> None:
    origins, directions = (ray.reshape(3, 4, 3) for ray in (rays(12)[0][60:72], rays(12)[1][60:72]))
    out = render_field(lambda p: (torch.full((len(p),), 5.0), torch.arange(7.0).expand(len(p), 7)), origins, directions)
    assert out.features.shape == (3, 4, 7)
    torch.testing.assert_close(out.features, out.alpha[..., None] * torch.arange(7.0))


def test_threads_change_nothing() -> None:
    grid, (origins, directions) = ball_grid(), rays(16)
    threads, results = torch.get_num_threads(), []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            samples = march(origins, directions, random_occupancy(), samples=24)
            density, features = (part.detach().requires_grad_() for part in field_of(grid)(samples.points))
            out = composite(density, features, samples, len(origins))
            loss = out.features.square().sum() + out.depth.square().sum() + out.weights.square().sum()
            results.append([*samples, *out, *torch.autograd.grad(loss, [density, features])])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    broken=st.sampled_from([math.nan, math.inf, -math.inf, 1e30, 0.0]),
    which=st.sampled_from(["density", "features", "origins", "directions", "occupancy"]),
    backend=st.sampled_from(KERNELS),
)
def test_broken_values_never_crash(seed: int, broken: float, which: str, backend: Backend) -> None:
    origins, directions = (ray.clone() for ray in rays(6, 1))
    corners = 20 * torch.rand(5, 5, 5, generator=torch.Generator().manual_seed(seed))
    if which == "occupancy":
        corners.view(-1)[seed % 125] = broken
    elif which in ("origins", "directions"):
        (origins if which == "origins" else directions).view(-1)[seed % 108] = broken
    samples = march(origins, directions, occupancy_of(corners, 5.0), samples=12, backend=backend)
    density, features = torch.ones(len(samples.t)), torch.ones(len(samples.t), 3)
    if len(samples.t) and which in ("density", "features"):
        (density if which == "density" else features).view(-1)[seed % len(samples.t)] = broken
    leaves = [density.requires_grad_(), features.requires_grad_()]
    out = composite(*leaves, samples, 36, backend=backend)
    (out.features.sum() + out.depth.sum()).backward()
    assert out.features.shape == (36, 3)


def test_nan_is_not_hidden() -> None:
    samples, density, features = random_samples(10, 8)
    density[3] = math.nan
    for backend in KERNELS:
        out = composite(density, features, samples, 10, backend=backend)
        assert out.alpha[samples.ray[3]].isnan()
        assert out.alpha.isnan().sum() == 1


def test_wrong_inputs_are_refused() -> None:
    origins, directions = rays(4, 1)
    samples = march(origins, directions, None, samples=8)
    n = len(samples.t)
    with pytest.raises(ValueError, match=r"density must be \("):
        composite(torch.zeros(n + 1), torch.zeros(n, 3), samples, 16)
    with pytest.raises(ValueError, match="of 16 rays, not of 15"):
        composite(torch.zeros(n), torch.zeros(n, 3), samples, 15)
    with pytest.raises(ValueError, match="samples must be from 1"):
        march(origins, directions, None, samples=0)
    with pytest.raises(ValueError, match=r"two grids \(N, N, N\)"):
        march(origins, directions, Occupancy(torch.zeros(4, 4, 4, dtype=torch.uint8), torch.zeros(5, 5, 5)))
