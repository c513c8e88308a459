"""How long runs take and wait: from the times of their presets, finished runs and the steps done so far."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, lru_cache

from sds3d.app.edits import Edits
from sds3d.app.limits import pixels_of_step
from sds3d.app.recipes import ANY, recipe
from sds3d.app.studio import Studio
from sds3d.config import ConfigError
from sds3d.files import RunError
from sds3d.jobs import queue
from sds3d.jobs.queue import Progress, Wait
from sds3d.jobs.supervisor import default_devices
from sds3d.presets import load_preset, presets
from sds3d.run.config import RunConfig, run_config, total_steps
from sds3d.run.folder import Run, list_runs

LOADING = 4.0
"""Seconds until the first step: the prior is loaded."""
EXPORT = 6.0
"""Seconds of an export, until a run of this machine has measured it."""
NEWEST = 60
"""Number of runs whose times are read."""
FRESH = 20.0
"""Seconds after which they are read again."""
FOLLOWED = 0.5
"""Time of a pixel of a picture that the run follows, as a share of a pixel that the prior is asked about."""
TRUSTED = 10
"""Number of steps after which the time of the steps so far counts as much as the expected time."""


@dataclass(frozen=True)
class Cost:
    """Expected seconds of a run: of a step and of the export. step: 0 if unknown."""

    step: float
    export: float = EXPORT

    def seconds(self, steps: int) -> float:
        """Expected seconds of a whole run; 0 if unknown."""
        return LOADING + steps * self.step + self.export if self.step or not steps else 0.0


UNKNOWN = Cost(0.0)


@dataclass(frozen=True)
class _History:
    """Times of finished runs.

    costs: by settings; without the time of a step if no such run had steps. export: median seconds of an export.
    slowness: seconds of a step on this machine, divided by those that the presets state.
    """

    costs: dict[str, Cost]
    export: float
    slowness: float


def expected(studio: Studio, preset: str, edits: Edits, config: RunConfig) -> Cost:
    """Return the expected cost of a run: that of finished runs with equal settings, or else of its preset."""
    known = _history(studio, int(time.monotonic() / FRESH))
    same = known.costs.get(_settings(preset, edits), Cost(0.0, known.export))
    return same if same.step else Cost(known.slowness * stated_step(preset, config), same.export)


def cost_of(studio: Studio, run: Run) -> Cost:
    """Return the expected cost of a run. Raises ConfigError if its settings cannot be read."""
    made = recipe(studio, run)
    return expected(studio, made.preset, made.edits, made.config)


def seconds_left(progress: Progress, cost: Cost) -> float:
    """Return the seconds until a started run is done, its export included; 0 if unknown.

    The more steps are done, the more their measured time counts.
    """
    if progress.status == "exporting":
        return cost.export * (1 - progress.exported)
    measured, trust = progress.seconds_per_step, progress.step / (progress.step + TRUSTED)
    step = trust * measured + (1 - trust) * cost.step if measured and cost.step else measured or cost.step
    loading = LOADING if progress.status in ("queued", "starting") else 0.0
    left = max(progress.total - progress.step, 0)
    return loading + step * left + cost.export if step or not left else 0.0


def share_done(progress: Progress, cost: Cost) -> float:
    """Return the share of a run's time that has passed, 0 to 1: its steps, then its export."""
    if progress.status == "done":
        return 1.0
    whole = cost.seconds(progress.total)
    export = min(cost.export / whole, 0.5) if whole else 0.1
    if progress.status == "exporting":
        return 1 - export + export * progress.exported
    return (1 - export) * min(progress.step / max(progress.total, 1), 1.0)


