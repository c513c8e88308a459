"""How the teachers see the renders of some steps: as inverse depths, or mirrored."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field

from sds3d.config import Config
from sds3d.ramps import Ramp
from sds3d.representations.base import nearness
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
    mirrored: Share = Ramp(0.0)
    """Share of the steps, 0 to 1, in which left and right are exchanged. For priors that take no cameras.
    LucidDreamer's code has 0.5."""


def seen(config: SeenConfig, shown: Shown, step: int, progress: float) -> Shown:
    """Return a step's renders as the teachers see them. step: from 0. progress: 0 to 1."""
    depths, mirrored = (
        (step + 0.5) * even % 1 < share.at(progress)
        for even, share in zip(_EVEN, (config.inverse_depth, config.mirrored), strict=True)
    )
    if depths:
        grey = nearness(shown.rendering).expand_as(shown.rendering.rgb)
        shown = replace(shown, rendering=replace(shown.rendering, rgb=grey), background=torch.zeros(3).to(grey))
    return mirror(shown) if mirrored else shown


def mirror(shown: Shown) -> Shown:
    """Exchange left and right of renders in colours. The cameras' +X axes turn round, so that their rays stay true."""
    pictures = {name: value.flip(2) for name, value in vars(shown.rendering).items() if value is not None}
    pose = shown.cameras.c2w().clone()
    pose[:, :3, 0] = -pose[:, :3, 0]
    background = shown.background.flip(2) if shown.background.ndim == 4 else shown.background
    light = None if shown.light is None else shown.light.flip(2)
    cameras, rendering = replace(shown.cameras, pose=pose), replace(shown.rendering, **pictures)
    return Shown(cameras, background, rendering, light)
