"""Variational score distillation (VSD in ProlificDreamer, Wang et al. 2023, arXiv:2305.16213, eq. 9).

The prior is compared with a network phi that learns the score of the renders from each camera c:

    G = w(t) (eps_S(x_t; y, t) - eps_phi(x_t; c, t))

Entropic score distillation (ESD in Taming Mode Collapse, Wang et al. 2024, arXiv:2401.00909) mixes in the score without
a camera, so that views do not all become alike. It replaces eps_phi by

    lambda eps_phi(x_t; t) + (1 - lambda) eps_phi(x_t; c, t)

SwiftBrush (Nguyen and Tran 2023, arXiv:2312.05239) trains a network that makes pictures in one step by this gradient,
with low-rank updates of the prior as phi, without cameras, and with S = 7.5.

PG-SB (SNOOPI, Nguyen et al. 2024, arXiv:2412.02687) draws a new guidance scale in each step, for the prior and for phi.

Unverified: whether PG-SB draws one scale for both or two scales. Here it is one.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from sds3d.guidance.base import (
    Guided,
    RuleConfig,
    Views,
    Weighting,
    combine,
    draw_noise,
    guided_prediction,
    weight,
)
from sds3d.guidance.schedules import Schedule, UniformSchedule, timesteps
from sds3d.guidance.variational import VariationalConfig, VariationalRule
from sds3d.priors.base import Prior, TrainableScore, add_noise, expand


class VSDConfig(RuleConfig):
    """Settings of `VSD`; the defaults are ProlificDreamer's except for timesteps, which the paper limits to 0.5 after a
    fifth of the run, as `PiecewiseSchedule` does by default."""

    name: Literal["vsd"] = "vsd"
    scale: float = Field(default=7.5, ge=0.0)
    """Classifier-free guidance scale S of the prior in eps_null + S (eps_cond - eps_null); phi has none."""
    random_scale: tuple[float, float] | None = None
    """PG-SB: bounds of the scale that each step draws for both, instead of `scale`; the paper's are (0.5, 4)."""
    entropy: float = Field(default=0.0, ge=0.0, le=1.0)
    """ESD: weight lambda of phi's score without a camera. This is guidance of phi by the camera with the scale
    1 - lambda. 0 is VSD."""
    weighting: Weighting = "sds"
    """w(t) of the gradient."""
    schedule: Schedule = UniformSchedule()
    """Timesteps."""
    variational: VariationalConfig = VariationalConfig()
    """The network phi."""

    @model_validator(mode="after")
    def _scales(self) -> Self:
        if self.random_scale is not None:
            low, high = self.random_scale
            if not 0 <= low <= high:
                raise ValueError(f"random_scale is ({low:g}, {high:g}): give the lower bound first, 0 or more")
            if self.entropy:
                raise ValueError("random_scale and entropy belong to different rules: remove one of them")
            if self.variational.updates and not self.variational.text_dropout:
                raise ValueError(
                    "random_scale queries phi without the text: give variational.text_dropout, such as 0.1"
                )
        if self.entropy and self.variational.updates and not self.variational.camera_dropout:
            raise ValueError("entropy queries phi without the camera: give variational.camera_dropout, such as 0.1")
        return self

    def make(self, prior: Prior) -> VSD:
        """Return the rule on this prior."""
        return VSD(self, prior)


class VSD(VariationalRule):
    """Gradient w(t) (eps_S(x_t; y, t) - eps_phi(x_t; c, t)), while phi learns the score of the renders.

    score: the network phi; None for a trainable copy of the prior.
    """

    def __init__(self, config: VSDConfig, prior: Prior, score: TrainableScore | None = None) -> None:
        super().__init__(config.variational, prior, score)
        self.config = config

    def __call__(self, x: Tensor, views: Views, progress: float, generator: torch.Generator) -> Guided:
        """Do one step. x: (B, C, h, w) detached, in the prior's space. progress: in [0, 1]."""
        config, prior = self.config, self.prior
        t = timesteps(config.schedule, prior, x, progress, generator)  # (B,)
        x_t = add_noise(prior, x, draw_noise(x, generator), t)
        scale = config.scale
        if config.random_scale is not None:
            low, high = config.random_scale
            scale = low + (high - low) * torch.rand((), generator=generator).item()
        prediction = guided_prediction(prior, x_t, t, views, scale)
        phi = self._of_renders(x_t, t, views, scale)  # (B, C, h, w)
        gradient = expand(weight(prior, t, config.weighting), x) * (prediction.eps - phi)
        metrics = {
            "t": t.mean(),
            "gradient_rms": gradient.square().mean().sqrt(),
        }
        learn = self.phi.learning(x, views, generator)
        return Guided(t=t, gradient=gradient, x0=prediction.x0, metrics=metrics, learn=learn)

    def _of_renders(self, x_t: Tensor, t: Tensor, views: Views, scale: float) -> Tensor:
        """Return eps_phi, with the guidance of the variant."""
        config, phi = self.config, self.phi
        if config.random_scale is not None:
            return combine(*phi.predict_text_and_null(x_t, t, views), scale).eps
        if config.entropy == 0:
            return phi.predict(x_t, t, views).eps
        shared = phi.predict(x_t, t, views, camera=False)
        if config.entropy == 1:
            return shared.eps
        return combine(phi.predict(x_t, t, views), shared, 1 - config.entropy).eps
