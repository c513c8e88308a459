"""Commands about many runs: a batch, the queue and its workers."""

from __future__ import annotations

import signal
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from sds3d.cli import batch
from sds3d.cli.exits import Exit
from sds3d.cli.options import Json, Retries, RunFolder, RunsFolder, Threads, Together, Workers, examples
from sds3d.console import STYLES, err, out, print_json
from sds3d.files import RunError
from sds3d.jobs import queue
from sds3d.run.folder import Run, list_runs, open_run

PANEL = "Many assets"


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(epilog=batch.EXAMPLES, rich_help_panel=PANEL)(batch.batch)
    for command, lines in (
        (runs, ("sds3d runs", "sds3d runs --out my-runs", "sds3d runs --json  # for scripts")),
        (pause, ("sds3d pause runs/a-red-mug-1a2b3c4d", "sds3d resume runs/a-red-mug-1a2b3c4d")),
        (cancel, ("sds3d cancel runs/a-red-mug-1a2b3c4d",)),
        (worker, ("sds3d worker", "sds3d worker --out my-runs --workers 2 --idle 60")),
    ):
        app.command(epilog=examples(*lines), rich_help_panel=PANEL)(command)


def worker(
    out_dir: RunsFolder = Path("runs"),
    workers: Workers = 0,
    threads: Threads = 0,
    retries: Retries = 2,
    together: Together = 1,
    idle: Annotated[float, typer.Option(min=0, help="Seconds to wait for more runs before ending.")] = 0.0,
) -> None:
    """Process the queued runs of a folder. The studio starts workers itself."""
    from sds3d.jobs.supervisor import default_devices, supervise
    from sds3d.jobs.worker_settings import WorkerSettings

    settings = WorkerSettings(default_devices(workers), threads, retries, together, idle)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells make background jobs ignore it
    try:
        for _ in supervise(out_dir, settings=settings):
            pass
    except KeyboardInterrupt:
        err.print("paused; sds3d resume continues a run")
        raise typer.Exit(Exit.INTERRUPTED) from None


def runs(out_dir: RunsFolder = Path("runs"), as_json: Json = False) -> None:
    """List runs and their states, the most recently changed first."""
    listed = [(run, _progress(run)) for run in list_runs(out_dir)]
    if as_json:
        print_json([_row(run, progress) for run, progress in listed])
        return
    if not listed:
        err.print(f"no runs in {escape(str(out_dir))}; make one: sds3d generate 'a red mug'", soft_wrap=True)
        return
    table = Table(Column("run", overflow="fold"), "state", "step", "left", Column("", overflow="fold"))
    for run, seen in listed:
        if isinstance(seen, RunError):
            table.add_row(escape(run.folder.name), "[red]damaged[/red]", "", "", escape(str(seen)))
            continue
        style = STYLES[seen.status]
        left = f"{seen.seconds_left:.0f} s" if seen.status == "running" else ""
        step = f"{seen.step}/{seen.total}" if seen.total else ""
        table.add_row(escape(run.folder.name), f"[{style}]{seen.status}[/{style}]", step, left, escape(seen.error))
    out.print(table)


def _progress(run: Run) -> queue.Progress | RunError:
    try:
        return queue.progress(run)
    except RunError as error:
        return error


def _row(run: Run, seen: queue.Progress | RunError) -> dict[str, object]:
    """Return a run for `sds3d runs --json`."""
    if isinstance(seen, RunError):
        return {"folder": str(run.folder), "status": "damaged", "error": str(seen)}
    return {"folder": str(run.folder), **asdict(seen), "seconds_left": seen.seconds_left}


def pause(run: RunFolder) -> None:
    """Pause a run after its current step; sds3d resume continues it."""
    queue.stop(open_run(run), "pause")


def cancel(run: RunFolder) -> None:
    """Cancel a run after its current step."""
    queue.stop(open_run(run), "cancel")
