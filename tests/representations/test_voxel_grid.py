"""The dense-grid radiance field: contract, regularisers in closed form, resuming, fitting, meshing."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sds3d.cameras import Cameras, orbit, turntable
from sds3d.geometry.mesh import EmptySurfaceError
from sds3d.rendering.mesh_zbuffer import rasterize
from sds3d.rendering.volume import BOUND
from sds3d.representations.base import Rendering
from sds3d.representations.voxel_grid import VoxelGridConfig, VoxelGridScene


def adam(scene: VoxelGridScene) -> torch.optim.Adam:
    return torch.optim.Adam(scene.parameter_groups())


BACKGROUND = torch.tensor([0.2, 0.5, 0.9])


def scene_of(seed: int = 0, **options: object) -> VoxelGridScene:
    return VoxelGridScene(VoxelGridConfig.model_validate(options), torch.Generator().manual_seed(seed))


def two_tone_ball(n: int = 32, radius: float = 0.3) -> VoxelGridScene:
    """An opaque ball, red where x > 0 and blue elsewhere."""
    scene = scene_of(resolution=n)
    axis = torch.linspace(-BOUND, BOUND, n)
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    with torch.no_grad():
        scene.density.copy_(((radius - (x * x + y * y + z * z).sqrt()) * 200).clamp(-14, 8))
        red = (x > 0).float() * 8 - 4
        scene.color.copy_(torch.stack([red, torch.full_like(red, -4.0), -red], dim=-1))
    return scene


def fit(scene: VoxelGridScene, cameras: Cameras, target: Tensor, steps: range, total: int) -> None:
    optimizer = torch.optim.Adam(scene.parameter_groups())
    for step in steps:
        rendering = scene.render(cameras, BACKGROUND)
        data = 0.5 * (rendering.rgb - target).square().sum() / len(cameras)
        (data + torch.stack(list(scene.regularisers(rendering, step / total).values())).sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
        scene.after_step(step, optimizer)


def test_pictures_keep_the_contract() -> None:
    scene = two_tone_ball()
    cameras = orbit([0.0, 90.0, 200.0]).resized(20, 28)
    with torch.no_grad():
        out = scene.render(cameras, BACKGROUND)
    assert out.rgb.shape == (3, 20, 28, 3)
    assert out.alpha.shape == out.depth.shape == (3, 20, 28, 1)
    assert out.normal.shape == (3, 20, 28, 3)
    assert out.rgb.min() >= 0
    assert out.rgb.max() <= 1
    # The corner shows the background; the middle the ball's front, 2.1 - 0.3 m away, facing the camera.
    torch.testing.assert_close(out.rgb[0, 0, 0], BACKGROUND, atol=1e-3, rtol=0)
    assert float(out.alpha[0, 10, 14]) > 0.999
    assert float(out.depth[0, 10, 14]) == pytest.approx(1.8, abs=0.04)
    toward = cameras.position() / cameras.position().norm(dim=-1, keepdim=True)
    assert ((out.normal[:, 10, 14] * toward).sum(-1) > 0.97).all()


def test_camera_on_plus_x_sees_the_side_at_plus_x() -> None:
    with torch.no_grad():
        rgb = two_tone_ball().render(orbit([90.0, 270.0, 0.0], size=32), torch.zeros(3)).rgb
    assert rgb[0, 16, 16, 0] > 0.9
    assert rgb[1, 16, 16, 2] > 0.9
    # From the front, +X is on the right.
    assert rgb[2, 16, 20, 0] > 0.9
    assert rgb[2, 16, 11, 2] > 0.9


def test_background_may_differ_between_views() -> None:
    backgrounds = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    with torch.no_grad():
        rgb = two_tone_ball().render(orbit([0.0, 90.0], size=16), backgrounds).rgb
    torch.testing.assert_close(rgb[:, 0, 0], backgrounds, atol=1e-3, rtol=0)


def test_samples_are_jittered_in_training_only() -> None:
    scene, cameras = scene_of(resolution=16), orbit([0.0], size=16)

    def before_and_after_a_step() -> tuple[Tensor, Tensor]:
        before = scene.render(cameras, BACKGROUND).rgb
        scene.after_step(0, adam(scene))
        after = scene.render(cameras, BACKGROUND).rgb
        scene.load_state_dict(start)
        return before, after

    start = scene.state_dict()
    with torch.no_grad():
        assert torch.equal(*before_and_after_a_step())
    assert not torch.equal(*before_and_after_a_step())


def test_one_seed_one_scene() -> None:
    one, same, other = scene_of(3, resolution=16), scene_of(3, resolution=16), scene_of(4, resolution=16)
    assert torch.equal(one.density, same.density)
    assert torch.equal(one.color, same.color)
    assert not torch.equal(one.density, other.density)
    cameras = orbit([10.0], size=16)
    assert torch.equal(one.render(cameras, BACKGROUND).rgb, same.render(cameras, BACKGROUND).rgb)


def test_starts_as_a_blob_in_the_middle() -> None:
    with torch.no_grad():
        alpha = scene_of().render(orbit([0.0, 90.0], size=32), BACKGROUND).alpha[..., 0]
    assert alpha[:, 16, 16].min() > 0.99
    assert alpha[:, 0, 0].max() < 0.3


def test_gradients_reach_every_parameter_through_every_picture() -> None:
    scene = scene_of(resolution=16)
    out = scene.render(orbit([0.0, 90.0], size=24), BACKGROUND)
    for picture in (out.rgb, out.alpha, out.depth, out.normal[..., 0]):
        gradients = torch.autograd.grad(picture.sum(), [scene.density, scene.color], retain_graph=True)
        assert all(bool(gradient.isfinite().all()) for gradient in gradients)
        assert float(gradients[0].abs().max()) > 0


def test_regularisers_in_closed_form() -> None:
    scene = scene_of(resolution=8, opacity=2.0, entropy=3.0, density_smoothness=5.0, color_smoothness=7.0)
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
    scene, alpha = scene_of(resolution=8), torch.full((1, 4, 4, 1), value, requires_grad=True)
    scene.regularisers(Rendering(alpha, alpha, alpha, alpha), 1.0)["entropy"].backward()
    assert alpha.grad is not None
    assert bool(alpha.grad.isfinite().all())


def test_empty_cells_are_skipped_after_the_warmup_and_seen_again_now_and_then() -> None:
    scene, cameras = two_tone_ball(16), orbit([0.0], size=24)
    scene.config = scene.config.model_copy(update={"warmup": 4})
    with torch.no_grad():
        scene.density.clamp_(min=-9.0)  # a trace of density everywhere, under the threshold
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
        target = two_tone_ball().render(cameras, BACKGROUND).rgb
    scene = scene_of(resolution=32, samples=32, warmup=40)
    fit(scene, cameras, target, range(100), 100)
    with torch.no_grad():
        unseen = orbit([33.0, 170.0], elevation=25.0, size=32)
        errors = [
            (scene.render(cameras, BACKGROUND).rgb - target).square().mean(),
            (scene.render(unseen, BACKGROUND).rgb - two_tone_ball().render(unseen, BACKGROUND).rgb).square().mean(),
        ]
    seen_psnr, unseen_psnr = (-10 * math.log10(float(error)) for error in errors)
    assert seen_psnr > 34
    assert unseen_psnr > 26


def test_resumed_training_is_bit_identical() -> None:
    cameras = turntable(2, size=16)
    with torch.no_grad():
        target = two_tone_ball(16).render(cameras, BACKGROUND).rgb
    options = {"resolution": 16, "samples": 24, "warmup": 2}

    def run(stop: int | None) -> dict[str, Tensor]:
        scene = scene_of(1, **options)
        for step in range(14):
            if step == stop:
                state = {name: tensor.clone() for name, tensor in scene.state_dict().items()}
                scene = scene_of(9, **options)
                scene.load_state_dict(state)
            fit(scene, cameras, target, range(step, step + 1), 14)  # a new Adam each time has nothing to resume
        return scene.state_dict()

    straight, resumed = run(None), run(11)
    assert straight.keys() == resumed.keys()
    for name, tensor in straight.items():
        assert torch.equal(tensor, resumed[name]), name


def test_state_of_another_resolution_is_refused() -> None:
    with pytest.raises(ValueError, match=r"representation\.resolution=12"):
        scene_of(resolution=16).load_state_dict(scene_of(resolution=12).state_dict())


def test_state_of_another_representation_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks color, density"):
        scene_of(resolution=16).load_state_dict({"means": torch.zeros(3), "step": torch.tensor(0)})


def test_mesh_looks_like_the_render() -> None:
    scene, cameras = two_tone_ball(32), orbit([20.0, 100.0, 250.0], elevation=10.0, size=96)
    mesh = scene.to_mesh(64)
    voxel = 2 * BOUND / 31  # the density fades out over one voxel
    assert 0.3 < (mesh.volume() * 3 / (4 * math.pi)) ** (1 / 3) < 0.3 + voxel
    assert mesh.colors is not None
    picture = rasterize(mesh.vertices, mesh.faces, mesh.colors, cameras)
    with torch.no_grad():
        render = scene.render(cameras, torch.zeros(3))
    mask, alpha = picture.face >= 0, render.alpha[..., 0].numpy()
    assert (mask & (alpha > 0.5)).sum() / (mask | (alpha > 0.5)).sum() > 0.95
    inside = mask & (alpha > 0.99)
    assert np.abs(picture.attributes - render.rgb.numpy())[inside].mean() < 0.02


def test_empty_scene_has_no_mesh() -> None:
    scene = scene_of(resolution=16)
    with torch.no_grad():
        scene.density.fill_(-20.0)
        out = scene.render(orbit([0.0], size=8), BACKGROUND)
    assert float(out.alpha.max()) < 1e-6
    torch.testing.assert_close(out.rgb, BACKGROUND.expand_as(out.rgb))
    with pytest.raises(EmptySurfaceError):
        scene.to_mesh(24)


def test_nan_parameters_do_not_crash() -> None:
    scene = scene_of(resolution=16)
    with torch.no_grad():
        scene.density[8, 8, 8] = math.nan
    out = scene.render(orbit([0.0], size=16), BACKGROUND)
    assert bool(out.rgb.isnan().any())
    out.rgb.sum().backward()
    scene.after_step(0, adam(scene))
    with pytest.raises(ValueError, match="NaN"):
        scene.to_mesh(24)
