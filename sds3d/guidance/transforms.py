"""Transforms of a rule's gradient before it reaches the scene. Any rule can be combined with any of them, in order."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from sds3d.config import Config
from sds3d.ramps import Line, Ramp


class Transform(Config):
    """Base of all transforms. Subclasses override one of the methods; the other leaves the gradient as it is."""

    def on_x(self, gradient: Tensor, progress: float) -> Tensor:
        """gradient: (B, C, h, w) in the prior's space."""
        return gradient

    def on_picture(self, gradient: Tensor, progress: float) -> Tensor:
        """gradient: (B, H, W, 3) with respect to the rendered colours, of each view alone."""
        return gradient


class PixelClip(Transform):
    """Pixel-wise gradient clipping (PGC, Pan et al. 2023, arXiv:2310.12474, sec. 3.3): prevents over-saturated pixels.

    g <- g min(1, limit / max_channel |g|) at each pixel of the picture, after the prior's encoder: the direction of a
    pixel's gradient is kept.
    """

    name: Literal["pixel_clip"] = "pixel_clip"
    limit: PositiveFloat = 0.1
    """Largest channel of a pixel's gradient; the loss is a sum over a view's pixels."""

    def on_picture(self, gradient: Tensor, progress: float) -> Tensor:
        """gradient: (B, H, W, 3) with respect to the rendered colours, of each view alone."""
        largest = gradient.abs().amax(dim=-1, keepdim=True)  # (B, H, W, 1)
        # Chosen, not computed as a minimum: a factor of 1 with rounding would change the other pixels.
        return gradient * torch.where(largest > self.limit, self.limit / largest, 1.0)


class Clamp(Transform):
    """Elementwise clipping with a limit that rises (score debiasing, Hong et al. 2023, arXiv:2303.15413, sec. 4.1)."""

    name: Literal["clamp"] = "clamp"
    limit: Annotated[Line, Field(gt=0)] = Ramp(((0.0, 2.0), (1.0, 8.0)))
    """Largest element of the gradient in the prior's space. A pair is the limit at the start and at the end."""

    def on_x(self, gradient: Tensor, progress: float) -> Tensor:
        """gradient: (B, C, h, w) in the prior's space."""
        limit = self.limit.at(progress)
        return gradient.clamp(-limit, limit)


class Normalize(Transform):
    """Give every view's gradient the same root mean square, so that regularisers have the same weight for every rule
    and timestep."""

    name: Literal["normalize"] = "normalize"
    rms: Annotated[Line, Field(gt=0)] = Ramp(1.0)
    """Root mean square of a view's gradient in the prior's space. A pair is that at the start and at the end."""

    def on_x(self, gradient: Tensor, progress: float) -> Tensor:
        """gradient: (B, C, h, w) in the prior's space."""
        wanted = self.rms.at(progress)
        rms = gradient.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()  # (B, 1, 1, 1)
        return gradient * (wanted / rms.clamp_min(torch.finfo(gradient.dtype).tiny))


class Scale(Transform):
    """Multiply the gradient in the prior's space, so that regularisers can have the weights of a paper whose loss has
    another factor: 0.1 for LucidDreamer, 2 for CFD on Stable Diffusion."""

    name: Literal["scale"] = "scale"
    factor: Annotated[Ramp, Field(ge=0)] = Ramp(1.0)
    """The factor."""

    def on_x(self, gradient: Tensor, progress: float) -> Tensor:
        """gradient: (B, C, h, w) in the prior's space."""
        return self.factor.at(progress) * gradient


GradientTransform = Annotated[PixelClip | Clamp | Normalize | Scale, Field(discriminator="name")]
