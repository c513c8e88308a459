"""Score implicit matching against its closed form for Gaussians, and against SiD."""

import pytest
import torch

from sds3d.guidance.schedules import UniformSchedule
from sds3d.guidance.sid import SiD, SiDConfig
from sds3d.guidance.sim import SIM, SIMConfig
from sds3d.guidance.variational import VariationalConfig
from tests.guidance.exact import DTYPES, ExactPrior, exact_prior, renders, seeded
from tests.guidance.queries import queries_of
from tests.guidance.scores import Known, normal, resumes_bit_identically
from tests.guidance.views import views_of

M, STD = 0.8, 0.5  # of the prior
Q_MEAN, Q_STD = 0.1, 0.7  # of the renders
FROZEN = VariationalConfig(updates=0)
SCHEDULE = UniformSchedule(min=0.1, max=0.9)


def phi_of(prior: ExactPrior) -> Known:
    return Known(lambda x_t, t, cond, cameras: normal(prior, Q_MEAN, Q_STD, x_t, t))


@DTYPES
def test_the_gradient_goes_through_both_networks_and_the_norm(dtype, tolerance):
    """f = m + A (x_t - alpha m) with A = alpha s^2 / D, and f_phi alike with B.

    So d has the slope k = alpha (A - B) in x, f_phi - x the slope alpha B - 1, and the norm n of d the slope k d / n.
    """
    prior, x, seen = exact_prior(dtype), renders(8, dtype), []

    def known(x_t, t, cond, cameras):
        seen.append((x_t.detach(), t))
        return normal(prior, Q_MEAN, Q_STD, x_t, t)

    config = SIMConfig(scale=1.0, schedule=SCHEDULE, variational=FROZEN)
    guided = SIM(config, prior, Known(known))(x, views_of(prior, 8), 0.0, seeded())
    x_t, t = seen[0]
    alpha, sigma = (scale(t).reshape(8, 1, 1, 1) for scale in (prior.alpha, prior.sigma))
    slope = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
    slope_phi = alpha * Q_STD**2 / (alpha**2 * Q_STD**2 + sigma**2)
    real, fake = M + slope * (x_t - alpha * M), Q_MEAN + slope_phi * (x_t - alpha * Q_MEAN)
    d, e, k = real - fake, fake - x, alpha * (slope - slope_phi)
    n = (d.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-6).sqrt()
    along = (d * e).sum(dim=(1, 2, 3), keepdim=True)
    expected = (k * e + (alpha * slope_phi - 1) * d) / n - along * k * d / n**3
    torch.testing.assert_close(guided.gradient, expected, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(guided.x0, real, atol=tolerance, rtol=tolerance)
    assert guided.gradient is not None
    assert not guided.gradient.requires_grad


@pytest.mark.parametrize("factor", [0.1, 1000.0])
def test_the_size_of_the_difference_hardly_matters(factor):
    """Where phi and the prior are shifted copies of each other, d is constant, and only its direction counts, up to
    c^2 / |d|^2.
    """
    prior, x = exact_prior(), renders()

    def gradient(shift):
        phi = Known(lambda x_t, t, cond, cameras: normal(prior, M - shift, STD, x_t, t))
        config = SIMConfig(scale=1.0, schedule=SCHEDULE, variational=FROZEN)
        return SIM(config, prior, phi)(x, views_of(prior, 4), 0.0, seeded()).gradient

    close, far = gradient(1.0), gradient(factor)
    # d is so large beside c, here 0.01 in each of 48 values, that the rest is below c^2 / |d|^2.
    torch.testing.assert_close(far, close, atol=0, rtol=1e-3)


def test_it_is_sid_but_for_the_size():
    """Where d is constant its norm has no slope, and SiD with a = 1 divides by another number for each sample."""
    prior, x = exact_prior(), renders()
    phi = Known(lambda x_t, t, cond, cameras: normal(prior, 0.2, STD, x_t, t))
    views = views_of(prior, 4)
    sim, sid = (kind(scale=1.0, schedule=SCHEDULE, variational=FROZEN) for kind in (SIMConfig, SiDConfig))
    ours = SIM(sim, prior, phi)(x, views, 0.0, seeded()).gradient
    theirs = SiD(sid, prior, phi)(x, views, 0.0, seeded()).gradient
    assert ours is not None
    assert theirs is not None
    cosine = torch.nn.functional.cosine_similarity(ours.flatten(1), theirs.flatten(1))
    torch.testing.assert_close(cosine, torch.ones_like(cosine), atol=1e-9, rtol=0)


def test_equal_scores_give_no_gradient():
    prior = exact_prior(torch.float32)
    x = renders(dtype=torch.float32)
    gradient = SIM(SIMConfig(scale=1.0, variational=FROZEN), prior)(x, views_of(prior, 4), 0.0, seeded()).gradient
    torch.testing.assert_close(gradient, torch.zeros_like(x), atol=1e-2, rtol=0)


def test_resuming_changes_nothing():
    prior = exact_prior(torch.float32)
    config = SIMConfig(variational=VariationalConfig(lr=0.01))
    assert resumes_bit_identically(lambda: SIM(config, prior), views_of(prior, 4), renders(dtype=torch.float32))


def test_queries_of_the_prior_per_view():
    assert queries_of(SIMConfig()) == {"view": 1, "bad": 1}
