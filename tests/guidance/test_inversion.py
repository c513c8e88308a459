import math

import pytest
import torch

from sds3d.guidance.inversion import ddim, ddim_step, even_times, steps_of
from sds3d.priors.base import Prediction, add_noise
from tests.guidance.exact import TOLERANCE, ExactPrior, exact_prior, level, ode_factor, renders, seeded
from tests.guidance.views import views_of


def unguided(prior: ExactPrior):
    views = views_of(prior, 4)
    return lambda x_t, t: prior.predict(x_t, t, views.positive, None)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_inversion_by_its_discrete_closed_form(dtype):
    prior, x = exact_prior(dtype), renders(4, dtype)
    t = torch.tensor([0.2, 0.4, 0.6, 0.8])
    times = even_times(t, 10)
    x_t = ddim(prior, x, times, unguided(prior))
    for b in range(4):
        factor = ode_factor(prior, 0.5, [time[b].item() for time in times])
        expected = prior.alpha(t)[b] * (0.8 + factor * (x[b] - 0.8))
        torch.testing.assert_close(x_t[b], expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_small_steps_follow_the_ode():
    # On N(m, s^2), (x_t - alpha m) / sqrt(D) is constant along the trajectory. Halving the step halves the Euler
    # error, so twice the finer result minus the coarser one is accurate to second order.
    prior, x, t = exact_prior(), renders(), torch.full((4,), 0.6)
    alpha, sigma = prior.alpha(t)[0], prior.sigma(t)[0]
    expected = alpha * 0.8 + (alpha**2 * 0.25 + sigma**2).sqrt() * (x - 0.8) / 0.5
    coarse, fine = (ddim(prior, x, even_times(t, steps), unguided(prior)) for steps in (100, 200))
    assert (coarse - expected).abs().max() / (fine - expected).abs().max() == pytest.approx(2, rel=0.05)
    torch.testing.assert_close(2 * fine - coarse, expected, atol=1e-3, rtol=0)


def test_sampling_reverses_inversion():
    prior, x, t = exact_prior(), renders(), torch.full((4,), 0.7)
    returned = []
    for steps in (100, 200):
        times = even_times(t, steps)
        there = ddim(prior, x, times, unguided(prior))
        assert (there - x).abs().max() > 0.5
        returned.append(ddim(prior, there, times[::-1], unguided(prior)))
    coarse, fine = returned
    assert (coarse - x).abs().max() / (fine - x).abs().max() == pytest.approx(2, rel=0.05)
    torch.testing.assert_close(2 * fine - coarse, x, atol=1e-3, rtol=0)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("to", [0.0, 0.3, 0.9])
def test_a_step_with_true_predictions_moves_the_noise_level(dtype, to):
    prior, x, eps = exact_prior(dtype), renders(4, dtype), renders(4, dtype, seed=8)
    t, there = torch.full((4,), 0.6), torch.full((4,), to)
    moved = ddim_step(prior, Prediction(eps, x), t, there)
    torch.testing.assert_close(moved, add_noise(prior, x, eps, there), atol=TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize(("t", "to"), [(0.6, 0.4), (0.4, 0.6), (0.05, 0.95)])
def test_fresh_noise_has_the_scale_of_ddim(eta, t, to):
    # With predictions of 0, only the fresh noise remains: DDIM's eta sqrt((1 - a_s) / (1 - a_t)) sqrt(1 - a_t / a_s).
    prior = exact_prior()
    zeros = torch.zeros(4, 3, 4, 4, dtype=torch.float64)
    times = torch.full((4,), t), torch.full((4,), to)
    moved = ddim_step(prior, Prediction(zeros, zeros), *times, eta, seeded())
    less, more = (
        (prior.alpha(torch.tensor(min(t, to))) ** 2).item(),
        (prior.alpha(torch.tensor(max(t, to))) ** 2).item(),
    )
    expected = eta * math.sqrt((1 - less) / (1 - more)) * math.sqrt(1 - more / less)
    noise = torch.randn(zeros.shape, generator=seeded()).to(zeros)
    torch.testing.assert_close(moved, expected * noise, atol=1e-7, rtol=1e-6)


def test_noise_keeps_its_variance_with_eta():
    prior = exact_prior()
    eps, zeros = torch.ones(4, 3, 4, 4, dtype=torch.float64), torch.zeros(4, 3, 4, 4, dtype=torch.float64)
    t, to = torch.full((4,), 0.6), torch.full((4,), 0.4)
    kept = ddim_step(prior, Prediction(eps, zeros), t, to, 1.0, seeded()) - ddim_step(
        prior, Prediction(zeros, zeros), t, to, 1.0, seeded()
    )
    fresh = ddim_step(prior, Prediction(zeros, zeros), t, to, 1.0, seeded())
    noise = torch.randn(eps.shape, generator=seeded()).to(eps)
    total = kept**2 + (fresh / noise) ** 2
    torch.testing.assert_close(total, prior.sigma(to)[0].pow(2).expand_as(total), atol=1e-9, rtol=1e-9)


def test_ancestral_sampling_ends_at_the_distribution():
    # With eta = 1 on the exact prior all values are independent, so their moments are those of N(m, s^2).
    prior = exact_prior()
    x = torch.randn(256, 3, 4, 4, generator=seeded(4), dtype=torch.float64)
    cond = views_of(prior, 1).positive.repeat(256)
    times = even_times(torch.full((256,), 0.99), 60)[::-1]
    sample = ddim(prior, x, times, lambda x_t, t: prior.predict(x_t, t, cond, None), 1.0, seeded(6))
    assert sample.mean().item() == pytest.approx(0.8, abs=0.03)
    assert sample.std().item() == pytest.approx(0.5, abs=0.03)


def test_eta_needs_a_generator():
    prior, x, t = exact_prior(), renders(), torch.full((4,), 0.5)
    with pytest.raises(ValueError, match="give a generator"):
        ddim_step(prior, Prediction(x, x), t, 0.5 * t, 0.5)


@pytest.mark.parametrize(("most", "stride", "steps"), [(0.9, 0.2, 5), (0.8, 0.2, 4), (0.1, 0.2, 1), (-0.1, 0.2, 1)])
def test_number_of_strides(most, stride, steps):
    assert steps_of(most, stride) == steps


def test_levels_are_those_of_the_prior():
    prior = exact_prior()
    assert level(prior, 0.5).item() == pytest.approx(1.0)
