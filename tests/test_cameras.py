from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sds3d.cameras import CameraConfig, Cameras, cameras_inside, look_at, orbit, sample_cameras, turntable

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
    assert [fixed.at(p, 512).size for p in (0.0, 0.7, 1.0)] == [48] * 3
    assert [following.full_size(size) for size in (64, 128, 512)] == [64, 128, 128]
    coarse = CameraConfig(size=0, coarse_size=64, coarse_until=0.6)
    assert [coarse.at(p, 128).size for p in (0.0, 0.59, 0.6, 1.0)] == [64, 64, 128, 128]
    assert [coarse.at(p, 64).size for p in (0.0, 0.59, 0.6, 1.0)] == [64] * 4
    assert [coarse.at(p, 32).size for p in (0.0, 1.0)] == [32] * 2
    always = CameraConfig(size=128, coarse_size=64, coarse_until=1)
    assert [always.at(p).size for p in (0.0, 0.99)] == [64] * 2
    for wrong in ({"size": 7}, {"coarse_size": 3}):
        with pytest.raises(ValueError, match="give 8 pixels or more, or 0"):
            CameraConfig(**wrong)


# ---- distributions ----


def many(steps: int = 2000, **settings) -> list[Cameras]:
    generator, config = torch.Generator().manual_seed(1), CameraConfig(**settings)
    return [sample_cameras(config, generator) for _ in range(steps)]


def uniform(values: torch.Tensor, low: float, high: float) -> bool:
    """Whether values are uniform: the largest deviation of their distribution function (Kolmogorov) at 0.1 %."""
    shares = ((values.sort().values - low) / (high - low)).double()
    n = len(shares)
    index = torch.arange(n, dtype=torch.float64)
    deviation = torch.maximum((index + 1) / n - shares, shares - index / n).max()
    return bool(deviation < 1.95 / n**0.5)


def test_the_draws_of_the_default_settings_never_change():
    cameras = sample_cameras(CameraConfig(), torch.Generator().manual_seed(5))
    u = torch.rand(4, generator=torch.Generator().manual_seed(5))
    assert torch.equal(cameras.azimuth, (360 * u[0] + torch.tensor([0.0, 90.0, 180.0, 270.0])) % 360)
    for value, (low, high), share in (
        (cameras.elevation, (0.0, 36.0), u[1]),
        (cameras.distance, (2.05, 2.15), u[2]),
        (cameras.fovy, (30.0, 30.0), u[3]),
    ):
        assert torch.equal(value, (low + (high - low) * share).expand(4))
    assert cameras.pose is None


def test_a_frame_couples_the_distance_to_the_field_of_view():
    """MVDream: half the picture's height at the origin is 0.8 to 1 whatever the field of view."""
    seen = Cameras.cat(many(frame=(0.8, 1.0), fovy=(15, 60), distance=(9, 9), orthogonal=False))
    half = seen.distance * torch.tan(torch.deg2rad(seen.fovy) / 2)
    assert uniform(half, 0.8, 1.0)
    assert uniform(seen.fovy, 15, 60)
    assert abs(torch.corrcoef(torch.stack([half, seen.fovy]))[0, 1]) < 0.05
    # A point at this height is at the picture's upper edge.
    cameras = seen[:5]
    top = torch.einsum("bij,bj->bi", cameras.opencv_viewmats()[:, :3, :3], half[:5, None] * cameras.c2w()[:, :3, 1])
    top = top + cameras.opencv_viewmats()[:, :3, 3]
    pixels = torch.einsum("bij,bj->bi", cameras.intrinsics(), top)
    torch.testing.assert_close(pixels[:, 1] / pixels[:, 2], torch.zeros(5), atol=1e-3, rtol=0)
    assert CameraConfig(frame=(0.8, 1.0), fovy=(15, 60)).distances == pytest.approx((1.3856, 7.5958), abs=1e-4)


def test_elevations_are_uniform_in_degrees_in_area_or_half_and_half():
    def sines(by: str) -> torch.Tensor:
        return Cameras.cat(many(1500, elevation=(-10, 80), elevation_by=by, orthogonal=False)).elevation

    low, high = np.sin(np.radians([-10, 80]))
    assert uniform(sines("angle"), -10, 80)
    by_area = sines("area")
    assert uniform(torch.sin(torch.deg2rad(by_area)), low, high)
    assert not uniform(by_area, -10, 80)
    steps = torch.stack([c.elevation for c in many(1500, elevation=(-10, 80), elevation_by="both", orthogonal=False)])
    # The share of elevations above 60 degrees tells the mixture: 2/9 by angle, less by area.
    by_angle = 20 / 90
    by_area = (high - np.sin(np.radians(60))) / (high - low)
    assert (steps > 60).float().mean().item() == pytest.approx((by_angle + by_area) / 2, abs=0.012)
    whole = Cameras.cat(many(1500, elevation=(-90, 90), elevation_by="area", orthogonal=False)).position() / 2.1
    torch.testing.assert_close(whole.T @ whole / len(whole), torch.eye(3) / 3, atol=0.02, rtol=0)


