"""Timestep schedules: which noise level a step of guidance asks the prior at. Every rule takes any of them."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from typing_extensions import Self

from sds3d.config import Config
from sds3d.guidance.base import group_count

Timestep = Annotated[float, Field(gt=0.0, le=1.0)]


class UniformSchedule(Config):
    """t ~ U[min, max] during the whole run (DreamFusion, arXiv:2209.14988)."""

    name: Literal["uniform"] = "uniform"
    min: Timestep = 0.02
    """Least noise; 0 is clean."""
    max: Timestep = 0.98
    """Most noise; 1 is the noisiest the prior was trained on."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}: swap them")
        return self

    def window(self, progress: float) -> tuple[float, float]:
        """The interval t is drawn from."""
        return self.min, self.max

    def sample(self, progress: float, batch: int, n_views: int, generator: torch.Generator) -> Tensor:
        """Timesteps (batch,) float32; see `draw`."""
        return draw(self.window(progress), batch, n_views, generator)


class AnnealedSchedule(Config):
    """t ~ U[min, max], both ends moving linearly (MVDream, 2308.16512): high t decides layout, low t detail."""

    name: Literal["annealed"] = "annealed"
    min: tuple[Timestep, Timestep] = (0.98, 0.02)
    """Least noise at the start and at the end."""
    max: tuple[Timestep, Timestep] = (0.98, 0.5)
    """Most noise at the start and at the end."""
    until: float = Field(default=1.0, gt=0.0, le=1.0)
    """Share of the run after which the window rests at its end."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for when, low, high in zip(("start", "end"), self.min, self.max, strict=True):
            if low > high:
                raise ValueError(f"at the {when}, min {low} is above max {high}: swap them")
        return self

    def window(self, progress: float) -> tuple[float, float]:
        """The interval t is drawn from at `progress` in [0, 1]."""
        share = min(progress / self.until, 1.0)

        def between(ends: tuple[float, float]) -> float:
            return (1 - share) * ends[0] + share * ends[1]

        return between(self.min), between(self.max)

    def sample(self, progress: float, batch: int, n_views: int, generator: torch.Generator) -> Tensor:
        """Timesteps (batch,) float32; see `draw`."""
        return draw(self.window(progress), batch, n_views, generator)


Schedule = Annotated[UniformSchedule | AnnealedSchedule, Field(discriminator="name")]


def draw(window: tuple[float, float], batch: int, n_views: int, generator: torch.Generator) -> Tensor:
    """Uniform timesteps (batch,) float32, drawn on the CPU: one for each object, shared by its `n_views` views."""
    low, high = window
    t = low + (high - low) * torch.rand(group_count(batch, n_views), generator=generator)  # (objects,)
    return t.repeat_interleave(n_views)
