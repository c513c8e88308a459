"""Variance of the depth along rays against closed forms, in every representation with rays."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sds3d.cameras import Cameras, orbit
from sds3d.ramps import Ramp
from sds3d.rendering.packed import Occupancy
from sds3d.rendering.volume import BOUND
from sds3d.representations.base import Rendering, depth_variance, z_variance_loss
from sds3d.representations.field_nerf import FieldNerfScene
from sds3d.representations.gaussians import GaussiansConfig, GaussiansScene
from sds3d.representations.hash_nerf import HashNerfConfig
from sds3d.representations.triplane_nerf import TriplaneNerfConfig
from sds3d.representations.voxel_grid import VoxelGridConfig, VoxelGridScene

SIGMA = 4.0  # per metre: the cube of 1.1 m is almost opaque, and its visible matter is spread along a ray
CONFIGS: list[Any] = [
    VoxelGridConfig(resolution=12, samples=400, z_variance=2.0),
    HashNerfConfig(samples=400, levels=2, log2_entries=8, hidden=8, z_variance=2.0),
    TriplaneNerfConfig(samples=400, resolution=8, features=8, hidden=8, z_variance=2.0),
]
ids = [config.name for config in CONFIGS]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def front(size: int = 9) -> Cameras:
    """Return cameras whose rays are almost perpendicular to a face of the cube."""
    return orbit([0.0, 90.0], elevation=0.0, fovy=0.5, size=size)


def uniform_cube(config: Any) -> VoxelGridScene | FieldNerfScene:
    """Return a scene that fills the cube with one density."""
    if isinstance(config, VoxelGridConfig):
        scene = VoxelGridScene(config, generator())
        with torch.no_grad():
            scene.density.fill_(math.log(math.expm1(SIGMA / 20)))
        return scene
    field_scene = FieldNerfScene(config, generator())

    def field(points: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full((len(points),), SIGMA), torch.full((len(points), 3), 0.5)

    field_scene.field = field  # type: ignore[assignment]
    field_scene._occupancy = Occupancy(torch.zeros(2, 2, 2, dtype=torch.uint8), torch.zeros(2, 2, 2))
    return field_scene


@pytest.mark.parametrize("config", CONFIGS, ids=ids)
def test_uniform_density_in_closed_form(config: Any) -> None:
    rendering = uniform_cube(config).render(front(), torch.ones(3))
    length, left = 2 * BOUND, math.exp(-SIGMA * 2 * BOUND)
    variance = 1 / SIGMA**2 - length**2 * left / (1 - left) ** 2  # of a truncated exponential distribution
    assert rendering.depth_variance is not None
    assert rendering.depth_variance.shape == rendering.alpha.shape
    torch.testing.assert_close(
        rendering.depth_variance, torch.full_like(rendering.depth_variance, variance), atol=2e-5, rtol=2e-3
    )


@pytest.mark.parametrize("scene_of", ["hash_nerf", "voxel_grid"])
def test_it_is_skipped_without_a_weight(scene_of: str) -> None:
    config = CONFIGS[ids.index(scene_of)].model_copy(update={"z_variance": 0.0})
    scene = (VoxelGridScene if scene_of == "voxel_grid" else FieldNerfScene)(config, generator())
    rendering = scene.render(orbit([0.0], size=8), torch.ones(3))
    assert rendering.depth_variance is None
    assert "z_variance" not in scene.regularisers(rendering, 1.0)


def two_gaussians(degree: int = 0) -> tuple[GaussiansScene, float, float]:
    """Return two blobs on the line of sight, 0.2 m before and 0.1 m behind the origin, and their weights in the middle
    pixel.
    """
    scene = GaussiansScene(GaussiansConfig(count=2, sh_degree=degree, z_variance=2.0), generator())
    with torch.no_grad():
        scene.parameters["means"].copy_(torch.tensor([[0.0, 0.0, 0.2], [0.0, 0.0, -0.1]]))
        scene.parameters["scales"].fill_(math.log(0.1))
        scene.parameters["quats"].copy_(torch.tensor([[1.0, 0.0, 0.0, 0.0]]).expand(2, 4))
        scene.parameters["opacities"].fill_(math.log(0.6 / 0.4))
    return scene, 0.6, 0.4 * 0.6


@pytest.mark.parametrize("degree", [0, 1])
def test_two_gaussians_in_closed_form(degree: int) -> None:
    scene, first, second = two_gaussians(degree)
    rendering = scene.render(orbit([0.0, 180.0], elevation=0.0, size=65), torch.ones(3))
    assert rendering.depth_variance is not None
    # p q (z1 - z2)^2, the same from both sides.
    p = first / (first + second)
    middle = rendering.depth_variance[:, 32, 32, 0]
    torch.testing.assert_close(middle, torch.full((2,), p * (1 - p) * 0.3**2), atol=1e-5, rtol=1e-3)


def test_gradient_pulls_gaussians_together() -> None:
    scene, first, second = two_gaussians()
    rendering = scene.render(orbit([0.0], elevation=0.0, size=65), torch.ones(3))
    assert rendering.depth_variance is not None
    rendering.depth_variance[0, 32, 32, 0].backward()
    gradient = scene.parameters["means"].grad
    assert gradient is not None
    p = first / (first + second)
    expected = 2 * p * (1 - p) * 0.3
    assert gradient[:, 2].tolist() == pytest.approx([expected, -expected], rel=1e-2)


@pytest.mark.parametrize("config", CONFIGS, ids=ids)
def test_loss_sums_over_opaque_pixels_and_rises(config: Any) -> None:
    scene = uniform_cube(config)
    rendering = scene.render(front(), torch.ones(3))
    assert rendering.depth_variance is not None
    whole = 2.0 * rendering.depth_variance.sum().item() / 2
    for progress, share in ((0.0, 0.0), (0.25, 0.5), (0.5, 1.0), (1.0, 1.0)):
        loss = z_variance_loss(rendering, config.z_variance, progress)["z_variance"]
        assert loss.item() == pytest.approx(share * whole, rel=1e-5)


def test_half_transparent_pixels_do_not_count() -> None:
    alpha = torch.tensor([0.9, 0.4, 0.0]).reshape(1, 1, 3, 1)
    spread = torch.full((1, 1, 3, 1), 0.25)
    rendering = Rendering(alpha, alpha, alpha, alpha, depth_variance=spread)
    assert z_variance_loss(rendering, Ramp(3.0), 1.0)["z_variance"].item() == pytest.approx(0.75)


def test_variance_of_given_shares() -> None:
    weights, t = torch.tensor([0.2, 0.3, 0.1]), torch.tensor([1.0, 1.5, 2.5])
    got = depth_variance((weights * t).sum(), (weights * t**2).sum(), weights.sum())
    mean = (weights * t).sum() / 0.6
    torch.testing.assert_close(got, (weights * (t - mean) ** 2).sum() / 0.6)
    assert depth_variance(torch.zeros(3), torch.zeros(3), torch.zeros(3)).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("name", [*ids, "gaussians"])
def test_gradient_agrees_with_finite_differences(name: str) -> None:
    if name == "gaussians":
        scene: Any = GaussiansScene(GaussiansConfig(count=100, opacity_start=0.3, z_variance=1.0), generator())
    else:
        config = CONFIGS[ids.index(name)].model_copy(update={"samples": 48})
        scene = (VoxelGridScene if name == "voxel_grid" else FieldNerfScene)(config, generator())
    parameters = [parameter for group in scene.parameter_groups() for parameter in group["params"]]

    cameras = orbit([40.0], size=16)
    covered = scene.render(cameras, torch.ones(3)).alpha.detach()  # constant, like the mask of the loss

    def loss() -> Tensor:
        # The jitter of the samples changes only after a step.
        return (covered * scene.render(cameras, torch.ones(3)).depth_variance).sum()

    def at(distance: float) -> float:
        with torch.no_grad():
            for parameter, start, direction in zip(parameters, starts, gradient, strict=True):
                parameter.copy_(start + distance * direction / norm)
        return loss().item()

    gradient = torch.autograd.grad(loss(), parameters, allow_unused=True, materialize_grads=True)
    starts = [parameter.detach().clone() for parameter in parameters]
    norm = torch.nn.utils.get_total_norm(gradient).item()
    h = 0.02 if name == "voxel_grid" else 2e-3
    assert (at(h) - at(-h)) / (2 * h) == pytest.approx(norm, rel=0.03)
