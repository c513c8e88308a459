"""Classifier score distillation (Yu et al. 2023, arXiv:2310.19415).

Guidance alone, without a generative part:

    G = w(t) (a eps_pos + b eps_neg + n eps_null),    a + b + n = 0

The injected noise is not subtracted. The gradient is that of an implicit classifier, log p(y | x_t). It has no fixed
point (for Gaussians of one variance it is the same everywhere), so the number of steps and the learning rates decide
how far the scene moves.
"""

from __future__ import annotations

import math
from typing import Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor

from sds3d.guidance.base import Guidance, Guided, RuleConfig, Views, Weighting, draw_noise, predict_texts, weight
from sds3d.guidance.schedules import AnnealedSchedule, Schedule, timesteps
from sds3d.priors.base import Prior, add_noise, expand
from sds3d.ramps import Line, Ramp


class CSDConfig(RuleConfig):
    """Settings of `CSD`; the defaults are the paper's for its first stage.

    Each coefficient is a number, knots over the run, or a pair: the coefficient at the start and at the end, linear
    between. In the paper, they change over half of the run. The three coefficients sum to 0."""

    name: Literal["csd"] = "csd"
    positive: Line = Ramp(1.0)
    """a: coefficient of the prompt."""
    negative: Line = Ramp(((0.0, 0.0), (1.0, -1.0)))
    """b: coefficient of the negative prompt."""
    empty: Line = Ramp(((0.0, -1.0), (1.0, 0.0)))
    """n: coefficient of the empty prompt."""
    weighting: Weighting = "uniform"
    """w(t) of the gradient."""
    schedule: Schedule = AnnealedSchedule(min=(0.02, 0.02), max=(0.98, 0.5))
    """Timesteps."""

    @model_validator(mode="after")
    def _sum_is_zero(self) -> Self:
        ramps = self.positive, self.negative, self.empty
        for place in sorted({place for ramp in ramps for place in ramp.places}):
            a, b, n = (ramp.at(place) for ramp in ramps)
            if not math.isclose(a + b + n, 0.0, abs_tol=1e-6):
                raise ValueError(
                    f"at {place:g} of the run, positive {a:g}, negative {b:g} and empty {n:g} sum to {a + b + n:.3g}: "
                    "make it 0"
                )
        return self

    def make(self, prior: Prior) -> CSD:
        """Return the rule on this prior."""
        return CSD(self, prior)


class CSD(Guidance):
    """Gradient w(t) (a eps_pos + b eps_neg + n eps_null)."""

    def __init__(self, config: CSDConfig, prior: Prior) -> None:
        self.config = config
        self.prior = prior

    def __call__(self, x: Tensor, views: Views, progress: float, generator: torch.Generator) -> Guided:
        """Do one step. x: (B, C, h, w) detached, in the prior's space. progress: in [0, 1]."""
        config, prior = self.config, self.prior
        t = timesteps(config.schedule, prior, x, progress, generator)  # (B,)
        x_t = add_noise(prior, x, draw_noise(x, generator), t)
        with torch.no_grad():
            texts = predict_texts(prior, x_t, t, views, [views.told(views.prompt.null)])
        a, b, n = (ramp.at(progress) for ramp in (config.positive, config.negative, config.empty))
        positive, negative, null = texts.positive.eps, texts.negative.eps, texts.others[0].eps  # (B, C, h, w) each
        gradient = expand(weight(prior, t, config.weighting), x) * (a * positive + b * negative + n * null)
        metrics = {"t": t.mean(), "gradient_rms": gradient.square().mean().sqrt()}
        return Guided(t=t, gradient=gradient, x0=texts.positive.x0, metrics=metrics)
