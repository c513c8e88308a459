"""What a rule asks of the prior in a step: by which texts, and how often."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import torch
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.guidance.base import RuleConfig, Views
from sds3d.priors.base import Prediction
from sds3d.priors.gaussian import Gaussian, GaussianPrior, GaussianScore
from sds3d.prompts.conditioning import Conditioning
from sds3d.prompts.prompt import PromptConfig, encode_texts
from tests.guidance.scores import seeded
from tests.guidance.views import views_of

TEXTS = ("y", "bad", "", "mug", "y, front view", "y, side view", "y, back view")
PROMPTS = PromptConfig(negative="bad", category="mug")


class Overheard(GaussianPrior):
    """Counts the rows that it is asked for by their texts, each of which has another mean. Its copy does not count."""

    def __init__(self) -> None:
        super().__init__({text: Gaussian(i / 10, 0.5) for i, text in enumerate(TEXTS)}, (3, 4, 4))
        self.asked: Counter[str] = Counter()

    def predict(self, x_t: Tensor, t: Tensor, cond: Conditioning, cameras: Cameras | None) -> Prediction:
        self.asked.update(TEXTS[round(10 * mean)] for mean in cond.hidden[:, 0, 0].tolist())
        return super().predict(x_t, t, cond, cameras)

    def trainable_score(self, generator: torch.Generator, rank: int = 4) -> GaussianScore:
        return GaussianScore(GaussianPrior(self.prompts, self.shape))


def views_by_words(prior: GaussianPrior, config: RuleConfig) -> Views:
    """The front, both sides and the back, each with its word, and all texts that the rule asks for."""
    return replace(views_of(prior, 4), prompt=encode_texts(prior, config.texts("y", PROMPTS)))


def asked_by(config: RuleConfig) -> dict[str, int]:
    """How often a first step asks the prior of each view, by text; "view" stands for the prompt with the view's word.

    The run's negative prompt is "bad", its category "mug". Every view must be asked as often as the others.
    """
    prior, x = Overheard(), torch.rand(4, 3, 4, 4, generator=seeded(3))
    config.make(prior)(x, views_by_words(prior, config), 0.0, seeded()).learned()
    sides = {"y, front view": 1, "y, side view": 2, "y, back view": 1}
    (view,) = {prior.asked.pop(text, 0) / count for text, count in sides.items()}
    counts = {"view": view} | {text: count / 4 for text, count in prior.asked.items()}
    assert all(count == int(count) for count in counts.values()), counts
    return {text: int(count) for text, count in counts.items()}
