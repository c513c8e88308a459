"""A radiance field that is a network of coordinates (Mildenhall et al. 2020, "NeRF", arXiv:2003.08934, section 5.1)."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from sds3d.rendering.volume import BOUND
from sds3d.representations.fields import BETAS, Decoder, DecoderOptions, RadianceField, linear


def positional_encode(points: Tensor, frequencies: int) -> Tensor:
    """Return encodings (P, 3 + 6 L) of points (P, 3) in [-1, 1]: p, then sin and cos of 2^k pi p for k < L.

    NeRF's equation 4, and the point itself, as in its code. Differentiable in the points.
    """
    # The angle addition formula costs less than L sines: sin(2 a) = 2 sin(a) cos(a), cos(2 a) = 1 - 2 sin(a)^2.
    sine, cosine = torch.sin(math.pi * points), torch.cos(math.pi * points)
    parts = [points]
    for _ in range(frequencies):
        parts += [sine, cosine]
        sine, cosine = 2 * sine * cosine, 1 - 2 * sine * sine
    return torch.cat(parts, dim=-1)


class MLPField(RadianceField):
    """A positional encoding and a network. Also twice differentiable in the points.

    frequencies: L of `positional_encode`. layers: hidden layers, the last of which is `Decoder`'s; all have the
    decoder's width. lr: learning rate. decoder: see `DecoderOptions`.
    """

    def __init__(
        self,
        generator: torch.Generator,
        *,
        frequencies: int = 4,
        layers: int = 3,
        lr: float = 0.01,
        **decoder: Unpack[DecoderOptions],
    ) -> None:
        super().__init__()
        self.lr, self.frequencies = lr, frequencies
        inputs, hidden = 3 + 6 * frequencies, decoder.get("hidden", 32)
        widths = [inputs] + [hidden] * (layers - 1)
        trunk = [
            module
            for before, after in pairwise(widths)
            for module in (linear(before, after, math.sqrt(2), generator), nn.ReLU(inplace=True))
        ]
        self.trunk = nn.Sequential(*trunk)
        self.decoder = Decoder(widths[-1], generator, **decoder)
        with torch.no_grad():  # otherwise the start shape is covered with waves
            self.decoder.out.weight.mul_(0.1)

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """See `RadianceField`."""
        encoding = positional_encode((points / BOUND).clamp(-1, 1), self.frequencies)
        return self.decoder(self.trunk(encoding), points)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return one group, of all weights."""
        return [{"params": list(self.parameters()), "lr": self.lr, "betas": BETAS}]
