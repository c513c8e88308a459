"""Runs without steps: what they start from is exported, and they are counted, shown and resumed as others are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trimesh

import sds3d
from sds3d.app.estimates import LOADING, Cost, seconds_left, share_done
from sds3d.app.limits import pixels_of_step
from sds3d.config import ConfigError
from sds3d.jobs.batch import Job, Watch
from sds3d.jobs.queue import Progress, enqueue, progress
from sds3d.run import generated_start
from sds3d.run.config import ExportConfig, draft_steps, make_config, new_run, stage_config, total_steps
from sds3d.run.drive import drive
from sds3d.run.folder import Run, read_checkpoint
from sds3d.run.outputs import export_run, load_scene
from tests.run.tiny_runs import TINY, disc, finish, same, tiny

MESH = {"name": "mesh", "geometry": {"name": "fixed"}, "appearance": "texels"}


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "box.ply"
    trimesh.creation.box((0.5, 0.3, 0.2)).export(path)
    return path


@pytest.fixture(scope="module")
def made(box: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = new_run(tmp_path_factory.mktemp("runs"), tiny(steps=0, start_from=str(box)))
    assert finish(run) == []
    return run


def test_it_ends_with_the_files_of_any_run(box: Path, made: Run, tmp_path: Path) -> None:
    usual = new_run(tmp_path, tiny(steps=1, start_from=str(box)))
    finish(usual)
    assert [p.name for p in sorted(made.exports.iterdir())] == [p.name for p in sorted(usual.exports.iterdir())]
    assert made.preview is not None
    assert (made.state.status, made.state.step, made.state.total, made.state.exported) == ("done", 0, 0, 1.0)
    assert made.events() == []
    shown = progress(made)
    assert (shown.status, shown.step, shown.total, shown.seconds_left) == ("done", 0, 0, 0.0)
    # The grid of the box, of 0.5 by 0.3 by 0.2, fitted into the unit cube.
    size = np.ptp(load_scene(made, disc().device).to_mesh(24).vertices, axis=0)
    np.testing.assert_allclose(size / size[0], [1, 0.6, 0.4], atol=0.15)


def test_it_is_exported_again_and_done_already(made: Run) -> None:
    before = (made.exports / "a-ball.glb").read_bytes()
    (made.exports / "a-ball.glb").unlink()
    export_run(made, ExportConfig(**TINY["export"] | {"formats": ["glb"]}))  # type: ignore[arg-type]
    assert (made.exports / "a-ball.glb").read_bytes() == before
    enqueue(made)
    assert finish(made) == []
    assert made.state.status == "done"


def test_a_run_that_was_killed_during_its_export_ends_the_same(box: Path, made: Run, tmp_path: Path) -> None:
    run = new_run(tmp_path, tiny(steps=0, start_from=str(box)))

    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        assert progress(run).status == "exporting"
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sds3d.run.drive.export_scene", kill)
        with pytest.raises(Killed):
            finish(run)
    assert run.state.status == "running"
    assert progress(run).status == "stopped"
    assert [int(path.stem) for path in run.checkpoints] == [0]
    assert finish(run) == []
    assert same(run, made)


def test_stages_without_steps_convert_what_the_others_made(tmp_path: Path) -> None:
    run = new_run(tmp_path, tiny(stages=[{"steps": 2}, {"steps": 0, "representation": MESH}]))
    assert finish(run, stop=1) == [1]
    assert finish(run) == [2]
    newest = read_checkpoint(run.checkpoints[0])
    assert (int(newest["stage"]), int(newest["step"]), run.state.total) == (1, 0, 2)
    assert (run.exports / "a-ball.glb").is_file()


def test_python_gives_the_asset_at_once(box: Path, tmp_path: Path) -> None:
    settings = {key: value for key, value in TINY.items() if key not in ("prompt", "steps")}
    given = {**settings, "steps": 0, "start_from": str(box), "preset": "toybox"}
    prior = disc()
    prior.predict = None  # type: ignore[assignment] # it is never asked for a prediction
    previews = list(sds3d.stream("a ball", out=tmp_path, prior=prior, threads=1, **given))  # type: ignore[arg-type]
    assert [(preview.step, preview.total, preview.losses) for preview in previews] == [(0, 0, {})]
    assert len(previews[0].rgb) == 8


def test_shares_and_steps_of_stages() -> None:
    def steps(*settings: str) -> list[int]:
        config = make_config("a red mug", "mesh", ["start_from=FILE", *settings])
        return [stage_config(config, index).steps for index in range(len(config.stages))]

    assert steps("steps=0") == [0, 0, 0]
    assert steps("steps=0", "stages.1.steps=7") == [0, 7, 0]
    assert steps("stages.1.steps=0") == [190, 0, 35]
    assert steps("stages.1.steps=0", "steps=45") == [38, 0, 7]
    assert steps("steps=0", "steps=280") == [190, 55, 35]


def test_without_a_start_it_is_refused_in_one_line() -> None:
    for preset in ("toybox", "mesh", "instant"):
        with pytest.raises(ConfigError, match=r"^steps=0 needs start_from=\.\.\., a file, a run or a generator[^\n]*$"):
            make_config("a red mug", preset, ["steps=0", "start_from=''"])


def test_estimates_and_costs_count_its_export_alone() -> None:
    config = make_config("a red mug", "toybox", ["steps=0", "start_from=FILE"])
    assert total_steps(config) == draft_steps(config) == 0
    assert pixels_of_step(config) == pixels_of_step(make_config("a red mug", "toybox"))
    for cost in (Cost(0.5, 3.0), Cost(0.0, 3.0)):
        assert cost.seconds(0) == LOADING + 3
        assert seconds_left(Progress("queued", 0, 0), cost) == LOADING + 3
        assert seconds_left(Progress("exporting", 0, 0, exported=0.5), cost) == 1.5
        shares = [
            share_done(Progress(status, 0, 0, exported=0.5), cost) for status in ("starting", "exporting", "done")
        ]
        assert shares == pytest.approx([0, 1 - 0.5 * min(3 / (LOADING + 3), 0.5), 1])


def test_a_batch_counts_its_exports(made: Run) -> None:
    watch = Watch([Job(made, (), 0), Job(Run(made.folder.parent / "other"), (), 0)])
    assert (watch.steps, watch.total) == (1, 1)  # the other is not queued, so nothing is left of it
    watch.seen[1] = Progress("queued", 0, 0)
    assert (watch.steps, watch.total) == (1, 2)


def test_a_batch_without_steps_tells_the_time_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("sds3d.jobs.batch.time.monotonic", lambda: now)
    runs = [new_run(tmp_path, tiny(steps=0, seed=seed, start_from="box.ply")) for seed in range(3)]
    for run in runs:
        run.update(status="queued")
    watch = Watch([Job(run, (), 0) for run in runs])
    with runs[0].locked():
        runs[0].update(status="running", optimised=1.0)
        watch.look()
    now += 4
    runs[0].update(status="done")
    watch.look()
    assert (watch.steps, watch.total) == (1, 3)
    assert watch.seconds_left == pytest.approx(8)


def test_the_preset_instant_names_the_generator_that_ships(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(generated_start, "assets_dir", lambda: tmp_path)
    for settings in ([], ["steps=60"]):
        with pytest.raises(ConfigError, match=r"^no generator ships with this version.*sds3d generator train[^\n]*$"):
            make_config("a red mug", "instant", settings)
    (tmp_path / "instant").mkdir()
    (tmp_path / "instant" / generated_start.SETTINGS).touch()
    assert total_steps(make_config("a red mug", "instant")) == 0
    assert total_steps(make_config("a red mug", "toybox", ["start_from=instant", "steps=60"])) == 60
    assert generated_start.start_path("instant") == tmp_path / "instant"


def test_a_pause_that_is_asked_for_before_it_begins_is_kept(box: Path, tmp_path: Path) -> None:
    run = new_run(tmp_path, tiny(steps=0, start_from=str(box)))
    enqueue(run, pause_at=draft_steps(tiny(steps=0)))
    run.request("pause")
    assert list(drive(run, threads=1, prior=disc(), claim=True)) == []
    assert run.state.status == "paused"
    assert finish(run) == []
    assert run.state.status == "done"
