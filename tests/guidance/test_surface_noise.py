"""Noise on surfaces: N(0, 1), white within a view, and correlated between views by the texels that they share.

Noise is linear in the texels. If each texel is its own channel (the identity), the result is the matrix of weights,
from which every covariance follows exactly.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from sds3d.cameras import Cameras, orbit, turntable
from sds3d.geometry.mesh import Mesh
from sds3d.guidance.base import Views
from sds3d.guidance.surface_noise import (
    MAPS,
    SHELLS,
    SurfaceNoise,
    hemisphere_to_square,
    integrate,
    surface_corners,
)
from sds3d.priors.gaussian import Gaussian, GaussianPrior
from sds3d.prompts.prompt import PromptConfig, encode_prompt
from sds3d.rendering.volume import BOUND
from sds3d.representations.base import Scene, Start
from sds3d.representations.contents import source_of
from sds3d.representations.gaussians import GaussiansConfig
from sds3d.representations.hash_nerf import HashNerfConfig
from sds3d.representations.mesh_dmtet import DMTetConfig
from sds3d.representations.mesh_fixed import FixedTrianglesConfig
from sds3d.representations.mesh_flexicubes import FlexiCubesConfig
from sds3d.representations.mesh_scene import MeshConfig
from sds3d.representations.triplane_nerf import TriplaneNerfConfig
from sds3d.representations.voxel_grid import VoxelGridConfig
from tests.rendering.bounds import rounding
from tests.slow import slow_after

PROMPT = encode_prompt(GaussianPrior({"y": Gaussian(0, 1), "": Gaussian(0, 1)}), "y", PromptConfig())
RADIUS = 0.4


def views_at(cameras: Cameras, alpha: Tensor, depth: Tensor) -> Views:
    return Views(cameras, torch.zeros(*alpha.shape[:3], 3), alpha, depth, PROMPT)


def sphere(cameras: Cameras, radius: float = RADIUS, opacity: float = 1.0) -> Views:
    """Return exact renders of a sphere around the origin."""
    origins, directions = cameras.rays()  # (B, H, W, 3)
    along = -(origins * directions).sum(-1)
    below = along**2 - (origins**2).sum(-1) + radius**2
    alpha = torch.where(below > 0, opacity, 0.0)[..., None]
    return views_at(cameras, alpha, alpha * (along - below.clamp(min=0).sqrt())[..., None])


def weights(views: Views, pixels: int = 8, resolution: int = 8) -> Tensor:
    """Return the matrix (B, pixels^2, texels) that maps texels to noise."""
    texels = MAPS * SHELLS * resolution**2
    identity = torch.eye(texels).reshape(MAPS, SHELLS, resolution, resolution, texels)
    noise, _ = integrate(identity, *surface_corners(views, pixels, pixels))
    return noise.flatten(2).mT.double()


def square(side: float, radius: float) -> Tensor:
    """Return the corners (2, 2, 3) of a pixel around the +z axis which is a square on the map.

    side: of the square, as a fraction of the map's. radius: of the corners in metres.
    """
    z = 1 - side**2  # half the side of a circle's square is sqrt(1 - cos theta)
    across = ((1 - z * z) / 2) ** 0.5
    return radius * torch.tensor([[[x, y, z] for y in (-across, across)] for x in (-across, across)])


def samples(views: Views, pixels: int = 8, resolution: int = 32, seeds: int = 500) -> tuple[Tensor, Tensor]:
    """Return noise of many seeds as channels, (B, seeds, pixels, pixels), and the mask of locked pixels."""
    noise = SurfaceNoise((len(views.cameras), seeds, pixels, pixels), resolution, 0)
    return noise(views)


def test_the_map_keeps_areas():
    generator = np.random.default_rng(0)
    directions = generator.standard_normal((100_000, 3)).astype(np.float32)
    directions[:, 2] = np.abs(directions[:, 2])
    directions *= generator.uniform(0.1, 10, (len(directions), 1)).astype(np.float32)  # the length must not matter
    square = np.array([hemisphere_to_square(*direction) for direction in directions])
    few = rounding(16)  # a length, a root, an arc tangent and three products
    assert np.abs(square).max() <= 1 + few
    counts, _, _ = np.histogram2d(*square.T, bins=8, range=[[-1, 1], [-1, 1]])
    # Uniform directions are uniform on the square: 64 counts near 1562, with standard deviation 39.
    np.testing.assert_allclose(counts, len(directions) / 64, atol=5 * 39.2)
    # The pole maps to the centre and the rim to the edge, and the map is continuous across the diagonals.
    assert hemisphere_to_square(np.float32(0), np.float32(0), np.float32(2)) == (0, 0)
    for angle in np.linspace(0, 2 * np.pi, 64):
        at = np.array([hemisphere_to_square(*np.float32([np.cos(a), np.sin(a), 0])) for a in (angle, angle + 1e-3)])
        np.testing.assert_allclose(np.abs(at).max(axis=1), 1, atol=few)
        assert np.abs(at[0] - at[1]).max() < 2e-3


def test_a_pixel_is_the_sum_of_its_texels_over_the_root_of_their_number():
    a = weights(sphere(turntable(3, size=32)))  # (3, 64, T)
    _, count = integrate(torch.ones(MAPS, SHELLS, 8, 8, 1), *surface_corners(sphere(turntable(3, size=32)), 8, 8))
    owned = a > 0
    torch.testing.assert_close(owned.sum(dim=-1), count.flatten(1).long())
    # Rounding of a root and a quotient; sums of ones are exact.
    expected = owned / owned.sum(-1, keepdim=True).clamp(min=1).double().sqrt()
    torch.testing.assert_close(a, expected, atol=rounding(4), rtol=0)
    for view in a:  # white, with variance 1 wherever a pixel has texels
        covariance = view @ view.T
        torch.testing.assert_close(covariance, torch.diag((view.sum(-1) > 0).double()), atol=rounding(8), rtol=0)


@pytest.mark.parametrize(("side", "edge"), [(0.6, 4), (0.7, 6)])  # texels 1.6 to 6.4 of 8, and 1.2 to 6.8
def test_a_pixel_owns_the_texels_whose_centres_it_covers(side, edge):
    texels = torch.randn(MAPS, SHELLS, 8, 8, 1, generator=torch.Generator().manual_seed(0))
    covered = texels[:, :, 4 - edge // 2 : 4 + edge // 2, 4 - edge // 2 : 4 + edge // 2]
    # One view per map and shell, of a pixel around the map's axis at half the shell's depth.
    corners = torch.stack(
        [
            (square(side, 3**0.5 * BOUND * (shell + 0.5) / SHELLS) * torch.tensor([1, 1, sign])).roll(axis + 1, dims=-1)
            for axis in range(3)
            for sign in (1, -1)
            for shell in range(SHELLS)
        ]
    )
    noise, count = integrate(texels, corners, torch.ones(corners.shape[:3], dtype=torch.bool))
    assert (count == edge**2).all()
    expected, magnitude = (values.sum(dim=(2, 3, 4)).flatten() / edge for values in (covered, covered.abs()))
    torch.testing.assert_close(noise.flatten(), expected, atol=rounding(2 * edge**2, magnitude.max().item()), rtol=0)


def test_the_outermost_surface_has_the_texels():
    outer, inner = square(0.7, 0.2), square(0.7, 0.1)  # in one shell, with a pixel between them that connects them
    for surfaces, expected in (((outer, inner), [36, 0, 0]), ((inner, outer), [0, 0, 36])):
        corners = torch.cat(surfaces, dim=1)[None]  # (1, 2, 4, 3)
        _, count = integrate(torch.ones(MAPS, SHELLS, 8, 8, 1), corners, torch.ones(1, 2, 4, dtype=torch.bool))
        assert count.flatten().tolist() == expected


def test_covariance_between_views_is_the_share_of_common_texels():
    views = sphere(turntable(18, size=32)[:2])  # 20 degrees between them
    a, b = (view > 0 for view in weights(views))
    common = (a[:, None] & b[None]).sum(-1).double()  # (64, 64)
    expected = common / (a.sum(-1)[:, None] * b.sum(-1)[None]).clamp(min=1).sqrt()
    first, second = weights(views)
    torch.testing.assert_close(first @ second.T, expected, atol=rounding(8), rtol=0)
    assert expected.max() > 0.5
    # Drawn noise has the same covariance: 20,000 samples, standard error below 0.008.
    noise, _ = integrate(
        torch.randn(MAPS, SHELLS, 8, 8, 20_000, generator=torch.Generator().manual_seed(0)),
        *surface_corners(views, 8, 8),
    )
    first, second = noise.flatten(2).mT.double()  # (64, 20000)
    torch.testing.assert_close(first @ second.T / 20_000, expected, atol=0.04, rtol=0)


def test_statistics_of_a_view():
    noise, locked = samples(sphere(turntable(1, size=64)), 16, 32, seeds=1000)
    pixels = noise[0].flatten(1)  # (1000, 256)
    assert 0.3 < locked.float().mean() < 0.7  # object and background
    # Standard errors: of a mean 0.032, of a variance 0.045, of a covariance 0.032; 6 of them among 32,640 pairs.
    covariance = torch.cov(pixels.T)
    assert pixels.mean(dim=0).abs().max() < 5 * 0.032
    assert (covariance.diag() - 1).abs().max() < 5 * 0.045
    assert (covariance - torch.diag(covariance.diag())).abs().max() < 6 * 0.032
    assert (pixels.flatten() ** 4).mean().item() == pytest.approx(3, abs=0.05)  # normal in the fourth moment


def test_noise_moves_with_the_surface():
    """After the camera turns by 20 degrees, a pixel's noise appears where its piece of surface appears."""
    cameras = turntable(18, elevation=10, size=64)[:2]
    views = sphere(cameras)
    noise, _ = samples(views, 16, 32, seeds=1000)
    first, second = noise.double()  # (1000, 16, 16)
    corners, _ = surface_corners(views, 16, 16)
    viewmat, intrinsics = cameras.opencv_viewmats()[1], cameras.intrinsics()[1]
    places = torch.stack(torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij"), dim=-1) + 0.5
    for row in range(6, 10):
        for column in range(7, 11):
            point = corners[0, row : row + 2, column : column + 2].mean(dim=(0, 1))
            x, y, z = intrinsics @ (viewmat[:3, :3] @ point + viewmat[:3, 3])
            expected = torch.stack([y, x]) / z / 4  # in noise pixels
            assert (expected - places[row, column]).norm() > 1.5
            correlation = torch.einsum("s,sij->ij", first[:, row, column], second) / len(first)  # (16, 16)
            near = (places - expected).norm(dim=-1) < 1.6
            assert correlation[~near].abs().max() < 0.16  # five standard errors
            assert correlation[near].sum() > 0.5  # about 1 if pixels have similar sizes; standard error 0.1
            shares = correlation[near].clamp(min=0)
            centre = (shares[:, None] * places[near]).sum(dim=0) / shares.sum()
            assert (centre - expected).norm() < 0.5


def test_the_same_camera_sees_the_same_noise():
    camera = orbit([30.0, 100.0, 30.0], size=32)
    noise, locked = samples(sphere(camera), seeds=4)
    assert torch.equal(noise[0][:, locked[0]], noise[2][:, locked[0]])
    assert not torch.equal(noise[0], noise[1])
    # The background has its own noise in each view, the same in every step.
    background = ~locked[0]
    assert background.any()
    assert (noise[0] - noise[2])[:, background].abs().min() > 0
    again = SurfaceNoise((3, 4, 8, 8), 32, 0)(sphere(camera))[0]
    assert torch.equal(noise, again)


def test_fog_and_empty_renders():
    cameras = turntable(4, size=32)
    empty = views_at(cameras, torch.zeros(4, 32, 32, 1), torch.zeros(4, 32, 32, 1))
    noise = SurfaceNoise((4, 3, 8, 8), 32, 0)
    drawn, locked = noise(empty)
    assert not locked.any()
    assert torch.equal(drawn, noise.background)
    # Depth is weighted by opacity: thin matter has the same surface as solid matter, and below 0.1 it has none.
    solid, thin, too_thin = (sphere(cameras, opacity=opacity) for opacity in (1.0, 0.3, 0.09))
    (points, seen), (expected, _) = surface_corners(thin, 8, 8), surface_corners(solid, 8, 8)
    # Rounding: a depth times an opacity, divided by it, times a direction (2 m); then the mean of up to 16 points.
    torch.testing.assert_close(points[seen], expected[seen], atol=rounding(16, 2.1), rtol=0)
    assert seen.any()
    assert not noise(too_thin)[1].any()
    # Values that are not finite count as background. A surface right at the camera must work too.
    broken = replace(solid, alpha=solid.alpha.clone(), depth=solid.depth.clone())
    broken.alpha[:, :16], broken.depth[:, :20] = float("nan"), float("inf")
    drawn, locked = noise(broken)
    assert drawn.isfinite().all()
    assert not locked[:, :4].any()
    assert locked[:, 6].any()
    at_the_camera = views_at(cameras, torch.ones(4, 32, 32, 1), torch.full((4, 32, 32, 1), 1e-6))
    assert noise(at_the_camera)[0].isfinite().all()


def test_a_corner_is_solid_if_the_mean_opacity_around_it_is_above_a_tenth():
    for opaque, solid in ((1, []), (2, [[0, 4, 4]])):  # of the 16 pixels around that corner
        alpha = torch.zeros(1, 32, 32, 1)
        alpha[0, 15, 14 : 14 + opaque] = 1.0
        _, seen = surface_corners(views_at(turntable(1, size=32), alpha, 2 * alpha), 8, 8)
        assert seen.nonzero().tolist() == solid


@pytest.mark.parametrize("size", [8, 12, 16, 30, 64])
def test_renders_of_any_size(size):
    """Corners are on or slightly inside the sphere, whether the noise has more, as many or fewer pixels."""
    views = sphere(turntable(2, size=size))
    corners, solid = surface_corners(views, 16, 16)
    radius = corners.norm(dim=-1)
    assert radius[solid].max() < RADIUS + rounding(32, 2.1)  # end points of rays that are two metres long
    assert radius[:, 7:10, 7:10].min() > 0.9 * RADIUS
    assert samples(views, 16, 32, seeds=2)[1][:, 6:10, 6:10].all()


def test_evolution_is_autoregressive():
    gamma, views = 0.3, sphere(turntable(2, size=32))
    noise = SurfaceNoise((2, 2000, 8, 8), 16, 0)
    before, locked = noise(views)
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        noise = noise.evolved(gamma, generator)
    after, _ = noise(views)
    # Surface and background have correlation (1 - gamma)^(n / 2) and variance 1; standard errors 0.02 to 0.03.
    for where in (locked, ~locked):
        x, y = (value.permute(0, 2, 3, 1)[where] for value in (before, after))  # (pixels, 2000)
        torch.testing.assert_close((x * y).mean(dim=1), torch.full((len(x),), 1 - gamma), atol=0.12, rtol=0)
        torch.testing.assert_close(y.square().mean(dim=1), torch.ones(len(y)), atol=0.16, rtol=0)
        assert (x * y).mean().item() == pytest.approx(1 - gamma, abs=0.01)


@pytest.mark.parametrize("evolved", [0, 2])
def test_state_is_bit_identical(evolved):
    views, generator = sphere(turntable(2, size=32)), torch.Generator().manual_seed(1)
    noise = SurfaceNoise((2, 4, 8, 8), 16, 2**60 + 1)
    for _ in range(evolved):
        noise = noise.evolved(0.1, generator)
    state = noise.state_dict()
    assert ("texels" in state) == (evolved > 0)  # texels that follow from the seed are not saved
    drawn = generator.get_state()
    expected = [noise(views)[0].clone()]
    noise = noise.evolved(0.1, generator)
    expected.append(noise(views)[0])
    resumed = SurfaceNoise.from_state(state)
    assert torch.equal(resumed(views)[0], expected[0])
    generator.set_state(drawn)
    resumed = resumed.evolved(0.1, generator)
    assert torch.equal(resumed(views)[0], expected[1])


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_the_surface_keeps_its_noise_for_another_number_of_views(batch: int):
    noise, views = SurfaceNoise((2, 4, 8, 8), 16, 0), sphere(turntable(2, size=16))
    other = noise.for_views(batch)
    drawn, _ = other(sphere(turntable(batch, size=16)))
    assert torch.equal(other.texels, noise.texels)
    kept = min(batch, 2)
    assert torch.equal(other.background[:kept], noise.background[:kept])
    assert drawn.shape == (batch, 4, 8, 8)
    assert torch.equal(drawn[:1], noise(views)[0][:1])  # the front, where all turntables begin
    again = SurfaceNoise.from_state(other.state_dict())
    assert torch.equal(again(sphere(turntable(batch, size=16)))[0], drawn)
    assert batch < 3 or other.background[2:].std() > 0.5


def test_another_number_of_views_is_refused():
    with pytest.raises(ValueError, match="made for 2 views, got 3"):
        SurfaceNoise((2, 4, 8, 8), 16, 0)(sphere(turntable(3, size=16)))


def ball() -> Mesh:
    shape = trimesh.creation.icosphere(3, RADIUS)
    colors = np.full((len(shape.vertices), 3), 0.5, np.float32)
    return Mesh(shape.vertices.astype(np.float32), shape.faces.astype(np.int32), colors)


@pytest.fixture(scope="module")
def exact() -> tuple[Tensor, Tensor]:
    """The noise of the exact ball, from four sides."""
    return samples(sphere(turntable(4, size=32)), 8, 32, seeds=200)


@pytest.mark.parametrize(
    "config",
    slow_after(
        1,
        [
            GaussiansConfig(count=2000),
            VoxelGridConfig(resolution=48),
            MeshConfig(geometry=DMTetConfig(resolution=32)),
            MeshConfig(geometry=FlexiCubesConfig(resolution=24)),
            MeshConfig(geometry=FixedTrianglesConfig()),
            HashNerfConfig(levels=8),
            TriplaneNerfConfig(),
        ],
    ),
    ids=lambda config: getattr(config, "geometry", config.name),
)
def test_every_representation_of_a_ball(config, exact: tuple[Tensor, Tensor]):
    """Noise on a scene's render of a ball correlates with the noise on the exact ball."""
    scene: Scene = config.make(Start(torch.Generator().manual_seed(0), steps=100, before=source_of(ball())))
    cameras = turntable(4, size=32)
    with torch.no_grad():
        rendering = scene.render(cameras, torch.ones(3))
    noise, locked = samples(views_at(cameras, rendering.alpha, rendering.depth), 8, 32, seeds=200)
    truth, visible = exact
    assert noise.isfinite().all()
    assert (locked & visible).sum() > 0.9 * visible.sum()
    correlation = (noise * truth).mean(dim=1)  # (4, 8, 8)
    assert correlation[:, 2:6, 2:6].mean() > 0.6


@pytest.mark.parametrize("config", [HashNerfConfig(levels=4), TriplaneNerfConfig(), HashNerfConfig(latent_channels=8)])
def test_fields_and_fields_of_latents(config):
    """A field starts as fog without a surface, but neighbouring views still share most of their noise."""
    scene = config.make(Start(torch.Generator().manual_seed(0), steps=100))
    cameras = orbit([0.0, 5.0, 180.0, 0.0], size=32)
    with torch.no_grad():
        rendering = scene.render(cameras, torch.ones(3))
    noise, locked = samples(views_at(cameras, rendering.alpha, rendering.depth), 8, 32, seeds=200)
    assert locked[:, 3:5, 3:5].all()
    assert torch.equal(noise[0, :, 3:5, 3:5], noise[3, :, 3:5, 3:5])
    near, far = (torch.einsum("sij,skl->ijkl", noise[0, :, 3:5, 3:5], noise[i]) / 200 for i in (1, 2))
    assert near.flatten(2).amax(dim=-1).min() > 0.5
    assert far.abs().max() < 0.36  # five standard errors
