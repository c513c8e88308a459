"""Score Jacobian chaining (SJC, Wang et al. 2022, arXiv:2212.00774, sec. 4.2).

The score of the noised render is chained to the scene. In the space of x / alpha the render is noised as
z = x + lambda eps with lambda = sigma / alpha, and the denoiser gives D = z - lambda eps_S. Perturb-and-average scoring
takes the score at x from that at z:

    G = w (z - D) / lambda = w eps_S
    G = w (x - D) / lambda = w (eps_S - eps)        with reduced variance

The second form is SDS, derived in another way.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from sds3d.guidance.base import (
    LEAST_ALPHA,
    Guidance,
    Guided,
    RuleConfig,
    Views,
    Weighting,
    draw_noise,
    guided_prediction,
    weight,
)
from sds3d.guidance.schedules import Schedule, UniformSchedule, timesteps
from sds3d.priors.base import Prior, expand


class SJCConfig(RuleConfig):
    """Settings of `SJC`; the defaults are those of threestudio's sjc.yaml."""

    name: Literal["sjc"] = "sjc"
    scale: float = Field(default=101.0, ge=0.0)
    """Classifier-free guidance scale S in eps_null + S (eps_cond - eps_null); the paper's form counts from eps_cond and
    has 100."""
    variance_reduced: bool = True
    """Compare the denoised render with the render instead of its noised copy; the mean is the same."""
    weighting: Weighting = "uniform"
    """w(t) of the gradient."""
    schedule: Schedule = UniformSchedule(min=0.01, max=0.97)
    """Timesteps."""

    def make(self, prior: Prior) -> SJC:
        """Return the rule on this prior."""
        return SJC(self, prior)


class SJC(Guidance):
    """Gradient w(t) (x - D(z)) / lambda or w(t) (z - D(z)) / lambda."""

    def __init__(self, config: SJCConfig, prior: Prior) -> None:
        self.config = config
        self.prior = prior

    def __call__(self, x: Tensor, views: Views, progress: float, generator: torch.Generator) -> Guided:
        """Do one step. x: (B, C, h, w) detached, in the prior's space. progress: in [0, 1]."""
        config, prior = self.config, self.prior
        t = timesteps(config.schedule, prior, x, progress, generator)  # (B,)
        alpha, sigma = expand(prior.alpha(t).clamp_min(LEAST_ALPHA), x), expand(prior.sigma(t), x)  # (B, 1, 1, 1)
        z = x + sigma / alpha * draw_noise(x, generator)  # (B, C, h, w)
        denoised = guided_prediction(prior, alpha * z, t, views, config.scale).x0
        start = x if config.variance_reduced else z
        gradient = expand(weight(prior, t, config.weighting), x) * alpha / sigma * (start - denoised)
        metrics = {"t": t.mean(), "gradient_rms": gradient.square().mean().sqrt()}
        return Guided(t=t, gradient=gradient, x0=denoised, metrics=metrics)
