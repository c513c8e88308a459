"""SiD against its closed form for Gaussians, through both networks."""

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from sds3d.guidance.schedules import UniformSchedule
from sds3d.guidance.sid import SiD, SiDConfig
from sds3d.guidance.variational import VariationalConfig
from sds3d.priors.base import expand
from sds3d.priors.gaussian import Gaussian, GaussianPrior
from tests.guidance.asking import asked_by
from tests.guidance.scores import Known, normal, resumes_bit_identically, seeded
from tests.guidance.views import views_of

M, STD = 0.8, 0.5
Q_MEAN, Q_STD = 0.1, 0.7
FROZEN = VariationalConfig(updates=0)
DTYPES = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])


def prior_of(dtype: torch.dtype = torch.float32) -> GaussianPrior:
    return GaussianPrior({"y": Gaussian(M, STD), "": Gaussian(0.3, 0.9)}, (3, 4, 4), dtype=dtype)


def phi_of(prior: GaussianPrior) -> Known:
    return Known(lambda x_t, t, cond, cameras: normal(prior, Q_MEAN, Q_STD, x_t, t))


@DTYPES
@pytest.mark.parametrize("a", [0.0, 1.0, 1.2])
def test_the_gradient_goes_through_both_networks(dtype, tolerance, a):
    """Clean estimates f = m + A (x_t - alpha m) with A = alpha s^2 / D, and likewise f_phi with B."""
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
def test_each_network_has_a_scale_of_its_own(dtype, tolerance):
    """Of equal spreads, guidance by S is asking for the mean m_null + S (m - m_null): of phi away from the empty text,
    of the prior from the negative one."""

    def gradient(scale: float, fake_scale: float, prior: GaussianPrior, asked: float, null: float) -> Tensor:
        def phi(x_t, t, cond, cameras):
            empty = (cond.hidden[:, 0, 0] == -1.0).to(dtype)  # (B,)
            return normal(prior, expand(asked + empty * (null - asked), x_t), Q_STD, x_t, t)

        x, views = torch.rand(8, 3, 4, 4, generator=seeded(3)).to(dtype), views_of(prior, 8, negative="bad")
        config = SiDConfig(scale=scale, fake_scale=fake_scale, variational=FROZEN)
        guided = SiD(config, prior, Known(phi))(x, views, 0.0, seeded())
        assert guided.gradient is not None
        return guided.gradient

    def prior_at(mean: float) -> GaussianPrior:
        prompts = {"y": Gaussian(mean, STD), "bad": Gaussian(0.3, STD), "": Gaussian(-1.0, STD)}
        return GaussianPrior(prompts, (3, 4, 4), dtype=dtype)

    ours = gradient(3.0, 2.0, prior_at(M), asked=0.5, null=0.1)
    theirs = gradient(1.0, 1.0, prior_at(0.3 + 3.0 * (M - 0.3)), asked=0.1 + 2.0 * (0.5 - 0.1), null=0.0)
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
        real, fake = rule._estimates(prior.alpha(t) * moved + prior.sigma(t) * eps, t, views)
        omega = (moved - real).abs().mean() if omega is None else omega
        return ((real - fake) * (fake - moved)).sum() / omega

    loss(0.0)  # omega is held fixed
    numeric = (loss(1e-4) - loss(-1e-4)) / 2e-4
    assert t_and_noise.gradient is not None
    torch.testing.assert_close((t_and_noise.gradient * direction).sum(), numeric, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("t", [0.2, 0.5, 0.8])
def test_with_phi_exact_the_cross_term_is_zero(t):
    """E (f - f_phi) . (f_phi - x) = 0 where f_phi is the mean of x given x_t: the loss of a = 1 has no bias."""
    prior = GaussianPrior({"y": Gaussian(M, STD), "": Gaussian(0.3, 0.9)}, (3, 64, 64))
    x = Q_MEAN + Q_STD * torch.randn(64, 3, 64, 64, generator=seeded(3))
    views, schedule = views_of(prior, 64), UniformSchedule(min=t, max=t)

    def loss(a: float) -> float:
        rule = SiD(SiDConfig(scale=1.0, alpha=a, schedule=schedule, variational=FROZEN), prior, phi_of(prior))
        return rule(x, views, 0.0, seeded()).metrics["loss"]

    # The loss is the cross term at a = 1 and differs from it by (1 - a) E |f - f_phi|^2 / omega elsewhere.
    assert abs(loss(1.0)) < 0.02 * abs(loss(0.0))


def test_nothing_moves_when_the_renders_are_the_priors_own():
    prior = prior_of(torch.float64)
    x = torch.rand(4, 3, 4, 4, dtype=torch.float64)
    gradient = SiD(SiDConfig(scale=1.0, variational=FROZEN), prior)(x, views_of(prior, 4), 0.0, seeded()).gradient
    torch.testing.assert_close(gradient, torch.zeros_like(x), atol=1e-9, rtol=0)


def test_the_weights_of_phi_are_not_touched_by_the_scene():
    prior = prior_of()
    rule = SiD(SiDConfig(variational=FROZEN), prior)
    rule(torch.rand(4, 3, 4, 4), views_of(prior, 4), 0.0, seeded()).learned()
    assert all(parameter.grad is None for parameter in rule.phi.score.parameters())


@pytest.mark.parametrize("fake_scale", [1.0, 2.0])
def test_a_stop_changes_nothing(fake_scale):
    prior = prior_of()
    config = SiDConfig(fake_scale=fake_scale, variational=VariationalConfig(lr=0.01, text_dropout=0.1))
    assert resumes_bit_identically(lambda: SiD(config, prior), views_of(prior, 4), torch.rand(4, 3, 4, 4))


def test_the_prior_is_asked_by_these_texts_and_as_often():
    assert asked_by(SiDConfig()) == {"view": 1, "bad": 1}


def test_phi_is_not_asked_what_it_never_learns() -> None:
    with pytest.raises(ValidationError, match=r"asks phi without.*text_dropout"):
        SiDConfig(fake_scale=2.0)
    SiDConfig(fake_scale=2.0, variational=FROZEN)  # another's network is as it is
