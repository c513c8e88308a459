"""Volume rendering against closed forms, finite differences and, for the fused kernel, the plain-torch reference."""

import math
import threading
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_cdt
from torch import Tensor

from sds3d.cameras import Cameras, orbit
from sds3d.rendering import volume_numba
from sds3d.rendering.gpu import Backend
from sds3d.rendering.volume import (
    BOUND,
    RayPictures,
    RaySamples,
    empty_distance,
    empty_distance_reference,
    render_rays,
    render_rays_reference,
    sample_rays,
    sample_rays_reference,
    smoothness,
    smoothness_reference,
)
from sds3d.rendering.volume_numba import MIN_TRANSMITTANCE
from tests.rendering.bounds import assert_within_rounding, rounding

Renderer = Callable[..., RayPictures]
render_rays_warp = partial(render_rays, backend="warp")
"""Warp's kernels on a CPU. They are the same on a GPU."""
kernels = pytest.mark.parametrize("kernel", [render_rays, render_rays_warp], ids=["Numba", "Warp"])
every = pytest.mark.parametrize(
    "renderer", [render_rays, render_rays_warp, render_rays_reference], ids=["Numba", "Warp", "reference"]
)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def lattice(n: int) -> Tensor:
    """Return the positions of voxels (N, N, N, 3)."""
    axis = torch.linspace(-BOUND, BOUND, n)
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)


def ball_grid(n: int = 20, radius: float = 0.35, seed: int = 0) -> Tensor:
    """Return a fuzzy ball of random colours, with zero density outside."""
    generator = torch.Generator().manual_seed(seed)
    grid = torch.rand(n, n, n, 4, generator=generator)
    grid[..., 0] = ((radius - lattice(n).norm(dim=-1)) * 60).clamp(0, 12) * (0.5 + grid[..., 0])
    return grid


def views(count: int = 2, height: int = 12, width: int = 17) -> Cameras:
    return orbit([17.0 + 80.0 * i for i in range(count)], elevation=25.0).resized(height, width)


def jitter_for(cameras: Cameras) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(len(cameras), cameras.height, cameras.width, generator=generator)


def clear_rays(cameras: Cameras, jitter: Tensor, size: int, samples: int = 64) -> tuple[Tensor, Tensor]:
    """Return rays of the cameras without samples on borders of cells, where rounding would decide on the cell.

    The slope of the density is discontinuous there. The remaining rays are reversed, so that they see nothing.
    """
    origins, directions = cameras.rays()
    flat = (tensor.reshape(-1, 3).double() for tensor in (origins, directions))
    rays = sample_rays(*flat, jitter.reshape(-1).double(), size, samples)
    index = torch.arange(int(rays.steps.max()) + 1)
    t = rays.near[:, None] + (index + rays.jitter[:, None]) * rays.step[:, None]  # (R, S)
    places = rays.starts[:, None] + t[..., None] * rays.slopes[:, None]  # (R, S, 3) in voxels
    on_border = ((places - places.round()).abs() < 1e-4).any(-1) & (index < rays.steps[:, None])
    turned = on_border.any(-1).reshape(directions.shape[:-1])
    assert turned.float().mean() < 0.05
    return origins, torch.where(turned[..., None], -directions, directions)


def loss_of(pictures: RayPictures, parts: str) -> Tensor:
    """Return a scalar with a different weight for each pixel of the chosen pictures."""
    generator = torch.Generator().manual_seed(11)
    total = pictures.rgb.new_zeros(())
    for name in ("rgb", "alpha", "depth", "normal", "depth_square"):
        picture = getattr(pictures, name)
        weight = torch.randn(picture.shape, generator=generator, dtype=torch.float64).to(picture)
        if name == "normal":  # ill-conditioned where alpha is small
            weight = weight * pictures.alpha[..., None].detach()
        if name in parts.split():
            total = total + (weight * picture).sum()
    return total


def gradient_of(renderer: Renderer, grid: Tensor, parts: str, *rays: Tensor, **options: object) -> Tensor:
    leaf = grid.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(renderer(leaf, *rays, **options), parts), leaf)
    return gradient


