"""The scalars of a step and its checks. On a CPU they are read at once; on a GPU they stay there and are read together.

Reading one value from a GPU waits for all work that was queued, several times as long as a step's own work. So the
losses, norms and metrics of many steps are read in one transfer, a few times a second. Until then, a flag on the GPU
switches off all updates from the first bad step on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sds3d.guidance.base import Number

ADVICE = "lower the guidance scale or the learning rates"


class NumericalError(ArithmeticError):
    """Raised if a loss or gradient is not finite or too large. The parameters keep the values of the previous step."""


@dataclass(frozen=True)
class Numbers:
    """The scalars of a finished step, as `events.jsonl` holds them. step: from 1. The rest: see `Step`."""

    step: int
    seconds: float
    grad_norm: float
    losses: dict[str, float]
    metrics: dict[str, float]


def as_numbers(values: Mapping[str, Number]) -> dict[str, float]:
    """Return scalars as numbers. Waits for a GPU on which some are."""
    return {name: float(value.detach() if isinstance(value, Tensor) else value) for name, value in values.items()}


@dataclass
class Checks:
    """The checks of a step.

    step: its name in messages. limit: largest norm of the gradient. late: note what is to be checked and go on, instead
    of raising NumericalError at once. noted: what is to be finite, each with a scalar that is finite if it is.
    norm: of the gradient.
    """

    step: str
    limit: float
    late: bool = False
    noted: list[tuple[str, Tensor]] = field(default_factory=list)
    norm: Tensor | None = None

    def finite(self, value: Tensor, what: str) -> None:
        """Check that all values are finite."""
        if self.late:
            value = value.detach()
            self.noted.append((what, torch.linalg.vector_norm(value, math.inf) if value.dim() else value.abs()))
        elif not torch.isfinite(value).all():
            raise NumericalError(self._not_finite(what))

    def small(self, norm: Tensor) -> None:
        """Check the norm of the gradient."""
        self.norm = norm
        if not self.late:
            self.raise_if_bad([], float(norm))

    def scalars(self) -> list[Tensor]:
        """Return the noted scalars."""
        return [scalar for _, scalar in self.noted]

    def flag(self, before: Tensor | None) -> Tensor | None:
        """Return 1 on the device if a noted check fails or `before` is 1, else 0; None if everything was checked."""
        if not self.late or self.norm is None:
            return None
        good = (torch.stack(self.scalars()) < math.inf).all() & (self.norm <= self.limit)  # False for NaN
        return torch.where(good, good.new_zeros((), dtype=torch.float32) if before is None else before, 1.0)

    def raise_if_bad(self, noted: Sequence[float], norm: float) -> None:
        """Raise NumericalError for the first failing check. noted, norm: the values of the noted scalars."""
        for (what, _), value in zip(self.noted, noted, strict=True):
            if not math.isfinite(value):
                raise NumericalError(self._not_finite(what))
        if not norm <= self.limit:  # also true of NaN
            raise NumericalError(f"{self.step}: the gradient's norm is {norm:.3g}; {ADVICE}")

    def read(self) -> None:
        """Raise NumericalError if a noted check fails; waits for the device."""
        if self.norm is not None:
            *noted, norm = read([*self.scalars(), self.norm])
            self.raise_if_bad(noted, norm)

    def _not_finite(self, what: str) -> str:
        return f"{self.step}: {what} is not finite; {ADVICE}"


@dataclass(frozen=True)
class Unread:
    """The scalars of a finished step, some of them on the device; see `Numbers`. checks: of the step.

    before: `LoopState.snapshot` of before the step.
    """

    step: int
    seconds: float
    grad_norm: Number
    losses: Mapping[str, Number]
    metrics: Mapping[str, Number]
    checks: Checks
    before: Mapping[str, Tensor]

    def scalars(self) -> list[Number]:
        """Return the values that `numbers` takes, read or not."""
        return [*self.checks.scalars(), self.grad_norm, *self.losses.values(), *self.metrics.values()]

    def numbers(self, values: Sequence[float]) -> Numbers:
        """Return the numbers. values: of `scalars`. Raises NumericalError if a check fails."""
        noted, rest = values[: len(self.checks.noted)], iter(values[len(self.checks.noted) :])
        norm = next(rest)
        self.checks.raise_if_bad(noted, norm)
        losses, metrics = ({name: next(rest) for name in group} for group in (self.losses, self.metrics))
        return Numbers(self.step, self.seconds, norm, losses, metrics)


def read(values: Sequence[Number]) -> list[float]:
    """Return the values as floats: all tensors in one transfer from their device."""
    tensors = [value.detach().float() for value in values if isinstance(value, Tensor)]
    known = iter(torch.stack(tensors).tolist() if tensors else [])
    return [next(known) if isinstance(value, Tensor) else value for value in values]
