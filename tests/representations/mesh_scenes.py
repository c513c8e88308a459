"""Small mesh scenes for tests, and how to train and compare them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import trimesh
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.config import build
from sds3d.geometry.mesh import Mesh
from sds3d.representations.base import Rendering
from sds3d.representations.mesh_scene import MeshConfig, MeshScene
from sds3d.representations.voxel_grid import VoxelGridScene

BACKGROUND = torch.tensor([0.2, 0.5, 0.9])
GEOMETRIES = ["dmtet", "flexicubes", "fixed"]


def mesh_config(
    geometry: str = "dmtet",
    appearance: str = "voxels",
    *,
    material: dict[str, Any] | str = "color",
    shading: dict[str, Any] | str = "none",
    size: int = 24,
    **settings: Any,
) -> MeshConfig:
    """Return the settings of a small mesh scene.

    size: voxels or texels along an edge. settings: options of the geometry, or `lr` and `smoothness` of the appearance.
    """
    look = {key: settings.pop(key) for key in ("lr", "smoothness") if key in settings}
    look |= {"name": appearance, "material": material, "resolution" if appearance == "voxels" else "size": size}
    shape = {"resolution": 24, "name": geometry} | settings
    return build(MeshConfig, {"geometry": shape, "appearance": look, "shading": shading})


def scene_of(seed: int = 0, **options: Any) -> MeshScene:
    return MeshScene(mesh_config(**options), torch.Generator().manual_seed(seed))


def two_tone(shape: trimesh.Trimesh) -> Mesh:
    """Return the shape as a mesh, red where x > 0 and blue elsewhere."""
    vertices = np.asarray(shape.vertices, np.float32)
    colors = np.where(vertices[:, :1] > 0, np.float32([0.95, 0.05, 0.05]), np.float32([0.05, 0.05, 0.95]))
    return Mesh(vertices, np.asarray(shape.faces, np.int32), colors=colors)


def ball(radius: float = 0.3, center: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Mesh:
    return two_tone(trimesh.creation.icosphere(4, radius).apply_translation(center))


def torus() -> Mesh:
    turn = trimesh.transformations.rotation_matrix(math.radians(70), (1, 0, 0))
    return two_tone(trimesh.creation.torus(0.3, 0.12, 64, 48).apply_transform(turn))


def scene_from(mesh: Mesh, geometry: str = "fixed", **options: Any) -> MeshScene:
    config = mesh_config(geometry, **({"resolution": 48, "size": 48} | options))
    return MeshScene.from_mesh(mesh, config, torch.Generator().manual_seed(0))


def pictures(scene: MeshScene | VoxelGridScene, cameras: Cameras) -> Rendering:
    with torch.no_grad():
        return scene.render(cameras, BACKGROUND)


def psnr(one: Tensor, other: Tensor) -> float:
    return -10 * math.log10(float((one - other).square().mean()))


def iou(one: Tensor, other: Tensor) -> float:
    return float(((one > 0.5) & (other > 0.5)).sum() / ((one > 0.5) | (other > 0.5)).sum())


def adam(scene: MeshScene) -> torch.optim.Adam:
    return torch.optim.Adam(scene.parameter_groups(), eps=1e-15)


def fit(scene: MeshScene, cameras: Cameras, target: Tensor, steps: int, optimizer: torch.optim.Adam) -> None:
    for step in range(steps):
        rendering = scene.render(cameras, BACKGROUND)
        data = 0.5 * (rendering.rgb - target).square().sum() / len(cameras)
        (data + torch.stack(list(scene.regularisers(rendering, step / steps).values())).sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
        scene.after_step(step, optimizer)
