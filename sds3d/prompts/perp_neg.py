"""Texts between views, and the words of neighbouring views as negatives (Perp-Neg, Armandpour et al. 2023,
arXiv:2304.04968, sec. 4.3).

The text of a view is interpolated by its azimuth between the texts of front and side, or of side and back. Ahead of the
side, the negatives are the front and the side; behind it, they are the side and the front. A weight is -(a exp(-b r) +
c), where r is a share of the interpolated text.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from sds3d.config import Config
from sds3d.prompts.conditioning import Conditioning

Curve = tuple[float, float, float]
"""a, b and c of a exp(-b r) + c."""


class PerpNegConfig(Config):
    """Perp-Neg; the curves are threestudio's. Those of stable-dreamfusion and HiFA, with a weight of -2 and decays of 2
    and 10, are front [2, 2, 0], side [2, 10, 0], side_behind [1, 10, 0], front_behind [0, 0, 2] and cut 0.8."""

    strength: float = Field(default=0.0, ge=0.0)
    """Factor on the weights. 0: off. 1: the paper's; 0.5 in ScaleDreamer, 3 in classifier score distillation. The prior
    then processes two more texts per view. Only with view words, so not for priors that take cameras."""
    front: Curve = (4.0, 0.5, -2.426)
    """a, b, c of the front's weight ahead of the side; r is the front's share of the text."""
    side: Curve = (4.0, 0.5, -2.426)
    """a, b, c of the side's weight ahead of the side; r is the side's share."""
    side_behind: Curve = (1.0, 0.5, -0.606)
    """a, b, c of the side's weight behind the side; r is the side's share."""
    front_behind: Curve = (1.0, 0.5, 0.967)
    """a, b, c of the front's weight behind the side; r is the side's share."""
    cut: float = Field(default=1.0, gt=0.0, le=1.0)
    """Share of the text above which the words of that view have no weight."""


@dataclass(frozen=True)
class Neighbours:
    """The negatives of B views: their texts, B rows each, and their weights (B, len(texts)), at most 0 up to rounding;
    none without Perp-Neg."""

    texts: tuple[Conditioning, ...]
    weights: Tensor


def quarter(azimuth: Tensor) -> tuple[Tensor, Tensor]:
    """Return for azimuths (B,) in degrees whether they are ahead of the side (B,), and r (B,): the share of the first
    view of their quarter turn, which is the front or, behind it, the side.
    """
    away = (180.0 - (180.0 - azimuth) % 360.0).abs() / 90  # (B,) from the front, in quarter turns
    ahead = away < 1
    return ahead, torch.where(ahead, 1 - away, 2 - away)


def negative_weights(config: PerpNegConfig, azimuth: Tensor) -> Tensor:
    """Return the weights (B, 2) of the two negatives of views at these azimuths (B,) in degrees."""
    ahead, r = quarter(azimuth)
    first = torch.where(ahead, _curve(config.front, r), _curve(config.side_behind, r))
    second = torch.where(ahead, _curve(config.side, 1 - r), _curve(config.front_behind, r))
    first = first.masked_fill(r > config.cut, 0.0)
    second = second.masked_fill(ahead & (1 - r > config.cut), 0.0)
    return config.strength * torch.stack([first, second], dim=1)


def between(first: Conditioning, second: Conditioning, share: Tensor) -> Conditioning:
    """Blend embeddings: share (B,) of the first, the rest of the second."""

    def blend(a: Tensor, b: Tensor) -> Tensor:
        return b + share.to(a).reshape(-1, *[1] * (a.dim() - 1)) * (a - b)

    others = second.tensors()
    return Conditioning.of({name: blend(value, others[name]) for name, value in first.tensors().items()})


def _curve(curve: Curve, r: Tensor) -> Tensor:
    a, b, c = curve
    return -(a * torch.exp(-b * r) + c)
