"""Conversions between representations, checked by rendering the result."""

import math

import numpy as np
import pytest
import torch
import trimesh
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion
from torch import Tensor
from torch.nn import functional

from sds3d.cameras import orbit, turntable
from sds3d.geometry.mesh import Mesh
from sds3d.geometry.sampling import quats_to, splats_from_mesh, splats_from_points
from sds3d.geometry.splats import Splats
from sds3d.rendering.mesh_zbuffer import antialiased, rasterize
from sds3d.rendering.splatting import rotation_matrices
from sds3d.rendering.volume import BOUND, render_rays
from sds3d.representations.convert import splats_from_grid
from sds3d.representations.gaussians import GaussiansConfig, GaussiansScene
from sds3d.toybox.objects import build
from sds3d.toybox.world import Spec

CAMERAS = turntable(6, elevation=20.0, size=96)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scene_of(splats: Splats, degree: int = 0) -> GaussiansScene:
    return GaussiansScene.from_splats(splats, GaussiansConfig(sh_degree=degree), generator(), "cpu", 100)


def drawn(splats: Splats) -> NDArray[np.float32]:
    """Render pictures (B, H, W, 4) over black; the last channel is the opacity."""
    with torch.no_grad():
        out = scene_of(splats).render(CAMERAS, torch.zeros(3))
    return torch.cat([out.rgb, out.alpha], dim=-1).numpy()


