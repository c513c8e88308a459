"""HTML fragments about runs. Everything that comes from a user or a run is escaped here."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from functools import lru_cache
from html import escape
from pathlib import Path

from PIL import Image

from sds3d.app.charts import chart
from sds3d.app.hints import hint
from sds3d.console import duration
from sds3d.jobs.queue import Progress, Wait
from sds3d.prompts.vocabulary import Vocabulary
from sds3d.run.folder import Run

VIEWS = 8  # pictures side by side in previews/latest.png

HEAD = """<div class="sds-head"><h1>sds3d</h1><p>Text to 3D by score distillation.
Describe an object, watch it take shape, download it as a mesh or as splats.</p></div>"""

CUBE = """<svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="1.2" stroke-linejoin="round"
aria-hidden="true"><path d="M12 2.5 20.5 7v10L12 21.5 3.5 17V7Z"/><path d="M3.5 7 12 11.5 20.5 7M12 11.5v10"/></svg>"""

LABELS = {
    "new": "not started", "queued": "waiting", "starting": "starting", "running": "running", "exporting": "exporting",
    "stopped": "stopped", "paused": "paused", "cancelled": "cancelled", "failed": "failed", "done": "done",
    "damaged": "damaged",
}  # fmt: skip
"""Names of the states on the page."""


def empty(text: str) -> str:
    """Return a placeholder for something that does not exist yet."""
    return f'<div class="sds-empty">{CUBE}<div>{escape(text)}</div></div>'


EMPTY = empty("Your object will take shape here.")


def error(message: str) -> str:
    """Return an error message; each line is a problem."""
    lines = "<br>".join(escape(line) for line in message.splitlines())
    return f'<div class="sds-note error" role="alert">{lines}</div>'


def note(message: str) -> str:
    """Return a note."""
    return f'<div class="sds-note" role="status">{escape(message)}</div>'


def good(message: str) -> str:
    """Return a message that everything works."""
    return f'<div class="sds-note good" role="status">{escape(message)}</div>'


def prompt_hint(prompt: str, vocabulary: Vocabulary | None) -> str:
    """Return a warning of what a prior with this vocabulary does not know of a prompt; "" if it knows it all."""
    text = hint(prompt, vocabulary)
    return note(text) if text else ""


def status(
    prompt: str,
    progress: Progress,
    share: float,
    seconds_left: float = 0.0,
    before: Wait | None = None,
    request: str | None = None,
) -> str:
    """Return the progress bar with step, total, speed and time left, or the end of the run.

    share: part of the run's time that is over, 0 to 1. seconds_left: 0 if unknown. before: what is ahead of a queued
    run. request: the pending request, "pause" or "cancel".
    """
    kind = progress.status
    at = f"step {progress.step} of {progress.total}"
    left, right = f"{LABELS[progress.status].capitalize()} at {at}", "Resume continues from there."
    match progress.status:
        case "queued" if before and before.place:
            left = f"Waiting for its turn: {ordinal(before.place + 1)} in the queue"
            right = f"starts in {about(before.seconds)}" if before.seconds else prompt
        case "starting" | "running" if request:
            left, right = f"{'Pausing' if request == 'pause' else 'Cancelling'} after the current step …", at
        case "queued" | "starting":
            kind = "starting"
            left, right = "Loading the prior …", f"{about(seconds_left)} in all" if seconds_left else prompt
        case "running":
            left = f"Step {progress.step} of {progress.total}"
            speed = [f"{progress.seconds_per_step:.2f} s per step"] if progress.seconds_per_step else []
            right = " · ".join([*speed, f"{about(seconds_left)} left"] if seconds_left else speed)
        case "exporting":
            doing = f"Exporting: {progress.exporting} …" if progress.exporting else "Exporting …"
            left, right = doing, f"{about(seconds_left)} left" if seconds_left else at
        case "done":
            left, right = f"Finished: {prompt}", f"{progress.total} steps"
        case "new":
            left, right = "Not started", prompt
        case "failed":
            left, right = f"Failed at {at}", "Resume tries again from there."
        case _:
            pass
    return (
        f'<div class="sds-progress {kind}" data-status="{progress.status}" data-step="{progress.step}">'
        f'<div class="line"><b>{escape(left)}</b><span>{escape(right)}</span></div>{bar(share)}</div>'
    )


def bar(share: float) -> str:
    """Return a progress bar. share: 0 to 1."""
    return (
        '<div class="bar" role="progressbar" aria-label="Progress" aria-valuemin="0" aria-valuemax="100"'
        f' aria-valuenow="{100 * share:.0f}"><i style="width:{100 * share:.1f}%"></i></div>'
    )


def about(seconds: float) -> str:
    """Return an estimated duration in round numbers: "about 50 s", "about 3 min"."""
    if seconds < 10:
        return "a few seconds"
    return f"about {duration(5 * round(seconds / 5))}"


def plan(seconds: float, wait: Wait, drafts: float = 0.0) -> str:
    """Return how long a new run would take and wait, as a line. seconds: 0 if unknown. drafts: seconds of four."""
    takes = f"Takes {about(seconds)}" if seconds else "How long it takes is not known yet"
    several = f" Four drafts take {about(drafts)}." if seconds and drafts else ""
    if not wait.place:
        return f'<p class="sds-plan">{takes}; starts at once.{several}</p>'
    ahead = f"{wait.place} run{'s' if wait.place > 1 else ''} ahead"
    start = f", starts in {about(wait.seconds)}" if wait.seconds else ""
    return f'<p class="sds-plan">{takes}; {ahead}{start}.{several}</p>'


def ordinal(n: int) -> str:
    """Return 1st, 2nd, 3rd, 4th, 11th, 21st and so on."""
    ending = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{ending}"


def preview(path: Path) -> str:
    """Return the strip of views as a grid of tiles. The picture is inlined, so that no file is served."""
    tiles = "".join(f'<i style="background-position:{100 * i / (VIEWS - 1):.3f}% 0"></i>' for i in range(VIEWS))
    label = f"The object so far, from {VIEWS} sides"
    return f'<div class="sds-views" role="img" aria-label="{label}" style="--strip:url({_png(path)})">{tiles}</div>'


def turning(path: Path) -> str:
    """Return the strip of views as an animation of the turning object."""
    strip = f"--strip:url({_png(path)})"
    return f'<div class="sds-turning" role="img" aria-label="The object, turning" style="{strip}"></div>'


def _png(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def thumbnail(run: Run) -> str:
    """Return the front view of a run, or a placeholder if there is none yet."""
    if (path := run.preview) is None:
        return CUBE
    try:
        return f'<img alt="" src="{_front(path, path.stat().st_mtime_ns)}">'
    except OSError:
        return CUBE


@lru_cache(maxsize=1 << 12)  # some kB each; must be larger than a page, or every refresh would read all files again
def _front(path: Path, changed: int) -> str:
    """Return the first view of a strip as a small picture. changed: time of the file, part of the cache key."""
    with Image.open(path) as strip:
        view = strip.convert("RGB").crop((0, 0, strip.width // VIEWS, strip.height))
    view.thumbnail((160, 160))
    view.save(data := io.BytesIO(), "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"


def video(source: str) -> str:
    """Return a turntable that plays by itself. source: its address."""
    label = "The object, turning"
    return f'<video src="{escape(source)}" autoplay loop muted playsinline controls aria-label="{label}"></video>'


def plots(run: Run, total: int) -> str:
    """Draw losses and gradient norm over the steps, from the run's events."""
    # A later line of a repeated step replaces the earlier one.
    events = {int(event["step"]): event for event in run.events() if "step" in event}
    steps = sorted(events)
    losses: dict[str, list[tuple[float, float]]] = {}
    for step in steps:
        for name, value in (events[step].get("losses") or {}).items():
            losses.setdefault(name, []).append((step, float(value)))
    norms = [(float(step), float(events[step]["grad_norm"])) for step in steps if "grad_norm" in events[step]]
    charts = chart("Losses", losses, total) + chart("Gradient norm", {"norm": norms}, total)
    return f'<div class="sds-charts">{charts}</div>'


def table(rows: Iterable[Sequence[str]]) -> str:
    """Return a table of names and their values, all plain text."""
    body = "".join(
        f"<tr><th>{escape(name)}</th>{''.join(f'<td>{escape(value)}</td>' for value in values)}</tr>"
        for name, *values in rows
    )
    return f'<table class="sds-table">{body}</table>'
