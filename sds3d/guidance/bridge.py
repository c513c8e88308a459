"""Score distillation as a bridge (SDS-Bridge, McAllister et al. 2024, arXiv:2406.09417).

SDS moves renders from the distribution that they come from to that of the prompt. Its injected noise stands for the
first one and is a poor guess: renders come to look saturated, smooth and blurred. A text that says so is a better one.
From `start` on,

    G = w(t) S (eps(x_t; y) - eps(x_t; y, "oversaturated, smooth, ..."))

Before, the rule is SDS, which makes the object that this text describes. Equations, words and scales are those of the
released code, which also adds words to the prompt in its 2D experiments.
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
from sds3d.guidance.schedules import PiecewiseSchedule, Schedule, timesteps
from sds3d.priors.base import Prior, add_noise, expand
from sds3d.prompts.conditioning import Conditioning
from sds3d.prompts.prompt import PromptConfig, PromptTexts, without_view

SOURCE = "oversaturated, smooth, pixelated, cartoon, foggy, hazy, blurry, bad structure, noisy, malformed"


class BridgeConfig(RuleConfig):
    """Settings of `Bridge`; the defaults are those of the released configuration."""

    name: Literal["bridge"] = "bridge"
    start: float = Field(default=0.8, ge=0.0, le=1.0)
    """Share of the run after which the source text takes the place of the noise."""
    source: str = SOURCE
    """Words that are added to the prompt, before those of the view, to describe what renders look like."""
    target: str = ""
    """Words that are added to the prompt from `start` on, such as "detailed, high resolution, sharp"."""
    scale: float = Field(default=100.0, ge=0.0)
    """Classifier-free guidance scale S in eps_null + S (eps_cond - eps_null) before `start`."""
    source_scale: float = Field(default=100.0, ge=0.0)
    """S: factor on the difference from `start` on."""
    weighting: Weighting = "sds"
    """w(t) before `start`."""
    source_weighting: Weighting = "uniform"
    """w(t) from `start` on."""
    schedule: Schedule = PiecewiseSchedule()
    """Timesteps."""

    def texts(self, prompt: str, config: PromptConfig) -> PromptTexts:
        """Return the texts of the prompt, and those of source and target for each view."""
        base, extra = super().texts(prompt, config), {}
        for name, words in (("source", self.source), ("target", self.target)):
            for row, text in enumerate([*base.views, base.plain]):
                subject = without_view(text)
                extra[f"{name} {row}"] = f"{subject}, {words}{text.removeprefix(subject)}" if words else text
        return replace(base, extra=extra)

    def make(self, prior: Prior) -> Bridge:
        """Return the rule on this prior."""
        return Bridge(self, prior)


class Bridge(Guidance):
    """SDS, then the gradient w(t) S (eps(x_t; target) - eps(x_t; source))."""

    def __init__(self, config: BridgeConfig, prior: Prior) -> None:
        self.config = config
        self.prior = prior

    @torch.no_grad()
    def __call__(self, x: Tensor, views: Views, progress: float, generator: torch.Generator) -> Guided:
        """Do one step. x: (B, C, h, w) detached, in the prior's space. progress: in [0, 1]."""
        config, prior = self.config, self.prior
        t = timesteps(config.schedule, prior, x, progress, generator)  # (B,)
        eps = draw_noise(x, generator)
        x_t = add_noise(prior, x, eps, t)
        if progress < config.start:
            texts = predict_texts(prior, x_t, t, views)
            guided = texts.guided(config.scale)
            x0, direction, weighting = guided.x0, guided.eps - eps, config.weighting
        else:
            texts = predict_texts(prior, x_t, t, described(views, "target"), [described(views, "source").positive])
            x0, weighting = texts.positive.x0, config.source_weighting
            direction = config.source_scale * (texts.positive.eps - texts.others[0].eps)
        gradient = expand(weight(prior, t, weighting), x) * direction  # (B, C, h, w)
        metrics = {"t": t.mean(), "gradient_rms": gradient.square().mean().sqrt()}
        return Guided(t=t, gradient=gradient, x0=x0, metrics=metrics)


def described(views: Views, name: str) -> Views:
    """Return the views with the prompt that has the words of `name`, source or target."""
    *of_views, plain = (views.prompt.extra[f"{name} {row}"] for row in range(len(views.prompt.texts.views) + 1))
    return replace(views, prompt=replace(views.prompt, views=Conditioning.cat(of_views), plain=plain))
