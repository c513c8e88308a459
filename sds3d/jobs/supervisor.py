"""Supervised worker processes: one per device, each in a fresh interpreter (spawn).

When a worker dies, killed or out of memory, its runs are requeued with their last checkpoints, up to a number of
retries, and a new worker is started. When the supervisor dies, its workers requeue their runs after the current step
and end. After a power failure, the next supervisor finds the runs that are "running" but not locked. This module
imports nothing heavy: the supervisor only waits.
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
from dataclasses import dataclass, field, replace
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path

from sds3d.files import RunError, open_plain
from sds3d.garbage import importing
from sds3d.jobs.queue import recover, rest, runs_in, stop, waiting
from sds3d.jobs.worker_settings import WorkerSettings
from sds3d.run.folder import Run
from sds3d.run.locks import hold, is_held

_SPAWN = multiprocessing.get_context("spawn")  # forked processes cannot use CUDA, and they inherit locks

POLL = 0.25  # seconds
LEFT_BEHIND = 3.0
"""Seconds between searches for runs whose process died."""
SPARE = 3
"""Additional retries for such runs, because something else may have ended their process."""
PATIENCE = 60.0
"""Seconds that a worker has to end after its current step, before it is terminated; an export takes some."""
IDLE = 600.0
"""Seconds that the studio's workers wait for another run with their priors loaded."""


@dataclass
class _Workers:
    """The worker processes by device.

    leave: set to ask them to end after the current step. kills: the last known number of processes that the kernel has
    killed because memory ran out.
    """

    leave: Event
    processes: dict[int, BaseProcess] = field(default_factory=dict)
    kills: int = 0


def supervise(root: Path, names: Sequence[str] | None = None, settings: WorkerSettings | None = None) -> Iterator[None]:
    """Process the queued runs of a folder, or those with these names, yielding every POLL seconds until none is left.

    Workers that wait for more runs (`settings.idle`) start at once: their imports take longer than all else before the
    first step. Closing the generator pauses the running runs with a checkpoint of their last step.
    Raises RunBusyError if another supervisor on this machine processes the same folder.
    """
    settings = settings or WorkerSettings()
    root.mkdir(parents=True, exist_ok=True)
    workers = _Workers(_SPAWN.Event(), kills=memory_kills())
    with ExitStack() as stack:
        if names is None:
            stack.enter_context(hold(lock_of(root), f"the queue of {root} is processed"))
        stack.callback(_stop_workers, root, names, workers)
        suspects: set[str] = set()
        looked = -LEFT_BEHIND
        early = settings.idle > 0
        while True:
            began = time.monotonic()
            _reap(root, names, workers, settings)
            if began - looked >= LEFT_BEHIND:
                suspects, looked = _recover_orphans(root, names, settings, suspects), began
            if early or waiting(runs_in(root, names)):
                _start_workers(root, names, workers, settings)
                early = False
            elif not workers.processes and not suspects:
                return
            yield
            rest(POLL, began)


def _recover_orphans(root: Path, names: Sequence[str] | None, settings: WorkerSettings, suspects: set[str]) -> set[str]:
    """Requeue runs that are "running" although their process died, as after a power failure.

    A run is requeued when it is found for the second time: a process that ends releases its run shortly before its exit
    code is known. Retries are limited, in case the run itself crashes the machine. Return the names found for the first
    time.
    """
    found = {run.folder.name: run for run in runs_in(root, names) if _is_orphan(run)}
    for name in found.keys() & suspects:
        with suppress(RunError, OSError):
            recover(found[name], settings.retries + SPARE)
    return found.keys() - suspects


def _start_workers(root: Path, names: Sequence[str] | None, workers: _Workers, settings: WorkerSettings) -> None:
    """Start a worker for each device that has none."""
    for index, device in enumerate(settings.devices):
        if index not in workers.processes:
            arguments = (root, names, device, settings, os.getpid(), workers.leave)
            process = _SPAWN.Process(target=_work, args=arguments, name=f"sds3d-worker-{index}", daemon=True)
            process.start()
            workers.processes[index] = process


def _reap(root: Path, names: Sequence[str] | None, workers: _Workers, settings: WorkerSettings) -> None:
    """Remove workers that ended, and requeue the runs of those that died."""
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
        taken = [_recovered(run, settings, lean, code) for run in runs]
        if not any(taken):  # it died before it took a run, loading the prior for example: limit these retries, too
            for run in waiting(runs)[:1]:
                _recovered(run, settings, lean, code, unclaimed=True)


