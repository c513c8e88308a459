"""Scenes: fresh ones, and ones that begin from what was there before, whatever that was made of."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from sds3d.geometry.mesh import Mesh
from sds3d.geometry.sampling import splats_from_mesh
from sds3d.geometry.splats import Geometry, Splats
from sds3d.rendering.volume import BOUND
from sds3d.representations.base import Scene
from sds3d.representations.convert import splats_from_grid
from sds3d.representations.field_conversion import distil
from sds3d.representations.field_nerf import FieldNerfScene, HashNerfConfig, TriplaneNerfConfig
from sds3d.representations.gaussians import GaussiansConfig, GaussiansScene
from sds3d.representations.mesh_scene import MeshConfig, MeshScene
from sds3d.representations.particles import Particles, particle
from sds3d.representations.signed_distance import mesh_to_sdf_and_colors
from sds3d.representations.sketch_shape import SketchShape
from sds3d.representations.voxel_grid import VoxelGridConfig, VoxelGridScene

RepresentationConfig = Annotated[
    VoxelGridConfig | HashNerfConfig | TriplaneNerfConfig | GaussiansConfig | MeshConfig, Field(discriminator="name")
]

_SOLID = 120.0  # density per metre inside a mesh: opaque within two centimetres
_SURFACE = 96  # samples a side of the grid that the surface of a field or a cloud is found on
_DISTIL_STEPS = 100


def make_scene(
    config: RepresentationConfig,
    generator: torch.Generator,
    device: torch.device,
    steps: int,
    before: Scene | Geometry | None = None,
    latent_rgb: Tensor | None = None,
    particles: int = 1,
) -> Scene:
    """A scene of this configuration.

    generator: draws its random start. steps: that it will be optimised for, which densification plans by. before: what
    it shall look like at the start; the scene of the stage before, or a file's contents. Without it, the start is the
    representation's own. latent_rgb: (C, 3), what a scene of latents starts with (`latent_rgb_of`); left out, it must
    be loaded from a checkpoint. particles: scenes that share the steps; each begins as one of `before`, if those are
    several too.
    Raises EmptySurfaceError or ValueError when there is nothing to begin from.
    """
    if particles > 1:
        share = max(steps // particles, 1)
        scenes = [
            make_scene(config, generator, device, share, particle(before, i), latent_rgb) for i in range(particles)
        ]
        return Particles(scenes, generator)
    before = particle(before, 0)
    match config:
        case VoxelGridConfig():
            if before is not None:
                return VoxelGridScene.from_grid(as_grid(before, config.resolution), config, generator, device)
            scene = VoxelGridScene(config, generator, device)
        case HashNerfConfig() | TriplaneNerfConfig():
            channels = config.latent_channels
            colors = torch.zeros(channels, 3) if channels and latent_rgb is None else latent_rgb
            scene = FieldNerfScene(config, generator, device, latent_rgb=colors, sketch=_sketch(config))
            if before is not None:
                _learn(scene, before, generator)
        case GaussiansConfig():
            if before is not None:
                splats = as_splats(before, config.count, generator)
                return GaussiansScene.from_splats(splats, config, generator, device, steps)
            scene = GaussiansScene(config, generator, device, steps)
        case MeshConfig():
            if before is not None:
                return MeshScene.from_mesh(as_mesh(before), config, generator, device)
            scene = MeshScene(config, generator, device)
    return scene


def as_mesh(before: Scene | Geometry) -> Mesh:
    """A mesh with vertex colours that looks like `before`. Raises EmptySurfaceError."""
    match before:
        case Mesh():
            return before
        case Splats():
            return _cloud(before).to_mesh(_SURFACE)
        case _:
            return before.to_mesh(_SURFACE)


def as_splats(before: Scene | Geometry, count: int, generator: torch.Generator) -> Splats:
    """Gaussians that look like `before`: its own, or `count` new ones on its surface."""
    match before:
        case Splats():
            return before
        case GaussiansScene():
            return before.to_splats()
        case VoxelGridScene() | FieldNerfScene():
            return splats_from_grid(as_grid(before, _SURFACE), count, generator)
        case _:
            return splats_from_mesh(as_mesh(before), count, generator)


def as_grid(before: Scene | Geometry, resolution: int) -> Tensor:
    """Density per metre and r, g, b that look like `before`, (R, R, R, 4) as `render_rays` takes it.

    R is `resolution`, but for a dense grid, which is given as it is. Raises EmptySurfaceError.
    """
    match before:
        case VoxelGridScene():
            return before.grid().detach()
        case FieldNerfScene():
            return before.grid(resolution)
        case _:
            sdf, color = (torch.from_numpy(array) for array in mesh_to_sdf_and_colors(as_mesh(before), resolution))
            voxel = 2 * BOUND / (resolution - 1)
            # Below the surface, because a ray that only touches the soft skin goes a long way in it.
            inside = torch.sigmoid(-(sdf / voxel + 0.9) / 0.3)
            return torch.cat([_SOLID * inside[..., None], color], dim=-1).float()


def _sketch(config: HashNerfConfig | TriplaneNerfConfig) -> SketchShape | None:
    if not config.sketch:
        return None
    from sds3d.formats.load import fit_to_cube, load_asset

    asset, _ = fit_to_cube(load_asset(config.sketch))
    points = torch.Generator().manual_seed(0)  # the same again when a run is resumed
    return SketchShape(as_mesh(asset), points, weight=config.sketch_weight, slack=config.sketch_slack)


def _learn(scene: FieldNerfScene, before: Scene | Geometry, generator: torch.Generator) -> None:
    """Make a fresh field look like what was there before: by its state where it is alike, else by distillation."""
    if isinstance(before, FieldNerfScene):
        mine, given = scene.state_dict(), before.state_dict()
        if {k: v.shape for k, v in mine.items()} == {k: v.shape for k, v in given.items()}:
            scene.load_state_dict(given)
            return
    known = isinstance(before, FieldNerfScene | VoxelGridScene)
    teacher = (
        before
        if known
        else VoxelGridScene.from_grid(as_grid(before, _SURFACE), VoxelGridConfig(), generator, scene.device)
    )
    for _ in distil(teacher, scene, _DISTIL_STEPS, generator):
        pass


def _cloud(splats: Splats) -> GaussiansScene:
    return GaussiansScene.from_splats(splats, GaussiansConfig(), torch.Generator(), "cpu", 1)
