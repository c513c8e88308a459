"""A queue worked off by a Ray cluster: on each device an actor that keeps its prior loaded.

Run folders lie on a file system that all nodes share, and remain the only state. The driver hands out runs, one call
an actor at a time. An actor or a node that dies takes nothing along: its runs go back into the queue with their last
checkpoints. Nodes that join get actors.
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
from pathlib import Path
from typing import Any

from sds3d.devices import default_threads
from sds3d.extras import install_command
from sds3d.files import RunError
from sds3d.jobs.queue import progress, recover, rest, runs_in, stop, waiting
from sds3d.jobs.supervisor import SPARE, Crew
from sds3d.jobs.worker import AHEAD, Worker, next_group
from sds3d.run.config import RunConfig
from sds3d.run.folder import Run

POLL = 0.25  # seconds
NODES_EVERY = 2.0
"""Seconds between looks at the cluster's nodes."""
SHARED = 10.0
"""Seconds after which a node of a shared file system sees what another has written."""
STARTS = 3
"""How often a place may fail to start an actor before it is given up."""
CPUS = 8
"""CPUs of an actor without a GPU, when threads are not named: more gain nothing."""


@dataclass(frozen=True)
class Place:
    """Room for an actor on a node: a GPU, or some CPUs. number: which of the node's."""

    node: str
    address: str
    number: int
    gpu: bool
    cpus: int

    @property
    def resources(self) -> dict[str, float]:
        """What Ray shall set aside."""
        return {"num_gpus": 1.0, "num_cpus": float(self.cpus)} if self.gpu else {"num_cpus": float(self.cpus)}


