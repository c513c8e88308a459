from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from sds3d.cameras import orbit, turntable
from sds3d.ramps import Ramp
from sds3d.rendering.packed import Samples, density_normals, render_field
from sds3d.representations.base import Rendering, Start, sparsity_loss
from sds3d.representations.field_nerf import FieldNerfScene
from sds3d.representations.field_shading import (
    FieldShading,
    Light,
    Shader,
    convexity_loss,
    draw_light,
    light_positions,
    normal_losses,
    normals_of,
)
from sds3d.representations.fields import RadianceField
from sds3d.representations.fields_hash import HashField
from sds3d.representations.hash_nerf import HashNerfConfig
from sds3d.representations.triplane_nerf import TriplaneNerfConfig
from sds3d.run.config import new_run
from tests.run.tiny_runs import finish, same, tiny

RADIUS = 0.3
SMALL = {"levels": 4, "log2_entries": 10, "samples": 16}


class Sphere(RadianceField):
    """A solid ball of one colour, opaque within a few millimetres of its surface, where its density begins to rise."""

    def __init__(self, color: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.tensor(1e5))
        self.color = torch.tensor(color)

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        density = self.strength * (RADIUS - points.norm(dim=-1)).clamp(min=0)
        return density, self.color.expand(len(points), 3)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return []


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sphere_scene(**settings: Any) -> FieldNerfScene:
    """A scene of a white ball in place of its hash grid."""
    scene = FieldNerfScene(HashNerfConfig(**(SMALL | {"samples": 768} | settings)), seeded())
    scene.field = Sphere()  # type: ignore[assignment]
    scene._occupancy = scene._survey(explore=True)
    return scene


def on_the_sphere(cameras: Any) -> tuple[Tensor, Tensor]:
    """Return the points (B, H, W, 3) where rays meet the ball, and which rays do so well inside its outline."""
    origins, directions = cameras.rays()
    middle = -(origins * directions).sum(-1)
    off = (origins.square().sum(-1) - middle**2).clamp(min=0).sqrt()
    t = middle - (RADIUS**2 - off**2).clamp(min=0).sqrt()
    return origins + t[..., None] * directions, off < 0.9 * RADIUS


@pytest.mark.parametrize("step", [5e-4, 0.0])
@pytest.mark.parametrize("light", ["dreamfusion", "magic3d"])
def test_a_white_ball_has_the_brightness_of_its_normals_under_the_lamp(light: Any, step: float):
    shading = FieldShading(ambient_only=0, textureless=0, lambert=1, ambient=0.2, diffuse=0.7, light=light)
    scene, cameras = sphere_scene(shading=shading, normal_step=step), turntable(3, elevation=20.0, size=24)
    lamp = draw_light(shading, cameras, 0.0, scene._generator("light"))
    assert lamp.look == "lambert"
    seen = scene.render(cameras, torch.zeros(3))
    points, inside = on_the_sphere(cameras)
    normal = nn.functional.normalize(points, dim=-1)
    to_light = nn.functional.normalize(lamp.position[:, None, None] - points, dim=-1)
    expected = 0.2 + 0.7 * (normal * to_light).sum(-1, keepdim=True).clamp(min=0)
    torch.testing.assert_close(seen.rgb[inside], expected.expand_as(points)[inside], atol=0.02, rtol=0)
    assert seen.rgb[inside].std() > 0.1
    torch.testing.assert_close(seen.normal[inside], normal[inside], atol=0.02, rtol=0)
    # Previews and files show the plain colours.
    with torch.no_grad():
        plain = scene.render(cameras, torch.zeros(3))
    torch.testing.assert_close(plain.rgb[inside], torch.ones_like(points)[inside], atol=1e-3, rtol=0)


def test_each_look_shades_as_it_says():
    color, points = torch.tensor([[0.5, 0.2, 0.8]]).expand(3, 3), torch.zeros(3, 3)
    normal = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.6, 0.8], [0.0, 0.0, -1.0]])
    position = torch.tensor([[9.0, 9.0, 9.0], [0.0, 0.0, 2.0]])
    view = torch.ones(3, dtype=torch.int64)

    def on(look: Any) -> Tensor:
        return Light(look, 0.1, 0.9, position).on(color, normal, points, view)

    light = torch.tensor([1.0, 0.1 + 0.9 * 0.8, 0.1])[:, None]
    assert torch.equal(on("albedo"), color)
    torch.testing.assert_close(on("lambert"), light * color)
    torch.testing.assert_close(on("textureless"), light.expand(3, 3))
    torch.testing.assert_close(on("normal"), 0.5 * (normal + 1))


