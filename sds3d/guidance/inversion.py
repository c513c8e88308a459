"""DDIM in both directions (Song et al. 2020, arXiv:2010.02502, eq. 12), for rules that step through noise levels.

A step goes from one noise level to another by the model's prediction:

    x' = alpha' x0 + sqrt(sigma'^2 - s^2) eps + s z

With s = 0 it is Euler's method for the probability-flow ODE, d(x / alpha) = eps d(sigma / alpha). Steps to more noise
invert, steps to less noise sample. eta > 0 replaces part of the predicted noise by fresh noise z of the same variance.
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
"""Maps x_t (B, C, h, w) and t (B,) to a prediction."""


def ddim_step(
    prior: Prior,
    prediction: Prediction,
    t: Tensor,
    to: Tensor,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return x at the timesteps `to` (B,), above or below t (B,), from the prediction at t: (B, C, h, w).

    eta: factor in [0, 1] on the standard deviation of the less noisy level given the noisier one and x0; 1 is ancestral
    sampling (DDPM). Raises ValueError if eta is above 0 without a generator, which draws the fresh noise on the CPU.
    """
    x0, eps = prediction.x0, prediction.eps
    kept = sigma = prior.sigma(to)  # (B,)
    fresh = torch.zeros_like(sigma)
    if eta > 0:
        less, more = torch.minimum(t, to), torch.maximum(t, to)
        signal, left = prior.alpha(less), prior.alpha(more)
        ratio = torch.where(signal > 0, left / signal, 1.0)  # few-step models have both levels without any signal
        # The variance of p(x_less | x_more, x0).
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
    """Carry x (B, C, h, w) from times[0] (B,) through all of `times`, rising or falling, to the last one."""
    for t, to in pairwise(times):
        x = ddim_step(prior, predict(x, t), t, to, eta, generator)
    return x


def even_times(t: Tensor, steps: int) -> list[Tensor]:
    """Return 0 to t (B,) in equal steps: steps + 1 tensors (B,)."""
    return [t * (i / steps) for i in range(steps + 1)]


def steps_of(most: float, stride: float) -> int:
    """Return the number of equal steps of at most `stride` from 0 to `most`, at least 1."""
    return max(math.ceil(most / stride - 1e-6), 1)