def psnr(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return -10 * math.log10(float(np.square(a - b).mean()))


def mesh_pictures(mesh: Mesh) -> NDArray[np.float32]:
    assert mesh.colors is not None
    values = np.concatenate([mesh.colors, np.ones((len(mesh.colors), 1), np.float32)], axis=1)
    return antialiased(lambda cameras: rasterize(mesh.vertices, mesh.faces, values, cameras).attributes, CAMERAS, 3)


@pytest.fixture(scope="module")
def mug() -> Mesh:
    return build(Spec("mug", "red"), np.random.default_rng(0))


def test_a_mesh_as_splats_looks_like_the_mesh(mug: Mesh) -> None:
    splats = splats_from_mesh(mug, 12_000, generator())
    assert psnr(drawn(splats), mesh_pictures(mug)) > 20.5


def directions_of_a_cube() -> tuple[Tensor, Tensor]:
    """Return azimuth and elevation (26,) in degrees of the directions to the faces, edges and corners of a cube."""
    steps = torch.tensor([-1.0, 0.0, 1.0])
    points = torch.cartesian_prod(steps, steps, steps)
    x, y, z = functional.normalize(points[points.abs().sum(-1) > 0], dim=-1).unbind(-1)
    return torch.rad2deg(torch.atan2(x, z)), torch.rad2deg(torch.asin(y.clamp(-1, 1)))


@pytest.mark.parametrize("name", ["mug", "chair", "box", "sphere"])
def test_splats_on_a_surface_hide_what_is_behind_and_keep_the_outline(name: str) -> None:
    if name in ("mug", "chair"):
        mesh = build(Spec(name, "red"), np.random.default_rng(0))
    else:
        solid = trimesh.creation.box((0.6, 0.6, 0.6)) if name == "box" else trimesh.creation.icosphere(4, 0.4)
        mesh = Mesh(solid.vertices.astype(np.float32), solid.faces.astype(np.int32))
    splats = splats_from_mesh(mesh, 40_000, generator())
    azimuth, elevation = directions_of_a_cube()
    cameras, scene = orbit(azimuth, elevation, size=256), scene_of(splats)
    normals = rotation_matrices(torch.from_numpy(splats.quats))[..., 2].numpy()
    ones = np.ones((len(mesh.vertices), 1), np.float32)
    see_through, offset = [], []
    for i in range(len(cameras)):
        camera = cameras[i : i + 1]
        covered = antialiased(lambda views: rasterize(mesh.vertices, mesh.faces, ones, views).attributes, camera, 4)
        covered = covered[0, ..., 0]  # (256, 256), share of the pixel
        facing = ((camera.position()[0].numpy() - splats.means) * normals).sum(1) > 0
        with torch.no_grad():
            alpha = scene.render(camera, torch.zeros(3)).alpha[0, ..., 0].numpy()
            front = scene_of(splats[facing]).render(camera, torch.zeros(3)).alpha[0, ..., 0].numpy()
        see_through.append(1 - front[binary_erosion(covered > 0.999)].mean())
        outline = np.hypot(*np.gradient(covered)).sum()  # its length in pixels
        offset.append(np.abs(alpha - covered).sum() / outline)
    assert np.mean(see_through) < 0.01
    assert np.mean(offset) < 0.5


def test_a_field_as_splats_looks_like_the_field() -> None:
    n = 64
    axis = torch.linspace(-BOUND, BOUND, n)
    points = torch.cartesian_prod(axis, axis, axis).reshape(n, n, n, 3)
    ring = torch.stack([points[..., :2].norm(dim=-1) - 0.3, points[..., 2]], dim=-1).norm(dim=-1)  # a torus
    density = ((0.12 - ring) * 4000).clamp(0, 120)
    color = torch.where(points[..., :1] > 0, torch.tensor([0.9, 0.2, 0.1]), torch.tensor([0.1, 0.3, 0.8]))
    grid = torch.cat([density[..., None], color], dim=-1)
    origins, directions = CAMERAS.rays()
    field = render_rays(grid, origins, directions, samples=128)
    expected = torch.cat([field.rgb, field.alpha[..., None]], dim=-1).numpy()
    assert psnr(drawn(splats_from_grid(grid, 15_000, generator())), expected) > 20.5


def test_splats_as_a_mesh_and_back(mug: Mesh) -> None:
    splats = splats_from_mesh(mug, 8000, generator())
    again = scene_of(splats).to_mesh(96)
    assert again.volume() > 0
    assert psnr(mesh_pictures(again), drawn(splats)) > 20


def test_a_scene_returns_its_splats() -> None:
    rng = np.random.default_rng(0)
    sh = np.concatenate([rng.uniform(-1, 1, (50, 1, 3)), 0.2 * rng.normal(size=(50, 8, 3))], axis=1)
    splats = Splats(
        rng.normal(size=(50, 3)) * 0.2, rng.normal(size=(50, 4)), rng.uniform(0.01, 0.1, (50, 3)),
        rng.uniform(0.01, 0.99, 50), sh,
    ).checked()  # fmt: skip
    again = scene_of(splats, degree=2).splats().checked()
    for name in ("means", "scales", "opacities", "sh"):
        np.testing.assert_allclose(getattr(again, name), getattr(splats, name), atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(np.abs((again.quats * splats.quats).sum(1)), 1, atol=1e-5)
    assert scene_of(splats, degree=1).splats().sh.shape == (50, 4, 3)
    assert np.abs(scene_of(splats, degree=3).splats().sh[:, 9:]).max() == 0


def test_quaternions_turn_z_into_the_normal() -> None:
    normals = functional.normalize(torch.randn(100, 3, generator=generator()).double(), dim=-1).numpy()
    normals[:2] = [[0, 0, -1], [0, 0, 1]]
    turned = rotation_matrices(torch.from_numpy(quats_to(normals)))[..., 2]
    np.testing.assert_allclose(turned, normals, atol=1e-6)


def test_points_get_the_width_of_their_neighbourhood() -> None:
    points = np.stack(np.meshgrid(*[np.arange(5) * 0.1] * 3), axis=-1).reshape(-1, 3).astype(np.float32)
    splats = splats_from_points(points, np.full(points.shape, 0.25, np.float32))
    np.testing.assert_allclose(splats.scales, 0.1, rtol=1e-4)
    np.testing.assert_allclose(splats.colors(), 0.25, atol=1e-6)
    with pytest.raises(ValueError, match="at least two points"):
        splats_from_points(points[:1])


def test_empty_inputs_are_refused() -> None:
    flat = Mesh(np.zeros((3, 3), np.float32), np.array([[0, 1, 2]], np.int32))
    with pytest.raises(ValueError, match="no area"):
        splats_from_mesh(flat, 10, generator())
    with pytest.raises(ValueError, match="empty"):
        splats_from_grid(torch.zeros(8, 8, 8, 4), 10, generator())
