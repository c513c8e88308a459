"""Embeddings of texts, and the contract of text encoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """Text embeddings of B prompts. hidden: (B, L, D) token embeddings; pooled: (B, D') or None."""

    hidden: Tensor
    pooled: Tensor | None = None

    def __len__(self) -> int:
        return self.hidden.shape[0]

    def __getitem__(self, index: Tensor | slice) -> Conditioning:
        return Conditioning(self.hidden[index], None if self.pooled is None else self.pooled[index])

    def repeat(self, count: int) -> Conditioning:
        """Return all rows, repeated `count` times."""
        return Conditioning.cat([self] * count)

    @staticmethod
    def cat(parts: Sequence[Conditioning]) -> Conditioning:
        """Concatenate the batches of the parts."""
        pooled = [part.pooled for part in parts if part.pooled is not None]
        return Conditioning(torch.cat([part.hidden for part in parts]), torch.cat(pooled) if pooled else None)


class TextEncoder(Protocol):
    """Encodes texts, as every prior does."""

    takes_cameras: bool
    """Whether the model takes the camera of each view, so that texts need no view words."""

    def encode_text(self, prompts: Sequence[str]) -> Conditioning:
        """Return embeddings of B texts, B rows; the empty text is the null condition."""
        ...
