"""A batch: the runs of a file of prompts, in one folder, and their progress.

A batch stores no state: it finds its runs by their configurations, so the same batch continues where it stopped.
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
from sds3d.run.config import new_run, total_steps
from sds3d.run.folder import Run, refuse_links

POLL = 0.5  # seconds
LOOKED_AT = 200
"""Number of waiting jobs that are read each time: half are the next ones, and half take turns among the others."""

Engine = Callable[[Path, Sequence[str]], Iterator[None]]
"""Processes the queued runs of a folder that have these names. Yields regularly; closing it pauses the runs."""


@dataclass(frozen=True)
class Job:
    """A run and the lines of the file that request it, in order. steps: of all its stages."""

    run: Run
    entries: tuple[Entry, ...]
    steps: int


@dataclass(frozen=True)
class Batch:
    """The jobs of a folder, in the order of their lines. shard: (i, n) if they are the i-th of n shards."""

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
    """Create the run folders of a file's entries, or of the i-th of n shards: every n-th run.

    report: receives the number of folders created so far, and the total. Raises RunError if a folder cannot be written.
    """
    index, count = shard
    jobs = []
    groups = same_runs(entries)[index - 1 :: count]
    for number, group in enumerate(groups):
        report(number, len(groups))
        config = group[0].config
        jobs.append(Job(new_run(root, config), tuple(group), total_steps(config)))
    return Batch(root, tuple(jobs), shard)


def carry_out(batch: Batch, engine: Engine) -> Generator[None]:
    """Carry out all unfinished runs, including failed ones. Yields regularly until none is active.

    Cancelled runs are skipped. Runs of other processes are waited for. Closing the generator pauses the active runs.
    """
    for job in batch.jobs:
        with suppress(RunError):  # a damaged state: the run is reported as failed
            if job.run.state.status != "cancelled":
                enqueue(job.run)
    while True:
        yield from engine(batch.root, batch.names)
        seen = [progress_of(job.run) for job in batch.jobs]
        if not any(one.active or one.status == "stopped" for one in seen):
            return
        yield
        time.sleep(POLL)


def clipped(text: str, most: int) -> str:
    """Return the text, cut to `most` characters."""
    return text if len(text) <= most else text[: most - 3] + "..."


def progress_of(run: Run) -> Progress:
    """Read the progress of a run; one with a damaged state or with links in its folder counts as failed."""
    try:
        refuse_links(run.folder)
        return progress(run)
    except RunError as error:
        return Progress("failed", 0, 0, error=str(error))


class Watch:
    """Progress of a batch, and the time it will take.

    seen: the last known progress of each job.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = jobs
        self.seen = [progress_of(job.run) for job in jobs]
        self._done_before, self._steps_before = self.counts["done"], self.steps
        self._began = 0.0  # when the first step or export was seen
        self._turn = 0

    def look(self, *, everywhere: bool = False) -> list[int]:
        """Read the progress of unfinished jobs. Return the numbers of those whose status has changed.

        everywhere: read all of them; otherwise only some of many waiting ones.
        """
        unfinished = [number for number, one in enumerate(self.seen) if one.status != "done"]
        if not everywhere:
            queued = [number for number in unfinished if self.seen[number].status == "queued"]
            turn = [queued[(self._turn + i) % len(queued)] for i in range(min(LOOKED_AT // 2, len(queued)))]
            skipped = set(queued[LOOKED_AT // 2 :]) - set(turn)
            unfinished = [number for number in unfinished if number not in skipped]
            self._turn += LOOKED_AT // 2
        changed = []
        for number in unfinished:
            before = self.seen[number]
            now = self.seen[number] = progress_of(self.jobs[number].run)
            if now.status != before.status:
                changed.append(number)
        if not self._began and (self.steps > self._steps_before or self.counts["exporting"]):
            self._began = time.monotonic()
        return changed

    @property
    def counts(self) -> Counter[str]:
        """Number of jobs by status."""
        return Counter(one.status for one in self.seen)

    @property
    def steps(self) -> int:
        """Steps done in all jobs. The export of each counts as one more, also where there are no others."""
        return sum(one.step + (one.status == "done") for one in self.seen)

    @property
    def total(self) -> int:
        """What `steps` is at the end if no further job fails; ended jobs count with the steps they did."""
        pairs = zip(self.jobs, self.seen, strict=True)
        left = (job.steps + 1 - one.step for job, one in pairs if one.active or one.status == "stopped")
        return self.steps + sum(left)

    @property
    def seconds_left(self) -> float:
        """Time left at the speed so far, exports included; before a job is done, at the speed of steps. 0: unknown."""
        if self.counts["done"] > self._done_before:
            rate = (self.steps - self._steps_before) / max(time.monotonic() - self._began, 0.1)
        else:
            rate = sum(1 / one.seconds_per_step for one in self.seen if one.seconds_per_step > 0)
        return (self.total - self.steps) / rate if rate > 0 else 0.0
