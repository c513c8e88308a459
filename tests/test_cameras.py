import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sds3d.cameras import CameraConfig, Cameras, orbit, sample_cameras, turntable

azimuths = st.floats(-360, 720, width=32)
elevations = st.floats(-90, 90, width=32)


def one(azimuth: float, elevation: float, height: int = 6, width: int = 10, fovy: float = 40.0) -> Cameras:
    return orbit([azimuth], elevation, 2.0, fovy).resized(height, width)


@pytest.mark.parametrize(
    ("azimuth", "elevation", "direction"),
    [
        (0, 0, (0, 0, 1)),
        (90, 0, (1, 0, 0)),
        (180, 0, (0, 0, -1)),
        (270, 0, (-1, 0, 0)),
        (0, 90, (0, 1, 0)),
        (0, -90, (0, -1, 0)),
        (90, 45, (0.5**0.5, 0.5**0.5, 0)),
    ],
)
def test_camera_positions(azimuth, elevation, direction):
    position = one(azimuth, elevation).position()
    torch.testing.assert_close(position, 2.0 * torch.tensor([direction], dtype=torch.float32), atol=1e-6, rtol=0)


@settings(deadline=None)
@given(azimuth=azimuths, elevation=elevations)
def test_poses_are_rotations_that_look_at_the_origin(azimuth, elevation):
    cameras = one(azimuth, elevation)
    c2w = cameras.c2w()[0].double()
    rotation = c2w[:3, :3]
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(3, dtype=torch.float64), atol=1e-6, rtol=0)
    assert torch.linalg.det(rotation).item() == pytest.approx(1.0, abs=1e-6)
    torch.testing.assert_close(-rotation[:, 2] * 2.0, -c2w[:3, 3], atol=1e-6, rtol=0)  # -z points to the origin
    assert abs(rotation[1, 0]) < 1e-6  # the horizon is level
    assert rotation[1, 1] > -1e-6  # up is not down
    torch.testing.assert_close(c2w[3], torch.tensor([0, 0, 0, 1.0], dtype=torch.float64))


@settings(deadline=None)
@given(azimuth=azimuths, elevation=st.floats(-85, 85, width=32))
def test_pose_equals_a_look_at(azimuth, elevation):
    cameras = one(azimuth, elevation)
    position = cameras.position()[0].double().numpy()
    back = position / np.linalg.norm(position)
    right = np.cross([0.0, 1.0, 0.0], back)
    right /= np.linalg.norm(right)
    expected = np.stack([right, np.cross(back, right), back], axis=1)
    np.testing.assert_allclose(cameras.c2w()[0, :3, :3].numpy(), expected, atol=2e-6)


@pytest.mark.parametrize("elevation", [90.0, -90.0])
@pytest.mark.parametrize("azimuth", [0.0, 37.0, 180.0])
def test_straight_up_and_down_are_defined(azimuth, elevation):
    cameras = one(azimuth, elevation)
    for matrix in (cameras.c2w(), cameras.opencv_viewmats(), *cameras.rays()):
        assert torch.isfinite(matrix).all()
    # The pose is the limit of poses near it: no flip of the picture at the pole.
    near = one(azimuth, elevation * 0.9999)
    torch.testing.assert_close(cameras.c2w(), near.c2w(), atol=1e-3, rtol=0)


@settings(deadline=None)
@given(azimuth=azimuths, elevation=elevations, fovy=st.floats(10, 100), size=st.tuples(*[st.integers(1, 9)] * 2))
def test_rays_project_back_to_pixel_centres(azimuth, elevation, fovy, size):
    height, width = size
    cameras = one(azimuth, elevation, height, width, fovy)
    origins, directions = cameras.rays()
    assert origins.shape == directions.shape == (1, height, width, 3)
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones(1, height, width))
    points = (origins + 1.7 * directions)[0].reshape(-1, 3).double()
    viewmat, intrinsics = cameras.opencv_viewmats()[0].double(), cameras.intrinsics()[0].double()
    camera_points = points @ viewmat[:3, :3].T + viewmat[:3, 3]
    assert (camera_points[:, 2] > 0).all()  # OpenCV looks along +z
    pixels = camera_points @ intrinsics.T
    pixels = (pixels[:, :2] / pixels[:, 2:]).reshape(height, width, 2)
    rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    torch.testing.assert_close(pixels, torch.stack([columns, rows], dim=-1).double(), atol=1e-4, rtol=0)


def test_world_up_is_up_in_the_picture_and_front_camera_sees_plus_x_on_the_right():
    _, directions = one(0.0, 0.0).rays()
    assert directions[0, 0, 5, 1] > 0 > directions[0, -1, 5, 1]
    assert directions[0, 3, 0, 0] < 0 < directions[0, 3, -1, 0]