def test_looks_have_their_shares_after_the_ambient_steps():
    shading, cameras, generator = FieldShading(soft=True), turntable(1), seeded()
    drawn = [draw_light(shading, cameras, 0.2, generator) for _ in range(4000)]
    shares = [sum(light.look == look for light in drawn) / 4000 for look in ("albedo", "textureless", "lambert")]
    assert shares == pytest.approx([0.25, 0.375, 0.375], abs=0.025)
    assert all(light.ambient + light.diffuse == pytest.approx(1) for light in drawn)
    ambient = torch.tensor([light.ambient for light in drawn])
    assert (ambient.mean().item(), ambient.var().item()) == pytest.approx((0.5, 1 / 12), abs=0.02)
    early = [draw_light(shading, cameras, 0.19, generator).look for _ in range(50)]
    assert set(early) == {"albedo"}
    normals = FieldShading(textureless=0, lambert=0, normal=1, ambient_only=0)
    hard = draw_light(normals, cameras, 0.0, generator)
    assert (hard.look, hard.ambient, hard.diffuse) == ("normal", 0.1, 0.9)


def test_dreamfusion_s_lamp_is_near_the_camera_s_direction():
    cameras = turntable(2, elevation=30.0, distance=1.5)[torch.zeros(100_000, dtype=torch.int64)]
    position = light_positions(FieldShading(), cameras, seeded())
    distance = position.norm(dim=-1)
    assert (distance.min().item(), distance.max().item()) == pytest.approx((0.8, 1.5), abs=1e-3)
    assert distance.mean().item() == pytest.approx(1.15, abs=0.01)
    along = (position * cameras.position()).sum(-1)
    # The lamp is on the camera's side if a normal draw is above -1.5, the camera's distance.
    assert (along > 0).float().mean().item() == pytest.approx(0.5 * (1 + math.erf(1.5 / math.sqrt(2))), abs=0.004)


def test_magic3d_s_lamp_is_within_60_degrees_of_the_camera_s_direction():
    cameras = orbit([40.0], 25.0)[torch.zeros(20_000, dtype=torch.int64)]
    position = nn.functional.normalize(light_positions(FieldShading(light="magic3d"), cameras, seeded()), dim=-1)
    toward = nn.functional.normalize(cameras.position(), dim=-1)
    angle = torch.rad2deg(torch.acos((position * toward).sum(-1).clamp(-1, 1)))
    assert (angle.min().item(), angle.max().item()) == pytest.approx((0, 60), abs=0.3)
    assert (angle.mean().item(), angle.std().item()) == pytest.approx((30, 60 / math.sqrt(12)), abs=0.4)
    right, up = cameras.c2w()[0, :3, 0], cameras.c2w()[0, :3, 1]
    turn = torch.atan2(position @ up, position @ right)
    harmonics = torch.stack([f(k * turn).mean() for f in (torch.cos, torch.sin) for k in (1, 2)])
    assert harmonics.abs().max() < 0.02


# ---- normals and losses ----


def test_exact_normals_of_a_hash_grid_are_the_limit_of_differences():
    field = HashField(seeded(), levels=5, entries=1 << 10).double()
    nn.init.normal_(field.table, std=0.5, generator=seeded(1))
    points = 0.5 * (2 * torch.rand(400, 3, generator=seeded(2), dtype=torch.float64) - 1)
    exact = normals_of(field, 0.0)(points)
    axes = 1e-6 * torch.eye(3, dtype=torch.float64)[:, None]
    before, after = field((torch.cat([points - axes, points + axes])).reshape(-1, 3))[0].reshape(2, 3, -1)
    error = (exact - nn.functional.normalize((before - after).T, dim=-1)).norm(dim=-1)
    assert (error < 1e-3).double().mean() > 0.99  # but for points on the faces of cells
    # In float32 there are kernels.
    single = normals_of(field.float(), 0.0)(points.float())
    assert (single.double() - exact).norm(dim=-1).median() < 1e-3


