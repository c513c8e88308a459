"""Domain score distillation (DreamPolish, Cheng et al. 2024, arXiv:2411.01602), reconstructed.

The paper combines the direction of classifier-free guidance with that of the variational score, each with a weight of
its own; its equation and its weights could not be checked. Here the gradient is

    w(t) [classifier (eps_cond - eps_null) + domain (eps_cond - eps_phi)]

which with (S - 1, 1) is VSD at the guidance scale S, and with (1, 0) the classifier's direction alone.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from sds3d.guidance.base import Guided, RuleConfig, Views, Weighting, draw_noise, guided_prediction, weight
from sds3d.guidance.schedules import Schedule, UniformSchedule
from sds3d.guidance.variational import VariationalConfig, VariationalRule
from sds3d.priors.base import Prior, TrainableScore, add_noise, expand


class DSDConfig(RuleConfig):
    """Settings of `DSD`; reconstructed, the weights are ours."""

    name: Literal["dsd"] = "dsd"
    classifier: float = Field(default=6.5, ge=0.0)
    """Weight of what the text adds: eps_cond - eps_null."""
    domain: float = Field(default=1.0, ge=0.0)
    """Weight of what tells the renders from the prior's pictures: eps_cond - eps_phi."""
    weighting: Weighting = "sds"
    """w(t) of the gradient."""
    schedule: Schedule = UniformSchedule()
    """Timesteps."""
    variational: VariationalConfig = VariationalConfig()
    """The network phi."""

    def make(self, prior: Prior) -> DSD:
        """The rule on this prior."""
        return DSD(self, prior)


class DSD(VariationalRule):
    """Gradient w(t) [classifier (eps_cond - eps_null) + domain (eps_cond - eps_phi)].

    score: another network for phi than the prior's trainable copy.
    """

    def __init__(self, config: DSDConfig, prior: Prior, score: TrainableScore | None = None) -> None:
        super().__init__(config.variational, prior, score)
        self.config = config

    def __call__(self, x: Tensor, views: Views, progress: float, generator: torch.Generator) -> Guided:
        """One step: x (B, C, h, w) detached, in the prior's space; progress in [0, 1]."""
        config, prior = self.config, self.prior
        t = config.schedule.sample(progress, x.shape[0], prior.n_views, generator).to(x.device)  # (B,)
        x_t = add_noise(prior, x, draw_noise(x, generator), t)
        prediction = guided_prediction(prior, x_t, t, views, 1 + config.classifier)
        asked = prediction.positive.eps
        direction = config.classifier * (asked - prediction.negative.eps)  # (B, C, h, w)
        direction = direction + config.domain * (asked - self.phi.predict(x_t, t, views).eps)
        gradient = expand(weight(prior, t, config.weighting), x) * direction
        metrics = {
            "t": t.mean().item(),
            "gradient_rms": gradient.square().mean().sqrt().item(),
        }
        learn = self.phi.learning(x, views, generator)
        return Guided(t=t, gradient=gradient, x0=prediction.x0, metrics=metrics, learn=learn)
