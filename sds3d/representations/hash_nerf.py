"""A radiance field on a multi-resolution hash grid (Mueller et al. 2022, "Instant-NGP", arXiv:2201.05989)."""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator

from sds3d.ramps import Ramp
from sds3d.representations.base import Start
from sds3d.representations.field_config import FieldNerfConfig
from sds3d.representations.field_nerf import FieldNerfScene, make_field_scene
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
    active_levels: Ramp | None = None
    """Number of levels in use over the run, from the coarsest: coarse shapes first, such as [[0.2, 8], [0.6, 16]].
    null: all."""
    lr: float = Field(default=0.02, gt=0)
    """Learning rate of the tables."""
    decoder_lr: float = Field(default=0.005, gt=0)
    """Learning rate of the small network."""

    @model_validator(mode="after")
    def _levels_exist(self) -> Self:
        if self.active_levels is not None and not (self.active_levels >= 1 and self.active_levels <= self.levels):
            raise ValueError(f"active_levels must be from 1 to levels = {self.levels}")
        return self

    def make_field(self, generator: torch.Generator) -> HashField:
        """Make a hash grid with small random entries."""
        return HashField(
            generator,
            levels=self.levels,
            entries=1 << self.log2_entries,
            coarsest=self.coarsest,
            finest=self.finest,
            active=self.active_levels,
            lr=self.lr,
            decoder_lr=self.decoder_lr,
            **self.decoder_options(),
        )

    def make(self, start: Start) -> FieldNerfScene:
        """Make a density blob, or a field that looks like `start.before`."""
        return make_field_scene(self, start)
