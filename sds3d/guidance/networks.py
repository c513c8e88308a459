"""The small network that rules train from scratch in the prior's space, conditioned on timestep and camera."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sds3d.cameras import Cameras
from sds3d.priors.multiview import CAMERA_FEATURES, camera_features

FREQUENCIES = 8


class ViewConv(nn.Module):
    """Convolutions whose middle channels are scaled and shifted by timestep and camera (FiLM, arXiv:1709.07871).

    The last layer starts at zero. generator: draws the other layers on the CPU.
    """

    def __init__(self, channels: int, width: int, out_channels: int, generator: torch.Generator) -> None:
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
            self.first = nn.Conv2d(channels, width, 3, padding=1)
            self.middle = nn.Conv2d(width, width, 3, padding=1)
            self.last = nn.Conv2d(width, out_channels, 3, padding=1)
            self.told = nn.Sequential(
                nn.Linear(2 * FREQUENCIES + CAMERA_FEATURES, width), nn.SiLU(), nn.Linear(width, 2 * width)
            )
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, t: Tensor, cameras: Cameras) -> Tensor:
        """Map x (B, C, h, w) at t (B,) in [0, 1] of B cameras to (B, out_channels, h, w)."""
        angles = math.pi * t[:, None] * 2 ** torch.arange(FREQUENCIES, device=t.device) / 2  # (B, F)
        told = torch.cat([angles.sin(), angles.cos(), camera_features(cameras).to(t)], dim=-1).to(self.first.weight)
        scale, shift = self.told(told)[:, :, None, None].chunk(2, dim=1)  # (B, width, 1, 1) each
        hidden = nn.functional.silu(self.first(x.to(self.first.weight)))
        hidden = nn.functional.silu((1 + scale) * self.middle(hidden) + shift)
        return self.last(hidden).to(x)
