"""Display of a batch in progress: a live table on a terminal, one line per change elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from sds3d.console import STYLES, duration
from sds3d.jobs.batch import Job, Watch, clipped
from sds3d.jobs.queue import Progress

ORDER = ("done", "failed", "cancelled", "paused", "stopped", "exporting", "running", "starting", "queued", "new")
ACTIVE = ("exporting", "running", "starting")
FAILURES = 5
"""Number of failures listed below the live table. At the end all are listed."""


class Board:
    """Shows the progress of a batch on a console."""

    def __init__(self, watch: Watch, console: Console) -> None:
        self.watch, self.console = watch, console
        self._live: Live | None = None
        self._reported = self._percent()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the board during the block."""
        with ExitStack() as stack:
            if self.console.is_terminal:
                self._live = stack.enter_context(Live(self, console=self.console, auto_refresh=False))
            yield
            self.look(everywhere=True)
        self._live = None

    def look(self, *, everywhere: bool = False) -> None:
        """Read the progress of the jobs, as `Watch.look`, and show what has changed."""
        before = list(self.watch.seen)
        changed = self.watch.look(everywhere=everywhere)
        if self._live is not None:
            self._live.refresh()
            return
        for number in changed:
            if (line := self._change(number, before[number])) is not None:
                self.console.print(line, soft_wrap=True)
        if (percent := self._percent()) // 10 > self._reported // 10:
            self._reported = percent
            self.console.print(f"{percent} %: {summary(self.watch)}", soft_wrap=True)

    def _percent(self) -> int:
        return 100 * self.watch.steps // max(self.watch.total, 1)

    def _change(self, number: int, before: Progress) -> str | None:
        """Return the line about a job whose status has changed; None if it needs none."""
        job, now = self.watch.jobs[number], self.watch.seen[number]
        name = escape(title(job))
        match now.status:
            case status if status in ACTIVE:
                if before.status in ACTIVE:
                    return None
                return f"{name}: continues after step {before.step}" if before.step else f"{name}: started"
            case "done":
                return f"{name}: done in {duration(job.run.state.seconds)}"
            case "queued":
                return f"{name}: back in the queue" if before.status in (*ACTIVE, "stopped") else None
            case status:
                return f"{name}: {status}" + f": {escape(now.error)}" * bool(now.error)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        watch = self.watch
        head = Table.grid(Column(ratio=1), Column(justify="right", no_wrap=True), padding=(0, 2), expand=True)
        bar = ProgressBar(total=max(watch.total, 1), completed=watch.steps)
        head.add_row(bar, f"{self._percent()} %")
        yield Group(head, Text.from_markup(summary(watch, colours=True)))
        active = [pair for pair in self._pairs() if pair[1].status in ACTIVE]
        failed = [pair for pair in self._pairs() if pair[1].status == "failed"][-FAILURES:]
        most = max(console.height - 5 - len(failed), 3)
        table = Table.grid(
            Column(ratio=1, no_wrap=True), *(Column(no_wrap=True) for _ in range(4)), padding=(0, 2), expand=True
        )
        for job, one in active[:most]:
            speed = f"{one.seconds_per_step:.2f} s/step" if one.seconds_per_step else ""
            left = duration(one.seconds_left) if one.status == "running" else ""
            status = f"[{STYLES[one.status]}]{one.status}[/]"
            table.add_row(escape(title(job)), status, f"{one.step}/{job.steps}", speed, left)
        if len(active) > most:
            table.add_row(f"and {len(active) - most} more", *[""] * 4)
        yield table
        for job, one in failed:
            yield Text.from_markup(f"[red]failed[/] {escape(title(job))}: {escape(one.error)}", overflow="ellipsis")

    def _pairs(self) -> Iterator[tuple[Job, Progress]]:
        yield from zip(self.watch.jobs, self.watch.seen, strict=True)


def title(job: Job) -> str:
    """Return a short name of a job: its first line and its prompt, cut if it is long."""
    return f"line {job.entries[0].line}, {clipped(job.entries[0].config.prompt, 60)}"


def summary(watch: Watch, *, colours: bool = False) -> str:
    """Return how many jobs are in which state, and the time left."""
    counts = watch.counts
    parts = [
        f"[{STYLES[status]}]{counts[status]} {status}[/]" if colours else f"{counts[status]} {status}"
        for status in ORDER
        if counts[status]
    ]
    left = watch.seconds_left
    return ", ".join(parts) + (f"; about {duration(left)} left" if left else "")
