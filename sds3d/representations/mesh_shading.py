"""What a mesh scene draws of its surface."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal, assert_never

import torch
from pydantic import Field
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.config import Config
from sds3d.rendering.shading import from_points, lambert, lights_near, normal_colors


class NoShading(Config):
    """The surface's own colours."""

    name: Literal["none"] = "none"


class LampConfig(Config):
    """Settings of a lamp near each camera."""

    ambient: float = Field(default=0.65, ge=0, le=1)
    """Share of the light that comes from everywhere; the rest is the lamp's."""
    light_spread: float = Field(default=0.3, ge=0)
    """Standard deviation of the lamp's place round the camera, as a share of the camera's distance."""


class LambertShading(LampConfig):
    """The surface's own colours, lit by a lamp near each camera."""

    name: Literal["lambert"] = "lambert"


class TexturelessShading(LampConfig):
    """White, lit by a lamp near each camera: teaches shape alone."""

    name: Literal["textureless"] = "textureless"


class NormalShading(Config):
    """Each camera's normals as colours: teaches shape alone."""

    name: Literal["normal"] = "normal"


Shading = Annotated[NoShading | LambertShading | TexturelessShading | NormalShading, Field(discriminator="name")]


def shaded(
    shading: NoShading | LambertShading | TexturelessShading | NormalShading,
    cameras: Cameras,
    points: Tensor,
    normal: Tensor,
    colors: Callable[[], Tensor],
    generator: torch.Generator,
) -> Tensor:
    """Colours (B, H, W, 3) of the covered pixels.

    points, normal: (B, H, W, 3), what each pixel shows. colors: the surface's own colours, (B, H, W, 3), computed only
    if they are needed. generator: draws where lamps are; under `torch.no_grad` they are at the cameras.
    """
    match shading:
        case NoShading():
            return colors()
        case NormalShading():
            return normal_colors(normal, cameras)
        case LambertShading():
            return _lit(shading, cameras, points, normal, colors(), generator)
        case TexturelessShading():
            return _lit(shading, cameras, points, normal, torch.ones_like(points), generator)
        case _:
            assert_never(shading)


def _lit(
    lamp: LampConfig, cameras: Cameras, points: Tensor, normal: Tensor, colors: Tensor, generator: torch.Generator
) -> Tensor:
    training = torch.is_grad_enabled()
    lamps = lights_near(cameras, lamp.light_spread, generator) if training else cameras.position()  # (B, 3)
    return lambert(colors, normal, from_points(points, lamps), lamp.ambient, 1 - lamp.ambient)
