import pytest
import torch
from torch import Tensor

from sds3d.guidance.csd import CSD, CSDConfig
from sds3d.guidance.nfsd import NFSD, NFSDConfig
from sds3d.guidance.schedules import UniformSchedule
from tests.guidance.exact import TOLERANCE, ExactPrior, exact_prior, renders, seeded
from tests.guidance.queries import queries_of
from tests.guidance.views import views_of


def three_predictions(prior: ExactPrior, x: Tensor, config: NFSDConfig) -> tuple[Tensor, list[Tensor], Tensor]:
    """Return timesteps, eps for the positive, negative and null text, and w, from the same random draws as the rule."""
    generator = seeded()
    t = config.schedule.sample(0.0, len(x), prior.n_views, generator)
    eps = torch.randn(x.shape, generator=generator).to(x)
    alpha, sigma = (scale(t).reshape(-1, 1, 1, 1) for scale in (prior.alpha, prior.sigma))
    views = views_of(prior, len(x), negative="bad")
    conditions = (views.positive, views.negative, views.prompt.null.repeat(len(x)))
    x_t = alpha * x + sigma * eps
    return t, [prior.predict(x_t, t, condition, views.cameras).eps for condition in conditions], sigma**2


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("n_views", [1, 4])
@pytest.mark.parametrize(("low", "high"), [(0.02, 0.19), (0.2, 0.98), (0.05, 0.4)])
def test_by_its_formula(dtype, n_views, low, high):
    prior, x = exact_prior(dtype, n_views, bad=(-0.4, 0.7)), renders(8, dtype)
    config = NFSDConfig(schedule=UniformSchedule(min=low, max=high))
    gradient = NFSD(config, prior)(x, views_of(prior, 8, negative="bad"), 0.0, seeded()).gradient
    t, (positive, negative, null), w = three_predictions(prior, x, config)
    for b in range(8):
        domain = null[b] if t[b] < 0.2 else null[b] - negative[b]
        expected = w[b] * (domain + 7.5 * (positive[b] - null[b]))
        torch.testing.assert_close(gradient[b], expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_without_a_negative_prompt_only_guidance_remains_above_the_threshold():
    prior, x = exact_prior(), renders()
    schedule = UniformSchedule(min=0.2, max=0.98)
    nfsd = NFSD(NFSDConfig(scale=3.0, schedule=schedule), prior)(x, views_of(prior, 4), 0.0, seeded())
    csd = CSD(CSDConfig(weighting="sds", schedule=schedule), prior)(x, views_of(prior, 4), 0.0, seeded())
    torch.testing.assert_close(nfsd.gradient, 3 * csd.gradient, atol=1e-9, rtol=1e-9)


def test_injected_noise_is_not_subtracted():
    # Near t = 0, eps_null vanishes with sigma on the exact prior; injected noise, of size 1, would not.
    prior = exact_prior(null=(0.8, 0.5))
    config = NFSDConfig(weighting="uniform", schedule=UniformSchedule(min=1e-4, max=1e-4))
    gradient = NFSD(config, prior)(renders(), views_of(prior, 4), 0.0, seeded()).gradient
    assert gradient is not None
    assert gradient.abs().max() < 1e-2


def test_queries_of_the_prior_per_view():
    assert queries_of(NFSDConfig()) == {"view": 1, "bad": 1, "": 1}
