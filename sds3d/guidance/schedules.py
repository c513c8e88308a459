"""Timestep schedules: the noise levels at which a rule queries the prior. Any rule can have any schedule."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Annotated, Literal, Self

import scipy
import torch
from pydantic import Field, model_validator
from torch import Tensor

from sds3d.config import Config
from sds3d.guidance.base import group_count
from sds3d.priors.base import Prior
from sds3d.ramps import check_order, interpolated

Timestep = Annotated[float, Field(gt=0.0, le=1.0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class WindowSchedule(Config, ABC):
    """Base of all schedules: t ~ U[min, max], where min and max depend on the progress alone. If they are equal, t is
    deterministic and the same for all objects.
    """

    @abstractmethod
    def window(self, progress: float) -> tuple[float, float]:
        """Return the interval that t is drawn from at `progress` in [0, 1]."""

    def sample(self, progress: float, batch: int, n_views: int, generator: torch.Generator) -> Tensor:
        """Draw timesteps (batch,) float32; see `draw`."""
        return draw(self.window(progress), batch, n_views, generator)


class UniformSchedule(WindowSchedule):
    """t ~ U[min, max] during the whole run (DreamFusion, arXiv:2209.14988)."""

    name: Literal["uniform"] = "uniform"
    min: Timestep = 0.02
    """Least noise; 0 is clean."""
    max: Timestep = 0.98
    """Most noise; 1 is the noisiest the prior was trained on."""
    shift: float = Field(default=1.0, gt=0.0)
    """k above 1 moves the drawn t towards noise, to k t / (1 + (k - 1) t). SD3's own is 3."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}: swap them")
        return self

    def window(self, progress: float) -> tuple[float, float]:
        """Return the same interval at any progress."""
        k = self.shift
        low, high = (k * t / (1 + (k - 1) * t) for t in (self.min, self.max))
        return low, high

    def sample(self, progress: float, batch: int, n_views: int, generator: torch.Generator) -> Tensor:
        """Draw timesteps (batch,) float32; see `draw`."""
        t = draw((self.min, self.max), batch, n_views, generator)
        return t if self.shift == 1 else self.shift * t / (1 + (self.shift - 1) * t)


class AnnealedSchedule(WindowSchedule):
    """t ~ U[min, max] with bounds that move linearly: layout first, details later (MVDream, arXiv:2308.16512)."""

    name: Literal["annealed"] = "annealed"
    min: tuple[Timestep, Timestep] = (0.98, 0.02)
    """Least noise at the start and at the end."""
    max: tuple[Timestep, Timestep] = (0.98, 0.5)
    """Most noise at the start and at the end."""
    until: float = Field(default=1.0, gt=0.0, le=1.0)
    """Share of the run after which the bounds no longer move."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for when, low, high in zip(("start", "end"), self.min, self.max, strict=True):
            if low > high:
                raise ValueError(f"at the {when}, min {low} is above max {high}: swap them")
        return self

    def window(self, progress: float) -> tuple[float, float]:
        """Return the interval that t is drawn from at `progress` in [0, 1]."""
        share = min(progress / self.until, 1.0)

        def between(ends: tuple[float, float]) -> float:
            return (1 - share) * ends[0] + share * ends[1]

        return between(self.min), between(self.max)


class PiecewiseSchedule(WindowSchedule):
    """t ~ U[min, max] with bounds that are linear between knots, and constant before the first and after the last.

    Two knots at the same progress are a hard switch (ProlificDreamer, arXiv:2305.16213: U[.02, .98], then U[.02, .5]).
    Knots with min = max give a deterministic t (a line in SDI, arXiv:2405.15891; broken lines in CFD,
    arXiv:2501.05445).
    """

    name: Literal["piecewise"] = "piecewise"
    knots: tuple[tuple[Share, Timestep, Timestep], ...] = Field(
        default=((0.0, 0.02, 0.98), (0.2, 0.02, 0.98), (0.2, 0.02, 0.5)), min_length=1
    )
    """Progress, least noise and most noise of each knot; the default is ProlificDreamer's."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for progress, low, high in self.knots:
            if low > high:
                raise ValueError(f"in the knot at {progress}, min {low} is above max {high}: swap them")
        check_order([progress for progress, _, _ in self.knots])
        return self

    def window(self, progress: float) -> tuple[float, float]:
        """Return the interval at `progress` in [0, 1]; at a hard switch, the one after it."""
        low, high = interpolated(self.knots, progress)
        return low, high


