"""Shading of differentiable pictures: closed forms, conservation of energy, finite differences."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import color as skimage_color
from torch import Tensor

from sds3d.cameras import orbit
from sds3d.rendering import shading
from sds3d.rendering.shading import (
    Environment,
    from_points,
    lambert,
    lights_near,
    linear_to_srgb,
    metallic_roughness,
    normal_colors,
    prefilter,
    srgb_to_linear,
    studio,
    textureless,
    toward_viewer,
)


def directions(n: int, seed: int = 0) -> Tensor:
    """Return unit vectors (1, 1, n, 3) float64."""
    g = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(1, 1, n, 3, generator=g, dtype=torch.float64), dim=-1)


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def facing(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return normals, and directions to a camera that sees them."""
    normal, to_camera = directions(n, seed), directions(n, seed + 100)
    return normal, toward_viewer(to_camera, normal)


def panorama(radiance, height: int = 32) -> Tensor:
    """Return the panorama (height, 2 height, 3) float64 of a function of directions (N, 3); middle column along +Z."""
    polar = (torch.arange(height, dtype=torch.float64) + 0.5) * (math.pi / height)
    azimuth = (torch.arange(2 * height, dtype=torch.float64) + 0.5) * (math.pi / height) - math.pi
    theta, phi = torch.meshgrid(polar, azimuth, indexing="ij")
    d = torch.stack([theta.sin() * phi.sin(), theta.cos(), theta.sin() * phi.cos()], dim=-1)
    return radiance(d.reshape(-1, 3)).reshape(height, 2 * height, -1).expand(-1, -1, 3).contiguous()


def spread(value: float, n: int) -> Tensor:
    return torch.full((1, 1, n, 1), value, dtype=torch.float64)


WHITE = prefilter(torch.ones(16, 32, 3, dtype=torch.float64))


class TestLambert:
    def test_closed_form(self) -> None:
        color = torch.tensor([0.8, 0.4, 0.2]).expand(1, 1, 3, 3)
        normal = torch.tensor([[[[0.0, 0, 1], [0.6, 0.0, 0.8], [0, 0, -1]]]])
        light = torch.tensor([0.0, 0.0, 1.0])
        expected = color * torch.tensor([1.0, 0.1 + 0.9 * 0.8, 0.1])[:, None]
        torch.testing.assert_close(lambert(color, normal, light), expected)
        torch.testing.assert_close(textureless(normal, light, 0.3, 0.5)[0, 0, :, 0], torch.tensor([0.8, 0.7, 0.3]))

    def test_a_light_at_the_camera_lights_surfaces_that_face_it(self) -> None:
        cameras = orbit([0.0, 90.0], 30.0)
        points = torch.zeros(2, 1, 1, 3)
        to_light = from_points(points, cameras.position())
        torch.testing.assert_close(to_light[:, 0, 0], cameras.position() / cameras.distance[:, None])
        torch.testing.assert_close(textureless(to_light, to_light), torch.ones(2, 1, 1, 3))

    def test_lights_near_the_cameras(self) -> None:
        cameras = orbit(torch.linspace(0, 359, 2000), 20.0)
        generator = torch.Generator().manual_seed(0)
        offsets = lights_near(cameras, 0.2, generator) - cameras.position()
        assert abs(offsets.mean()) < 0.02
        assert offsets.std() == pytest.approx(0.2 * 2.1, rel=0.05)
        torch.testing.assert_close(lights_near(cameras, 0.0, generator), cameras.position())

    def test_gradients(self) -> None:
        color, normal, light = uniform(1, 2, 2, 3).requires_grad_(), directions(4).reshape(1, 2, 2, 3), directions(1, 9)
        assert torch.autograd.gradcheck(lambert, (color, normal.requires_grad_(), light.requires_grad_()))

    def test_surfaces_are_turned_towards_the_viewer(self) -> None:
        normal, to_camera = directions(50), directions(50, 1)
        turned = toward_viewer(normal, to_camera)
        assert ((turned * to_camera).sum(-1) >= 0).all()
        assert torch.equal(turned.abs(), normal.abs())


