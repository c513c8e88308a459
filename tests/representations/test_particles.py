"""Particles, several scenes in one run: each step trains one of them; all are saved, resumed and exported."""

from pathlib import Path

import pytest
import torch

from sds3d.cameras import turntable
from sds3d.config import build, merge
from sds3d.formats.load import load_asset
from sds3d.geometry.mesh import Mesh
from sds3d.representations.base import Start
from sds3d.representations.gaussians import GaussiansScene
from sds3d.representations.make import make_scene
from sds3d.representations.particles import Particles
from sds3d.representations.voxel_grid import VoxelGridConfig, VoxelGridScene
from sds3d.run.config import RunConfig, new_run
from sds3d.run.drive import drive, start_work
from sds3d.run.folder import Run
from sds3d.run.optimize import Setup, optimize
from sds3d.run.outputs import export_run, load_scene
from tests.run.tiny_runs import TINY, disc, finish, same

SMALL = VoxelGridConfig(resolution=8, samples=16)
WHITE = torch.ones(3)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def particles(count: int = 3, seed: int = 0) -> Particles:
    scene = make_scene(SMALL, Start(seeded(seed), steps=30), particles=count)
    assert isinstance(scene, Particles)
    return scene


def shared(**changes: object) -> RunConfig:
    guidance = {"name": "vsd", "scale": 3.0, "variational": {"lr": 0.01}}
    return build(RunConfig, merge(TINY, {"particles": 2, "guidance": guidance} | changes))


def test_particles_start_different_and_each_step_moves_one() -> None:
    config, prior = shared(particles=3), disc()
    work = start_work(config, [prior])
    assert isinstance(work.scene, Particles)
    moved = []

    def densities() -> list[torch.Tensor]:
        return [scene.state_dict()["density"] for scene in work.scene.scenes]

    before = densities()
    assert not torch.equal(before[0], before[1])
    setup = Setup(work.scene, work.teachers, 12, config.cameras, config.optimizer)
    steps = optimize(setup, work.state)
    for _ in range(12):
        drawn = work.scene.drawn
        next(steps)
        after = densities()
        changed = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
        assert changed == [i == drawn for i in range(3)]
        moved.append(drawn)
        before = after
    assert set(moved) == {0, 1, 2}
    assert work.scene.state_dict()["steps"].tolist() == [moved.count(i) for i in range(3)]


def test_scenes_are_drawn_with_equal_probability() -> None:
    scene, optimizer = particles(4), torch.optim.Adam([torch.zeros(1)])
    drawn = []
    for step in range(400):
        drawn.append(scene.drawn)
        scene.after_step(step, optimizer)
    assert all(70 < drawn.count(i) < 130 for i in range(4))


def test_rendering_shows_the_first_particle() -> None:
    scene, cameras = particles(), turntable(2, size=8)
    with torch.no_grad():
        assert torch.equal(scene.render(cameras, WHITE).rgb, scene.scenes[0].render(cameras, WHITE).rgb)
    assert list(scene.particles) == scene.scenes
    assert list(scene.scenes[1].particles) == [scene.scenes[1]]


def test_the_state_restores_everything() -> None:
    scene, again, optimizer = particles(), particles(seed=1), torch.optim.Adam([torch.zeros(1)])
    for step in range(5):
        scene.after_step(step, optimizer)
    again.load_state_dict(scene.state_dict())
    assert all(torch.equal(value, scene.state_dict()[name]) for name, value in again.state_dict().items())
    for step in range(10):
        assert again.drawn == scene.drawn
        scene.after_step(step, optimizer)
        again.after_step(step, optimizer)


@pytest.mark.parametrize(
    "given", [particles(2).state_dict(), particles(2).scenes[0].state_dict()], ids=["two particles", "one scene"]
)
def test_a_state_with_another_number_of_particles_is_refused(given: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ValueError, match=r"the state holds [12] particles, not 3: set particles=[12]"):
        particles(3).load_state_dict(given)
    with pytest.raises(ValueError, match="at least one scene"):
        Particles([], seeded())


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = new_run(tmp_path_factory.mktemp("particles"), shared())
    assert finish(run) == list(range(1, 13))
    return run


def test_all_are_exported_and_differ(straight: Run) -> None:
    first, second = (
        load_asset(folder / "a-ball.glb") for folder in (straight.exports, straight.exports / "particle-2")
    )
    assert isinstance(first, Mesh)
    assert isinstance(second, Mesh)
    assert first.vertices.shape != second.vertices.shape or not (first.vertices == second.vertices).all()
    assert (straight.exports / "particle-2" / "contact_sheet.png").stat().st_size > 0
    assert isinstance(load_scene(straight, torch.device("cpu")), Particles)
    assert (straight.exports / "a-ball.glb") == export_run(straight)["a-ball.glb"]


@pytest.mark.parametrize("stop", [1, 7])
def test_resuming_changes_nothing(stop: int, straight: Run, tmp_path: Path) -> None:
    run = new_run(tmp_path, shared())
    assert finish(run, stop)[-1] == stop
    assert finish(run)[0] == stop + 1
    assert same(run, straight)


def test_growing_clouds_keep_their_moments(tmp_path: Path) -> None:
    cloud = {"name": "gaussians", "count": 300, "densify": {"name": "distillation", "every": 2, "start": 0.0}}
    config = shared(representation=cloud)
    runs = [new_run(tmp_path / name, config) for name in ("straight", "stopped")]
    finish(runs[0])
    finish(runs[1], 9)
    finish(runs[1])
    assert same(*runs)
    scene = load_scene(runs[0], torch.device("cpu"))
    assert isinstance(scene, Particles)
    assert {len(one.splats()) for one in scene.scenes if isinstance(one, GaussiansScene)} != {300}


def test_a_later_stage_continues_with_the_first_or_all_particles(tmp_path: Path) -> None:
    stages = [{"steps": 6}, {"steps": 2, "particles": 1}]
    run = new_run(tmp_path, shared(stages=stages))
    assert len(list(drive(run, threads=1, prior=disc()))) == 8
    assert isinstance(load_scene(run, torch.device("cpu")), VoxelGridScene)
    before = particles(2)
    each = make_scene(SMALL, Start(seeded(3), steps=10, before=before), particles=2)
    assert isinstance(each, Particles)
    for mine, old in zip(each.scenes, before.scenes, strict=True):
        torch.testing.assert_close(mine.state_dict()["color"], old.state_dict()["color"], atol=1e-4, rtol=1e-4)


def test_portraits_are_of_the_step_s_particle():
    scene = particles()
    cameras = turntable(1, size=8)
    drawn = scene.scenes[scene.drawn]
    assert torch.equal(scene.portray(cameras, WHITE).rgb, drawn.portray(cameras, WHITE).rgb)
    assert scene.shows_colors
