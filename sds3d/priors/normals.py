"""A small convolutional network that reads the normals of the toy world's surfaces from a picture."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from sds3d.files import PriorError
from sds3d.priors.network_files import load_weights, read_settings, save_network
from sds3d.rendering.resizing import resize

SIZE = 64
"""Height and width in pixels of the pictures that it reads, and of the normals."""
WIDTHS = (64, 96, 128)
"""Channels at a half, a quarter and an eighth of the size."""
KIND = "normals of the toy world"


class NormalsNetwork(nn.Module):
    """Maps pictures to the normals of the surfaces in them; an estimator beside Marigold's, see `load_estimator`."""

    def __init__(self) -> None:
        super().__init__()
        first, second, third = WIDTHS
        self.first = nn.Sequential(nn.PixelUnshuffle(2), block(12, first), block(first, first))
        self.second = nn.Sequential(nn.AvgPool2d(2), block(first, second), block(second, second))
        self.third = nn.Sequential(nn.AvgPool2d(2), block(second, third), block(third, third))
        self.to_second, self.to_first = nn.Conv2d(third, second, 1), nn.Conv2d(second, first, 1)
        self.back_second, self.back_first = block(second, second), block(first, first)
        self.out = nn.Sequential(nn.Conv2d(first, 12, 1), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        """Map pictures (B, 3, SIZE, SIZE) in [-1, 1] to vectors (B, 3, SIZE, SIZE) along the normals."""
        first = self.first(x)
        second = self.second(first)
        third = self.third(second)
        second = self.back_second(second + _doubled(self.to_second(third)))
        return self.out(self.back_first(first + _doubled(self.to_first(second))))

    @torch.no_grad()
    def estimate(self, rgb: Tensor) -> Tensor:
        """Return unit normals (B, H, W, 3) in the camera's frame of pictures (B, H, W, 3), sRGB in [0, 1].

        +x is right, +y up, +z to the viewer. Pictures are resized to SIZE, and the normals back.
        """
        seen = resize(rgb, SIZE).permute(0, 3, 1, 2)
        normals = self(2 * seen - 1)
        normals = functional.interpolate(normals, rgb.shape[1:3], mode="bilinear", align_corners=False)
        return functional.normalize(normals, dim=1).permute(0, 2, 3, 1)

    def save(self, folder: Path) -> None:
        """Write config.json, and the weights in fp16 as model.safetensors."""
        save_network(folder, self, {"kind": KIND})

    @classmethod
    def load(cls, folder: Path) -> NormalsNetwork:
        """Read what `save` wrote, in float32, in eval mode. Raises PriorError."""
        try:
            network = load_weights(cls(), folder)
        except Exception as error:
            raise PriorError(f"can't load the estimator {folder}: {type(error).__name__}: {error}") from None
        return network.eval().requires_grad_(False)


def block(inside: int, outside: int) -> nn.Sequential:
    """Return a 3 x 3 convolution with normalisation and activation."""
    return nn.Sequential(nn.Conv2d(inside, outside, 3, padding=1, bias=False), nn.GroupNorm(8, outside), nn.SiLU())


def normals_folder(model: str) -> Path | None:
    """Return the folder of a network of this kind; None for other models."""
    folder = Path(model).expanduser()
    try:
        config = read_settings(folder)
    except (OSError, ValueError):
        return None
    return folder if isinstance(config, dict) and config.get("kind") == KIND else None


def _doubled(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2, mode="nearest")
