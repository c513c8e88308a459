"""A worker: it loads its prior once and works off a queue of run folders on one device."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from sds3d.config import ConfigError
from sds3d.devices import pick_device, set_threads
from sds3d.jobs.queue import rest, runs_in, waiting
from sds3d.jobs.together import drive_together
from sds3d.priors.base import Prior, PriorConfig
from sds3d.run.config import RunConfig, read_config
from sds3d.run.drive import drive, prior_settings
from sds3d.run.folder import Run, RunBusyError

logger = logging.getLogger(__name__)

AHEAD = 8
"""Waiting runs whose texts are embedded with those of the first: text encoders are loaded once for all of them."""
POLL = 0.2  # seconds
ASIDE = 5.0  # seconds


class Worker:
    """Carries out runs on one device, one prior in memory.

    retries: how often a run is tried again that lacked memory, then with less, or whose GPU failed. threads: CPU
    threads, 0 for the default. lost: whether the GPU failed, so that this process can carry out nothing more.
    """

    def __init__(self, device: str = "", threads: int = 0, retries: int = 2) -> None:
        self.device, self.threads, self.retries = device, threads, retries
        self.lost = False
        self._prior: tuple[PriorConfig, Prior] | None = None

    def carry_out(
        self, runs: Sequence[Run], wanted: Callable[[], bool] = lambda: True, upcoming: Sequence[Run] = ()
    ) -> None:
        """Drive queued runs of equal settings to their ends, together if they are several.

        A run's errors end in its state and are not raised. wanted: asked at each step; once it says no, runs are put
        back into the queue with a checkpoint. upcoming: runs whose texts are embedded while the text encoders are here.
        """
        prior: Prior | None = None
        with suppress(Exception):  # what is wrong with its prior or its texts, the run says in its own state and log
            prior = self._load(runs)
            self._embed([*runs, *upcoming][: max(AHEAD, len(runs))])
        if prior is None or len(runs) == 1:
            for run in runs:
                self._drive(run, prior, wanted)
        else:
            # The joint calls are made by this thread, and each thread has a number of its own.
            set_threads(runs[0].state.threads or self.threads)
            drive_together(prior, [lambda shared, run=run: self._drive(run, shared, wanted) for run in runs])

    def _embed(self, runs: Sequence[Run]) -> None:
        if self._prior is None or len(runs) < 2:
            return
        settings, prior = self._prior
        configs = [read_config(run) for run in runs]
        texts = [c.guidance.texts(c.prompt, c.prompts).all() for c in configs if c.prior == settings]
        prior.encode_text(list(dict.fromkeys(text for several in texts for text in several)))

    def _load(self, runs: Sequence[Run]) -> Prior:
        settings = prior_settings(read_config(runs[0]), runs[0].state.lean)
        if self._prior is None or self._prior[0] != settings:
            self._prior = None  # two of them might not fit
            gc.collect()
            self._prior = settings, settings.load(pick_device(self.device))
        return self._prior[1]

    def _drive(self, run: Run, prior: Prior | None, wanted: Callable[[], bool]) -> None:
        try:
            # A run goes on with the threads it began with, which its bits depend on.
            threads = run.state.threads or self.threads
            steps = drive(run, device=self.device, threads=threads, prior=prior, claim=True, closed="queued")
            for _ in steps:
                if not wanted():
                    steps.close()  # type: ignore[attr-defined]
                    return
        except RunBusyError:
            return  # somebody else was faster
        except Exception as error:
            logger.warning("%s: %s", run.folder.name, error)
            if lacks_memory(error):
                self._prior = None
                self._again(run, lean=True)
            elif device_failed(error):
                self.lost = True
                self._again(run, lean=False)
        if torch.cuda.is_available() and not self.lost:
            torch.cuda.empty_cache()

    def _again(self, run: Run, lean: bool) -> None:
        with suppress(RunBusyError, OSError), run.locked():
            state = run.state
            if state.status == "failed" and state.attempts < self.retries and not (lean and state.lean):
                run.log("once more, with less memory" if lean else "once more, from its last checkpoint")
                run.update(status="queued", attempts=state.attempts + 1, lean=lean or state.lean, error="")


def lacks_memory(error: BaseException) -> bool:
    """Whether an error is one of memory: Python's, CUDA's or the CPU allocator's."""
    words = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in words or "can't allocate memory" in words


def device_failed(error: BaseException) -> bool:
    """Whether CUDA failed, after which each further call of the process is likely to fail, too."""
    return "CUDA error" in str(error) and not lacks_memory(error)


def work(
    root: Path,
    names: Sequence[str] | None = None,
    *,
    device: str = "",
    threads: int = 0,
    retries: int = 2,
    together: int = 1,
    idle: float = 0.0,
    wanted: Callable[[], bool] = lambda: True,
) -> None:
    """Work off the queued runs of a folder, or those of these names; returns when none has come for `idle` seconds.

    It returns earlier when the GPU failed: what waits needs another process then. together: how many runs of equal
    settings are optimised together. wanted: see `Worker.carry_out`.
    """
    worker, configs = Worker(device, threads, retries), {}
    since = time.monotonic()
    aside: dict[str, float] = {}  # until when runs are left alone that could not be taken up
    while wanted():
        began = time.monotonic()
        queue = [run for run in waiting(runs_in(root, names)) if aside.get(run.folder.name, 0.0) <= began]
        if queue:
            group = next_group(queue, together, configs)
            worker.carry_out(group, wanted, [run for run in queue[:AHEAD] if run not in group])
            if worker.lost:
                return
            since = time.monotonic()
            # Held by somebody, an export for instance, or the disk is full: others come first meanwhile.
            aside |= {run.folder.name: since + ASIDE for run in waiting(group)}
        elif any(until > began for until in aside.values()):
            rest(POLL, began)
        elif time.monotonic() - since >= idle:
            return
        else:
            rest(POLL, began)


def next_group(queue: Sequence[Run], most: int, configs: dict[str, RunConfig | None]) -> list[Run]:
    """The first waiting run and, up to `most` in all, those behind it that differ in prompt and seed alone.

    configs: configurations read so far, by folder name. Runs that go on with less memory are carried out alone.
    """
    first, *others = queue
    if most <= 1 or first.state.lean:
        return [first]

    def settings(run: Run) -> RunConfig | None:
        name = run.folder.name
        if name not in configs:
            try:
                configs[name] = read_config(run).model_copy(update={"prompt": "", "seed": 0})
            except ConfigError:
                configs[name] = None
        return configs[name]

    wanted = settings(first)
    if wanted is None:
        return [first]
    group = [first]
    for run in others:
        if len(group) == most:
            break
        if settings(run) == wanted and not run.state.lean:
            group.append(run)
    return group