class SqrtSchedule(WindowSchedule):
    """t = max - (max - min) sqrt(progress), deterministic: it leaves high noise quickly (HiFA, arXiv:2305.18766)."""

    name: Literal["sqrt"] = "sqrt"
    min: Timestep = 0.3
    """Noise at the end."""
    max: Timestep = 0.98
    """Noise at the start."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}: swap them")
        return self

    def window(self, progress: float) -> tuple[float, float]:
        """Return t twice."""
        t = self.max - (self.max - self.min) * math.sqrt(progress)
        return t, t


class DreamTimeSchedule(WindowSchedule):
    """A deterministic t that falls slowly where the weight W is large (DreamTime, arXiv:2306.12422).

    W(t) is 1 on [m2, m1], exp(-((t - m1) / s1)^2) above it and exp(-((t - m2) / s2)^2) below it. At each step, the
    share of W above t, on [min, max], equals the progress. W and the defaults are those of CFD's code
    (arXiv:2501.05445), which has m1 = 0.7, m2 = 0.4, s1 = 0.1, s2 = 0.2 for the geometry of meshes.
    """

    name: Literal["dreamtime"] = "dreamtime"
    m1: Timestep = 0.8
    """Upper end of the range with weight 1, in which most steps fall."""
    m2: Timestep = 0.4
    """Lower end of that range."""
    s1: float = Field(default=0.1, gt=0.0)
    """Width of the slope above it."""
    s2: float = Field(default=0.15, gt=0.0)
    """Width of the slope below it."""
    min: Timestep = 0.02
    """Noise at the end."""
    max: Timestep = 0.98
    """Noise at the start."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.min <= self.m2 <= self.m1 <= self.max:
            raise ValueError(f"min {self.min}, m2 {self.m2}, m1 {self.m1}, max {self.max}: they must be in this order")
        return self

    def window(self, progress: float) -> tuple[float, float]:
        """Return t twice."""
        erf, erfinv = scipy.special.erf, scipy.special.erfinv
        half_bell = math.sqrt(math.pi) / 2  # the integral of exp(-u^2) from 0 to infinity
        above = self.s1 * half_bell * float(erf((self.max - self.m1) / self.s1))
        between = self.m1 - self.m2
        below = self.s2 * half_bell * float(erf((self.m2 - self.min) / self.s2))
        passed = progress * (above + between + below)  # the weight above t
        if passed < above:
            t = self.m1 + self.s1 * float(erfinv(min((above - passed) / (self.s1 * half_bell), 1.0)))
        elif passed <= above + between:
            t = self.m1 - (passed - above)
        else:
            t = self.m2 - self.s2 * float(erfinv(min((passed - above - between) / (self.s2 * half_bell), 1.0)))
        t = min(max(t, self.min), self.max)  # at the ends, the inverse of erf is rounded or infinite
        return t, t


Schedule = Annotated[
    UniformSchedule | AnnealedSchedule | PiecewiseSchedule | SqrtSchedule | DreamTimeSchedule,
    Field(discriminator="name"),
]


def timesteps(schedule: WindowSchedule, prior: Prior, x: Tensor, progress: float, generator: torch.Generator) -> Tensor:
    """Draw the timesteps (B,) of a step for x (B, C, h, w), on its device; see `draw`."""
    return schedule.sample(progress, x.shape[0], prior.n_views, generator).to(x.device, non_blocking=True)


def draw(window: tuple[float, float], batch: int, n_views: int, generator: torch.Generator) -> Tensor:
    """Draw uniform timesteps (batch,) float32 on the CPU: one for each object, shared by its `n_views` views."""
    low, high = window
    t = low + (high - low) * torch.rand(group_count(batch, n_views), generator=generator)  # (objects,)
    return t.repeat_interleave(n_views)
