"""EM distillation: the chain by hand, its stationary distribution, and VSD as its special case."""

import torch
from torch import Tensor

from sds3d.guidance.base import draw_noise
from sds3d.guidance.emd import EMD, EMDConfig
from sds3d.guidance.schedules import UniformSchedule
from sds3d.guidance.variational import VariationalConfig
from sds3d.guidance.vsd import VSD, VSDConfig
from sds3d.priors.gaussian import Gaussian
from tests.guidance.exact import DTYPES, ExactPrior, exact_prior, renders, seeded
from tests.guidance.queries import queries_of
from tests.guidance.scores import Known, normal, resumes_bit_identically
from tests.guidance.views import views_of

FROZEN = VariationalConfig(updates=0)


def phi_of(prior: ExactPrior) -> Known:
    return Known(lambda x_t, t, cond, cameras: normal(prior, 0.1, 0.7, x_t, t))


@DTYPES
def test_one_step_is_vsd(dtype, tolerance):
    prior, x = exact_prior(dtype), renders(dtype=dtype)
    ours = EMD(EMDConfig(steps=1, variational=FROZEN), prior, phi_of(prior))(x, views_of(prior, 4), 0.0, seeded())
    vsd = VSD(VSDConfig(variational=FROZEN), prior, phi_of(prior))(x, views_of(prior, 4), 0.0, seeded())
    torch.testing.assert_close(ours.gradient, vsd.gradient, atol=tolerance, rtol=tolerance)


@DTYPES
def test_the_target_is_the_chain_without_its_noise(dtype, tolerance):
    """The chain with all its noise, and beside it the linear recursion of that noise alone: G is their difference."""
    prior, x, steps, size, s, t = exact_prior(dtype), renders(dtype=dtype), 4, 0.3, 2.0, 0.4
    schedule = UniformSchedule(min=t, max=t)
    config = EMDConfig(scale=s, steps=steps, step_size=size, weighting="uniform", schedule=schedule, variational=FROZEN)
    ours = EMD(config, prior, phi_of(prior))(x, views_of(prior, 4), 0.0, seeded()).gradient
    generator = seeded()
    times = schedule.sample(0.0, 4, 1, generator)
    alpha, sigma = prior.alpha(times)[0], prior.sigma(times)[0]

    def eps_of(mean: float, std: float, x_t: Tensor) -> Tensor:
        return sigma * (x_t - alpha * mean) / (alpha**2 * std**2 + sigma**2)

    eps = alone = draw_noise(x, generator)
    for k in range(steps):
        x_t = alpha * x + sigma * eps
        null = eps_of(0.3, 0.9, x_t)
        difference = null + s * (eps_of(0.8, 0.5, x_t) - null) - eps_of(0.1, 0.7, x_t)
        fresh = (2 * size) ** 0.5 * draw_noise(x, generator) if k < steps - 1 else torch.zeros_like(x)
        eps, alone = (1 - size) * eps - size * difference + fresh, (1 - size) * alone + fresh
    expected = (alone - eps) / (1 - (1 - size) ** steps)
    torch.testing.assert_close(ours, expected, atol=tolerance, rtol=tolerance)


def test_a_long_chain_has_the_mean_of_the_density():
    """x_t ~ p_t(x_t) / q_t(x_t) N(alpha x, sigma^2) is Gaussian, and its precision is the sum of the three."""
    prior = ExactPrior({"y": Gaussian(0.8, 0.5), "": Gaussian(0.3, 0.9)}, (3, 32, 32), dtype=torch.float64)
    x, schedule = torch.full((4, 3, 32, 32), -0.5, dtype=torch.float64), UniformSchedule(min=0.5, max=0.5)
    config = EMDConfig(
        scale=1.0, steps=100, step_size=0.1, weighting="uniform", schedule=schedule, variational=FROZEN
    )  # fmt: skip
    guided = EMD(config, prior, phi_of(prior))(x, views_of(prior, 4), 0.0, seeded())
    assert guided.gradient is not None
    alpha, sigma = prior.alpha(guided.t)[0], prior.sigma(guided.t)[0]
    p, q = (1 / (alpha**2 * std**2 + sigma**2) for std in (0.5, 0.7))
    mean = (alpha * 0.8 * p - alpha * 0.1 * q + alpha * -0.5 / sigma**2) / (p - q + 1 / sigma**2)
    reached = alpha * -0.5 - sigma * guided.gradient.mean()  # the sum of the weights is 1 after so many steps
    torch.testing.assert_close(reached, mean, atol=0.01, rtol=0)


def test_resuming_changes_nothing():
    prior, config = exact_prior(torch.float32), EMDConfig(steps=3, variational=VariationalConfig(lr=0.01))
    assert resumes_bit_identically(lambda: EMD(config, prior), views_of(prior, 4), renders(dtype=torch.float32))


def test_queries_of_the_prior_per_view():
    assert queries_of(EMDConfig(steps=3)) == {"view": 3, "bad": 3}
