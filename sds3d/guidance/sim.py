"""Score implicit matching (SIM, Luo et al. 2024, arXiv:2410.16794) for text-to-3D (Dive3D, Bai et al. 2025,
arXiv:2506.13594).

SDS and VSD lower a KL divergence, which seeks modes. SIM lowers the distance of two scores, that of the prior and that
of the renders. With the clean estimates f of the prior and f_phi of a network that learns from the renders, the loss of
a sample is

    d / sqrt(|d|^2 + c^2) . (f_phi - x),    d = f - f_phi

Its gradient is taken through x_t into both networks and through the norm. SiD (`sid`) with a = 1 divides by another
size of the sample, which it holds fixed.

Compared with the released code of Dive3D, where c is 0. Its guidance of 7.5 is counted from eps_cond and is 8.5 here.
Ours: c is 1e-3, so that equal scores give no division by zero. Dive3D also adds the reward of PickScore, which is left
out here: see `rewards` for those of sds3d.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from sds3d.guidance.base import Guided, RuleConfig, Views, draw_noise
from sds3d.guidance.schedules import PiecewiseSchedule, Schedule, timesteps
from sds3d.guidance.sid import clean_estimates
from sds3d.guidance.variational import VariationalConfig, VariationalRule
from sds3d.priors.base import Prior, TrainableScore, add_noise

SOFTENING = 1e-3
"""c, in units of the prior's space."""


class SIMConfig(RuleConfig):
    """Settings of `SIM`; the defaults are those of Dive3D's code."""

    name: Literal["sim"] = "sim"
    scale: float = Field(default=8.5, ge=0.0)
    """Classifier-free guidance scale S of the prior in eps_null + S (eps_cond - eps_null); phi has none."""
    schedule: Schedule = PiecewiseSchedule()
    """Timesteps."""
    variational: VariationalConfig = VariationalConfig()
    """The network phi."""

    def make(self, prior: Prior) -> SIM:
        """Return the rule on this prior."""
        return SIM(self, prior)


class SIM(VariationalRule):
    """Gradient of d / sqrt(|d|^2 + c^2) . (f_phi - x) with respect to x, through both networks.

    score: the network phi; None for a trainable copy of the prior.
    """

    def __init__(self, config: SIMConfig, prior: Prior, score: TrainableScore | None = None) -> None:
        super().__init__(config.variational, prior, score)
        self.config = config

    def __call__(self, x: Tensor, views: Views, progress: float, generator: torch.Generator) -> Guided:
        """Do one step. x: (B, C, h, w) detached, in the prior's space. progress: in [0, 1]."""
        config, prior = self.config, self.prior
        t = timesteps(config.schedule, prior, x, progress, generator)  # (B,)
        eps = draw_noise(x, generator)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            real, fake = clean_estimates(prior, self.phi, add_noise(prior, x, eps, t), t, views, config.scale)
            apart = real - fake  # (B, C, h, w), d
            size = (apart.square().sum(dim=(1, 2, 3), keepdim=True) + SOFTENING**2).sqrt()  # (B, 1, 1, 1)
            loss = (apart / size * (fake - x)).sum()
            (gradient,) = torch.autograd.grad(loss, x)
        metrics = {
            "t": t.mean(),
            "gradient_rms": gradient.square().mean().sqrt(),
            "distance": size.detach().mean(),
        }
        learn = self.phi.learning(x.detach(), views, generator)
        return Guided(t=t, gradient=gradient, x0=real.detach(), metrics=metrics, learn=learn)