# ---- the fused kernel is the reference ----


def pictures_and_gradient(
    renderer: Renderer, parts: str, options: dict, grid: Tensor, origins: Tensor, directions: Tensor
) -> list[Tensor]:
    """Return the pictures of a grid, and the gradient of a loss on some of them."""
    options = {key: value.to(grid) if key == "jitter" else value for key, value in options.items()}
    pictures = renderer(grid, origins, directions, **options)
    # Normals are ill-conditioned where alpha is small.
    solid = pictures._replace(normal=pictures.normal * (pictures.alpha > 0.01)[..., None])
    return [*solid, gradient_of(renderer, grid, parts, origins, directions, **options)]


@kernels
@pytest.mark.parametrize("skipping", [False, True])
@pytest.mark.parametrize("batch", [1, 4])
def test_kernel_renders_what_the_reference_renders(batch: int, skipping: bool, kernel: Renderer) -> None:
    grid, cameras = ball_grid(), views(batch)
    jitter = jitter_for(cameras)
    options = {"jitter": jitter, "samples": 40, "skip": empty_distance(grid[..., 0], 2.0) if skipping else None}
    inputs = grid, *clear_rays(cameras, jitter, len(grid), 40)
    fused = pictures_and_gradient(kernel, "rgb", options, *inputs)
    assert fused[0].shape == (batch, 12, 17, 3)
    assert fused[1].max() > 0.99
    assert_within_rounding(fused, partial(pictures_and_gradient, render_rays_reference, "rgb", options), *inputs)


@kernels
@pytest.mark.parametrize(
    "parts", ["rgb", "alpha", "depth", "normal", "depth_square", "rgb alpha depth normal depth_square"]
)
@pytest.mark.parametrize("skipping", [False, True])
def test_kernel_has_the_gradient_of_the_reference(parts: str, skipping: bool, kernel: Renderer) -> None:
    grid, cameras = ball_grid(), views()
    jitter = jitter_for(cameras)
    options = {"jitter": jitter, "skip": empty_distance(grid[..., 0], 2.0) if skipping else None}
    inputs = grid, *clear_rays(cameras, jitter, len(grid))
    fused = pictures_and_gradient(kernel, parts, options, *inputs)
    assert fused[-1].abs().max() > 0.05
    assert_within_rounding(fused, partial(pictures_and_gradient, render_rays_reference, parts, options), *inputs)


@pytest.mark.usefixtures("two_threads")
def test_two_threads_have_the_gradient_of_the_reference() -> None:
    grid, cameras = ball_grid(), views()
    jitter = jitter_for(cameras)
    options = {"jitter": jitter, "skip": empty_distance(grid[..., 0], 2.0)}
    inputs = grid, *clear_rays(cameras, jitter, len(grid))
    fused = pictures_and_gradient(render_rays, "rgb alpha normal", options, *inputs)
    reference = partial(pictures_and_gradient, render_rays_reference, "rgb alpha normal", options)
    assert_within_rounding(fused, reference, *inputs)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_same_threads_same_bits(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        grid, cameras = ball_grid(), views()
        runs = [gradient_of(render_rays, grid, "rgb alpha depth normal", *cameras.rays()) for _ in range(3)]
    finally:
        torch.set_num_threads(before)
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2])


def test_two_python_threads_render_at_once() -> None:
    grid, cameras = ball_grid(), views()
    expected = gradient_of(render_rays, grid, "rgb", *cameras.rays())
    results: list[Tensor] = []

    def work() -> None:
        results.extend(gradient_of(render_rays, grid, "rgb", *cameras.rays()) for _ in range(5))

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 10
    assert all(torch.equal(result, expected) for result in results)


def test_inputs_need_not_be_contiguous() -> None:
    grid, cameras = ball_grid(), views()
    strided = grid.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0)
    origins, directions = cameras.rays()
    expected = gradient_of(render_rays, grid, "rgb alpha", origins, directions)
    assert torch.equal(gradient_of(render_rays, strided, "rgb alpha", origins, directions), expected)


