"""The mesh scene: its pictures, fitting, resuming, and the exported mesh."""

import math

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from sds3d.cameras import orbit, turntable
from sds3d.geometry.mesh import EmptySurfaceError, Mesh
from sds3d.rendering.mesh_zbuffer import rasterize
from sds3d.rendering.volume import BOUND
from sds3d.representations.isosurface import grid_points
from tests.representations.mesh_scenes import (
    BACKGROUND,
    GEOMETRIES,
    adam,
    ball,
    fit,
    iou,
    pictures,
    psnr,
    scene_from,
    scene_of,
    torus,
)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_shapes_and_values_of_pictures(geometry: str) -> None:
    scene = scene_from(ball(), geometry=geometry, resolution=32)
    cameras = orbit([0.0, 90.0, 200.0]).resized(20, 28)
    out = pictures(scene, cameras)
    assert out.rgb.shape == out.normal.shape == (3, 20, 28, 3)
    assert out.alpha.shape == out.depth.shape == (3, 20, 28, 1)
    assert out.rgb.min() >= 0
    assert out.rgb.max() <= 1
    assert out.alpha.min() == 0
    assert out.alpha.max() == 1
    # The corner shows the background, and the middle shows the ball's front, 2.1 - 0.3 m away, facing the camera.
    torch.testing.assert_close(out.rgb[0, 0, 0], BACKGROUND)
    assert float(out.depth[0, 10, 14]) == pytest.approx(1.8, abs=0.01)
    toward = cameras.position() / cameras.position().norm(dim=-1, keepdim=True)
    assert ((out.normal[:, 10, 14] * toward).sum(-1) > 0.97).all()
    length = out.normal.norm(dim=-1)
    torch.testing.assert_close(length, (out.alpha[..., 0] > 0).float())
    assert bool(((out.alpha > 0) & (out.alpha < 1)).any())  # antialiased


def test_camera_on_plus_x_sees_the_side_at_plus_x() -> None:
    rgb = pictures(scene_from(ball()), orbit([90.0, 270.0, 0.0], size=32)).rgb
    assert rgb[0, 16, 16, 0] > 0.9
    assert rgb[1, 16, 16, 2] > 0.9
    # From the front, +X is on the right.
    assert rgb[2, 16, 20, 0] > 0.9
    assert rgb[2, 16, 11, 2] > 0.9


def test_backgrounds_may_differ_between_views_and_show_through() -> None:
    backgrounds, cameras = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), orbit([0.0, 90.0], size=24)
    scene = scene_of()
    with torch.no_grad():
        over, black = scene.render(cameras, backgrounds), scene.render(cameras, torch.zeros(3))
    torch.testing.assert_close(over.rgb, black.rgb + (1 - over.alpha) * backgrounds[:, None, None])