def places(nodes: Sequence[dict[str, Any]], threads: int = 0) -> list[Place]:
    """Room on the nodes that live, as `ray.nodes()` tells them: on each GPU or, in a cluster without any, on the CPUs.

    threads: CPUs of an actor, 0 for a few.
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
        """Prepare for runs under `root`, of which `name` is one; relative paths of settings begin at `folder`.

        threads: at most; 0 for the default.

        Raises RunError when that run is not seen from here.
        """
        end = time.monotonic() + SHARED
        while not Run(Path(root, name)).config_path.exists():
            if time.monotonic() > end:
                raise RunError(
                    f"the Ray node {os.uname().nodename} does not see {root}; "
                    "put --out on a file system that all nodes share, at the same path"
                )
            time.sleep(0.5)
        with suppress(OSError):
            os.chdir(folder)
        self.root, self.worker = Path(root), Worker(device, min(threads, default_threads()), retries)

    def carry_out(self, names: Sequence[str], upcoming: Sequence[str]) -> bool:
        """See `Worker.carry_out`. Returns whether the GPU failed, so that another actor is needed."""
        self.worker.carry_out(runs_in(self.root, names), upcoming=runs_in(self.root, upcoming))
        return self.worker.lost


@dataclass
class _Hand:
    """An actor, what it was asked last and not yet answered, and the runs it has."""

    actor: Any
    answer: Any
    is_ready: bool = False
    runs: list[Run] = field(default_factory=list)


def supervise(root: Path, names: Sequence[str], crew: Crew, address: str = "", most: int = 0) -> Iterator[None]:
    """As `sds3d.jobs.supervisor.supervise`, on the cluster at this address, or on a local one that is there or started.

    crew: threads, retries and together count. most: actors at once, 0 for as many as there are devices.
    Raises RunError when Ray is missing, does not answer, or has a node that cannot do the work.
    """
    root = root.resolve()
    for run in runs_in(root, names):
        with suppress(RunError):
            recover(run, crew.retries + SPARE)
    if not waiting(runs_in(root, names)):
        return
    # What Ray says about its nodes would tear what is shown; we say ourselves what becomes of runs.
    with (root / ".ray.log").open("a", encoding="utf-8") as log, redirect_stdout(log), _connected(address):
        hands = _Hands(root, names, crew, most)
        try:
            while True:
                began = time.monotonic()
                hands.collect()
                queue = [run for run in waiting(runs_in(root, names)) if run.folder.name not in hands.taken]
                if not (queue or hands.taken):
                    return
                hands.hire(len(queue))
                hands.hand_out(queue)
                yield
                rest(POLL, began)
        finally:
            hands.dismiss()


class _Hands:
    """The actors at work. orphans: runs of actors that died, while somebody still holds them; with the reason why."""

    def __init__(self, root: Path, names: Sequence[str], crew: Crew, most: int) -> None:
        self.root, self.names, self.crew, self.most = root, names, crew, most
        self.hands: dict[Place, _Hand] = {}
        self.orphans: dict[str, tuple[Run, str, bool]] = {}
        self._configs: dict[str, RunConfig | None] = {}
        self._places: list[Place] = []
        self._looked = 0.0
        self._failed_starts: Counter[Place] = Counter()

    @property
    def taken(self) -> set[str]:
        """Names of runs that have been handed out, or belong to actors that died."""
        return {run.folder.name for hand in self.hands.values() for run in hand.runs} | self.orphans.keys()

    def collect(self) -> None:
        """Take note of calls that ended and of actors that died. Raises RunError when a node cannot do the work."""
        import ray
        from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

        asked = {hand.answer: place for place, hand in self.hands.items() if hand.answer is not None}
        answered = ray.wait(list(asked), num_returns=len(asked), timeout=0)[0] if asked else []
        for answer in answered:
            place = asked[answer]
            hand = self.hands[place]
            try:
                lost = ray.get(answer)
            except RayError as error:
                if not hand.is_ready:
                    self._note_failed_start(place, error)
                memory = isinstance(error, OutOfMemoryError)
                why = "lacked memory" if memory else "failed" if isinstance(error, RayTaskError) else "was lost"
                for run in hand.runs:
                    self.orphans[run.folder.name] = run, f"its Ray worker on {place.address} {why}", memory
                ray.kill(self.hands.pop(place).actor)
            else:
                hand.is_ready, hand.answer, hand.runs = True, None, []
                if lost:
                    ray.kill(self.hands.pop(place).actor)
        for name, (run, why, memory) in list(self.orphans.items()):
            with suppress(RunError):
                recover(run, self.crew.retries, lean=memory, why=why, unclaimed=True)
                if run.state.status == "running":
                    continue  # a process on a node that is lost still holds it, for now
            del self.orphans[name]

    def _note_failed_start(self, place: Place, error: Exception) -> None:
        from ray.exceptions import ActorUnschedulableError, RayTaskError

        if isinstance(error, RayTaskError):
            raise RunError(str(error.cause))
        self._failed_starts[place] += not isinstance(error, ActorUnschedulableError)  # that is a node that left
        if self._places and all(self._failed_starts[place] >= STARTS for place in self._places):
            raise RunError(f"no Ray node can start a worker: {_last_line(error)}")

    def hire(self, queued: int) -> None:
        """Start actors where there are none, not more than there is work for."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        actors: Any = ray.remote(RayWorker)
        if time.monotonic() - self._looked > NODES_EVERY:
            self._places, self._looked = places(ray.nodes(), self.crew.threads), time.monotonic()
        for place in self._places:
            idle = sum(not hand.runs for hand in self.hands.values())
            if idle >= queued or (self.most and len(self.hands) >= self.most):
                return
            if place in self.hands or self._failed_starts[place] >= STARTS:
                continue
            here = NodeAffinitySchedulingStrategy(place.node, soft=False)
            actor = actors.options(scheduling_strategy=here, max_restarts=0, **place.resources).remote()
            device = "cuda" if place.gpu else "cpu"
            how = str(self.root), self.names[0], str(Path.cwd()), device, place.cpus, self.crew.retries
            self.hands[place] = _Hand(actor, actor.ready.remote(*how))

    def hand_out(self, queue: Sequence[Run]) -> None:
        """Give the runs that wait to actors that are ready and have none."""
        for hand in self.hands.values():
            if queue and hand.is_ready and hand.answer is None:
                hand.runs = next_group(queue, self.crew.together, self._configs)
                queue = [run for run in queue if run not in hand.runs]
                mine, upcoming = ([run.folder.name for run in runs] for runs in (hand.runs, queue[:AHEAD]))
                hand.answer = hand.actor.carry_out.remote(mine, upcoming)

    def dismiss(self) -> None:
        """Pause what is going on, so that it keeps its last step, and end the actors."""
        import ray

        busy = [run for hand in self.hands.values() for run in hand.runs]
        for run in busy:
            with suppress(RunError):
                stop(run, "pause")
        end = time.monotonic() + 60
        while time.monotonic() < end and any(_running(run) for run in busy):
            time.sleep(POLL)
        for hand in self.hands.values():
            ray.kill(hand.actor)


def _running(run: Run) -> bool:
    with suppress(RunError):
        return progress(run).status in ("starting", "running", "exporting")
    return False


@contextmanager
def _connected(address: str) -> Iterator[None]:
    """Connected to a cluster, quietly; a connection that is there already is used and kept."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing leaves this machine unasked
    try:
        import ray
    except ImportError:
        raise RunError(f"Ray is not installed: {install_command('ray')}") from None
    if ray.is_initialized():
        yield
        return
    ended = signal.getsignal(signal.SIGTERM)
    try:
        _knock(address)
        ray.init(address=address or None, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        raise RunError(f"no Ray cluster answers at {address or 'this machine'}: {_last_line(error)}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, ended)  # Ray would end the process without a word
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raises OSError when nobody is at HOST:PORT; Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
