"""The queue: allowed requests in each state, the order of runs, and runs whose process died."""

from __future__ import annotations

from pathlib import Path

import pytest

from sds3d.files import RunError
from sds3d.jobs.queue import Progress, enqueue, progress, recover, runs_in, stop, waiting
from sds3d.run.config import make_config, new_run
from sds3d.run.folder import Run
from sds3d.run.locks import RunBusyError


def run_of(root: Path, seed: int = 0, **state: object) -> Run:
    run = new_run(root, make_config("a red mug", overrides=[f"seed={seed}"]))
    if state:
        run.update(**state)
    return run


@pytest.mark.parametrize("before", ["new", "paused", "cancelled", "failed", "running"])
def test_stopped_runs_can_be_queued(before: str, tmp_path: Path):
    run = run_of(tmp_path, status=before, error="it was late", attempts=3, step=7, total=9)
    run.request("cancel")
    enqueue(run)
    state = run.state
    assert (state.status, state.error, state.attempts, state.step) == ("queued", "", 0, 7)
    assert run.requested() is None


def test_done_runs_are_not_queued_and_waiting_ones_keep_their_place(tmp_path: Path):
    done, first, second = run_of(tmp_path, 0, status="done"), run_of(tmp_path, 1), run_of(tmp_path, 2)
    for run in (done, first, second, first):
        enqueue(run)
    assert done.state.status == "done"
    assert waiting(runs_in(tmp_path)) == [first, second]
    assert waiting(runs_in(tmp_path, [second.folder.name])) == [second]


def test_a_draft_that_is_wanted_as_a_whole_is_no_draft_any_more(tmp_path: Path):
    run = run_of(tmp_path)
    enqueue(run, pause_at=30)
    queued = run.state.queued
    assert run.state.pause_at == 30
    enqueue(run)
    assert (run.state.pause_at, run.state.queued) == (0, queued)


def test_queueing_a_running_run_withdraws_its_requests(tmp_path: Path):
    run = run_of(tmp_path, status="running")
    with run.locked():
        stop(run, "pause")
        assert run.requested() == "pause"
        assert run.state.status == "running"
        enqueue(run)
        assert run.requested() is None
        assert run.state.status == "running"


@pytest.mark.parametrize(
    ("before", "pause", "cancel"),
    [
        ("new", "paused", "cancelled"),
        ("queued", "paused", "cancelled"),
        ("running", "paused", "cancelled"),  # its process died
        ("paused", "paused", "cancelled"),
        ("cancelled", "cancelled", "cancelled"),
        ("failed", "failed", "failed"),
        ("done", "done", "done"),
    ],
)
def test_waiting_runs_stop_immediately(before: str, pause: str, cancel: str, tmp_path: Path):
    for seed, request, after in ((0, "pause", pause), (1, "cancel", cancel)):
        run = run_of(tmp_path, seed, status=before)
        stop(run, request)
        assert run.state.status == after
        assert run.requested() is None


def test_a_damaged_state_does_not_block_other_runs(tmp_path: Path):
    damaged, run = run_of(tmp_path, 0), run_of(tmp_path, 1, status="queued")
    (damaged.folder / "state.json").write_text("{")
    assert waiting(runs_in(tmp_path)) == [run]
    with pytest.raises(RunError, match=r"state\.json is damaged"):
        progress(damaged)


def test_a_run_whose_process_died_keeps_its_place_until_its_retries_are_spent(tmp_path: Path):
    run, later = (
        run_of(tmp_path, 0, status="running", queued=5.0, step=4),
        run_of(tmp_path, 1, status="queued", queued=6.0),
    )
    for attempt in (1, 2):
        recover(run, 2, why="signal 9")
        assert (run.state.status, run.state.attempts, run.state.step) == ("queued", attempt, 4)
        assert waiting([later, run]) == [run, later]
        run.update(status="running")
    recover(run, 2, why="signal 9")
    assert (run.state.status, run.state.error) == ("failed", "signal 9 (3 times)")
    assert "attempt 2 of 3" in (run.folder / "run.log").read_text()


def test_recovery_can_request_less_memory(tmp_path: Path):
    run = run_of(tmp_path, status="running")
    recover(run, 1, lean=True)
    assert (run.state.status, run.state.attempts, run.state.lean) == ("queued", 1, True)
    run.update(status="running")
    recover(run, 2)
    assert run.state.lean, "a later death must not clear it"


def test_deaths_before_a_worker_claims_its_run_count_too(tmp_path: Path):
    run = run_of(tmp_path, status="queued", queued=5.0)
    recover(run, 1, why="signal 9")
    assert run.state.attempts == 0
    recover(run, 1, why="signal 9", unclaimed=True)
    assert (run.state.status, run.state.attempts, run.state.queued) == ("queued", 1, 5.0)
    recover(run, 1, why="signal 9", unclaimed=True)
    assert (run.state.status, run.state.error) == ("failed", "signal 9 (2 times)")


def test_a_run_whose_process_died_follows_its_request(tmp_path: Path):
    run = run_of(tmp_path, status="running")
    run.request("cancel")
    recover(run, 2)
    assert run.state.status == "cancelled"
    assert run.requested() is None


@pytest.mark.parametrize("status", ["new", "queued", "paused", "cancelled", "failed", "done"])
def test_only_runs_that_were_running_are_recovered(status: str, tmp_path: Path):
    run = run_of(tmp_path, status=status)
    before = run.state
    assert not recover(run, 2)
    assert run.state == before
    run.update(status="running")
    with run.locked():
        assert not recover(run, 2)
    assert run.state.status == "running"
    assert recover(run, 2)


def test_a_run_in_use_by_an_export_cannot_be_queued(tmp_path: Path):
    run = run_of(tmp_path, status="paused")
    with run.locked(), pytest.raises(RunBusyError, match="is in use"):  # an export
        enqueue(run)
    assert run.state.status == "paused"


def test_progress_is_read_from_the_folder(tmp_path: Path):
    run = run_of(tmp_path, status="running", step=5, total=40)
    with run.locked():  # like the running process
        assert progress(run) == Progress("starting", 5, 40)
        for step in range(1, 9):
            run.add_event({"step": step, "seconds": 0.5})
        seen = progress(run)
        assert seen == Progress("running", 8, 40, 0.5)
        assert seen.seconds_left == 16
        assert seen.active
        run.add_event({"step": 40, "seconds": 0.5})
        assert progress(run).status == "exporting"
    assert progress(run) == Progress("stopped", 40, 40, error="its process died")
    run.update(status="failed", error="no such model", step=8)
    assert progress(run) == Progress("failed", 8, 40, error="no such model")


def test_the_newest_events_are_read_from_the_end_of_a_long_file(tmp_path: Path):
    run = run_of(tmp_path)
    assert run.last_events(3) == []
    for step in range(1, 400):
        run.add_event({"step": step, "seconds": 0.5, "metrics": {"note": "x" * (step % 100)}})
    with (run.folder / "events.jsonl").open("a") as file:
        file.write('{"step": 400, "seco')  # a line cut off by a kill
    assert [event["step"] for event in run.last_events(3)] == [397, 398, 399]
    assert run.last_events(1000) == run.events()
