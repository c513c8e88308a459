"""Weights of regularisers that change over a run."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sds3d.cameras import orbit
from sds3d.representations.base import Start
from sds3d.representations.gaussians import GaussiansConfig
from sds3d.representations.hash_nerf import HashNerfConfig
from sds3d.representations.voxel_grid import VoxelGridConfig
from tests.representations.mesh_scenes import mesh_config

SPLATS = {"count": 40, "opacity_start": 0.9, "radius": 0.4, "z_variance": 1.0}
VOXELS = {"resolution": 12, "z_variance": 1.0}
HASH = {"samples": 32, "levels": 2, "log2_entries": 8, "hidden": 8, "z_variance": 1.0}
MESH = {"geometry": "flexicubes", "resolution": 12, "smoothness": 1.0, "laplacian": 1.0, "edge_length": 1.0}


def losses(make: Any, options: dict[str, Any], progress: float) -> dict[str, float]:
    """Return the weighted losses of a new scene by name."""
    generator = torch.Generator().manual_seed(0)
    scene = make(**options).make(Start(generator, 10))
    rendering = scene.render(orbit([20.0, 200.0], size=16), torch.zeros(3))
    return {name: loss.item() for name, loss in scene.regularisers(rendering, progress).items()}


@pytest.mark.parametrize(
    ("make", "options", "weights"),
    [
        (VoxelGridConfig, VOXELS, ["opacity", "entropy", "density_smoothness", "color_smoothness", "z_variance"]),
        (HashNerfConfig, HASH, ["opacity", "entropy", "density_smoothness", "color_smoothness", "z_variance"]),
        (GaussiansConfig, SPLATS, ["opacity", "entropy", "size", "z_variance"]),
        (mesh_config, MESH, ["normal_consistency", "laplacian", "edge_length", "eikonal", "deviation", "smoothness"]),
    ],
)
def test_knots_replace_a_weight_and_its_own_rise(make: Any, options: dict[str, Any], weights: list[str]):
    ones = losses(make, options | dict.fromkeys(weights, 1.0), progress=1.0)
    knots = [[0.2, 0.0], [0.6, 4.0], [0.6, 10.0]]
    assert all(ones.values())
    for progress, factor in [(0.3, 1.0), (0.5, 3.0), (0.6, 10.0)]:
        moved = losses(make, options | dict.fromkeys(weights, knots), progress)
        assert moved == pytest.approx({name: factor * loss for name, loss in ones.items()}, rel=1e-5)
    early = losses(make, options | dict.fromkeys(weights, knots), 0.1)
    assert not any(early.values())


def test_the_plain_weights_of_entropy_and_depth_variance_still_rise():
    ones, third = (losses(VoxelGridConfig, VOXELS, progress) for progress in (1.0, 0.3))
    assert third["entropy"] == pytest.approx(0.3 * ones["entropy"])
    assert third["z_variance"] == pytest.approx(0.6 * ones["z_variance"])
    assert third["opacity"] == ones["opacity"]
