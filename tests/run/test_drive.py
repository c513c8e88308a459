"""Runs that are finished, paused, closed and cancelled."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import trimesh

from sds3d.files import RunError
from sds3d.jobs.queue import enqueue, recover
from sds3d.run.config import draft_steps, new_run, read_config
from sds3d.run.drive import drive
from sds3d.run.folder import Run
from tests.run.tiny_runs import disc, finish, same, tiny

PAINTED = {"name": "mesh", "geometry": {"name": "fixed"}, "appearance": "texels"}


def test_a_finished_run_has_everything(straight: Run):
    assert straight.folder.name.startswith("a-ball-")
    assert straight.state.status == "done"
    assert (straight.state.step, straight.state.total, straight.state.threads) == (12, 12, 1)
    assert [event["step"] for event in straight.events()] == list(range(1, 13))
    assert {"a-ball.glb", "a-ball.ply", "turntable.mp4", "contact_sheet.png"} <= {
        path.name for path in straight.exports.iterdir()
    }
    assert (straight.previews / "latest.png").stat().st_size > 0
    assert read_config(straight) == tiny()
    assert len(straight.checkpoints) == 2
    assert "finished" in (straight.folder / "run.log").read_text()


def test_a_finished_run_is_not_repeated(straight: Run):
    checkpoint = straight.checkpoints[0].stat().st_mtime_ns
    again = new_run(straight.folder.parent, tiny())
    assert again == straight
    assert finish(again) == []
    assert straight.checkpoints[0].stat().st_mtime_ns == checkpoint


@pytest.mark.parametrize("stop", [1, 5, 8])
def test_a_paused_run_ends_the_same(stop: int, straight: Run, tmp_path: Path):
    run = new_run(tmp_path, tiny())
    assert finish(run, stop)[-1] == stop
    assert run.state.status == "paused"
    assert run.state.step == stop
    assert run.requested() is None
    assert finish(run)[0] == stop + 1
    assert same(run, straight)


def test_a_draft_pauses_once_and_ends_as_the_run_would_have(straight: Run, tmp_path: Path):
    run = new_run(tmp_path, tiny())
    assert draft_steps(tiny()) == 3
    enqueue(run, pause_at=3)
    assert finish(run)[-1] == 3
    assert (run.state.status, run.state.step, run.state.pause_at) == ("paused", 3, 0)
    assert run.preview is not None
    assert not run.exports.exists()
    enqueue(run)
    assert finish(run)[0] == 4
    assert same(run, straight)


def test_a_draft_that_was_killed_is_still_a_draft_and_one_that_is_resumed_is_none(tmp_path: Path):
    run = new_run(tmp_path, tiny())
    enqueue(run, pause_at=5)
    run.update(status="running", step=2)  # as a killed process leaves it
    assert recover(run, retries=2)
    assert finish(run)[-1] == 5
    other = new_run(tmp_path, tiny(seed=1))
    enqueue(other, pause_at=5)
    assert finish(other, stop=2)[-1] == 2
    assert finish(other)[-1] == 12


def test_a_run_keeps_the_file_that_it_starts_from(tmp_path: Path):
    mesh, mine = tmp_path / "ball.stl", tiny(representation=PAINTED, up_axis="y")
    trimesh.creation.icosphere(2, 0.4).export(mesh)
    run = new_run(tmp_path / "runs", mine, own=mesh)
    assert new_run(tmp_path / "runs", mine, own=mesh) == run
    assert run.own is not None
    assert (run.own.name, run.own.read_bytes()) == ("ball.stl", mesh.read_bytes())
    mesh.unlink()
    moved = Run(run.folder.rename(tmp_path / "elsewhere"))
    finish(moved)
    assert len(trimesh.load_mesh(moved.exports / "a-ball.ply").faces) == 320


def test_closing_the_generator_leaves_a_resumable_run(straight: Run, tmp_path: Path):
    run = new_run(tmp_path, tiny())
    steps = drive(run, threads=1, prior=disc())
    for _ in range(6):
        next(steps)
    steps.close()
    assert (run.state.status, run.state.step) == ("paused", 6)
    assert not run.busy()
    finish(run)
    assert same(run, straight)


def test_a_pause_withdrawn_while_the_run_saves_has_no_effect(
    straight: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    save = Run.save_checkpoint

    def save_slowly(run: Run, *arguments: Any) -> Path:
        path = save(run, *arguments)
        run.clear_request()  # like a user who presses Resume at this moment
        return path

    monkeypatch.setattr(Run, "save_checkpoint", save_slowly)
    run = new_run(tmp_path, tiny())
    assert finish(run, 6) == list(range(1, 13))
    assert run.state.status == "done"
    assert same(run, straight)


def test_a_request_overrides_the_state_after_closing_the_generator(tmp_path: Path):
    for request, status in (("cancel", "cancelled"), (None, "queued")):
        run = new_run(tmp_path / status, tiny())
        steps = drive(run, threads=1, prior=disc(), closed="queued")
        next(steps)
        if request is not None:
            run.request(request)
        steps.close()
        assert (run.state.status, run.state.step) == (status, 1)
        assert run.requested() is None


def test_a_deleted_run_is_not_driven(tmp_path: Path):
    run = new_run(tmp_path, tiny())
    run.config_path.unlink()
    with pytest.raises(RunError, match="was deleted"):
        finish(run)


def test_cancelling_stops_within_a_step(tmp_path: Path):
    run = new_run(tmp_path, tiny())
    steps = drive(run, threads=1, prior=disc())
    next(steps)
    run.request("cancel")
    assert list(steps) == []
    assert (run.state.status, run.state.step) == ("cancelled", 1)


def test_an_old_request_does_not_stop_a_new_process(tmp_path: Path):
    run = new_run(tmp_path, tiny())
    run.request("cancel")
    assert len(finish(run)) == 12


def test_preview_pictures_do_not_change_the_result(straight: Run, tmp_path: Path):
    run = new_run(tmp_path, tiny(preview_every=1e-6))
    began = time.time()
    finish(run)
    assert (run.previews / "latest.png").stat().st_mtime >= began - 1
    assert same(run, straight)
