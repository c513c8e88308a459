"""How noise is added and what a network's output means: variance-preserving diffusion, and rectified flow."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from sds3d.files import PriorError
from sds3d.priors.base import Prediction, PredictionType, expand


class Noising(Protocol):
    """x_t = alpha(t) x + sigma(t) eps, in float32 whatever the network computes in; t (B,) in [0, 1]."""

    prediction_type: PredictionType
    """What the network gives."""
    shift: float
    """See `Prior.shift`."""

    def timestep(self, t: Tensor) -> Tensor:
        """What the network is told of t, (B,)."""
        ...

    def alpha(self, t: Tensor) -> Tensor:
        """Signal scale, same shape as t."""
        ...

    def sigma(self, t: Tensor) -> Tensor:
        """Noise scale, same shape as t."""
        ...

    def prediction(self, out: Tensor, x_t: Tensor, t: Tensor) -> Prediction:
        """Noise and clean estimate that the network's output `out` for x_t stands for, each (B, C, h, w)."""
        ...


class Diffusion:
    """Variance-preserving noise at whole timesteps; the network says eps, or v = alpha eps - sigma x.

    steps: a few-step student (LCM, arXiv:2310.04378; ADD, arXiv:2311.17042) knows only so many timesteps, evenly
    spaced and ending with the last one; t is then rounded to these. 0: all.

    Raises PriorError when the scheduler's configuration is of another kind.
    """

    def __init__(self, scheduler: Any, device: torch.device, steps: int = 0) -> None:
        self.prediction_type: PredictionType = scheduler.config["prediction_type"]
        if self.prediction_type not in ("epsilon", "v_prediction"):
            raise PriorError(f"prediction type {self.prediction_type!r} is not epsilon or v_prediction")
        self.shift = 1.0
        self.alphas_bar: Tensor = scheduler.alphas_cumprod.to(device)  # (T,)
        self.steps = steps

    def timestep(self, t: Tensor) -> Tensor:
        """The nearest timestep that was trained, a whole number."""
        count = len(self.alphas_bar)
        timestep = (t * (count - 1)).round().long()
        if self.steps == 0:
            return timestep
        nearest = ((timestep + 1) * self.steps / count).round().clamp(1, self.steps)
        return (nearest * count / self.steps).round().long() - 1

    def alpha(self, t: Tensor) -> Tensor:
        """sqrt(alpha_bar) at the nearest trained timestep."""
        return self.alphas_bar[self.timestep(t)].sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        """sqrt(1 - alpha_bar) at the nearest trained timestep."""
        return (1 - self.alphas_bar[self.timestep(t)]).sqrt()

    def prediction(self, out: Tensor, x_t: Tensor, t: Tensor) -> Prediction:
        """eps and x0 from what the network says."""
        alpha, sigma = expand(self.alpha(t), x_t), expand(self.sigma(t), x_t)
        if self.prediction_type == "v_prediction":
            return Prediction(eps=alpha * out + sigma * x_t, x0=alpha * x_t - sigma * out)
        return Prediction(eps=out, x0=(x_t - sigma * out) / alpha)


class Flow:
    """Rectified flow (arXiv:2209.03003; SD3, arXiv:2403.03206): x_t = (1 - t) x + t eps, the network says eps - x.

    t is the share of noise itself. steps: as in `Diffusion`, for few-step students; t is rounded to a multiple of
    1 / steps above 0. shift: of the model's sampler, which moves timesteps towards noise for large pictures.
    """

    def __init__(self, steps: int = 0, shift: float = 1.0) -> None:
        self.prediction_type: PredictionType = "flow"
        self.shift = shift
        self.steps = steps

    def _known(self, t: Tensor) -> Tensor:
        return t if self.steps == 0 else (t * self.steps).round().clamp(1, self.steps) / self.steps

    def timestep(self, t: Tensor) -> Tensor:
        """1000 t, in float."""
        return 1000 * self._known(t)

    def alpha(self, t: Tensor) -> Tensor:
        """1 - t."""
        return 1 - self._known(t)

    def sigma(self, t: Tensor) -> Tensor:
        """t."""
        return self._known(t)

    def prediction(self, out: Tensor, x_t: Tensor, t: Tensor) -> Prediction:
        """x0 = x_t - t v, eps = x_t + (1 - t) v: they never divide by alpha or sigma."""
        alpha, sigma = expand(self.alpha(t), x_t), expand(self.sigma(t), x_t)
        return Prediction(eps=x_t + alpha * out, x0=x_t - sigma * out)
