import pytest
import torch

from sds3d.guidance.schedules import UniformSchedule
from sds3d.guidance.sdi import SDI, SDIConfig
from tests.guidance.exact import TOLERANCE, exact_prior, level, ode_factor, renders, seeded
from tests.guidance.queries import queries_of
from tests.guidance.views import views_of

AT_T = UniformSchedule(min=0.6, max=0.6)
T_EXACT = torch.tensor(0.6).double().item()


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_target_by_its_discrete_closed_form(dtype):
    # Without guidance, y = x_t / alpha - m = f (x - m) along the trajectory, and x0 - m = s^2 / (s^2 + lambda^2) y.
    prior, x = exact_prior(dtype), renders(4, dtype)
    config = SDIConfig(scale=1.0, inversion_scale=1.0, eta=0.0, schedule=AT_T)
    guided = SDI(config, prior)(x, views_of(prior, 4), 0.0, seeded())
    times = [float(torch.tensor(0.6) * (i / 10)) for i in range(11)]
    lam = level(prior, T_EXACT).item()
    x0 = 0.8 + 0.25 / (0.25 + lam**2) * ode_factor(prior, 0.5, times) * (x - 0.8)
    torch.testing.assert_close(guided.x0, x0, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    torch.testing.assert_close(guided.gradient, x - x0, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_target_of_the_exact_inversion():
    # Exact inversion gives x0 = m + (theta - m) alpha s / sqrt(D), with D = alpha^2 s^2 + sigma^2.
    prior, x = exact_prior(), renders()
    config = SDIConfig(scale=1.0, inversion_scale=1.0, inversion_steps=400, eta=0.0, schedule=AT_T)
    x0 = SDI(config, prior)(x, views_of(prior, 4), 0.0, seeded()).x0
    alpha, sigma = prior.alpha(torch.tensor(T_EXACT)), prior.sigma(torch.tensor(T_EXACT))
    expected = 0.8 + (x - 0.8) * alpha * 0.5 / (alpha**2 * 0.25 + sigma**2).sqrt()
    torch.testing.assert_close(x0, expected, atol=5e-3, rtol=5e-3)


def test_inversion_with_the_opposite_scale():
    # With equal variances, guidance by S is a Gaussian with the mean m_S = m_null + S (m - m_null). Inversion by S'
    # gives y = m_S' + f (x - m_S'), and the estimate by S gives x0 = m_S + s^2 / (s^2 + lambda^2) (y - m_S).
    prior, x = exact_prior(null=(0.3, 0.5)), renders()
    config = SDIConfig(scale=7.5, inversion_scale=-7.5, eta=0.0, schedule=AT_T)
    x0 = SDI(config, prior)(x, views_of(prior, 4), 0.0, seeded()).x0
    up, down = 0.3 + 7.5 * 0.5, 0.3 - 7.5 * 0.5
    times, lam = [float(torch.tensor(0.6) * (i / 10)) for i in range(11)], level(prior, T_EXACT).item()
    y = down + ode_factor(prior, 0.5, times) * (x - down)  # x_t / alpha
    torch.testing.assert_close(x0, up + 0.25 / (0.25 + lam**2) * (y - up), atol=1e-9, rtol=1e-9)


def test_fresh_noise_only_with_eta():
    prior, x = exact_prior(n_views=4), renders(8)
    views = views_of(prior, 8)

    def targets(eta: float) -> list[torch.Tensor]:
        config = SDIConfig(eta=eta, schedule=AT_T)
        guided = [SDI(config, prior)(x, views, 0.0, seeded(seed)) for seed in (0, 0, 1)]
        return [g.x0 for g in guided if g.x0 is not None]

    first, again, other = targets(0.0)
    assert torch.equal(first, again)
    assert torch.equal(first, other)
    first, again, other = targets(0.3)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_default_timesteps_fall_with_a_jitter():
    prior = exact_prior(n_views=4)
    rule = SDI(SDIConfig(), prior)
    for progress, low, high in ((0.0, 0.98, 1.0), (0.05, 0.9435, 1.0), (0.5, 0.615, 0.715), (1.0, 0.25, 0.35)):
        t = rule.config.schedule.sample(progress, 8, 4, seeded())
        assert t.unique().numel() == 2
        assert low - 1e-6 <= t.min() <= t.max() <= high + 1e-6
        assert rule.config.schedule.window(progress) == pytest.approx((low, high))


def test_queries_of_the_prior_per_view():
    assert queries_of(SDIConfig()) == {"view": 10 + 1, "bad": 10 + 1}


def test_defaults_are_the_published_ones():
    assert (SDIConfig().inversion_scale, SDIConfig().eta) == (-7.5, 0.3)  # threestudio's configs/sdi.yaml
