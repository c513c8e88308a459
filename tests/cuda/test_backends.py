"""Every renderer on the GPU draws the pictures of the CPU's kernels, with their gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from sds3d.cameras import Cameras, turntable
from sds3d.config import build
from sds3d.rendering import gpu as packages
from sds3d.rendering.packed import Occupancy, render_field
from sds3d.rendering.splatting import rasterization
from sds3d.rendering.volume import BOUND, empty_distance, render_rays
from sds3d.representations.base import Start
from sds3d.representations.fields_hash import hash_encode, level_cells
from sds3d.representations.fields_triplane import triplane_encode
from sds3d.representations.make import make_scene
from sds3d.run.config import RunConfig
from sds3d.run.gpu_trials import trial

CAMERAS = turntable(3, size=48)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_same(
    draw: Callable[..., Sequence[Tensor]], leaves: Sequence[Tensor], gpu: torch.device, values: float, gradients: float
) -> None:
    """Compare pictures by their largest difference, and gradients by the relative length of their difference.

    draw: maps the device and leaves on it to pictures.
    """
    results = []
    for device in (torch.device("cpu"), gpu):
        mine = [leaf.detach().to(device).requires_grad_() for leaf in leaves]
        pictures = draw(device, *mine)
        weights = [torch.randn(picture.shape, generator=seeded(i)).to(device) for i, picture in enumerate(pictures)]
        torch.autograd.backward([(p * w).sum() for p, w in zip(pictures, weights, strict=True)])
        slopes = [leaf.grad.cpu() for leaf in mine if leaf.grad is not None]
        results.append(([picture.detach().cpu() for picture in pictures], slopes))
    (expected, slopes), (actual, others) = results
    assert len(slopes) == len(others) > 0
    for picture, other in zip(expected, actual, strict=True):
        assert picture.abs().max() > 0.1
        assert (picture - other).abs().max() < values
    for slope, other in zip(slopes, others, strict=True):
        assert slope.norm() > 0
        assert (slope - other).norm() < gradients * slope.norm()


@pytest.mark.parametrize("package", packages.PACKAGE_NAMES)
def test_every_package_passes_the_doctors_trial(package: packages.Package, gpu: torch.device) -> None:
    if package != "warp" and packages.failure(package):
        pytest.skip(f"{package}: {packages.failure(package)}")
    assert trial(package, gpu) == ""


@pytest.mark.parametrize("package", ["gsplat", "warp"])
@pytest.mark.parametrize("degree", [0, 3])
def test_splats(package: str, degree: int, gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    if package == "gsplat" and packages.failure("gsplat"):
        pytest.skip(f"gsplat: {packages.failure('gsplat')}")
    monkeypatch.setattr(packages, "backend", lambda task: package)
    n = 2000
    draws = seeded()
    means = 0.3 * torch.randn(n, 3, generator=draws)
    quats, scales = torch.randn(n, 4, generator=draws), 0.01 + 0.03 * torch.rand(n, 3, generator=draws)
    opacities = 0.1 + 0.8 * torch.rand(n, generator=draws)
    count = (degree + 1) ** 2
    colors = torch.rand(n, 3, generator=draws) if degree == 0 else 0.3 * torch.randn(n, count, 3, generator=draws)

    def draw(device: torch.device, *leaves: Tensor) -> tuple[Tensor, Tensor]:
        cameras = CAMERAS.to(device)
        seen = rasterization(
            *leaves, cameras.opencv_viewmats(), cameras.intrinsics(), 48, 48, sh_degree=degree or None,
            render_mode="RGB+ED", backgrounds=torch.full((3, 3), 0.5, device=device),
        )  # fmt: skip
        return seen.colors, seen.alphas

    assert_same(draw, [means, quats, scales, opacities, colors], gpu, 1e-3, 2e-3)


def test_dense_voxels(gpu: torch.device) -> None:
    draws = seeded()
    grid = torch.rand(24, 24, 24, 4, generator=draws) * torch.tensor([8.0, 1, 1, 1])
    jitter = torch.rand(3, 48, 48, generator=draws)

    def draw(device: torch.device, grid: Tensor) -> tuple[Tensor, ...]:
        origins, directions = CAMERAS.to(device).rays()
        skip = empty_distance(grid[..., 0], 2.0)
        return tuple(render_rays(grid, origins, directions, jitter=jitter.to(device), skip=skip)[:3])

    assert_same(draw, [grid], gpu, 1e-4, 1e-4)


def test_hash_tables(gpu: torch.device) -> None:
    points, table = torch.rand(5000, 3, generator=seeded()), torch.randn(4, 1 << 12, 2, generator=seeded(1))
    cells = level_cells(4, 8, 64)
    assert_same(lambda device, table: [hash_encode(points.to(device), table, cells)], [table], gpu, 1e-4, 1e-4)


def test_feature_planes(gpu: torch.device) -> None:
    points, planes = torch.rand(5000, 3, generator=seeded()), torch.randn(3, 32, 32, 16, generator=seeded(1))
    assert_same(lambda device, planes: [triplane_encode(points.to(device), planes)], [planes], gpu, 1e-4, 1e-4)


def test_samples_of_a_field(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Warp takes the samples of the CPU's kernels; nerfacc takes others."""
    monkeypatch.setattr(packages, "backend", lambda task: "warp")
    radius = torch.tensor(0.3)

    def draw(device: torch.device, radius: Tensor) -> tuple[Tensor, ...]:
        origins, directions = CAMERAS.to(device).rays()
        corners = torch.linspace(-BOUND, BOUND, 16, device=device)
        far = torch.cartesian_prod(corners, corners, corners).norm(dim=-1).reshape(16, 16, 16)
        occupancy = Occupancy(empty_distance(0.5 - far, 0.0), torch.zeros_like(far))

        def ball(points: Tensor) -> tuple[Tensor, Tensor]:
            return 40 * torch.sigmoid(30 * (radius - points.norm(dim=-1))), points.cos()

        return tuple(render_field(ball, origins, directions, occupancy=occupancy))

    assert_same(draw, [radius], gpu, 1e-4, 1e-3)


@pytest.mark.parametrize("geometry", ["dmtet", "flexicubes", "fixed"])
def test_meshes(geometry: str, gpu: torch.device) -> None:
    settings = {"name": "mesh", "geometry": {"name": geometry, "resolution": 24}}
    config = build(RunConfig, {"prompt": "a ball", "representation": settings}).representation
    pictures, slopes = [], []
    for device in (torch.device("cpu"), gpu):
        scene = make_scene(config, Start(seeded(), 100, device))
        cameras: Cameras = CAMERAS.to(device)
        shown = scene.render(cameras, torch.full((3,), 0.5, device=device))
        weights = torch.randn(shown.rgb.shape, generator=seeded(1)).to(device)
        ((shown.rgb * weights).sum() + shown.alpha.sum()).backward()
        pictures.append(torch.cat([shown.rgb, shown.alpha], dim=-1).detach().cpu())
        parameters = [p for group in scene.parameter_groups() for p in group["params"]]
        slopes.append([p.grad.cpu() for p in parameters if p.grad is not None])
    assert pictures[0][..., 3].mean() > 0.05
    # Faces are chosen by exact comparisons, so a pixel at an edge may show another face after other rounding.
    assert ((pictures[0] - pictures[1]).abs().amax(-1) > 1e-3).float().mean() < 1e-3
    for slope, other in zip(*slopes, strict=True):
        assert (slope - other).norm() <= 0.02 * slope.norm()
