"""Pictures to a model's space and back: latents of a VAE, or pixels in [-1, 1]."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor


class Codec(Protocol):
    """Maps pictures (B, H, W, 3) in [0, 1] to x (B, C, h, w) in float32 and back."""

    def encode(self, rgb: Tensor) -> Tensor:
        """Return x of pictures; differentiable."""
        ...

    def decode(self, x: Tensor) -> Tensor:
        """Return pictures of x, in [0, 1]; no gradient."""
        ...


def vae_format(device: torch.device) -> torch.memory_format:
    """Return the memory format of a VAE: channels last, but not on CUDA, where GroupNorm's gradient is slow in it."""
    return torch.contiguous_format if device.type == "cuda" else torch.channels_last


class Latents:
    """Scaled latents of a VAE: (the posterior's mode - shift) * scale, without randomness.

    vae: AutoencoderKL, or AutoencoderTiny, which has no posterior. Its type is often wider than the U-Net's.
    """

    def __init__(self, vae: Any) -> None:
        self.vae = vae
        self.scale: float = vae.config["scaling_factor"]
        self.shift: float = vae.config.get("shift_factor") or 0.0

    def encode(self, rgb: Tensor) -> Tensor:
        """Return latents (B, C, h, w)."""
        x = (2 * rgb.permute(0, 3, 1, 2) - 1).contiguous(memory_format=vae_format(rgb.device))
        out = self.vae.encode(x.to(self.vae.dtype), return_dict=False)[0]
        latents = (out if isinstance(out, Tensor) else out.mode()).float()
        return (latents - self.shift if self.shift else latents) * self.scale

    @torch.no_grad()
    def decode(self, x: Tensor) -> Tensor:
        """Return pictures (B, H, W, 3)."""
        latents = x / self.scale + self.shift if self.shift else x / self.scale
        latents = latents.contiguous(memory_format=vae_format(x.device))
        decoded = self.vae.decode(latents.to(self.vae.dtype), return_dict=False)[0].float()
        return (decoded.permute(0, 2, 3, 1) / 2 + 0.5).clamp(0, 1)


class Pixels:
    """x is the picture itself, in [-1, 1]."""

    def encode(self, rgb: Tensor) -> Tensor:
        """Return x (B, 3, H, W) in [-1, 1]."""
        return 2 * rgb.permute(0, 3, 1, 2) - 1

    @torch.no_grad()
    def decode(self, x: Tensor) -> Tensor:
        """Return pictures (B, H, W, 3), clamped."""
        return (x.permute(0, 2, 3, 1) / 2 + 0.5).clamp(0, 1)
