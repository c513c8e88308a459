"""Domain score distillation (DreamPolish, Cheng et al. 2024, arXiv:2411.01602).

The direction of classifier-free guidance and that of the variational score, with separate weights:

    G = w(t) [classifier (eps_cond - eps_null) + domain (eps_cond - eps_phi)]

With the weights (S - 1, 1) it is VSD at the guidance scale S. With (1, 0) it is the classifier's direction alone.

Reconstructed: the paper's equation and weights could not be checked.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from sds3d.guidance.base import Guided, RuleConfig, Views, Weighting, draw_noise, guided_prediction, weight
from sds3d.guidance.schedules import Schedule, UniformSchedule, timesteps
from sds3d.guidance.variational import VariationalConfig, VariationalRule
from sds3d.priors.base import Prior, TrainableScore, add_noise, expand


class DSDConfig(RuleConfig):
    """Settings of `DSD`; the weights are ours."""

    name: Literal["dsd"] = "dsd"
    classifier: float = Field(default=6.5, ge=0.0)
    """Weight of guidance, eps_cond - eps_null."""
    domain: float = Field(default=1.0, ge=0.0)
    """Weight of the variational score, eps_cond - eps_phi."""
    weighting: Weighting = "sds"
    """w(t) of the gradient."""
    schedule: Schedule = UniformSchedule()
    """Timesteps."""
    variational: VariationalConfig = VariationalConfig()
    """The network phi."""

    def make(self, prior: Prior) -> DSD:
        """Return the rule on this prior."""
        return DSD(self, prior)


class DSD(VariationalRule):
    """Gradient w(t) [classifier (eps_cond - eps_null) + domain (eps_cond - eps_phi)].

    score: the network phi; None for a trainable copy of the prior.
    """

    def __init__(self, config: DSDConfig, prior: Prior, score: TrainableScore | None = None) -> None:
        super().__init__(config.variational, prior, score)
        self.config = config

    def __call__(self, x: Tensor, views: Views, progress: float, generator: torch.Generator) -> Guided:
        """Do one step. x: (B, C, h, w) detached, in the prior's space. progress: in [0, 1]."""
        config, prior = self.config, self.prior
        t = timesteps(config.schedule, prior, x, progress, generator)  # (B,)
        x_t = add_noise(prior, x, draw_noise(x, generator), t)
        prediction = guided_prediction(prior, x_t, t, views, 1 + config.classifier)
        asked = prediction.positive.eps
        direction = config.classifier * (asked - prediction.negative.eps)  # (B, C, h, w)
        direction = direction + config.domain * (asked - self.phi.predict(x_t, t, views).eps)
        gradient = expand(weight(prior, t, config.weighting), x) * direction
        metrics = {
            "t": t.mean(),
            "gradient_rms": gradient.square().mean().sqrt(),
        }
        learn = self.phi.learning(x, views, generator)
        return Guided(t=t, gradient=gradient, x0=prediction.x0, metrics=metrics, learn=learn)