# ---- the reference has the gradient of its values ----


@pytest.mark.parametrize("parts", ["rgb", "alpha", "depth", "normal", "depth_square"])
def test_reference_agrees_with_finite_differences(parts: str) -> None:
    grid = ball_grid(8).double()
    rays = [ray.double() for ray in views(1, 6, 6).rays()]
    analytic = gradient_of(render_rays_reference, grid, parts, *rays)
    generator = torch.Generator().manual_seed(5)
    for _ in range(4):
        direction = torch.randn(grid.shape, generator=generator, dtype=torch.float64)
        direction[..., 0] *= grid[..., 0] > 0  # a density stays >= 0
        step = 1e-5

        def at(offset: float, direction: Tensor = direction) -> float:
            # The normals' weights are the opacities of the unmoved grid.
            pictures = render_rays_reference(grid + offset * direction, *rays)
            still = render_rays_reference(grid, *rays)
            return float(loss_of(pictures._replace(alpha=still.alpha) if parts == "normal" else pictures, parts))

        numeric = (at(step) - at(-step)) / (2 * step)
        assert float((analytic * direction).sum()) == pytest.approx(numeric, rel=1e-5, abs=1e-7)


# ---- closed forms ----


@every
def test_homogeneous_cube_transmits_exp_minus_sigma_length(renderer: Renderer) -> None:
    sigma = 1.7
    grid = torch.full((6, 6, 6, 4), 0.25)
    grid[..., 0] = sigma
    origins, directions = views(2).rays()
    pictures = renderer(grid, origins, directions, samples=16)
    # Length inside the cube by slabs, in float64, independent of the renderer.
    o, d = origins.double().numpy(), directions.double().numpy()
    planes = np.sort(np.stack([(-BOUND - o) / d, (BOUND - o) / d]), axis=0)
    length = np.maximum(planes[1].min(-1) - planes[0].max(-1), 0)
    assert length.max() > 1.2
    expected = 1 - np.exp(-sigma * length)
    # Each factor of the transmittance has up to four roundings, including those in exp.
    off = rounding(4) * (1 + np.ceil(length / (2 * BOUND / 16)) * np.exp(-sigma * length))
    assert (np.abs(pictures.alpha.numpy() - expected) <= off).all()
    assert (np.abs(pictures.rgb.numpy() - 0.25 * expected[..., None]) <= off[..., None]).all()


@every
def test_depth_of_an_opaque_wall(renderer: Renderer) -> None:
    # Dense where z <= 0: a ray along -z from z = 2 meets it after 2 m.
    n = 45
    grid = torch.full((n, n, n, 4), 0.5)
    grid[..., 0] = torch.where(lattice(n)[..., 2] <= 1e-6, 5000.0, 0.0)
    origins = torch.tensor([[0.1, 0.2, 2.0], [-0.3, 0.0, 2.0]])
    directions = torch.tensor([[0.0, 0.0, -1.0]]).expand(2, 3)
    pictures = renderer(grid, origins, directions, samples=400)
    voxel = 2 * BOUND / (n - 1)
    assert ((pictures.depth - 2.0) / pictures.alpha).abs().max() < voxel
    torch.testing.assert_close(pictures.alpha, torch.ones(2), atol=MIN_TRANSMITTANCE, rtol=0)
    # Slopes along x and y are 0 except for rounding of weights that sum to 1.
    expected = torch.tensor([[0.0, 0.0, 1.0]]).expand(2, 3)
    torch.testing.assert_close(pictures.normal, expected, atol=rounding(16), rtol=0)


@every
def test_depth_is_weighted_by_opacity(renderer: Renderer) -> None:
    # Homogeneous fog of length L from t0: integral of t sigma exp(-sigma (t - t0)).
    sigma, length, start = 2.0, 2 * BOUND, 1.5
    grid = torch.full((4, 4, 4, 4), 0.5)
    grid[..., 0] = sigma
    origin, direction = torch.tensor([[0.0, 0.0, start + BOUND]]), torch.tensor([[0.0, 0.0, -1.0]])
    n = 500
    pictures = renderer(grid, origin, direction, samples=n)
    through = math.exp(-sigma * length)
    expected = start * (1 - through) + (1 - through * (1 + sigma * length)) / sigma
    # Up to four roundings per sample, one per addition, and the error of the midpoint rule.
    assert float(pictures.depth) == pytest.approx(expected, abs=rounding(5 * n, expected) + (sigma * length / n) ** 2)


