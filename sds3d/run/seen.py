"""How the teachers see the renders of some steps: as inverse depths, as normals in place of latents, or mirrored."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from sds3d.config import Config
from sds3d.priors.base import Prior, space_of
from sds3d.ramps import Ramp
from sds3d.rendering.resizing import resize
from sds3d.representations.base import Rendering, nearness
from sds3d.run.lessons import Shown

Share = Annotated[Ramp, Field(ge=0, le=1)]

_EVEN = (0.7548776662466927, 0.5698402910280532)
"""Multiples of these two numbers modulo 1 fill the square evenly (Roberts' R2 sequence)."""


class SeenConfig(Config):
    """What the teachers see in place of the renders in some steps, which are spread evenly over the run."""

    inverse_depth: Share = Ramp(0.0)
    """Share of the steps, 0 to 1, in which they see inverse distances as grey pictures: white is the nearest pixel,
    black the farthest opaque one and what is behind. LucidDreamer's code has 0.2, in which the shape learns without its
    colours (arXiv:2311.11284)."""
    normal_latents: Share = Ramp(0.0)
    """Share of the steps, 0 to 1, in which four latents are not encoded, but are the normals, alpha (n + 1) - 1, and
    the opacity alpha, resized: coarse shapes without the encoder. Fantasia3D has all of the first 1000 steps
    (arXiv:2303.13873). Share and that of inverse depths together are at most 1."""
    mirrored: Share = Ramp(0.0)
    """Share of the steps, 0 to 1, in which left and right are exchanged. For priors that take no cameras.
    LucidDreamer's code has 0.5."""


def seen(config: SeenConfig, shown: Shown, step: int, progress: float, prior: Prior) -> Shown:
    """Return a step's renders as the teachers see them. step: from 0. progress: 0 to 1. prior: of all teachers."""
    place, side = ((step + 0.5) * even % 1 for even in _EVEN)
    if place >= 1 - config.normal_latents.at(progress):
        latent = normal_latents(shown.rendering, prior)
        shown = replace(shown, rendering=replace(shown.rendering, latent=latent))
    elif place < config.inverse_depth.at(progress):
        grey = nearness(shown.rendering).expand_as(shown.rendering.rgb)
        shown = replace(shown, rendering=replace(shown.rendering, rgb=grey), background=grey.new_zeros(3))
    return mirror(shown) if side < config.mirrored.at(progress) else shown


def normal_latents(rendering: Rendering, prior: Prior) -> Tensor:
    """Return the normals and the opacity in place of latents, (B, 4, h, w), at their size."""
    _, _, size = space_of(prior)
    pictures = torch.cat([rendering.alpha * (rendering.normal + 1) - 1, rendering.alpha], dim=-1)
    return resize(pictures, size).permute(0, 3, 1, 2)


def mirror(shown: Shown) -> Shown:
    """Exchange left and right of renders. The cameras' +X axes turn round, so that their rays stay true."""
    pictures = {
        name: value.flip(3 if name == "latent" else 2)
        for name, value in vars(shown.rendering).items()
        if value is not None
    }
    pose = shown.cameras.c2w().clone()
    pose[:, :3, 0] = -pose[:, :3, 0]
    background = shown.background.flip(2) if shown.background.ndim == 4 else shown.background
    light = None if shown.light is None else shown.light.flip(2)
    cameras, rendering = replace(shown.cameras, pose=pose), replace(shown.rendering, **pictures)
    return Shown(cameras, background, rendering, light)
