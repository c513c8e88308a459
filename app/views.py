"""What the page says, as HTML. Everything that came from a person or a run is escaped here."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path

from sds3d.config import nearest
from sds3d.jobs.queue import Progress
from sds3d.toybox.captions import unknown_words
from sds3d.toybox.objects import ACCENT_PART, CATEGORIES, COLORS

VIEWS = 8  # pictures side by side in previews/latest.png

HEAD = """<div class="sds-head"><h1>sds3d</h1><p>Text to 3D by score distillation.
Type an object, watch it take shape, take it away as a mesh.</p></div>"""

EMPTY = """<div class="sds-empty"><svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="1.2"
stroke-linejoin="round" aria-hidden="true"><path d="M12 2.5 20.5 7v10L12 21.5 3.5 17V7Z"/><path
d="M3.5 7 12 11.5 20.5 7M12 11.5v10"/></svg><div>Your object will take shape here.</div></div>"""


def error(message: str) -> str:
    """A message that something cannot be done."""
    return f'<div class="sds-note error" role="alert">{escape(message)}</div>'


def note(message: str) -> str:
    """A message worth knowing."""
    return f'<div class="sds-note" role="status">{escape(message)}</div>'


def prompt_hint(prompt: str) -> str:
    """A warning that names the words the embedded prior has never seen; empty when it knows them all."""
    unknown = unknown_words(prompt)
    if not unknown:
        return ""
    words = ", ".join(_guess(word) for word in unknown[:8]) + (", …" if len(unknown) > 8 else "")
    verb = "does not know the word" if len(unknown) == 1 else "does not know the words"
    return note(
        f"The embedded prior {verb} {words}. It knows {known_objects()}. "
        "For anything else it takes a large model: prior.model, see “sds3d generate --help”."
    )


def _guess(word: str) -> str:
    close = nearest(word, (*CATEGORIES, *COLORS, *ACCENT_PART.values()))
    return f"“{word}”" + (f" (“{close[0]}”?)" if close else "")


def known_objects() -> str:
    """What the embedded prior can be asked for, as the end of a sentence."""
    *first, last = CATEGORIES
    *colors, color = COLORS
    return f"{', '.join(first)} and {last}, in {', '.join(colors)} and {color}"


def status(prompt: str, progress: Progress) -> str:
    """The progress bar with step, total, speed and time left, or how the run ended."""
    at = f"step {progress.step} of {progress.total}"
    go_on = "Generate goes on from there."
    left = right = ""
    match progress.status:
        case "queued":
            left, right = "Waiting for its turn …", prompt
        case "starting":
            left, right = "Loading the prior …", prompt
        case "running":
            left = f"Step {progress.step} of {progress.total}"
            right = f"{progress.seconds_per_step:.2f} s per step · {duration(progress.seconds_left)} left"
        case "exporting":
            left, right = "Writing the mesh and its files …", at
        case "done":
            left, right = f"Finished: {prompt}", f"{progress.total} steps"
        case "cancelled" | "paused":
            left, right = f"{progress.status.capitalize()} at {at}", go_on
        case "stopped":
            left, right = f"Stopped at {at}", go_on
        case "failed":
            left, right = f"Failed at {at}", ""
    share = 100 if progress.status == "done" else 100 * progress.step / max(progress.total, 1)
    return (
        f'<div class="sds-progress {progress.status}" data-status="{progress.status}" data-step="{progress.step}">'
        f'<div class="line"><b>{escape(left)}</b><span>{escape(right)}</span></div>'
        f'<div class="bar" role="progressbar" aria-label="Progress" aria-valuemin="0" aria-valuemax="{progress.total}"'
        f' aria-valuenow="{progress.step}"><i style="width:{share:.1f}%"></i></div></div>'
    )


def duration(seconds: float) -> str:
    """Seconds as a person would say them: "40 s", "5 min", "2 h 10 min"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def preview(path: Path) -> str:
    """The strip of views as a grid of tiles, the picture inlined so that no file is served for it."""
    data = base64.b64encode(path.read_bytes()).decode()
    tiles = "".join(f'<i style="background-position:{100 * i / (VIEWS - 1):.3f}% 0"></i>' for i in range(VIEWS))
    return (
        f'<div class="sds-views" role="img" aria-label="The object so far, from {VIEWS} sides"'
        f' style="--strip:url(data:image/png;base64,{data})">{tiles}</div>'
    )
