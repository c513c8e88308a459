"""A radiance field on three feature planes (Chan et al. 2022, "EG3D", arXiv:2112.07945)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from sds3d.representations.base import Start
from sds3d.representations.field_config import FieldNerfConfig
from sds3d.representations.field_nerf import FieldNerfScene, make_field_scene
from sds3d.representations.fields_triplane import TriplaneField


class TriplaneNerfConfig(FieldNerfConfig):
    """A triplane radiance field (EG3D): smooth and compact, with a bias towards shapes along the axes."""

    name: Literal["triplane_nerf"] = "triplane_nerf"
    resolution: int = Field(default=64, ge=4, le=1024)
    """Samples per side of each plane."""
    features: int = Field(default=16, ge=8, le=256, multiple_of=8)
    """Channels of the planes."""
    normal_step: float = Field(default=0.01, gt=0)
    """Half-width in metres of the central differences of the density that give the normals of light and losses."""
    lr: float = Field(default=0.02, gt=0)
    """Learning rate of the planes."""
    decoder_lr: float = Field(default=0.005, gt=0)
    """Learning rate of the small network."""

    def make_field(self, generator: torch.Generator) -> TriplaneField:
        """Make planes of random features."""
        return TriplaneField(
            generator,
            resolution=self.resolution,
            features=self.features,
            lr=self.lr,
            decoder_lr=self.decoder_lr,
            **self.decoder_options(),
        )

    def make(self, start: Start) -> FieldNerfScene:
        """Make a density blob, or a field that looks like `start.before`."""
        return make_field_scene(self, start)