def test_viewmats_invert_poses():
    cameras = turntable(5, elevation=25.0)
    flipped = cameras.c2w() @ torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    torch.testing.assert_close(cameras.opencv_viewmats() @ flipped, torch.eye(4).expand(5, 4, 4), atol=1e-5, rtol=0)


def test_field_of_view_spans_the_height():
    cameras = one(0.0, 0.0, height=64, width=32, fovy=60.0)
    focal = cameras.intrinsics()[0, 1, 1]
    assert 2 * np.degrees(np.arctan(32 / focal.item())) == pytest.approx(60.0, abs=1e-4)
    assert cameras.intrinsics()[0, 0, 0] == focal
    assert cameras.intrinsics()[0, :2, 2].tolist() == [16.0, 32.0]


def test_resizing_keeps_the_view():
    small, large = one(30.0, 20.0, 4, 4), one(30.0, 20.0, 4, 4).resized(8, 8)
    assert (large.height, large.width) == (8, 8)
    torch.testing.assert_close(small.c2w(), large.c2w())
    torch.testing.assert_close(small.intrinsics()[0, :2] * 2, large.intrinsics()[0, :2])


def test_selecting_and_repeating_views():
    cameras = turntable(4)
    assert len(cameras[1:3]) == 2
    picked = cameras[torch.tensor([3, 0, 3])]
    assert picked.azimuth.tolist() == [270.0, 0.0, 270.0]
    assert picked.c2w().shape == (3, 4, 4)
    assert cameras.to("cpu").azimuth.tolist() == [0.0, 90.0, 180.0, 270.0]


def test_orthogonal_views_are_evenly_spaced():
    cameras = sample_cameras(CameraConfig(views=4), torch.Generator().manual_seed(0))
    gaps = (cameras.azimuth.roll(-1) - cameras.azimuth) % 360
    torch.testing.assert_close(gaps, torch.full((4,), 90.0), atol=1e-3, rtol=0)
    for shared in (cameras.elevation, cameras.distance, cameras.fovy):
        assert shared.shape == (4,)
        assert shared.unique().numel() == 1


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), orthogonal=st.booleans(), views=st.integers(1, 9))
def test_samples_stay_in_their_ranges(seed, orthogonal, views):
    config = CameraConfig(
        views=views, orthogonal=orthogonal, elevation=(-10, 45), distance=(1.5, 2), fovy=(40, 70), size=32
    )
    cameras = sample_cameras(config, torch.Generator().manual_seed(seed))
    assert len(cameras) == views
    assert (cameras.height, cameras.width) == (32, 32)
    for value, (low, high) in (
        (cameras.azimuth, (0.0, 360.0)),
        (cameras.elevation, config.elevation),
        (cameras.distance, config.distance),
        (cameras.fovy, config.fovy),
    ):
        assert value.dtype == torch.float32
        assert low <= value.min()
        assert value.max() <= high


def test_free_views_are_drawn_independently():
    config = CameraConfig(views=64, orthogonal=False)
    cameras = sample_cameras(config, torch.Generator().manual_seed(0))
    assert cameras.azimuth.unique().numel() > 60
    assert cameras.elevation.unique().numel() > 60


def test_one_seed_one_sample():
    first, again, other = (sample_cameras(CameraConfig(), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.c2w(), again.c2w())
    assert not torch.equal(first.c2w(), other.c2w())


@pytest.mark.parametrize(
    "wrong",
    [{"elevation": (36, 0)}, {"elevation": (0, 91)}, {"distance": (0, 1)}, {"fovy": (30, 180)}, {"views": 0}],
)
def test_impossible_ranges_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        CameraConfig(**wrong)


def test_renders_follow_the_prior_s_pictures_and_are_coarse_at_first():
    fixed, following = CameraConfig(size=48), CameraConfig(size=0)
    assert [fixed.size_at(p, 512) for p in (0.0, 0.7, 1.0)] == [48] * 3
    assert [following.full_size(size) for size in (64, 128, 512)] == [64, 128, 128]
    coarse = CameraConfig(size=0, coarse_size=64, coarse_until=0.6)
    assert [coarse.size_at(p, 128) for p in (0.0, 0.59, 0.6, 1.0)] == [64, 64, 128, 128]
    assert [coarse.size_at(p, 64) for p in (0.0, 0.59, 0.6, 1.0)] == [64] * 4
    assert [coarse.size_at(p, 32) for p in (0.0, 1.0)] == [32] * 2
    always = CameraConfig(size=128, coarse_size=64, coarse_until=1)
    assert [always.size_at(p) for p in (0.0, 0.99)] == [64] * 2
    for wrong in ({"size": 7}, {"coarse_size": 3}):
        with pytest.raises(ValueError, match="give 8 pixels or more, or 0"):
            CameraConfig(**wrong)
