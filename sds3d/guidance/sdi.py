"""Score distillation via inversion (SDI, Lukoianov et al. 2024, arXiv:2405.15891).

SDS differs from DDIM sampling only in the noise: SDS injects fresh noise, and DDIM has the noise of its trajectory. SDI
infers that noise. It inverts the render with the text and a negative guidance scale, and pulls the render towards the
clean estimate of the result:

    G = x - x0_S(x_t; y, t),    x_t = inversion of x to t
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from sds3d.guidance.base import Guidance, Guided, RuleConfig, Views, guided_prediction
from sds3d.guidance.inversion import ddim, even_times
from sds3d.guidance.schedules import PiecewiseSchedule, Schedule, timesteps
from sds3d.priors.base import Prediction, Prior


class SDIConfig(RuleConfig):
    """Settings of `SDI`; the defaults are the paper's, which takes the mean over the latent and not the sum."""

    name: Literal["sdi"] = "sdi"
    scale: float = Field(default=7.5, ge=0.0)
    """Classifier-free guidance scale S in eps_null + S (eps_cond - eps_null) of the clean estimate."""
    inversion_scale: float = -7.5
    """Guidance scale of the inversion. With the opposite sign it undoes what guidance adds."""
    inversion_steps: int = Field(default=10, ge=1, le=1000)
    """Steps of the inversion from the clean render to t."""
    eta: float = Field(default=0.3, ge=0.0, le=1.0)
    """Fresh noise in the inversion, as a share of DDPM's; the total variance stays the same."""
    schedule: Schedule = PiecewiseSchedule(knots=((0.0, 0.98, 1.0), (8 / 73, 0.9, 1.0), (1.0, 0.25, 0.35)))
    """Timesteps: a line from 0.98 down to 0.25, plus a jitter of up to 0.1, at most 1."""

    def make(self, prior: Prior) -> SDI:
        """Return the rule on this prior."""
        return SDI(self, prior)


class SDI(Guidance):
    """Gradient x - x0_S of the inverted render."""

    def __init__(self, config: SDIConfig, prior: Prior) -> None:
        self.config = config
        self.prior = prior

    @torch.no_grad()
    def __call__(self, x: Tensor, views: Views, progress: float, generator: torch.Generator) -> Guided:
        """Do one step. x: (B, C, h, w) detached, in the prior's space. progress: in [0, 1]."""
        config, prior = self.config, self.prior
        t = timesteps(config.schedule, prior, x, progress, generator)  # (B,)

        def backwards(x_t: Tensor, time: Tensor) -> Prediction:
            return guided_prediction(prior, x_t, time, views, config.inversion_scale)

        x_t = ddim(prior, x, even_times(t, config.inversion_steps), backwards, config.eta, generator)
        x0 = guided_prediction(prior, x_t, t, views, config.scale).x0  # (B, C, h, w)
        gradient = x - x0
        metrics = {
            "t": t.mean(),
            "gradient_rms": gradient.square().mean().sqrt(),
            "inverted_rms": x_t.square().mean().sqrt(),
        }
        return Guided(t=t, gradient=gradient, x0=x0, metrics=metrics)
