import pytest
import torch
from torch import Tensor

from sds3d.guidance.asd import ASD, ASDConfig
from sds3d.guidance.base import guided_prediction, weight
from sds3d.guidance.csd import CSD, CSDConfig
from sds3d.guidance.schedules import AnnealedSchedule, UniformSchedule, draw
from sds3d.priors.base import add_noise, expand
from tests.guidance.exact import TOLERANCE, ExactPrior, FlowPrior, exact_prior, level, renders, seeded
from tests.guidance.queries import queries_of
from tests.guidance.views import views_of

SCHEDULE = UniformSchedule(min=0.1, max=0.9)


def draws(prior: ExactPrior, x: Tensor, config: ASDConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Return t, t' and the noise that the rule draws with seed 0."""
    generator = seeded()
    t = config.schedule.sample(0.0, len(x), prior.n_views, generator)
    later = t + draw((0.0, config.shift), len(x), prior.n_views, generator) * (t - config.schedule.window(0.0)[0])
    return t, later.clamp(max=1.0), torch.randn(x.shape, generator=generator).to(x)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("n_views", [1, 4])
@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_without_a_shift_it_is_classifier_score_distillation(dtype, n_views, scale):
    prior = exact_prior(dtype, n_views)
    x, views, schedule = renders(8, dtype), views_of(prior, 8), UniformSchedule(min=0.4, max=0.4)
    asd = ASD(ASDConfig(scale=scale, shift=0.0, schedule=schedule), prior)(x, views, 0.0, seeded())
    generator = seeded()
    torch.rand(8 // n_views, generator=generator)  # ASD draws the shift before the noise
    csd = CSD(CSDConfig(weighting="sds", schedule=schedule), prior)(x, views, 0.0, generator)
    assert csd.gradient is not None
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(asd.gradient, (scale - 1) * csd.gradient, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_if_the_second_timestep_is_pure_noise_it_is_sds(dtype):
    # alpha(1) = 0, so at t' = 1 the prior's input and its exact prediction are the injected noise.
    prior, x = exact_prior(dtype), renders(4, dtype)
    views, config = views_of(prior, 4), ASDConfig(scale=3.0, shift=1e9, schedule=SCHEDULE)
    guided = ASD(config, prior)(x, views, 0.0, seeded())
    assert guided.metrics["t_later"] == 1.0
    t, _, eps = draws(prior, x, config)
    prediction = guided_prediction(prior, add_noise(prior, x, eps, t), t, views, 3.0)
    sds = expand(weight(prior, t, "sds"), x) * (prediction.eps - eps)
    torch.testing.assert_close(guided.gradient, sds, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("kind", [ExactPrior, FlowPrior])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_mean_gradient_attracts_only_at_high_noise(dtype, kind):
    # S = 1: E[G] = (k(t) - k(t')) (theta - m), with k = lambda / (s^2 + lambda^2), largest at lambda = s. Mirroring
    # theta and the means changes the sign of everything but the noise, which averages the noise out exactly.
    x, config = renders(16, dtype), ASDConfig(scale=1.0, shift=0.1, weighting="uniform", schedule=SCHEDULE)
    gradients = []
    for sign in (1.0, -1.0):
        prior = exact_prior(dtype, kind=kind, y=(sign * 0.8, 0.5), null=(0.0, 0.5))
        gradients.append(ASD(config, prior)(sign * x, views_of(prior, 16), 0.0, seeded()).gradient)
    prior = exact_prior(dtype, kind=kind)
    t, later, _ = draws(prior, x, config)
    now, then = (level(prior, time) / (0.25 + level(prior, time) ** 2) for time in (t, later))
    expected = (now - then) * (x - 0.8)
    got = (gradients[0] - gradients[1]) / 2
    torch.testing.assert_close(got, expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    pull = (now - then).flatten()
    assert pull[level(prior, t).flatten() > 0.5].min() > -1e-6
    assert pull[level(prior, later).flatten() < 0.5].max() < 1e-6


def test_at_the_current_lowest_noise_nothing_is_shifted():
    # t' - t is a share of t - t_min, where t_min belongs to the schedule's current window, not to its first one.
    prior, schedule = exact_prior(), AnnealedSchedule(min=(0.1, 0.5), max=(0.1, 0.5))
    for progress, t in ((0.0, 0.1), (0.5, 0.3), (1.0, 0.5)):
        guided = ASD(ASDConfig(schedule=schedule), prior)(renders(), views_of(prior, 4), progress, seeded())
        assert guided.metrics["t_later"] == guided.metrics["t"] == pytest.approx(t)


@pytest.mark.parametrize("n_views", [1, 4])
def test_views_of_an_object_share_both_times(n_views):
    prior = exact_prior(n_views=n_views)
    config = ASDConfig(schedule=SCHEDULE)
    t, later, _ = draws(prior, renders(8), config)
    assert t.unique().numel() == later.unique().numel() == 8 // n_views
    guided = ASD(config, prior)(renders(8), views_of(prior, 8), 0.0, seeded())
    assert torch.equal(guided.t, t)
    assert guided.metrics["t_later"] == pytest.approx(later.mean().item())
    assert guided.metrics["t_later"] > guided.metrics["t"]


def test_queries_of_the_prior_per_view():
    assert queries_of(ASDConfig()) == {"view": 2, "bad": 1}
