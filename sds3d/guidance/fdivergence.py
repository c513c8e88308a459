"""f-divergence distillation (f-distill, Xu et al. 2025, arXiv:2502.15681; Uni-Instruct, 2025, arXiv:2505.20755).

For D_f(p || q) = E_q f(p / q), with the prior's p and the renders' q noised alike, the gradient is VSD's with a weight
for each sample:

    G = w(t) h(r) / mean h(r) (eps_S - eps_phi),    h(r) = r^2 f''(r),    r = p_t(x_t) / q_t(x_t)

h is 1 for the reverse KL divergence, which seeks modes and is VSD. Divergences that cover modes give more weight to
renders that are likely under the prior. A discriminator D between pictures sampled from the prior and renders, both
noised, gives the ratio: r = D / (1 - D).

Ours: D sees one view at a time. Weights are divided by their mean over the batch, so with one view per step the rule is
VSD.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from sds3d.guidance.base import (
    Guided,
    Views,
    Weighting,
    draw_noise,
    guided_prediction,
    weight,
)
from sds3d.guidance.discriminator import AdversarialConfig, AdversarialRule, LogRatio
from sds3d.guidance.schedules import Schedule, UniformSchedule, timesteps
from sds3d.guidance.variational import VariationalConfig
from sds3d.priors.base import Prior, TrainableScore, add_noise, expand

Divergence = Literal["reverse_kl", "forward_kl", "jeffreys", "jensen_shannon", "hellinger", "chi_square"]

WEIGHTS: dict[Divergence, Callable[[Tensor], Tensor]] = {
    "reverse_kl": torch.ones_like,  # f = -log r
    "forward_kl": lambda r: r,  # r log r
    "jeffreys": lambda r: r + 1,  # (r - 1) log r
    "jensen_shannon": lambda r: r / (r + 1),  # r log r - (r + 1) log((r + 1) / 2)
    "hellinger": lambda r: r.sqrt() / 4,  # 1 - sqrt r
    "chi_square": lambda r: 2 * r**2,  # (r - 1)^2
}
"""h(r) = r^2 f''(r) of each divergence."""


class FDivergenceConfig(AdversarialConfig):
    """Settings of `FDivergence`."""

    name: Literal["fdivergence"] = "fdivergence"
    divergence: Divergence = "forward_kl"
    """f: reverse_kl (VSD), forward_kl, jeffreys, jensen_shannon, hellinger (squared) or chi_square."""
    start: float = Field(default=0.1, ge=0.0, le=1.0)
    """Share of the run, at its start, in which all samples have the same weight while the discriminator learns."""
    weighting: Weighting = "sds"
    """w(t) of the gradient."""
    schedule: Schedule = UniformSchedule()
    """Timesteps."""
    variational: VariationalConfig = VariationalConfig()
    """The network phi."""

    def make(self, prior: Prior) -> FDivergence:
        """Return the rule on this prior."""
        return FDivergence(self, prior)


class FDivergence(AdversarialRule):
    """Gradient w(t) h(r) / mean h(r) (eps_S - eps_phi), while phi and the discriminator learn.

    score, log_ratio: phi and the logit of D; None for networks that the rule trains.
    """

    def __init__(
        self,
        config: FDivergenceConfig,
        prior: Prior,
        score: TrainableScore | None = None,
        log_ratio: LogRatio | None = None,
    ) -> None:
        super().__init__(config, config.variational, prior, score, log_ratio)
        self.config = config

    def __call__(self, x: Tensor, views: Views, progress: float, generator: torch.Generator) -> Guided:
        """Do one step. x: (B, C, h, w) detached, in the prior's space. progress: in [0, 1]."""
        config, prior = self.config, self.prior
        t = timesteps(config.schedule, prior, x, progress, generator)  # (B,)
        x_t = add_noise(prior, x, draw_noise(x, generator), t)
        prediction = guided_prediction(prior, x_t, t, views, config.scale)
        ratio = self.density.ratio(x_t, t, views.cameras)  # (B,)
        h = WEIGHTS[config.divergence](ratio)
        h = h / h.mean() if progress >= config.start else torch.ones_like(h)
        direction = expand(h, x) * (prediction.eps - self.phi.predict(x_t, t, views).eps)
        gradient = expand(weight(prior, t, config.weighting), x) * direction
        metrics = {
            "t": t.mean(),
            "gradient_rms": gradient.square().mean().sqrt(),
            "ratio": ratio.mean(),
        }
        learn = self.learning(x, views, generator)
        return Guided(t=t, gradient=gradient, x0=prediction.x0, metrics=metrics, learn=learn)
