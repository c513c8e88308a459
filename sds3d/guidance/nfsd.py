"""Noise-free score distillation (NFSD, Katzir et al. 2023, arXiv:2310.17590).

The injected noise is not part of the gradient. A direction to the text and a direction into the domain of pictures
remain:

    G = w(t) (d_D + S d_C),    d_C = eps_pos - eps_null
    d_D = eps_null below t = 0.2, else eps_null - eps_neg

At little noise the null prediction itself approximates the direction into the domain. At more noise it also contains
the injected noise, so the prediction for a negative prompt ("unrealistic, blurry, low quality") is subtracted.

Unverified: written without access to the paper's code.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from sds3d.guidance.base import Guidance, Guided, RuleConfig, Views, Weighting, draw_noise, predict_texts, weight
from sds3d.guidance.schedules import Schedule, UniformSchedule, timesteps
from sds3d.priors.base import Prior, add_noise, expand


class NFSDConfig(RuleConfig):
    """Settings of `NFSD`. The negative prompt is `prompts.negative`. If it is empty, only guidance remains above the
    threshold."""

    name: Literal["nfsd"] = "nfsd"
    scale: float = Field(default=7.5, ge=0.0)
    """S: factor on the direction of guidance, eps_pos - eps_null."""
    threshold: float = Field(default=0.2, ge=0.0, le=1.0)
    """Timestep below which d_D is the null prediction itself."""
    weighting: Weighting = "sds"
    """w(t) of the gradient."""
    schedule: Schedule = UniformSchedule()
    """Timesteps."""

    def make(self, prior: Prior) -> NFSD:
        """Return the rule on this prior."""
        return NFSD(self, prior)


class NFSD(Guidance):
    """Gradient w(t) (d_D + S (eps_pos - eps_null))."""

    def __init__(self, config: NFSDConfig, prior: Prior) -> None:
        self.config = config
        self.prior = prior

    def __call__(self, x: Tensor, views: Views, progress: float, generator: torch.Generator) -> Guided:
        """Do one step. x: (B, C, h, w) detached, in the prior's space. progress: in [0, 1]."""
        config, prior = self.config, self.prior
        t = timesteps(config.schedule, prior, x, progress, generator)  # (B,)
        x_t = add_noise(prior, x, draw_noise(x, generator), t)
        with torch.no_grad():
            texts = predict_texts(prior, x_t, t, views, [views.told(views.prompt.null)])
        positive, negative, null = texts.positive.eps, texts.negative.eps, texts.others[0].eps  # (B, C, h, w) each
        domain = null - expand((t >= config.threshold).to(null), null) * negative
        condition = positive - null
        gradient = expand(weight(prior, t, config.weighting), x) * (domain + config.scale * condition)
        metrics = {
            "t": t.mean(),
            "gradient_rms": gradient.square().mean().sqrt(),
            "domain_rms": domain.square().mean().sqrt(),
            "condition_rms": condition.square().mean().sqrt(),
        }
        return Guided(t=t, gradient=gradient, x0=texts.positive.x0, metrics=metrics)
