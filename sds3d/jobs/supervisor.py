"""Workers as processes: one a device, each in a fresh interpreter (spawn), looked after.

A worker that dies, by `kill -9` or for want of memory, takes nothing along: its runs go back into the queue with their
last checkpoints, up to a number of retries, and another worker is started. When the supervisor itself dies, its workers
put their runs back after the current step and end; when the machine dies, the next supervisor finds what is "running"
and held by nobody. Nothing heavy is imported here: the supervisor waits, the workers work.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path

from sds3d.files import RunError
from sds3d.jobs.queue import recover, rest, runs_in, stop, waiting
from sds3d.run.folder import Run, hold, is_held

_SPAWN = multiprocessing.get_context("spawn")  # forked processes cannot use CUDA, and inherit locks

POLL = 0.25  # seconds
LEFT_BEHIND = 3.0
"""Seconds between looks for runs that nobody drives."""
SPARE = 3
"""Further retries of a run that was found so: its process may have died of something else."""
PATIENCE = 60.0
"""Seconds that a worker has to end after its current step before it is ended; an export may take some."""
IDLE = 600.0
"""Seconds that the studio's workers keep their priors loaded for the next run."""


@dataclass(frozen=True)
class Crew:
    """How a queue is worked off.

    devices: a worker each, "cpu", "cuda:1" and so on. threads: CPU threads of each; 0 shares the cores out.
    retries: how often a run is tried again whose worker died. together: runs of equal settings that are optimised
    together. idle: seconds that workers wait for more. log: a file that takes what workers and their libraries say.
    """

    devices: Sequence[str] = ("",)
    threads: int = 0
    retries: int = 2
    together: int = 1
    idle: float = 0.0
    log: Path | None = None


@dataclass
class _Workers:
    """The processes by device. leave: asks them to end after the current step. kills: how many processes the kernel had
    ended for want of memory when it was asked last.
    """

    leave: Event
    processes: dict[int, BaseProcess] = field(default_factory=dict)
    kills: int = 0


def supervise(root: Path, names: Sequence[str] | None = None, crew: Crew | None = None) -> Iterator[None]:
    """Work off the queued runs of a folder, or those of these names, yielding every POLL seconds until none is left.

    Whoever stops iterating pauses the runs that are going on: each keeps a checkpoint of its last step.
    Raises RunBusyError when another supervisor of this machine works off this folder.
    """
    crew = crew or Crew()
    root.mkdir(parents=True, exist_ok=True)
    workers = _Workers(_SPAWN.Event(), kills=memory_kills())
    with ExitStack() as stack:
        if names is None:
            stack.enter_context(hold(lock_of(root), f"the queue of {root} is worked off"))
        stack.callback(_dismiss, root, names, workers)
        suspects: set[str] = set()
        looked = -LEFT_BEHIND
        while True:
            began = time.monotonic()
            _reap(root, names, workers, crew)
            if began - looked >= LEFT_BEHIND:
                suspects, looked = _take_up(root, names, crew, suspects), began
            if waiting(runs_in(root, names)):
                _staff(root, names, workers, crew)
            elif not workers.processes and not suspects:
                return
            yield
            rest(POLL, began)


def _take_up(root: Path, names: Sequence[str] | None, crew: Crew, suspects: set[str]) -> set[str]:
    """Runs that nobody drives though they are "running", as after a power cut, go back into the queue.

    Only at the second look: a process that ends holds its run no longer shortly before it is known why. A run that ends
    the machine each time is given up some time, too. Returns the names to look at again.
    """
    found = {run.folder.name: run for run in runs_in(root, names) if _is_orphan(run)}
    for name in found.keys() & suspects:
        with suppress(RunError, OSError):
            recover(found[name], crew.retries + SPARE)
    return found.keys() - suspects


def _staff(root: Path, names: Sequence[str] | None, workers: _Workers, crew: Crew) -> None:
    """A worker for each device that has none."""
    for index, device in enumerate(crew.devices):
        if index not in workers.processes:
            arguments = (root, names, device, crew, os.getpid(), workers.leave)
            process = _SPAWN.Process(target=_work, args=arguments, name=f"sds3d-worker-{index}", daemon=True)
            process.start()
            workers.processes[index] = process


def _reap(root: Path, names: Sequence[str] | None, workers: _Workers, crew: Crew) -> None:
    """Take note of workers that ended, and put the runs of those that died back into the queue."""
    died = [(index, process) for index, process in workers.processes.items() if not process.is_alive()]
    for index, process in died:
        del workers.processes[index]
        code = process.exitcode or 0
        process.close()
        if code == 0:
            continue
        kills = memory_kills()
        lean, workers.kills = code == -9 and kills > workers.kills, kills
        runs = runs_in(root, names)
        taken = [_recovered(run, crew, lean, code) for run in runs]
        if not any(taken):  # it died before it came to a run, as of the prior: that shall not go on for ever either
            for run in waiting(runs)[:1]:
                _recovered(run, crew, lean, code, unclaimed=True)


