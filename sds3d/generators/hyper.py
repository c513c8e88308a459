"""A network that gives the weights of a small network, after Hyper-iNGP of ScaleDreamer (arXiv:2407.02040).

All texts share one hash grid. The text chooses how its features become density and colour.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from sds3d.generators.base import Generator, GeneratorConfig
from sds3d.priors.base import Prior
from sds3d.prompts.conditioning import Conditioning
from sds3d.representations.hash_nerf import HashNerfConfig


class HyperGeneratorConfig(GeneratorConfig):
    """A hyper-network over one hash grid (ScaleDreamer's Hyper-iNGP)."""

    name: Literal["hyper"] = "hyper"
    seed_size: int = Field(default=8, ge=1, le=256)
    """Numbers in the seed that tells several objects of one text apart."""
    width: int = Field(default=64, ge=8, le=2048)
    """Size of the text's code, from which all weights follow."""
    levels: int = Field(default=8, ge=1, le=24)
    """Resolutions of the hash grid."""
    log2_entries: int = Field(default=15, ge=8, le=24)
    """Binary logarithm of the number of entries of a level's table."""
    finest: int = Field(default=96, ge=8, le=4096)
    """Cells per side of the finest level."""
    hidden: int = Field(default=64, ge=4, le=256)
    """Width of the hidden layer whose weights are generated."""

    @property
    def representation(self) -> HashNerfConfig:
        """The settings of the hash grid."""
        return HashNerfConfig(
            levels=self.levels,
            log2_entries=self.log2_entries,
            finest=self.finest,
            hidden=self.hidden,
            opacity=self.opacity,
        )

    def make(self, width: int, prior: Prior, generator: torch.Generator) -> HyperGenerator:
        """Return a network with random weights."""
        return HyperGenerator(self, width, generator)


class HyperGenerator(Generator):
    """The hyper-network."""

    def __init__(self, config: HyperGeneratorConfig, text_width: int, generator: torch.Generator) -> None:
        super().__init__(config, text_width, generator)
        sizes = {name: value.shape for name, value in self.field.get_submodule("decoder").named_parameters()}
        self.shapes = {f"decoder.{name}": shape for name, shape in sizes.items()}
        self.gives, self.seed_size = frozenset(self.shapes), config.seed_size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            self.score = nn.Linear(text_width, 1)
            self.code = nn.Sequential(
                nn.Linear(text_width + config.seed_size, config.width), nn.LayerNorm(config.width), nn.SiLU()
            )
            self.weights = nn.ModuleDict(
                {name.replace(".", "/"): nn.Linear(config.width, shape.numel()) for name, shape in self.shapes.items()}
            )
        # At the start, every text has the weights of an ordinary field.
        own = dict(self.field.named_parameters())
        with torch.no_grad():
            for name in self.shapes:
                layer = self.layer(name)
                layer.weight.mul_(0.1 * float(own[name].std(correction=0)) * math.sqrt(3))
                layer.bias.copy_(own[name].flatten())

    def layer(self, name: str) -> nn.Linear:
        """Return the layer that gives a parameter of the field."""
        layer = self.weights[name.replace(".", "/")]
        assert isinstance(layer, nn.Linear)
        return layer

    def forward(self, text: Conditioning, seed: Tensor) -> dict[str, Tensor]:
        """Return the weights of the network behind the hash grid."""
        hidden = text.hidden[0]  # (L, W)
        pooled = (self.score(hidden).softmax(0) * hidden).sum(0)  # (W,)
        code = self.code(torch.cat([pooled, seed]))
        return {name: self.layer(name)(code).reshape(shape) for name, shape in self.shapes.items()}