@every
def test_normals_of_a_sphere_point_outwards(renderer: Renderer) -> None:
    # A density that grows linearly towards the centre has radial slopes everywhere.
    n, radius = 64, 0.45
    grid = torch.full((n, n, n, 4), 0.5)
    grid[..., 0] = ((radius - lattice(n).norm(dim=-1)) * 400).clamp(min=0)
    origins, directions = orbit([0.0, 130.0], elevation=30.0, size=24).rays()
    pictures = renderer(grid, origins, directions)
    seen = origins + (pictures.depth / pictures.alpha)[..., None] * directions
    solid = pictures.alpha > 0.99
    assert solid.float().mean() > 0.2
    expected = torch.nn.functional.normalize(seen, dim=-1)
    degrees = torch.rad2deg(torch.acos((expected * pictures.normal).sum(-1).clamp(-1, 1)))[solid]
    assert degrees.max() < 2
    assert degrees.mean() < 0.7
    lengths = pictures.normal.norm(dim=-1)
    torch.testing.assert_close(lengths[solid], torch.ones_like(lengths[solid]))
    assert lengths[pictures.alpha == 0].max() == 0


@every
def test_rays_that_start_inside_see_only_what_lies_ahead(renderer: Renderer) -> None:
    grid = torch.full((6, 6, 6, 4), 0.5)
    grid[..., 0] = 2.0
    pictures = renderer(grid, torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 0.0]]), samples=16)
    through = math.exp(-2.0 * BOUND)
    assert float(pictures.alpha) == pytest.approx(1 - through, abs=rounding(4 * 8 + 4, through))  # of eight samples


@every
def test_rays_that_miss_see_nothing(renderer: Renderer) -> None:
    grid = torch.full((6, 6, 6, 4), 0.5, requires_grad=True)
    pictures = renderer(grid, torch.tensor([[0.0, 2.0, 2.0]]), torch.tensor([[0.0, 0.0, -1.0]]))
    assert all(float(picture.detach().abs().max()) == 0 for picture in pictures)
    loss_of(pictures, "rgb alpha depth normal").backward()
    assert grid.grad is not None
    assert float(grid.grad.abs().max()) == 0


# ---- empty space ----


@every
def test_skipping_truly_empty_cells_changes_nothing(renderer: Renderer) -> None:
    grid, cameras = ball_grid(24, radius=0.2), views(4, 16, 16)
    skip = empty_distance(grid[..., 0], 1e-9)
    assert (skip == 0).float().mean() < 0.2
    assert skip.max() > 4  # rays leap over many samples
    jitter = jitter_for(cameras)
    whole = renderer(grid, *cameras.rays(), jitter=jitter)
    skipped = renderer(grid, *cameras.rays(), jitter=jitter, skip=skip)
    for name in ("rgb", "alpha", "depth"):
        assert torch.equal(getattr(whole, name), getattr(skipped, name)), name


@kernels
def test_gradient_stays_inside_occupied_cells(kernel: Renderer) -> None:
    grid, cameras = ball_grid(24, radius=0.2), views(4, 16, 16)
    skip = empty_distance(grid[..., 0], 1e-9)
    gradient = gradient_of(kernel, grid, "rgb alpha", *cameras.rays(), skip=skip)
    corners = torch.nn.functional.max_pool3d((skip[:-1, :-1, :-1] == 0).float()[None, None], 2, 1, padding=1)[0, 0]
    assert (gradient.abs().sum(-1) > 0).sum() > 100
    assert float(gradient[corners == 0].abs().max()) == 0


