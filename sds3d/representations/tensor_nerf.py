"""A radiance field of planes times lines (Chen et al. 2022, "TensoRF", arXiv:2203.09517)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from sds3d.representations.base import Start
from sds3d.representations.field_config import FieldNerfConfig
from sds3d.representations.field_nerf import FieldNerfScene, make_field_scene
from sds3d.representations.fields_tensor import TensorField


class TensorNerfConfig(FieldNerfConfig):
    """A tensor radiance field (TensoRF, vector-matrix decomposition): each component is a plane times a line. The
    density is a sum of components without a network, so `separate` has no effect."""

    name: Literal["tensor_nerf"] = "tensor_nerf"
    resolution: int = Field(default=64, ge=4, le=1024)
    """Samples per side of each plane and of each line."""
    density_components: int = Field(default=8, ge=8, le=256, multiple_of=8)
    """Components of the density for each of the three axes."""
    feature_components: int = Field(default=16, ge=8, le=256, multiple_of=8)
    """Components of the colour for each of the three axes."""
    normal_step: float = Field(default=0.01, gt=0)
    """Half-width in metres of the central differences of the density that give the normals of light and losses."""
    lr: float = Field(default=0.02, gt=0)
    """Learning rate of planes and lines."""
    decoder_lr: float = Field(default=0.005, gt=0)
    """Learning rate of the small network."""

    def make_field(self, generator: torch.Generator) -> TensorField:
        """Make planes and lines of random components."""
        return TensorField(
            generator,
            resolution=self.resolution,
            density_components=self.density_components,
            feature_components=self.feature_components,
            lr=self.lr,
            decoder_lr=self.decoder_lr,
            **self.decoder_options(),
        )

    def make(self, start: Start) -> FieldNerfScene:
        """Make a density blob, or a field that looks like `start.before`."""
        return make_field_scene(self, start)