class TestNormalColors:
    def test_world(self) -> None:
        normal = torch.tensor([[[[1.0, 0, 0], [0, -1, 0]]]])
        torch.testing.assert_close(normal_colors(normal)[0, 0], torch.tensor([[1.0, 0.5, 0.5], [0.5, 0.0, 0.5]]))

    def test_surfaces_that_face_a_camera_are_light_blue_in_its_frame(self) -> None:
        cameras = orbit([0.0, 77.0, 200.0], torch.tensor([0.0, 45.0, -20.0]))
        normal = (cameras.position() / cameras.distance[:, None])[:, None, None]
        torch.testing.assert_close(normal_colors(normal, cameras), torch.tensor([0.5, 0.5, 1.0]).expand(3, 1, 1, 3))
        above = torch.tensor([0.0, 1.0, 0.0]).expand(1, 1, 1, 3)
        torch.testing.assert_close(normal_colors(above, orbit([123.0], 0.0))[0, 0, 0], torch.tensor([0.5, 1.0, 0.5]))


class TestColorSpace:
    def test_agrees_with_scikit_image(self) -> None:
        srgb = uniform(8, 8, 3)
        # scikit-image converts to linear light only through XYZ.
        linear = skimage_color.rgb2xyz(srgb.numpy()) @ np.linalg.inv(skimage_color.colorconv.xyz_from_rgb).T
        np.testing.assert_allclose(srgb_to_linear(srgb), linear, atol=1e-7)
        torch.testing.assert_close(linear_to_srgb(srgb_to_linear(srgb)), srgb)

    def test_gradients_are_finite_at_black(self) -> None:
        for function in (srgb_to_linear, linear_to_srgb):
            leaf = torch.tensor([0.0, 0.001, 0.5, 1.0], dtype=torch.float64, requires_grad=True)
            assert torch.autograd.gradcheck(function, leaf)


class TestEnvironment:
    def test_octahedron_is_a_bijection(self) -> None:
        place = 2 * uniform(500, 2) - 1
        vectors = shading._octahedron(place)
        torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(500, dtype=torch.float64))
        torch.testing.assert_close(shading._unfolded(vectors), place)
        assert torch.equal(shading._octahedron(torch.zeros(2)), torch.tensor([0.0, 1.0, 0.0]))

    def test_diffuse_light_that_grows_along_an_axis(self) -> None:
        """Convolution with a clamped cosine turns 1 + d.a into 1 + 2/3 n.a (2/3: ratio of eigenvalues of harmonics)."""
        normal = directions(300)
        for axis in torch.eye(3, dtype=torch.float64):
            environment = prefilter(panorama(lambda d, a=axis: 1 + d @ a), size=64)
            black = spread(0.0, 300)
            shaded = metallic_roughness(
                torch.ones_like(normal), black, black + 1, normal, normal, environment, specular=0.0
            )
            torch.testing.assert_close(shaded[..., 0], 1 + 2 / 3 * (normal @ axis), atol=0.01, rtol=0)

    def test_a_mirror_shows_the_mirrored_direction(self) -> None:
        normal, to_camera = facing(300, 2)
        metal = spread(1.0, 300)
        mirrored = 2 * (normal * to_camera).sum(-1, keepdim=True) * normal - to_camera
        for axis in torch.eye(3, dtype=torch.float64):
            environment = prefilter(panorama(lambda d, a=axis: 1 + d @ a), size=32)
            seen = metallic_roughness(
                torch.ones_like(normal), metal, torch.zeros_like(metal), normal, to_camera, environment
            )
            texel = math.pi / 32  # of the panorama, whose light changes by up to 1 per radian
            torch.testing.assert_close(seen[..., 0], 1 + mirrored @ axis, atol=0.7 * texel, rtol=0)

    def test_no_seam(self) -> None:
        """Along great circles the maps change slowly, even across the octahedron's edges and corners."""
        environment = prefilter(panorama(lambda d: 2 + d @ d.new_tensor([0.5, -1.0, 0.7])), size=16)
        turn = torch.linspace(0, 2 * math.pi, 4001, dtype=torch.float64)
        axes = torch.tensor([[1, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 1], [1, 1, 0], [0, 1, 1]], dtype=torch.float64)
        for i, j in ((0, 1), (2, 3), (2, 0), (4, 5)):
            circle = torch.nn.functional.normalize(
                turn.cos()[:, None] * axes[i] + turn.sin()[:, None] * axes[j], dim=-1
            )
            values = shading._look_up(environment.specular, circle[None, None], spread(0.3, 4001))
            assert values.diff(dim=2).abs().max() < 0.01

    def test_roughness_blurs_a_lamp(self) -> None:
        lamp = panorama(lambda d: (d[:, 2:] > 0.95).double())
        environment = prefilter(lamp, size=32)
        normal = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64).expand(1, 1, 5, 3)
        rough = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], dtype=torch.float64)[None, None, :, None]
        seen = metallic_roughness(torch.ones_like(normal), torch.ones_like(rough), rough, normal, normal, environment)
        assert (seen[0, 0, :, 0].diff() < 0).all()
        assert seen[0, 0, 0, 0] == pytest.approx(1, abs=0.02)

    def test_conventions_of_the_panorama(self) -> None:
        lamps = torch.zeros(16, 32, 3, dtype=torch.float64)
        lamps[7:9, 23:25, 0] = 1  # red at +X, a quarter to the right of the middle
        lamps[7:9, 15:17, 1] = 1  # green at +Z
        lamps[:1, :, 2] = 1  # blue above
        environment = prefilter(lamps)
        normal = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, 1, 0]], dtype=torch.float64)[None, None]
        seen = shading._look_up(environment.diffuse, normal, spread(0.0, 3))[0, 0]
        assert torch.equal(seen.argmax(0), torch.arange(3))

    def test_bad_panorama(self) -> None:
        with pytest.raises(ValueError, match="panorama must be"):
            prefilter(torch.ones(16, 32))


