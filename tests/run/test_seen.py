"""What the teachers see in place of the renders: inverse depths and mirrored pictures, in shares of the steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from sds3d.cameras import orbit
from sds3d.config import ConfigError
from sds3d.representations.base import Rendering, nearness
from sds3d.run.checks import prior_problems
from sds3d.run.lessons import Shown
from sds3d.run.optimize import OptimizerConfig, Step
from sds3d.run.seen import SeenConfig, mirror, seen
from tests.run.scenes import SIZE, Canvas, gaussian_prior
from tests.run.test_checks import prior_of
from tests.run.test_optimize import GradientRule, run
from tests.run.tiny_runs import tiny


def shares(inverse_depth: float, mirrored: float) -> SeenConfig:
    return SeenConfig.model_validate({"inverse_depth": inverse_depth, "mirrored": mirrored})


def rendering_of(depth: Tensor, alpha: Tensor) -> Rendering:
    return Rendering(torch.rand(*depth.shape, 3), alpha[..., None], depth[..., None], torch.zeros(*depth.shape, 3))


def shown_of(views: int = 2, size: int = 5) -> Shown:
    generator = torch.Generator().manual_seed(0)
    alpha, depth = torch.rand(2, views, size, size, generator=generator)
    return Shown(orbit([20.0, 130.0], 10.0, size=size), torch.rand(3), rendering_of(depth, alpha), None)


def test_nearness_is_the_inverse_distance_between_the_farthest_opaque_pixel_and_the_nearest():
    depth = torch.tensor([[[2.0, 4.0], [2.5, 0.0]], [[1.0, 1.0], [0.5, 0.0]]])
    alpha = torch.tensor([[[1.0, 1.0], [1.0, 0.0]], [[0.5, 0.5], [0.2, 0.0]]])  # the second view has no opaque pixel
    near = nearness(rendering_of(depth, alpha))[..., 0]
    torch.testing.assert_close(near[0], torch.tensor([[1.0, 0.0], [0.6, 0.0]]), atol=1e-4, rtol=0)
    first, second = 1 / 6 - 1 / 10, 1 / 8.5 - 1 / 10  # half clear: 1 m and half of 10 m
    torch.testing.assert_close(near[1], torch.tensor([[1.0, 1.0], [second / first, 0.0]]), atol=1e-4, rtol=0)


def test_the_gradient_of_nearness_is_that_of_finite_differences():
    generator = torch.Generator().manual_seed(1)
    depth = 2 + torch.rand(1, 3, 3, 1, generator=generator, dtype=torch.float64)
    alpha = 0.7 + 0.3 * torch.rand(1, 3, 3, 1, generator=generator, dtype=torch.float64)
    zero = torch.zeros(1, 3, 3, 3).double()
    inputs = (depth.requires_grad_(), alpha.requires_grad_())
    assert torch.autograd.gradcheck(lambda d, a: nearness(Rendering(zero, a, d, zero)), inputs)


def test_a_mirrored_view_has_the_rays_of_its_exchanged_pixels():
    shown = shown_of()
    turned = mirror(shown)
    for mine, theirs in zip(turned.cameras.rays(), shown.cameras.rays(), strict=True):
        torch.testing.assert_close(mine, theirs.flip(2))
    assert torch.equal(turned.rendering.rgb, shown.rendering.rgb.flip(2))
    assert torch.equal(turned.rendering.depth, shown.rendering.depth.flip(2))
    back = mirror(turned)
    assert torch.equal(back.rendering.rgb, shown.rendering.rgb)
    torch.testing.assert_close(back.cameras.c2w(), shown.cameras.c2w())
    torch.testing.assert_close(turned.cameras.azimuth, shown.cameras.azimuth)  # texts stay those of the side


def test_steps_are_chosen_evenly_and_independently():
    config, shown = shares(0.2, 0.5), shown_of()
    grey, turned = [], []
    for step in range(400):
        one = seen(config, shown, step, 0.0, prior_of())
        grey.append(one.rendering.rgb.std(-1).max().item() < 1e-6)
        turned.append(torch.equal(one.rendering.alpha, shown.rendering.alpha.flip(2)))
    assert [sum(grey), sum(turned), sum(grey[:100])] == pytest.approx([80, 200, 20], abs=2)
    assert sum(a and b for a, b in zip(grey, turned, strict=True)) == pytest.approx(40, abs=4)


def moved(config: SeenConfig) -> tuple[Tensor, Step]:
    """Return how one step of a rule that pulls at the left half of each picture moves the colours."""
    gradient = torch.zeros(4, 3, SIZE, SIZE)
    gradient[..., : SIZE // 2] = 1
    prior, scene = gaussian_prior(), Canvas(alpha=0.5)
    before = scene.rgb.detach().clone()
    (step,) = run(scene, prior, GradientRule(gradient), steps=1, config=OptimizerConfig(warmup=0), seen=config)
    return (scene.rgb.detach() - before).abs().mean(dim=(0, 2)), step


def test_gradients_reach_the_exchanged_pixels_and_no_colours_of_inverse_depths():
    plain, _ = moved(shares(0, 0))
    turned, step = moved(shares(0, 1))
    assert plain[: SIZE // 2].min() > 0
    assert not plain[SIZE // 2 :].any()
    torch.testing.assert_close(turned, plain.flip(0))
    assert torch.equal(step.rendering.alpha, torch.full_like(step.rendering.alpha, 0.5))
    blind, _ = moved(shares(1, 0))
    assert not blind.any()


def test_priors_that_take_cameras_see_no_mirrored_views():
    config: Any = tiny(seen={"mirrored": 0.5})
    assert prior_problems(config, [prior_of()]) == []
    with pytest.raises(ConfigError, match=r"seen\.mirrored: the prior takes cameras, which see no mirrored object"):
        prior_problems(config, [prior_of(n_views=4)])


def test_latents_have_no_inverse_depths():
    with pytest.raises(ConfigError, match="the representation renders latents, which are no pictures: remove seen"):
        tiny(seen={"inverse_depth": 0.2}, representation={"name": "hash_nerf", "latent_channels": 4})


class Fourfold:
    """A prior whose encoder is not asked for more than the shape of its latents."""

    image_size, device = 8, torch.device("cpu")

    def encode_image(self, rgb: Tensor) -> Tensor:
        assert not rgb.any()
        return torch.zeros(len(rgb), 4, 4, 4)


def test_normals_and_opacity_stand_for_latents_where_they_are_asked_for():
    generator = torch.Generator().manual_seed(2)
    normal = torch.nn.functional.normalize(torch.randn(2, 8, 8, 3, generator=generator), dim=-1)
    alpha = torch.rand(2, 8, 8, generator=generator)
    shown = shown_of(size=8)
    shown = replace(shown, rendering=replace(shown.rendering, alpha=alpha[..., None], normal=normal))
    config = SeenConfig.model_validate({"normal_latents": [[0, 1], [0.5, 1], [0.5, 0]], "mirrored": 1})
    prior: Any = Fourfold()
    for step in range(5):
        latent = seen(config, shown, step, 0.4, prior).rendering.latent
        assert latent is not None
        expected = torch.cat([alpha[..., None] * (normal + 1) - 1, alpha[..., None]], dim=-1).flip(2)
        smaller = interpolate(expected.permute(0, 3, 1, 2), (4, 4), mode="bilinear", antialias=True)
        torch.testing.assert_close(latent, smaller, atol=1e-5, rtol=0)
    assert seen(config, shown, 0, 0.6, prior).rendering.latent is None
    both = SeenConfig.model_validate({"normal_latents": 0.5, "inverse_depth": 0.5})
    for step in range(20):  # each step shows one of both
        one = seen(both, shown, step, 0.0, prior).rendering
        assert (one.latent is None) == (one.rgb.std(-1).max() < 1e-6)


def test_priors_with_other_latents_take_no_normals_for_them():
    config: Any = tiny(seen={"normal_latents": 0.5})
    with pytest.raises(ConfigError, match=r"seen\.normal_latents is for priors with 4 latents, and this has 3"):
        prior_problems(config, [prior_of()])
