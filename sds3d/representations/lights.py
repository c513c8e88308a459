"""The light that a metallic-roughness material is lit by: one environment, or several that views draw from."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.config import Config
from sds3d.formats.panoramas import read_panorama
from sds3d.rendering.panoramas import Studio, all_prefiltered, built_in, random_lamps, reduced, turned
from sds3d.rendering.shading import Environment


class LightConfig(Config):
    """Settings of every environment."""

    strength: float = Field(default=1.0, gt=0, le=1000)
    """Factor on the light."""
    azimuth: float = Field(default=0.0, ge=-360, le=360)
    """Degrees by which the environment is turned, counter-clockwise seen from above."""


class StudioLight(LightConfig):
    """A built-in environment of grey light."""

    name: Studio = "studio"
    """studio: two soft lamps and a bright ceiling; even: the same from everywhere; side: a lamp from the left; top: a
    broad lamp above."""


class LampsLight(LightConfig):
    """A few soft lamps at random places."""

    name: Literal["lamps"] = "lamps"
    seed: int = Field(default=0, ge=0)
    """Which lamps: every seed gives others."""
    count: tuple[int, int] = (2, 4)
    """Least and greatest number of lamps, 1 to 16."""
    tint: float = Field(default=0.3, ge=0, le=1)
    """How strongly the lamps are coloured; 0: white."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not 1 <= self.count[0] <= self.count[1] <= 16:
            raise ValueError(f"count={list(self.count)}: give the least and the greatest number of lamps, 1 to 16")
        return self


class FileLight(LightConfig):
    """A panorama of the user's own, .hdr or .exr, twice as wide as high."""

    name: Literal["file"] = "file"
    file: str
    """The file's path. The run keeps a copy."""
    sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    """Digest of the file, filled in when the run is created."""


AnyLight = Annotated[StudioLight | LampsLight | FileLight, Field(discriminator="name")]


class LightsConfig(Config):
    """The environments of a material, and how the views of a step use them."""

    environments: tuple[AnyLight, ...] = Field(default=(StudioLight(),), min_length=1, max_length=64)
    """The environments: a list of {name: studio, even, side or top}, {name: lamps, seed} and {name: file, file}. Each
    step draws one of several. Previews show the first."""
    each: Literal["step", "view"] = "step"
    """Whether the views of a step share the environment that is drawn, or each view has its own. Priors of several
    views need one that is shared."""
    turning: Literal["fixed", "random", "camera"] = "fixed"
    """How environments stand: fixed in the world; random, turned about the vertical by an angle that is drawn anew, see
    `each`; camera, turned with the camera, so that the light comes from the same side of all pictures."""

    @field_validator("environments", mode="before")
    @classmethod
    def _by_name(cls, given: object) -> object:
        names = [given] if isinstance(given, str) else given
        if isinstance(names, (list, tuple)):
            return [{"name": light} if isinstance(light, str) else light for light in names]
        return names


class Lit(NamedTuple):
    """How the views of a render are lit.

    which: (B,) int64, the environment of each view. turn: (B,) radians, by which it is turned; None: none is.
    """

    which: Tensor
    turn: Tensor | None


def load_lights(config: LightsConfig) -> Environment:
    """Return the prefiltered environments. Raises ValueError, ImportError and OSError of `read_panorama`."""
    return all_prefiltered(
        [light.strength * turned(panorama_of(light), light.azimuth) for light in config.environments]
    )


def panorama_of(light: StudioLight | LampsLight | FileLight) -> Tensor:
    """Return a light's panorama (h, w, 3) of linear radiance, before it is turned and scaled."""
    match light:
        case StudioLight():
            return built_in(light.name)
        case LampsLight():
            return random_lamps(torch.Generator().manual_seed(light.seed), light.count, light.tint)
        case FileLight():
            return reduced(torch.from_numpy(read_panorama(Path(light.file).expanduser())))


def drawn(config: LightsConfig, cameras: Cameras, generator: torch.Generator | None) -> Lit:
    """Draw how the views of a step are lit.

    Without a generator, as in previews, all have the first environment, and one that turns at random is not turned.
    """
    views = len(cameras)
    which = torch.zeros(views, dtype=torch.int64)
    draws = views if config.each == "view" else 1
    if generator is not None and len(config.environments) > 1:
        which = torch.randint(len(config.environments), (draws,), generator=generator).expand(views)
    turn = None
    if config.turning == "camera":
        turn = torch.deg2rad(cameras.azimuth)
    elif config.turning == "random" and generator is not None:
        turn = 2 * math.pi * torch.rand(draws, generator=generator).expand(views)
    device = cameras.azimuth.device
    which = which.to(device, non_blocking=True)
    return Lit(which, None if turn is None else turn.to(device, non_blocking=True))
