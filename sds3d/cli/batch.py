"""sds3d batch: a file of prompts becomes a folder of assets."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from sds3d.cli.options import Overrides, Retries, Threads, Together, Workers, examples, warn_of_unknown_words
from sds3d.config import parse_override
from sds3d.console import STYLES, bars_by_stage, err, out
from sds3d.presets import load_preset

if TYPE_CHECKING:
    from sds3d.jobs.batch import Batch, Engine, Watch


class EngineName(StrEnum):
    """What carries runs out."""

    local = "local"
    ray = "ray"


EXAMPLES = examples(
    "sds3d batch prompts.txt",
    "sds3d batch prompts.csv --preset splats steps=150  # for lines that say nothing else",
    "sds3d batch prompts.txt --together 4  # four prompts in each call of the prior: fills a large GPU",
    "sds3d batch prompts.txt --shard 2/8 --out /shared/assets  # the second of eight jobs of any scheduler",
    "sds3d batch prompts.txt --engine ray --address auto --out /shared/assets  # on a Ray cluster",
    ".txt holds a prompt a line. .csv has a header: prompt, and if wanted seed, preset and settings such as "
    r'guidance.scale. .jsonl: {"prompt": "a red mug", "seed": 1, "preset": "splats", "overrides": '
    r'{"guidance.scale": 5}}.',
    "Ctrl-C pauses; the same command again goes on, and leaves finished runs as they are. At the end, the folder holds "
    "manifest.jsonl, contact_sheet.png and index.html, a gallery that opens from the disk.",
)


def batch(
    prompts: Annotated[
        Path, typer.Argument(help="A file of prompts: .txt, .csv or .jsonl.", show_default=False, metavar="FILE")
    ],
    overrides: Overrides = None,
    preset: Annotated[str, typer.Option(help="A preset's name, or a YAML file.")] = "toybox",
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="The folder of assets; FILE-assets when left out.", show_default=False)
    ] = None,
    workers: Workers = 0,
    threads: Threads = 0,
    retries: Retries = 2,
    together: Together = 1,
    shard: Annotated[str, typer.Option(metavar="I/N", help="Only the I-th of N parts of the prompts.")] = "1/1",
    engine: Annotated[EngineName, typer.Option(help="This machine, or a Ray cluster.")] = EngineName.local,
    address: Annotated[
        str, typer.Option(help="The Ray cluster's; when left out, one on this machine is joined or started.")
    ] = "",
) -> None:
    """Make a folder of 3D assets from a file of prompts."""
    from sds3d.jobs.prompts_file import parse_shard, read_prompts, same_runs

    part = parse_shard(shard)
    load_preset(preset)
    for text in overrides or []:
        parse_override(text)
    root = out_dir or Path(f"{prompts.stem}-assets")
    with err.status("reading the prompts"):
        entries = read_prompts(prompts, preset, overrides or [])
    for first, *others in same_runs(entries):
        if others:
            lines = ", ".join(str(entry.line) for entry in others)
            err.print(f"the same as line {first.line}, so one run with it: line {lines}", soft_wrap=True)
    warn_of_unknown_words([(entry.config, f"line {entry.line}") for entry in entries])
    from sds3d.jobs.batch import Watch, make_batch

    with bars_by_stage() as report:
        made = make_batch(root, entries, part, lambda done, total: report("run folders", done, total))
    watch = Watch(made.jobs)
    stopped = _watch(made, watch, _engine(engine, address, workers, threads, retries, together))
    with err.status("writing the gallery"):
        from sds3d.jobs.gallery import write_gallery

        written = write_gallery(made, f"{prompts.name}" + (f", {part[0]} of {part[1]}" if part[1] > 1 else ""))
    _tell(made, watch, written, ("failed", "cancelled") if stopped else ("failed", "cancelled", "paused"))
    if stopped:
        err.print("paused; the same command goes on:")
        err.print(f"  {escape(shlex.join(['sds3d', *sys.argv[1:]]))}", soft_wrap=True)
        raise typer.Exit(130)
    if watch.counts["failed"]:
        raise typer.Exit(1)


def _engine(name: EngineName, address: str, workers: int, threads: int, retries: int, together: int) -> Engine:
    from sds3d.jobs.supervisor import Crew, default_devices, supervise

    if name is EngineName.local:
        devices = default_devices(workers)

        def locally(root: Path, names: Sequence[str]) -> Iterator[None]:
            # On the terminal it would tear the table; what fails is told there anyway.
            return supervise(root, names, Crew(devices, threads, retries, together, log=root / ".workers.log"))

        return locally
    from sds3d.jobs import ray_engine

    crew = Crew((), threads, retries, together)
    return lambda root, names: ray_engine.supervise(root, names, crew, address, workers)


def _watch(batch: Batch, watch: Watch, engine: Engine) -> bool:
    """Carry a batch out and show it; returns whether it was stopped by a signal before its end."""
    from sds3d.jobs.batch import carry_out
    from sds3d.jobs.board import Board

    board = Board(watch, err)
    with board.shown():
        try:
            with _interruptible(), closing(carry_out(batch, engine)) as steps:
                for _ in steps:
                    board.look()
        except KeyboardInterrupt:
            return True
    return False


@contextmanager
def _interruptible() -> Iterator[None]:
    """What a scheduler sends before it ends a job is taken as Ctrl-C is: what goes on is paused."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def interrupt(number: int, frame: object) -> None:
        for signal_number in before:
            signal.signal(signal_number, signal.default_int_handler)
        os.write(
            2, b"\npausing after the current step; Ctrl-C again stops at once\n"
        )  # print may be what is broken off
        raise KeyboardInterrupt

    for number in before:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tell(batch: Batch, watch: Watch, written: Sequence[Path], named: Sequence[str]) -> None:
    """Runs of the states that are named, where everything is, and the counts."""
    from sds3d.jobs.board import summary, title

    table = Table(Column("run", overflow="fold"), "state", Column("", overflow="fold"))
    for job, seen in zip(watch.jobs, watch.seen, strict=True):
        if seen.status in named:
            hint = seen.error or f"sds3d resume {job.run.folder}"
            table.add_row(escape(title(job)), f"[{STYLES[seen.status]}]{seen.status}[/]", escape(hint))
    if table.row_count:
        err.print(table)
    for path in written:
        out.print(escape(str(path)), soft_wrap=True)
    out.print(f"{summary(watch)} in {escape(str(batch.root))}", soft_wrap=True)
