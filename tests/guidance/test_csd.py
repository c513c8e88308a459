import pytest
import torch
from pydantic import ValidationError

from sds3d.config import ConfigError, build
from sds3d.guidance.csd import CSD, CSDConfig
from sds3d.guidance.schedules import UniformSchedule
from sds3d.guidance.sds import SDS, SDSConfig
from tests.guidance.exact import TOLERANCE, exact_prior, level, renders, seeded
from tests.guidance.queries import queries_of
from tests.guidance.views import views_of


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("n_views", [1, 4])
def test_drift_of_equal_variances_is_the_same_everywhere(dtype, n_views):
    # eps_y - eps_null = -sigma alpha (m - m_null) / D for every render. Here the means are equal in all views, so
    # only the common shift counts: under a joint prior its variance is s^2 (1 + (n - 1) rho).
    prior = exact_prior(dtype, n_views, y=(0.8, 0.5), null=(0.3, 0.5))
    rule = CSD(CSDConfig(schedule=UniformSchedule()), prior)
    variance = 0.25 * (1 + (n_views - 1) * prior.rho)
    for theta in (0.0, 1.0, 10.0):
        guided = rule(torch.full((4, 3, 4, 4), theta, dtype=dtype), views_of(prior, 4), 0.0, seeded())
        lam = level(prior, guided.t)
        expected = (-lam / (variance + lam**2) * (0.8 - 0.3)).expand(4, 3, 4, 4)
        torch.testing.assert_close(guided.gradient, expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_it_is_the_slope_of_sds_in_the_scale(dtype):
    # SDS is linear in the scale S; its slope is classifier score distillation.
    prior = exact_prior(dtype)
    x, views, schedule = renders(4, dtype), views_of(prior, 4), UniformSchedule()
    one, two = (SDS(SDSConfig(scale=scale, schedule=schedule), prior)(x, views, 0.0, seeded()) for scale in (1.0, 2.0))
    csd = CSD(CSDConfig(weighting="sds", schedule=schedule), prior)(x, views, 0.0, seeded())
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(csd.gradient, two.gradient - one.gradient, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("progress", [0.0, 0.25, 1.0])
def test_coefficients_ramp(progress):
    prior = exact_prior(bad=(-0.4, 0.7))
    x, views = renders(), views_of(prior, 4, negative="bad")
    schedule = UniformSchedule(min=0.5, max=0.5)
    terms = {"positive": [1, 1], "negative": [-1, -0.5], "empty": [0, -0.5]}
    config = build(CSDConfig, {**terms, "schedule": schedule.model_dump()})
    gradient = CSD(config, prior)(x, views, progress, seeded()).gradient
    generator = seeded()
    config.schedule.sample(progress, 4, 1, generator)
    eps, t = torch.randn(x.shape, generator=generator).to(x), torch.full((4,), 0.5)
    x_t = 0.5**0.5 * (x + eps)
    positive, negative, null = (
        prior.predict(x_t, t, condition, views.cameras).eps
        for condition in (views.positive, views.negative, views.prompt.null.repeat(4))
    )
    expected = positive - (1 - 0.5 * progress) * negative - 0.5 * progress * null
    torch.testing.assert_close(gradient, expected, atol=1e-9, rtol=1e-9)


def test_equal_texts_give_zero():
    prior = exact_prior(null=(0.8, 0.5))
    gradient = CSD(CSDConfig(), prior)(renders(), views_of(prior, 4), 0.3, seeded()).gradient
    assert gradient is not None
    assert gradient.abs().max() < 1e-12


@pytest.mark.parametrize("wrong", [{"positive": (1.05, 1.05)}, {"empty": (-1.0, -1.0)}, {"negative": (0.5, -1.0)}])
def test_coefficients_must_sum_to_zero(wrong):
    with pytest.raises(ValidationError, match="make it 0"):
        CSDConfig(**wrong)
    with pytest.raises(ConfigError, match=r"at 0.25 of the run, .* sum to 0.5: make it 0"):
        build(CSDConfig, {"negative": [[0, -1], [0.5, 0]], "empty": [[0, 0], [0.25, 0], [0.5, -1]]})


@pytest.mark.parametrize(
    ("progress", "b", "n"), [(0.0, 0.0, -1.0), (0.25, -0.5, -0.5), (0.5, -1.0, 0.0), (1.0, -1.0, 0.0)]
)
def test_coefficients_over_half_of_the_run(progress, b, n):
    """As in the released configuration: the negative prompt takes over from the empty one in the first half."""
    prior, x, schedule = exact_prior(bad=(-0.4, 0.7)), renders(), UniformSchedule(min=0.5, max=0.5)
    terms = {"negative": [[0, 0], [0.5, -1]], "empty": [[0, -1], [0.5, 0]], "schedule": schedule.model_dump()}

    def gradient(given, at):
        csd = CSD(build(CSDConfig, given), prior)(x, views_of(prior, 4, negative="bad"), at, seeded())
        assert csd.gradient is not None
        return csd.gradient

    expected = gradient(terms | {"negative": b, "empty": -1 - b}, 0.0)
    torch.testing.assert_close(gradient(terms, progress), expected)


def test_queries_of_the_prior_per_view():
    assert queries_of(CSDConfig()) == {"view": 1, "bad": 1, "": 1}
