"""Mesh scenes that start from a mesh or a radiance field, and the distances and colors that they start from."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import trimesh

from sds3d.cameras import orbit
from sds3d.geometry.mesh import EmptySurfaceError, Mesh
from sds3d.rendering.volume import BOUND
from sds3d.representations.base import Start
from sds3d.representations.isosurface import grid_points
from sds3d.representations.mesh_scene import MeshConfig, MeshScene
from sds3d.representations.signed_distance import mesh_to_colors, mesh_to_sdf
from sds3d.representations.voxel_grid import VoxelGridConfig, VoxelGridScene
from tests.representations.mesh_scenes import ball, iou, mesh_config, pictures, psnr, scene_from, torus, two_tone


def test_a_fixed_mesh_is_kept_exactly() -> None:
    mesh = torus()
    again = scene_from(mesh).to_mesh(64)
    np.testing.assert_array_equal(again.vertices, mesh.vertices)
    np.testing.assert_array_equal(again.faces, mesh.faces)


@pytest.mark.parametrize("geometry", ["dmtet", "flexicubes"])
def test_starts_from_a_mesh(geometry: str) -> None:
    mesh, cameras = torus(), orbit([20.0, 100.0, 250.0], elevation=10.0, size=96)
    ours, theirs = (pictures(scene_from(mesh, geometry=shape), cameras) for shape in (geometry, "fixed"))
    assert iou(ours.alpha, theirs.alpha) > 0.97
    assert psnr(ours.rgb, theirs.rgb) > 25


def test_starts_from_a_radiance_field() -> None:
    field = VoxelGridScene(VoxelGridConfig(resolution=32), torch.Generator().manual_seed(0))
    x, _, _ = grid_points(32).unbind(-1)
    with torch.no_grad():
        field.density.copy_(((0.3 - grid_points(32).norm(dim=-1)) * 200).clamp(-14, 8))
        red = (x > 0).float() * 8 - 4
        field.color.copy_(torch.stack([red, torch.full_like(red, -4.0), -red], dim=-1))
    scene = MeshConfig().make(Start(torch.Generator().manual_seed(0), steps=1, before=field))
    cameras = orbit([20.0, 100.0, 250.0], elevation=10.0, size=64)
    ours, theirs = pictures(scene, cameras), pictures(field, cameras)
    assert iou(ours.alpha, theirs.alpha) > 0.95
    assert psnr(ours.rgb, theirs.rgb) > 22


def test_empty_starts_are_refused() -> None:
    generator = torch.Generator().manual_seed(0)
    empty = VoxelGridScene(VoxelGridConfig(resolution=16, blob_height=-14.0, blob_radius=100.0), generator)
    with pytest.raises(EmptySurfaceError):
        MeshConfig().make(Start(generator, steps=1, before=empty))
    with pytest.raises(EmptySurfaceError, match="no surface"):
        MeshScene.from_mesh(ball(0.001, (0.01, 0.0, 0.0)), mesh_config(resolution=16), generator)
    with pytest.raises(ValueError, match="no area"):
        MeshScene.from_mesh(Mesh(np.zeros((3, 3), np.float32), np.int32([[0, 1, 2]])), MeshConfig(), generator)


@pytest.mark.parametrize(
    ("shape", "distance"),
    [
        (trimesh.creation.icosphere(5, 0.3), lambda p: np.linalg.norm(p, axis=-1) - 0.3),
        (
            trimesh.creation.torus(0.3, 0.12, 256, 128),
            lambda p: np.hypot(np.hypot(p[..., 0], p[..., 1]) - 0.3, p[..., 2]) - 0.12,
        ),
    ],
    ids=["ball", "torus"],
)
def test_distances_to_a_mesh(shape: trimesh.Trimesh, distance: Callable[[np.ndarray], np.ndarray]) -> None:
    ours, true = mesh_to_sdf(two_tone(shape), 24), distance(grid_points(24).numpy())
    assert np.abs(ours - true).max() < 2 * BOUND / 23 / 8
    np.testing.assert_array_equal((ours < 0)[np.abs(true) > 1e-3], (true < 0)[np.abs(true) > 1e-3])


def test_overlapping_parts_are_inside_and_a_hole_changes_little() -> None:
    parts = [trimesh.creation.box((0.5, 0.3, 0.4)), trimesh.creation.box((0.2, 0.5, 0.2))]
    mesh = two_tone(trimesh.util.concatenate(parts))
    points = np.abs(grid_points(33).numpy())
    solid = (points < [0.25, 0.15, 0.2]).all(-1) | (points < [0.1, 0.25, 0.1]).all(-1)
    np.testing.assert_array_equal(mesh_to_sdf(mesh, 33) < 0, solid)
    holed = Mesh(mesh.vertices, mesh.faces[1:], colors=mesh.colors)
    assert ((mesh_to_sdf(holed, 33) < 0) != solid).mean() < 0.01


def test_colors_of_a_mesh_are_those_of_the_nearest_point() -> None:
    colors, points = mesh_to_colors(ball(), 16), grid_points(16).numpy()
    right = points[..., 0] > 0.05
    np.testing.assert_allclose(colors[right], np.broadcast_to([0.95, 0.05, 0.05], colors[right].shape), atol=1e-6)
