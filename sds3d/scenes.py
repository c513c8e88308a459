"""Scenes: fresh ones, and ones that begin from what was there before, whatever that was made of."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from sds3d.mesh import Mesh
from sds3d.rendering.volume import BOUND
from sds3d.representations.base import Scene
from sds3d.representations.convert import splats_from_grid, splats_from_mesh
from sds3d.representations.gaussians import GaussiansConfig, GaussiansScene
from sds3d.representations.mesh import MeshConfig, MeshScene
from sds3d.representations.nerf import NerfConfig, NerfScene
from sds3d.representations.signed_distance import mesh_to_colors, mesh_to_sdf
from sds3d.splats import Splats

RepresentationConfig = Annotated[NerfConfig | GaussiansConfig | MeshConfig, Field(discriminator="name")]

Asset = Mesh | Splats
"""What files hold."""

_SOLID = 120.0  # density per metre inside a mesh: opaque within two centimetres
_SURFACE = 96  # samples a side of the grid that the surface of a field or a cloud is found on


def make_scene(
    config: RepresentationConfig,
    generator: torch.Generator,
    device: torch.device,
    steps: int,
    before: Scene | Asset | None = None,
) -> Scene:
    """A scene of this configuration.

    generator: draws its random start. steps: that it will be optimised for, which densification plans by. before: what
    it shall look like at the start; the scene of the stage before, or a file's contents. Without it, the start is the
    representation's own.
    Raises EmptySurfaceError or ValueError when there is nothing to begin from.
    """
    match config:
        case NerfConfig():
            if before is None:
                return NerfScene(config, generator, device)
            return NerfScene.from_grid(as_grid(before, config.resolution), config, generator, device)
        case GaussiansConfig():
            if before is None:
                return GaussiansScene(config, generator, device, steps)
            splats = as_splats(before, config.count, generator)
            return GaussiansScene.from_splats(splats, config, generator, device, steps)
        case MeshConfig():
            if before is None:
                return MeshScene(config, generator, device)
            return MeshScene.from_mesh(as_mesh(before), config, generator, device)


def as_mesh(before: Scene | Asset) -> Mesh:
    """A mesh with vertex colours that looks like `before`. Raises EmptySurfaceError."""
    match before:
        case Mesh():
            return before
        case Splats():
            return _cloud(before).to_mesh(_SURFACE)
        case _:
            return before.to_mesh(_SURFACE)


def as_splats(before: Scene | Asset, count: int, generator: torch.Generator) -> Splats:
    """Gaussians that look like `before`: its own, or `count` new ones on its surface."""
    match before:
        case Splats():
            return before
        case GaussiansScene():
            return before.to_splats()
        case NerfScene():
            return splats_from_grid(before.grid().detach(), count, generator)
        case _:
            return splats_from_mesh(as_mesh(before), count, generator)


def as_grid(before: Scene | Asset, resolution: int) -> Tensor:
    """Density per metre and r, g, b that look like `before`, (R, R, R, 4) as `render_rays` takes it."""
    match before:
        case NerfScene():
            return before.grid().detach()
        case GaussiansScene():
            return before.grid(resolution)
        case Splats():
            return _cloud(before).grid(resolution)
        case _:
            mesh = as_mesh(before)
            voxel = 2 * BOUND / (resolution - 1)
            inside = torch.sigmoid(-torch.from_numpy(mesh_to_sdf(mesh, resolution)) / (0.3 * voxel))
            color = torch.from_numpy(mesh_to_colors(mesh, resolution))
            return torch.cat([_SOLID * inside[..., None], color], dim=-1).float()


def _cloud(splats: Splats) -> GaussiansScene:
    return GaussiansScene.from_splats(splats, GaussiansConfig(), torch.Generator(), "cpu", 1)
