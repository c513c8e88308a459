import math

import pytest
import torch

from sds3d.guidance.inversion import even_times
from sds3d.guidance.ism import ISM, ISMConfig
from sds3d.guidance.schedules import UniformSchedule
from sds3d.ramps import Ramp
from tests.guidance.exact import TOLERANCE, exact_prior, level, ode_factor, renders, seeded
from tests.guidance.queries import queries_of
from tests.guidance.views import views_of

T = 0.6
AT_T = UniformSchedule(min=T, max=T)
T_EXACT = torch.tensor(T).double().item()  # rounded to float32


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("n_views", [1, 4])
@pytest.mark.parametrize(("interval", "strides"), [(0.1, 3), (0.2, 2)])  # ceil((t - interval) / 0.2)
def test_by_its_discrete_closed_form(dtype, n_views, interval, strides):
    # With one Gaussian for all texts, each step multiplies y = x / alpha - m by a factor, and eps = lambda y / (s^2 +
    # lambda^2). Under a joint prior, a common shift of all views has the variance s^2 (1 + (n - 1) rho).
    prior = exact_prior(dtype, n_views, y=(0.8, 0.5), null=(0.8, 0.5))
    std = 0.5 * math.sqrt(1 + (n_views - 1) * prior.rho)
    x = renders(1, dtype).repeat(4, 1, 1, 1)
    config = ISMConfig(interval=Ramp(interval), weighting="uniform", schedule=AT_T)
    gradient = ISM(config, prior)(x, views_of(prior, 4), 0.0, seeded()).gradient
    below = torch.full((1,), T) - interval
    s, times = below.item(), [time.item() for time in even_times(below, strides)]
    from_zero, onwards = ode_factor(prior, std, times), ode_factor(prior, std, [s, T_EXACT])
    low, high = level(prior, s).item(), level(prior, T_EXACT).item()
    slope = from_zero * (onwards * high / (std**2 + high**2) - low / (std**2 + low**2))
    torch.testing.assert_close(gradient, slope * (x - 0.8), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_small_strides_give_the_interval_of_the_ode():
    # G = (theta - m) / s (sigma_t / sqrt(D_t) - sigma_s / sqrt(D_s)), up to the single step over the interval.
    prior, x = exact_prior(y=(0.8, 0.5), null=(0.8, 0.5)), renders()
    config = ISMConfig(interval=Ramp(0.02), stride=0.002, weighting="uniform", schedule=AT_T)
    gradient = ISM(config, prior)(x, views_of(prior, 4), 0.0, seeded()).gradient
    ends = []
    for time in (T, T - 0.02):
        alpha, sigma = prior.alpha(torch.tensor(time)).item(), prior.sigma(torch.tensor(time)).item()
        ends.append(sigma / math.sqrt(alpha**2 * 0.25 + sigma**2))
    expected = (x - 0.8) / 0.5 * (ends[0] - ends[1])
    torch.testing.assert_close(gradient, expected, atol=2e-4, rtol=0.03)


def test_the_gradient_vanishes_with_the_interval():
    prior, x = exact_prior(y=(0.8, 0.5), null=(0.8, 0.5)), renders()
    sizes = []
    for interval in (0.04, 0.02, 0.01):
        config = ISMConfig(interval=Ramp(interval), stride=0.005, weighting="uniform", schedule=AT_T)
        gradient = ISM(config, prior)(x, views_of(prior, 4), 0.0, seeded()).gradient
        assert gradient is not None
        sizes.append(gradient.abs().max().item())
    assert sizes[0] / sizes[1] == pytest.approx(2, rel=0.1)
    assert sizes[1] / sizes[2] == pytest.approx(2, rel=0.1)


def test_inversion_is_unconditional_and_guidance_is_not():
    # S = 0 ignores the text; the slope in S is the direction of guidance at x_t.
    prior, x = exact_prior(), renders()
    other = exact_prior(y=(-3.0, 0.2))
    views = views_of(prior, 4), views_of(other, 4)
    config = ISMConfig(scale=0.0, schedule=AT_T)
    first, second = (ISM(config, p)(x, v, 0.0, seeded()) for p, v in zip((prior, other), views, strict=True))
    torch.testing.assert_close(first.gradient, second.gradient, atol=0, rtol=0)
    guided = ISM(config.model_copy(update={"scale": 1.0}), prior)(x, views[0], 0.0, seeded())
    assert (guided.gradient - first.gradient).abs().max() > 0.01


def test_only_t_is_random_and_objects_are_independent():
    prior = exact_prior(n_views=4)
    rule = ISM(ISMConfig(schedule=UniformSchedule(min=0.1, max=0.9)), prior)
    x = renders(8)
    changed = torch.cat([x[:4], x[4:] + 1])
    first, second = rule(x, views_of(prior, 8), 0.0, seeded()), rule(changed, views_of(prior, 8), 0.0, seeded())
    assert first.t.unique().numel() == 2
    torch.testing.assert_close(first.gradient[:4], second.gradient[:4], atol=0, rtol=0)
    assert (first.gradient[4:] - second.gradient[4:]).abs().max() > 1e-3


def test_t_below_the_interval_starts_from_the_render_itself():
    prior, x = exact_prior(y=(0.8, 0.5), null=(0.8, 0.5)), renders()
    config = ISMConfig(interval=Ramp(0.3), weighting="uniform", schedule=UniformSchedule(min=0.1, max=0.1))
    gradient = ISM(config, prior)(x, views_of(prior, 4), 0.0, seeded()).gradient
    lam = level(prior, torch.tensor(0.1))
    torch.testing.assert_close(gradient, lam / (0.25 + lam**2) * (x - 0.8), atol=1e-9, rtol=1e-9)


def test_queries_of_the_prior_per_view():
    assert queries_of(ISMConfig()) == {"view": 1, "bad": 1, "": 5 + 1}  # ceil(900 / 200) strides, plus one call at s


def test_the_default_weight_is_the_published_one():
    assert ISMConfig().weighting == "lambda"  # LucidDreamer's guidance/sd_utils.py


@pytest.mark.parametrize(("progress", "interval"), [(0.0, 0.1), (0.15, 0.075), (0.3, 0.05), (0.9, 0.05)])
def test_the_interval_changes_over_the_run(progress, interval):
    """As released: from 0.1 to 0.05 over 30 % of the run."""
    prior, x = exact_prior(), renders()
    changing = ISMConfig(interval=Ramp(((0.0, 0.1), (0.3, 0.05))), schedule=AT_T)
    got = ISM(changing, prior)(x, views_of(prior, 4), progress, seeded()).gradient
    fixed = ISM(ISMConfig(interval=Ramp(interval), schedule=AT_T), prior)(x, views_of(prior, 4), 0.0, seeded()).gradient
    assert got is not None
    assert fixed is not None
    torch.testing.assert_close(got, fixed)
