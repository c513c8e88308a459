"""What is done to a rule's gradient before it reaches the scene. Every rule takes any of them, several if need be."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from sds3d.config import Config


class PixelClip(Config):
    """Pixel-wise gradient clipping (PGC, Pan et al. 2023, arXiv:2310.12474, sec. 3.3), against over-saturated pixels.

    g <- g min(1, limit / max_channel |g|) at each pixel of the picture, behind the prior's encoder: the direction of a
    pixel's gradient is kept.
    """

    name: Literal["pixel_clip"] = "pixel_clip"
    limit: PositiveFloat = 0.1
    """Largest part of a pixel's gradient, of the sum over a view's pixels."""

    def on_picture(self, gradient: Tensor, progress: float) -> Tensor:
        """gradient: (B, H, W, 3) with respect to the rendered colours, each view's own."""
        largest = gradient.abs().amax(dim=-1, keepdim=True)  # (B, H, W, 1)
        # Chosen, not computed as a minimum: a factor that is 1 but for rounding would touch the other pixels.
        return gradient * torch.where(largest > self.limit, self.limit / largest, 1.0)

    def on_x(self, gradient: Tensor, progress: float) -> Tensor:
        """Untouched."""
        return gradient


class Clamp(Config):
    """Elementwise clipping with a limit that rises (score debiasing, Hong et al. 2023, arXiv:2303.15413, sec. 4.1)."""

    name: Literal["clamp"] = "clamp"
    limit: tuple[PositiveFloat, PositiveFloat] = (2.0, 8.0)
    """Largest element of the gradient in the prior's space at the start and at the end of the run."""

    def on_picture(self, gradient: Tensor, progress: float) -> Tensor:
        """Untouched."""
        return gradient

    def on_x(self, gradient: Tensor, progress: float) -> Tensor:
        """gradient: (B, C, h, w) in the prior's space."""
        limit = (1 - progress) * self.limit[0] + progress * self.limit[1]
        return gradient.clamp(-limit, limit)


class Normalize(Config):
    """Gives every view's gradient the same root mean square, whatever the rule and the timestep: what regularisers
    weigh beside it is then the same for all rules."""

    name: Literal["normalize"] = "normalize"
    rms: tuple[PositiveFloat, PositiveFloat] = (1.0, 1.0)
    """Root mean square of a view's gradient in the prior's space, at the start and at the end of the run."""

    def on_picture(self, gradient: Tensor, progress: float) -> Tensor:
        """Untouched."""
        return gradient

    def on_x(self, gradient: Tensor, progress: float) -> Tensor:
        """gradient: (B, C, h, w) in the prior's space."""
        wanted = (1 - progress) * self.rms[0] + progress * self.rms[1]
        rms = gradient.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()  # (B, 1, 1, 1)
        return gradient * (wanted / rms.clamp_min(torch.finfo(gradient.dtype).tiny))


GradientTransform = Annotated[PixelClip | Clamp | Normalize, Field(discriminator="name")]
