"""What rules ask of the prior and of their network phi, and what they teach it, whatever their formulas say."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.guidance.base import Views
from sds3d.guidance.bootstrapped import Bootstrapped, BootstrappedConfig
from sds3d.guidance.coupled import Coupled, CoupledConfig
from sds3d.guidance.dmd import DMD, DMDConfig
from sds3d.guidance.dsd import DSD, DSDConfig
from sds3d.guidance.fdivergence import FDivergence, FDivergenceConfig
from sds3d.guidance.ism import ISMConfig
from sds3d.guidance.multiview import MultiViewConfig
from sds3d.guidance.rules import rule_configs
from sds3d.guidance.sdi import SDIConfig
from sds3d.guidance.sds import SDSConfig
from sds3d.guidance.sid import SiD, SiDConfig
from sds3d.guidance.sjc import SJCConfig
from sds3d.guidance.vsd import VSD, VSDConfig
from sds3d.priors import flow
from sds3d.priors.base import Prediction, expand
from sds3d.priors.gaussian import Gaussian, GaussianPrior, GaussianScore
from sds3d.prompts.conditioning import Conditioning
from sds3d.prompts.prompt import PromptConfig, encode_prompt
from tests.guidance.exact import FlowPrior, exact_prior, renders
from tests.guidance.scores import Listening, normal, seeded
from tests.guidance.views import views_of

TEXTS = ("y", "bad", "", "mug", "y, front view", "y, side view", "y, back view")
WITH_PHI = {
    VSD: VSDConfig(),
    DMD: DMDConfig(),
    DSD: DSDConfig(),
    Coupled: CoupledConfig(),
    SiD: SiDConfig(),
    FDivergence: FDivergenceConfig(),
    Bootstrapped: BootstrappedConfig(),
}


class Overheard(GaussianPrior):
    """Counts the rows that it is asked for, by their texts, which have a mean each; its copy it does not listen to."""

    def __init__(self) -> None:
        super().__init__({text: Gaussian(i / 10, 0.5) for i, text in enumerate(TEXTS)}, (3, 4, 4))
        self.asked: Counter[str] = Counter()

    def predict(self, x_t: Tensor, t: Tensor, cond: Conditioning, cameras: Cameras | None) -> Prediction:
        self.asked.update(TEXTS[round(10 * mean)] for mean in cond.hidden[:, 0, 0].tolist())
        return super().predict(x_t, t, cond, cameras)

    def trainable_score(self, generator: torch.Generator, rank: int = 4) -> GaussianScore:
        return GaussianScore(GaussianPrior(self.prompts, self.shape))


def views_by_words(prior: GaussianPrior) -> Views:
    """The front, both sides and the back, each with its word."""
    return replace(views_of(prior, 4), prompt=encode_prompt(prior, "y", PromptConfig(negative="bad", category="mug")))


@pytest.mark.parametrize("rule", WITH_PHI, ids=lambda rule: rule.__name__)
def test_phi_learns_from_the_renders_and_is_asked_of_them_by_the_plain_prompt(rule):
    """x is so large that x_t = alpha x but for the noise, and no clean estimate of the prior is near it."""
    prior, x, heard = Overheard(), torch.full((4, 3, 4, 4), 1e6), []

    def listen(x_t: Tensor, t: Tensor, cond: Conditioning, cameras: Cameras | None) -> Prediction:
        heard.append((x_t.detach(), t, cond.hidden, cameras))
        return normal(prior, 0.1, 0.4, x_t, t)

    views, config = views_by_words(prior), WITH_PHI[rule]
    variational = config.variational.model_copy(update={"camera_dropout": 0.0, "updates": 1})
    config = config.model_copy(update={"variational": variational})
    guided = rule(config, prior, Listening(listen))(x, views, 0.0, seeded()).learned()
    asked, learned = heard
    assert torch.equal(asked[1], guided.t)
    assert not torch.equal(learned[1], guided.t)
    for x_t, t, told, cameras in (asked, learned):
        assert torch.equal(told, prior.encode_text(["y"] * 4).hidden)
        assert torch.equal(cameras.azimuth, views.cameras.azimuth)
        torch.testing.assert_close(x_t, expand(prior.alpha(t), x) * x, atol=10.0, rtol=1e-6)


# How often the prior is asked of each view, by its text, in a step with the default settings. "view" is its own text.
TWO = {"view": 1, "bad": 1}
THREE = TWO | {"": 1}
ASKED: dict[str, dict[str, int]] = {
    "asd": {"view": 2, "bad": 1},
    "balanced": TWO,
    "bootstrapped": {"view": 25, "bad": 25},  # to refine; in the gradient its tuned copy is asked
    "cfd": TWO,
    "coupled": {"view": 2, "bad": 2},
    "csd": THREE,
    "csds": TWO | {"mug": 1},
    "dmd": TWO,
    "dsd": TWO,
    "fdivergence": {"view": 1 + 10, "bad": 1 + 10},  # to draw pictures
    "hifa": {"view": 4, "bad": 4},
    "ism": TWO | {"": 5 + 1},  # ceil(900 / 200) strides, and at s itself
    "multiview": TWO,
    "nfsd": THREE,
    "sdi": {"view": 10 + 1, "bad": 10 + 1},
    "sds": TWO,
    "sid": TWO,
    "sjc": TWO,
    "vdm": TWO,
    "vsd": TWO,
}


@pytest.mark.parametrize("rule", ASKED)
def test_the_prior_is_asked_by_these_texts_and_as_often(rule: str):
    prior, x, counts = Overheard(), torch.rand(4, 3, 4, 4, generator=seeded(3)), ASKED[rule]
    (config,) = (config for config in rule_configs() if config.model_fields["name"].default == rule)
    config().make(prior)(x, views_by_words(prior), 0.0, seeded()).learned()
    expected = {text: 4 * count for text, count in counts.items() if text != "view"}
    expected |= {f"y, {word} view": count * counts["view"] for word, count in (("front", 1), ("side", 2), ("back", 1))}
    assert prior.asked == expected


def test_perp_neg_asks_for_the_negative_prompt_in_place_of_the_empty_one():
    prior = Overheard()
    SDSConfig(perp_neg=True).make(prior)(torch.rand(4, 3, 4, 4), views_by_words(prior), 0.0, seeded())
    assert prior.asked["bad"] == 4
    assert prior.asked[""] == 0


@pytest.mark.parametrize(
    ("of", "name", "published"),
    [
        (ISMConfig(), "weighting", "lambda"),  # LucidDreamer's guidance/sd_utils.py
        (SDIConfig(), "inversion_scale", -7.5),  # threestudio's configs/sdi.yaml
        (SDIConfig(), "eta", 0.3),  # the same
        (VSDConfig().variational, "lr", 1e-4),  # threestudio's configs/prolificdreamer.yaml
        (VSDConfig().variational, "rank", 4),  # diffusers' LoRAAttnProcessor
        (BootstrappedConfig().variational, "lr", 1e-5),  # DreamCraft3D's configs/dreamcraft3d-texture.yaml
        (flow, "FLUX_GUIDANCE", 3.5),  # what FLUX.1-dev was distilled for
    ],
)
def test_defaults_are_the_published_ones(of: object, name: str, published: float | str):
    assert getattr(of, name) == published


class NoSignal(FlowPrior):
    """A few-step flow's noisiest level, whatever is asked."""

    def alpha(self, t: Tensor) -> Tensor:
        return super().alpha(torch.ones_like(t))

    def sigma(self, t: Tensor) -> Tensor:
        return super().sigma(torch.ones_like(t))


@pytest.mark.parametrize("config", [SJCConfig(), SDSConfig(weighting="lambda"), ISMConfig(), MultiViewConfig()])
def test_gradients_are_finite_where_no_signal_is_left(config):
    prior = exact_prior(kind=NoSignal)
    guided = config.make(prior)(renders(), views_of(prior, len(renders())), 0.5, seeded())
    assert (guided.gradient if guided.gradient is not None else guided.image_target).isfinite().all()
