"""An exact prior of pictures of one colour, whatever the prompt. It needs no files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field

from sds3d.priors.base import Prior, PriorConfig
from sds3d.priors.gaussian import Gaussian, GaussianPrior
from sds3d.prompts.conditioning import Conditioning

Level = Annotated[float, Field(ge=0, le=1)]


class OneColorConfig(PriorConfig):
    """Settings of `OneColorPrior`."""

    name: Literal["one_color"] = "one_color"
    color: tuple[Level, Level, Level] = (0.8, 0.2, 0.1)
    """Red, green and blue in [0, 1]."""
    size: int = Field(default=16, ge=1)
    """Height and width of the pictures in pixels."""

    def load(self, device: torch.device | str = "cpu") -> Prior:
        """Make the prior."""
        return OneColorPrior(self, device)


class OneColorPrior(GaussianPrior):
    """A prior of pictures of one colour, or of any colour for the empty prompt. x is the picture itself."""

    def __init__(self, config: OneColorConfig, device: torch.device | str) -> None:
        mean = torch.tensor(config.color)[:, None, None].expand(3, config.size, config.size)
        known = {"color": Gaussian(mean, 0.1), "": Gaussian(0.5, 0.5)}
        super().__init__(known, (3, config.size, config.size), device=device)

    def encode_text(self, prompts: Sequence[str]) -> Conditioning:
        """Return embeddings of B prompts: every prompt except the empty one means the colour."""
        return super().encode_text(["color" if prompt else "" for prompt in prompts])
