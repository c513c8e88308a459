"""A radiance field on a multi-resolution hash grid (Mueller et al. 2022, "Instant-NGP", arXiv:2201.05989)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from sds3d.representations.field_nerf import FieldNerfConfig
from sds3d.representations.fields_hash import HashField


class HashNerfConfig(FieldNerfConfig):
    """A hash-grid radiance field (Instant-NGP): fine detail where it is needed, but a little noise."""

    name: Literal["hash_nerf"] = "hash_nerf"
    levels: int = Field(default=8, ge=1, le=24)
    """Number of resolutions at which the field is stored."""
    log2_entries: int = Field(default=14, ge=8, le=24)
    """Binary logarithm of the number of entries of a level's table; the corners of finer grids share entries."""
    coarsest: int = Field(default=8, ge=1)
    """Cells per side of the coarsest level."""
    finest: int = Field(default=96, ge=1, le=4096)
    """Cells per side of the finest level."""
    lr: float = Field(default=0.02, gt=0)
    """Learning rate of the tables."""
    decoder_lr: float = Field(default=0.005, gt=0)
    """Learning rate of the small network."""

    def make_field(self, generator: torch.Generator) -> HashField:
        """Make a hash grid with small random entries."""
        return HashField(
            generator,
            levels=self.levels,
            entries=1 << self.log2_entries,
            coarsest=self.coarsest,
            finest=self.finest,
            lr=self.lr,
            decoder_lr=self.decoder_lr,
            **self.decoder_options(),
        )
