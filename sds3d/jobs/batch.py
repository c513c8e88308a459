"""A batch: the runs that a file of prompts asks for, in one folder, and how far they are.

It has no state of its own: runs are found again by their configurations, so the same batch goes on where it stopped.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sds3d.files import RunError
from sds3d.jobs.prompts_file import Entry, same_runs
from sds3d.jobs.queue import Progress, enqueue, progress
from sds3d.run.config import RunConfig, new_run, total_steps
from sds3d.run.folder import Run

POLL = 0.5  # seconds
LOOKED_AT = 200
"""Waiting jobs that are looked at each time, of thousands: half of them the next ones, half in turns."""

Engine = Callable[[Path, Sequence[str]], Iterator[None]]
"""Works off those queued runs of a folder that have these names, yielding now and then; closing it pauses them."""


@dataclass(frozen=True)
class Job:
    """A run and the lines that ask for it, the first of them first. steps: in all."""

    run: Run
    entries: tuple[Entry, ...]
    steps: int


@dataclass(frozen=True)
class Batch:
    """The jobs of a folder, in the order of their lines. shard: (i, n) when they are the i-th of n shards."""

    root: Path
    jobs: tuple[Job, ...]
    shard: tuple[int, int] = (1, 1)

    @property
    def names(self) -> list[str]:
        """Names of the run folders."""
        return [job.run.folder.name for job in self.jobs]


def make_batch(
    root: Path,
    entries: Sequence[Entry],
    shard: tuple[int, int] = (1, 1),
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Batch:
    """The runs of a file's entries, or of the i-th of n shards: every n-th run. Makes their folders.

    report: takes how many of them are there, and of how many. Raises RunError when a folder cannot be written.
    """
    index, count = shard
    jobs = []
    groups = same_runs(entries)[index - 1 :: count]
    for number, group in enumerate(groups):
        report(number, len(groups))
        config = group[0].config
        jobs.append(Job(new_run(root, config), tuple(group), _steps(config)))
    return Batch(root, tuple(jobs), shard)


def _steps(config: RunConfig) -> int:
    return total_steps(config) if config.stages else config.steps


def carry_out(batch: Batch, engine: Engine) -> Generator[None]:
    """Carry out all runs that are not done, those too that failed before; yields now and then until none goes on.

    Runs that somebody cancelled are left alone, and those that another process works at are waited for. Whoever stops
    iterating pauses what is going on.
    """
    for job in batch.jobs:
        with suppress(RunError):  # a damaged state: that run is told as failed
            if job.run.state.status != "cancelled":
                enqueue(job.run)
    while True:
        yield from engine(batch.root, batch.names)
        seen = [look(job.run) for job in batch.jobs]
        if not any(one.active or one.status == "stopped" for one in seen):
            return
        yield
        time.sleep(POLL)


def clipped(text: str, most: int) -> str:
    """The text, cut where it is longer."""
    return text if len(text) <= most else text[: most - 3] + "..."


def look(run: Run) -> Progress:
    """How far a run is; one with a damaged state counts as failed."""
    try:
        return progress(run)
    except RunError as error:
        return Progress("failed", 0, 0, error=str(error))


class Watch:
    """How far a batch is, and how long it will take.

    seen: what was seen last of each job.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = jobs
        self.seen = [look(job.run) for job in jobs]
        self._done_before, self._steps_before = self.counts["done"], self.steps
        self._began = 0.0  # when the first step was seen
        self._turn = 0

    def look(self, *, everywhere: bool = False) -> list[int]:
        """Look at the jobs that are not done; returns the numbers of those whose status has changed.

        everywhere: at all of them, where otherwise of many that wait some are looked at.
        """
        unfinished = [number for number, one in enumerate(self.seen) if one.status != "done"]
        if not everywhere:
            queued = [number for number in unfinished if self.seen[number].status == "queued"]
            turn = [queued[(self._turn + i) % len(queued)] for i in range(min(LOOKED_AT // 2, len(queued)))]
            passed_over = set(queued[LOOKED_AT // 2 :]) - set(turn)
            unfinished = [number for number in unfinished if number not in passed_over]
            self._turn += LOOKED_AT // 2
        changed = []
        for number in unfinished:
            before = self.seen[number]
            now = self.seen[number] = look(self.jobs[number].run)
            if now.status != before.status:
                changed.append(number)
        if not self._began and self.steps > self._steps_before:
            self._began = time.monotonic()
        return changed

    @property
    def counts(self) -> Counter[str]:
        """How many jobs have each status."""
        return Counter(one.status for one in self.seen)

    @property
    def steps(self) -> int:
        """Steps done, of all jobs."""
        return sum(one.step for one in self.seen)

    @property
    def total(self) -> int:
        """Steps that will have been done when no job fails further: those of ended jobs count as they are."""
        pairs = zip(self.jobs, self.seen, strict=True)
        return sum(job.steps if one.active or one.status == "stopped" else one.step for job, one in pairs)

    @property
    def seconds_left(self) -> float:
        """At the speed so far, exports included, once a job is done; before, at that of the steps. 0 if unknown."""
        if self.counts["done"] > self._done_before:
            rate = (self.steps - self._steps_before) / max(time.monotonic() - self._began, 0.1)
        else:
            rate = sum(1 / one.seconds_per_step for one in self.seen if one.seconds_per_step > 0)
        return (self.total - self.steps) / rate if rate > 0 else 0.0
