"""The maps that tell a prior where surfaces are, against closed forms."""

from __future__ import annotations

import pytest
import torch

from sds3d.cameras import Cameras, orbit
from sds3d.rendering.structure import resized, stacked, structure_of

SIZE = 16


def wall(cameras: Cameras, z: torch.Tensor, alpha: float = 1.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Opacity, distance and normal of walls that face the cameras, at depths z (B, H, W) along their axes."""
    directions = cameras.rays()[1]
    axis = -cameras.c2w()[:, :3, 2]  # where the cameras look
    cosine = (directions * axis[:, None, None]).sum(-1, keepdim=True)
    covered = (z > 0).float()[..., None]
    normal = -axis[:, None, None].expand_as(directions) * covered
    return alpha * covered, alpha * covered * z[..., None] / cosine, normal


@pytest.mark.parametrize("alpha", [1.0, 0.75])
def test_depth_is_disparity_between_one_at_the_nearest_and_a_fifth_at_the_farthest_surface(alpha: float):
    cameras = orbit([0.0, 130.0], elevation=20.0, fovy=60.0, size=SIZE)
    z = torch.zeros(2, SIZE, SIZE)
    z[:, 4:12, 2:6], z[:, 4:12, 6:10], z[:, 4:12, 10:14] = 1.0, 1.5, 3.0
    maps = structure_of(*wall(cameras, z, alpha), cameras, SIZE)
    # 1 / z is 1, 2/3 and 1/3: the one in the middle is half way.
    for columns, value in ((slice(2, 6), 1.0), (slice(6, 10), 0.6), (slice(10, 14), 0.2)):
        there = maps.depth[:, 4:12, columns]
        torch.testing.assert_close(there, torch.full_like(there, alpha * value), atol=1e-5, rtol=0)
    empty = z == 0
    assert maps.depth[empty].abs().max() == maps.normal[empty].abs().max() == maps.alpha[empty].abs().max() == 0
    facing = alpha * torch.tensor([0.0, 0.0, 1.0]).expand(2 * 96, 3)
    torch.testing.assert_close(maps.normal[~empty], facing, atol=1e-5, rtol=0)


def test_each_picture_has_its_own_scale_and_a_flat_or_empty_one_is_defined():
    cameras = orbit([0.0, 0.0, 0.0], size=SIZE)
    z = torch.stack([torch.full((SIZE, SIZE), 2.0), torch.full((SIZE, SIZE), 5.0), torch.zeros(SIZE, SIZE)])
    z[0, :8] = 2.5
    maps = structure_of(*wall(cameras, z), cameras, SIZE)
    torch.testing.assert_close(maps.depth[0, 8:], torch.ones(8, SIZE))
    torch.testing.assert_close(maps.depth[0, :8], torch.full((8, SIZE), 0.2), atol=1e-5, rtol=0)
    torch.testing.assert_close(maps.depth[1], torch.ones(SIZE, SIZE))
    assert stacked(maps)[2].abs().max() == 0


@pytest.mark.parametrize("azimuth", [0.0, 90.0, 215.0])
@pytest.mark.parametrize("inside_out", [False, True])
def test_normals_of_a_ball_point_right_up_and_to_the_viewer(azimuth: float, inside_out: bool):
    cameras = orbit([azimuth], elevation=0.0, distance=4.0, size=64)
    origins, directions = cameras.rays()
    middle = -(origins * directions).sum(-1, keepdim=True)
    inside = 0.8**2 - (origins.square().sum(-1, keepdim=True) - middle.square())
    hit = (inside > 0).float()
    distance = middle - inside.clamp(min=0).sqrt()
    normal = hit * torch.nn.functional.normalize(origins + distance * directions, dim=-1)
    maps = structure_of(hit, hit * distance, -normal if inside_out else normal, cameras, 64)
    covered = torch.nonzero(hit[0, 32, :, 0])[:, 0]
    left, right = int(covered[0]), int(covered[-1])
    assert maps.normal[0, 32, left, 0] < -0.8
    assert maps.normal[0, 32, right, 0] > 0.8
    top = int(torch.nonzero(hit[0, :, 32, 0])[0, 0])
    assert maps.normal[0, top, 32, 1] > 0.8
    assert maps.normal[0, 32, 32, 2] > 0.99
    assert (maps.normal[0, ..., 2][hit[0, ..., 0] > 0] > 0).all()


def test_other_sizes_are_averages():
    cameras = orbit([0.0], size=SIZE)
    z = torch.zeros(1, SIZE, SIZE)
    z[:, :, 4:] = 2.0
    maps = structure_of(*wall(cameras, z), cameras, SIZE)
    half = resized(maps, 8)
    assert half.normal.shape == (1, 8, 8, 3)
    torch.testing.assert_close(half.alpha[0, 4, [0, 4, 7]], torch.tensor([0.0, 1.0, 1.0]))
    torch.testing.assert_close(half.alpha.mean(), torch.tensor(0.75), atol=0.02, rtol=0)
    assert resized(maps, SIZE) is maps
