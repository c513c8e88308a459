"""What several commands share: options, the end of help pages, and warnings before a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from sds3d.cli.completion import complete_preset, complete_run
from sds3d.config import nearest
from sds3d.console import err

if TYPE_CHECKING:
    from sds3d.priors.base import PriorConfig

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings, by dotted name. Values are YAML. See sds3d settings."),
]
PresetName = Annotated[
    str, typer.Option(metavar="NAME", help="A preset, or a YAML file.", autocompletion=complete_preset)
]
PresetNames = Annotated[
    list[str] | None,
    typer.Argument(metavar="PRESET", help="Presets to measure.", autocompletion=complete_preset),
]
ForAllPresets = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting for all presets. Repeatable.")
]
RunFolder = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run folder.", show_default=False, autocompletion=complete_run)
]
RunsFolder = Annotated[Path, typer.Option("--out", help="The folder that holds the run folders.")]
TrainingFolder = Annotated[Path, typer.Option("--out", help="The folder for the training.")]
ResultsFolder = Annotated[Path, typer.Option("--out", help="The folder for the results.")]
Device = Annotated[
    str, typer.Option(help="cpu, cuda, cuda:1 and so on. Default: the fastest available.", show_default=False)
]
Threads = Annotated[
    int, typer.Option(min=0, help="CPU threads; the result depends on them. 0: physical cores, at most 8.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")]

Retries = Annotated[int, typer.Option(min=0, help="How often a run is retried after its worker dies.")]
Together = Annotated[int, typer.Option(min=1, help="Runs with equal settings that share each call of the prior.")]
Workers = Annotated[int, typer.Option(min=0, help="Worker processes. 0: one per GPU, or one on a CPU.")]

RESUMED = ("The same command continues a training that was stopped or killed.",)
"""The note on the help pages of trainings."""
WORDS = 10
"""At most this many unknown words, and this many prompts that are read in other words, are listed."""


def examples(*commands: str, notes: Sequence[str] = ()) -> str:
    """Return the end of a help page: commands to copy, one per line, with dimmed remarks after #, and then notes."""
    parts = [command.partition("#") for command in commands]
    lines = [f"{command}[dim]{mark}{text}[/dim]" for command, mark, text in parts]
    return "\n\n".join(["[bold]Examples[/bold]", *lines, *notes])


def warn_of_unknown_words(prompts: Sequence[tuple[PriorConfig, str, str]]) -> None:
    """Warn of what a prior with a small vocabulary makes of prompts: it ignores words that it has never seen, makes one
    object, and takes its own words for plurals and for other words.

    prompts: priors with prompts, and with the place of the prompt ("line 3") or "".
    """
    places: dict[str, list[str]] = {}
    remarks: list[str] = []
    known: frozenset[str] = frozenset()
    for prior, prompt, place in prompts:
        if (vocabulary := prior.vocabulary()) is None:
            continue
        known |= vocabulary.words
        reading = vocabulary.read(prompt)
        for word in reading.unknown:
            places.setdefault(word, []).append(place)
        if remark := reading.remark():
            remarks.append(f"{place}: {remark}" if place else remark)
    for remark in remarks[:WORDS]:
        err.print(f"[yellow]warning:[/yellow] {escape(remark)}", soft_wrap=True)
    if len(remarks) > WORDS:
        err.print(f"[yellow]warning:[/yellow] so it is with {len(remarks) - WORDS} more prompts", soft_wrap=True)
    if not places:
        return
    listed = []
    for word, (first, *others) in list(places.items())[:WORDS]:
        close = nearest(word, sorted(known), 2)
        notes = [f"like {', '.join(close)}?"] * bool(close) + [first + " and more" * bool(others)] * bool(first)
        listed.append(f"{word} ({'; '.join(notes)})" if notes else word)
    more = f", and {len(places) - WORDS} more" if len(places) > WORDS else ""
    err.print(
        f"[yellow]warning:[/yellow] the embedded prior does not know: {escape(', '.join(listed))}{more}. It draws what "
        "it knows (sds3d toybox words lists it). For anything else use a large model: --preset dreamfusion-sd "
        "prior.model=FOLDER",
        soft_wrap=True,
    )
