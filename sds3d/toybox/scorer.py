"""The scorer: a small network that reads category, colours and azimuth from a toybox picture.

It only measures and never guides. It is trained on different renders than the prior: other seeds, lights and
backgrounds, blurred and noisy, so that it reads distilled objects as well as clean ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sds3d.config import assets_dir
from sds3d.priors.network_files import load_weights, read_settings, save_network
from sds3d.toybox.world import CATEGORIES, COLORS, DEFAULT_ACCENT, Spec

CARD = "card.json"
SIZE = 64  # height and width of the pictures
AZIMUTH_BINS = 8
"""Bins of 45 degrees; bin 0 is centred on the front."""
WIDTH = 48
"""Channels of a new scorer's first layer. The first world's, for 16 kinds, has 32."""


class Scorer(nn.Module):
    """Maps pictures (B, 3, P, P) in [-1, 1] to logits of category, colour, accent colour and azimuth bin.

    kinds: the categories it tells apart, in the order of its outputs. pixels: the size P, a multiple of 16.
    """

    def __init__(self, kinds: Sequence[str] = CATEGORIES, width: int = WIDTH, pixels: int = 64) -> None:
        super().__init__()
        self.kinds, self.width, self.pixels = tuple(kinds), width, pixels

        def block(inside: int, outside: int, stride: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.GroupNorm(8, outside), nn.ReLU()
            )

        self.features = nn.Sequential(
            block(3, width, 2),  # P / 2
            block(width, 2 * width, 2),  # P / 4
            block(2 * width, 2 * width, 1),
            block(2 * width, 4 * width, 2),  # P / 8
            block(4 * width, 4 * width, 1),
            block(4 * width, 8 * width, 2),  # P / 16
            nn.Flatten(),
            nn.Linear((pixels // 16) ** 2 * 8 * width, 8 * width),
            nn.ReLU(),
        )
        self.sizes = (len(kinds), len(COLORS), len(COLORS), AZIMUTH_BINS)
        self.head = nn.Linear(8 * width, sum(self.sizes))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return logits (B, kinds), (B, 10), (B, 10), (B, 8)."""
        return self.head(self.features(x)).split(self.sizes, dim=1)


@dataclass(frozen=True)
class Scores:
    """The scorer's reading of B pictures.

    category, color, accent: names. azimuth: (B,) degrees, the centre of the most probable bin.
    features: (B, 8 width) penultimate activations, for the FID.
    """

    category: list[str]
    color: list[str]
    accent: list[str]
    azimuth: Tensor
    features: Tensor


@torch.no_grad()
def score(model: Scorer, rgb: Tensor) -> Scores:
    """Read pictures (B, H, W, 3) in [0, 1]. Larger ones than the scorer's are reduced to its size."""
    features = model.features(2 * _to_size(rgb.permute(0, 3, 1, 2), model.pixels) - 1)
    category, color, accent, azimuth = (part.argmax(1) for part in model.head(features).split(model.sizes, dim=1))
    colors = list(COLORS)
    return Scores(
        [model.kinds[i] for i in category.tolist()],
        [colors[i] for i in color.tolist()],
        [colors[i] for i in accent.tolist()],
        azimuth * (360.0 / AZIMUTH_BINS),
        features,
    )


def _to_size(pictures: Tensor, pixels: int) -> Tensor:
    """Reduce pictures (B, 3, H, W) to (B, 3, pixels, pixels) by the mean over areas."""
    same = pictures.shape[-2:] == (pixels, pixels)
    return pictures if same else nn.functional.adaptive_avg_pool2d(pictures, pixels)


def load_scorer(folder: Path | None = None) -> Scorer:
    """Load the shipped scorer, or the one in `folder`, in eval mode. Its card tells its kinds and sizes.

    Raises ValueError if the card lacks them.
    """
    folder = folder or assets_dir() / "toybox" / "scorer"
    card = read_settings(folder, CARD)
    try:
        model = Scorer(card["kinds"], card["width"], card["pixels"])
    except KeyError as error:
        raise ValueError(f"{folder / CARD} has no {error}: train it anew with sds3d toybox train --scorer") from None
    return load_weights(model, folder).eval()


def save_scorer(folder: Path, model: Scorer, figures: dict[str, float]) -> None:
    """Write the weights in fp16, and a card with kinds, sizes and the figures that were measured."""
    card = {"kinds": list(model.kinds), "width": model.width, "pixels": model.pixels, **figures}
    save_network(folder, model, card, CARD)


def labels(
    specs: Sequence[Spec], azimuth: Tensor, kinds: Sequence[str] = CATEGORIES
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return class indices of specs and azimuths (B,) in degrees: category, colour, accent, azimuth bin."""
    colors = list(COLORS)
    accents = [spec.accent or DEFAULT_ACCENT[spec.category] or spec.color for spec in specs]
    step = 360.0 / AZIMUTH_BINS
    return (
        torch.tensor([kinds.index(spec.category) for spec in specs]),
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
        torch.zeros((), device=x.device),
    )
    azimuth = nn.functional.cross_entropy(logits[3], targets[3], reduction="none")
    return loss + (azimuth * has_front).sum() / has_front.sum().clamp(min=1)


@torch.no_grad()
def accuracy(model: Scorer, rgb: Tensor, targets: Sequence[Tensor], has_front: Tensor) -> dict[str, float]:
    """Return the shares of pictures (B, H, W, 3) in [0, 1] that are read correctly.

    The azimuth counts as correct within 45 degrees, and only for objects with a front.
    """
    logits = [model(2 * _to_size(part.permute(0, 3, 1, 2), model.pixels) - 1) for part in rgb.split(256)]
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
        return low + (high - low) * torch.rand(*shape, generator=generator, device=x.device)

    batch, _, height, width = x.shape
    background = (x - x[:, :, :1, :1]).abs().amax(1, keepdim=True) < 0.02  # (B, 1, H, W)
    down = torch.linspace(-1, 1, height, device=x.device)[:, None]
    across = torch.linspace(-1, 1, width, device=x.device)
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
    x = x * uniform(0.85, 1.05, batch, 1, 1, 1) + 0.04 * torch.randn(x.shape, generator=generator, device=x.device)
    return x.clamp(-1, 1)