def test_one_seed_one_scene() -> None:
    one, same, other = scene_of(3), scene_of(3), scene_of(4)
    cameras = orbit([10.0], size=16)
    assert torch.equal(pictures(one, cameras).rgb, pictures(same, cameras).rgb)
    assert not torch.equal(pictures(one, cameras).rgb, pictures(other, cameras).rgb)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_starts_as_a_ball_in_the_middle(geometry: str) -> None:
    mesh = scene_of(geometry=geometry, radius=0.25, resolution=32).to_mesh(64)
    assert np.abs(np.linalg.norm(mesh.vertices, axis=1) - 0.25).max() < 0.003
    assert mesh.volume() == pytest.approx(4 / 3 * math.pi * 0.25**3, rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("geometry", "mesh", "least"),
    [
        ("dmtet", ball(0.25, (0.05, 0.08, 0.0)), 30),
        ("flexicubes", ball(0.25, (0.05, 0.08, 0.0)), 30),
        ("fixed", ball(0.25, (0.05, 0.08, 0.0)), 30),
        ("dmtet", torus(), 25),
        ("flexicubes", torus(), 25),
    ],
    ids=["ball by dmtet", "ball by flexicubes", "ball by a fixed mesh", "torus by dmtet", "torus by flexicubes"],
)
def test_fits_shape_and_color_from_eight_views(geometry: str, mesh: Mesh, least: float) -> None:
    truth = scene_from(mesh)
    azimuths = [0.0, 45.0, 90.0, 135.0, 180.0, 225.0, 270.0, 315.0]
    cameras = orbit(azimuths, elevation=torch.tensor([0.0, 30.0] * 4), size=48)
    scene = scene_of(geometry=geometry, resolution=32, size=32)
    fit(scene, cameras, pictures(truth, cameras).rgb, 100, adam(scene))
    unseen = orbit([20.0, 110.0, 250.0], elevation=15.0, size=48)
    ours, theirs = pictures(scene, unseen), pictures(truth, unseen)
    assert psnr(ours.rgb, theirs.rgb) > least
    assert iou(ours.alpha, theirs.alpha) > 0.95
    assert scene.to_mesh(64).volume() == pytest.approx(mesh.volume(), rel=0.1)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_resumed_training_is_bit_identical(geometry: str) -> None:
    cameras = turntable(2, size=16)
    target = pictures(scene_from(ball(0.25)), cameras).rgb

    def run(stop: int | None) -> dict[str, Tensor]:
        scene = scene_of(1, geometry=geometry, resolution=16)
        optimizer = adam(scene)
        for step in range(6):
            if step == stop:
                state, moments = scene.state_dict(), optimizer.state_dict()
                scene = scene_of(9, geometry=geometry, resolution=16)
                scene.load_state_dict({name: tensor.clone() for name, tensor in state.items()})
                optimizer = adam(scene)
                optimizer.load_state_dict(moments)
            fit(scene, cameras, target, 1, optimizer)
        return scene.state_dict()

    straight, resumed = run(None), run(4)
    assert straight.keys() == resumed.keys()
    for name, tensor in straight.items():
        assert torch.equal(tensor, resumed[name]), name


def test_state_is_a_copy() -> None:
    scene = scene_of()
    state = scene.state_dict()
    before = state["sdf"].clone()
    with torch.no_grad():
        scene.parameters["sdf"].add_(1.0)
    assert torch.equal(state["sdf"], before)


def test_incompatible_states_are_refused() -> None:
    with pytest.raises(ValueError, match=r"representation\.geometry\.resolution=12"):
        scene_of().load_state_dict(scene_of(resolution=12).state_dict())
    with pytest.raises(ValueError, match=r"representation\.appearance\.resolution=12"):
        scene_of().load_state_dict(scene_of(size=12).state_dict())
    with pytest.raises(ValueError, match="lacks weights: is it of another"):
        scene_of(geometry="flexicubes").load_state_dict(scene_of().state_dict())
    with pytest.raises(ValueError, match="lacks coarse_12, coarse_6, color, offsets, sdf, seed, step"):
        scene_of().load_state_dict({"density": torch.zeros(3)})


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_mesh_looks_like_the_render(geometry: str) -> None:
    scene, cameras = scene_from(torus(), geometry=geometry), orbit([20.0, 100.0, 250.0], elevation=10.0, size=96)
    mesh = scene.to_mesh(64)
    assert len(mesh.faces) <= 20_000
    assert mesh.colors is not None
    assert mesh.normals is not None
    np.testing.assert_allclose(np.linalg.norm(mesh.normals, axis=1), 1, atol=1e-5)
    solid = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    assert solid.is_watertight
    assert solid.euler_number == 0
    picture, render = rasterize(mesh.vertices, mesh.faces, mesh.colors, cameras), pictures(scene, cameras)
    assert iou(torch.from_numpy(picture.face >= 0).float(), render.alpha[..., 0]) > 0.98
    inside = (picture.face >= 0) & (render.alpha[..., 0].numpy() == 1)
    assert np.abs(picture.attributes - render.rgb.numpy())[inside].mean() < 0.02


def test_specks_and_cavities_are_left_out_of_the_mesh() -> None:
    scene = scene_of(resolution=40)
    points = grid_points(40)
    hollow = torch.maximum(points.norm(dim=-1) - 0.3, 0.15 - points.norm(dim=-1))
    speck = (points - 0.4).norm(dim=-1) - 0.03
    with torch.no_grad():
        scene.parameters["sdf"].copy_(torch.minimum(hollow, speck))
    mesh = scene.to_mesh(64)
    assert mesh.volume() == pytest.approx(4 / 3 * math.pi * 0.3**3, rel=0.03)
    assert np.linalg.norm(mesh.vertices, axis=1).min() > 0.29
    assert np.abs(mesh.vertices).max() < 0.31