def test_gradients_of_shaded_samples_agree_with_finite_differences():
    generator = seeded(3)
    theta = torch.randn(4, 3, generator=generator, dtype=torch.float64).requires_grad_()
    points = 0.4 * torch.randn(6, 3, generator=generator, dtype=torch.float64)
    weights = torch.rand(6, generator=generator, dtype=torch.float64)
    directions = nn.functional.normalize(torch.randn(1, 1, 3, 3, generator=generator, dtype=torch.float64), dim=-1)
    ray = torch.tensor([0, 0, 1, 1, 2, 2])
    samples = Samples(ray, points[:, 0], points[:, 0], points, torch.tensor([0, 2, 4, 6]))
    features = torch.rand(6, 3, generator=generator, dtype=torch.float64).requires_grad_()

    def shaded(theta: Tensor, features: Tensor, step: float = 1e-3) -> tuple[Tensor, Tensor]:
        class Waves(RadianceField):
            def forward(self, places: Tensor) -> tuple[Tensor, Tensor]:
                return (places @ theta[:3]).sin().sum(-1).exp() + (places * theta[3]).sum(-1) ** 2, places

            def parameter_groups(self) -> list[dict[str, Any]]:
                return []

        light = Light("lambert", 0.1, 0.9, torch.tensor([[0.3, 1.0, 0.8]], dtype=torch.float64))
        shader = Shader(normals_of(Waves(), step), directions, 3, light)
        return shader(samples, weights, features), shader.facing_away

    assert torch.autograd.gradcheck(shaded, (theta, features), atol=1e-5)
    assert torch.autograd.gradcheck(lambda *leaves: shaded(*leaves, step=0.0), (theta, features), atol=1e-5)


@pytest.mark.parametrize(("slope", "share"), [(0.8, 1.0), (-0.8, 0.0)])
@pytest.mark.parametrize("angle", [0.0, 40.0])
def test_matter_that_thins_out_along_the_ray_faces_away(slope: float, share: float, angle: float):
    """Where the density falls along a ray, all its matter faces away: the sum is alpha cos^2."""
    tilt = math.radians(angle)

    def field(points: Tensor) -> tuple[Tensor, Tensor]:
        return 4 * (1 + slope * points[:, 2]), torch.ones_like(points)

    origins = torch.tensor([[[[0.0, 0.0, 0.0]]]]) + 2 * torch.tensor([0.0, math.sin(tilt), math.cos(tilt)])
    directions = -origins / 2
    shader = Shader(lambda points: density_normals(field, points, 0.01), directions, 3, None)
    seen = render_field(field, origins, directions, samples=64, shade=shader)
    expected = share * seen.alpha.item() * math.cos(tilt) ** 2
    assert shader.facing_away.item() == pytest.approx(expected, abs=1e-3)
    assert seen.alpha.item() > 0.9


def test_losses_on_normals_are_the_published_means_times_the_pixels():
    alpha = torch.zeros(2, 4, 4, 1)
    alpha[:, :, 2:] = 1.0
    normal = torch.tensor([0.0, 0.0, 1.0]).repeat(2, 4, 4, 1) * alpha
    away = 0.25 * alpha
    seen = Rendering(normal, alpha, alpha, normal, facing_away=away)
    losses = normal_losses(seen, Ramp(((0.0, 10.0), (0.5, 1000.0))), Ramp(3.0), 0.25)
    assert losses["orientation"].item() == pytest.approx(16 * 505 * 0.25)  # all covered rays have 0.25
    # One of three columns of differences jumps from 0 to (0.5, 0.5, 1): its squares are 0.25, 0.25 and 1.
    assert losses["normal_smoothness"].item() == pytest.approx(16 * 3 * (1.5 / 3) / 3)
    assert normal_losses(seen, Ramp(0.0), Ramp(0.0), 0.25) == {}
    sparse = sparsity_loss(seen, 2.0)["sparsity"].item()
    assert sparse == pytest.approx(2 * 8 * (math.sqrt(1.01) + 0.1))
    assert sparsity_loss(seen, 0.0) == {}


def turned(angle: Tensor) -> Rendering:
    """Return a picture (1, 16, 16) whose normals are turned about +Y by angle (8,) from +Z, in columns of 2 pixels."""
    angle = angle.repeat_interleave(2)
    normal = torch.stack([angle.sin(), torch.zeros(16), angle.cos()], dim=-1).expand(1, 16, 16, 3)
    alpha = torch.ones(1, 16, 16, 1)
    return Rendering(normal, alpha, alpha, normal, facing_away=alpha)


def test_the_convexity_loss_prefers_bulges():
    angle = torch.linspace(-1.2, 1.3, 8)
    bulge, hollow = (convexity_loss(turned(sign * angle), 3.0)["convexity"].item() for sign in (1, -1))
    # Cross products of the colours (1 + sin, 1, 1 + cos) / 2 of neighbouring columns; those of rows are 0.
    x, z = 0.5 * (1 + angle.sin()), 0.5 * (1 + angle.cos())
    assert bulge == pytest.approx(-256 * 3 * (z[:-1] * x[1:] - x[:-1] * z[1:]).mean().item(), rel=1e-5)
    assert bulge < 0 < hollow
    assert convexity_loss(turned(angle), 0.0) == {}


