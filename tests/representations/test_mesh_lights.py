"""Shading of the mesh scene without materials: normals as colors, and light at the camera."""

import pytest
import torch

from sds3d.cameras import orbit
from sds3d.representations.base import Start
from sds3d.representations.field_shading import draw_light
from tests.representations.mesh_scenes import (
    BACKGROUND,
    adam,
    pictures,
    scene_of,
)


def test_normals_as_colors_of_each_camera() -> None:
    cameras = orbit([0.0, 120.0], elevation=0.0, size=33)
    out = pictures(scene_of(shading="normal", resolution=32), cameras)
    torch.testing.assert_close(out.rgb[:, 16, 16], torch.tensor([[0.5, 0.5, 1.0]] * 2), atol=0.02, rtol=0)
    assert (out.rgb[:, 16, 19, 0] > 0.6).all()  # right of the middle, normals point right
    assert (out.rgb[:, 13, 16, 1] > 0.6).all()


@pytest.mark.parametrize("shading", ["lambert", "textureless"])
def test_light_at_the_camera_in_closed_form(shading: str) -> None:
    cameras = orbit([0.0, 120.0], size=32)
    light = {"name": shading, "ambient": 0.25}
    lit, plain = (pictures(scene_of(shading=each, resolution=64), cameras) for each in (light, "none"))
    origins, directions = cameras.rays()
    points = origins + lit.depth * directions
    cosine = (torch.nn.functional.normalize(points, dim=-1) * -directions).sum(-1, keepdim=True)  # the ball's normals
    base = plain.rgb if shading == "lambert" else torch.ones(3)
    solid = lit.alpha[..., 0] == 1
    expected = base * (0.25 + 0.75 * cosine)
    torch.testing.assert_close(lit.rgb[solid], expected[solid], atol=0.03, rtol=0)


def test_lights_change_after_each_step_only() -> None:
    scene, cameras = scene_of(shading="textureless"), orbit([0.0], size=24)
    first, again = (scene.render(cameras, BACKGROUND).rgb for _ in range(2))
    assert torch.equal(first, again)
    scene.after_step(0, adam(scene))
    assert not torch.equal(first, scene.render(cameras, BACKGROUND).rgb)
    assert torch.equal(pictures(scene, cameras).rgb, pictures(scene, cameras).rgb)
    state = scene.state_dict()
    after = scene.render(cameras, BACKGROUND).rgb
    other = scene_of(5, shading="textureless")
    other.load_state_dict(state)
    assert torch.equal(other.render(cameras, BACKGROUND).rgb, after)


MIXED = {"name": "mixed", "textureless": 0.0, "lambert": 0.0, "ambient": 0.2, "diffuse": 0.8}


def test_a_mix_shows_normals_of_the_world_white_or_colours_under_a_lamp() -> None:
    cameras = orbit([0.0, 120.0], size=32)
    plain = pictures(scene_of(resolution=64), cameras)
    solid = plain.alpha[..., 0] == 1
    origins, directions = cameras.rays()
    points = origins + plain.depth * directions
    normal = torch.nn.functional.normalize(points, dim=-1)  # of the ball
    for look in ("normal", "textureless", "lambert"):
        scene = scene_of(resolution=64, shading=MIXED | {look: 1.0})
        lamps = draw_light(scene.config.shading, cameras, 0.0, scene._chance()).position[:, None, None]  # type: ignore[arg-type]
        cosine = (torch.nn.functional.normalize(lamps - points, dim=-1) * normal).sum(-1, keepdim=True).clamp(min=0)
        light = 0.2 + 0.8 * cosine
        expected = {"normal": 0.5 * (normal + 1), "textureless": light.expand_as(normal), "lambert": light * plain.rgb}
        seen = scene.render(cameras, BACKGROUND)
        torch.testing.assert_close(seen.rgb[solid], expected[look][solid], atol=0.03, rtol=0)
        assert torch.equal(pictures(scene, cameras).rgb, plain.rgb)  # previews show the plain colours


def test_a_mix_begins_with_plain_colours() -> None:
    cameras, mixed = orbit([0.0], size=24), MIXED | {"textureless": 1.0, "ambient_only": 0.2}
    config = scene_of(shading=mixed).config
    scene, plain = (each.make(Start(torch.Generator().manual_seed(0), 11)) for each in (config, scene_of().config))
    for step in range(3):
        lit = not torch.equal(scene.render(cameras, BACKGROUND).rgb, plain.render(cameras, BACKGROUND).rgb)
        assert lit == (step >= 2)
        for each in (scene, plain):
            each.after_step(step, adam(each))


@pytest.mark.parametrize("shading", ["lambert", "mixed", "none", "normal", "textureless"])
def test_portraits_have_the_light_of_pictures_also_in_training(shading: str) -> None:
    scene, cameras = scene_of(shading=shading), orbit([0.0, 120.0], size=24)
    portrait, finished = scene.portray(cameras, BACKGROUND), pictures(scene, cameras)
    assert torch.equal(portrait.rgb, finished.rgb)
    assert portrait.rgb.requires_grad
    assert scene.shows_colors == (shading not in ("normal", "textureless"))
