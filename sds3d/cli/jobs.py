"""Commands about many runs: batches, the queue and its workers."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from sds3d.cli.batch import EXAMPLES, batch
from sds3d.cli.options import Retries, Threads, Together, Workers, examples
from sds3d.console import STYLES, err, out
from sds3d.files import RunError
from sds3d.jobs import queue
from sds3d.run.folder import list_runs, open_run

Root = Annotated[Path, typer.Option("--out", help="The folder of run folders.")]


def add_commands(app: typer.Typer) -> None:
    """Adds them to the command line."""
    app.command(epilog=EXAMPLES, rich_help_panel="Many runs")(batch)
    for command, lines in (
        (worker, ("sds3d worker", "sds3d worker --out my-runs --workers 2 --idle 60")),
        (runs, ("sds3d runs", "sds3d runs --out my-runs")),
        (pause, ("sds3d pause runs/a-red-mug-1a2b3c4d", "sds3d resume runs/a-red-mug-1a2b3c4d")),
        (cancel, ("sds3d cancel runs/a-red-mug-1a2b3c4d",)),
    ):
        app.command(epilog=examples(*lines), rich_help_panel="Many runs")(command)


def worker(
    out_dir: Root = Path("runs"),
    workers: Workers = 0,
    threads: Threads = 0,
    retries: Retries = 2,
    together: Together = 1,
    idle: Annotated[float, typer.Option(min=0, help="Seconds to wait for more before it ends.")] = 0.0,
) -> None:
    """Work off the queue of a folder, as the studio's own workers do; ends when nothing is left."""
    from sds3d.jobs.supervisor import Crew, default_devices, supervise

    crew = Crew(default_devices(workers), threads, retries, together, idle)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would not hear it
    try:
        for _ in supervise(out_dir, crew=crew):
            pass
    except KeyboardInterrupt:
        err.print("paused; sds3d resume goes on with a run")
        raise typer.Exit(130) from None


def runs(out_dir: Root = Path("runs")) -> None:
    """List runs with their states, the one touched last first."""
    table = Table(Column("run", overflow="fold"), "state", "step", "left", Column("", overflow="fold"))
    for run in list_runs(out_dir):
        try:
            seen = queue.progress(run)
        except RunError as error:
            table.add_row(escape(run.folder.name), "[red]damaged[/red]", "", "", escape(str(error)))
            continue
        style = STYLES[seen.status]
        left = f"{seen.seconds_left:.0f} s" if seen.status == "running" else ""
        step = f"{seen.step}/{seen.total}" if seen.total else ""
        table.add_row(escape(run.folder.name), f"[{style}]{seen.status}[/{style}]", step, left, escape(seen.error))
    if table.row_count:
        out.print(table)
    else:
        err.print(f"no runs in {escape(str(out_dir))}; sds3d generate 'a red mug' makes one", soft_wrap=True)


Folder = Annotated[Path, typer.Argument(help="A run folder.", show_default=False)]


def pause(run: Folder) -> None:
    """Pause a run: one that is going on stops after its current step; sds3d resume goes on with it."""
    queue.stop(open_run(run), "pause")


def cancel(run: Folder) -> None:
    """Cancel a run: one that is going on stops after its current step."""
    queue.stop(open_run(run), "cancel")
