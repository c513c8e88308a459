"""Runs as processes of this machine: start one, ask it to stop, see how far it is.

The run folder is the only state. A process here is one `sds3d resume FOLDER` in a session of its own, so that it
outlives whoever started it; what is remembered of it is only what the folder cannot tell, whether it is alive.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sds3d.run_config import RunConfig, new_run
from sds3d.runs import Run, RunState

Status = Literal["starting", "running", "exporting", "stopped", "paused", "cancelled", "failed", "finished"]
"""A run's status for its watchers: "stopped" is one whose process is gone without having said why."""

RECENT = 20  # steps whose median is the speed shown


@dataclass(frozen=True)
class Progress:
    """How far a run is: steps done and wanted, seconds a step (0 when unknown), and the one-line error of a failure."""

    status: Status
    step: int
    total: int
    seconds_per_step: float = 0.0
    error: str = ""

    @property
    def active(self) -> bool:
        """Whether more will happen without anybody doing anything."""
        return self.status in ("starting", "running", "exporting")

    @property
    def seconds_left(self) -> float:
        """Of the optimisation, at the recent speed; 0 when unknown."""
        return self.seconds_per_step * (self.total - self.step)


@dataclass(frozen=True)
class _Process:
    handle: subprocess.Popen[bytes]
    before: RunState
    """The state on disk when it was started: as long as it stands there, the process has not begun."""


_processes: dict[Path, _Process] = {}
_starting = threading.Lock()


def start(root: Path, config: RunConfig) -> Run:
    """The run of this configuration under `root`, with a process working on it unless it is finished or has one.

    A run that was cancelled, killed or failed goes on from its last checkpoint. Raises RunError when the folder
    cannot be written, OSError when no process can be started.
    """
    run = new_run(root.resolve(), config)
    with _starting:
        if run.state.status == "finished" or _alive(run) or run.busy():
            return run
        with log_path(run).open("wb") as log:
            handle = subprocess.Popen(
                [sys.executable, "-m", "sds3d.cli", "resume", str(run.folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        _processes[run.folder] = _Process(handle, run.state)
    return run


def cancel(run: Run) -> None:
    """Ask the run's process to stop after its current step; one that has not begun yet is ended at once."""
    process = _alive(run)
    if process is not None and run.state == process.before and not run.busy():
        process.handle.terminate()
        process.handle.wait()
        with run.locked():
            run.update(status="cancelled")
    else:
        run.request("cancel")


def progress(run: Run) -> Progress:
    """How far the run is. Raises RunError when its state is damaged."""
    process = _alive(run)
    state = run.state
    events = run.events()[-RECENT:]
    step = max(state.step, int(events[-1]["step"])) if events else state.step
    total = state.total
    speed = statistics.median(float(event["seconds"]) for event in events) if events else 0.0
    if process is not None and state == process.before:
        return Progress("starting", step, total, speed)
    match state.status:
        # While a process of ours is alive the lock is left alone: trying it could get in the way of that process.
        case "new" | "running" if process is None and not run.busy():
            return Progress("stopped", step, total, error=_last_words(run))
        case "new":
            return Progress("starting", step, total, speed)
        case "running" if step == total:
            return Progress("exporting", step, total, speed)
        case "running" if not events:
            return Progress("starting", step, total, speed)
        case status:
            return Progress(status, step, total, speed, state.error)


def log_path(run: Run) -> Path:
    """Where the newest process of a run printed to."""
    return run.folder / "process.log"


def _alive(run: Run) -> _Process | None:
    process = _processes.get(run.folder)
    return process if process is not None and process.handle.poll() is None else None


def _last_words(run: Run) -> str:
    """Why a process is gone, in one line, as far as it can be told."""
    process = _processes.get(run.folder)
    code = process.handle.returncode if process is not None else None
    if code is not None and code < 0:
        return f"its process was ended by signal {-code}" + (", perhaps for want of memory" if code == -9 else "")
    try:
        size = os.path.getsize(log_path(run))
        with log_path(run).open("rb") as log:
            log.seek(max(0, size - 4096))
            lines = log.read().decode(errors="replace").split("\n")
    except OSError:
        lines = []
    said = [line.strip() for line in lines if line.strip()]
    return said[-1].removeprefix("error: ") if code and said else "its process is gone"
