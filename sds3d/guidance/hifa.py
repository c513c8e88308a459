"""HiFA (Zhu and Zhuang 2023, arXiv:2305.18766).

The noised render is denoised in a few steps of ancestral sampling (DDIM with eta = 1). The render is pulled to the
result x0, in the prior's space and, decoded, in pixels:

    w_latent 1/2 |x - x0|^2 + w_image 1/2 |rgb - D(x0)|^2

Timesteps fall with the square root of the progress. The paper's third part, a small variance of the depth along a ray,
is a setting of the representation, `z_variance`.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from sds3d.guidance.base import Guidance, Guided, RuleConfig, Views, draw_noise, guided_prediction
from sds3d.guidance.inversion import ddim, even_times
from sds3d.guidance.schedules import Schedule, SqrtSchedule, timesteps
from sds3d.priors.base import Prediction, Prior, add_noise


class HiFAConfig(RuleConfig):
    """Settings of `HiFA`; the defaults are the paper's, which weights both losses by 0.05."""

    name: Literal["hifa"] = "hifa"
    scale: float = Field(default=100.0, ge=0.0)
    """Classifier-free guidance scale S in eps_null + S (eps_cond - eps_null)."""
    rescale: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of each step's clean estimate that gets the contrast of the unguided one, see `guided_prediction`."""
    denoising_steps: int = Field(default=4, ge=1, le=1000)
    """Steps from the noised render to the clean estimate; 1: the model's estimate itself."""
    eta: float = Field(default=1.0, ge=0.0, le=1.0)
    """Fresh noise in these steps: 1 is ancestral sampling, 0 is deterministic."""
    latent_weight: float = Field(default=1.0, ge=0.0)
    """Factor on the loss in the prior's space."""
    image_weight: float = Field(default=0.1, ge=0.0)
    """Factor on the loss in pixels; 0 skips the decoder."""
    schedule: Schedule = SqrtSchedule()
    """Timesteps."""

    def make(self, prior: Prior) -> HiFA:
        """Return the rule on this prior."""
        return HiFA(self, prior)


class HiFA(Guidance):
    """Pulls renders to the clean estimate of several denoising steps."""

    def __init__(self, config: HiFAConfig, prior: Prior) -> None:
        self.config = config
        self.prior = prior

    @torch.no_grad()
    def __call__(self, x: Tensor, views: Views, progress: float, generator: torch.Generator) -> Guided:
        """Do one step. x: (B, C, h, w) detached, in the prior's space. progress: in [0, 1]."""
        config, prior = self.config, self.prior
        t = timesteps(config.schedule, prior, x, progress, generator)  # (B,)

        def guided(x_t: Tensor, time: Tensor) -> Prediction:
            return guided_prediction(prior, x_t, time, views, config.scale, rescale=config.rescale)

        times = even_times(t, config.denoising_steps)[:0:-1]  # from t down to the last level that is not clean
        x_t = add_noise(prior, x, draw_noise(x, generator), t)
        x_t = ddim(prior, x_t, times, guided, config.eta, generator)
        x0 = guided(x_t, times[-1]).x0  # (B, C, h, w)
        gradient = config.latent_weight * (x - x0)
        metrics = {"t": t.mean(), "gradient_rms": gradient.square().mean().sqrt()}
        target = prior.decode(x0).clamp(0.0, 1.0) if config.image_weight > 0 else None  # (B, H, W, 3)
        return Guided(t, gradient, target, config.image_weight, x0, metrics)
