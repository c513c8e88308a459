"""DMD2: DMD without the GAN's loss, and that loss in closed form for the optimal discriminator of two Gaussians."""

import torch
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.guidance.base import draw_noise
from sds3d.guidance.dmd import DMD, DMDConfig, FakeScoreConfig
from sds3d.guidance.dmd2 import DMD2, DMD2Config
from sds3d.guidance.schedules import UniformSchedule, draw
from tests.guidance.exact import DTYPES, ExactPrior, exact_prior, renders, seeded
from tests.guidance.queries import queries_of
from tests.guidance.scores import Known, normal, resumes_bit_identically
from tests.guidance.views import views_of

FROZEN = FakeScoreConfig(updates=0)
SCHEDULE = UniformSchedule(min=0.2, max=0.8)
P, Q = (0.8, 0.5), (0.6, 0.55)  # mean and spread of the prior's pictures and of the renders


def phi_of(prior: ExactPrior) -> Known:
    return Known(lambda x_t, t, cond, cameras: normal(prior, *Q, x_t, t))


def moments(prior: ExactPrior, t: Tensor, mean: float, std: float) -> tuple[Tensor, Tensor]:
    """Return mean and variance at t (B,), each (B, 1, 1, 1)."""
    alpha, sigma = (scale(t).reshape(-1, 1, 1, 1) for scale in (prior.alpha, prior.sigma))
    return alpha * mean, alpha**2 * std**2 + sigma**2


def log_density(prior: ExactPrior, x_t: Tensor, t: Tensor, mean: float, std: float) -> Tensor:
    center, variance = moments(prior, t, mean, std)
    return (-0.5 * (x_t - center) ** 2 / variance - 0.5 * variance.log()).sum(dim=(1, 2, 3))


@DTYPES
def test_renders_follow_the_optimal_discriminator(dtype, tolerance):
    """For D = log p / q, softplus(-D) has the gradient -q / (p + q) alpha (s_p - s_q) in x."""
    prior, x, weight = exact_prior(dtype), renders(dtype=dtype), 0.02
    views = views_of(prior, 4)

    def optimal(x_t: Tensor, t: Tensor, cameras: Cameras) -> Tensor:
        return log_density(prior, x_t, t, *P) - log_density(prior, x_t, t, *Q)

    config = DMD2Config(scale=3.0, gan_weight=weight, schedule=SCHEDULE, variational=FROZEN)
    ours = DMD2(config, prior, phi_of(prior), optimal)(x, views, 0.0, seeded()).gradient
    dmd = DMD(DMDConfig(scale=3.0, schedule=SCHEDULE, variational=FROZEN), prior, phi_of(prior))
    matching = dmd(x, views, 0.0, seeded()).gradient
    generator = seeded()
    SCHEDULE.sample(0.0, 4, 1, generator)
    draw_noise(x, generator)
    t = draw((0.02, 0.98), 4, 1, generator)
    alpha, sigma = (scale(t).reshape(4, 1, 1, 1) for scale in (prior.alpha, prior.sigma))
    x_t = alpha * x + sigma * draw_noise(x, generator)
    (p_mean, p_variance), (q_mean, q_variance) = (moments(prior, t, *of) for of in (P, Q))
    scores = (p_mean - x_t) / p_variance - (q_mean - x_t) / q_variance
    share = torch.sigmoid(-optimal(x_t, t, views.cameras)).reshape(4, 1, 1, 1)
    assert matching is not None
    expected = matching - weight * 48 * share * alpha * scores
    torch.testing.assert_close(ours, expected, atol=tolerance, rtol=tolerance)


@DTYPES
def test_without_the_loss_it_is_dmd(dtype, tolerance):
    prior, x = exact_prior(dtype), renders(dtype=dtype)
    config = DMD2Config(gan_weight=0.0, schedule=SCHEDULE, variational=FROZEN)
    ours = DMD2(config, prior, phi_of(prior))(x, views_of(prior, 4), 0.0, seeded()).gradient
    dmd = DMD(DMDConfig(schedule=SCHEDULE, variational=FROZEN), prior, phi_of(prior))
    theirs = dmd(x, views_of(prior, 4), 0.0, seeded()).gradient
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)


def test_a_step_does_not_reach_the_weights_of_the_discriminator():
    prior = exact_prior(torch.float32)
    rule = DMD2(DMD2Config(variational=FROZEN), prior)
    rule(renders(dtype=torch.float32), views_of(prior, 4), 0.0, seeded())
    assert rule.density.network is not None
    assert all(parameter.grad is None for parameter in rule.density.network.parameters())


def test_resuming_changes_nothing():
    prior = exact_prior(torch.float32)
    config = DMD2Config(refresh_every=2, cache=2, sampling_steps=3, variational=FakeScoreConfig(updates=1))
    assert resumes_bit_identically(lambda: DMD2(config, prior), views_of(prior, 4), renders(dtype=torch.float32))


def test_queries_of_the_prior_per_view():
    assert queries_of(DMD2Config()) == {"view": 1 + 10, "bad": 1 + 10}  # ten of them draw pictures
