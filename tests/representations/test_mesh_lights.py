"""Shading of the mesh scene without materials: normals as colors, and light at the camera."""

import pytest
import torch

from sds3d.cameras import orbit
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
