"""Clouds of Gaussians as grids: optical depths in closed form, and hollow bodies that are filled."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from sds3d.rendering.splatting import rotation_matrices
from sds3d.rendering.volume import BOUND, render_rays
from sds3d.representations.voxels import fill_hidden, outward_depth, voxelize
from tests.rendering.bounds import assert_within_rounding


def positions(n: int) -> Tensor:
    axis = torch.linspace(-BOUND, BOUND, n)
    return torch.cartesian_prod(axis, axis, axis).reshape(n, n, n, 3)


@pytest.mark.parametrize(("opacity", "scale"), [(0.1, 0.08), (0.9, 0.08), (0.5, 0.002)])  # the last: within a voxel
def test_a_ray_through_a_gaussians_middle_meets_its_opacity(opacity: float, scale: float) -> None:
    grid = voxelize(
        torch.zeros(1, 3), torch.tensor([[1.0, 0, 0, 0]]), torch.full((1, 3), scale), torch.tensor([opacity]),
        torch.tensor([[0.2, 0.4, 0.6]]), 65,
    )  # fmt: skip
    assert grid.shape == (65, 65, 65, 4)
    pictures = render_rays(grid, torch.tensor([[0.0, 0.0, 2.0]]), torch.tensor([[0.0, 0.0, -1.0]]), samples=256)
    assert pictures.alpha.item() == pytest.approx(opacity, rel=0.02)
    torch.testing.assert_close(pictures.rgb / pictures.alpha, torch.tensor([[0.2, 0.4, 0.6]]), atol=1e-3, rtol=0)


def voxelize_reference(means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, colors: Tensor) -> list[Tensor]:
    """Return densities, and densities times colours, of `voxelize` on 24^3 voxels, summed over all Gaussians."""
    n, voxel = 24, 2 * BOUND / 23
    wide = (scales.square() + (0.6 * voxel) ** 2).sqrt()
    peak = -torch.log1p(-opacities) / (wide.amin(-1) * math.sqrt(2 * math.pi))
    axes = torch.arange(n).to(means) * voxel - BOUND
    offsets = torch.cartesian_prod(axes, axes, axes)[:, None] - means  # (R^3, N, 3)
    along = torch.einsum("pnj,njk->pnk", offsets, rotation_matrices(quats)) / wide  # in standard deviations
    square = along.square().sum(-1)
    density = torch.where(square < 9, peak * torch.exp(-0.5 * square), 0.0)
    return [density.sum(-1).reshape(n, n, n), (density @ colors).reshape(n, n, n, 3)]


def test_the_kernel_agrees_with_the_reference() -> None:
    g = torch.Generator().manual_seed(0)
    gaussians = [
        0.25 * torch.randn(40, 3, generator=g),  # some extend beyond the grid
        torch.randn(40, 4, generator=g),
        0.06 * torch.exp(0.5 * torch.randn(40, 3, generator=g)),
        0.99 * torch.rand(40, generator=g),
        torch.rand(40, 3, generator=g),
    ]
    grid = voxelize(*gaussians, 24)
    density, solid = grid[..., 0], grid[..., :1] > 0
    assert 0.2 < solid.float().mean() < 0.9
    ours = [density, density[..., None] * grid[..., 1:] * solid]
    assert_within_rounding(ours, voxelize_reference, *gaussians)


def test_a_rotated_gaussian_is_in_the_right_place() -> None:
    half = math.sqrt(0.5)
    quarter_turn = torch.tensor([[half, 0.0, 0.0, half]])  # about z: the long x axis then points along y
    grid = voxelize(
        torch.tensor([[0.1, 0.0, -0.2]]), quarter_turn, torch.tensor([[0.15, 0.03, 0.03]]), torch.tensor([0.8]),
        torch.ones(1, 3), 64,
    )  # fmt: skip
    density = grid[..., 0] / grid[..., 0].sum()
    mean = (density[..., None] * positions(64)).sum((0, 1, 2))
    spread = (density[..., None] * (positions(64) - mean).square()).sum((0, 1, 2)).sqrt()
    torch.testing.assert_close(mean, torch.tensor([0.1, 0.0, -0.2]), atol=2e-3, rtol=0)
    assert spread[1] > 4 * spread[0]
    assert spread[0] == pytest.approx(spread[2].item(), rel=0.05)


def test_outward_depth_of_a_ball() -> None:
    n, sigma, radius = 45, 3.0, 0.4
    density = sigma * (positions(n).norm(dim=-1) <= radius).float()
    depth = outward_depth(density)
    assert depth[0, 0, 0] == 0
    assert depth[n // 2, n // 2, n // 2].item() == pytest.approx(sigma * radius, rel=0.06)
    assert torch.allclose(depth, depth.flip(0), atol=1e-5)
    assert torch.allclose(depth, depth.permute(2, 0, 1), atol=1e-5)


def test_outward_depth_is_the_least_sum_along_26_rays() -> None:
    n = 7
    density = 30 * torch.rand(n, n, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 4
    steps = [step for step in itertools.product((-1, 0, 1), repeat=3) if any(step)]
    expected = torch.zeros(n, n, n, dtype=torch.float64)
    for start in itertools.product(range(n), repeat=3):
        sums = []
        for step in steps:
            length, place, total = math.dist(step, (0, 0, 0)) * 2 * BOUND / (n - 1), start, -density[start].item() / 2
            while all(0 <= i < n for i in place):
                total += density[place].item()
                place = tuple(i + j for i, j in zip(place, step, strict=True))
            sums.append(length * total)
        expected[start] = min(sums)
    torch.testing.assert_close(outward_depth(density.float()).double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("corner", [0.0, 0.3, 0.5])  # in the middle; beside a corner; beyond it
def test_colors_continue_into_the_empty_space_around_gaussians(corner: float) -> None:
    color = torch.tensor([[0.2, 0.4, 0.6]])
    mean = torch.full((1, 3), corner)
    grid = voxelize(mean, torch.tensor([[1.0, 0, 0, 0]]), torch.full((1, 3), 0.03), torch.tensor([0.9]), color, 33)
    solid = grid[..., 0] > 0
    near = torch.nn.functional.max_pool3d(solid.float()[None, None], 9, stride=1, padding=4)[0, 0] > 0
    assert solid.any()
    assert near.sum() > 2 * solid.sum()
    torch.testing.assert_close(grid[near][:, 1:], color.expand(int(near.sum()), 3), rtol=0, atol=1e-6)
    assert (grid[~near] == 0).all()


def test_shells_are_filled_and_bowls_are_not() -> None:
    n = 48
    radius, height = positions(n).norm(dim=-1), positions(n)[..., 1]
    shell = 120.0 * ((radius > 0.32) & (radius < 0.4)).float()
    color = torch.full((n, n, n, 3), 0.5)
    filled = fill_hidden(torch.cat([shell[..., None], color], dim=-1))[..., 0]
    assert filled[n // 2, n // 2, n // 2] > 60
    assert (filled[radius > 0.43] == 0).all()
    bowl = shell * (height < 0.05)
    open_ = fill_hidden(torch.cat([bowl[..., None], color], dim=-1))[..., 0]
    assert open_[n // 2, n // 2, n // 2] == 0
    assert torch.equal(fill_hidden(torch.zeros(8, 8, 8, 4)), torch.zeros(8, 8, 8, 4))
