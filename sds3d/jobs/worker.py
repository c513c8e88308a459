"""A worker: loads its priors once and processes a queue of run folders on one device."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from sds3d.config import ConfigError
from sds3d.devices import pick_device, set_threads
from sds3d.files import lacks_memory
from sds3d.jobs.queue import rest, runs_in, waiting
from sds3d.jobs.together import drive_together
from sds3d.jobs.worker_settings import WorkerSettings
from sds3d.priors.base import Prior, PriorConfig
from sds3d.run.config import RunConfig, read_config, stage_at, stage_config
from sds3d.run.drive import Load, Priors, drive, prior_settings
from sds3d.run.folder import Run
from sds3d.run.locks import RunBusyError

logger = logging.getLogger(__name__)

AHEAD = 8
"""Number of runs whose texts are embedded at once, so that the text encoders are loaded only once for them."""
POLL = 0.2  # seconds
ASIDE = 5.0  # seconds for which a run that could not be driven is skipped


class Worker:
    """Drives runs on one device, with their priors in memory.

    threads: CPU threads; 0: the default. retries: how often a run is retried after it ran out of memory (then with less
    memory) or after the GPU failed. lost: whether the GPU failed, so that this process cannot drive further runs.
    """

    def __init__(self, device: str = "", threads: int = 0, retries: int = 2) -> None:
        self.device, self.threads, self.retries = device, threads, retries
        self.lost = False
        self._priors: Priors | None = None

    def carry_out(
        self, runs: Sequence[Run], wanted: Callable[[], bool] = lambda: True, upcoming: Sequence[Run] = ()
    ) -> None:
        """Drive queued runs with equal settings to their ends; several runs are driven together.

        Errors of a run are written into its state, not raised. wanted: checked at each step; when it returns False, the
        runs are requeued with a checkpoint. upcoming: runs whose texts are embedded while the text encoders are loaded.
        """
        with suppress(Exception):  # problems with the priors or the texts are reported when the run is driven
            self._embed([*runs, *upcoming][: max(AHEAD, len(runs))])
        if len(runs) == 1:
            self._drive(runs[0], self._load, wanted)
        else:
            # This thread makes the joint calls, and the number of threads is set per thread.
            set_threads(runs[0].machine.threads or self.threads)
            drive_together(self._load, [lambda load, run=run: self._drive(run, load, wanted) for run in runs])

    def _embed(self, runs: Sequence[Run]) -> None:
        """Load the priors of the first run's present stage, and embed the texts that all runs ask them for."""
        if len(runs) < 2:
            return
        configs = [read_config(run) for run in runs]
        stages = [stage_config(c, stage_at(c, run.state.step)) for c, run in zip(configs, runs, strict=True)]
        wanted = prior_settings(stages[0], runs[0].state.lean)
        for settings, prior in zip(wanted, self._load(wanted), strict=True):
            texts = [
                text
                for stage in stages
                for teacher in stage.all_teachers
                if teacher.prior == settings
                for text in teacher.guidance.texts(stage.prompt, stage.prompts).all()
            ]
            prior.encode_text(list(dict.fromkeys(texts)))

    def _load(self, wanted: Sequence[PriorConfig]) -> Sequence[Prior]:
        if self._priors is None:
            self._priors = Priors(pick_device(self.device))
        return self._priors.load(wanted)

    def _drive(self, run: Run, load: Load, wanted: Callable[[], bool]) -> None:
        try:
            # The result depends on the number of threads, so a run keeps the number it started with.
            threads = run.machine.threads or self.threads
            steps = drive(run, device=self.device, threads=threads, load=load, claim=True, closed="queued")
            for _ in steps:
                if not wanted():
                    steps.close()  # type: ignore[attr-defined]
                    return
        except RunBusyError:
            return  # another worker was faster
        except Exception as error:
            logger.warning("%s: %s", run.folder.name, error)
            if lacks_memory(error):
                self._priors = None
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
                run.log("retry with less memory" if lean else "retry from the last checkpoint")
                run.update(status="queued", attempts=state.attempts + 1, lean=lean or state.lean, error="")


def device_failed(error: BaseException) -> bool:
    """Whether CUDA failed, after which further calls of the process are likely to fail, too."""
    return "CUDA error" in str(error) and not lacks_memory(error)


def work(
    root: Path,
    names: Sequence[str] | None = None,
    settings: WorkerSettings | None = None,
    device: str = "",
    wanted: Callable[[], bool] = lambda: True,
) -> None:
    """Process the queued runs of a folder, or those with these names, on one device.

    Returns when no run was queued for `settings.idle` seconds, when `wanted` returns False, and when the GPU failed, as
    the other runs then need a new process. wanted: see `Worker.carry_out`.
    """
    settings = settings or WorkerSettings()
    worker, configs = Worker(device, settings.threads, settings.retries), {}
    since = time.monotonic()
    aside: dict[str, float] = {}  # runs that could not be driven, and until when they are skipped
    while wanted():
        began = time.monotonic()
        queue = [run for run in waiting(runs_in(root, names)) if aside.get(run.folder.name, 0.0) <= began]
        if queue:
            group = next_group(queue, settings.together, configs)
            worker.carry_out(group, wanted, [run for run in queue[:AHEAD] if run not in group])
            if worker.lost:
                return
            since = time.monotonic()
            # Another process holds the run, for an export for example, or the disk is full: continue with others.
            aside |= {run.folder.name: since + ASIDE for run in waiting(group)}
        elif any(until > began for until in aside.values()):
            rest(POLL, began)
        elif time.monotonic() - since >= settings.idle:
            return
        else:
            rest(POLL, began)


def next_group(queue: Sequence[Run], most: int, configs: dict[str, RunConfig | None]) -> list[Run]:
    """Return the first waiting run and, up to `most` in all, later ones that differ only in prompt and seed.

    configs: configurations read so far, by folder name. Runs with less memory are driven alone.
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
