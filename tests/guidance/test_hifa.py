import math
from itertools import pairwise

import pytest
import torch

from sds3d.guidance.hifa import HiFA, HiFAConfig
from sds3d.guidance.multiview import MultiView, MultiViewConfig
from sds3d.guidance.schedules import UniformSchedule
from tests.guidance.exact import TOLERANCE, exact_prior, level, renders, seeded
from tests.guidance.queries import queries_of
from tests.guidance.views import views_of


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("rescale", [0.0, 0.5])
def test_one_step_without_pixels_is_the_reconstruction(dtype, rescale):
    prior = exact_prior(dtype, 4)
    x, views, schedule = renders(8, dtype), views_of(prior, 8), UniformSchedule(min=0.3)
    config = HiFAConfig(scale=6.0, rescale=rescale, denoising_steps=1, image_weight=0.0, schedule=schedule)
    hifa = HiFA(config, prior)(x, views, 0.0, seeded())
    recon = MultiViewConfig(space="latent", scale=6.0, rescale=rescale, schedule=schedule)
    other = MultiView(recon, prior)(x, views, 0.0, seeded())
    torch.testing.assert_close(hifa.gradient, other.gradient, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    assert hifa.image_target is None


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("steps", [2, 4])
def test_deterministic_steps_by_their_closed_form(dtype, steps):
    # Unguided and with eta = 0, each step multiplies y = x_t / alpha - m by a factor; the last x0 - m is a share of y.
    prior, x = exact_prior(dtype), renders(4, dtype)
    schedule = UniformSchedule(min=0.8, max=0.8)
    config = HiFAConfig(scale=1.0, denoising_steps=steps, eta=0.0, schedule=schedule)
    guided = HiFA(config, prior)(x, views_of(prior, 4), 0.0, seeded())
    generator = seeded()
    schedule.sample(0.0, 4, 1, generator)
    eps = torch.randn(x.shape, generator=generator).to(x)
    levels = [level(prior, torch.tensor(0.8) * (k / steps)).to(dtype) for k in range(steps, 0, -1)]
    y = x + levels[0] * eps - 0.8
    for now, then in pairwise(levels):
        y = y * (1 + (then - now) * now / (0.25 + now**2))
    x0 = 0.8 + 0.25 / (0.25 + levels[-1] ** 2) * y
    torch.testing.assert_close(guided.x0, x0, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    torch.testing.assert_close(guided.gradient, x - x0, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_ancestral_estimates_are_samples_of_the_posterior():
    # Many steps from x_t end at samples of p(x | x_t), with mean x0(x_t) and variance s^2 sigma^2 / D.
    prior, t = exact_prior(), 0.6
    x = torch.full((128, 3, 4, 4), 0.5, dtype=torch.float64)
    schedule = UniformSchedule(min=t, max=t)
    config = HiFAConfig(scale=1.0, denoising_steps=60, image_weight=0.0, schedule=schedule)
    views = views_of(prior, 128)
    x0 = HiFA(config, prior)(x, views, 0.0, seeded()).x0
    one = HiFA(config.model_copy(update={"denoising_steps": 1}), prior)(x, views, 0.0, seeded()).x0
    assert x0 is not None
    assert one is not None
    lam = level(prior, t).item()
    spread = math.sqrt(0.25 * lam**2 / (0.25 + lam**2))
    assert (x0 - one).mean().item() == pytest.approx(0.0, abs=0.02)
    assert (x0 - one).std().item() == pytest.approx(spread, rel=0.05)


def test_pixels_are_the_decoded_estimate():
    prior, x = exact_prior(n_views=4), renders(4)
    guided = HiFA(HiFAConfig(scale=5.0, image_weight=0.2, latent_weight=0.5), prior)(
        x, views_of(prior, 4), 0.5, seeded()
    )
    assert guided.x0 is not None
    assert guided.image_target is not None
    torch.testing.assert_close(guided.image_target, guided.x0.permute(0, 2, 3, 1).clamp(0, 1))
    torch.testing.assert_close(guided.gradient, 0.5 * (x - guided.x0))
    assert guided.image_weight == 0.2


@pytest.mark.parametrize(("progress", "t"), [(0.0, 0.98), (0.25, 0.64), (1.0, 0.3)])
def test_timesteps_fall_with_the_square_root(progress, t):
    prior = exact_prior(n_views=4)
    guided = HiFA(HiFAConfig(), prior)(renders(8), views_of(prior, 8), progress, seeded())
    torch.testing.assert_close(guided.t, torch.full((8,), t))


def test_objects_are_independent_and_seeds_repeat():
    prior = exact_prior(n_views=4)
    rule, x = HiFA(HiFAConfig(scale=5.0), prior), renders(8)
    changed = torch.cat([x[:4], x[4:] + 1])
    first, again, other = (rule(v, views_of(prior, 8), 0.5, seeded()) for v in (x, x, changed))
    assert torch.equal(first.gradient, again.gradient)
    torch.testing.assert_close(first.gradient[:4], other.gradient[:4], atol=0, rtol=0)
    assert (first.gradient[4:] - other.gradient[4:]).abs().max() > 1e-3


def test_queries_of_the_prior_per_view():
    assert queries_of(HiFAConfig()) == {"view": 4, "bad": 4}