def wait(studio: Studio, run: Run | None = None) -> Wait:
    """Return what is ahead of a queued run, or of a new one. One run per device is carried out at the same time."""
    runs = queue.runs_in(studio.root)
    waiting = queue.waiting(runs)
    if run is not None:
        names = [other.folder.name for other in waiting]
        waiting = waiting[: names.index(run.folder.name)] if run.folder.name in names else []
    left, unknown = [], False
    for other in [*_running(runs), *waiting]:
        with suppress(RunError, ConfigError, OSError):
            progress = queue.progress(other)
            if progress.active:
                left.append(seconds_left(planned(studio, other, progress), cost_of(studio, other)))
                unknown = unknown or not left[-1]
    place = max(0, len(left) - devices() + 1)
    return Wait(place, 0.0 if unknown or not place else sum(left) / devices())


def _running(runs: Sequence[Run]) -> Iterator[Run]:
    for run in runs:
        with suppress(RunError, OSError):
            if run.state.status == "running":
                yield run


def planned(studio: Studio, run: Run, progress: Progress) -> Progress:
    """Return a progress with the planned steps of a run that has not started."""
    return progress if progress.total else replace(progress, total=total_steps(recipe(studio, run).config))


@cache
def devices() -> int:
    """Number of runs that are carried out at the same time."""
    return len(default_devices())


@lru_cache(maxsize=4)
def _history(studio: Studio, now: int) -> _History:
    """Read the times of finished runs. now: part of the cache key."""
    by_settings: dict[str, tuple[list[float], list[float]]] = {}  # seconds of steps and of exports
    exports, slowness = [], []
    for run in list_runs(studio.root)[:NEWEST]:
        with suppress(RunError, ConfigError, OSError):
            state = run.state
            if state.status != "done" or not state.optimised:
                continue
            made = recipe(studio, run)
            step, export = state.optimised / max(state.total, 1), state.seconds - state.optimised
            steps, of_exports = by_settings.setdefault(_settings(made.preset, made.edits), ([], []))
            of_exports.append(export)
            exports.append(export)
            if state.total:
                steps.append(step)
                if stated := stated_step(made.preset, made.config):
                    slowness.append(step / stated)
    costs = {
        key: Cost(statistics.median(steps or [0.0]), statistics.median(of_exports))
        for key, (steps, of_exports) in by_settings.items()
    }
    return _History(
        costs,
        statistics.median(exports) if exports else EXPORT,
        statistics.median(slowness) if slowness else 1.0,
    )


def stated_step(preset: str, config: RunConfig) -> float:
    """Return the seconds of a step on two CPU cores, by what the preset states; 0 if it has other teachers or is for a
    real model.

    Presets that state no time are taken for the median of the others. More pixels take more time.
    """
    own = _config_of(preset)
    if own.prior.kind != "toybox" or (config.prior.kind, config.teachers) != (own.prior.kind, own.teachers):
        return 0.0
    stated = _stated_steps().get(preset) or statistics.median(_stated_steps().values())
    return stated * _cost_of_step(config) / _cost_of_step(own)


def _cost_of_step(config: RunConfig) -> float:
    """Return about how much a step costs, in rendered pixels.

    A picture that the run follows is rendered, but the prior is not asked about it.
    """
    followed = sum(1 / reference.every for reference in config.reference)
    size = max(now.size for _, now in config.cameras.parts())
    return pixels_of_step(config) + FOLLOWED * followed * size**2


@cache
def _stated_steps() -> dict[str, float]:
    """Return seconds per step by preset, of those that state their time."""
    return {
        preset.name: max(preset.about.seconds - LOADING - EXPORT, 1.0) / steps
        for preset in presets()
        if preset.about.seconds and (steps := total_steps(_config_of(preset.name)))
    }


@cache
def _config_of(preset: str) -> RunConfig:
    return run_config(*load_preset(preset).layers, {"prompt": ANY})


def _settings(preset: str, edits: Edits) -> str:
    """Return what runs of about equal cost per step have in common. Of pictures, their number counts."""
    counted = {key: len(value) if key == "reference" else value for key, value in edits.items() if key != "steps"}
    return json.dumps([preset, counted], sort_keys=True)
