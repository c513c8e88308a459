"""The command line. Nothing heavy is imported before a command needs it, so that `--help` is quick."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Annotated

import typer
from rich.markup import escape

from sds3d.cli import (
    bench_speed,
    estimate,
    generator,
    listings,
    many_runs,
    one_run,
    playground,
    reconstruct,
    start,
    studio,
    toybox_networks,
)
from sds3d.cli.exits import MEANINGS, Exit
from sds3d.cli.options import examples
from sds3d.config import ConfigError
from sds3d.console import err, out
from sds3d.files import lacks_memory, printable
from sds3d.version import __version__

# Waiting threads sleep instead of spinning, because numba and torch share the cores. OpenMP reads this when it starts.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Both libraries warn of harmless details of a model's files.
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

LONGEST = 2000
"""Characters of a line of an error that are shown."""

app = typer.Typer(
    name="sds3d",
    help="Text to 3D by score distillation. [bold]sds3d generate[/bold] 'a red mug' makes a mesh on a laptop.",
    epilog=examples(
        "sds3d generate 'a red mug'",
        "sds3d app  # the studio, in the browser",
        "sds3d settings  # every setting with its meaning",
        "sds3d doctor  # what this machine can do",
        notes=(
            "[bold]Exit codes[/bold]",
            *(f"{code:>4}  {meaning}" for code, meaning in MEANINGS.items()),
            "With --debug, any command shows the traceback of an error.",
        ),
    ),
    rich_markup_mode="rich",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        out.print(f"sds3d {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Options of `sds3d` itself."""


one_run.add_commands(app)
app.command(epilog=reconstruct.EXAMPLES, rich_help_panel=one_run.PANEL)(reconstruct.reconstruct)
app.command(epilog=estimate.EXAMPLES, rich_help_panel=one_run.PANEL)(estimate.estimate)
app.command(epilog=start.EXAMPLES, rich_help_panel=one_run.PANEL)(start.start)
many_runs.add_commands(app)
app.command("app", epilog=studio.EXAMPLES, rich_help_panel=listings.PANEL)(studio.studio)
app.command(epilog=playground.EXAMPLES, rich_help_panel=listings.PANEL)(playground.playground2d)
listings.add_commands(app)
app.add_typer(toybox_networks.toybox, name="toybox", rich_help_panel="Measure and train")
app.add_typer(generator.generator, name="generator", rich_help_panel="Measure and train")
app.add_typer(bench_speed.bench, name="bench", rich_help_panel="Measure and train")


def main(arguments: list[str] | None = None) -> None:
    """Run a command. An error becomes one line on stderr and exit code 1; --debug shows its traceback instead."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    warnings.showwarning = _show_warning
    try:
        app([argument for argument in arguments if argument != "--debug"], prog_name="sds3d")
    except Exception as error:
        if debug:
            raise
        lines = str(error).strip() or type(error).__name__
        if lacks_memory(error) and "out of memory" not in lines:
            first = lines.partition("\n")[0]
            lines = f"out of memory ({first}): use smaller settings, or close other programs"
        unforeseen = not isinstance(
            error, (ValueError, RuntimeError, ArithmeticError, OSError, ImportError, MemoryError)
        )
        name = f"{type(error).__name__}: " if unforeseen else ""
        for line in lines.split("\n") if isinstance(error, ConfigError) else lines.split("\n")[:1]:
            err.print(f"[red]error:[/red] {name}{escape(_shown(line))}", soft_wrap=True)
        sys.exit(Exit.FAILED)


def _shown(line: str) -> str:
    """Return a line without control characters, which a terminal would obey, and not endless."""
    text = printable(line)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _show_warning(message: Warning | str, *_: object) -> None:
    """Print a warning in one line, without the line of code that Python adds."""
    err.print(f"[yellow]warning:[/yellow] {escape(_shown(str(message)))}", soft_wrap=True)
