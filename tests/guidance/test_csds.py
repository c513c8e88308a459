import pytest
import torch

from sds3d.guidance.csd import CSD, CSDConfig
from sds3d.guidance.csds import CSDS, CSDSConfig
from sds3d.guidance.schedules import UniformSchedule
from sds3d.guidance.sds import SDS, SDSConfig
from sds3d.priors.base import add_noise, expand
from sds3d.prompts.prompt import PromptConfig
from tests.guidance.exact import TOLERANCE, exact_prior, level, renders, seeded
from tests.guidance.queries import queries_of
from tests.guidance.views import views_of


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_equal_predictors_give_zero(dtype, scale):
    prior = exact_prior(dtype, 4, y=(0.8, 0.5), null=(0.8, 0.5), thing=(0.8, 0.5))
    views = views_of(prior, 8, extra={"category": "thing"})
    gradient = CSDS(CSDSConfig(scale=scale), prior)(renders(8, dtype), views, 0.0, seeded()).gradient
    assert gradient is not None
    assert gradient.abs().max() < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("n_views", [1, 4])
def test_with_the_injected_noise_in_place_of_the_category_it_is_sds(dtype, n_views):
    # G_C-SDS + w (eps_category - eps) is SDS, sample by sample.
    prior, x = exact_prior(dtype, n_views, thing=(0.5, 0.7)), renders(8, dtype)
    views, schedule = views_of(prior, 8, extra={"category": "thing"}), UniformSchedule()
    csds = CSDS(CSDSConfig(schedule=schedule), prior)(x, views, 0.0, seeded())
    sds = SDS(SDSConfig(scale=7.5, schedule=schedule), prior)(x, views, 0.0, seeded())
    generator = seeded()
    t = schedule.sample(0.0, 8, n_views, generator)
    eps = torch.randn(x.shape, generator=generator).to(x)
    text = views.prompt.extra["category"].repeat(8)
    category = prior.predict(add_noise(prior, x, eps, t), t, text, views.cameras).eps
    restored = csds.gradient + expand(prior.sigma(t) ** 2, x) * (category - eps)
    torch.testing.assert_close(restored, sds.gradient, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_fixed_point_of_a_wider_category(dtype):
    # S = 1: G = k (x - m) - k_cat (x - m_cat) + a noise term. Its mean is zero at (k m - k_cat m_cat) / (k - k_cat).
    # Mirroring averages the noise out exactly.
    t, x = torch.full((4,), 0.4), torch.empty(4, 3, 4, 4, dtype=dtype)
    prior = exact_prior(dtype)
    lam = level(prior, t)[0].item()
    k, k_cat = lam / (0.5**2 + lam**2), lam / (0.9**2 + lam**2)
    x.fill_((k * 0.8 - k_cat * 0.3) / (k - k_cat))
    gradients = []
    for sign in (1.0, -1.0):
        prior = exact_prior(dtype, y=(sign * 0.8, 0.5), thing=(sign * 0.3, 0.9))
        rule = CSDS(CSDSConfig(scale=1.0, schedule=UniformSchedule(min=0.4, max=0.4)), prior)
        gradients.append(rule(sign * x, views_of(prior, 4, extra={"category": "thing"}), 0.0, seeded()).gradient)
    assert (gradients[0] - gradients[1]).abs().max() < TOLERANCE[dtype]


def test_without_a_category_only_guidance_remains():
    prior, x, schedule = exact_prior(), renders(), UniformSchedule()
    views = views_of(prior, 4, extra={"category": ""})
    csds = CSDS(CSDSConfig(scale=3.0, schedule=schedule), prior)(x, views, 0.0, seeded())
    csd = CSD(CSDConfig(weighting="sds", schedule=schedule), prior)(x, views, 0.0, seeded())
    torch.testing.assert_close(csds.gradient, 3 * csd.gradient, atol=1e-9, rtol=1e-9)


def test_queries_of_the_prior_per_view():
    assert queries_of(CSDSConfig()) == {"view": 1, "bad": 1, "mug": 1}


def test_the_category_text_comes_from_the_settings():
    assert CSDSConfig().texts("a red mug", PromptConfig(category="a mug")).extra == {"category": "a mug"}
