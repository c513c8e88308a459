"""The contract of generators: a text goes in, and the parameters of an ordinary radiance field come out.

The network gives some of the field's parameters. The others are shared by all texts, and are trained with the network.
What a generator makes is therefore a scene like any other, which renders, exports and can be optimised further.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from sds3d.config import Config
from sds3d.priors.base import Prior
from sds3d.prompts.conditioning import Conditioning
from sds3d.ramps import Ramp
from sds3d.representations.field_config import FieldNerfConfig
from sds3d.representations.field_nerf import FieldNerfScene
from sds3d.representations.fields import RadianceField

BETAS = (0.9, 0.99)


class GeneratorConfig(Config, ABC):
    """Base of the settings of every generator."""

    name: Any
    """The word that chooses the network: a `Literal` in every subclass."""
    lr: float = Field(default=4e-4, gt=0)
    """Learning rate of the network."""
    shared_lr: float = Field(default=1e-3, gt=0)
    """Learning rate of the field's parameters that all texts share."""
    opacity: Ramp = Field(default=Ramp(((0.0, 0.0), (0.3, 0.0), (0.6, 0.02))), ge=0)
    """Weight of the opacity, summed over a view's pixels: prevents fog. While there are no shapes yet, it would make
    all objects vanish."""

    @property
    @abstractmethod
    def representation(self) -> FieldNerfConfig:
        """The settings of the representation that is generated."""

    @abstractmethod
    def make(self, width: int, prior: Prior, generator: torch.Generator) -> Generator:
        """Return a network with random weights, on the CPU or the prior's device.

        width: size of a token's embedding by the prior's text encoder. Raises PriorError if the prior's network is of
        no use for this one.
        """


class Generator(nn.Module, ABC):
    """A network that gives the parameters of a field.

    text_width: size of a token's embedding. field: holds the parameters that all texts share.
    """

    seed_size: int
    """Normal random numbers in the seed that tells several objects of one text apart."""
    gives: frozenset[str]
    """The field's parameters that the network gives, by their names in its state."""
    parts: int = 1
    """Fields that a step of training teaches, see `estimates`."""

    def __init__(self, config: GeneratorConfig, text_width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.config, self.text_width = config, text_width
        self.field = config.representation.make_field(generator)

    @abstractmethod
    def forward(self, text: Conditioning, seed: Tensor) -> dict[str, Tensor]:
        """Return parameters of the field by their names in its state.

        text: one row, the embeddings of the text. seed: (Z,) normal random numbers, with Z = `seed_size`.
        """

    def estimates(self, text: Conditioning, random: torch.Generator) -> Iterator[dict[str, Tensor]]:
        """Yield the fields that a step of training teaches, `parts` of them, each as `forward` returns it.

        Most networks yield what they make of a random seed. A network that works in several steps yields the estimate
        of each; the gradient of one is computed before the next is made. random: on the CPU.
        """
        yield self(text, self.draw_seed(random).to(text.hidden))

    def draw_seed(self, random: torch.Generator) -> Tensor:
        """Draw a seed (Z,) on the CPU."""
        return torch.randn(self.seed_size, generator=random)


class GeneratedField(RadianceField):
    """A field that a generator made; gradients reach the generator. `given` is what it made."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator
        self.given: dict[str, Tensor] = {}

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """See `RadianceField`."""
        return functional_call(self.generator.field, self.given, (points,))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return two groups: the network, and what all texts share. Parameters that the network gives are left out."""
        config, gives = self.generator.config, self.generator.gives
        network = [p for name, p in self.generator.named_parameters() if not name.startswith("field.")]
        shared = [p for name, p in self.generator.field.named_parameters() if name not in gives]
        return [
            {"params": network, "lr": config.lr, "betas": BETAS},
            {"params": shared, "lr": config.shared_lr, "betas": BETAS},
        ]


class GeneratedScene(FieldNerfScene):
    """The scene of one text at a time; gradients reach the generator. Call `choose` before each step."""

    def __init__(self, generator: Generator, random: torch.Generator, device: torch.device | str, steps: int) -> None:
        super().__init__(generator.config.representation, random, device, steps)
        self.generated = self.field = GeneratedField(generator)
        self._chosen: tuple[Conditioning, torch.Generator] | None = None

    def choose(self, text: Conditioning, random: torch.Generator) -> None:
        """Choose the text of the next step, one row. random: draws seed and noise of its object, on the CPU."""
        self._chosen = text, random

    def parts(self) -> Iterator[float]:
        """Make the fields of the text one after the other, and survey where each has matter."""
        assert self._chosen is not None, "choose a text first"
        generator = self.generated.generator
        for given in generator.estimates(*self._chosen):
            self.generated.given = given
            self.survey()
            yield 1 / generator.parts

    def after_step(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Count the step. The occupancy grid is that of the text, so `parts` updates it."""
        self._step = step + 1


def generate(generator: Generator, text: Conditioning, seed: Tensor) -> FieldNerfScene:
    """Return the scene of a text, on the generator's device.

    text: one row. seed: (Z,) normal random numbers. The scene does not depend on the generator any more.
    """
    config, device = generator.config.representation, text.hidden.device
    scene = FieldNerfScene(config, torch.Generator().manual_seed(0), device, steps=1)
    with torch.no_grad():
        given = generator(text, seed.to(device))
        scene.field.load_state_dict({**generator.field.state_dict(), **given})
    scene.survey()
    return scene
