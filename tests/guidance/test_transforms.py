import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sds3d.cameras import CameraConfig
from sds3d.config import build
from sds3d.guidance.base import Guided, Views
from sds3d.guidance.transforms import Clamp, Normalize, PixelClip, Scale
from sds3d.priors.gaussian import Gaussian, GaussianPrior
from sds3d.prompts.prompt import PromptConfig, encode_prompt
from sds3d.ramps import Ramp
from sds3d.run.lessons import Teacher
from sds3d.run.optimize import OptimizerConfig, Setup, optimize, random_streams, start
from tests.run.test_optimize import SIZE, Canvas, GradientRule


def gradients(scale: float = 1.0, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return scale * torch.randn(4, 6, 5, 3, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@settings(deadline=None)
@given(limit=st.floats(1e-4, 10), scale=st.floats(1e-3, 1e3), seed=st.integers(0, 100))
def test_pixel_clip_keeps_directions_and_bounds_pixels(limit, scale, seed):
    before = gradients(scale, seed)
    after = PixelClip(limit=limit).on_picture(before, 0.5)
    largest = before.abs().amax(dim=-1)
    assert after.abs().max() <= limit * (1 + 1e-12)
    cosine = torch.cosine_similarity(before, after, dim=-1)
    torch.testing.assert_close(cosine, torch.ones_like(cosine), atol=1e-12, rtol=0)
    assert torch.equal(after[largest <= limit], before[largest <= limit])
    clipped = after[largest > limit].abs().amax(dim=-1)
    torch.testing.assert_close(clipped, torch.full_like(clipped, limit))


def test_pixel_clip_of_nothing_is_nothing():
    assert torch.equal(PixelClip().on_picture(torch.zeros(1, 4, 4, 3), 0.0), torch.zeros(1, 4, 4, 3))


@pytest.mark.parametrize(("progress", "limit"), [(0.0, 2.0), (0.5, 5.0), (1.0, 8.0)])
def test_clamp_rises_with_the_progress(progress, limit):
    before = gradients(20.0).permute(0, 3, 1, 2)
    after = Clamp().on_x(before, progress)
    inside = before.abs() <= limit
    assert torch.equal(after[inside], before[inside])
    assert torch.equal(after[~inside], limit * before[~inside].sign())


@pytest.mark.parametrize(("progress", "limit"), [(0.0, 1.5), (0.415, 1.75), (0.83, 2.0), (1.0, 2.0)])
def test_a_limit_over_time(progress, limit):
    """GaussianDreamer's rises from 1.5 to 2.0 over 83 % of the run."""
    clamp = build(Clamp, {"limit": [[0, 1.5], [0.83, 2.0]]})
    after = clamp.on_x(gradients(20.0).permute(0, 3, 1, 2), progress)
    assert after.abs().max().item() == pytest.approx(limit)
    assert build(Clamp, {"limit": [2, 8]}) == Clamp()  # a pair: start and end


def test_scale_multiplies_the_gradient_at_x():
    before = gradients(20.0).permute(0, 3, 1, 2)
    scale = build(Scale, {"factor": [[0, 1.0], [1, 0.5]]})
    torch.testing.assert_close(scale.on_x(before, 0.5), 0.75 * before)
    assert scale.on_picture(before, 0.5) is before


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normalize_gives_every_view_one_root_mean_square(dtype):
    before = gradients(dtype=dtype).permute(0, 3, 1, 2) * torch.tensor([1e-6, 1.0, 1e6, 0.0]).reshape(4, 1, 1, 1)
    after = Normalize(rms=Ramp(0.3)).on_x(before, 0.0)
    rms = after.square().mean(dim=(1, 2, 3)).sqrt()
    torch.testing.assert_close(rms, torch.tensor([0.3, 0.3, 0.3, 0.0], dtype=dtype), atol=1e-6, rtol=1e-6)
    cosine = torch.cosine_similarity(before[:3].flatten(1), after[:3].flatten(1))
    torch.testing.assert_close(cosine, torch.ones(3, dtype=dtype))


@pytest.mark.parametrize(("progress", "rms"), [(0.0, 0.2), (0.5, 0.6), (1.0, 1.0)])
def test_normalize_changes_with_the_progress(progress, rms):
    after = Normalize(rms=Ramp(((0.0, 0.2), (1.0, 1.0)))).on_x(gradients(20.0).permute(0, 3, 1, 2), progress)
    torch.testing.assert_close(after.square().mean(dim=(1, 2, 3)).sqrt(), torch.full((4,), rms, dtype=torch.float64))


def test_each_leaves_the_other_space_alone():
    picture, x = gradients(100.0), gradients(100.0).permute(0, 3, 1, 2)
    assert PixelClip().on_x(x, 0.0) is x
    assert Clamp().on_picture(picture, 0.0) is picture
    assert Normalize().on_picture(picture, 0.0) is picture


class MixingPrior(GaussianPrior):
    """Its encoder mixes colours and neighbouring pixels, so gradients before and behind it differ."""

    matrix = torch.tensor([[3.0, -1.0, 0.0], [0.5, 2.0, 0.0], [0.0, 1.0, -4.0]])

    def encode_image(self, rgb: Tensor) -> Tensor:
        x = super().encode_image(rgb @ self.matrix)
        return x + 0.5 * x.roll(1, dims=-1)

    def back(self, gradient: Tensor) -> Tensor:
        """Propagate a gradient (B, 3, H, W) back to the colours (B, H, W, 3)."""
        return (gradient + 0.5 * gradient.roll(-1, dims=-1)).permute(0, 2, 3, 1) @ self.matrix.T


def step(rule: GradientRule, *transforms: PixelClip | Clamp | Normalize) -> Tensor:
    """Return the gradient of a canvas's colours (H, W, 3) after one step, averaged over 4 views."""
    prior, scene = MixingPrior({"a ball": Gaussian(0.7, 0.2), "": Gaussian(0.4, 0.2)}, (3, SIZE, SIZE)), Canvas()
    config = OptimizerConfig()
    state = start(scene, config, random_streams(0, "cameras", "guidance"))
    prompt = encode_prompt(prior, "a ball", PromptConfig(view_dependent=False))
    cameras = CameraConfig(views=4, size=SIZE)
    loop = optimize(Setup(scene, [Teacher(prior, rule, prompt, transforms)], 3, cameras, config), state)
    next(itertools.islice(loop, 1))
    assert scene.rgb.grad is not None
    return scene.rgb.grad


def rule_gradient(scale: float = 0.1) -> Tensor:
    return scale * torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def test_pixel_clip_acts_behind_the_encoder_on_each_view_alone():
    gradient = rule_gradient()
    prior = MixingPrior({"": Gaussian(0.4, 0.2)}, (3, SIZE, SIZE))
    whole = prior.back(gradient)  # (4, H, W, 3)
    clipped = whole * (0.4 / whole.abs().amax(dim=-1, keepdim=True).clamp_min(0.4))
    assert 0.1 < (whole.abs().amax(-1) > 0.4).float().mean() < 0.9
    torch.testing.assert_close(step(GradientRule(gradient)), whole.mean(dim=0))
    torch.testing.assert_close(step(GradientRule(gradient), PixelClip(limit=0.4)), clipped.mean(dim=0))


def test_clamp_and_normalize_act_in_the_priors_space_in_the_given_order():
    gradient, prior = rule_gradient(), MixingPrior({"": Gaussian(0.4, 0.2)}, (3, SIZE, SIZE))
    clamp, normalize = Clamp(limit=(0.05, 0.1)), Normalize(rms=Ramp(0.3))

    def normalized(value: Tensor) -> Tensor:
        return 0.3 * value / value.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()

    both = prior.back(normalized(gradient.clamp(-0.05, 0.05))).mean(dim=0)
    torch.testing.assert_close(step(GradientRule(gradient), clamp, normalize), both)
    other = prior.back(normalized(gradient).clamp(-0.05, 0.05)).mean(dim=0)
    torch.testing.assert_close(step(GradientRule(gradient), normalize, clamp), other)


class PullToTarget(GradientRule):
    """A rule that pulls rendered pixels towards a target."""

    def __call__(self, x: Tensor, views: Views, progress: float, generator: torch.Generator) -> Guided:
        return Guided(t=torch.ones(len(x)), image_target=self.target)


def test_pixel_clip_acts_on_rules_that_work_on_pixels_too():
    target = torch.rand(4, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(2))
    whole = 0.5 - target  # of an opaque canvas
    clipped = whole * (0.2 / whole.abs().amax(dim=-1, keepdim=True).clamp_min(0.2))
    torch.testing.assert_close(step(PullToTarget(target=target), PixelClip(limit=0.2)), clipped.mean(dim=0))
