"""Counts how often a rule queries the prior in one step, by text."""

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
from tests.guidance.exact import seeded
from tests.guidance.views import views_of

TEXTS = ("y", "bad", "", "mug", "y, front view", "y, side view", "y, back view")
PROMPTS = PromptConfig(negative="bad", category="mug")


class CountingPrior(GaussianPrior):
    """Counts the rows that it predicts by their text. The copy that `trainable_score` makes does not count.

    Each text has its own mean, which identifies it.
    """

    def __init__(self) -> None:
        super().__init__({text: Gaussian(i / 10, 0.5) for i, text in enumerate(TEXTS)}, (3, 4, 4))
        self.queries: Counter[str] = Counter()

    def predict(self, x_t: Tensor, t: Tensor, cond: Conditioning, cameras: Cameras | None) -> Prediction:
        self.queries.update(TEXTS[round(10 * mean)] for mean in cond.hidden[:, 0, 0].tolist())
        return super().predict(x_t, t, cond, cameras)

    def trainable_score(self, generator: torch.Generator, rank: int = 4) -> GaussianScore:
        return GaussianScore(GaussianPrior(self.prompts, self.shape))


def views_by_text(prior: GaussianPrior, config: RuleConfig) -> Views:
    """Return four views (front, both sides, back) with their view-dependent texts and all texts that the rule uses."""
    return replace(views_of(prior, 4), prompt=encode_texts(prior, config.texts("y", PROMPTS)))


def queries_of(config: RuleConfig) -> dict[str, int]:
    """Return how often the first step queries the prior per view, by text. "view" is the view-dependent prompt.

    The negative prompt is "bad" and the category "mug". Every view must be queried equally often.
    """
    prior, x = CountingPrior(), torch.rand(4, 3, 4, 4, generator=seeded(3))
    config.make(prior)(x, views_by_text(prior, config), 0.0, seeded()).learned()
    sides = {"y, front view": 1, "y, side view": 2, "y, back view": 1}
    (view,) = {prior.queries.pop(text, 0) / count for text, count in sides.items()}
    counts = {"view": view} | {text: count / 4 for text, count in prior.queries.items()}
    assert all(count == int(count) for count in counts.values()), counts
    return {text: int(count) for text, count in counts.items()}
