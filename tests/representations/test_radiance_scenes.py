"""What holds for every radiance-field scene: voxel grids, hash grids and triplanes."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from sds3d.cameras import orbit
from sds3d.geometry.mesh import EmptySurfaceError
from sds3d.rendering.mesh_zbuffer import rasterize
from sds3d.rendering.volume import BOUND
from sds3d.representations.field_nerf import FieldNerfScene
from sds3d.representations.voxel_grid import VoxelGridScene
from tests.representations.radiance_scenes import (
    BACKGROUND,
    HASH,
    TRIPLANE,
    adam,
    field_ball,
    field_scene,
    voxel_ball,
    voxel_scene,
)

RadianceScene = VoxelGridScene | FieldNerfScene
KINDS = ["voxel_grid", "hash", "triplane"]
BALLS = pytest.mark.parametrize("ball", [voxel_ball, field_ball], ids=["voxel_grid", "field"])


def scene_of(kind: str, seed: int = 0) -> RadianceScene:
    if kind == "voxel_grid":
        return voxel_scene(seed, resolution=16)
    return field_scene(HASH if kind == "hash" else TRIPLANE, seed)


@pytest.mark.parametrize(
    ("ball", "training", "least_cosine"),
    [(voxel_ball, False, 0.97), (field_ball, False, 0.97), (field_ball, True, 0.7)],
    ids=["voxel_grid", "field", "field in training"],
)
def test_shapes_and_values_of_pictures(ball: Callable[[], RadianceScene], training: bool, least_cosine: float) -> None:
    """least_cosine: between normals and the view direction. In training, fields compute them from few samples."""
    cameras = orbit([0.0, 90.0, 200.0]).resized(20, 28)
    with torch.set_grad_enabled(training):
        out = ball().render(cameras, BACKGROUND)
    assert out.rgb.shape == (3, 20, 28, 3)
    assert out.alpha.shape == out.depth.shape == (3, 20, 28, 1)
    assert out.normal.shape == (3, 20, 28, 3)
    assert out.latent is None
    assert out.rgb.min() >= 0
    assert out.rgb.max() <= 1
    # The corner shows the background, and the middle shows the ball's front, 2.1 - 0.3 m away, facing the camera.
    torch.testing.assert_close(out.rgb[0, 0, 0], BACKGROUND, atol=1e-3, rtol=0)
    assert float(out.alpha[0, 10, 14]) > 0.999
    assert float(out.depth[0, 10, 14]) == pytest.approx(1.8, abs=0.04)
    toward = cameras.position() / cameras.position().norm(dim=-1, keepdim=True)
    assert ((out.normal[:, 10, 14] * toward).sum(-1) > least_cosine).all()


@BALLS
def test_camera_on_plus_x_sees_the_side_at_plus_x(ball: Callable[[], RadianceScene]) -> None:
    with torch.no_grad():
        rgb = ball().render(orbit([90.0, 270.0, 0.0], size=32), torch.zeros(3)).rgb
    assert rgb[0, 16, 16, 0] > 0.9
    assert rgb[1, 16, 16, 2] > 0.9
    # From the front, +X is on the right.
    assert rgb[2, 16, 20, 0] > 0.9
    assert rgb[2, 16, 11, 2] > 0.9


@BALLS
def test_background_may_differ_between_views(ball: Callable[[], RadianceScene]) -> None:
    backgrounds = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    with torch.no_grad():
        rgb = ball().render(orbit([0.0, 90.0], size=16), backgrounds).rgb
    torch.testing.assert_close(rgb[:, 0, 0], backgrounds, atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_jittered_in_training_only(kind: str) -> None:
    scene, cameras = scene_of(kind), orbit([0.0], size=16)

    def before_and_after_a_step() -> tuple[Tensor, Tensor]:
        before = scene.render(cameras, BACKGROUND).rgb
        scene.after_step(0, adam(scene))
        after = scene.render(cameras, BACKGROUND).rgb
        scene.load_state_dict(state)
        return before, after

    state = scene.state_dict()
    with torch.no_grad():
        assert torch.equal(*before_and_after_a_step())
    assert not torch.equal(*before_and_after_a_step())


@pytest.mark.parametrize("kind", KINDS)
def test_one_seed_one_scene(kind: str) -> None:
    one, same, other = scene_of(kind, 3), scene_of(kind, 3), scene_of(kind, 4)
    cameras = orbit([10.0], size=16)
    assert torch.equal(one.render(cameras, BACKGROUND).rgb, same.render(cameras, BACKGROUND).rgb)
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, same.state_dict()[name]), name
    with torch.no_grad():  # without jitter, so that only the parameters differ
        assert not torch.equal(one.render(cameras, BACKGROUND).rgb, other.render(cameras, BACKGROUND).rgb)


@pytest.mark.parametrize(
    ("make", "most_in_corner"),
    [(voxel_scene, 0.3), (lambda: field_scene(HASH), 0.01), (lambda: field_scene(TRIPLANE), 0.01)],
    ids=KINDS,
)
def test_starts_as_a_blob_in_the_middle(make: Callable[[], RadianceScene], most_in_corner: float) -> None:
    with torch.no_grad():
        alpha = make().render(orbit([0.0, 90.0], size=32), BACKGROUND).alpha[..., 0]
    assert alpha[:, 16, 16].min() > 0.99
    assert alpha[:, 0, 0].max() < most_in_corner


# The surface is where half of the light is stopped, slightly outside the radius of 0.3 m where the density is half. On
# the grid the density fades out over one voxel.
@pytest.mark.parametrize(
    ("make", "largest_radius", "error"),
    [(voxel_ball, 0.3 + 2 * BOUND / 31, 0.02), (lambda: field_ball(samples=64), 0.33, 0.03)],
    ids=["voxel_grid", "field"],
)
def test_mesh_looks_like_the_render(make: Callable[[], RadianceScene], largest_radius: float, error: float) -> None:
    scene, cameras = make(), orbit([20.0, 100.0, 250.0], elevation=10.0, size=96)
    mesh = scene.to_mesh(64)
    assert 0.3 < (mesh.volume() * 3 / (4 * math.pi)) ** (1 / 3) < largest_radius
    assert mesh.colors is not None
    picture = rasterize(mesh.vertices, mesh.faces, mesh.colors, cameras)
    with torch.no_grad():
        render = scene.render(cameras, torch.zeros(3))
    mask, alpha = picture.face >= 0, render.alpha[..., 0].numpy()
    assert (mask & (alpha > 0.5)).sum() / (mask | (alpha > 0.5)).sum() > 0.95
    inside = mask & (alpha > 0.99)
    assert np.abs(picture.attributes - render.rgb.numpy())[inside].mean() < error


@pytest.mark.parametrize("kind", KINDS)
def test_empty_scene_has_no_mesh(kind: str) -> None:
    scene = scene_of(kind)
    with torch.no_grad():
        if isinstance(scene, VoxelGridScene):
            scene.density.fill_(-20.0)
        else:
            scene.field.decoder.out.bias[0] = -40.0
        out = scene.render(orbit([0.0], size=8), BACKGROUND)
    assert float(out.alpha.max()) < 1e-6
    torch.testing.assert_close(out.rgb, BACKGROUND.expand_as(out.rgb))
    with pytest.raises(EmptySurfaceError):
        scene.to_mesh(24)