class TestMetallicRoughness:
    @pytest.mark.parametrize("metallic", [0.0, 1.0])
    @pytest.mark.parametrize("roughness", [0.0, 0.1, 0.5, 1.0])
    def test_white_furnace(self, metallic: float, roughness: float) -> None:
        """A white surface in a white environment is as bright as the environment."""
        normal, to_camera = facing(400)
        shaded = metallic_roughness(
            torch.ones_like(normal), spread(metallic, 400), spread(roughness, 400), normal, to_camera, WHITE
        )
        torch.testing.assert_close(shaded, torch.ones_like(shaded), atol=1e-9, rtol=0)

    @settings(max_examples=25, deadline=None)
    @given(seed=st.integers(0, 2**16), specular=st.floats(0, 1))
    def test_no_energy_is_gained(self, seed: int, specular: float) -> None:
        """Surfaces are never brighter than the brightest light, and never negative."""
        normal, to_camera = facing(64, seed)
        light = uniform(8, 16, 3, seed=seed)
        base, metallic, roughness = (uniform(1, 1, 64, c, seed=seed + c) for c in (3, 1, 2))
        shaded = metallic_roughness(
            base, metallic, roughness[..., :1], normal, to_camera, prefilter(light, size=8), specular
        )
        assert shaded.max() <= light.max() + 1e-9
        assert shaded.min() >= 0

    def test_lambert_limit(self) -> None:
        normal, to_camera = facing(200, 5)
        base, environment = uniform(1, 1, 200, 3), prefilter(uniform(16, 32, 3))
        dull = metallic_roughness(base, spread(0, 200), spread(0.7, 200), normal, to_camera, environment, specular=0.0)
        irradiance = shading._look_up(environment.diffuse, normal, spread(0.0, 200))
        torch.testing.assert_close(dull, base * irradiance)

    @pytest.mark.parametrize("roughness", [0.3, 0.6, 1.0])
    def test_directional_albedo_is_the_integral_of_the_lobe(self, roughness: float) -> None:
        """Against quadrature over the hemisphere of light directions."""
        square = roughness**4
        for nv in (0.2, 0.6, 0.95):
            theta, phi = torch.meshgrid(
                (torch.arange(800, dtype=torch.float64) + 0.5) * (math.pi / 1600),
                (torch.arange(800, dtype=torch.float64) + 0.5) * (math.pi / 400),
                indexing="ij",
            )
            light = torch.stack([theta.sin() * phi.cos(), theta.sin() * phi.sin(), theta.cos()], dim=-1)
            view = torch.tensor([math.sqrt(1 - nv**2), 0.0, nv], dtype=torch.float64)
            half = torch.nn.functional.normalize(light + view, dim=-1)
            nl, nh, vh = light[..., 2], half[..., 2], half @ view
            density = square / (math.pi * (nh**2 * (square - 1) + 1) ** 2)
            smith = nl * math.sqrt(nv**2 * (1 - square) + square) + nv * (nl**2 * (1 - square) + square).sqrt()
            weight = density * 0.5 / smith * nl * theta.sin() * (math.pi / 1600) * (math.pi / 400)
            fresnel = (1 - vh) ** 5
            expected = torch.stack([(weight * (1 - fresnel)).sum(), (weight * fresnel).sum()])
            table = shading._directional_albedo(spread(nv, 1), spread(roughness, 1))[0, 0, 0]
            torch.testing.assert_close(table, expected, atol=5e-3, rtol=0)

    def test_metal_is_tinted_and_plastic_is_not(self) -> None:
        normal = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64).expand(1, 1, 1, 3)
        red = torch.tensor([0.9, 0.1, 0.1], dtype=torch.float64).expand(1, 1, 1, 3)
        metal = metallic_roughness(red, spread(1, 1), spread(0.1, 1), normal, normal, WHITE)
        torch.testing.assert_close(metal, red, atol=0.02, rtol=0)
        black = metallic_roughness(0 * red, spread(0, 1), spread(0.1, 1), normal, normal, WHITE)
        torch.testing.assert_close(black, torch.full_like(black, 0.04), atol=2e-3, rtol=0)

    def test_gradients(self) -> None:
        normal, to_camera = facing(12, 3)
        base, metallic = uniform(1, 1, 12, 3), uniform(1, 1, 12, 1, seed=1)
        roughness = 0.05 + 0.9 * uniform(1, 1, 12, 1, seed=2)
        leaves = [tensor.requires_grad_() for tensor in (base, metallic, roughness, normal)]
        environment = prefilter(studio(8).double(), size=8)

        def shade(*values: Tensor) -> Tensor:
            return metallic_roughness(*values, to_camera, environment)

        assert torch.autograd.gradcheck(shade, leaves, eps=1e-7, atol=1e-5)

    def test_gradients_reach_the_light(self) -> None:
        normal, to_camera = facing(6, 4)
        panorama = uniform(4, 8, 3).requires_grad_()

        def shade(light: Tensor) -> Tensor:
            environment = prefilter(light, size=4, levels=3)
            return metallic_roughness(
                uniform(1, 1, 6, 3), spread(0.5, 6), spread(0.4, 6), normal, to_camera, environment
            )

        assert torch.autograd.gradcheck(shade, panorama)

    def test_empty_pixels_and_poles_have_finite_gradients(self) -> None:
        normal = torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, -1, 0], [1, 0, 0]])[None, None].requires_grad_()
        rough = torch.full((1, 1, 4, 1), 0.5, requires_grad=True)
        environment: Environment = prefilter(studio())
        view = torch.tensor([0.0, 0.0, 1.0]).expand(1, 1, 4, 3)
        shaded = metallic_roughness(torch.ones(1, 1, 4, 3), torch.zeros_like(rough), rough, normal, view, environment)
        shaded.sum().backward()
        assert shaded.isfinite().all()
        assert normal.grad is not None
        assert rough.grad is not None
        assert normal.grad.isfinite().all()
        assert rough.grad.isfinite().all()

    def test_a_material_is_recovered_from_pictures(self) -> None:
        normal, to_camera = facing(500, 7)
        environment = prefilter(studio().double())
        true = torch.tensor([0.7, 0.3, 0.1], dtype=torch.float64), 0.8, 0.35
        target = metallic_roughness(
            true[0].expand_as(normal), spread(true[1], 500), spread(true[2], 500), normal, to_camera, environment
        )
        raw = torch.zeros(5, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.Adam([raw], lr=0.05)
        for _ in range(400):
            optimizer.zero_grad()
            material = raw.sigmoid()
            shaded = metallic_roughness(
                material[:3].expand_as(normal), material[3].expand(1, 1, 500, 1), material[4].expand(1, 1, 500, 1),
                normal, to_camera, environment,
            )  # fmt: skip
            (shaded - target).square().mean().backward()
            optimizer.step()
        expected = torch.tensor([0.7, 0.3, 0.1, 0.8, 0.35], dtype=torch.float64)
        torch.testing.assert_close(raw.sigmoid().detach(), expected, atol=0.02, rtol=0)
