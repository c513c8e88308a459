"""Balanced score distillation (PlacidDreamer, Huang et al. 2024, arXiv:2407.13976).

Guidance pulls the render towards the text, g_c = L (eps_cond - eps_null). The null prediction pulls it towards pictures
in general, g_d = eps_null. The rule follows their shortest convex combination (MGDA for two objectives), which opposes
neither:

    G = w(t) (a g_c + (1 - a) g_d),    a = clip(<g_d - g_c, g_d> / |g_d - g_c|^2, 0, 1)

For w = 1, <G, g_c> and <G, g_d> are at least |G|^2. The injected noise is not subtracted.
"""

from __future__ import annotations

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
    group_count,
    predict_texts,
    weight,
)
from sds3d.guidance.schedules import AnnealedSchedule, Schedule, timesteps
from sds3d.priors.base import Prior, add_noise, expand


class BalancedConfig(RuleConfig):
    """Settings of `Balanced`; the defaults are those of the paper's code, which weights the loss by 0.1."""

    name: Literal["balanced"] = "balanced"
    scale: float = Field(default=15.0, ge=0.0)
    """L: factor on the direction of guidance. The paper's code always uses 15, whatever its options."""
    weighting: Weighting = "alpha"
    """w(t) of the gradient."""
    schedule: Schedule = AnnealedSchedule(min=(0.02, 0.02), max=(0.98, 0.5), until=0.3)
    """Timesteps."""

    def make(self, prior: Prior) -> Balanced:
        """Return the rule on this prior."""
        return Balanced(self, prior)


class Balanced(Guidance):
    """Gradient w(t) times the shortest convex combination of guidance and the null prediction, per object."""

    def __init__(self, config: BalancedConfig, prior: Prior) -> None:
        self.config = config
        self.prior = prior

    @torch.no_grad()
    def __call__(self, x: Tensor, views: Views, progress: float, generator: torch.Generator) -> Guided:
        """Do one step. x: (B, C, h, w) detached, in the prior's space. progress: in [0, 1]."""
        config, prior = self.config, self.prior
        t = timesteps(config.schedule, prior, x, progress, generator)  # (B,)
        x_t = add_noise(prior, x, draw_noise(x, generator), t)
        texts = predict_texts(prior, x_t, t, views)
        positive, null = texts.positive, texts.negative
        to_text = config.scale * (positive.eps - null.eps)  # (B, C, h, w)
        share = shortest_share(to_text, null.eps, prior.n_views)  # (B,)
        shortest = null.eps + expand(share, x) * (to_text - null.eps)
        gradient = expand(weight(prior, t, config.weighting), x) * shortest
        metrics = {
            "t": t.mean(),
            "gradient_rms": gradient.square().mean().sqrt(),
            "text_share": share.mean(),
        }
        return Guided(t=t, gradient=gradient, x0=positive.x0, metrics=metrics)


def shortest_share(first: Tensor, second: Tensor, n_views: int = 1) -> Tensor:
    """Return a in [0, 1] that makes a first + (1 - a) second shortest, jointly over each object's views: (B,).

    first, second: (B, C, h, w), view-fastest groups of `n_views`. Equal tensors give 0.
    """
    objects = group_count(len(first), n_views)
    apart, end = (second - first).reshape(objects, -1), second.reshape(objects, -1)
    length = apart.square().sum(dim=1)
    share = (apart * end).sum(dim=1) / length.clamp_min(torch.finfo(length.dtype).tiny)
    return share.clamp(0.0, 1.0).repeat_interleave(n_views)
