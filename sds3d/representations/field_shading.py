"""Light on a radiance field in training, and losses on its normals (DreamFusion, arXiv:2209.14988, section 3.1).

Each sample along a ray has a normal, the direction against the density's gradient, and is shaded by it. A lit shape
cannot be replaced by painted colours: the same point is seen under another light in each step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from sds3d.cameras import Cameras
from sds3d.config import Config
from sds3d.ramps import Ramp
from sds3d.rendering.packed import Samples, density_normals
from sds3d.representations.base import Rendering
from sds3d.representations.fields import RadianceField

Look = Literal["albedo", "textureless", "lambert", "normal"]

_LEAST = 1e-4  # weight of a sample under which it needs no normal
_PLACES = 8  # per side of a picture, whose normals the loss on convexity compares


class FieldShading(Config):
    """Light in training. Each step shows all views as one of: the plain colours, white under a light, colours under a
    light, normals as colours. Pictures and files show the plain colours."""

    ambient_only: float = Field(default=0.2, ge=0, le=1)
    """Share of the steps, from the first, that show the plain colours."""
    textureless: float = Field(default=0.375, ge=0, le=1)
    """Share of the later steps that show the shape in white under a light."""
    lambert: float = Field(default=0.375, ge=0, le=1)
    """Share of the later steps that show the colours under a light."""
    normal: float = Field(default=0.0, ge=0, le=1)
    """Share of the later steps that show normals in the world as colours, (n + 1) / 2. The rest of the steps show the
    plain colours."""
    ambient: float = Field(default=0.1, ge=0, le=1)
    """Ambient light."""
    diffuse: float = Field(default=0.9, ge=0, le=1)
    """Light of the lamp on a surface that faces it."""
    soft: bool = False
    """Draw the lamp's share of the light in each step, uniform in [0, 1]; the rest is ambient. Replaces both above."""
    light: Literal["dreamfusion", "magic3d"] = "dreamfusion"
    """Where the lamp is, seen from the origin. dreamfusion: in the direction of the camera, plus a normal draw with a
    deviation of 1 m. magic3d: at most 60 degrees from the camera's direction, angles uniform."""
    light_distance: tuple[float, float] = (0.8, 1.5)
    """Range of the lamp's distance from the origin in metres."""

    @model_validator(mode="after")
    def _shares_and_range(self) -> Self:
        if self.textureless + self.lambert + self.normal > 1 + 1e-9:
            raise ValueError("textureless, lambert and normal are shares of the steps: their sum must be at most 1")
        low, high = self.light_distance
        if not 0 < low <= high:
            raise ValueError(f"light_distance is ({low:g}, {high:g}): give the lower bound first, above 0")
        return self


@dataclass(frozen=True)
class Light:
    """How the samples of a step are shaded. position: (B, 3) metres, one lamp a view."""

    look: Look
    ambient: float
    diffuse: float
    position: Tensor

    def on(self, color: Tensor, normal: Tensor, points: Tensor, view: Tensor) -> Tensor:
        """Return shaded colours (S, 3).

        color: (S, 3). normal: (S, 3) unit vectors, or 0 where there is none. points: (S, 3) metres. view: (S,), the
        view that each sample belongs to.
        """
        if self.look == "albedo":
            return color
        if self.look == "normal":
            return 0.5 * (normal + 1)
        to_light = functional.normalize(self.position[view] - points, dim=-1)
        light = self.ambient + self.diffuse * (normal * to_light).sum(-1, keepdim=True).clamp(min=0)
        return light.expand_as(color) if self.look == "textureless" else color.clamp(0, 1) * light


def draw_light(shading: FieldShading, cameras: Cameras, progress: float, generator: torch.Generator) -> Light:
    """Draw the light of a step, on the CPU. progress: 0 at the first step, 1 at the last."""
    look, share = torch.rand(2, generator=generator).tolist()
    position = light_positions(shading, cameras, generator)
    ambient, diffuse = (1 - share, share) if shading.soft else (shading.ambient, shading.diffuse)
    if progress < shading.ambient_only:
        return Light("albedo", ambient, diffuse, position)
    looks: tuple[tuple[Look, float], ...] = (
        ("textureless", shading.textureless),
        ("lambert", shading.lambert),
        ("normal", shading.normal),
    )
    for name, size in looks:
        if look < size:
            return Light(name, ambient, diffuse, position)
        look -= size
    return Light("albedo", ambient, diffuse, position)


def light_positions(shading: FieldShading, cameras: Cameras, generator: torch.Generator) -> Tensor:
    """Draw the position of a lamp for each view, (B, 3) metres, on the cameras' device."""
    views, camera = len(cameras), cameras.position()  # (B, 3)
    low, high = shading.light_distance
    distance = (low + (high - low) * torch.rand(views, 1, generator=generator)).to(camera, non_blocking=True)
    if shading.light == "dreamfusion":
        offset = torch.randn(views, 3, generator=generator).to(camera, non_blocking=True)
        return distance * functional.normalize(camera + offset, dim=-1)
    turn, rise = (torch.rand(views, 1, generator=generator).to(camera, non_blocking=True) for _ in range(2))
    turn, rise = 2 * math.pi * turn, math.pi / 6 + math.pi / 3 * rise
    pose = cameras.c2w()[:, :3]
    toward = functional.normalize(camera, dim=-1)
    across = functional.normalize(torch.linalg.cross(pose[:, :, 1], toward), dim=-1)
    up = torch.linalg.cross(toward, across)
    return distance * (rise.sin() * toward + rise.cos() * (turn.cos() * across + turn.sin() * up))


