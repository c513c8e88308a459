"""Score distillation sampling without classifier-free guidance: the shortest rule.

G = eps(x_t; y, t) - eps
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sds3d.guidance.base import Guidance, Guided, RuleConfig, Views, draw_noise, guided_prediction
from sds3d.guidance.schedules import Schedule, UniformSchedule
from sds3d.priors.base import Prior, add_noise


class PlainSDSConfig(RuleConfig):
    """Settings of `PlainSDS`."""

    name: Literal["plain_sds"] = "plain_sds"
    schedule: Schedule = UniformSchedule()
    """Timesteps."""

    def make(self, prior: Prior) -> PlainSDS:
        """Return the rule on this prior."""
        return PlainSDS(self, prior)


class PlainSDS(Guidance):
    """Gradient eps(x_t; y, t) - eps."""

    def __init__(self, config: PlainSDSConfig, prior: Prior) -> None:
        self.config = config
        self.prior = prior

    def __call__(self, x: Tensor, views: Views, progress: float, generator: torch.Generator) -> Guided:
        """One step: x (B, C, h, w) detached, in the prior's space; progress in [0, 1]."""
        t = self.config.schedule.sample(progress, len(x), self.prior.n_views, generator).to(x.device)  # (B,)
        eps = draw_noise(x, generator)
        prediction = guided_prediction(self.prior, add_noise(self.prior, x, eps, t), t, views, scale=1.0)
        return Guided(t=t, gradient=prediction.eps - eps, x0=prediction.x0)
