"""Panoramas of light, and surfaces under several lights that are turned: closed forms."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from sds3d.rendering.panoramas import (
    Studio,
    all_prefiltered,
    built_in,
    panorama_directions,
    random_lamps,
    reduced,
    solid_angles,
    turned,
    with_lamps,
)
from sds3d.rendering.shading import metallic_roughness, prefilter


def mean(panorama: Tensor) -> Tensor:
    return (panorama * solid_angles(*panorama.shape[:2])).sum((0, 1)) / (4 * math.pi)


def facing(n: int) -> tuple[Tensor, Tensor]:
    """Return normals and directions to the camera (1, 1, n, 3) of surfaces that are seen."""
    g = torch.Generator().manual_seed(0)
    normal, camera = (torch.nn.functional.normalize(torch.randn(1, 1, n, 3, generator=g), dim=-1) for _ in range(2))
    return normal, torch.where((normal * camera).sum(-1, keepdim=True) < 0, -camera, camera)


def shaded(environment, normal: Tensor, to_camera: Tensor, metallic: float, roughness: float, **light: Tensor):
    one = torch.ones_like(normal[..., :1])
    white = torch.ones_like(normal)
    return metallic_roughness(
        white, metallic * one, roughness * one, normal, to_camera, environment, float(metallic), **light
    )


def test_solid_angles_cover_the_sphere_and_directions_are_those_of_the_panorama() -> None:
    assert float(solid_angles(7, 11).sum()) == pytest.approx(4 * math.pi, rel=1e-5)
    look = panorama_directions(32)
    assert float(look[0, :, 1].min()) > 0.99
    torch.testing.assert_close(look[15:17, 31:33].mean((0, 1)), torch.tensor([0.0, 0.0, 1.0]), atol=0.01, rtol=0)
    torch.testing.assert_close(look[15:17, 47:49].mean((0, 1)), torch.tensor([1.0, 0.0, 0.0]), atol=0.01, rtol=0)


@pytest.mark.parametrize("name", ["even", "side", "top"])
def test_built_in_lights_are_grey_and_of_one_brightness(name: Studio) -> None:
    light = built_in(name)
    assert torch.equal(light[..., 0], light[..., 1])
    torch.testing.assert_close(mean(light), torch.full((3,), 1.0 if name == "even" else 0.7), atol=1e-3, rtol=0)


def test_lamps_shine_from_where_they_are_and_have_their_power() -> None:
    where, power = torch.tensor([[0.0, 0.0, 2.0], [1.0, 0.0, 0.0]]), torch.tensor([[3.0, 3.0, 3.0], [1.0, 0, 0]])
    light = with_lamps(where, torch.tensor([0.2, 0.2]), power, 0.0)
    front, side = light[15:17, 31:33].mean((0, 1)), light[15:17, 47:49].mean((0, 1))
    assert float(front[0] / side[0]) == pytest.approx(3.0, rel=0.02)
    assert float(side[1]) < 1e-4  # a red lamp
    assert float(mean(light)[0] / mean(light)[1]) == pytest.approx(4 / 3, rel=0.01)


def test_random_lamps_differ_by_seed_and_keep_their_brightness() -> None:
    lights = [random_lamps(torch.Generator().manual_seed(seed), tint=0.5) for seed in range(8)]
    assert torch.equal(lights[0], random_lamps(torch.Generator().manual_seed(0), tint=0.5))
    for one, other in pairwise(lights):
        assert float((one - other).abs().max()) > 0.1
        assert float(mean(one).mean()) == pytest.approx(0.7, rel=1e-3)
    white = random_lamps(torch.Generator().manual_seed(3), tint=0.0)
    torch.testing.assert_close(white[..., 0], white[..., 2])


def test_smaller_panoramas_have_the_same_light() -> None:
    large = torch.rand(100, 200, 3, generator=torch.Generator().manual_seed(0)) ** 8
    small = reduced(large)
    assert small.shape == (32, 64, 3)
    torch.testing.assert_close(mean(small), mean(large), rtol=1e-4, atol=0)
    assert torch.equal(reduced(small), small)


@pytest.mark.parametrize("rows", [33, 48, 100, 750])
def test_a_sun_of_one_pixel_has_its_light_and_its_place_in_a_smaller_panorama(rows: int) -> None:
    look = panorama_directions(32)
    for row, column in ((0, 0), (1, 31), (rows // 3, rows // 2), (rows // 2, 2 * rows - 1), (rows - 2, rows)):
        sun = torch.zeros(rows, 2 * rows, 3)
        sun[row, column] = torch.tensor([9e3, 3e3, 1.0])
        small = reduced(sun)
        torch.testing.assert_close(mean(small), mean(sun), rtol=1e-4, atol=0)
        toward = torch.nn.functional.normalize((small[..., :1] * look * solid_angles(32, 64)).sum((0, 1)), dim=0)
        assert float(toward @ panorama_directions(rows)[row, column]) > math.cos(math.pi / 32)
    torch.testing.assert_close(reduced(torch.ones(rows, 2 * rows, 3)), torch.ones(32, 64, 3))


def test_a_pixel_on_an_edge_is_divided_by_its_solid_angle() -> None:
    sun = torch.zeros(48, 96, 3)
    sun[1, 3] = 1.0  # the second row of 48 ends at pi / 24, the first of 32 at pi / 32
    light = reduced(sun)[..., 0] * solid_angles(32, 64)[..., 0]
    above, below = (math.cos(math.pi / a) - math.cos(math.pi / b) for a, b in ((48, 32), (32, 24)))
    expected = torch.tensor([above, below]) / (above + below) * solid_angles(48, 96)[1, 0]
    torch.testing.assert_close(light[:2, 2], expected, rtol=1e-4, atol=0)
    assert int((light > 0).sum()) == 2


def test_a_white_surface_in_white_light_is_white_under_every_light_of_several() -> None:
    environment = all_prefiltered([torch.full((16, 32, 3), value) for value in (1.0, 0.25, 4.0)])
    normal, to_camera = facing(300)
    which = torch.arange(300)[None, None, :, None] % 3
    expected = torch.tensor([1.0, 0.25, 4.0])[which[..., 0]][..., None].expand(1, 1, 300, 3)
    for metallic, roughness in ((0.0, 1.0), (0.0, 0.3), (1.0, 1.0), (1.0, 0.5)):
        seen = shaded(environment, normal, to_camera, metallic, roughness, which=which, turn=torch.ones(1, 1, 1, 1))
        torch.testing.assert_close(seen, expected, rtol=0.02, atol=0)


def test_each_light_of_several_is_the_one_that_it_is_alone() -> None:
    panoramas = [built_in("side"), random_lamps(torch.Generator().manual_seed(1))]
    both = all_prefiltered(panoramas)
    normal, to_camera = facing(200)
    for number, panorama in enumerate(panoramas):
        for roughness in (0.0, 0.37, 1.0):
            alone = shaded(prefilter(panorama), normal, to_camera, 1.0, roughness)
            which = torch.full((1, 1, 200, 1), number)
            torch.testing.assert_close(shaded(both, normal, to_camera, 1.0, roughness, which=which), alone)


def test_a_mirror_shows_the_light_of_the_mirrored_direction() -> None:
    # Radiance 1 + y / 2 + z / 4 is so smooth that the blur of the maps is small.
    slope = torch.tensor([0.0, 0.5, 0.25])
    panorama = (1 + panorama_directions(32) @ slope)[..., None].expand(-1, -1, 3)
    normal, to_camera = facing(400)
    seen_well = (normal * to_camera).sum(-1) > 0.05  # the table of reflectances is coarse at grazing angles
    normal, to_camera = normal[seen_well][None, None], to_camera[seen_well][None, None]
    mirrored = 2 * (normal * to_camera).sum(-1, keepdim=True) * normal - to_camera
    seen = shaded(prefilter(panorama), normal, to_camera, 1.0, 0.0)[..., 0]
    torch.testing.assert_close(seen, 1 + mirrored @ slope, atol=0.025, rtol=0)
    turn = torch.tensor(math.pi / 2).reshape(1, 1, 1, 1)  # what came from +Z now comes from +X
    seen = shaded(prefilter(panorama), normal, to_camera, 1.0, 0.0, turn=turn)[..., 0]
    torch.testing.assert_close(seen, 1 + mirrored @ torch.tensor([0.25, 0.5, 0.0]), atol=0.025, rtol=0)


@pytest.mark.parametrize("roughness", [0.2, 1.0])
def test_turning_the_light_is_turning_surface_and_camera_back(roughness: float) -> None:
    panorama = random_lamps(torch.Generator().manual_seed(4))
    environment, angle = prefilter(panorama), 1.1
    normal, to_camera = facing(300)
    cosine, sine = math.cos(angle), math.sin(angle)
    back = torch.tensor([[cosine, 0, -sine], [0, 1, 0], [sine, 0, cosine]])  # rotation by -1.1 about +Y
    turn = torch.full((1, 1, 1, 1), angle)
    one = shaded(environment, normal, to_camera, 1.0, roughness, turn=turn)
    other = shaded(environment, normal @ back.T, to_camera @ back.T, 1.0, roughness)
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    # A turned panorama is the same as well, but for the grid of the maps.
    third = shaded(prefilter(turned(panorama, math.degrees(angle))), normal, to_camera, 1.0, roughness)
    assert float((one - third).abs().mean()) < 0.01 * float(one.mean())


def test_a_panorama_is_turned_from_the_front_to_the_right() -> None:
    front = torch.zeros(8, 16, 3)
    front[4, 8] = 1.0  # just right of the middle column
    assert float(turned(front, 90.0)[4, 12, 0]) == 1.0
    assert float(turned(front, -90.0)[4, 4, 0]) == 1.0
    assert torch.equal(turned(front, 360.0), front)
    half = turned(front, 360 / 32)
    torch.testing.assert_close(half[4, 8:10, 0], torch.tensor([0.5, 0.5]))
