"""Noise levels and the meaning of a network's output: variance-preserving diffusion, and rectified flow."""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor

from sds3d.files import PriorError
from sds3d.priors.base import Prediction, PredictionType, expand


class Noising(Protocol):
    """x_t = alpha(t) x + sigma(t) eps, in float32 whatever the type of the network; t (B,) is in [0, 1]."""

    prediction_type: PredictionType
    """The target of the network."""
    shift: float
    """See `Prior.shift`."""

    def timestep(self, t: Tensor) -> Tensor:
        """Return the network's timestep for t, (B,)."""
        ...

    def alpha(self, t: Tensor) -> Tensor:
        """Return the signal scale, same shape as t."""
        ...

    def sigma(self, t: Tensor) -> Tensor:
        """Return the noise scale, same shape as t."""
        ...

    def prediction(self, out: Tensor, x_t: Tensor, t: Tensor) -> Prediction:
        """Return noise and clean estimate, each (B, C, h, w), from the network's output `out` for x_t."""
        ...


class Diffusion:
    """Variance-preserving noise at whole timesteps; the network predicts eps, or v = alpha eps - sigma x.

    steps: number of timesteps of a few-step student (LCM, arXiv:2310.04378; ADD, arXiv:2311.17042), evenly spaced up to
    the last one; t is rounded to these. 0: all timesteps.

    A model that predicts eps says nothing about pictures in pure noise. If its last timestep has no signal (zero
    terminal signal-to-noise ratio, arXiv:2305.08891), t = 1 is the one before.

    Raises PriorError if the scheduler has another prediction type.
    """

    def __init__(self, scheduler: Any, device: torch.device, steps: int = 0) -> None:
        self.prediction_type: PredictionType = scheduler.config["prediction_type"]
        if self.prediction_type not in ("epsilon", "v_prediction"):
            raise PriorError(f"prediction type {self.prediction_type!r} is not supported: use epsilon or v_prediction")
        self.shift = 1.0
        alphas_bar: Tensor = scheduler.alphas_cumprod  # (T,)
        with_signal = len(alphas_bar) if self.prediction_type == "v_prediction" else int((alphas_bar > 0).sum())
        self.alphas_bar = alphas_bar.to(device)
        self.last = with_signal - 1
        self.steps = steps

    def timestep(self, t: Tensor) -> Tensor:
        """Return the nearest trained timestep, a whole number."""
        count = len(self.alphas_bar)
        timestep = (t * (count - 1)).round().long().clamp(max=self.last)
        if self.steps == 0:
            return timestep
        nearest = ((timestep + 1) * self.steps / count).round().clamp(1, self.steps)
        return ((nearest * count / self.steps).round().long() - 1).clamp(max=self.last)

    def alpha(self, t: Tensor) -> Tensor:
        """Return sqrt(alpha_bar) at the nearest trained timestep."""
        return self.alphas_bar[self.timestep(t)].sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        """Return sqrt(1 - alpha_bar) at the nearest trained timestep."""
        return (1 - self.alphas_bar[self.timestep(t)]).sqrt()

    def prediction(self, out: Tensor, x_t: Tensor, t: Tensor) -> Prediction:
        """Return eps and x0 from the network's output."""
        alpha, sigma = expand(self.alpha(t), x_t), expand(self.sigma(t), x_t)
        if self.prediction_type == "v_prediction":
            return Prediction(eps=alpha * out + sigma * x_t, x0=alpha * x_t - sigma * out)
        return Prediction(eps=out, x0=(x_t - sigma * out) / alpha)


class Flow:
    """Rectified flow (arXiv:2209.03003; SD3, arXiv:2403.03206): x_t = (1 - t) x + t eps, the network predicts eps - x.

    t is the share of noise. steps: as in `Diffusion`; t is rounded to a multiple of 1 / steps above 0. shift: see
    `Prior.shift`.
    """

    def __init__(self, steps: int = 0, shift: float = 1.0) -> None:
        self.prediction_type: PredictionType = "flow"
        self.shift = shift
        self.steps = steps

    def _known(self, t: Tensor) -> Tensor:
        return t if self.steps == 0 else (t * self.steps).round().clamp(1, self.steps) / self.steps

    def timestep(self, t: Tensor) -> Tensor:
        """Return 1000 t, in float."""
        return 1000 * self._known(t)

    def alpha(self, t: Tensor) -> Tensor:
        """Return 1 - t."""
        return 1 - self._known(t)

    def sigma(self, t: Tensor) -> Tensor:
        """Return t."""
        return self._known(t)

    def prediction(self, out: Tensor, x_t: Tensor, t: Tensor) -> Prediction:
        """Return x0 = x_t - t v and eps = x_t + (1 - t) v, which never divide by alpha or sigma."""
        alpha, sigma = expand(self.alpha(t), x_t), expand(self.sigma(t), x_t)
        return Prediction(eps=x_t + alpha * out, x0=x_t - sigma * out)


def is_flow(config: dict[str, Any]) -> bool:
    """Return whether a scheduler's configuration is one of rectified flow."""
    named = str(config.get("_class_name", "")).startswith("FlowMatch")
    return named or bool(config.get("use_flow_sigmas")) or config.get("prediction_type") == "flow_prediction"


def shift_of(config: dict[str, Any], tokens: int = 0) -> float:
    """Return `Prior.shift` of a flow's scheduler; some derive it from the number of tokens of a picture."""
    if not config.get("use_dynamic_shifting", False):
        return float(config.get("shift", config.get("flow_shift", 1.0)) or 1.0)
    few, many = config["base_image_seq_len"], config["max_image_seq_len"]
    slope = (config["max_shift"] - config["base_shift"]) / (many - few)
    return math.exp(config["base_shift"] + slope * (tokens - few))
