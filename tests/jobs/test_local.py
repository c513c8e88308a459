"""Runs as processes: started once, cancelled before they begin, killed, failed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from sds3d.jobs import local
from sds3d.run_config import RunConfig, make_config, new_run
from sds3d.runs import RunState


def config(tmp_path: Path) -> RunConfig:
    """A run whose process needs seconds to find out that there is no such model."""
    return make_config("a red mug", overrides=[f"prior.model={tmp_path / 'no-model'}", "prior.offline=true"])


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)


def test_a_failed_run_says_why_in_a_line(tmp_path: Path):
    run = local.start(tmp_path, config(tmp_path))
    assert local.progress(run).status == "starting"
    process = local._processes[run.folder].handle
    assert local.start(tmp_path, config(tmp_path)) == run
    assert local._processes[run.folder].handle is process, "a second process was started for the same run"
    wait_for(lambda: not local.progress(run).active)
    seen = local.progress(run)
    assert seen.status == "failed"
    assert "no-model" in seen.error
    assert "\n" not in seen.error


def test_a_run_cancelled_before_it_begins_never_does(tmp_path: Path):
    run = local.start(tmp_path, config(tmp_path))
    local.cancel(run)
    assert local.progress(run).status == "cancelled"
    assert run.state == RunState(status="cancelled")
    assert not run.busy()


def test_a_killed_process_is_told_from_a_running_one(tmp_path: Path):
    run = local.start(tmp_path, config(tmp_path))
    os.kill(local._processes[run.folder].handle.pid, signal.SIGKILL)
    wait_for(lambda: not local.progress(run).active)
    assert local.progress(run).status == "stopped"
    assert "signal 9" in local.progress(run).error


def test_progress_is_read_from_the_folder(tmp_path: Path):
    run = new_run(tmp_path, config(tmp_path))
    run.update(status="running", step=5, total=40)
    for step in range(1, 9):
        run.add_event({"step": step, "seconds": 0.5})
    with run.locked():  # as the running process does
        seen = local.progress(run)
    assert seen == local.Progress("running", 8, 40, 0.5)
    assert seen.seconds_left == 16
    assert seen.active
    assert local.progress(run).status == "stopped"
    run.update(status="paused", step=8)
    assert local.progress(run).status == "paused"
