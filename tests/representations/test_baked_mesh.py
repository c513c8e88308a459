"""A baked mesh looks like the scene's own render."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sds3d.cameras import turntable
from sds3d.geometry.uv_atlas import bake
from sds3d.rendering.shading import Light, shade_mesh
from sds3d.rendering.volume import BOUND
from sds3d.representations.voxel_grid import VoxelGridConfig, VoxelGridScene

UNLIT = Light(np.array([0.0, 0.0, 1.0], np.float32), ambient=1.0, diffuse=0.0)


def dumbbell(softness: float) -> VoxelGridScene:
    """Return a striped scene of a large ball below a small one. softness: width of the surface, m."""
    scene = VoxelGridScene(VoxelGridConfig(resolution=64), torch.Generator().manual_seed(0))
    axis = torch.linspace(-BOUND, BOUND, 64)
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    large = 0.28 - (x**2 + (y + 0.15) ** 2 + z**2).sqrt()
    small = 0.16 - (x**2 + (y - 0.22) ** 2 + z**2).sqrt()
    inside = torch.maximum(large, small)  # metres, positive inside
    with torch.no_grad():
        scene.density.copy_((inside / softness * 3).clamp(-8, 6))
        stripes = torch.stack([torch.sin(8 * x), torch.sin(8 * y), torch.cos(8 * z)], dim=-1)
        scene.color.copy_(2 * stripes)
    return scene


@pytest.mark.parametrize("softness", [0.01, 0.04])
def test_a_baked_mesh_looks_like_the_render(softness: float) -> None:
    scene = dumbbell(softness)
    cameras = turntable(4, elevation=20.0, size=96)
    with torch.no_grad():
        rendering = scene.render(cameras, torch.ones(3))
    mesh = bake(scene.to_mesh(96), size=512)
    rgb, alpha = shade_mesh(mesh, cameras, background=(1.0, 1.0, 1.0), light=UNLIT, supersampling=3)
    seen, solid = rendering.alpha[..., 0].numpy() > 0.5, alpha[..., 0] > 0.5
    assert (seen & solid).sum() / (seen | solid).sum() > 0.96
    error = np.square(rgb - rendering.rgb.numpy()).mean()
    assert -10 * np.log10(error) > 24
