"""EM distillation (EMD, Xie et al. 2024, arXiv:2405.16852): targets by Langevin steps instead of a single score.

VSD moves a render by one difference of scores. EMD first improves the noised render: it samples the noise of
x_t = alpha x + sigma eps from the density p_t(x_t) / q_t(x_t) N(eps; 0, 1), with the prior's p and the renders' q, by K
Langevin steps of size g,

    eps <- (1 - g) eps - g (eps_S(x_t) - eps_phi(x_t)) + sqrt(2 g) n,    n ~ N(0, 1)

The render is then pulled to the result without its noise: the shares of the first eps and of all n are left out (noise
cancellation), and what remains is a mean of the differences along the way,

    G = w(t) sum_k (1 - g)^(K-k) (eps_S - eps_phi)_k / sum_k (1 - g)^(K-k),    k = 1, ..., K

With one step it is VSD.

Unverified: the paper's equations could not be read; these are from memory of it and derived here. The paper also
samples the latent code of its generator, for which a scene has no counterpart. Ours: number and size of the steps,
and the division by the sum, so that G has the same size for every K.
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


class EMDConfig(RuleConfig):
    """Settings of `EMD`."""

    name: Literal["emd"] = "emd"
    scale: float = Field(default=7.5, ge=0.0)
    """Classifier-free guidance scale S of the prior in eps_null + S (eps_cond - eps_null); phi has none."""
    steps: int = Field(default=3, ge=1, le=1000)
    """K: Langevin steps, each with a call of the prior and one of phi. 1 is VSD; the paper has 8 on ImageNet."""
    step_size: float = Field(default=0.1, gt=0.0, le=1.0)
    """g: size of a Langevin step."""
    weighting: Weighting = "sds"
    """w(t) of the gradient."""
    schedule: Schedule = UniformSchedule()
    """Timesteps."""
    variational: VariationalConfig = VariationalConfig()
    """The network phi."""

    def make(self, prior: Prior) -> EMD:
        """Return the rule on this prior."""
        return EMD(self, prior)


class EMD(VariationalRule):
    """Gradient w(t) times the mean of eps_S - eps_phi along a Langevin chain.

    score: the network phi; None for a trainable copy of the prior.
    """

    def __init__(self, config: EMDConfig, prior: Prior, score: TrainableScore | None = None) -> None:
        super().__init__(config.variational, prior, score)
        self.config = config

    def __call__(self, x: Tensor, views: Views, progress: float, generator: torch.Generator) -> Guided:
        """Do one step. x: (B, C, h, w) detached, in the prior's space. progress: in [0, 1]."""
        config, prior = self.config, self.prior
        kept = 1 - config.step_size
        t = timesteps(config.schedule, prior, x, progress, generator)  # (B,)
        noise = draw_noise(x, generator)  # (B, C, h, w); the share of eps that is left out
        x0, moved, total = x, torch.zeros_like(x), 0.0  # the rest of eps is -step_size * moved
        for k in range(config.steps):
            x_t = add_noise(prior, x, noise - config.step_size * moved, t)
            prediction = guided_prediction(prior, x_t, t, views, config.scale)
            x0 = prediction.x0
            moved = kept * moved + prediction.eps - self.phi.predict(x_t, t, views).eps
            total = kept * total + 1
            if k < config.steps - 1:
                noise = kept * noise + (2 * config.step_size) ** 0.5 * draw_noise(x, generator)
        gradient = expand(weight(prior, t, config.weighting), x) * moved / total
        metrics = {"t": t.mean(), "gradient_rms": gradient.square().mean().sqrt()}
        learn = self.phi.learning(x, views, generator)
        return Guided(t=t, gradient=gradient, x0=x0, metrics=metrics, learn=learn)
