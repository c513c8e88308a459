"""`sds3d batch`: a file of prompts becomes a folder of assets."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from sds3d.cli.exits import Exit
from sds3d.cli.options import (
    Json,
    Overrides,
    PresetName,
    Retries,
    Threads,
    Together,
    Workers,
    examples,
    warn_of_unknown_words,
)
from sds3d.config import parse_override
from sds3d.console import STYLES, bars_by_stage, err, out, print_json
from sds3d.jobs.worker_settings import WorkerSettings
from sds3d.presets import DEFAULT_PRESET, load_preset

if TYPE_CHECKING:
    from sds3d.jobs.batch import Batch, Engine, Watch


class EngineName(StrEnum):
    """Where the runs are carried out."""

    local = "local"
    ray = "ray"


EXAMPLES = examples(
    "sds3d batch prompts.txt",
    "sds3d batch prompts.csv --preset splats steps=150  # for lines that set nothing else",
    "sds3d batch prompts.txt --together 4  # four prompts in each call of the prior: fills a large GPU",
    "sds3d batch prompts.txt --shard 2/8 --out /shared/assets  # the second of eight jobs of any scheduler",
    "sds3d batch prompts.txt --engine ray --address auto --out /shared/assets  # on a Ray cluster",
    notes=(
        ".txt: one prompt per line. .csv: a header with prompt and, optionally, seed, preset and settings such as "
        r'guidance.scale. .jsonl: {"prompt": "a red mug", "seed": 1, "preset": "splats", "overrides": '
        r'{"guidance.scale": 5}}.',
        "Ctrl-C pauses. The same command continues and leaves finished runs alone. When it ends, the folder also has "
        "manifest.jsonl, contact_sheet.png and index.html, a gallery that opens without a server.",
    ),
)


def batch(
    prompts: Annotated[
        Path, typer.Argument(help="A file of prompts: .txt, .csv or .jsonl.", show_default=False, metavar="FILE")
    ],
    overrides: Overrides = None,
    preset: PresetName = DEFAULT_PRESET,
    out_dir: Annotated[
        Path | None,
        typer.Option("--out", help="The folder for the assets. Default: FILE-assets.", show_default=False),
    ] = None,
    workers: Workers = 0,
    threads: Threads = 0,
    retries: Retries = 2,
    together: Together = 1,
    shard: Annotated[str, typer.Option(metavar="I/N", help="Only part I of N parts of the prompts.")] = "1/1",
    engine: Annotated[EngineName, typer.Option(help="This machine, or a Ray cluster.")] = EngineName.local,
    address: Annotated[
        str,
        typer.Option(help="Address of the Ray cluster. Default: joins or starts one on this machine."),
    ] = "",
    as_json: Json = False,
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
            err.print(f"same settings as line {first.line}, so they share its run: line {lines}", soft_wrap=True)
    warn_of_unknown_words([(entry.config.prior, entry.config.prompt, f"line {entry.line}") for entry in entries])
    from sds3d.jobs.batch import Watch, make_batch

    with bars_by_stage() as report:
        made = make_batch(root, entries, part, lambda done, total: report("run folders", done, total))
    watch = Watch(made.jobs)
    settings = WorkerSettings((), threads, retries, together)
    stopped = _watch(made, watch, _engine(engine, address, workers, settings))
    with err.status("writing the gallery"):
        from sds3d.jobs.gallery import write_gallery

        written = write_gallery(made, f"{prompts.name}" + (f", {part[0]} of {part[1]}" if part[1] > 1 else ""))
    _list_unfinished(watch, ("failed", "cancelled") if stopped else ("failed", "cancelled", "paused"))
    _print_result(made, watch, written, as_json)
    if stopped:
        err.print("paused; continue with the same command:")
        err.print(f"  {escape(shlex.join(['sds3d', *sys.argv[1:]]))}", soft_wrap=True)
        raise typer.Exit(Exit.INTERRUPTED)
    if watch.counts["failed"]:
        raise typer.Exit(Exit.FAILED)


def _engine(name: EngineName, address: str, workers: int, settings: WorkerSettings) -> Engine:
    """Return the engine of a batch. workers: their number; 0: one per device. settings: without devices and log."""
    if name is EngineName.local:
        from sds3d.jobs.supervisor import default_devices, supervise

        devices = default_devices(workers)

        def locally(root: Path, names: Sequence[str]) -> Iterator[None]:
            # Output of workers would break the live table; failures are shown there.
            return supervise(root, names, replace(settings, devices=devices, log=root / ".workers.log"))

        return locally
    from sds3d.jobs import ray_engine

    return lambda root, names: ray_engine.supervise(root, names, settings, address, workers)


def _watch(batch: Batch, watch: Watch, engine: Engine) -> bool:
    """Carry out a batch and show its progress. Return whether a signal stopped it before its end."""
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
    """Treat SIGTERM, which schedulers send before they end a job, as Ctrl-C: active runs are paused."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def interrupt(number: int, frame: object) -> None:
        for signal_number in before:
            signal.signal(signal_number, signal.default_int_handler)
        # os.write, because the signal may have interrupted a print
        os.write(2, b"\npausing after the current step; press Ctrl-C again to stop at once\n")
        raise KeyboardInterrupt

    for number in before:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _list_unfinished(watch: Watch, states: Sequence[str]) -> None:
    """Print a table of the runs in these states, with their errors or how to resume them."""
    from sds3d.jobs.board import title

    table = Table(Column("run", overflow="fold"), "state", Column("", overflow="fold"))
    for job, seen in zip(watch.jobs, watch.seen, strict=True):
        if seen.status in states:
            hint = seen.error or f"sds3d resume {job.run.folder}"
            table.add_row(escape(title(job)), f"[{STYLES[seen.status]}]{seen.status}[/]", escape(hint))
    if table.row_count:
        err.print(table)


def _print_result(batch: Batch, watch: Watch, written: Sequence[Path], as_json: bool) -> None:
    """Print the files of the gallery, and the number of runs in each state."""
    from sds3d.jobs.board import summary

    if as_json:
        files = [str(path) for path in written]
        print_json({"folder": str(batch.root), "counts": dict(watch.counts), "files": files})
        return
    for path in written:
        out.print(escape(str(path)), soft_wrap=True)
    out.print(f"{summary(watch)} in {escape(str(batch.root))}", soft_wrap=True)