def _recovered(run: Run, settings: WorkerSettings, lean: bool, code: int, unclaimed: bool = False) -> bool:
    with suppress(RunError, OSError):
        return recover(run, settings.retries, lean=lean, why=_why(code, lean), unclaimed=unclaimed)
    return False


def _why(code: int, lean: bool) -> str:
    if lean:
        return "its worker was killed by the system because memory ran out"
    return f"its worker was killed by signal {-code}" if code < 0 else f"its worker ended with exit code {code}"


def _stop_workers(root: Path, names: Sequence[str] | None, workers: _Workers) -> None:
    """End the workers after their current steps, and pause the runs they were driving."""
    ours = {process.pid for process in workers.processes.values()}
    driven = [run for run in runs_in(root, names) if run.holder() in ours and run.busy()] if ours else []
    workers.leave.set()
    end = time.monotonic() + PATIENCE
    for process in workers.processes.values():
        process.join(max(end - time.monotonic(), 0))
        process.terminate()
        process.join()
    for run in driven:
        with suppress(RunError):
            stop(run, "pause")


def _is_orphan(run: Run) -> bool:
    """Whether a run's process died without updating its state."""
    with suppress(RunError, OSError):
        return run.state.status == "running" and not run.busy()
    return False


def _work(
    root: Path, names: Sequence[str] | None, device: str, settings: WorkerSettings, parent: int, leave: Event
) -> None:
    """The worker's process. It ends when its supervisor dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the supervisor decides
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if settings.log is not None:
        with open_plain(settings.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND) as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
    with importing():
        from sds3d.devices import default_threads
        from sds3d.jobs.worker import work
        from sds3d.priors.loading import import_libraries

    import_libraries()  # now, since a studio's worker waits for its first run
    threads = settings.threads or max(1, default_threads() // len(settings.devices))
    work(root, names, replace(settings, threads=threads), device, lambda: os.getppid() == parent and not leave.is_set())


def memory_kills() -> int:
    """Return how many processes the kernel killed because memory ran out, here and in this container; 0: unknown."""
    total = 0
    for path, key in (("/proc/vmstat", "oom_kill"), ("/sys/fs/cgroup/memory.events", "oom_kill")):
        with suppress(OSError, ValueError):
            words = dict(line.split() for line in Path(path).read_text().splitlines() if len(line.split()) == 2)
            total += int(words.get(key, 0))
    return total


def lock_of(root: Path) -> Path:
    """Return the lock file of a folder's supervisor."""
    return root / ".workers.lock"


_started: dict[Path, subprocess.Popen[bytes]] = {}


def ensure_workers(root: Path, arguments: Sequence[str] = ()) -> None:
    """Ensure that a process runs `sds3d worker` for a folder. It outlives this process.

    arguments: more options of the command. Raises OSError if no process can be started.
    """
    root = root.resolve()
    before = _started.get(root)
    if (before is not None and before.poll() is None) or supervised(root):
        return
    with open_plain(root / ".workers.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND) as log:
        _started[root] = subprocess.Popen(
            [sys.executable, "-m", "sds3d", "worker", "--out", str(root), "--idle", str(IDLE), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def keep_workers(root: Path, every: float = 10.0) -> None:
    """Ensure workers for queued runs and runs whose process died, again and again; meant for a thread."""
    while True:
        with suppress(OSError):
            runs = runs_in(root)
            if waiting(runs) or any(_is_orphan(run) for run in runs):
                ensure_workers(root)
        time.sleep(every)


def supervised(root: Path) -> bool:
    """Whether a supervisor on this machine processes the queue of a folder."""
    return is_held(lock_of(root))


def default_devices(workers: int = 0) -> list[str]:
    """Return a device per worker: each GPU once, or `workers` devices over all GPUs in turn; without a GPU, the CPU."""
    drivers = ("/proc/driver/nvidia", "/dev/dxg", "/dev/kfd")  # NVIDIA, Windows' subsystem for Linux, AMD
    if sys.platform == "linux" and not any(Path(driver).exists() for driver in drivers):
        return ["cpu"] * max(workers, 1)  # saves the seconds of importing torch
    import torch

    gpus = torch.cuda.device_count()
    return [f"cuda:{i % gpus}" for i in range(workers or gpus)] if gpus else ["cpu"] * max(workers, 1)