def _recovered(run: Run, crew: Crew, lean: bool, code: int, unclaimed: bool = False) -> bool:
    with suppress(RunError, OSError):
        return recover(run, crew.retries, lean=lean, why=_why(code, lean), unclaimed=unclaimed)
    return False


def _why(code: int, lean: bool) -> str:
    if lean:
        return "its worker was ended by the system for want of memory"
    return f"its worker was ended by signal {-code}" if code < 0 else f"its worker ended with exit code {code}"


def _dismiss(root: Path, names: Sequence[str] | None, workers: _Workers) -> None:
    """End the workers after their current steps, and leave the runs they were at paused."""
    ours = {process.pid for process in workers.processes.values()}
    going_on = [run for run in runs_in(root, names) if run.holder() in ours and run.busy()] if ours else []
    workers.leave.set()
    end = time.monotonic() + PATIENCE
    for process in workers.processes.values():
        process.join(max(end - time.monotonic(), 0))
        process.terminate()
        process.join()
    for run in going_on:
        with suppress(RunError):
            stop(run, "pause")


def _is_orphan(run: Run) -> bool:
    """Whether a run's process is gone, without a word."""
    with suppress(RunError, OSError):
        return run.state.status == "running" and not run.busy()
    return False


def _work(root: Path, names: Sequence[str] | None, device: str, crew: Crew, parent: int, leave: Event) -> None:
    """The worker's process: it goes on as long as its supervisor lives."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the supervisor decides
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if crew.log is not None:
        with crew.log.open("ab") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
    from sds3d.devices import default_threads
    from sds3d.jobs.worker import work

    work(
        root,
        names,
        device=device,
        threads=crew.threads or max(1, default_threads() // len(crew.devices)),
        retries=crew.retries,
        together=crew.together,
        idle=crew.idle,
        wanted=lambda: os.getppid() == parent and not leave.is_set(),
    )


def memory_kills() -> int:
    """How many processes the kernel has ended for want of memory, here and in this container; 0 if unknown."""
    total = 0
    for path, key in (("/proc/vmstat", "oom_kill"), ("/sys/fs/cgroup/memory.events", "oom_kill")):
        with suppress(OSError, ValueError):
            words = dict(line.split() for line in Path(path).read_text().splitlines() if len(line.split()) == 2)
            total += int(words.get(key, 0))
    return total


def lock_of(root: Path) -> Path:
    """The file that the supervisor of a folder holds."""
    return root / ".workers.lock"


_started: dict[Path, subprocess.Popen[bytes]] = {}


def ensure_workers(root: Path, arguments: Sequence[str] = ()) -> None:
    """See that somebody works off the queue of a folder, in a process that outlives this one (`sds3d worker`).

    arguments: its further options. Raises OSError when no process can be started.
    """
    root = root.resolve()
    before = _started.get(root)
    if (before is not None and before.poll() is None) or supervised(root):
        return
    with (root / ".workers.log").open("ab") as log:
        _started[root] = subprocess.Popen(
            [sys.executable, "-m", "sds3d", "worker", "--out", str(root), "--idle", str(IDLE), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def tend(root: Path, every: float = 10.0) -> None:
    """See to it, for ever, that queued runs and those that nobody drives any more have workers: for a thread."""
    while True:
        with suppress(OSError):
            runs = runs_in(root)
            if waiting(runs) or any(_is_orphan(run) for run in runs):
                ensure_workers(root)
        time.sleep(every)


def supervised(root: Path) -> bool:
    """Whether a supervisor of this machine works off the queue of a folder."""
    return is_held(lock_of(root))


def default_devices(workers: int = 0) -> list[str]:
    """A worker for each GPU, or so many in turns on the GPUs there are; on a CPU so many, or one."""
    drivers = ("/proc/driver/nvidia", "/dev/dxg", "/dev/kfd")  # NVIDIA's, Windows' for its Linux, AMD's
    if sys.platform == "linux" and not any(Path(driver).exists() for driver in drivers):
        return ["cpu"] * max(workers, 1)  # without the seconds that torch takes to say so
    import torch

    gpus = torch.cuda.device_count()
    return [f"cuda:{i % gpus}" for i in range(workers or gpus)] if gpus else ["cpu"] * max(workers, 1)
