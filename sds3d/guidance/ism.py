"""Interval score matching (LucidDreamer, Liang et al. 2023, arXiv:2311.11284, sec. 3.2).

The render is not noised at random. Unconditional DDIM inverts it, in a few long strides to s and one more step to
t = s + interval. The rule compares these neighbouring points of one deterministic trajectory:

    G = w(t) (eps_S(x_t; y, t) - eps(x_s; null, s))

The same view always has the same target, so targets are not averaged into blur.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from sds3d.guidance.base import (
    Guidance,
    Guided,
    RuleConfig,
    Views,
    Weighting,
    guided_prediction,
    predict_each,
    weight,
)
from sds3d.guidance.inversion import ddim, ddim_step, even_times, steps_of
from sds3d.guidance.schedules import AnnealedSchedule, Schedule, timesteps
from sds3d.priors.base import Prediction, Prior, expand
from sds3d.ramps import Ramp


class ISMConfig(RuleConfig):
    """Settings of `ISM`; the defaults are LucidDreamer's, which changes the interval and weights the loss by 0.1."""

    name: Literal["ism"] = "ism"
    scale: float = Field(default=7.5, ge=0.0)
    """Classifier-free guidance scale S in eps_null + S (eps_cond - eps_null)."""
    interval: Annotated[Ramp, Field(gt=0.0, lt=1.0)] = Ramp(0.08)
    """t - s, the distance of the two noise levels. Released: [[0, 0.1], [0.3, 0.05]]."""
    stride: float = Field(default=0.2, gt=0.0, le=1.0)
    """Longest step of the inversion to s. Shorter steps cost more and follow the trajectory more closely."""
    weighting: Weighting = "lambda"
    """w(t) of the gradient."""
    schedule: Schedule = AnnealedSchedule(min=(0.02, 0.02), max=(0.98, 0.5), until=0.3)
    """Timesteps t."""

    def make(self, prior: Prior) -> ISM:
        """Return the rule on this prior."""
        return ISM(self, prior)


class ISM(Guidance):
    """Gradient w(t) (eps_S(x_t; y, t) - eps(x_s; null, s)) of an inverted render."""

    def __init__(self, config: ISMConfig, prior: Prior) -> None:
        self.config = config
        self.prior = prior

    @torch.no_grad()
    def __call__(self, x: Tensor, views: Views, progress: float, generator: torch.Generator) -> Guided:
        """Do one step. x: (B, C, h, w) detached, in the prior's space. progress: in [0, 1]. Only t is random."""
        config, prior = self.config, self.prior
        t = timesteps(config.schedule, prior, x, progress, generator)  # (B,)
        interval = config.interval.at(progress)
        s = (t - interval).clamp_min(0.0)  # (B,)
        null = views.told(views.prompt.null)

        def unconditional(x_t: Tensor, time: Tensor) -> Prediction:
            return predict_each(prior, x_t, time, [null], views.cameras)[0]

        # The number of steps depends on the schedule alone: the t of one object must not change the others.
        steps = steps_of(config.schedule.window(progress)[1] - interval, config.stride)
        x_s = ddim(prior, x, even_times(s, steps), unconditional)
        start = unconditional(x_s, s)
        guided = guided_prediction(prior, ddim_step(prior, start, s, t), t, views, config.scale)
        gradient = expand(weight(prior, t, config.weighting), x) * (guided.eps - start.eps)  # (B, C, h, w)
        metrics = {"t": t.mean(), "gradient_rms": gradient.square().mean().sqrt()}
        return Guided(t=t, gradient=gradient, x0=guided.x0, metrics=metrics)
