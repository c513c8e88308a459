"""How a mesh scene shades its surface."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal, assert_never

import torch
from pydantic import Field
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.config import Config
from sds3d.rendering.shading import from_points, lambert, lights_near, normal_colors
from sds3d.representations.field_shading import FieldShading, draw_light


class NoShading(Config):
    """The surface's colours as they are, without light."""

    name: Literal["none"] = "none"


class LampConfig(Config):
    """Settings of a lamp near each camera."""

    ambient: float = Field(default=0.65, ge=0, le=1)
    """Share of ambient light; the rest comes from the lamp."""
    light_spread: float = Field(default=0.3, ge=0)
    """Standard deviation of the lamp's position around the camera, as a share of the camera's distance."""


class LambertShading(LampConfig):
    """The surface's colours, lit by a lamp near each camera."""

    name: Literal["lambert"] = "lambert"


class TexturelessShading(LampConfig):
    """White, lit by a lamp near each camera: trains the shape alone."""

    name: Literal["textureless"] = "textureless"


class NormalShading(Config):
    """Normals in camera space as colours: trains the shape alone."""

    name: Literal["normal"] = "normal"


class MixedShading(FieldShading):
    """One of these in each step, as for radiance fields: plain colours, white or colours lit by a lamp, normals."""

    name: Literal["mixed"] = "mixed"
    ambient_only: float = Field(default=0.0, ge=0, le=1)
    """Share of the steps, from the first, that show the plain colours."""


AnyShading = NoShading | LambertShading | TexturelessShading | NormalShading | MixedShading
Shading = Annotated[AnyShading, Field(discriminator="name")]


def shaded(
    shading: AnyShading,
    cameras: Cameras,
    points: Tensor,
    normal: Tensor,
    colors: Callable[[], Tensor],
    generator: torch.Generator | None,
    progress: float,
) -> Tensor:
    """Return the colours (B, H, W, 3) of the covered pixels.

    points, normal: (B, H, W, 3), of the surface at each pixel. colors: returns the surface's colours (B, H, W, 3);
    called only if they are needed. generator: draws the lamps' positions; None: lamps are at the cameras. progress: 0
    at the first step, 1 at the last.
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
        case MixedShading():
            return _mixed(shading, cameras, points, normal, colors, generator, progress)
        case _:
            assert_never(shading)


def _mixed(
    shading: MixedShading,
    cameras: Cameras,
    points: Tensor,
    normal: Tensor,
    colors: Callable[[], Tensor],
    generator: torch.Generator | None,
    progress: float,
) -> Tensor:
    if generator is None:
        return colors()
    light = draw_light(shading, cameras, progress, generator)
    if light.look == "albedo":
        return colors()
    color = colors() if light.look == "lambert" else torch.ones_like(points)
    view = torch.arange(len(points), device=points.device).repeat_interleave(points.shape[1] * points.shape[2])
    return light.on(color.reshape(-1, 3), normal.reshape(-1, 3), points.reshape(-1, 3), view).reshape(points.shape)


def _lit(
    lamp: LampConfig,
    cameras: Cameras,
    points: Tensor,
    normal: Tensor,
    colors: Tensor,
    generator: torch.Generator | None,
) -> Tensor:
    lamps = cameras.position() if generator is None else lights_near(cameras, lamp.light_spread, generator)  # (B, 3)
    return lambert(colors, normal, from_points(points, lamps), lamp.ambient, 1 - lamp.ambient)