def test_azimuths_stay_in_their_range_and_may_be_spread():
    loose = Cameras.cat(many(azimuth=(-80, 80), orthogonal=False)).azimuth
    assert uniform(loose, -80, 80)
    spread = torch.stack([c.azimuth for c in many(azimuth=(-180, 180), stratified=True, orthogonal=False)])
    assert uniform(spread.flatten(), -180, 180)
    for i in range(4):
        assert uniform(spread[:, i], -180 + 90 * i, -90 + 90 * i)


def test_groups_are_orthogonal_and_each_has_its_own_orbit():
    cameras = sample_cameras(CameraConfig(views=8, group=4, fovy=(20, 60)), torch.Generator().manual_seed(0))
    azimuth = cameras.azimuth.reshape(2, 4)
    torch.testing.assert_close((azimuth.roll(-1, 1) - azimuth) % 360, torch.full((2, 4), 90.0), atol=1e-3, rtol=0)
    assert (azimuth[0] - azimuth[1]).abs().min() > 0.01
    for value in (cameras.elevation, cameras.distance, cameras.fovy):
        assert [len(row.unique()) for row in value.reshape(2, 4)] == [1, 1]
        assert len(value.unique()) == 2
    with pytest.raises(ValidationError, match="views = 6 is not a multiple of group = 4"):
        CameraConfig(views=6, group=4)


# ---- jitter ----


@settings(deadline=None)
@given(azimuth=azimuths, elevation=st.floats(-85, 85, width=32))
def test_looking_at_the_origin_from_an_orbit_is_the_orbit_s_pose(azimuth, elevation):
    cameras = one(azimuth, elevation)
    pose = look_at(cameras.position(), torch.zeros(1, 3), torch.tensor([[0.0, 1.0, 0.0]]))
    torch.testing.assert_close(pose, cameras.c2w(), atol=2e-6, rtol=0)


def test_jitter_moves_cameras_targets_and_horizons_by_its_distributions():
    settings = {"orthogonal": False, "elevation": (0, 0), "azimuth": (0, 0), "distance": (2, 2)}
    moved = Cameras.cat(many(position_jitter=0.1, target_jitter=1e-3, **settings))
    shift = moved.position() - torch.tensor([0.0, 0.0, 2.0])
    assert all(uniform(shift[:, axis], -0.1, 0.1) for axis in range(3))
    assert (moved.distance == 2).all()

    aimed = Cameras.cat(many(target_jitter=0.2, **settings))
    torch.testing.assert_close(aimed.position(), torch.tensor([[0.0, 0.0, 2.0]]).expand(len(aimed), 3))
    forward = -aimed.c2w()[:, :3, 2]
    x = (forward[:, 0] / -forward[:, 2]).double()  # tan of the yaw: x / (2 - z), both normal with 0.2
    # P(x / (2 - z) < 0.1) = P(x + 0.1 z < 0.2) = Phi(0.2 / (0.2 sqrt(1.01)))
    expected = torch.special.ndtr(torch.tensor(1 / 1.01**0.5)).item()
    assert (x < 0.1).double().mean().item() == pytest.approx(expected, abs=0.012)

    tilted = Cameras.cat(many(up_jitter=0.02, **settings))
    roll = torch.atan2(-tilted.c2w()[:, 1, 0], tilted.c2w()[:, 1, 1])  # of the horizon, up to the sign
    assert roll.std().item() == pytest.approx(0.02, rel=0.05)
    torch.testing.assert_close(tilted.c2w()[:, :3, 2], torch.tensor([[0.0, 0.0, 1.0]]).expand(len(tilted), 3))


def test_jittered_poses_are_rotations_and_all_matrices_agree():
    cameras = Cameras.cat(many(50, position_jitter=0.1, target_jitter=0.2, up_jitter=0.02, elevation=(-10, 80)))
    rotation = cameras.c2w()[:, :3, :3]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand_as(rotation), atol=1e-5, rtol=0)
    assert (torch.linalg.det(rotation) > 0.999).all()
    torch.testing.assert_close(cameras.position(), cameras.c2w()[:, :3, 3])
    origins, directions = cameras.resized(5, 7).rays()
    points = (origins + 1.3 * directions).reshape(len(cameras), -1, 3)
    seen = points @ cameras.opencv_viewmats()[:, :3, :3].mT + cameras.opencv_viewmats()[:, None, :3, 3]
    pixels = seen @ cameras.resized(5, 7).intrinsics().mT
    pixels = (pixels[..., :2] / pixels[..., 2:]).reshape(len(cameras), 5, 7, 2)
    rows, columns = torch.meshgrid(torch.arange(5) + 0.5, torch.arange(7) + 0.5, indexing="ij")
    expected = torch.stack([columns, rows], dim=-1).expand(len(cameras), 5, 7, 2)
    torch.testing.assert_close(pixels, expected, atol=2e-4, rtol=0)


