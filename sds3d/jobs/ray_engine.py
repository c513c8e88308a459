"""A queue processed by a Ray cluster: one actor per device, which keeps its prior loaded.

Run folders are on a file system that all nodes share, and remain the only state. The driver assigns runs to actors, one
call per actor at a time. When an actor or a node dies, its runs are requeued with their last checkpoints. Nodes that
join get actors.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from sds3d.devices import default_threads
from sds3d.extras import install_command
from sds3d.files import RunError, open_plain
from sds3d.jobs.queue import progress, recover, rest, runs_in, stop, waiting
from sds3d.jobs.supervisor import SPARE
from sds3d.jobs.worker import AHEAD, Worker, next_group
from sds3d.jobs.worker_settings import WorkerSettings
from sds3d.run.config import RunConfig
from sds3d.run.folder import Run

POLL = 0.25  # seconds
NODES_EVERY = 2.0
"""Seconds between queries of the cluster's nodes."""
SHARED = 10.0
"""Seconds until a node sees on a shared file system what another has written."""
STARTS = 3
"""Number of failed starts of an actor after which its place is given up."""
CPUS = 8
"""CPUs of an actor without a GPU if threads are not set; more gain nothing."""


@dataclass(frozen=True)
class Place:
    """A place for an actor on a node: a GPU, or some CPUs. number: its index on the node."""

    node: str
    address: str
    number: int
    gpu: bool
    cpus: int

    @property
    def resources(self) -> dict[str, float]:
        """The resources that Ray reserves."""
        return {"num_gpus": 1.0, "num_cpus": float(self.cpus)} if self.gpu else {"num_cpus": float(self.cpus)}


def places(nodes: Sequence[dict[str, Any]], threads: int = 0) -> list[Place]:
    """List the places on live nodes of `ray.nodes()`: one per GPU or, in a cluster without GPUs, on the CPUs.

    threads: CPUs per actor; 0: a few.
    """
    alive = [(node, node["Resources"]) for node in nodes if node["Alive"]]
    gpu = any(resources.get("GPU", 0) >= 1 for _, resources in alive)
    found = []
    for node, resources in alive:
        there = int(resources.get("CPU", 0))
        cpus = min(threads, there) if gpu else min(threads or CPUS, there)
        count = int(resources.get("GPU", 0)) if gpu else there // max(cpus, 1)
        found += [Place(node["NodeID"], node["NodeManagerAddress"], i, gpu, cpus) for i in range(count)]
    return found


class RayWorker:
    """The actor: a worker with its prior in memory."""

    def ready(self, root: str, name: str, folder: str, device: str, threads: int, retries: int) -> None:
        """Prepare for runs under `root`, such as `name`. Relative paths in settings start at `folder`.

        threads: upper bound; 0: the default. Raises RunError if the run is not visible on this node.
        """
        end = time.monotonic() + SHARED
        while not Run(Path(root, name)).config_path.exists():
            if time.monotonic() > end:
                raise RunError(
                    f"the Ray node {os.uname().nodename} cannot see {root}; "
                    "choose an --out on a file system that all nodes mount at the same path"
                )
            time.sleep(0.5)
        with suppress(OSError):
            os.chdir(folder)
        self.root, self.worker = Path(root), Worker(device, min(threads, default_threads()), retries)

    def carry_out(self, names: Sequence[str], upcoming: Sequence[str]) -> bool:
        """See `Worker.carry_out`. Return whether the GPU failed, so that a new actor is needed."""
        self.worker.carry_out(runs_in(self.root, names), upcoming=runs_in(self.root, upcoming))
        return self.worker.lost


@dataclass
class _Actor:
    """An actor, its pending call, if any, and the runs assigned to it."""

    handle: Any
    answer: Any
    is_ready: bool = False
    runs: list[Run] = field(default_factory=list)


