"""The queue: run folders whose status is "queued". Nothing about the queue is stored anywhere else.

Only the holder of a folder's lock changes its state; requests to a running process go through its `control` file. So
workers, the studio and the command line always see the same consistent state.
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
from sds3d.run.folder import CONFIGS, STOPPED, Request, Run, is_of_another_user
from sds3d.run.locks import RunBusyError

LiveStatus = Literal[
    "new", "queued", "starting", "running", "exporting", "stopped", "paused", "cancelled", "failed", "done"
]
"""The status that is shown for a run. "stopped": its process ended without reporting why."""

RECENT = 20  # steps; their median is the speed that is shown


@dataclass(frozen=True)
class Progress:
    """Progress of a run.

    step, total: steps done and planned. seconds_per_step: 0 if unknown; the run's first step, which also compiles,
    does not count. error: of a failed run. exported: share of the export that is done, 0 to 1. exporting:
    the part of it that is under way.
    """

    status: LiveStatus
    step: int
    total: int
    seconds_per_step: float = 0.0
    error: str = ""
    exported: float = 0.0
    exporting: str = ""

    @property
    def active(self) -> bool:
        """Whether the run continues without further action, as long as there are workers."""
        return self.status in ("queued", "starting", "running", "exporting")

    @property
    def seconds_left(self) -> float:
        """Time left for the optimisation at the recent speed; 0 if unknown."""
        return self.seconds_per_step * max(self.total - self.step, 0)


@dataclass(frozen=True)
class Wait:
    """The wait of a queued run. place: number of runs before it. seconds: until it starts; 0 if unknown."""

    place: int
    seconds: float


def enqueue(run: Run, pause_at: int = 0) -> None:
    """Queue a run, to be continued where it stopped. A pending request to pause or cancel it is withdrawn.

    pause_at: step after which it pauses by itself, as a draft; 0: it runs to its end. A draft that waits already runs
    to its end, too, unless this is given again.

    A run that is done, queued or running is left unchanged. Raises RunBusyError if another process holds it, for an
    export for example, and RunError if its state is damaged or its folder belongs to another user.
    """
    if is_of_another_user(run.folder):
        raise RunError(f"{run.folder} belongs to another user; copy the folder to continue the run")
    run.clear_request()
    try:
        with run.locked():
            state = run.state
            if state.status == "queued" and state.pause_at != pause_at:
                run.update(pause_at=pause_at)
            elif state.status not in ("done", "queued"):
                run.update(status="queued", queued=time.time(), error="", attempts=0, pause_at=pause_at)
    except RunBusyError:
        if run.state.status not in ("done", "queued", "running"):
            raise


def stop(run: Run, request: Request) -> None:
    """Pause or cancel a run: a waiting one at once, a running one after its current step."""
    try:
        with run.locked():
            status = run.state.status
            if status in ("new", "queued", "running") or (status == "paused" and request == "cancel"):
                run.update(status=STOPPED[request])
                run.clear_request()
    except RunBusyError:
        run.request(request)


def waiting(runs: Iterable[Run]) -> list[Run]:
    """Return the queued runs, the longest waiting first."""
    found = []
    for run in runs:
        with suppress(RunError, OSError):  # damaged states are reported where the run itself is shown
            state = run.state
            if state.status == "queued":
                found.append((state.queued, run.folder.name, run))
    return [run for *_, run in sorted(found, key=lambda entry: entry[:2])]


def recover(run: Run, retries: int, *, lean: bool = False, why: str = "", unclaimed: bool = False) -> bool:
    """Requeue a run whose process died, or let it fail after this many retries. Other runs are left unchanged.

    lean: it ran out of memory, so it continues with less. why: cause of the death, for the run's log and error.
    unclaimed: also treat a run that is still queued, whose worker died before taking it. Return whether the run was
    such a run.
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
        why = why or "its process died"
        run.log(f"{why}; attempt {attempts} of {retries + 1}")
        if attempts > retries:
            tried = f" ({attempts} times)" if attempts > 1 else ""
            run.update(status="failed", attempts=attempts, error=f"{why}{tried}")
        else:
            queued = state.queued or time.time()  # its former place
            run.update(status="queued", queued=queued, attempts=attempts, lean=state.lean or lean)
        return True
    return False


def progress(run: Run) -> Progress:
    """Read the progress of a run from its folder. Raises RunError if its state is damaged."""
    state = run.state
    if state.status != "running":
        return Progress(state.status, state.step, state.total, error=state.error)
    events = run.last_events(RECENT)
    step = max(state.step, int(events[-1]["step"])) if events else state.step
    seconds = [float(event["seconds"]) for event in events if int(event["step"]) > 1]
    speed = statistics.median(seconds) if seconds else 0.0
    if not run.busy():
        state = run.state  # it may have ended in the meantime
        if state.status != "running":
            return Progress(state.status, state.step, state.total, error=state.error)
        return Progress("stopped", step, state.total, error="its process died")
    began = bool(events or state.optimised)  # a run without steps has no events
    status: LiveStatus = "starting" if not began else "exporting" if step >= state.total else "running"
    return Progress(status, step, state.total, speed, exported=state.exported, exporting=state.exporting)


def runs_in(root: Path, names: Iterable[str] | None = None) -> list[Run]:
    """Return the runs with these folder names under `root`, or all runs except those of other users, sorted by name."""
    if names is not None:
        return [Run(root / name) for name in names]
    return [Run(path.parent) for path in sorted(root.glob(CONFIGS)) if _is_ours(path.parent)]


def _is_ours(folder: Path) -> bool:
    with suppress(OSError):  # deleted in the meantime
        return not folder.is_symlink() and not is_of_another_user(folder)
    return False


def rest(seconds: float, began: float) -> None:
    """Sleep before the next look at the queue; longer if the last look took long, as with many runs."""
    time.sleep(max(seconds, 20 * (time.monotonic() - began)))
