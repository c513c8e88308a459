"""Small radiance-field scenes for tests, and a known two-tone ball in each kind of scene."""

from __future__ import annotations

import torch
from torch import Tensor

from sds3d.rendering.volume import BOUND
from sds3d.representations.field_nerf import FieldNerfScene
from sds3d.representations.hash_nerf import HashNerfConfig
from sds3d.representations.mlp_nerf import MLPNerfConfig
from sds3d.representations.tensor_nerf import TensorNerfConfig
from sds3d.representations.triplane_nerf import TriplaneNerfConfig
from sds3d.representations.voxel_grid import VoxelGridConfig, VoxelGridScene

BACKGROUND = torch.tensor([0.2, 0.5, 0.9])
HASH = {"name": "hash_nerf", "samples": 32, "levels": 4, "log2_entries": 11, "finest": 32, "hidden": 16}
TRIPLANE = {"name": "triplane_nerf", "samples": 32, "resolution": 24, "features": 8, "hidden": 16}
TENSOR = {"name": "tensor_nerf", "samples": 32, "resolution": 24, "feature_components": 8, "hidden": 16}
MLP = {"name": "mlp_nerf", "samples": 32, "frequencies": 4, "hidden": 32}
_CONFIGS = {
    config.model_fields["name"].default: config
    for config in (HashNerfConfig, MLPNerfConfig, TensorNerfConfig, TriplaneNerfConfig)
}


def voxel_scene(seed: int = 0, **options: object) -> VoxelGridScene:
    return VoxelGridScene(VoxelGridConfig.model_validate(options), torch.Generator().manual_seed(seed))


def field_scene(kind: dict[str, object], seed: int = 0, **options: object) -> FieldNerfScene:
    """Return a scene of the kind `HASH`, `TRIPLANE`, `TENSOR` or `MLP`."""
    config = _CONFIGS[str(kind["name"])].model_validate(kind | options)
    return FieldNerfScene(config, torch.Generator().manual_seed(seed))


def voxel_ball(n: int = 32, radius: float = 0.3) -> VoxelGridScene:
    """Return an opaque ball on n^3 voxels, red where x > 0 and blue elsewhere."""
    scene = voxel_scene(resolution=n)
    axis = torch.linspace(-BOUND, BOUND, n)
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    with torch.no_grad():
        scene.density.copy_(((radius - (x * x + y * y + z * z).sqrt()) * 200).clamp(-14, 8))
        red = (x > 0).float() * 8 - 4
        scene.color.copy_(torch.stack([red, torch.full_like(red, -4.0), -red], dim=-1))
    return scene


class Ball:
    """The same ball as a field: red where x > 0, blue elsewhere."""

    radius = 0.3

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        density = 200 * torch.sigmoid((self.radius - points.norm(dim=-1)) * 150)
        red = torch.sigmoid(points[:, 0] * 200)
        return density, torch.stack([red, torch.zeros_like(red), 1 - red], dim=-1)

    def begin(self, progress: float) -> None:
        """See `RadianceField`."""


def field_ball(**options: object) -> FieldNerfScene:
    scene = field_scene(HASH, **options)
    scene.field = Ball()  # type: ignore[assignment]
    scene._occupancy = scene._survey(explore=True)
    return scene


def adam(scene: VoxelGridScene | FieldNerfScene) -> torch.optim.Adam:
    return torch.optim.Adam(scene.parameter_groups(), eps=1e-15)