@pytest.mark.parametrize("geometry", ["dmtet", "flexicubes"])
def test_the_surface_closes_within_the_cube(geometry: str) -> None:
    scene = scene_of(geometry=geometry)
    with torch.no_grad():
        scene.parameters["sdf"].fill_(-1.0)
    mesh = scene.to_mesh(64)
    assert trimesh.Trimesh(mesh.vertices, mesh.faces, process=False).is_watertight
    assert 1.0 < mesh.volume() < (2 * BOUND) ** 3
    assert np.abs(mesh.vertices).max() <= BOUND


@pytest.mark.parametrize("geometry", ["dmtet", "flexicubes"])
def test_a_vanished_surface_renders_as_background_and_is_restored(geometry: str) -> None:
    scene, cameras = scene_of(geometry=geometry), orbit([0.0, 90.0], size=32)
    optimizer = adam(scene)
    with torch.no_grad():
        scene.parameters["sdf"].add_(0.5)
    out = scene.render(cameras, BACKGROUND)
    torch.testing.assert_close(out.rgb, BACKGROUND.expand_as(out.rgb))
    for picture in (out.alpha, out.depth, out.normal):
        assert not picture.any()
    (out.rgb.sum() + sum(scene.regularisers(out, 0.0).values())).backward()  # a step of the loop still works
    with pytest.raises(EmptySurfaceError, match="the surface has vanished: start from a larger shape"):
        scene.to_mesh(64)
    scene.after_step(0, optimizer)
    assert float(pictures(scene, cameras).alpha.sum()) > 0
    with pytest.raises(EmptySurfaceError):  # the ball that replaces the vanished surface is not a result
        scene.to_mesh(64)
    target = pictures(scene_from(ball(0.2)), cameras).rgb
    fit(scene, cameras, target, 80, adam(scene))
    assert iou(pictures(scene, cameras).alpha, pictures(scene_from(ball(0.2)), cameras).alpha) > 0.8


def test_an_existing_surface_is_not_changed_after_a_step() -> None:
    scene = scene_of()
    before = scene.state_dict()
    scene.after_step(0, adam(scene))
    after = scene.state_dict()
    assert (before.pop("step"), after.pop("step")) == (0, 1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())


def test_nan_parameters_do_not_crash() -> None:
    scene = scene_of()
    with torch.no_grad():
        scene.parameters["sdf"][12, 12, 18] = math.nan
        scene.parameters["color"][12, 12, 18] = math.nan
    scene.render(orbit([0.0], size=16), BACKGROUND).rgb.sum().backward()
    scene.after_step(0, adam(scene))


def test_with_fixed_vertices_only_colors_are_trained() -> None:
    scene, cameras = scene_from(ball(0.25), vertices_lr=0.0), turntable(3, size=24)
    target = pictures(scene_from(ball(0.3)), cameras).rgb
    before = scene.state_dict()
    fit(scene, cameras, target, 2, adam(scene))
    assert torch.equal(scene.parameters["vertices"], before["vertices"])
    assert not torch.equal(scene.parameters["color"], before["color"])


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_renders_without_gradients_follow_the_parameters(geometry: str) -> None:
    scene, camera = scene_from(ball(), geometry=geometry, resolution=24), orbit([20.0], size=32)
    with torch.no_grad():
        first = pictures(scene, camera).alpha
        state = scene.state_dict()
        torch.testing.assert_close(pictures(scene, camera).alpha, first, rtol=0, atol=0)
        for parameter in scene.geometry.parameters.values():
            parameter.add_(0.03)  # smaller if these are distances, elsewhere if they are positions
        assert (pictures(scene, camera).alpha - first).abs().max() > 0.1
        scene.load_state_dict(state)
        torch.testing.assert_close(pictures(scene, camera).alpha, first, rtol=0, atol=0)
