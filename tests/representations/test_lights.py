"""Environments as settings of a material: which light a view gets, and what it does to colours."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from sds3d.cameras import Cameras, orbit
from sds3d.config import ConfigError, build
from sds3d.geometry.mesh import Mesh
from sds3d.rendering.panoramas import random_lamps
from sds3d.rendering.shading import metallic_roughness
from sds3d.representations.lights import LightsConfig, drawn, load_lights
from sds3d.representations.mesh_scene import MeshScene
from tests.representations.mesh_scenes import mesh_config

HDR = Path(__file__).parent.parent / "data" / "panoramas" / "opencv.hdr"
BACKGROUND = torch.zeros(3)


def ball(color: float = 1.0) -> Mesh:
    shape = trimesh.creation.icosphere(3, 0.35)
    vertices = np.asarray(shape.vertices, np.float32)
    return Mesh(vertices, np.asarray(shape.faces, np.int32), colors=np.full_like(vertices, color), roughness=1.0)


def quarter_turn(mesh: Mesh) -> Mesh:
    """Return the mesh turned by 90 degrees about +Y, so that its front faces +X."""
    return replace(mesh, vertices=np.ascontiguousarray(mesh.vertices[:, [2, 1, 0]] * np.array([1, 1, -1], np.float32)))


def scene(mesh: Mesh, appearance: str = "voxels", **material: Any) -> MeshScene:
    config = mesh_config("fixed", appearance, material={"name": "pbr", **material}, vertices_lr=0.0, size=16)
    return MeshScene.from_mesh(mesh, config, torch.Generator().manual_seed(0))


def linear(scene: MeshScene, cameras: Cameras) -> Tensor:
    """Return the linear radiance of the covered pixels of each view, (B, P, 3) flattened over equal coverage."""
    rendering = scene.render(cameras, BACKGROUND)
    solid = (rendering.alpha[..., 0] == 1).all(0)
    srgb = rendering.rgb[:, solid]
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def set_parameters(scene: MeshScene, color: float, metallic: float, roughness: float) -> None:
    with torch.no_grad():
        scene.parameters["color"].fill_(math.log(color / (1 - color)))
        scene.parameters["material"].copy_(torch.logit(torch.tensor([metallic, roughness])))


@torch.no_grad()
def test_a_white_ball_in_white_light_is_white() -> None:
    white = scene(ball(), environments="even")
    set_parameters(white, 0.9999, 1e-4, 0.9999)
    seen = linear(white, orbit([0.0, 70.0], size=32))
    assert float((seen - 1).abs().max()) < 0.02


@torch.no_grad()
def test_strength_is_a_factor_on_the_light() -> None:
    grey, dim = (scene(ball(), environments=[{"name": "studio", "strength": s}]) for s in (0.5, 0.25))
    for each in (grey, dim):
        set_parameters(each, 0.3, 0.5, 0.5)
    cameras = orbit([20.0], size=32)
    torch.testing.assert_close(linear(grey, cameras), 2 * linear(dim, cameras), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_turned_light_looks_the_same_from_a_turned_camera() -> None:
    settings = {"name": "lamps", "seed": 5}
    plain = scene(ball(), environments=[settings])
    other = scene(quarter_turn(ball()), environments=[settings | {"azimuth": 90.0}])
    unlike = scene(quarter_turn(ball()), environments=[settings | {"azimuth": -90.0}])
    for each in (plain, other, unlike):
        set_parameters(each, 0.5, 0.9, 0.4)
    seen = linear(plain, orbit([10.0], size=32))
    torch.testing.assert_close(seen, linear(other, orbit([100.0], size=32)), rtol=0.01, atol=0.002)
    assert float((seen - linear(unlike, orbit([100.0], size=32))).abs().mean()) > 0.05


@torch.no_grad()
def test_light_that_turns_with_the_camera_looks_the_same_from_everywhere() -> None:
    front, right = (
        scene(mesh, environments=[{"name": "lamps", "seed": 5}], turning="camera")
        for mesh in (ball(), quarter_turn(ball()))
    )
    for each in (front, right):
        set_parameters(each, 0.5, 0.9, 0.4)
    one, other = linear(front, orbit([10.0], size=32)), linear(right, orbit([100.0], size=32))
    torch.testing.assert_close(one, other, rtol=0.01, atol=0.002)
    assert float(one.std()) > 0.02


def test_views_draw_their_lights_by_the_seed() -> None:
    names = ["studio", "side", {"name": "lamps", "seed": 1}]
    cameras = orbit([0.0] * 64, size=8)

    def draw(seed: int | None, **settings: Any):
        config = build(LightsConfig, {"environments": names, **settings})
        return drawn(config, cameras, None if seed is None else torch.Generator().manual_seed(seed))

    one = draw(0, each="view", turning="random")
    assert set(one.which.tolist()) == {0, 1, 2}
    assert one.turn is not None
    assert float(one.turn.min()) >= 0
    assert float(one.turn.max()) < 2 * math.pi
    assert len(one.turn.unique()) > 60
    again = draw(0, each="view", turning="random")
    assert torch.equal(one.which, again.which)
    assert again.turn is not None
    assert torch.equal(one.turn, again.turn)
    shared = [draw(seed) for seed in range(40)]
    assert all(len(light.which.unique()) == 1 and light.turn is None for light in shared)
    assert {int(light.which[0]) for light in shared} == {0, 1, 2}
    still = draw(None, each="view", turning="random")  # previews
    assert still.turn is None
    assert not still.which.any()


def test_a_step_is_lit_by_the_light_that_is_drawn() -> None:
    settings = {"each": "view", "environments": ["even", {"name": "even", "strength": 0.25}]}
    lit = scene(ball(), **settings)
    set_parameters(lit, 0.9, 1e-4, 0.99)
    views = linear(lit, orbit([0.0] * 12, size=16)).mean((1, 2))
    bright, dark = views.max(), views.min()
    assert float((bright / dark).detach()) == pytest.approx(4.0, rel=0.01)
    assert bool((((views - bright).abs() < 1e-4) | ((views - dark).abs() < 1e-4)).all())
    state = {name: tensor.clone() for name, tensor in lit.state_dict().items()}
    other = MeshScene(lit.config, torch.Generator().manual_seed(9))
    other.load_state_dict(state)
    cameras = orbit([0.0] * 12, size=16)
    assert torch.equal(other.render(cameras, BACKGROUND).rgb, lit.render(cameras, BACKGROUND).rgb)


@pytest.mark.parametrize("appearance", ["voxels", "texels"])
def test_portraits_have_the_first_light_in_every_step_of_the_training(appearance: str) -> None:
    lit = scene(ball(), appearance, environments=["side", {"name": "even", "strength": 0.1}], turning="random")
    set_parameters(lit, 0.5, 1e-4, 0.99)
    cameras = orbit([0.0, 120.0], size=16)
    with torch.no_grad():
        picture = lit.render(cameras, BACKGROUND).rgb
    steps = set()
    for step in range(8):
        portrait = lit.portray(cameras, BACKGROUND)
        assert torch.equal(portrait.rgb, picture)
        assert portrait.rgb.requires_grad
        steps.add(float(lit.render(cameras, BACKGROUND).rgb.detach().mean()))
        lit.after_step(step, torch.optim.Adam(lit.parameter_groups()))
    assert len(steps) > 2  # renders draw both lights, and turn the first


def test_lights_of_files_and_of_seeds_are_those_that_are_named() -> None:
    lights = load_lights(
        build(LightsConfig, {"environments": [{"name": "file", "file": str(HDR)}, {"name": "lamps", "seed": 3}]})
    )
    assert len(lights.diffuse) == 2
    lamps = random_lamps(torch.Generator().manual_seed(3))
    assert float(lights.diffuse[1].mean()) == pytest.approx(float(lamps.mean()), rel=0.5)
    red = lights.diffuse[0].reshape(-1, 3).amax(0)
    assert float(red[0]) > 3 * float(red[2])  # its lamp is red


@pytest.mark.parametrize(
    ("material", "message"),
    [
        ({"environments": []}, "environments"),
        ({"environments": ["stuido"]}, "stuido"),
        ({"environments": [{"name": "lamps", "count": [3, 2]}]}, "least and the greatest number of lamps"),
        ({"environments": [{"name": "file"}]}, "file"),
        ({"metallic": [0.5, 0.5]}, "the smaller number first"),
        ({"smoothness": -1}, "smoothness"),
    ],
)
def test_wrong_settings_are_refused(material: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mesh_config("fixed", material={"name": "pbr", **material})


# ---- ranges and smoothness of materials ----


@pytest.mark.parametrize("appearance", ["voxels", "texels"])
def test_materials_stay_in_their_ranges(appearance: str) -> None:
    limited = scene(ball(), appearance, metallic=[0.1, 0.9], roughness=[0.3, 0.7])
    assert limited.to_mesh(32).roughness == pytest.approx(0.69, abs=0.02)  # the mesh's 1, as near as it gets
    for share, metallic, roughness in ((1e-4, 0.1, 0.3), (0.5, 0.5, 0.5), (0.9999, 0.9, 0.7)):
        set_parameters(limited, 0.5, share, share)
        mesh = limited.to_mesh(32)
        assert mesh.metallic == pytest.approx(metallic, abs=0.005)
        assert mesh.roughness == pytest.approx(roughness, abs=0.005)
    free = scene(ball(), appearance)
    set_parameters(free, 0.5, 0.9, 0.7)
    set_parameters(limited, 0.5, 0.9999, 0.9999)
    cameras = orbit([30.0], size=32)
    with torch.no_grad():
        torch.testing.assert_close(linear(limited, cameras), linear(free, cameras), atol=1e-3, rtol=1e-3)


def test_materials_have_a_smoothness_of_their_own() -> None:
    def losses(**material: Any) -> dict[str, Tensor]:
        made = scene(ball(), **material)
        with torch.no_grad():
            for value in made.parameters.values():
                value.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(0)))
        return made.regularisers(made.render(orbit([0.0], size=16), BACKGROUND), 0.0)

    both, apart, colors = losses(), losses(smoothness=2 * 4.7e-5), losses(smoothness=0)
    assert "material_smoothness" not in both
    assert "material_smoothness" not in colors
    material = apart["material_smoothness"] / 2
    torch.testing.assert_close(both["color_smoothness"], apart["color_smoothness"] + material)
    torch.testing.assert_close(colors["color_smoothness"], apart["color_smoothness"])
    assert float(material.detach()) > 0


def test_a_photograph_is_seen_from_inside(tmp_path: Path) -> None:
    # The light is right of the picture's middle. One who looks to +Z has -X on the right.
    row = np.zeros((16, 4), np.uint8)
    row[12] = (128, 128, 128, 129)
    data = b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 8 +X 16\n" + (bytes(64) * 3 + row.tobytes() * 2 + bytes(64) * 3)
    (tmp_path / "right.hdr").write_bytes(data)
    lights = load_lights(build(LightsConfig, {"environments": [{"name": "file", "file": str(tmp_path / "right.hdr")}]}))
    one = torch.ones(1, 1, 3, 1)
    normal = torch.tensor([[[[-1.0, 0, 0], [1.0, 0, 0], [0, 0, 1.0]]]])
    seen = metallic_roughness(torch.ones(1, 1, 3, 3), 0 * one, one, normal, normal, lights)[0, 0, :, 0]
    assert float(seen[0]) > 0.01
    assert float(seen[1]) == 0.0
