"""A radiance field that is a network of coordinates (Mildenhall et al. 2020, "NeRF", arXiv:2003.08934)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from sds3d.representations.base import Start
from sds3d.representations.field_config import FieldNerfConfig
from sds3d.representations.field_nerf import FieldNerfScene, make_field_scene
from sds3d.representations.fields_mlp import MLPField


class MLPNerfConfig(FieldNerfConfig):
    """A network with a positional encoding (NeRF): smooth and very small, but slow, with less detail than the grids."""

    name: Literal["mlp_nerf"] = "mlp_nerf"
    frequencies: int = Field(default=4, ge=0, le=16)
    """Octaves of the positional encoding. NeRF has 10, for scenes with more detail."""
    layers: int = Field(default=3, ge=1, le=16)
    """Hidden layers of the network. NeRF has 8 of width 256."""
    hidden: int = Field(default=64, ge=4, le=1024)
    """Width of the hidden layers."""
    lr: float = Field(default=0.01, gt=0)
    """Learning rate of the network."""

    def make_field(self, generator: torch.Generator) -> MLPField:
        """Make a network of random weights."""
        return MLPField(
            generator, frequencies=self.frequencies, layers=self.layers, lr=self.lr, **self.decoder_options()
        )

    def make(self, start: Start) -> FieldNerfScene:
        """Make a density blob, or a field that looks like `start.before`."""
        return make_field_scene(self, start)
