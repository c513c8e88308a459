"""Adan, the optimiser of HiFA's code (Xie et al. 2022, arXiv:2208.06677, algorithm 1).

It follows the gradient as if it were taken a step ahead: moments of the gradient's change are added to those of the
gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

BETAS = (0.98, 0.92, 0.99)
"""Decay of the gradient, of its change, and of the square of their sum."""


class Adan(torch.optim.Optimizer):
    """Adan with decoupled weight decay, for groups with "params" and "lr".

    A gradient g, its change d since the step before and its moments m, v and n, without bias, give the step
    lr (m + beta2 v) / (sqrt(n) + eps), after which parameters shrink by 1 / (1 + lr weight_decay). The change is 0 in
    the first step.

    A step is left out if `found_inf`, a scalar on the parameters' device, is 1; see `sds3d.updates`.
    """

    found_inf: Tensor | None = None

    def __init__(self, groups: Iterable[dict[str, Any]], eps: float = 1e-8, weight_decay: float = 0.0) -> None:
        super().__init__(groups, {"eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update the parameters that have gradients. closure: not used."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["steps"] = torch.zeros((), device=parameter.device)
            for name in ("mean", "change", "square"):
                state[name] = torch.zeros_like(parameter)
            state["before"] = gradient.clone()
        old = [state[name] for name in ("steps", "mean", "change", "square", "before")]
        steps, mean, change, square, before = old
        first, second, third = BETAS
        steps = steps + 1
        difference = gradient - before
        mean = mean.lerp(gradient, 1 - first)
        change = change.lerp(difference, 1 - second)
        square = square.lerp((gradient + second * difference).square(), 1 - third)
        root = (square / (1 - third**steps)).sqrt() + group["eps"]
        ahead = mean / (1 - first**steps) + second * change / (1 - second**steps)
        after = (parameter - group["lr"] * ahead / root) / (1 + group["lr"] * group["weight_decay"])
        new = [steps, mean, change, square, gradient]
        for target, value in zip([parameter, *old], [after, *new], strict=True):
            target.copy_(value if self.found_inf is None else torch.where(self.found_inf > 0, target, value))
