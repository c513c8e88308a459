"""What is behind the renders of a step: a colour, colours drawn at random, or a learned environment."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from sds3d.cameras import Cameras
from sds3d.config import Config
from sds3d.geometry import splats
from sds3d.geometry.splats import SH_C0
from sds3d.representations.base import Rendering, Scene
from sds3d.representations.fields_hash import hash_encode

Level = Annotated[float, Field(ge=0, le=1)]
Color = tuple[Level, Level, Level]
Each = Literal["step", "view"]


class SolidBackground(Config):
    """One colour, the same in all steps."""

    name: Literal["solid"] = "solid"
    color: Color = (1.0, 1.0, 1.0)
    """The colour, in [0, 1]."""


class RandomBackground(Config):
    """A colour that is drawn for each step or view."""

    name: Literal["random"] = "random"
    each: Each = "step"
    """Whether the views of a step share a colour, or each view has its own."""
    share: float = Field(default=1.0, ge=0, le=1)
    """Share of the draws in which the colour is any, each channel uniform in [0, 1]. Others take one of `others`."""
    others: tuple[Color, ...] = Field(default=((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), min_length=1, max_length=64)
    """Colours of the other draws, each equally likely."""


class LearnedBackground(Config):
    """An environment around the object that is learned with it: colours by the direction of the ray, from a small
    network. It is part of the run's state, but not of the asset and its pictures."""

    name: Literal["learned"] = "learned"
    lr: float = Field(default=0.001, gt=0)
    """Learning rate of the network."""
    encoding: Literal["harmonics", "hash"] = "harmonics"
    """What the network sees of a direction: nine spherical harmonics, for smooth environments, or features of a hash
    grid with 4 to 256 cells per side of the cube of directions, for fine detail (ScaleDreamer)."""
    log2_entries: int = Field(default=19, ge=8, le=24)
    """Binary logarithm of the number of entries of a level of the hash grid."""
    encoding_lr: float = Field(default=0.01, gt=0)
    """Learning rate of the hash grid."""
    activation: Literal["sigmoid", "linear"] = "sigmoid"
    """How the network's outputs y become colours: sigmoid(y), or linear, (y + 1) / 2, without bounds. Latents are y."""
    random_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the steps whose renders have a random colour behind them instead, uniform in [0, 1]: parts of the object
    cannot hide in the environment."""
    each: Each = "view"
    """Whether the views of such a step share the colour, or each view has its own."""


Background = Annotated[SolidBackground | RandomBackground | LearnedBackground, Field(discriminator="name")] | None
"""None: a random light tinted grey in each step."""

STREAM = "background"
"""Name of the random stream that a background with `draws` needs."""

_BANDS = 9  # spherical harmonics of l = 0, 1, 2: what tiny-cuda-nn calls degree 3
_CELLS = (4, 16, 64, 256)  # per side of the levels of the hash grid
_WIDTH = 16


def by_name(given: object) -> object:
    """Return a background that is given as a colour or by its name alone as a section. Raises ValueError."""
    match given:
        case str():
            return {"name": given}
        case list() | tuple():
            return {"name": "solid", "color": given}
        case None | Config() | {"name": _}:
            return given
        case _:
            raise ValueError("give a colour such as [1, 1, 1], a name (solid, random, learned) or null")


def draws(background: Background) -> bool:
    """Return whether a background needs random numbers beyond those of the default."""
    return isinstance(background, (RandomBackground, LearnedBackground))


class Environment(nn.Module):
    """A picture around the scene: an encoded direction, and a network of two hidden layers, no biases.

    latents: channels of the latents that it consists of; 0: it consists of colours.
    """

    def __init__(self, config: LearnedBackground, generator: torch.Generator, latents: int = 0) -> None:
        super().__init__()
        self.config, self.latents = config, latents
        sizes = (2 * len(_CELLS) if config.encoding == "hash" else _BANDS, _WIDTH, _WIDTH, latents or 3)
        self.weights = nn.ParameterList(
            math.sqrt(2 / inputs) * torch.randn(outputs, inputs, generator=generator)
            for inputs, outputs in pairwise(sizes)
        )
        self.table = None
        if config.encoding == "hash":
            values = torch.rand(len(_CELLS), 1 << config.log2_entries, 2, generator=generator)
            self.table = nn.Parameter(1e-2 * (2 * values - 1))

    def forward(self, directions: Tensor) -> Tensor:
        """Return colours, or latents, (..., C) in unit directions (..., 3)."""
        first, second, last = self.weights
        hidden = torch.relu(torch.relu(self._encode(directions) @ first.T) @ second.T)
        y = hidden @ last.T
        if self.latents:
            return y
        return torch.sigmoid(y) if self.config.activation == "sigmoid" else (y + 1) / 2

    def _encode(self, directions: Tensor) -> Tensor:
        if self.table is None:
            return harmonics(directions)
        places = 0.5 * (directions.reshape(-1, 3) + 1)  # in the unit cube
        return hash_encode(places, self.table, torch.tensor(_CELLS)).reshape(*directions.shape[:-1], -1)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the network, and the hash grid if there is one, in the form that torch optimisers take."""
        groups: list[dict[str, Any]] = [{"params": list(self.weights), "lr": self.config.lr}]
        return groups + ([] if self.table is None else [{"params": [self.table], "lr": self.config.encoding_lr}])


