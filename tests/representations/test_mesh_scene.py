"""The mesh scene: contract, gradients in closed form, fitting, resuming, meshing, vanishing."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from sds3d.cameras import Cameras, orbit, turntable
from sds3d.geometry.mesh import EmptySurfaceError, Mesh
from sds3d.rendering.mesh_losses import normal_consistency
from sds3d.rendering.mesh_zbuffer import rasterize
from sds3d.rendering.volume import BOUND
from sds3d.representations.base import Rendering, Start
from sds3d.representations.isosurface import dmtet, grid_points
from sds3d.representations.mesh_distances import Distances, eikonal
from sds3d.representations.mesh_geometry import bending, face_normals
from sds3d.representations.mesh_scene import MeshConfig, MeshScene
from sds3d.representations.signed_distance import mesh_to_colors, mesh_to_sdf
from sds3d.representations.voxel_grid import VoxelGridConfig, VoxelGridScene
from tests.representations.mesh_settings import mesh_config

BACKGROUND = torch.tensor([0.2, 0.5, 0.9])
GEOMETRIES = ["dmtet", "flexicubes", "fixed"]


def scene_of(seed: int = 0, **options: Any) -> MeshScene:
    return MeshScene(mesh_config(**options), torch.Generator().manual_seed(seed))


def two_tone(shape: trimesh.Trimesh) -> Mesh:
    """Red where x > 0 and blue elsewhere."""
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


def distances(scene: MeshScene) -> Distances:
    assert isinstance(scene.geometry, Distances)
    return scene.geometry


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


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_pictures_keep_the_contract(geometry: str) -> None:
    scene = scene_from(ball(), geometry=geometry, resolution=32)
    cameras = orbit([0.0, 90.0, 200.0]).resized(20, 28)
    out = pictures(scene, cameras)
    assert out.rgb.shape == out.normal.shape == (3, 20, 28, 3)
    assert out.alpha.shape == out.depth.shape == (3, 20, 28, 1)
    assert out.rgb.min() >= 0
    assert out.rgb.max() <= 1
    assert out.alpha.min() == 0
    assert out.alpha.max() == 1
    # The corner shows the background; the middle the ball's front, 2.1 - 0.3 m away, facing the camera.
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


def test_background_may_differ_between_views_and_shows_where_alpha_lacks() -> None:
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


def test_normals_as_colors_of_each_camera() -> None:
    cameras = orbit([0.0, 120.0], elevation=0.0, size=33)
    out = pictures(scene_of(shading="normal", resolution=32), cameras)
    torch.testing.assert_close(out.rgb[:, 16, 16], torch.tensor([[0.5, 0.5, 1.0]] * 2), atol=0.02, rtol=0)
    assert (out.rgb[:, 16, 19, 0] > 0.6).all()  # to the right of the middle it looks right
    assert (out.rgb[:, 13, 16, 1] > 0.6).all()


@pytest.mark.parametrize("shading", ["lambert", "textureless"])
def test_light_at_the_camera_in_closed_form(shading: str) -> None:
    cameras = orbit([0.0, 120.0], size=32)
    light = {"name": shading, "ambient": 0.25}
    lit, plain = (pictures(scene_of(shading=each, resolution=64), cameras) for each in (light, "none"))
    origins, directions = cameras.rays()
    points = origins + lit.depth * directions
    cosine = (torch.nn.functional.normalize(points, dim=-1) * -directions).sum(-1, keepdim=True)  # the ball's normals
    base = plain.rgb if shading == "lambert" else torch.ones(3)
    solid = lit.alpha[..., 0] == 1
    expected = base * (0.25 + 0.75 * cosine)
    torch.testing.assert_close(lit.rgb[solid], expected[solid], atol=0.03, rtol=0)


def test_lights_are_drawn_anew_after_each_step_only() -> None:
    scene, cameras = scene_of(shading="textureless"), orbit([0.0], size=24)
    first, again = (scene.render(cameras, BACKGROUND).rgb for _ in range(2))
    assert torch.equal(first, again)
    scene.after_step(0, adam(scene))
    assert not torch.equal(first, scene.render(cameras, BACKGROUND).rgb)
    assert torch.equal(pictures(scene, cameras).rgb, pictures(scene, cameras).rgb)
    state = scene.state_dict()
    after = scene.render(cameras, BACKGROUND).rgb
    other = scene_of(5, shading="textureless")
    other.load_state_dict(state)
    assert torch.equal(other.render(cameras, BACKGROUND).rgb, after)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_gradients_reach_every_parameter(geometry: str) -> None:
    scene = scene_of(geometry=geometry, shading="lambert")
    out = scene.render(orbit([0.0, 90.0], size=24), BACKGROUND)
    for picture in (out.rgb, out.alpha, out.depth, out.normal[..., 0]):
        gradients = torch.autograd.grad(
            (picture * torch.linspace(0, 1, 24)[:, None]).sum(),
            list(scene.parameters.values()),
            retain_graph=True,
            materialize_grads=True,
            allow_unused=True,
        )
        for name, gradient in zip(scene.parameters, gradients, strict=True):
            assert bool(gradient.isfinite().all()), name
            assert bool(gradient.any()) == (name != "color" or picture is out.rgb), name


@pytest.mark.parametrize("geometry", ["dmtet", "flexicubes"])
def test_silhouette_grows_with_the_ball_as_it_should(geometry: str) -> None:
    """A ball of radius r seen from d covers pi f^2 r^2 / (d^2 - r^2) pixels; its slope is the gradient of the sdf."""
    cameras, radius, distance = orbit([0.0], elevation=0.0, distance=2.1, size=64), 0.3, 2.1
    scene = scene_of(geometry=geometry, resolution=40, radius=radius)
    area = scene.render(cameras, BACKGROUND).alpha.sum()
    (gradient,) = torch.autograd.grad(area, scene.parameters["sdf"])
    focal = float(cameras.intrinsics()[0, 0, 0])
    rest = distance**2 - radius**2
    assert area.item() == pytest.approx(math.pi * focal**2 * radius**2 / rest, rel=0.01)
    slope = 2 * math.pi * focal**2 * radius * distance**2 / rest**2
    assert float(gradient.sum()) == pytest.approx(-slope, rel=0.05)


def test_colors_get_the_gradient_of_the_pixels_they_color() -> None:
    scene = scene_of(radius=0.25)
    scene.render(orbit([0.0], elevation=0.0, size=32), BACKGROUND).rgb.sum().backward()
    gradient = scene.parameters["color"].grad
    assert gradient is not None
    x, y, z = (grid_points(24)[gradient.abs().sum(-1) > 0]).unbind(-1)
    assert z.min() > -0.1  # the front alone is seen
    assert (x * x + y * y + z * z).sqrt().max() < 0.25 + 2 * BOUND / 23 * math.sqrt(3)


def test_eikonal_is_zero_for_distances_and_in_closed_form() -> None:
    plane = torch.linspace(-6, 6, 13)[:, None, None].expand(13, 13, 13)
    assert float(eikonal(plane)) == pytest.approx(0, abs=1e-10)
    assert float(eikonal(1.5 * plane)) == pytest.approx(0.25, rel=1e-5)
    assert float(eikonal(torch.full((5, 5, 5), 9.0))) == 0


def test_bending_is_normal_consistency() -> None:
    noise = torch.randn(12, 12, 12, generator=torch.Generator().manual_seed(0))
    vertices, faces = dmtet(grid_points(12).norm(dim=-1) - 0.3 + 0.02 * noise)
    vertices, faces = vertices.double().requires_grad_(), faces.clone()
    faces[::3] = faces[::3].flip(1)  # however they are wound
    faces = torch.cat([faces[5:], torch.tensor([[0, 0, 1]])])  # open, and with a face without area
    ours = bending(face_normals(vertices, faces), faces, len(vertices))
    theirs = normal_consistency(vertices, faces)
    torch.testing.assert_close(ours, theirs)
    slopes = (torch.autograd.grad(loss, vertices)[0] for loss in (ours, theirs))
    torch.testing.assert_close(*slopes)


def test_coarse_lattices_are_added_trilinearly() -> None:
    scene = scene_of(resolution=25)
    before, generator = distances(scene).sdf().detach(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        scene.parameters["coarse_12"].copy_(torch.randn(12, 12, 12, generator=generator) * 0.01)
    expected = torch.nn.functional.interpolate(
        scene.parameters["coarse_12"][None, None], (25, 25, 25), mode="trilinear", align_corners=True
    )
    inner = (slice(1, -1),) * 3
    torch.testing.assert_close((distances(scene).sdf() - before)[inner], expected[0, 0][inner], atol=1e-6, rtol=0)
    with torch.no_grad():  # a linear function stays one through all levels
        scene.parameters["coarse_12"].zero_()
        scene.parameters["coarse_6"].copy_(grid_points(6)[..., 0])
    torch.testing.assert_close(
        (distances(scene).sdf() - before)[inner], grid_points(25)[..., 0][inner], atol=1e-6, rtol=0
    )


def test_regularisers_are_scaled_by_weights_and_pixels() -> None:
    names = ["normal_consistency", "laplacian", "edge_length", "eikonal", "deviation"]
    scene = scene_of(geometry="flexicubes", smoothness=1.0, **dict.fromkeys(names, 1.0))
    small, large = torch.zeros(2, 4, 6, 1), torch.zeros(2, 8, 6, 1)
    with torch.no_grad():
        few = scene.regularisers(Rendering(small, small, small, small), 0.0)
        many = scene.regularisers(Rendering(large, large, large, large), 0.0)
        scene.geometry.config = scene.geometry.config.model_copy(update={"laplacian": 3.0, "edge_length": 0.0})
        other = scene.regularisers(Rendering(small, small, small, small), 0.0)
    assert few.keys() == {*names, "color_smoothness"}
    for name, loss in few.items():
        assert float(loss) > 0
        assert float(many[name]) == pytest.approx(2 * float(loss))
    assert float(other["laplacian"]) == pytest.approx(3 * float(few["laplacian"]))
    assert "edge_length" not in other


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


def test_a_state_that_does_not_fit_is_refused() -> None:
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
def test_a_vanished_surface_is_drawn_as_nothing_and_comes_back(geometry: str) -> None:
    scene, cameras = scene_of(geometry=geometry), orbit([0.0, 90.0], size=32)
    optimizer = adam(scene)
    with torch.no_grad():
        scene.parameters["sdf"].add_(0.5)
    out = scene.render(cameras, BACKGROUND)
    torch.testing.assert_close(out.rgb, BACKGROUND.expand_as(out.rgb))
    for picture in (out.alpha, out.depth, out.normal):
        assert not picture.any()
    (out.rgb.sum() + sum(scene.regularisers(out, 0.0).values())).backward()  # a step of the loop goes through
    with pytest.raises(EmptySurfaceError, match="the surface has vanished: start from a larger shape"):
        scene.to_mesh(64)
    scene.after_step(0, optimizer)
    assert float(pictures(scene, cameras).alpha.sum()) > 0
    with pytest.raises(EmptySurfaceError):  # the ball that brings it back is no result
        scene.to_mesh(64)
    target = pictures(scene_from(ball(0.2)), cameras).rgb
    fit(scene, cameras, target, 80, adam(scene))
    assert iou(pictures(scene, cameras).alpha, pictures(scene_from(ball(0.2)), cameras).alpha) > 0.8


def test_a_surface_that_is_there_is_left_alone_after_a_step() -> None:
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


def test_a_mesh_that_stays_in_place_learns_colors_only() -> None:
    scene, cameras = scene_from(ball(0.25), vertices_lr=0.0), turntable(3, size=24)
    target = pictures(scene_from(ball(0.3)), cameras).rgb
    before = scene.state_dict()
    fit(scene, cameras, target, 2, adam(scene))
    assert torch.equal(scene.parameters["vertices"], before["vertices"])
    assert not torch.equal(scene.parameters["color"], before["color"])


def test_a_given_mesh_is_kept_as_it_is_when_fixed() -> None:
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


def test_nothing_to_start_from() -> None:
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


def test_overlapping_parts_are_inside_and_a_hole_does_little_harm() -> None:
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
