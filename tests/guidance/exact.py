"""An exact prior whose noise levels are as exact as its predictions, and closed forms for it."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from sds3d.priors.base import expand
from sds3d.priors.gaussian import Gaussian, GaussianPrior

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}
DTYPES = pytest.mark.parametrize(("dtype", "tolerance"), list(TOLERANCE.items()))


class ExactPrior(GaussianPrior):
    """Computes alpha and sigma in the prior's own dtype. Timesteps are drawn in float32."""

    def alpha(self, t: Tensor) -> Tensor:
        return super().alpha(t.to(self.dtype))

    def sigma(self, t: Tensor) -> Tensor:
        return super().sigma(t.to(self.dtype))


class FlowPrior(ExactPrior):
    """A rectified flow: alpha = 1 - t, sigma = t (arXiv:2209.03003)."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t.to(self.dtype)

    def sigma(self, t: Tensor) -> Tensor:
        return t.to(self.dtype)


class NoSignal(FlowPrior):
    """A flow with no signal at every t: alpha = 0, sigma = 1, as at the first step of few-step models."""

    def alpha(self, t: Tensor) -> Tensor:
        return super().alpha(torch.ones_like(t))

    def sigma(self, t: Tensor) -> Tensor:
        return super().sigma(torch.ones_like(t))


def exact_prior(
    dtype: torch.dtype = torch.float64,
    n_views: int = 1,
    kind: type[ExactPrior] = ExactPrior,
    **prompts: tuple[float, float],
) -> ExactPrior:
    """Return a prior with a (mean, standard deviation) for each prompt; "null" is the empty prompt.

    Several views are correlated by 0.6.
    """
    named = {"y": (0.8, 0.5), "null": (0.3, 0.9)} | prompts
    gaussians = {"" if name == "null" else name: Gaussian(*value) for name, value in named.items()}
    return kind(gaussians, (3, 4, 4), n_views=n_views, rho=0.6 if n_views > 1 else 0.0, dtype=dtype)


def renders(batch: int = 4, dtype: torch.dtype = torch.float64, seed: int = 3) -> Tensor:
    """Return random x (batch, 3, 4, 4)."""
    return torch.randn(batch, 3, 4, 4, generator=seeded(seed), dtype=dtype)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def level(prior: GaussianPrior, t: Tensor | float) -> Tensor:
    """Return lambda = sigma / alpha at t, (B, 1, 1, 1)."""
    t = torch.as_tensor(t).reshape(-1)
    ratio = prior.sigma(t) / prior.alpha(t)
    return expand(ratio, ratio.new_empty(len(ratio), 1, 1, 1))


def ode_factor(prior: GaussianPrior, std: float, times: list[float]) -> float:
    """Return the factor that DDIM steps through these times multiply x / alpha - mean by, on N(mean, std^2).

    With y = x / alpha and lambda = sigma / alpha, a step adds (lambda' - lambda) eps, and eps = lambda (y - mean) /
    (std^2 + lambda^2).
    """
    levels = [level(prior, t).item() for t in times]
    return math.prod(1 + (b - a) * a / (std**2 + a**2) for a, b in itertools.pairwise(levels))
