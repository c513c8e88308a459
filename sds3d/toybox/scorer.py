"""The scorer: a small network that reads category, colours and azimuth from a toybox picture.

It only measures and never guides. It is trained on different renders than the prior: other seeds, lights and
backgrounds, blurred and noisy, so that it reads distilled objects as well as clean ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sds3d.config import assets_dir
from sds3d.toybox.world import CATEGORIES, COLORS, DEFAULT_ACCENT, Spec

AZIMUTH_BINS = 8
"""Bins of 45 degrees; bin 0 is centred on the front."""


class Scorer(nn.Module):
    """Maps pictures (B, 3, 64, 64) in [-1, 1] to logits of category, colour, accent colour and azimuth bin."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()

        def block(inside: int, outside: int, stride: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.GroupNorm(8, outside), nn.ReLU()
            )

        self.features = nn.Sequential(
            block(3, width, 2),  # 32 x 32
            block(width, 2 * width, 2),  # 16 x 16
            block(2 * width, 2 * width, 1),
            block(2 * width, 4 * width, 2),  # 8 x 8
            block(4 * width, 4 * width, 1),
            block(4 * width, 8 * width, 2),  # 4 x 4
            nn.Flatten(),
            nn.Linear(16 * 8 * width, 8 * width),
            nn.ReLU(),
        )
        self.sizes = (len(CATEGORIES), len(COLORS), len(COLORS), AZIMUTH_BINS)
        self.head = nn.Linear(8 * width, sum(self.sizes))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return logits (B, 16), (B, 10), (B, 10), (B, 8)."""
        return self.head(self.features(x)).split(self.sizes, dim=1)


@dataclass(frozen=True)
class Scores:
    """The scorer's reading of B pictures.

    category, color, accent: names. azimuth: (B,) degrees, the centre of the most probable bin.
    features: (B, 256) penultimate activations, for the FID.
    """

    category: list[str]
    color: list[str]
    accent: list[str]
    azimuth: Tensor
    features: Tensor


@torch.no_grad()
def score(model: Scorer, rgb: Tensor) -> Scores:
    """Read pictures (B, 64, 64, 3) in [0, 1]."""
    features = model.features(2 * rgb.permute(0, 3, 1, 2) - 1)
    category, color, accent, azimuth = (part.argmax(1) for part in model.head(features).split(model.sizes, dim=1))
    colors = list(COLORS)
    return Scores(
        [CATEGORIES[i] for i in category.tolist()],
        [colors[i] for i in color.tolist()],
        [colors[i] for i in accent.tolist()],
        azimuth * (360.0 / AZIMUTH_BINS),
        features,
    )


def load_scorer(folder: Path | None = None) -> Scorer:
    """Load the shipped scorer, or the one in `folder`, in eval mode."""
    model = Scorer()
    weights = load_file((folder or assets_dir() / "toybox" / "scorer") / "model.safetensors")
    model.load_state_dict({k: v.float() for k, v in weights.items()})
    return model.eval()


def labels(specs: Sequence[Spec], azimuth: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return class indices of specs and azimuths (B,) in degrees: category, colour, accent, azimuth bin."""
    colors = list(COLORS)
    accents = [spec.accent or DEFAULT_ACCENT[spec.category] or spec.color for spec in specs]
    step = 360.0 / AZIMUTH_BINS
    return (
        torch.tensor([CATEGORIES.index(spec.category) for spec in specs]),
        torch.tensor([colors.index(spec.color) for spec in specs]),
        torch.tensor([colors.index(accent) for accent in accents]),
        ((azimuth + step / 2) % 360 // step).long(),
    )


def train_step(model: Scorer, x: Tensor, targets: Sequence[Tensor], has_front: Tensor) -> Tensor:
    """Return the sum of the cross-entropies. The azimuth counts only for objects with a front.

    x: (B, 3, H, W), augmented. targets: see `labels`. has_front: (B,) 1 or 0.
    """
    logits = model(x)
    loss = sum(
        (nn.functional.cross_entropy(part, target) for part, target in zip(logits[:3], targets[:3], strict=True)),
        torch.zeros(()),
    )
    azimuth = nn.functional.cross_entropy(logits[3], targets[3], reduction="none")
    return loss + (azimuth * has_front).sum() / has_front.sum().clamp(min=1)


@torch.no_grad()
def accuracy(model: Scorer, rgb: Tensor, targets: Sequence[Tensor], has_front: Tensor) -> dict[str, float]:
    """Return the shares of pictures (B, 64, 64, 3) in [0, 1] that are read correctly.

    The azimuth counts as correct within 45 degrees, and only for objects with a front.
    """
    logits = [model(2 * part.permute(0, 3, 1, 2) - 1) for part in rgb.split(256)]
    category, color, accent, azimuth = (torch.cat(parts).argmax(1) for parts in zip(*logits, strict=True))
    off = (azimuth - targets[3]).abs()
    near = torch.minimum(off, AZIMUTH_BINS - off) <= 1
    return {
        "category": (category == targets[0]).float().mean().item(),
        "color": (color == targets[1]).float().mean().item(),
        "accent": (accent == targets[2]).float().mean().item(),
        "azimuth": near[has_front.bool()].float().mean().item(),
    }


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Change pictures (B, 3, H, W) in [-1, 1] as distillation does: blur, fog, pale colours, noise, other backgrounds.

    Pixels close to the corner pixel's colour count as background. Fog is the object's colours, smeared over it.
    """

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    batch, _, height, width = x.shape
    background = (x - x[:, :, :1, :1]).abs().amax(1, keepdim=True) < 0.02  # (B, 1, H, W)
    down, across = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)
    ramp = down * uniform(-1, 1, batch, 1, 1, 1) + across * uniform(-1, 1, batch, 1, 1, 1)
    painted = uniform(-0.8, 1, batch, 3, 1, 1) * 0.4 + uniform(-0.6, 1, batch, 1, 1, 1) * 0.6 + 0.15 * ramp
    x = torch.where(background & (uniform(0, 1, batch, 1, 1, 1) < 0.7), painted, x)

    def blur(pictures: Tensor, radius: int) -> Tensor:
        padded = nn.functional.pad(pictures, (radius,) * 4, mode="replicate")
        return nn.functional.avg_pool2d(padded, 2 * radius + 1, 1)

    x = torch.lerp(x, blur(blur(x, 4), 4), background * uniform(0, 0.5, batch, 1, 1, 1))
    x = torch.lerp(x, blur(x, 1), uniform(0, 1, batch, 1, 1, 1))
    x = torch.lerp(x, blur(blur(x, 1), 1), uniform(-1, 1, batch, 1, 1, 1).clamp(min=0))
    x = torch.lerp(x, x.mean(dim=(2, 3), keepdim=True), uniform(-0.2, 0.3, batch, 1, 1, 1).clamp(min=0))
    x = x * uniform(0.85, 1.05, batch, 1, 1, 1) + 0.04 * torch.randn(x.shape, generator=generator)
    return x.clamp(-1, 1)
