"""What commands share: the two streams, progress bars, the end of help pages, and options that several have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Protocol

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from sds3d.config import nearest

if TYPE_CHECKING:
    from sds3d.run_config import RunConfig

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings by their dotted name, values as in YAML."),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...; the fastest there is when left out.")]
Threads = Annotated[
    int, typer.Option(min=0, help="CPU threads; 0 takes the physical cores, at most 8. The result depends on it.")
]

Retries = Annotated[int, typer.Option(min=0, help="How often a run is tried again whose worker died.")]
Together = Annotated[
    int, typer.Option(min=1, help="Prompts of equal settings that are optimised together, in one call of the prior.")
]
Workers = Annotated[int, typer.Option(min=0, help="Worker processes; 0 takes one for each GPU, or one on a CPU.")]

WORDS = 10
"""Unknown words that are named."""

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


def examples(*lines: str) -> str:
    """The end of a help page: commands to copy, each on its own line, what follows # dimmed."""
    parts = [line.partition("#") for line in lines]
    return "\n\n".join(
        ["[bold]Examples[/bold]", *(f"{command}[dim]{mark}{text}[/dim]" for command, mark, text in parts)]
    )


def warn_of_unknown_words(prompts: Sequence[tuple[RunConfig, str]]) -> None:
    """The embedded prior knows few words and draws something else for the others, which are named.

    prompts: configurations, each with the place of its prompt ("line 3") or nothing.
    """
    from sds3d.toybox.captions import VOCABULARY, unknown_words

    places: dict[str, list[str]] = {}
    for config, place in prompts:
        if config.prior.model == "toybox":
            for word in unknown_words(config.prompt):
                places.setdefault(word, []).append(place)
    if not places:
        return
    told = []
    for word, (first, *others) in list(places.items())[:WORDS]:
        close = nearest(word, VOCABULARY, 2)
        notes = [f"like {', '.join(close)}?"] * bool(close) + [first + " and more" * bool(others)] * bool(first)
        told.append(f"{word} ({'; '.join(notes)})" if notes else word)
    more = f", and {len(places) - WORDS} more" if len(places) > WORDS else ""
    err.print(
        f"[yellow]warning:[/yellow] the embedded prior does not know: {escape(', '.join(told))}{more}. It will draw "
        "what it knows. For anything else give a large model: prior.model=FOLDER --preset dreamfusion",
        soft_wrap=True,
    )


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