def supervise(
    root: Path, names: Sequence[str], settings: WorkerSettings, address: str = "", most: int = 0
) -> Iterator[None]:
    """Like `sds3d.jobs.supervisor.supervise`, on the cluster at this address; "": a local cluster, started if needed.

    settings: only threads, retries and together are used. most: maximum number of actors; 0: one per device.
    Raises RunError if Ray is missing, does not answer, or has a node that cannot drive runs.
    """
    root = root.resolve()
    for run in runs_in(root, names):
        with suppress(RunError):
            recover(run, settings.retries + SPARE)
    if not waiting(runs_in(root, names)):
        return
    # Ray prints about its nodes would break the live table; what happens to runs is shown there.
    plain = open_plain(root / ".ray.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with TextIOWrapper(plain, "utf-8", write_through=True) as log, redirect_stdout(log), _connected(address):
        actors = _Actors(root, names, settings, most)
        try:
            while True:
                began = time.monotonic()
                actors.collect()
                queue = [run for run in waiting(runs_in(root, names)) if run.folder.name not in actors.taken]
                if not (queue or actors.taken):
                    return
                actors.start(len(queue))
                actors.assign(queue)
                yield
                rest(POLL, began)
        finally:
            actors.end()


class _Actors:
    """The actors by place. orphans: runs of actors that died, until they are requeued; with the reason."""

    def __init__(self, root: Path, names: Sequence[str], settings: WorkerSettings, most: int) -> None:
        self.root, self.names, self.settings, self.most = root, names, settings, most
        self.actors: dict[Place, _Actor] = {}
        self.orphans: dict[str, tuple[Run, str, bool]] = {}
        self._configs: dict[str, RunConfig | None] = {}
        self._places: list[Place] = []
        self._looked = 0.0
        self._failed_starts: Counter[Place] = Counter()

    @property
    def taken(self) -> set[str]:
        """Names of runs that are assigned, or belonged to actors that died."""
        return {run.folder.name for actor in self.actors.values() for run in actor.runs} | self.orphans.keys()

    def collect(self) -> None:
        """Process calls that ended and actors that died. Raises RunError if a node cannot drive runs."""
        import ray
        from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

        asked = {actor.answer: place for place, actor in self.actors.items() if actor.answer is not None}
        answered = ray.wait(list(asked), num_returns=len(asked), timeout=0)[0] if asked else []
        for answer in answered:
            place = asked[answer]
            actor = self.actors[place]
            try:
                lost = ray.get(answer)
            except RayError as error:
                if not actor.is_ready:
                    self._note_failed_start(place, error)
                memory = isinstance(error, OutOfMemoryError)
                why = "ran out of memory" if memory else "failed" if isinstance(error, RayTaskError) else "was lost"
                for run in actor.runs:
                    self.orphans[run.folder.name] = run, f"its Ray worker on {place.address} {why}", memory
                ray.kill(self.actors.pop(place).handle)
            else:
                actor.is_ready, actor.answer, actor.runs = True, None, []
                if lost:
                    ray.kill(self.actors.pop(place).handle)
        for name, (run, why, memory) in list(self.orphans.items()):
            with suppress(RunError):
                recover(run, self.settings.retries, lean=memory, why=why, unclaimed=True)
                if run.state.status == "running":
                    continue  # for now, a process on a lost node still holds it
            del self.orphans[name]

    def _note_failed_start(self, place: Place, error: Exception) -> None:
        from ray.exceptions import ActorUnschedulableError, RayTaskError

        if isinstance(error, RayTaskError):
            raise RunError(str(error.cause))
        self._failed_starts[place] += not isinstance(error, ActorUnschedulableError)  # that means a node that left
        if self._places and all(self._failed_starts[place] >= STARTS for place in self._places):
            raise RunError(f"no Ray node can start a worker: {_last_line(error)}")

    def start(self, queued: int) -> None:
        """Start actors at free places, but not more than there are queued runs."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        remote_worker: Any = ray.remote(RayWorker)
        if time.monotonic() - self._looked > NODES_EVERY:
            self._places, self._looked = places(ray.nodes(), self.settings.threads), time.monotonic()
        for place in self._places:
            idle = sum(not actor.runs for actor in self.actors.values())
            if idle >= queued or (self.most and len(self.actors) >= self.most):
                return
            if place in self.actors or self._failed_starts[place] >= STARTS:
                continue
            here = NodeAffinitySchedulingStrategy(place.node, soft=False)
            handle = remote_worker.options(scheduling_strategy=here, max_restarts=0, **place.resources).remote()
            device = "cuda" if place.gpu else "cpu"
            how = str(self.root), self.names[0], str(Path.cwd()), device, place.cpus, self.settings.retries
            self.actors[place] = _Actor(handle, handle.ready.remote(*how))

    def assign(self, queue: Sequence[Run]) -> None:
        """Assign queued runs to actors that are ready and idle."""
        for actor in self.actors.values():
            if queue and actor.is_ready and actor.answer is None:
                actor.runs = next_group(queue, self.settings.together, self._configs)
                queue = [run for run in queue if run not in actor.runs]
                mine, upcoming = ([run.folder.name for run in runs] for runs in (actor.runs, queue[:AHEAD]))
                actor.answer = actor.handle.carry_out.remote(mine, upcoming)

    def end(self) -> None:
        """Pause the running runs, so that they keep their last step, and end the actors."""
        import ray

        busy = [run for actor in self.actors.values() for run in actor.runs]
        for run in busy:
            with suppress(RunError):
                stop(run, "pause")
        end = time.monotonic() + 60
        while time.monotonic() < end and any(_running(run) for run in busy):
            time.sleep(POLL)
        for actor in self.actors.values():
            ray.kill(actor.handle)


def _running(run: Run) -> bool:
    with suppress(RunError):
        return progress(run).status in ("starting", "running", "exporting")
    return False


@contextmanager
def _connected(address: str) -> Iterator[None]:
    """Connect to a cluster without output from Ray. An existing connection is used and kept."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # report no usage statistics
    try:
        import ray
    except ImportError:
        raise RunError(f"Ray is not installed: {install_command('ray')}") from None
    if ray.is_initialized():
        yield
        return
    ended = signal.getsignal(signal.SIGTERM)
    try:
        _check_address(address)
        ray.init(address=address or None, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        raise RunError(f"no Ray cluster answers at {address or 'this machine'}: {_last_line(error)}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, ended)  # undo Ray's handler, which would end the process silently
    try:
        yield
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Raise OSError if nothing listens at HOST:PORT; Ray itself would retry for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
