"""What commands share: the two streams, progress bars, the end of help pages, and options that several have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    pass

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


def duration(seconds: float) -> str:
    """Seconds for people: 42 s, 7 min, 3 h 05 min."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"


def progress_bar() -> Progress:
    """A bar with counts and the time left on stderr; nothing where that is no terminal."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=err,
        disable=not err.is_terminal,
    )


class StageReport(Protocol):
    """Takes how far a stage of a long job is, and figures to show beside it."""

    def __call__(self, stage: str, done: int, total: int, figures: Mapping[str, float] = ..., /) -> None:
        """`done` of `total`."""
        ...


@contextmanager
def bars_by_stage() -> Iterator[StageReport]:
    """A bar for each stage of a long job, by its name."""
    with progress_bar() as progress:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int, figures: Mapping[str, float] = MappingProxyType({}), /) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=total)
            numbers = "".join(f"  {name} {value:.4g}" for name, value in figures.items())
            progress.update(tasks[stage], completed=done, total=total, description=stage + numbers)

        yield report