def test_the_orientation_loss_turns_matter_to_the_camera():
    config = HashNerfConfig(**SMALL, orientation=Ramp(1.0), opacity=Ramp(0.0), entropy=Ramp(0.0))
    scene, cameras = FieldNerfScene(config, seeded()), turntable(2, size=12)
    optimizer = torch.optim.Adam(scene.parameter_groups())
    values = []
    for step in range(40):
        optimizer.zero_grad()
        loss = scene.regularisers(scene.render(cameras, torch.zeros(3)), 0.0)["orientation"]
        loss.backward()
        optimizer.step()
        scene.after_step(step, optimizer)
        values.append(loss.item())
    assert values[-1] < 0.6 * values[0]


# ---- settings and runs ----


def test_light_changes_no_plain_step_and_no_preview():
    plain, lit = (
        FieldNerfScene(HashNerfConfig(**SMALL, shading=shading), seeded()) for shading in (None, FieldShading())
    )
    cameras = turntable(2, size=8)
    assert torch.equal(plain.render(cameras, torch.ones(3)).rgb, lit.render(cameras, torch.ones(3)).rgb)  # ambient only
    lit._step = plain._step = 399
    lit.config = lit.config.model_copy(update={"shading": FieldShading(textureless=1, lambert=0)})
    assert not torch.equal(plain.render(cameras, torch.ones(3)).rgb, lit.render(cameras, torch.ones(3)).rgb)
    with torch.no_grad():
        assert torch.equal(plain.render(cameras, torch.ones(3)).rgb, lit.render(cameras, torch.ones(3)).rgb)


def test_a_run_with_light_ends_the_same_after_a_pause(tmp_path: Path):
    shading = {"ambient_only": 0.3, "textureless": 0.5, "lambert": 0.5}
    losses = {"orientation": [[0, 0.01], [0.5, 1.0]], "normal_smoothness": 0.1, "sparsity": 0.01, "z_variance": 1.0}
    field = {"name": "hash_nerf", **SMALL, "shading": shading, **losses}
    config = tiny(representation=field)
    straight, paused = (new_run(tmp_path / name, config) for name in ("straight", "paused"))
    finish(straight)
    finish(paused, stop=7)
    finish(paused)
    assert same(straight, paused)


def test_a_scene_that_goes_on_from_an_equal_one_counts_its_own_steps():
    config = HashNerfConfig(**SMALL)
    first = config.make(Start(seeded(), 20))
    for step in range(20):
        first.after_step(step, torch.optim.Adam(first.parameter_groups()))
    assert first.progress == 1
    second = config.make(Start(seeded(1), 20, before=first))
    assert second.progress == 0
    again = config.make(Start(seeded(2), 20))
    again.load_state_dict(second.state_dict())
    assert again.progress == 0
    # One that imitates another does so without light, with all levels.
    other = HashNerfConfig(**SMALL | {"levels": 5}, shading=FieldShading(ambient_only=0), active_levels=Ramp(2))
    third = other.make(Start(seeded(1), 20, before=second))
    assert third.progress == 0
    assert third.config.shading is not None
    assert third.field.in_use == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (FieldShading, {"textureless": 0.6, "lambert": 0.5}, "their sum must be at most 1"),
        (FieldShading, {"light_distance": (2.0, 1.0)}, r"light_distance is \(2, 1\)"),
        (HashNerfConfig, {"latent_channels": 4, "shading": FieldShading()}, "latents have none"),
        (TriplaneNerfConfig, {"normal_step": 0.0}, "greater than 0"),
    ],
)
def test_impossible_light_is_refused(config: Any, settings: dict[str, Any], message: str):
    with pytest.raises(ValidationError, match=message):
        config(**settings)


def test_portraits_have_plain_colours_also_in_training():
    plain, lit = (
        FieldNerfScene(HashNerfConfig(**SMALL, shading=shading), seeded(), steps=400)
        for shading in (None, FieldShading(ambient_only=0.0, textureless=1.0, lambert=0.0))
    )
    cameras = orbit([0.0], size=8)
    portrait = lit.portray(cameras, torch.ones(3))
    assert torch.equal(portrait.rgb, plain.render(cameras, torch.ones(3)).rgb)
    assert not torch.equal(portrait.rgb, lit.render(cameras, torch.ones(3)).rgb)
    assert portrait.rgb.requires_grad
