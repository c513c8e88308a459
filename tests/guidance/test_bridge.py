from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sds3d.cameras import turntable
from sds3d.guidance.base import Views
from sds3d.guidance.bridge import Bridge, BridgeConfig
from sds3d.guidance.csd import CSD, CSDConfig
from sds3d.guidance.schedules import UniformSchedule
from sds3d.guidance.sds import SDS, SDSConfig
from sds3d.priors.gaussian import Gaussian
from sds3d.prompts.prompt import VIEWS, PromptConfig, encode_texts
from sds3d.ramps import Ramp
from tests.guidance.exact import DTYPES, ExactPrior, exact_prior, level, renders, seeded
from tests.guidance.views import views_of

HALF = UniformSchedule(min=0.5, max=0.5)


def views_for(prior: ExactPrior, config: BridgeConfig, prompts: PromptConfig | None = None) -> Views:
    texts = config.texts("y", prompts or PromptConfig(view_dependent=False))
    return replace(views_of(prior, 4, cameras=turntable(4)), prompt=encode_texts(prior, texts))


def prior_of(dtype: torch.dtype = torch.float64, source: float = 0.1, std: float = 0.5) -> ExactPrior:
    """Return a prior that knows "y" and "y, poor" with the same standard deviation."""
    prompts = {"y": Gaussian(0.8, std), "y, poor": Gaussian(source, std), "": Gaussian(0.3, 0.9)}
    return ExactPrior(prompts, (3, 4, 4), dtype=dtype)


@DTYPES
def test_by_its_closed_form(dtype: torch.dtype, tolerance: float):
    """For Gaussians of one variance, the difference is the same for all x.

    With eps = sigma (x_t - alpha m) / (alpha^2 s^2 + sigma^2), the difference is sigma alpha (m_source - m_y) / D.
    """
    prior = prior_of(dtype)
    config = BridgeConfig(start=0.0, source="poor", source_scale=7.0, schedule=HALF)
    gradient = Bridge(config, prior)(renders(dtype=dtype), views_for(prior, config), 0.5, seeded()).gradient
    alpha, sigma = prior.alpha(torch.tensor(0.5)), prior.sigma(torch.tensor(0.5))
    expected = 7.0 * alpha * sigma * (0.1 - 0.8) / (alpha**2 * 0.25 + sigma**2)
    assert gradient is not None
    torch.testing.assert_close(gradient, expected.expand_as(gradient), atol=tolerance, rtol=tolerance)
    assert level(prior, 0.5).item() == pytest.approx(1.0)


def test_it_is_sds_before_its_start():
    prior, x, config = prior_of(), renders(), BridgeConfig(source="poor", schedule=HALF)
    views = views_for(prior, config)
    ours = Bridge(config, prior)(x, views, 0.79, seeded()).gradient
    sds = SDS(SDSConfig(scale=100.0, schedule=HALF), prior)(x, views, 0.79, seeded()).gradient
    later = Bridge(config, prior)(x, views, 0.8, seeded()).gradient
    assert ours is not None
    assert sds is not None
    assert later is not None
    torch.testing.assert_close(ours, sds)
    assert not torch.allclose(ours, later)


def test_it_is_classifier_score_distillation_with_the_source_as_the_negative_prompt():
    prior, x = prior_of(), renders()
    config = BridgeConfig(start=0.0, source="poor", source_scale=1.0, schedule=HALF)
    ours = Bridge(config, prior)(x, views_for(prior, config), 0.0, seeded()).gradient
    csd = CSD(CSDConfig(negative=Ramp(-1.0), empty=Ramp(0.0), schedule=HALF), prior)
    theirs = csd(x, views_of(prior, 4, negative="y, poor"), 0.0, seeded()).gradient
    assert ours is not None
    assert theirs is not None
    torch.testing.assert_close(ours, theirs)


def test_a_source_that_says_nothing_moves_nothing():
    prior, config = exact_prior(), BridgeConfig(start=0.0, source="")
    gradient = Bridge(config, prior)(renders(), views_for(prior, config), 0.9, seeded()).gradient
    assert gradient is not None
    assert not gradient.any()


def test_source_and_target_have_the_words_of_their_views():
    means = {f"{text}, {view} view": i / 10 for i, (text, view) in enumerate(
        (text, view) for text in ("y", "y, poor", "y, sharp") for view in VIEWS
    )}  # fmt: skip
    prompts = {text: Gaussian(mean, 0.5) for text, mean in means.items()}
    prompts |= {text: Gaussian(0.0, 0.5) for text in ("", "y", "y, poor", "y, sharp")}
    prior = ExactPrior(prompts, (3, 4, 4), dtype=torch.float64)
    config = BridgeConfig(start=0.0, source="poor", target="sharp", source_scale=1.0, schedule=HALF)
    views = views_for(prior, config, PromptConfig(view_dependent=True))
    gradient = Bridge(config, prior)(renders(), views, 1.0, seeded()).gradient
    alpha, sigma = prior.alpha(torch.tensor(0.5)), prior.sigma(torch.tensor(0.5))
    assert gradient is not None
    for b, view in enumerate(["front", "side", "back", "side"]):
        apart = means[f"y, poor, {view} view"] - means[f"y, sharp, {view} view"]
        expected = alpha * sigma * apart / (alpha**2 * 0.25 + sigma**2)
        torch.testing.assert_close(gradient[b], expected.expand(3, 4, 4), atol=1e-6, rtol=1e-6)
