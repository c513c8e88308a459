"""The dense voxel grid: regularisers in closed form, skipping of empty cells, fitting, and resuming."""

import math

import pytest
import torch
from torch import Tensor

from sds3d.cameras import Cameras, orbit, turntable
from sds3d.representations.base import Rendering
from sds3d.representations.voxel_grid import VoxelGridScene
from tests.representations.radiance_scenes import BACKGROUND, adam, voxel_ball, voxel_scene


def fit(scene: VoxelGridScene, cameras: Cameras, target: Tensor, steps: range, total: int) -> None:
    optimizer = torch.optim.Adam(scene.parameter_groups())
    for step in steps:
        rendering = scene.render(cameras, BACKGROUND)
        data = 0.5 * (rendering.rgb - target).square().sum() / len(cameras)
        (data + torch.stack(list(scene.regularisers(rendering, step / total).values())).sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
        scene.after_step(step, optimizer)


def test_gradients_reach_every_parameter_through_every_picture() -> None:
    scene = voxel_scene(resolution=16)
    out = scene.render(orbit([0.0, 90.0], size=24), BACKGROUND)
    for picture in (out.rgb, out.alpha, out.depth, out.normal[..., 0]):
        gradients = torch.autograd.grad(picture.sum(), [scene.density, scene.color], retain_graph=True)
        assert all(bool(gradient.isfinite().all()) for gradient in gradients)
        assert float(gradients[0].abs().max()) > 0


def test_regularisers_in_closed_form() -> None:
    scene = voxel_scene(resolution=8, opacity=2.0, entropy=3.0, density_smoothness=5.0, color_smoothness=7.0)
    axis = torch.arange(8.0)
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    with torch.no_grad():
        scene.density.copy_(0.5 * x - 0.25 * y)
        scene.color.copy_(torch.stack([z, 2 * z, torch.zeros_like(z)], dim=-1))
    alpha = torch.full((2, 4, 6, 1), 0.25)
    with torch.no_grad():
        losses = scene.regularisers(Rendering(alpha.expand(-1, -1, -1, 3), alpha, alpha, alpha), progress=0.5)
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert losses.keys() == {"opacity", "entropy", "smoothness"}
    assert float(losses["opacity"]) == pytest.approx(2.0 * 24 * 0.25)
    assert float(losses["entropy"]) == pytest.approx(3.0 * 0.5 * 24 * entropy, rel=1e-5)
    expected = 24 * (5.0 * (0.5**2 + 0.25**2) + 7.0 * (1 + 4) / 3)
    assert float(losses["smoothness"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_entropy_has_a_finite_slope_at_full_and_empty(value: float) -> None:
    scene, alpha = voxel_scene(resolution=8), torch.full((1, 4, 4, 1), value, requires_grad=True)
    scene.regularisers(Rendering(alpha, alpha, alpha, alpha), 1.0)["entropy"].backward()
    assert alpha.grad is not None
    assert bool(alpha.grad.isfinite().all())


def test_empty_cells_are_skipped_after_warmup_but_revisited() -> None:
    scene, cameras = voxel_ball(16), orbit([0.0], size=24)
    scene.config = scene.config.model_copy(update={"warmup": 4})
    with torch.no_grad():
        scene.density.clamp_(min=-9.0)  # a little density everywhere, below the threshold
    reached = []
    for step in range(12):
        alpha = scene.render(cameras, BACKGROUND).alpha
        (gradient,) = torch.autograd.grad(alpha.sum(), scene.density)
        reached.append(float(gradient[0].abs().max()) > 0)  # the face x = -0.55 is far from the ball
        scene.after_step(step, adam(scene))
    assert reached == [True] * 4 + [False] * 4 + [True] + [False] * 3


def test_fits_a_two_tone_ball() -> None:
    cameras = turntable(6, size=32)
    with torch.no_grad():
        target = voxel_ball().render(cameras, BACKGROUND).rgb
    scene = voxel_scene(resolution=32, samples=32, warmup=40)
    fit(scene, cameras, target, range(100), 100)
    with torch.no_grad():
        unseen = orbit([33.0, 170.0], elevation=25.0, size=32)
        errors = [
            (scene.render(cameras, BACKGROUND).rgb - target).square().mean(),
            (scene.render(unseen, BACKGROUND).rgb - voxel_ball().render(unseen, BACKGROUND).rgb).square().mean(),
        ]
    seen_psnr, unseen_psnr = (-10 * math.log10(float(error)) for error in errors)
    assert seen_psnr > 34
    assert unseen_psnr > 26


def test_resumed_training_is_bit_identical() -> None:
    cameras = turntable(2, size=16)
    with torch.no_grad():
        target = voxel_ball(16).render(cameras, BACKGROUND).rgb
    options = {"resolution": 16, "samples": 24, "warmup": 2}

    def run(stop: int | None) -> dict[str, Tensor]:
        scene = voxel_scene(1, **options)
        for step in range(14):
            if step == stop:
                state = {name: tensor.clone() for name, tensor in scene.state_dict().items()}
                scene = voxel_scene(9, **options)
                scene.load_state_dict(state)
            fit(scene, cameras, target, range(step, step + 1), 14)  # a new Adam has no state to resume
        return scene.state_dict()

    straight, resumed = run(None), run(11)
    assert straight.keys() == resumed.keys()
    for name, tensor in straight.items():
        assert torch.equal(tensor, resumed[name]), name


def test_state_of_another_resolution_is_refused() -> None:
    with pytest.raises(ValueError, match=r"representation\.resolution=12"):
        voxel_scene(resolution=16).load_state_dict(voxel_scene(resolution=12).state_dict())


def test_state_of_another_representation_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks color, density"):
        voxel_scene(resolution=16).load_state_dict({"means": torch.zeros(3), "step": torch.tensor(0)})


def test_nan_parameters_do_not_crash() -> None:
    scene = voxel_scene(resolution=16)
    with torch.no_grad():
        scene.density[8, 8, 8] = math.nan
    out = scene.render(orbit([0.0], size=16), BACKGROUND)
    assert bool(out.rgb.isnan().any())
    out.rgb.sum().backward()
    scene.after_step(0, adam(scene))
    with pytest.raises(ValueError, match="NaN"):
        scene.to_mesh(24)
