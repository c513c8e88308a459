"""What a prior is told of each picture: a text, and for some priors another picture and the shape that is seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Structure:
    """Maps of B renders that a prior is asked about, at the size of the render, without gradients.

    depth: (B, H, W) in [0, 1], 1 at the nearest surface of a view, 0 at the background. normal: (B, H, W, 3) in
    [-1, 1] in the camera's frame, +x right, +y up, +z to the viewer. alpha: (B, H, W), the opacity. light: (B, H, W, 9)
    sRGB in [0, 1], the shape in the light of its view with known materials, see `rendering.structure.light_maps`; None:
    not told. A prior makes of them what its network takes.
    """

    depth: Tensor
    normal: Tensor
    alpha: Tensor
    light: Tensor | None = None

    def __len__(self) -> int:
        return len(self.depth)

    def __getitem__(self, index: Tensor | slice) -> Structure:
        return Structure(**{name: value[index] for name, value in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """Return all maps that are not None by their names."""
        return {name: value for name, value in vars(self).items() if value is not None}

    @staticmethod
    def of(tensors: Mapping[str, Tensor]) -> Structure | None:
        """Undo `tensors`, of which there may be others. None: there are no maps."""
        names = [field.name for field in fields(Structure) if field.name in tensors]
        return Structure(**{name: tensors[name] for name in names}) if names else None


@dataclass(frozen=True)
class Conditioning:
    """What a prior is told of B pictures.

    hidden: (B, L, D) token embeddings of a text. pooled: (B, D') its pooled embedding, or None. pictures: (B, T, D'')
    embeddings of a picture, for priors that take pictures; a row of zeros, or None, is no picture. structure: maps of
    the B renders, for priors that take structure.
    """

    hidden: Tensor
    pooled: Tensor | None = None
    pictures: Tensor | None = None
    structure: Structure | None = None

    def __len__(self) -> int:
        return self.hidden.shape[0]

    def __getitem__(self, index: Tensor | slice) -> Conditioning:
        return Conditioning.of({name: value[index] for name, value in self.tensors().items()})

    def repeat(self, count: int) -> Conditioning:
        """Return all rows, repeated `count` times."""
        return Conditioning.cat([self] * count)

    def tensors(self) -> dict[str, Tensor]:
        """Return all parts that are not None by their names, those of `structure` as depth, normal and so on."""
        parts = {"hidden": self.hidden, "pooled": self.pooled, "pictures": self.pictures}
        told = {name: value for name, value in parts.items() if value is not None}
        return told if self.structure is None else told | self.structure.tensors()

    @staticmethod
    def of(tensors: Mapping[str, Tensor]) -> Conditioning:
        """Undo `tensors`."""
        return Conditioning(tensors["hidden"], tensors.get("pooled"), tensors.get("pictures"), Structure.of(tensors))

    @staticmethod
    def cat(parts: Sequence[Conditioning]) -> Conditioning:
        """Concatenate the batches of the parts. Parts without pictures get zeros if others have some: no picture.

        Raises ValueError if only some have a pooled embedding or structure.
        """
        named = [part.tensors() for part in parts]
        if (shown := next((one["pictures"] for one in named if "pictures" in one), None)) is not None:
            named = [{"pictures": shown.new_zeros(len(one["hidden"]), *shown.shape[1:])} | one for one in named]
        names = [set(one) for one in named]
        if lacking := set.union(*names) - set.intersection(*names):
            raise ValueError(f"only some of the conditions have {', '.join(sorted(lacking))}: give it to all")
        return Conditioning.of({name: torch.cat([one[name] for one in named]) for name in named[0]})


class TextEncoder(Protocol):
    """Encodes texts, as every prior does."""

    takes_cameras: bool
    """Whether the model takes the camera of each view, so that texts need no view words."""

    def encode_text(self, prompts: Sequence[str]) -> Conditioning:
        """Return embeddings of B texts, B rows; the empty text is the null condition."""
        ...
