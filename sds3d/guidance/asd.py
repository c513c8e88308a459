"""Asynchronous score distillation (ScaleDreamer, Ma et al. 2024, arXiv:2407.02040, sec. 3).

VSD compares the prior with a trained network that predicts the noise of renders. ASD trains no network. It compares the
prior with itself at a noisier timestep, where the prior predicts the same injected noise better:

    G = w(t) (eps_S(x_t; y, t) - eps(x_t'; y, t')),    t' = t + u eta (t - t_min),  u ~ U[0, 1]

Both timesteps have the same noise. The second term has no classifier-free guidance. With eta = 0 the gradient is
(S - 1) (eps_cond - eps_null), which is CSD.
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
    guided_prediction,
    predict_each,
    weight,
)
from sds3d.guidance.schedules import AnnealedSchedule, Schedule, draw, timesteps
from sds3d.priors.base import Prior, add_noise, expand


class ASDConfig(RuleConfig):
    """Settings of `ASD`; the defaults are ScaleDreamer's."""

    name: Literal["asd"] = "asd"
    scale: float = Field(default=7.5, ge=0.0)
    """Classifier-free guidance scale S in eps_null + S (eps_cond - eps_null) of the first term."""
    shift: float = Field(default=0.1, ge=0.0)
    """eta: largest shift of the second timestep, as a share of t - t_min, where t_min is the schedule's least noise."""
    weighting: Weighting = "sds"
    """w(t) of the gradient."""
    schedule: Schedule = AnnealedSchedule(min=(0.5, 0.02), max=(0.98, 0.5))
    """Timesteps of the first term."""

    def make(self, prior: Prior) -> ASD:
        """Return the rule on this prior."""
        return ASD(self, prior)


class ASD(Guidance):
    """Gradient w(t) (eps_S(x_t; y, t) - eps(x_t'; y, t'))."""

    def __init__(self, config: ASDConfig, prior: Prior) -> None:
        self.config = config
        self.prior = prior

    def __call__(self, x: Tensor, views: Views, progress: float, generator: torch.Generator) -> Guided:
        """Do one step. x: (B, C, h, w) detached, in the prior's space. progress: in [0, 1]."""
        config, prior = self.config, self.prior
        t = timesteps(config.schedule, prior, x, progress, generator)  # (B,)
        share = draw((0.0, config.shift), x.shape[0], prior.n_views, generator).to(
            x.device, non_blocking=True
        )  # (B,), u eta
        later = (t + share * (t - config.schedule.window(progress)[0])).clamp(max=1.0)  # (B,)
        eps = draw_noise(x, generator)
        first = guided_prediction(prior, add_noise(prior, x, eps, t), t, views, config.scale)
        with torch.no_grad():
            noisier = add_noise(prior, x, eps, later)
            (second,) = predict_each(prior, noisier, later, [views.positive], views.cameras)
        gradient = expand(weight(prior, t, config.weighting), x) * (first.eps - second.eps)  # (B, C, h, w)
        metrics = {
            "t": t.mean(),
            "t_later": later.mean(),
            "gradient_rms": gradient.square().mean().sqrt(),
        }
        return Guided(t=t, gradient=gradient, x0=first.x0, metrics=metrics)