def test_empty_distance_is_the_chessboard_distance() -> None:
    density = torch.rand(30, 30, 30, generator=torch.Generator().manual_seed(0))
    threshold = 0.9985
    corners = torch.nn.functional.max_pool3d(density[None, None], 2, 1)[0, 0].numpy()
    expected = np.minimum(distance_transform_cdt(corners < threshold, "chessboard"), volume_numba.MAX_SKIP)
    assert 3 < expected.max() < volume_numba.MAX_SKIP
    distance = empty_distance(density, threshold)
    np.testing.assert_array_equal(distance[:-1, :-1, :-1].numpy(), expected)
    assert torch.equal(empty_distance_reference(density, threshold), distance)


# ---- smoothness ----


@pytest.mark.parametrize("channels", [None, 3])
@pytest.mark.parametrize("threads", [1, 2])
def test_smoothness_and_its_gradient(channels: int | None, threads: int) -> None:
    shape = (7, 7, 7) if channels is None else (7, 7, 7, channels)
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))

    def value_and_gradient(function, values: Tensor) -> list[Tensor]:
        leaf = values.clone().requires_grad_()
        value = function(leaf)
        return [value.detach(), *torch.autograd.grad(3 * value, leaf)]

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        fused = value_and_gradient(smoothness, values)
    finally:
        torch.set_num_threads(before)
    assert_within_rounding(fused, partial(value_and_gradient, smoothness_reference), values)


def test_smoothness_of_a_ramp_is_its_squared_slope() -> None:
    axis = torch.arange(5.0)
    x, y, _ = torch.meshgrid(axis, axis, axis, indexing="ij")
    assert float(smoothness(3 * x - 2 * y + 1)) == pytest.approx(9 + 4)


# ---- bad input ----


@kernels
@pytest.mark.parametrize("channel", [0, 2])
def test_nan_does_not_crash(channel: int, kernel: Renderer) -> None:
    grid, cameras = ball_grid(), views()
    grid[10, 10, 10, channel] = math.nan
    leaf = grid.requires_grad_()
    pictures = kernel(leaf, *cameras.rays())
    assert bool(pictures.rgb.isnan().any())
    loss_of(pictures, "rgb alpha").backward()


@pytest.mark.parametrize("backend", ["numba", "warp"])
def test_the_kernel_cuts_rays_as_plain_torch_does(backend: Backend) -> None:
    generator = torch.Generator().manual_seed(11)
    origins = 1.5 * torch.randn(20_000, 3, generator=generator)
    directions = torch.nn.functional.normalize(torch.randn(20_000, 3, generator=generator) - origins, dim=-1)
    origins[:100] *= 0.1  # inside the cube
    directions[100:200, 0] = 0.0
    directions[200:300, :2] = 0.0
    directions[300:400, 1] = 1e-9
    origins[400:500, 2] = BOUND  # on a face
    origins[500, 0], directions[501, 1], origins[502, 2] = torch.nan, torch.nan, torch.inf
    ours = sample_rays(origins, directions, None, 33, 48, backend=backend)
    theirs = sample_rays_reference(origins, directions, None, 33, 48)
    assert 2000 < (ours.steps > 0).sum() < 18_000
    for name, mine, reference in zip(RaySamples._fields, ours, theirs, strict=True):
        assert mine.dtype == reference.dtype, name
        np.testing.assert_array_equal(mine.numpy(), reference.numpy(), err_msg=name)


@kernels
def test_nan_rays_see_nothing(kernel: Renderer) -> None:
    origins, directions = (ray.clone() for ray in views().rays())
    origins[0, 0, 0], directions[0, 0, 1] = math.nan, math.nan
    pictures = kernel(ball_grid(), origins, directions)
    assert float(pictures.alpha[0, 0, :2].abs().max()) == 0


@pytest.mark.parametrize("shape", [(4, 4, 4, 3), (4, 4, 5, 4), (1, 1, 1, 4)])
def test_grid_of_the_wrong_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="grid must be"):
        render_rays(torch.zeros(shape), *views().rays())


def test_skip_of_the_wrong_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="skip must be uint8"):
        render_rays(ball_grid(), *views().rays(), skip=torch.zeros(20, 20, 20, dtype=torch.bool))
