"""SiD against its closed form for Gaussians, with gradients through both networks."""

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from sds3d.guidance.schedules import UniformSchedule
from sds3d.guidance.sid import SiD, SiDConfig, clean_estimates
from sds3d.guidance.variational import VariationalConfig
from sds3d.priors.base import expand
from sds3d.priors.gaussian import Gaussian, GaussianPrior
from tests.guidance.exact import DTYPES, seeded
from tests.guidance.queries import queries_of
from tests.guidance.scores import Known, normal, resumes_bit_identically
from tests.guidance.views import views_of

M, STD = 0.8, 0.5
Q_MEAN, Q_STD = 0.1, 0.7
FROZEN = VariationalConfig(updates=0)


def prior_of(dtype: torch.dtype = torch.float32) -> GaussianPrior:
    return GaussianPrior({"y": Gaussian(M, STD), "": Gaussian(0.3, 0.9)}, (3, 4, 4), dtype=dtype)


def phi_of(prior: GaussianPrior) -> Known:
    return Known(lambda x_t, t, cond, cameras: normal(prior, Q_MEAN, Q_STD, x_t, t))


@DTYPES
@pytest.mark.parametrize("a", [0.0, 1.0, 1.2])
def test_the_gradient_goes_through_both_networks(dtype, tolerance, a):
    """The clean estimate is f = m + A (x_t - alpha m) with A = alpha s^2 / D; f_phi has the same form with B."""
    prior, x, seen = prior_of(dtype), torch.rand(8, 3, 4, 4, generator=seeded(3)).to(dtype), []

    def known(x_t, t, cond, cameras):
        seen.append((x_t.detach(), t))
        return normal(prior, Q_MEAN, Q_STD, x_t, t)

    config = SiDConfig(scale=1.0, alpha=a, schedule=UniformSchedule(min=0.1, max=0.9), variational=FROZEN)
    guided = SiD(config, prior, Known(known))(x, views_of(prior, 8), 0.0, seeded())
    x_t, t = seen[0]
    alpha, sigma = (scale(t).to(dtype).reshape(8, 1, 1, 1) for scale in (prior.alpha, prior.sigma))
    slope = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
    slope_phi = alpha * Q_STD**2 / (alpha**2 * Q_STD**2 + sigma**2)
    real, fake = M + slope * (x_t - alpha * M), Q_MEAN + slope_phi * (x_t - alpha * Q_MEAN)
    apart, change = real - fake, alpha * (slope - slope_phi)
    expected = change * (real - x - a * apart) + apart * (alpha * slope - 1 - a * change)
    expected = expected / (x - real).abs().mean(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(guided.gradient, expected, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(guided.x0, real, atol=tolerance, rtol=tolerance)
    assert guided.gradient is not None
    assert not guided.gradient.requires_grad


@DTYPES
def test_each_network_has_its_own_scale(dtype, tolerance):
    """With equal spreads, guidance by S is the same as the mean m_null + S (m - m_null) without guidance.

    For phi, null is the empty text; for the prior it is the negative prompt.
    """

    def gradient(scale: float, fake_scale: float, prior: GaussianPrior, positive: float, null: float) -> Tensor:
        def phi(x_t, t, cond, cameras):
            empty = (cond.hidden[:, 0, 0] == -1.0).to(dtype)  # (B,)
            return normal(prior, expand(positive + empty * (null - positive), x_t), Q_STD, x_t, t)

        x, views = torch.rand(8, 3, 4, 4, generator=seeded(3)).to(dtype), views_of(prior, 8, negative="bad")
        config = SiDConfig(scale=scale, fake_scale=fake_scale, variational=FROZEN)
        guided = SiD(config, prior, Known(phi))(x, views, 0.0, seeded())
        assert guided.gradient is not None
        return guided.gradient

    def prior_at(mean: float) -> GaussianPrior:
        prompts = {"y": Gaussian(mean, STD), "bad": Gaussian(0.3, STD), "": Gaussian(-1.0, STD)}
        return GaussianPrior(prompts, (3, 4, 4), dtype=dtype)

    ours = gradient(3.0, 2.0, prior_at(M), positive=0.5, null=0.1)
    theirs = gradient(1.0, 1.0, prior_at(0.3 + 3.0 * (M - 0.3)), positive=0.1 + 2.0 * (0.5 - 0.1), null=0.0)
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)


def test_the_gradient_is_that_of_the_loss_by_finite_differences():
    prior = prior_of(torch.float64)
    views = views_of(prior, 1)
    x = torch.rand(1, 3, 4, 4, generator=seeded(3), dtype=torch.float64)
    config = SiDConfig(scale=3.0, fake_scale=2.0, variational=FROZEN)
    t_and_noise = SiD(config, prior, phi_of(prior))(x, views, 0.0, seeded())
    direction = torch.randn(x.shape, generator=seeded(4), dtype=torch.float64)
    omega = None

    def loss(step: float) -> Tensor:
        nonlocal omega
        rule, moved = SiD(config, prior, phi_of(prior)), x + step * direction
        generator = seeded()
        t = config.schedule.sample(0.0, 1, 1, generator)
        eps = torch.randn(x.shape, generator=generator).to(x)
        x_t = prior.alpha(t) * moved + prior.sigma(t) * eps
        real, fake = clean_estimates(prior, rule.phi, x_t, t, views, scale=3.0, fake_scale=2.0)
        omega = (moved - real).abs().mean() if omega is None else omega
        return ((real - fake) * (fake - moved)).sum() / omega

    loss(0.0)  # the loss treats omega as constant
    numeric = (loss(1e-4) - loss(-1e-4)) / 2e-4
    assert t_and_noise.gradient is not None
    torch.testing.assert_close((t_and_noise.gradient * direction).sum(), numeric, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("t", [0.2, 0.5, 0.8])
def test_with_phi_exact_the_cross_term_is_zero(t):
    """E (f - f_phi) . (f_phi - x) = 0 if f_phi is the mean of x given x_t, so the loss with a = 1 has no bias."""
    prior = GaussianPrior({"y": Gaussian(M, STD), "": Gaussian(0.3, 0.9)}, (3, 64, 64))
    x = Q_MEAN + Q_STD * torch.randn(64, 3, 64, 64, generator=seeded(3))
    views, schedule = views_of(prior, 64), UniformSchedule(min=t, max=t)

    def loss(a: float) -> float:
        rule = SiD(SiDConfig(scale=1.0, alpha=a, schedule=schedule, variational=FROZEN), prior, phi_of(prior))
        return float(rule(x, views, 0.0, seeded()).metrics["loss"])

    # The loss is the cross term plus (1 - a) E |f - f_phi|^2 / omega, which is zero at a = 1.
    assert abs(loss(1.0)) < 0.02 * abs(loss(0.0))


def test_the_gradient_is_zero_if_phi_equals_the_prior():
    prior = prior_of(torch.float64)
    x = torch.rand(4, 3, 4, 4, dtype=torch.float64)
    gradient = SiD(SiDConfig(scale=1.0, variational=FROZEN), prior)(x, views_of(prior, 4), 0.0, seeded()).gradient
    torch.testing.assert_close(gradient, torch.zeros_like(x), atol=1e-9, rtol=0)


def test_the_scene_gradient_does_not_reach_the_weights_of_phi():
    prior = prior_of()
    rule = SiD(SiDConfig(variational=FROZEN), prior)
    rule(torch.rand(4, 3, 4, 4), views_of(prior, 4), 0.0, seeded()).learned()
    assert all(parameter.grad is None for parameter in rule.phi.score.parameters())


@pytest.mark.parametrize("fake_scale", [1.0, 2.0])
def test_resuming_changes_nothing(fake_scale):
    prior = prior_of()
    config = SiDConfig(fake_scale=fake_scale, variational=VariationalConfig(lr=0.01, text_dropout=0.1))
    assert resumes_bit_identically(lambda: SiD(config, prior), views_of(prior, 4), torch.rand(4, 3, 4, 4))


def test_queries_of_the_prior_per_view():
    assert queries_of(SiDConfig()) == {"view": 1, "bad": 1}


def test_phi_must_be_trained_for_every_way_it_is_queried() -> None:
    with pytest.raises(ValidationError, match=r"queries phi without.*text_dropout"):
        SiDConfig(fake_scale=2.0)
    SiDConfig(fake_scale=2.0, variational=FROZEN)  # allowed: phi is not trained here
