"""Consistent flow distillation (Yan et al. 2025, arXiv:2501.05445).

Let x^c = x_t / alpha - lambda eps~ with lambda = sigma / alpha and a fixed noise eps~. The prior's probability-flow ODE
is then

    dx^c = (eps(alpha x^c + sigma eps~, t) - eps~) dlambda

x^c looks clean at every t, so a render can take its place. The rule is SDS with a deterministic, falling t and with a
noise that is locked to the surface (`surface_noise`), so that the flows of all views belong to one object:

    G = w(t) (eps_S(alpha x + sigma eps~; y, t) - eps~)

If the noise changes slowly (gamma above 0), the flow is that of the SDE. Equation, noise and schedules are those of the
code that the authors released.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from sds3d.guidance.base import Guidance, Guided, Number, RuleConfig, Views, Weighting, guided_prediction, weight
from sds3d.guidance.schedules import PiecewiseSchedule, Schedule
from sds3d.guidance.surface_noise import SurfaceNoise
from sds3d.priors.base import Prior, add_noise, expand
from sds3d.ramps import Ramp


class CFDConfig(RuleConfig):
    """Settings of `CFD`; the defaults are the released ones of the first stage, on MVDream."""

    name: Literal["cfd"] = "cfd"
    scale: float = Field(default=50.0, ge=0.0)
    """Classifier-free guidance scale S in eps_null + S (eps_cond - eps_null). Released: 50 on MVDream, and 71 on Stable
    Diffusion, for which the code gives S - 1 = 70."""
    rescale: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of x0 that is rescaled to the contrast of the unguided x0, see `guided_prediction`."""
    weighting: Weighting = "uniform"
    """w(t) of the gradient. Released: uniform on MVDream, lambda on Stable Diffusion."""
    gamma: Annotated[Ramp, Field(ge=0.0, le=1.0)] = Ramp(0.0)
    """Share of the noise's variance that is replaced by fresh noise in each step. 0: the ODE. Above 0: the SDE. 1: SDS.
    Released: 0.0001 in 10,000 steps; the sum over all steps matters. On Stable Diffusion, the first stage has
    [[0, 0.01], [0.2, 0.01], [0.4, 0.0001]]."""
    churn: bool = False
    """Query the prior at the noise level lambda / sqrt(1 - gamma), where a step of the exact SDE begins (Karras et al.
    2022, arXiv:2206.00364, algorithm 2). Without this, as in the released 3D code, samples vary too little."""
    oversampling: int = Field(default=4, ge=1, le=64)
    """Texels per side of a map of the reference noise, per noise pixel of a view's height. 4 takes 25 MB for the
    64 x 64 x 4 latents of Stable Diffusion and 400 MB for the 128 x 128 x 16 latents of SD3: use 1 or 2 for SD3.
    Released: 32."""
    schedule: Schedule = PiecewiseSchedule(knots=((0.0, 0.98, 0.98), (0.5, 0.596, 0.596), (1.0, 0.308, 0.308)))
    """Timesteps, one for all views."""

    @model_validator(mode="after")
    def _churn_is_finite(self) -> Self:
        if self.churn and not self.gamma < 1:
            raise ValueError("churn needs a gamma below 1: with 1 all noise is new in each step")
        return self

    def make(self, prior: Prior) -> CFD:
        """Return the rule on this prior."""
        return CFD(self, prior)


class CFD(Guidance):
    """Gradient w(t) (eps_S(alpha x + sigma eps~; y, t) - eps~) with a falling t and eps~ locked to the surface.

    With gamma above 0 each step changes the noise. A step that fails leaves it as it was (`Guided.learn`).
    """

    def __init__(self, config: CFDConfig, prior: Prior) -> None:
        self.config = config
        self.prior = prior
        self.noise: SurfaceNoise | None = None  # drawn when the shape of x is known

    def __call__(self, x: Tensor, views: Views, progress: float, generator: torch.Generator) -> Guided:
        """Do one step. x: (B, C, h, w) detached, in the prior's space. progress: in [0, 1]."""
        config, prior = self.config, self.prior
        batch, channels, height, width = x.shape
        gamma = config.gamma.at(progress)
        t = config.schedule.sample(progress, batch, batch, generator).to(
            x.device, non_blocking=True
        )  # (B,), all the same
        if self.noise is None:
            seed = int(torch.randint(2**62, (), generator=generator))
            self.noise = noise = SurfaceNoise((batch, channels, height, width), config.oversampling * height, seed)
        else:
            noise = self.noise.for_views(batch)
            noise = noise.evolved(gamma, generator) if gamma > 0 else noise
        if config.churn:
            t = churned(prior, t, gamma)
        drawn, locked = noise(views)
        eps = drawn.to(x, non_blocking=True)  # (B, C, h, w)
        x_t = add_noise(prior, x, eps, t)
        prediction = guided_prediction(prior, x_t, t, views, config.scale, rescale=config.rescale)
        gradient = expand(weight(prior, t, config.weighting), x) * (prediction.eps - eps)  # (B, C, h, w)
        metrics = {
            "t": t.mean(),
            "gradient_rms": gradient.square().mean().sqrt(),
            "locked": locked.float().mean().item(),  # share of the noise pixels that have texels; always on the CPU
        }

        def keep() -> dict[str, Number]:
            self.noise = noise
            return {}

        return Guided(t=t, gradient=gradient, x0=prediction.x0, metrics=metrics, learn=keep)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state of the noise."""
        return {} if self.noise is None else self.noise.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self.noise = SurfaceNoise.from_state(state) if state else None


def churned(prior: Prior, t: Tensor, gamma: float) -> Tensor:
    """Return timesteps (B,) with lambda = sigma / alpha larger by 1 / sqrt(1 - gamma) than at t (B,), at most 1.

    Exact to the last bits of float32; for a prior with discrete levels, the next higher level.
    """
    low, high = t, torch.ones_like(t)
    alpha, sigma = prior.alpha(t) * math.sqrt(1 - gamma), prior.sigma(t)
    for _ in range(24):
        middle = (low + high) / 2
        below = prior.sigma(middle) * alpha < sigma * prior.alpha(middle)  # no division: alpha may be 0 at 1
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return high
