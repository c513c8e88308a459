"""The contract of generators: a text goes in, and the parameters of an ordinary radiance field come out.

The network gives some of the field's parameters. The others are shared by all texts, and are trained with the network.
What a generator makes is therefore a scene like any other, which renders, exports and can be optimised further.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from sds3d.config import Config
from sds3d.representations.field_config import FieldNerfConfig
from sds3d.representations.field_nerf import FieldNerfScene
from sds3d.representations.fields import RadianceField

BETAS = (0.9, 0.99)


class GeneratorConfig(Config, ABC):
    """Base of the settings of every generator."""

    name: Any
    """The word that chooses the network: a `Literal` in every subclass."""
    seed_size: int = Field(default=8, ge=1, le=256)
    """Numbers in the seed that tells several objects of one text apart."""
    lr: float = Field(default=4e-4, gt=0)
    """Learning rate of the network."""
    shared_lr: float = Field(default=1e-3, gt=0)
    """Learning rate of the field's parameters that all texts share."""

    @property
    @abstractmethod
    def representation(self) -> FieldNerfConfig:
        """The settings of the representation that is generated."""

    @abstractmethod
    def make(self, width: int, generator: torch.Generator) -> Generator:
        """Return a network with random weights. width: size of a token's embedding by the prior's text encoder."""


class Generator(nn.Module, ABC):
    """A network that gives the parameters of a field.

    text_width: size of a token's embedding. field: holds the parameters that all texts share.
    """

    def __init__(self, config: GeneratorConfig, text_width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.config, self.text_width = config, text_width
        self.field = config.representation.make_field(generator)

    @abstractmethod
    def forward(self, hidden: Tensor, seed: Tensor) -> dict[str, Tensor]:
        """Return parameters of the field by their names in its state.

        hidden: (L, W) embeddings of the text's tokens. seed: (Z,) normal random numbers.
        """


class GeneratedField(RadianceField):
    """The field of one text at a time; gradients reach the generator. Call `choose` before it is rendered."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator
        self._given: dict[str, Tensor] = {}

    def choose(self, hidden: Tensor, seed: Tensor) -> None:
        """Generate the field of a text, see `Generator.forward`."""
        self._given = self.generator(hidden, seed)

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """See `RadianceField`."""
        return functional_call(self.generator.field, self._given, (points,))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return two groups: the network, and what all texts share. Parameters that the network gives are left out."""
        config, own = self.generator.config, dict(self.generator.field.named_parameters())
        network = [p for name, p in self.generator.named_parameters() if not name.startswith("field.")]
        shared = [p for name, p in own.items() if name not in self._given]
        return [
            {"params": network, "lr": config.lr, "betas": BETAS},
            {"params": shared, "lr": config.shared_lr, "betas": BETAS},
        ]


class GeneratedScene(FieldNerfScene):
    """The scene of one text at a time; gradients reach the generator. Call `choose` before each step."""

    def __init__(self, generator: Generator, random: torch.Generator, device: torch.device | str, steps: int) -> None:
        super().__init__(generator.config.representation, random, device, steps)
        self.generated = self.field = GeneratedField(generator)

    def choose(self, hidden: Tensor, seed: Tensor) -> None:
        """Generate the field of a text, see `Generator.forward`, and survey where it has matter."""
        self.generated.choose(hidden, seed)
        self.survey()

    def after_step(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Count the step. The occupancy grid is that of the text, so `choose` updates it."""
        self._step = step + 1


def generate(generator: Generator, hidden: Tensor, seed: Tensor) -> FieldNerfScene:
    """Return the scene of a text, on the generator's device.

    hidden: (L, W) embeddings of the text's tokens. seed: (Z,) normal random numbers. The scene does not depend on the
    generator any more.
    """
    config = generator.config.representation
    scene = FieldNerfScene(config, torch.Generator().manual_seed(0), hidden.device, steps=1)
    with torch.no_grad():
        given = generator(hidden, seed)
        scene.field.load_state_dict({**generator.field.state_dict(), **given})
    scene.survey()
    return scene
