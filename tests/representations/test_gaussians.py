"""The cloud of Gaussians: pictures, fitting, densification, resuming, and meshing."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from sds3d.cameras import Cameras, orbit, turntable
from sds3d.geometry.mesh import EmptySurfaceError
from sds3d.geometry.splats import SH_C0
from sds3d.ramps import Ramp
from sds3d.rendering.mesh_zbuffer import rasterize
from sds3d.rendering.volume import render_rays
from sds3d.representations.base import Rendering, Start
from sds3d.representations.gaussians import GaussiansConfig, GaussiansScene, normals_from_depth

BACKGROUND = torch.tensor([0.2, 0.5, 0.9])


def scene_of(seed: int = 0, steps: int = 100, **options: object) -> GaussiansScene:
    config = GaussiansConfig.model_validate({"count": 600, **options})
    return GaussiansScene(config, torch.Generator().manual_seed(seed), steps=steps)


def two_tone_ball(cameras: Cameras, radius: float = 0.3) -> tuple[Tensor, Tensor]:
    """Return exact pictures (B, H, W, 3) and distances (B, H, W) of an opaque ball, red where x > 0, blue elsewhere."""
    origins, directions = cameras.rays()
    along = -(origins * directions).sum(-1)
    inside = radius**2 - (origins.square().sum(-1) - along**2)
    distance = along - inside.clamp(min=0).sqrt()
    x = (origins + distance[..., None] * directions)[..., 0]
    color = torch.where(x[..., None] > 0, torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0]))
    return torch.where(inside[..., None] > 0, color, BACKGROUND), distance * (inside > 0)


def fit(scene: GaussiansScene, optimizer: torch.optim.Adam, cameras: Cameras, steps: range) -> None:
    target, _ = two_tone_ball(cameras)
    for step in steps:
        rendering = scene.render(cameras, BACKGROUND)
        data = 0.5 * (rendering.rgb - target).square().sum() / len(cameras)
        losses = scene.regularisers(rendering, step / scene.steps)
        (data + torch.stack(list(losses.values())).sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
        scene.after_step(step, optimizer)


@pytest.fixture(scope="module")
def ball() -> GaussiansScene:
    scene = scene_of(steps=120)
    elevation = torch.tensor([15.0, -40.0, 15.0, 60.0, -20.0, 30.0])
    fit(
        scene,
        torch.optim.Adam(scene.parameter_groups()),
        orbit([0.0, 60, 120, 180, 240, 300], elevation, size=48),
        range(120),
    )
    return scene


def test_a_fitted_ball_is_right_in_unseen_views_too(ball: GaussiansScene) -> None:
    cameras = orbit([36.0, 180.0], 25.0, size=48)
    target, distance = two_tone_ball(cameras)
    with torch.no_grad():
        out = ball.render(cameras, BACKGROUND)
    psnr = -10 * math.log10((out.rgb - target).square().mean().item())
    assert psnr > 23
    middle = out.alpha[..., 0] > 0.95
    assert ((out.depth / out.alpha)[..., 0] - distance).abs()[middle].mean() < 0.05  # the surface is soft
    points = cameras.rays()[0] + distance[..., None] * cameras.rays()[1]
    agreement = (out.normal * torch.nn.functional.normalize(points, dim=-1)).sum(-1)[middle]
    assert agreement.mean() > 0.8


def test_gaussians_were_added(ball: GaussiansScene) -> None:
    assert len(ball.parameters["means"]) > 650
    assert {len(p) for p in ball.parameters.values()} == {len(ball.parameters["means"])}


def test_the_mesh_looks_like_the_render(ball: GaussiansScene) -> None:
    mesh = ball.to_mesh(64)
    assert mesh.volume() == pytest.approx(4 / 3 * math.pi * 0.3**3, rel=0.15)
    cameras = turntable(4, size=64)
    with torch.no_grad():
        out = ball.render(cameras, torch.zeros(3))
    assert mesh.colors is not None
    drawn = rasterize(mesh.vertices, mesh.faces, mesh.colors, cameras)
    hit, seen = drawn.face >= 0, out.alpha[..., 0].numpy() > 0.5
    assert (hit & seen).sum() / (hit | seen).sum() > 0.93
    both = hit & seen
    assert np.abs(drawn.attributes - out.rgb.numpy())[both].mean() < 0.08


def test_the_grid_renders_like_the_cloud(ball: GaussiansScene) -> None:
    cameras = turntable(3, size=48)
    origins, directions = cameras.rays()
    pictures = render_rays(ball.grid(96), origins, directions, samples=96)
    with torch.no_grad():
        out = ball.render(cameras, torch.zeros(3))
    assert (pictures.alpha - out.alpha[..., 0]).abs().mean() < 0.03
    assert (pictures.rgb - out.rgb).abs().mean() < 0.03


def test_depth_is_the_distance_along_the_ray() -> None:
    scene = scene_of(count=1)
    with torch.no_grad():
        scene.parameters["means"].copy_(torch.tensor([[0.3, 0.2, 0.0]]))
        scene.parameters["scales"].fill_(math.log(0.02))
        scene.parameters["opacities"].fill_(4.0)
    cameras = orbit([0.0], 0.0, size=64)
    with torch.no_grad():
        out = scene.render(cameras, BACKGROUND)
    row, column = divmod(int(out.alpha[0, ..., 0].argmax()), 64)
    expected = (cameras.position()[0] - torch.tensor([0.3, 0.2, 0.0])).norm()
    assert out.depth[0, row, column, 0] / out.alpha[0, row, column, 0] == pytest.approx(expected.item(), rel=2e-3)


def test_normals_of_a_plane() -> None:
    cameras = orbit([0.0, 40.0], 20.0, size=24)
    origins, directions = cameras.rays()
    normal, offset = torch.nn.functional.normalize(torch.tensor([0.2, 0.4, 1.0]), dim=0), 0.1
    distance = ((offset - origins @ normal) / (directions @ normal))[..., None]
    alpha = torch.full_like(distance, 0.5)
    out = normals_from_depth(0.5 * distance, alpha, origins, directions)
    torch.testing.assert_close(out, normal.expand_as(out), atol=2e-3, rtol=0)
    assert normals_from_depth(0 * distance, 0 * alpha, origins, directions).abs().max() == 0


def test_colours_depend_on_the_view_only_with_harmonics() -> None:
    def pictures(degree: int) -> Tensor:
        scene = scene_of(count=1, sh_degree=degree)
        with torch.no_grad():
            scene.parameters["means"].zero_()
            scene.parameters["quats"].copy_(torch.tensor([[1.0, 0, 0, 0]]))
            scene.parameters["harmonics"].normal_(generator=torch.Generator().manual_seed(1))
            return scene.render(orbit([0.0, 120.0], 0.0, size=9), torch.zeros(3)).rgb

    torch.testing.assert_close(pictures(0)[0], pictures(0)[1], atol=1e-6, rtol=0)
    assert (pictures(2)[0] - pictures(2)[1]).abs().max() > 0.01


def test_coefficients_are_the_colours() -> None:
    scene = scene_of(sh_degree=1)
    colors = 0.5 + SH_C0 * scene.coefficients()[:, 0]
    torch.testing.assert_close(colors, torch.sigmoid(scene.parameters["colors"]))
    assert scene.coefficients().shape == (600, 4, 3)


def test_regularisers_in_closed_form() -> None:
    scene = scene_of(count=2, opacity=2.0, entropy=3.0, size=5.0)
    with torch.no_grad():
        scene.parameters["scales"].copy_(torch.tensor([[0.15, 0.01, 0.01], [0.01] * 3]).log())
        scene.parameters["means"].copy_(torch.tensor([[0.0, 0.0, 0.0], [0.75, 0.0, 0.0]]))
    out = scene.render(orbit([0.0], size=8), BACKGROUND)
    flat = type(out)(out.rgb, torch.full_like(out.alpha, 0.5), out.depth, out.normal)
    losses = scene.regularisers(flat, progress=0.5)
    assert losses["opacity"].item() == pytest.approx(2.0 * 0.5 * 64)
    assert losses["entropy"].item() == pytest.approx(3.0 * 0.5 * math.log(2) * 64, rel=1e-5)
    assert losses["size"].item() == pytest.approx(5.0 * 64 * (0.1 / 2 + 0.2 / 2), rel=1e-4)
    assert losses.keys() == {"opacity", "entropy", "size"}


def test_published_losses_are_means_times_the_pixels() -> None:
    scene = scene_of(count=2, mean_scale=Ramp(((0.0, 0.0), (1.0, 4.0))), roughness=3.0, sparsity=2.0)
    with torch.no_grad():
        scene.parameters["scales"].copy_(torch.tensor([[0.15, 0.01, 0.02], [0.06] * 3]).log())
    columns = torch.tensor([0.0, 0.5, 0.5, 1.0]).expand(2, 4, 4)[..., None]  # (B, H, W, 1)
    depth = 1 / torch.tensor([0.5, 0.25, 0.4, 0.25]).expand(2, 4, 4)[..., None]  # opaque: nearness 1, 0, 0.6, 0
    opaque = torch.ones(2, 4, 4, 1)
    seen = Rendering(columns.expand(-1, -1, -1, 3), opaque, depth, columns.expand(-1, -1, -1, 3))
    losses = scene.regularisers(seen, progress=0.5)
    assert losses["mean_scale"].item() == pytest.approx(16 * 2.0 * 0.06, rel=1e-5)
    # Squared differences between columns: 0.25, 0, 0.25 for colours and 1, 0.36, 0.36 for inverse depths.
    assert losses["roughness"].item() == pytest.approx(16 * 3.0 * 2 * (0.5 / 3 + 1.72 / 3), rel=1e-3)
    seen = replace(seen, alpha=columns)
    losses = scene.regularisers(seen, progress=0.5)
    roots = [math.sqrt(a**2 + 0.01) for a in (0.0, 0.5, 0.5, 1.0)]
    assert losses["sparsity"].item() == pytest.approx(2.0 * 4 * sum(roots), rel=1e-5)
    assert scene.regularisers(seen, progress=0.0).keys() == losses.keys() - {"mean_scale"}


@pytest.mark.parametrize("strategy", ["distillation", "adaptive", "mcmc"])
def test_resuming_gives_the_same_gaussians(strategy: str) -> None:
    options = {"densify": {"name": strategy, "every": 4, "start": 0.0, "until": 1.0}, "count": 100}
    cameras = orbit([0.0, 120.0, 240.0], size=24)
    whole = scene_of(steps=20, **options)
    optimizer = torch.optim.Adam(whole.parameter_groups())
    fit(whole, optimizer, cameras, range(9))
    state = {key: value.clone() for key, value in whole.state_dict().items()}
    moments = optimizer.state_dict()["state"]
    moments = {i: {key: value.clone() for key, value in of.items()} for i, of in moments.items()}
    fit(whole, optimizer, cameras, range(9, 20))

    resumed = scene_of(seed=5, steps=20, **options)
    resumed.load_state_dict(state)
    again = torch.optim.Adam(resumed.parameter_groups())
    again.load_state_dict({**again.state_dict(), "state": moments})
    fit(resumed, again, cameras, range(9, 20))
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in whole.state_dict().items())


def test_a_state_of_another_kind_is_refused() -> None:
    scene = scene_of()
    with pytest.raises(ValueError, match="lacks means"):
        scene.load_state_dict({key: value for key, value in scene.state_dict().items() if key != "means"})
    with pytest.raises(ValueError, match=r"set representation.sh_degree=0"):
        scene_of(sh_degree=2).load_state_dict(scene.state_dict())


def test_an_empty_cloud_has_no_surface() -> None:
    scene = scene_of(count=10)
    with torch.no_grad():
        scene.parameters["opacities"].fill_(-40.0)
    with pytest.raises(EmptySurfaceError, match="almost empty"):
        scene.to_mesh(32)


def test_degenerate_quaternions_and_scales_are_drawn() -> None:
    scene = scene_of(count=4)
    with torch.no_grad():
        scene.parameters["quats"].zero_()
        scene.parameters["scales"].copy_(torch.tensor([[-80.0], [-3.0], [3.0], [80.0]]).expand(4, 3))
    out = scene.render(orbit([0.0], size=16), BACKGROUND)
    assert torch.isfinite(out.rgb).all()
    out.rgb.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in scene.parameters.values() if p.grad is not None)


def test_a_start_grows_by_points_around_it() -> None:
    """All points are round then, as wide as the distance to their neighbours, with an opacity of 0.1."""
    ball = scene_of(count=300, radius=0.3)
    around = {"tries": 4000, "distance": 0.05, "brighter": 0.2}
    config = GaussiansConfig.model_validate({"count": 300, "around": around})
    grown = config.make(Start(torch.Generator().manual_seed(0), steps=10, before=ball)).splats()
    assert grown is not None
    before = ball.splats()
    np.testing.assert_allclose(grown.means[-300:], before.means, atol=1e-6)
    np.testing.assert_allclose(grown.sh[-300:, 0], before.sh[:, 0], atol=0.02)
    assert len(grown) > 600
    apart = np.linalg.norm(grown.means[:-300, None] - before.means, axis=2)
    assert apart.min(1).max() < 0.05
    brighter = SH_C0 * (grown.sh[:-300, 0] - before.sh[apart.argmin(1), 0])
    assert brighter.mean() == pytest.approx(0.1, abs=0.02)
    np.testing.assert_allclose(grown.opacities, 0.1, atol=1e-5)
    np.testing.assert_allclose(grown.scales, grown.scales[:, :1].repeat(3, axis=1), rtol=1e-5)


def test_noise_on_scales_is_drawn_anew_in_each_step_of_training_alone() -> None:
    cameras, noisy, plain = orbit([20.0], size=16), scene_of(scale_noise=0.3), scene_of()
    optimizer = torch.optim.Adam(noisy.parameter_groups())

    def alphas(scene: GaussiansScene) -> Tensor:
        return scene.render(cameras, BACKGROUND).alpha.detach()

    first = alphas(noisy)
    assert torch.equal(first, alphas(noisy))
    assert (first - alphas(plain)).abs().max() > 0.01
    with torch.no_grad():
        assert torch.equal(alphas(noisy), alphas(plain))
    noisy.after_step(0, optimizer)
    second = alphas(noisy)
    assert not torch.equal(first, second)
    resumed = scene_of(seed=3, scale_noise=0.3)
    resumed.load_state_dict(noisy.state_dict())
    assert torch.equal(alphas(resumed), second)
