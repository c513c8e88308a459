"""DDIM in both directions (Song et al. 2020, arXiv:2010.02502, eq. 12), shared by rules that step through noise levels.

A step takes what the model says at one level to another level: x' = alpha' x0 + sqrt(sigma'^2 - s^2) eps + s z. With
s = 0 it is Euler's method for the probability-flow ODE, d(x / alpha) = eps d(sigma / alpha): towards more noise it
inverts, towards less it samples. eta > 0 trades part of the predicted noise for fresh noise z of the same variance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from sds3d.guidance.base import draw_noise
from sds3d.priors.base import Prediction, Prior, expand

Predict = Callable[[Tensor, Tensor], Prediction]
"""x_t (B, C, h, w) and t (B,) to a prediction."""


def ddim_step(
    prior: Prior,
    prediction: Prediction,
    t: Tensor,
    to: Tensor,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """x at the timesteps `to` (B,), above or below t (B,), from the prediction at t: (B, C, h, w).

    eta: factor in [0, 1] on the standard deviation of the less noisy level given the noisier one and x0; 1 is ancestral
    sampling (DDPM). Above 0 it needs a generator, which draws the fresh noise on the CPU.
    """
    x0, eps = prediction.x0, prediction.eps
    kept = sigma = prior.sigma(to)  # (B,)
    fresh = torch.zeros_like(sigma)
    if eta > 0:
        less, more = torch.minimum(t, to), torch.maximum(t, to)
        signal, left = prior.alpha(less), prior.alpha(more)
        ratio = torch.where(signal > 0, left / signal, 1.0)  # few-step models have both levels without any signal
        # Of p(x_less | x_more, x0): the noise of the step between them, as far as the noisier one leaves it open.
        variance = 1 - (ratio * prior.sigma(less) / prior.sigma(more).clamp_min(1e-12)) ** 2
        fresh = torch.minimum(eta * prior.sigma(less) * variance.clamp_min(0).sqrt(), sigma)
        kept = (sigma**2 - fresh**2).clamp_min(0).sqrt()
    x = expand(prior.alpha(to), x0) * x0 + expand(kept, x0) * eps
    if eta > 0:
        if generator is None:
            raise ValueError("eta above 0 draws noise: give a generator")
        x = x + expand(fresh, x0) * draw_noise(x0, generator)
    return x


@torch.no_grad()
def ddim(
    prior: Prior,
    x: Tensor,
    times: Sequence[Tensor],
    predict: Predict,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """x (B, C, h, w) at times[0] (B,) carried through all of `times`, rising or falling, to the last of them."""
    for t, to in pairwise(times):
        x = ddim_step(prior, predict(x, t), t, to, eta, generator)
    return x


def even_times(t: Tensor, steps: int) -> list[Tensor]:
    """0 to t (B,) in equal steps: steps + 1 tensors (B,)."""
    return [t * (i / steps) for i in range(steps + 1)]


def steps_of(most: float, stride: float) -> int:
    """How many equal steps, at least one, of at most `stride` lead from 0 to `most`."""
    return max(math.ceil(most / stride - 1e-6), 1)
