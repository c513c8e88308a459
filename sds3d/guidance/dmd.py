"""Distribution matching distillation (DMD, Yin et al. 2023, arXiv:2311.18828, eq. 7).

The gradient is the difference of the clean estimates of the renders' own score and of the prior, divided for each
sample by the mean distance of the prior's estimate from the render:

    G = [(x - x0_S) - (x - x0_phi)] / mean |x - x0_S| = sigma/alpha (eps_S - eps_phi) / mean |x - x0_S|

Decoupled DMD (Liu et al. 2025, arXiv:2511.22677) splits it and draws a timestep for each part: matching,
eps_cond - eps_phi, at any noise; and guidance, (S - 1) (eps_cond - eps_null), at less noise. With one timestep for both
it is DMD.

Ours: the papers train a generator, here the rule optimises renders. Decoupled DMD restricts guidance to levels cleaner
than the generator's input. A render has no such level, so guidance has a schedule here.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from sds3d.guidance.base import Guided, GuidedPrediction, RuleConfig, Views, draw_noise, guided_prediction
from sds3d.guidance.schedules import Schedule, UniformSchedule, timesteps
from sds3d.guidance.variational import VariationalConfig, VariationalRule
from sds3d.priors.base import Prior, TrainableScore, add_noise


class FakeScoreConfig(VariationalConfig):
    """The network phi; DMD2 (arXiv:2405.14867) updates it 5 to 10 times per step."""

    updates: int = Field(default=5, ge=0, le=1000)
    """Updates in each step of the scene; 0 leaves the network as it is."""


class DMDConfig(RuleConfig):
    """Settings of `DMD`; the scale is the paper's for Stable Diffusion 1.5."""

    name: Literal["dmd"] = "dmd"
    scale: float = Field(default=1.75, ge=0.0)
    """Classifier-free guidance scale S of the prior in eps_null + S (eps_cond - eps_null); phi has none."""
    schedule: Schedule = UniformSchedule()
    """Timesteps; of the matching part alone if `guidance_schedule` is given."""
    guidance_schedule: Schedule | None = None
    """Timesteps of the part that guidance adds (Decoupled DMD); None: those of `schedule`."""
    variational: FakeScoreConfig = FakeScoreConfig()
    """The network phi."""

    def make(self, prior: Prior) -> DMD:
        """Return the rule on this prior."""
        return DMD(self, prior)


class DMD(VariationalRule):
    """Gradient (x0_phi - x0_S) / mean |x - x0_S| of each sample.

    score: the network phi; None for a trainable copy of the prior.
    """

    def __init__(self, config: DMDConfig, prior: Prior, score: TrainableScore | None = None) -> None:
        super().__init__(config.variational, prior, score)
        self.config = config

    def __call__(self, x: Tensor, views: Views, progress: float, generator: torch.Generator) -> Guided:
        """Do one step. x: (B, C, h, w) detached, in the prior's space. progress: in [0, 1]."""
        config, prior = self.config, self.prior
        t = timesteps(config.schedule, prior, x, progress, generator)  # (B,)
        eps = draw_noise(x, generator)
        x_t = add_noise(prior, x, eps, t)
        real = guided_prediction(prior, x_t, t, views, config.scale)
        fake = self.phi.predict(x_t, t, views).x0  # (B, C, h, w)
        metrics = {"t": t.mean()}
        if config.guidance_schedule is None:
            gradient, x0 = normalised(fake - real.x0, x, real), real.x0
        else:
            t = timesteps(config.guidance_schedule, prior, x, progress, generator)  # (B,)
            cleaner = guided_prediction(prior, add_noise(prior, x, eps, t), t, views, config.scale)
            gradient = normalised(fake - real.positive.x0, x, real)
            gradient = gradient + normalised(cleaner.positive.x0 - cleaner.x0, x, cleaner)
            x0 = cleaner.x0
            metrics["t_guidance"] = t.mean()
        metrics["gradient_rms"] = gradient.square().mean().sqrt()
        learn = self.phi.learning(x, views, generator)
        return Guided(t=t, gradient=gradient, x0=x0, metrics=metrics, learn=learn)


def normalised(direction: Tensor, x: Tensor, real: GuidedPrediction) -> Tensor:
    """Divide direction (B, C, h, w) by the mean distance of each sample's x from the prior's clean estimate."""
    distance = (x - real.x0).abs().mean(dim=(1, 2, 3), keepdim=True)  # (B, 1, 1, 1)
    return direction / distance.clamp_min(1e-5)
