"""Score distillation sampling (DreamFusion, Poole et al. 2022, arXiv:2209.14988, eq. 3).

The render is noised, and the prior predicts the noise. Their difference is the gradient; the Jacobian of the prior's
network is left out:

    G = w(t) (eps_S(x_t; y, t) - eps),    x_t = alpha x + sigma eps
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
from sds3d.guidance.schedules import Schedule, UniformSchedule, timesteps
from sds3d.priors.base import Prior, add_noise, expand


class SDSConfig(RuleConfig):
    """Settings of `SDS`; the defaults are those of DreamFusion's reproductions with latent models. Their scale
    s = 100 in eps_cond + s (eps_cond - eps_null) is S = 101 here."""

    name: Literal["sds"] = "sds"
    scale: float = Field(default=101.0, ge=0.0)
    """Classifier-free guidance scale S in eps_null + S (eps_cond - eps_null)."""
    rescale: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of x0 that is rescaled to the contrast of the unguided x0, see `guided_prediction`. 0.5 reduces the
    saturated colours of a high scale."""
    weighting: Weighting = "sds"
    """w(t) of the gradient."""
    random_weight: bool = False
    """Multiply each object's gradient by sigmoid(z) with a normal z, as RFDS (arXiv:2406.03293) does on SD3."""
    predicted_noise: bool = False
    """Replace the drawn noise by what the prior predicts for it under the text, as RFDS-Rev (arXiv:2406.03293) does.
    One more call of the prior."""
    schedule: Schedule = UniformSchedule()
    """Timesteps."""

    def make(self, prior: Prior) -> SDS:
        """Return the rule on this prior."""
        return SDS(self, prior)


class SDS(Guidance):
    """Gradient w(t) (eps_S(x_t; y, t) - eps)."""

    def __init__(self, config: SDSConfig, prior: Prior) -> None:
        self.config = config
        self.prior = prior

    def __call__(self, x: Tensor, views: Views, progress: float, generator: torch.Generator) -> Guided:
        """Do one step. x: (B, C, h, w) detached, in the prior's space. progress: in [0, 1]."""
        config, prior = self.config, self.prior
        t = timesteps(config.schedule, prior, x, progress, generator)  # (B,)
        eps = draw_noise(x, generator)
        x_t = add_noise(prior, x, eps, t)
        if config.predicted_noise:
            with torch.no_grad():
                eps = predict_each(prior, x_t, t, [views.positive], views.cameras)[0].eps
            x_t = add_noise(prior, x, eps, t)
        prediction = guided_prediction(prior, x_t, t, views, config.scale, rescale=config.rescale)
        w = weight(prior, t, config.weighting)  # (B,)
        if config.random_weight:
            z = torch.randn(x.shape[0] // prior.n_views, generator=generator)
            w = w * z.sigmoid().repeat_interleave(prior.n_views).to(w, non_blocking=True)
        gradient = expand(w, x) * (prediction.eps - eps)  # (B, C, h, w)
        metrics = {"t": t.mean(), "gradient_rms": gradient.square().mean().sqrt()}
        return Guided(t=t, gradient=gradient, x0=prediction.x0, metrics=metrics)
