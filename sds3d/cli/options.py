"""What several commands share: options, the end of help pages, warnings before a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from sds3d.config import nearest
from sds3d.console import err

if TYPE_CHECKING:
    from sds3d.run.config import RunConfig

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