def test_selecting_joining_and_moving_keep_poses():
    plain, jittered = turntable(2), many(1, position_jitter=0.1)[0]
    assert jittered.pose is not None
    torch.testing.assert_close(jittered[1:3].c2w(), jittered.c2w()[1:3])
    joined = Cameras.cat([plain, jittered]).to("cpu").resized(4, 4)
    torch.testing.assert_close(joined.c2w(), torch.cat([plain.c2w(), jittered.c2w()]))
    assert Cameras.cat([plain, plain]).pose is None


def test_jitter_changes_no_other_draw():
    plain, jittered = (sample_cameras(CameraConfig(up_jitter=j), torch.Generator().manual_seed(2)) for j in (0, 0.02))
    assert torch.equal(plain.azimuth, jittered.azimuth)
    assert torch.equal(plain.distance, jittered.distance)


# ---- cameras that are too near ----


@pytest.mark.parametrize(
    ("settings", "inside"),
    [
        ({"distance": (2.0, 2.0)}, False),
        ({"distance": (1.0, 1.5), "elevation": (-10, 45)}, False),
        ({"distance": (1.0, 1.5), "elevation": (-10, 45), "position_jitter": 0.1}, True),
        ({"distance": (0.75, 1.5), "elevation": (0, 0)}, True),
        ({"distance": (0.6, 1.5), "elevation": (70, 90)}, False),
        ({"frame": (0.4, 0.5), "fovy": (40, 70)}, True),
    ],
)
def test_cameras_inside_the_cube_are_found(settings, inside):
    """Against many samples of the distribution, between the nearest distance and a millimetre more."""
    config = CameraConfig(**settings)
    near = config.distances[0]
    update = {"orthogonal": False, "views": 256, "frame": None, "distance": (near, near + 1e-3)}
    generator = torch.Generator().manual_seed(0)
    some = [sample_cameras(config.model_copy(update=update), generator).position() for _ in range(400)]
    assert bool((torch.cat(some).abs() < 0.55).all(dim=-1).any()) == inside
    assert bool(cameras_inside(config, 0.55)) == inside


def test_ranges_of_more_than_a_turn_are_refused():
    with pytest.raises(ValidationError, match="azimuth spans 380 degrees: give 360 at most"):
        CameraConfig(azimuth=(-20, 360))


def test_phases_replace_settings_from_some_progress_on():
    phases = [{"at": 0.25, "size": 256, "elevation": [0, 30]}, {"at": 0.5, "views": 4}, {"at": 0.5, "size": 0}]
    config = CameraConfig(views=8, size=64, phases=phases)
    seen = [config.at(progress, 512) for progress in (0.0, 0.24, 0.25, 0.49, 0.5, 1.0)]
    assert [(part.views, part.size) for part in seen] == [(8, 64), (8, 64), (8, 256), (8, 256), (4, 128), (4, 128)]
    assert [part.elevation for part in seen[::2]] == [(0.0, 36.0), (0.0, 30.0), (0.0, 30.0)]
    assert (config.full_size(512), seen[-1].phases) == (128, ())
    assert CameraConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([{"size": 64}], r"phases\.0\.at = None: give its progress, from 0 to 1"),
        ([{"at": 1.5, "size": 64}], r"phases\.0\.at = 1\.5"),
        ([{"at": 0.5}, {"at": 0.2}], "the knot at 0.2 follows the one at 0.5"),
        ([{"at": 0, "sizes": 3}], 'in phases.0: unknown key "sizes"; did you mean "size"'),
        ([{"at": 0}, {"at": 1, "size": 3}], "in phases.1: .*size is 3: give 8 pixels or more"),
        ([{"at": 0, "fovy": [40, 30]}], r"in phases\.0: .*fovy is \(40, 30\): give the lower bound first"),
        ([{"at": 0, "coarse_size": 32}], r"phases\.0\.coarse_size: it applies to the whole run"),
    ],
)
def test_wrong_phases_are_refused(wrong: list[dict[str, Any]], message: str):
    with pytest.raises(ValidationError, match=message):
        CameraConfig(phases=wrong)  # type: ignore[arg-type]


def test_phases_and_coarse_renders_exclude_each_other():
    with pytest.raises(ValidationError, match="give coarse_size or phases, not both"):
        CameraConfig(coarse_size=32, phases=({"at": 0.5, "size": 64},))
