"""The queue: run folders whose state says "queued". What is to be done, and how far it is, stands nowhere else.

Whoever holds a folder's lock may change its state; a request to a running process goes through its `control` file. So
workers, the studio, the command line and any number of viewers see the same, and none of them can leave it torn.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sds3d.files import RunError
from sds3d.run.folder import CONFIGS, STOPPED, Request, Run, RunBusyError
from sds3d.run.folder import Status as State

Status = Literal[
    "new", "queued", "starting", "running", "exporting", "stopped", "paused", "cancelled", "failed", "done"
]
"""A run's state for its viewers: "stopped" is one whose process is gone without having said why."""

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
        """Whether more will happen without anybody doing anything, as long as there are workers."""
        return self.status in ("queued", "starting", "running", "exporting")

    @property
    def seconds_left(self) -> float:
        """Of the optimisation, at the recent speed; 0 when unknown."""
        return self.seconds_per_step * max(self.total - self.step, 0)


def enqueue(run: Run) -> None:
    """Let a worker carry the run out, from where it was stopped; what is asked of it (pause, cancel) is taken back.

    A run that is done or queued, or is going on, stays as it is. Raises RunBusyError when it is held for something
    else, an export for instance, and RunError when its state is damaged.
    """
    run.clear_request()
    try:
        with run.locked():
            if run.state.status not in ("done", "queued"):
                run.update(status="queued", queued=time.time(), error="", attempts=0)
    except RunBusyError:
        if run.state.status not in ("done", "queued", "running"):
            raise


def stop(run: Run, request: Request) -> None:
    """Pause or cancel a run: one that waits at once, one that is running after its current step."""
    try:
        with run.locked():
            state: State = run.state.status
            if state in ("new", "queued", "running") or (state == "paused" and request == "cancel"):
                run.update(status=STOPPED[request])
                run.clear_request()
    except RunBusyError:
        run.request(request)


def waiting(runs: Iterable[Run]) -> list[Run]:
    """Those that are queued, the one that has waited longest first."""
    found = []
    for run in runs:
        with suppress(RunError, OSError):  # a damaged state is for those to see who look at that run
            state = run.state
            if state.status == "queued":
                found.append((state.queued, run.folder.name, run))
    return [run for *_, run in sorted(found, key=lambda entry: entry[:2])]


def recover(run: Run, retries: int, *, lean: bool = False, why: str = "", unclaimed: bool = False) -> bool:
    """A run whose process died goes back into the queue, or fails after so many retries; any other is left alone.

    lean: memory was the cause: it goes on with less. why: of the death, for the run's log and its error. unclaimed: the
    same for a run that is still queued, whose worker died before it came to it. Returns whether it was such a run.
    """
    statuses = ("running", "queued") if unclaimed else ("running",)
    if run.state.status not in statuses:
        return False
    with suppress(RunBusyError), run.locked():
        state = run.state
        if state.status not in statuses:
            return False
        if (request := run.requested()) is not None:
            run.update(status=STOPPED[request])
            run.clear_request()
            return True
        attempts = state.attempts + 1
        why = why or "its process is gone"
        run.log(f"{why}; attempt {attempts} of {retries + 1}")
        if attempts > retries:
            tried = f" ({attempts} times)" if attempts > 1 else ""
            run.update(status="failed", attempts=attempts, error=f"{why}{tried}")
        else:
            queued = state.queued or time.time()  # the place it had
            run.update(status="queued", queued=queued, attempts=attempts, lean=state.lean or lean)
        return True
    return False


def progress(run: Run) -> Progress:
    """How far the run is, as its folder tells. Raises RunError when its state is damaged."""
    state = run.state
    if state.status != "running":
        return Progress(state.status, state.step, state.total, error=state.error)
    events = run.last_events(RECENT)
    step = max(state.step, int(events[-1]["step"])) if events else state.step
    speed = statistics.median(float(event["seconds"]) for event in events) if events else 0.0
    if not run.busy():
        state = run.state  # it may have ended between the two looks
        if state.status != "running":
            return Progress(state.status, state.step, state.total, error=state.error)
        return Progress("stopped", step, state.total, error="its process is gone")
    status: Status = "starting" if not events else "exporting" if step >= state.total else "running"
    return Progress(status, step, state.total, speed)


def runs_in(root: Path, names: Iterable[str] | None = None) -> list[Run]:
    """The runs of these folder names under `root`, or all of them, in the order of their names."""
    if names is not None:
        return [Run(root / name) for name in names]
    return [Run(path.parent) for path in sorted(root.glob(CONFIGS))]


def rest(seconds: float, began: float) -> None:
    """Sleep before the queue is looked at again; after a look that took long, as with many runs, longer."""
    time.sleep(max(seconds, 20 * (time.monotonic() - began)))