def make_environment(
    background: Background, latents: int, generators: Mapping[str, torch.Generator], device: torch.device | str
) -> Environment | None:
    """Return a new environment for a background that is learned; None for others. latents: see `Environment`."""
    if not isinstance(background, LearnedBackground):
        return None
    return Environment(background, generators[STREAM], latents).to(device)


def harmonics(directions: Tensor) -> Tensor:
    """Return the real spherical harmonics of l = 0, 1, 2 of unit directions (..., 3): (..., 9), orthonormal."""
    x, y, z = directions.unbind(-1)
    return torch.stack([torch.full_like(x, SH_C0), *splats.harmonics(2, x, y, z)], dim=-1)


def behind_views(
    background: Background,
    environment: Environment | None,
    cameras: Cameras,
    grey: Tensor,
    generators: Mapping[str, torch.Generator],
) -> Tensor:
    """Return what is behind the B views of a step: one colour (3,), one a view (B, 3), or a picture (B, H, W, C).

    grey: (3,), the colour if the background is None. generators: the stream `STREAM` is used if the background `draws`.
    cameras: on the environment's device, where the picture is; colours are on the CPU.
    """
    views = len(cameras)
    match background:
        case None:
            return grey
        case SolidBackground():
            return torch.tensor(background.color)
        case RandomBackground():
            return _drawn(background, 1 if background.each == "step" else views, generators[STREAM])
        case LearnedBackground():
            generator = generators[STREAM]
            # Both are always drawn, so that a share does not change other draws.
            decided, colors = torch.rand((), generator=generator), torch.rand(views, 3, generator=generator)
            if decided < background.random_share:
                return colors[0] if background.each == "step" else colors
            assert environment is not None
            return environment(cameras.rays()[1])


def _drawn(background: RandomBackground, count: int, generator: torch.Generator) -> Tensor:
    """Return one colour (3,), or `count` of them (count, 3)."""
    decided, colors = torch.rand(count, generator=generator), torch.rand(count, 3, generator=generator)
    others = torch.tensor(background.others)
    picked = others[torch.randint(len(others), (count,), generator=generator)]  # (count, 3)
    drawn = torch.where(decided[:, None] < background.share, colors, picked)
    return drawn[0] if count == 1 else drawn


def render_over(scene: Scene, cameras: Cameras, behind: Tensor) -> Rendering:
    """Render the B views over what `behind_views` returned. A scene that renders latents gets them from a picture.

    A picture is put behind the render after the renderer, so that every renderer needs to know plain colours only. The
    gradient reaches it and the scene's opacity. The colours of a scene of latents are then those over black.
    """
    if behind.ndim < 4:
        return scene.render(cameras, behind)
    black = scene.render(cameras, behind.new_zeros(3))
    if black.latent is None:
        return replace(black, rgb=black.rgb + (1 - black.alpha) * behind)
    return replace(black, latent=black.latent + ((1 - black.alpha) * behind).permute(0, 3, 1, 2))
