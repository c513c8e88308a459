"""Uni-Instruct: its gradient by finite differences of the divergence itself, and its special cases."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sds3d.guidance.fdivergence import WEIGHTS
from sds3d.guidance.schedules import UniformSchedule
from sds3d.guidance.sid import SiD, SiDConfig
from sds3d.guidance.uni_instruct import SLOPES, UniInstruct, UniInstructConfig, expanded_loss
from sds3d.guidance.variational import VariationalConfig
from tests.guidance.exact import DTYPES, ExactPrior, exact_prior, renders, seeded
from tests.guidance.queries import queries_of
from tests.guidance.scores import Known, normal, resumes_bit_identically
from tests.guidance.views import views_of

FROZEN = VariationalConfig(updates=0)
SCHEDULE = UniformSchedule(min=0.1, max=0.9)


def phi_of(prior: ExactPrior) -> Known:
    return Known(lambda x_t, t, cond, cameras: normal(prior, 0.1, 0.7, x_t, t))


@pytest.mark.parametrize("divergence", WEIGHTS)
def test_slopes_are_derivatives_by_the_logarithm_of_the_ratio(divergence):
    log_ratio = torch.linspace(-3, 3, 31, dtype=torch.float64, requires_grad=True)
    h = WEIGHTS[divergence](log_ratio.exp()) + 0 * log_ratio.square()  # reverse KL depends on no ratio
    (first,) = torch.autograd.grad(h.sum(), log_ratio, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), log_ratio)
    for ours, theirs in zip(SLOPES[divergence](log_ratio.detach().exp()), (first, second), strict=True):
        torch.testing.assert_close(ours, theirs.detach(), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("divergence", WEIGHTS)
def test_the_gradient_is_the_slope_of_the_divergence(divergence):
    """At one level of noise, for p = N(0.5, 0.7^2) and renders x ~ N(mu, 0.6^2), by quadrature over x and the noise.

    The divergence is E h(r) |s_p - s_q|^2. With f - f_phi = sigma^2 / alpha (s_p - s_q), the mean gradient of the loss
    is sigma^4 / (2 alpha^2) times its slope in mu.
    """
    alpha, sigma, std, mean, spread = 0.8, 0.6, 0.7, 0.5, 0.6
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(60))
    weights = weights / weights.sum()

    def log_density(x_t: Tensor, mu: float, std: float) -> Tensor:
        variance = alpha**2 * std**2 + sigma**2
        return -0.5 * (x_t - alpha * mu) ** 2 / variance - 0.5 * math.log(variance)

    def score(x_t: Tensor, mu: float, std: float) -> Tensor:
        return -(x_t - alpha * mu) / (alpha**2 * std**2 + sigma**2)

    def value(mu: float) -> float:
        x_t = alpha * mu + math.sqrt(alpha**2 * spread**2 + sigma**2) * nodes
        ratio = (log_density(x_t, mean, std) - log_density(x_t, mu, spread)).exp()
        apart = score(x_t, mean, std) - score(x_t, mu, spread)
        return (weights * WEIGHTS[divergence](ratio) * apart**2).sum().item()

    numeric = (value(1e-4) - value(-1e-4)) / 2e-4
    x = (spread * nodes)[:, None].expand(60, 60).reshape(-1, 1, 1, 1).clone().requires_grad_()
    x_t = alpha * x + sigma * nodes.repeat(60).reshape(-1, 1, 1, 1)
    real, fake = ((x_t + sigma**2 * score(x_t, *of)) / alpha for of in ((mean, std), (0.0, spread)))
    flat = x_t.detach().flatten()
    ratio = (log_density(flat, mean, std) - log_density(flat, 0.0, spread)).exp()
    losses = expanded_loss(divergence, x, real, fake, ratio, torch.full_like(flat, (alpha / sigma) ** 2))
    (gradient,) = torch.autograd.grad(losses.sum(), x)
    ours = (weights[:, None] * weights * gradient.reshape(60, 60)).sum().item()
    assert ours == pytest.approx(sigma**4 / (2 * alpha**2) * numeric, rel=1e-6)


def gradients(divergence: Any, dtype: torch.dtype, log_ratio: Tensor, alpha: float, start: float = 0.0) -> list[Tensor]:
    """Return the rule's gradient for a batch of 4 and that of SiD with this alpha."""
    prior, x = exact_prior(dtype), renders(dtype=dtype)
    config = UniInstructConfig(
        divergence=divergence, scale=3.0, start=start, schedule=SCHEDULE, variational=FROZEN
    )  # fmt: skip
    ours = UniInstruct(config, prior, phi_of(prior), lambda x_t, t, cameras: log_ratio.to(dtype))
    sid = SiD(SiDConfig(scale=3.0, alpha=alpha, schedule=SCHEDULE, variational=FROZEN), prior, phi_of(prior))
    found = [rule(x, views_of(prior, 4), 0.2, seeded()).gradient for rule in (ours, sid)]
    return [gradient for gradient in found if gradient is not None]


@DTYPES
def test_reverse_kl_is_sid_with_half_the_squared_difference(dtype, tolerance):
    ours, sid = gradients("reverse_kl", dtype, torch.linspace(-2, 2, 4), alpha=0.5)
    torch.testing.assert_close(ours, sid, atol=tolerance, rtol=tolerance)


@DTYPES
def test_forward_kl_is_sid_weighted_by_the_ratio(dtype, tolerance):
    log_ratio = torch.linspace(-2, 2, 4, dtype=torch.float64)
    ours, sid = gradients("forward_kl", dtype, log_ratio, alpha=1.0)
    weights = (log_ratio.exp() / log_ratio.exp().mean()).to(dtype).reshape(4, 1, 1, 1)
    torch.testing.assert_close(ours, weights * sid, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("divergence", WEIGHTS)
def test_before_start_it_is_sid(divergence):
    ours, sid = gradients(divergence, torch.float64, torch.linspace(-2, 2, 4), alpha=1.0, start=0.3)
    torch.testing.assert_close(ours, sid, atol=1e-9, rtol=1e-9)


def test_the_ratio_is_that_of_the_noised_renders():
    prior, x, seen = exact_prior(), renders(), []

    def log_ratio(x_t: Tensor, t: Tensor, cameras: Any) -> Tensor:
        seen.append(x_t)
        return torch.zeros(4, dtype=x_t.dtype)

    def phi(x_t: Tensor, t: Tensor, cond: Any, cameras: Any) -> Any:
        seen.append(x_t.detach())
        return normal(prior, 0.1, 0.7, x_t, t)

    UniInstruct(UniInstructConfig(variational=FROZEN), prior, Known(phi), log_ratio)(
        x, views_of(prior, 4), 0.5, seeded()
    )
    assert torch.equal(*seen)


def test_resuming_changes_nothing():
    prior = exact_prior(torch.float32)
    config = UniInstructConfig(start=0.0, refresh_every=2, cache=2, sampling_steps=3)
    assert resumes_bit_identically(lambda: UniInstruct(config, prior), views_of(prior, 4), renders(dtype=torch.float32))


def test_queries_of_the_prior_per_view():
    assert queries_of(UniInstructConfig()) == {"view": 1 + 10, "bad": 1 + 10}  # ten of them draw pictures
