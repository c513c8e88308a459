"""Failures in 3D: empty scenes, invisible scenes, degenerate values, damaged files, and very large scenes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sds3d.cameras import orbit
from sds3d.config import build, merge
from sds3d.formats.load import AssetError, load_asset
from sds3d.formats.splat_ply import to_splat_ply
from sds3d.geometry.mesh import EmptySurfaceError
from sds3d.geometry.splats import Splats
from sds3d.representations.base import Start
from sds3d.representations.contents import source_of
from sds3d.representations.densify import FixedCountConfig
from sds3d.representations.gaussians import GaussiansConfig, GaussiansScene
from sds3d.run.config import RunConfig, new_run
from sds3d.run.folder import Run
from sds3d.run.optimize import OptimizerConfig, random_streams, start
from tests.run.tiny_runs import TINY, finish

CAMERAS = orbit([0.0, 90.0], size=24)
GREY = torch.full((3,), 0.5)


def cloud(n: int, seed: int = 0) -> Splats:
    """Return n small Gaussians in a ball."""
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(n, 3))
    means *= 0.45 * rng.uniform(size=(n, 1)) ** (1 / 3) / np.linalg.norm(means, axis=1, keepdims=True)
    quats = rng.normal(size=(n, 4))
    arrays = (
        means,
        quats / np.linalg.norm(quats, axis=1, keepdims=True),
        np.full((n, 3), 0.004),
        np.full(n, 0.8),
        rng.normal(size=(n, 1, 3)),
    )
    return Splats(*(array.astype(np.float32) for array in arrays))


def run_from(tmp_path: Path, file: Path, **changes: object) -> Run:
    representation = {"name": "gaussians", "densify": {"name": "fixed"}}
    layers = {"start_from": str(file), "steps": 2, "representation": representation, **changes}
    return new_run(tmp_path / "runs", build(RunConfig, merge(TINY, layers)))


def gaussians(n: int = 40) -> GaussiansScene:
    return GaussiansScene(GaussiansConfig(count=n), torch.Generator().manual_seed(0))


def test_a_cloud_without_gaussians() -> None:
    scene = GaussiansScene.from_splats(
        cloud(0), GaussiansConfig(), torch.Generator().manual_seed(0), torch.device("cpu"), 10
    )
    state = start(scene, OptimizerConfig(), random_streams(0, "cameras", "guidance"))
    rendering = scene.render(CAMERAS, GREY)
    torch.testing.assert_close(rendering.rgb, GREY.expand_as(rendering.rgb))
    assert not rendering.alpha.any()
    losses = scene.regularisers(rendering, 0.5)
    (rendering.rgb.sum() + sum(losses.values())).backward()
    assert all(loss.isfinite() for loss in losses.values())
    for step in range(10):
        scene.after_step(step, state.optimizer)
    with pytest.raises(EmptySurfaceError):
        scene.to_mesh(32)
    assert len(scene.splats().means) == 0


def test_a_fully_transparent_cloud() -> None:
    scene = gaussians()
    with torch.no_grad():
        scene.parameters["opacities"].fill_(-30.0)
    state = start(scene, OptimizerConfig(), random_streams(0, "cameras", "guidance"))
    for step in range(3):
        rendering = scene.render(CAMERAS, GREY)
        state.optimizer.zero_grad()
        (rendering.rgb.square().sum() + sum(scene.regularisers(rendering, 0.0).values())).backward()
        state.optimizer.step()
        scene.after_step(step, state.optimizer)
    assert all(value.isfinite().all() for value in scene.state_dict().values())
    with pytest.raises(EmptySurfaceError):
        scene.to_mesh(32)


def test_degenerate_rotations_and_sizes() -> None:
    scene = gaussians()
    with torch.no_grad():
        scene.parameters["quats"][:10] = 0.0
        scene.parameters["quats"][10:20] *= 1e-30
        scene.parameters["scales"][20:25] = -200.0
        scene.parameters["scales"][25:30] = 50.0
        scene.parameters["means"][30] = torch.tensor([0.0, 0.0, 2.1])  # at the first camera
    rendering = scene.render(CAMERAS, GREY)
    (rendering.rgb.square().sum() + rendering.alpha.square().sum()).backward()
    for picture in (rendering.rgb, rendering.alpha, rendering.depth, rendering.normal):
        assert picture.isfinite().all()
    for name, parameter in scene.parameters.items():
        if parameter.numel():
            assert parameter.grad is not None
            assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "voxel_grid", "blob_height": -14.0, "blob_radius": 100.0},
        {"name": "hash_nerf", "blob_height": -14.0, "blob_radius": 100.0},
        {"name": "triplane_nerf", "blob_height": -14.0, "blob_radius": 100.0},
        {"name": "gaussians", "opacity_start": 1e-5},
    ],
    ids=lambda settings: str(settings["name"]),
)
def test_a_run_without_a_surface_fails_and_keeps_its_pictures(settings: dict[str, object], tmp_path: Path) -> None:
    run = new_run(tmp_path, build(RunConfig, merge(TINY, {"representation": settings, "steps": 2})))
    with pytest.raises(EmptySurfaceError):
        finish(run)
    assert run.state.status == "failed"
    assert "empty" in run.state.error
    assert (run.exports / "contact_sheet.png").stat().st_size > 0
    assert run.load_checkpoint() is not None


@pytest.mark.parametrize("keep", [0, 30, 200, 5000])
def test_starting_from_a_truncated_file(keep: int, tmp_path: Path) -> None:
    file = tmp_path / "cloud.ply"
    file.write_bytes(to_splat_ply(cloud(200))[:keep])
    run = run_from(tmp_path, file)
    with pytest.raises(AssetError, match=r"cloud\.ply"):
        finish(run)
    assert run.state.status == "failed"
    file.write_bytes(to_splat_ply(cloud(200)))
    assert finish(run) == [1, 2]  # with the file repaired, the same run continues
    assert run.state.status == "done"


@pytest.mark.slow
def test_two_million_gaussians_are_read_drawn_moved_and_written(tmp_path: Path) -> None:
    file = tmp_path / "cloud.ply"
    file.write_bytes(to_splat_ply(cloud(2_000_000)))
    config = GaussiansConfig(densify=FixedCountConfig())
    scene = config.make(Start(torch.Generator().manual_seed(0), steps=10, before=source_of(load_asset(file))))
    state = start(scene, OptimizerConfig(), random_streams(0, "cameras", "guidance"))
    rendering = scene.render(CAMERAS[:1], GREY)
    (rendering.rgb.square().sum() + sum(scene.regularisers(rendering, 0.0).values())).backward()
    state.optimizer.step()
    scene.after_step(0, state.optimizer)
    assert rendering.alpha.max() > 0.99
    again = scene.splats()
    assert len(again.means) == 2_000_000
    assert len(to_splat_ply(again)) > 100_000_000