def normals_of(field: RadianceField, step: float) -> Callable[[Tensor], Tensor]:
    """Return what computes unit vectors (P, 3) against the density's gradient at points (P, 3); 0 where it is constant.

    step: half-width in metres of central differences; 0: the exact gradient.
    """
    if step:
        return lambda points: density_normals(field, points, step)
    return lambda points: functional.normalize(-field.slope(points), dim=-1, eps=1e-2)


class Shader:
    """Shades the samples of one render of V x H x W rays; a `Shade` for `render_field`.

    It replaces the first `channels` features by shaded ones and adds the samples' normals as three more. Afterwards,
    `facing_away` has (R,) sums along the rays of weight max(n.d, 0)^2, where the weight has no gradient: how much
    matter faces away from the camera.
    normals: returns unit vectors (P, 3) at points (P, 3), see `normals_of`. light: None leaves features as they are.
    """

    def __init__(
        self, normals: Callable[[Tensor], Tensor], directions: Tensor, channels: int, light: Light | None
    ) -> None:
        self.normals, self.channels, self.light = normals, channels, light
        self.rays_per_view = directions.shape[1] * directions.shape[2]
        self.directions = directions.reshape(-1, 3)  # (R, 3)
        self.facing_away = directions.new_zeros(len(self.directions))

    def __call__(self, samples: Samples, weights: Tensor, features: Tensor) -> Tensor:
        """See `packed.Shade`. weights: (S,), without gradient. features: (S, C). Returns (S, C + 3)."""
        seen = (weights > _LEAST).nonzero()[:, 0]  # once, since each search waits for a GPU
        normal = torch.zeros_like(samples.points).index_put((seen,), self.normals(samples.points[seen]))  # (S, 3)
        away = weights * (normal * self.directions[samples.ray]).sum(-1).clamp(min=0).square()
        self.facing_away = self.facing_away.index_add(0, samples.ray, away)
        color, other = features[:, : self.channels], features[:, self.channels :]
        if self.light is not None:
            color = self.light.on(color, normal, samples.points, samples.ray // self.rays_per_view)
        return torch.cat([color, other, normal], dim=-1)


def normal_losses(rendering: Rendering, orientation: Ramp, smoothness: Ramp, progress: float) -> dict[str, Tensor]:
    """Return the weighted losses "orientation" and "normal_smoothness" that have a weight now, if there are normals.

    Both are a view's number of pixels times the published mean. orientation: the sums along rays of weight
    max(n.d, 0)^2, over the rays that hit anything (Ref-NeRF, arXiv:2112.03907, eq. 11). smoothness: mean squared
    differences of neighbouring pixels' normals as colours, (n + 1) / 2 times opacity.
    """
    pixels = rendering.alpha.shape[1] * rendering.alpha.shape[2]
    losses = {}
    if rendering.facing_away is not None and (weight := orientation.at(progress)) > 0:
        covered = (rendering.alpha > 0).sum().clamp(min=1)
        losses["orientation"] = pixels * weight * rendering.facing_away.sum() / covered
    if rendering.facing_away is not None and (weight := smoothness.at(progress)) > 0:
        colors = _colors(rendering)
        rough = colors.diff(dim=1).square().mean() + colors.diff(dim=2).square().mean()
        losses["normal_smoothness"] = pixels * weight * rough
    return losses


def convexity_loss(rendering: Rendering, weight: float) -> dict[str, Tensor]:
    """Return the weighted loss "convexity" if there are normals, a view's number of pixels times the published mean.

    The normals as colours are sampled at 8 x 8 places. The loss is minus the mean of the +Y parts of the cross products
    of each with its right neighbour, and of each with the one above it, as in the code of SDI (arXiv:2405.15891): on a
    bulge seen level, normals turn counter-clockwise from left to right, seen from above.
    """
    if rendering.facing_away is None or not weight:
        return {}
    pixels = rendering.alpha.shape[1] * rendering.alpha.shape[2]
    colors = _colors(rendering).permute(0, 3, 1, 2)  # (B, 3, H, W)
    few = functional.interpolate(colors, (_PLACES, _PLACES), mode="bilinear", align_corners=False)
    across = torch.linalg.cross(few[..., :-1], few[..., 1:], dim=1)[:, 1]  # (B, 8, 7)
    upward = torch.linalg.cross(few[..., 1:, :], few[..., :-1, :], dim=1)[:, 1]  # (B, 7, 8)
    return {"convexity": -pixels * weight * (across.mean() + upward.mean())}


def _colors(rendering: Rendering) -> Tensor:
    """Return the normals as colours (B, H, W, 3) in [0, 1] over black."""
    return 0.5 * (rendering.normal + 1) * rendering.alpha
