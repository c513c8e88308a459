"""Multi-view distillation (MVDream, Shi et al. 2023, arXiv:2308.16512, sec. 3.3).

The views of an object are pulled to x0, the prior's joint clean estimate of the noised renders:

    1/2 |x - x0|^2,    x - x0 = sigma/alpha (eps_S - eps)

In the prior's space this is SDS with the weight sigma / alpha. In image space the estimate is decoded and compared with
the renders in pixels, which keeps the encoder's grid out of the texture.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from sds3d.guidance.base import Guidance, Guided, RuleConfig, Views, draw_noise, guided_prediction
from sds3d.guidance.schedules import AnnealedSchedule, Schedule, timesteps
from sds3d.priors.base import Prior, add_noise


class MultiViewConfig(RuleConfig):
    """Settings of `MultiView`; the defaults suit the embedded prior."""

    name: Literal["multiview"] = "multiview"
    space: Literal["image", "latent"] = "image"
    """Where render and clean estimate are compared: in decoded pixels, or in the prior's space."""
    scale: float = Field(default=6.0, ge=0.0)
    """Classifier-free guidance scale S in eps_null + S (eps_cond - eps_null)."""
    rescale: float = Field(default=0.5, ge=0.0, le=1.0)
    """Share of x0 that is rescaled to the contrast of the unguided x0, see `guided_prediction`."""
    schedule: Schedule = AnnealedSchedule(min=(0.6, 0.05), max=(0.98, 0.45), until=0.85)
    """Timesteps."""

    def in_prior_space(self) -> Self:
        """Return the form that compares in the prior's space."""
        return self.model_copy(update={"space": "latent"})

    def make(self, prior: Prior) -> MultiView:
        """Return the rule on this prior."""
        return MultiView(self, prior)


class MultiView(Guidance):
    """Pulls the views of an object to their joint clean estimate, with one timestep for all of them."""

    def __init__(self, config: MultiViewConfig, prior: Prior) -> None:
        self.config = config
        self.prior = prior

    def __call__(self, x: Tensor, views: Views, progress: float, generator: torch.Generator) -> Guided:
        """Do one step. x: (B, C, h, w) detached, view-fastest groups of `prior.n_views`. progress: in [0, 1]."""
        config, prior = self.config, self.prior
        t = timesteps(config.schedule, prior, x, progress, generator)  # (B,)
        x_t = add_noise(prior, x, draw_noise(x, generator), t)
        x0 = guided_prediction(prior, x_t, t, views, config.scale, rescale=config.rescale).x0  # (B, C, h, w)
        residual = x - x0
        metrics = {"t": t.mean(), "gradient_rms": residual.square().mean().sqrt()}
        if config.space == "latent":
            return Guided(t=t, gradient=residual, x0=x0, metrics=metrics)
        return Guided(t=t, image_target=prior.decode(x0).clamp(0.0, 1.0), x0=x0, metrics=metrics)
