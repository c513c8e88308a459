"""Pictures and maps at another size, bilinear and antialiased."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def resize(pictures: Tensor, size: int) -> Tensor:
    """Resize pictures (B, H, W, C) to (B, size, size, C). The right size stays unchanged."""
    if pictures.shape[1:3] == (size, size):
        return pictures
    return resize_planes(pictures.permute(0, 3, 1, 2), size).permute(0, 2, 3, 1)


def resize_planes(planes: Tensor, size: int) -> Tensor:
    """Resize planes (B, C, H, W) to (B, C, size, size). The right size stays unchanged."""
    if planes.shape[-2:] == (size, size):
        return planes
    return functional.interpolate(planes, (size, size), mode="bilinear", antialias=True)
