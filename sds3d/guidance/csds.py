"""Category-score distillation (C-SDS in Sparse3D, Zou et al. 2023, arXiv:2308.14078).

VSD compares the prior with a network that learns the score of renders. C-SDS compares it with the prior's prediction
for the object's category:

    G = w(t) (eps_S(x_t; y) - eps(x_t; category))

The difference removes what all objects of the category share, and keeps what is special about this one.

Reconstructed from the abstract; the paper's weights are unknown.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from sds3d.guidance.base import (
    Guidance,
    Guided,
    RuleConfig,
    Views,
    Weighting,
    draw_noise,
    predict_texts,
    weight,
)
from sds3d.guidance.schedules import Schedule, UniformSchedule, timesteps
from sds3d.priors.base import Prior, add_noise, expand
from sds3d.prompts.prompt import PromptConfig, PromptTexts


class CSDSConfig(RuleConfig):
    """Settings of `CSDS`. The category's text is `prompts.category`. If it is empty, only guidance remains:
    S (eps_cond - eps_null), unless there is a negative prompt."""

    name: Literal["csds"] = "csds"
    scale: float = Field(default=7.5, ge=0.0)
    """Classifier-free guidance scale S in eps_null + S (eps_cond - eps_null) of the first term."""
    weighting: Weighting = "sds"
    """w(t) of the gradient."""
    schedule: Schedule = UniformSchedule()
    """Timesteps."""

    def texts(self, prompt: str, config: PromptConfig) -> PromptTexts:
        """Return the texts of the prompt, and the category."""
        return replace(super().texts(prompt, config), extra={"category": config.category})

    def make(self, prior: Prior) -> CSDS:
        """Return the rule on this prior."""
        return CSDS(self, prior)


class CSDS(Guidance):
    """Gradient w(t) (eps_S(x_t; y) - eps(x_t; category))."""

    def __init__(self, config: CSDSConfig, prior: Prior) -> None:
        self.config = config
        self.prior = prior

    @torch.no_grad()
    def __call__(self, x: Tensor, views: Views, progress: float, generator: torch.Generator) -> Guided:
        """Do one step. x: (B, C, h, w) detached, in the prior's space. progress: in [0, 1]."""
        config, prior = self.config, self.prior
        t = timesteps(config.schedule, prior, x, progress, generator)  # (B,)
        x_t = add_noise(prior, x, draw_noise(x, generator), t)
        texts = predict_texts(prior, x_t, t, views, [views.told(views.prompt.extra["category"])])
        guided, (category,) = texts.guided(config.scale), texts.others
        gradient = expand(weight(prior, t, config.weighting), x) * (guided.eps - category.eps)  # (B, C, h, w)
        metrics = {"t": t.mean(), "gradient_rms": gradient.square().mean().sqrt()}
        return Guided(t=t, gradient=gradient, x0=guided.x0, metrics=metrics)
