"""What commands share: the two streams, JSON output, durations and progress bars."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

STYLES = {
    "done": "green",
    "failed": "red",
    "stopped": "red",
    "starting": "cyan",
    "running": "cyan",
    "exporting": "cyan",
    "queued": "blue",
    "paused": "yellow",
    "cancelled": "yellow",
    "new": "default",
}
"""Colours of a run's states."""


def print_json(value: Any) -> None:
    """Print a value on stdout as indented JSON."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def duration(seconds: float) -> str:
    """Return a readable duration: 42 s, 7 min, 3 h 05 min."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"


def progress_bar() -> Progress:
    """Return a progress bar for stderr with counts and the time left; it stays hidden if stderr is no terminal."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=err,
        disable=not err.is_terminal,
    )


class StageReport(Protocol):
    """Receives the progress of a stage of a long job, and figures to show with it."""

    def __call__(self, stage: str, done: int, total: int, figures: Mapping[str, float] = ..., /) -> None:
        """Report that `done` of `total` parts of the stage are finished."""
        ...


@contextmanager
def bars_by_stage() -> Iterator[StageReport]:
    """Show a progress bar for each stage of a long job, by the stage's name; where stderr is no terminal, a line now
    and then.
    """
    if not err.is_terminal:
        yield _LinesByStage()
        return
    with progress_bar() as progress:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int, figures: Mapping[str, float] = MappingProxyType({}), /) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=total)
            progress.update(tasks[stage], completed=done, total=total, description=stage + _numbers(figures))

        yield report


LINE_EVERY = 60.0
"""Seconds from one line about the progress of a long job to the next."""


class _LinesByStage:
    """Prints the progress of the stages of a long job as lines, for logs."""

    def __init__(self) -> None:
        self._printed = time.monotonic()
        self._begun: dict[str, tuple[float, int]] = {}  # when a stage was first heard of, and what it had done by then

    def __call__(
        self, stage: str, done: int, total: int, figures: Mapping[str, float] = MappingProxyType({}), /
    ) -> None:
        now = time.monotonic()
        began, before = self._begun.setdefault(stage, (now, done))
        if now - self._printed < LINE_EVERY:
            return
        self._printed = now
        left = (now - began) / (done - before) * (total - done) if done > before else 0.0
        ending = f"  {duration(left)} left" if left else ""
        err.print(f"{stage} {done} of {total}{_numbers(figures)}{ending}", markup=False, soft_wrap=True)


def _numbers(figures: Mapping[str, float]) -> str:
    return "".join(f"  {name} {value:.4g}" for name, value in figures.items())
