"""The tab "Library": search, open, repeat and delete runs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import islice
from typing import Any

import gradio as gr

from sds3d.app import fragments
from sds3d.app.edits import in_one_line
from sds3d.app.estimates import UNKNOWN, Cost, cost_of, planned, share_done
from sds3d.app.recipes import Recipe, recipe
from sds3d.app.result_panel import Updates
from sds3d.app.run_panel import QUIET, RESUMABLE, STOPPABLE, block
from sds3d.app.studio import Studio
from sds3d.config import ConfigError
from sds3d.files import RunError
from sds3d.jobs import queue
from sds3d.jobs.queue import Progress
from sds3d.run.folder import Run

PAGE = 24  # cards at first; "Show more" adds as many
REFRESH = 3.0  # seconds

FILTERS = {
    "All": (), "Active": ("queued", "starting", "running", "exporting", "stopped"), "Done": ("done",),
    "Paused": ("paused", "new"), "Cancelled": ("cancelled",), "Failed": ("failed", "damaged"),
}  # fmt: skip
"""States by the name of the filter."""

# One listener for all cards. Deletion needs a confirmation.
CLICKS = """element.addEventListener('click', event => {
const button = event.target.closest('[data-action]');
if (!button || (button.dataset.confirm && !window.confirm(button.dataset.confirm))) return;
trigger('select', {action: button.dataset.action, run: button.dataset.run}); });"""


@dataclass(frozen=True)
class RunCard:
    """A run in the library. recipe: None if its settings cannot be read. cost: its expected times. own: whether the
    visitor may change it.
    """

    run: Run
    progress: Progress | None
    recipe: Recipe | None
    changed: float
    cost: Cost = UNKNOWN
    own: bool = True

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.run.folder.name

    @property
    def status(self) -> str:
        """The state, or "damaged"."""
        return self.progress.status if self.progress and self.recipe else "damaged"

    @property
    def title(self) -> str:
        """The prompt, or the folder's name if the prompt cannot be read."""
        return self.recipe.config.prompt if self.recipe else self.name

    @property
    def share(self) -> float:
        """Share of the run's time that is over, 0 to 1."""
        return share_done(self.progress, self.cost) if self.progress else 0.0

    @property
    def about(self) -> str:
        """Preset, seed and differences from the preset, in one line."""
        if self.recipe is None:
            return "damaged"
        edits = in_one_line({k: v for k, v in self.recipe.edits.items() if k != "prior.model" or v != "toybox"})
        return f"{self.recipe.preset} · seed {self.recipe.config.seed}" + (f" · {edits}" if edits else "")


def card_of(studio: Studio, run: Run) -> RunCard:
    """Read what the library shows of a run."""
    try:
        state = run.folder / "state.json"
        changed = (state if state.exists() else run.config_path).stat().st_mtime
        progress, made = planned(studio, run, queue.progress(run)), recipe(studio, run)
        return RunCard(run, progress, made, changed, cost_of(studio, run), studio.changes(run))
    except (RunError, ConfigError, OSError):
        return RunCard(run, None, None, 0.0, own=studio.changes(run))


def matching(studio: Studio, search: str, state: str) -> Iterator[RunCard]:
    """Yield the runs that match all words of a search and a filter, the most recently changed first.

    Runs are read only when they are taken: of thousands of runs, a page shows the first few.
    """
    words, states = search.casefold().split(), FILTERS.get(state, ())
    for run in studio.runs():
        e = card_of(studio, run)
        if states and e.status not in states:
            continue
        if not words or all(word in f"{e.title} {e.about} {e.name}".casefold() for word in words):
            yield e


@dataclass(frozen=True)
class LibraryTab:
    """The widgets of the tab that other tabs use."""

    studio: Studio
    search: gr.Textbox
    state: gr.Dropdown
    limit: gr.Number
    cards: gr.HTML
    more: gr.Button
    message: gr.HTML
    timer: gr.Timer

    @property
    def inputs(self) -> list[Any]:
        """The widgets that `show` reads."""
        return [self.search, self.state, self.limit]

    @property
    def outputs(self) -> list[Any]:
        """The widgets that `show` changes."""
        return [self.cards, self.more]

    def show(self, search: str, state: str, limit: float) -> Updates:
        """Show the cards."""
        entries = list(islice(matching(self.studio, search or "", state), int(limit) + 1))
        html = cards(entries[: int(limit)])
        if not entries:
            searched = search or state != "All"
            html = fragments.empty("No run matches." if searched else "Your runs will appear here.")
        return {self.cards: html, self.more: gr.Button(visible=len(entries) > limit)}

    def act(self, action: str, name: str) -> Updates:
        """Delete, cancel or resume a run, or show why that is not possible."""
        try:
            run = self.studio.open_own(name)
            match action:
                case "delete":
                    self.studio.delete(run)
                case "cancel":
                    queue.stop(run, "cancel")
                case "resume":
                    self.studio.resume(run)
                case _:
                    pass
        except (RunError, OSError) as error:
            return {self.message: block(fragments.error(self.studio.problem(error)))}
        return {self.message: block("")}


def lay_out(studio: Studio) -> LibraryTab:
    """Add the tab and its own events to the open layout."""
    with gr.Row(elem_id="library-bar"):
        search = gr.Textbox(
            label="Search", placeholder="Words of the prompt, the preset or a setting", scale=3, elem_id="search"
        )
        state = gr.Dropdown(list(FILTERS), value="All", label="State", scale=1, min_width=140, elem_id="state-filter")
    message = gr.HTML(visible=False, elem_id="library-message")
    view = gr.HTML(fragments.empty("Loading …"), js_on_load=CLICKS, elem_id="cards")
    more = gr.Button("Show more", visible=False)
    limit = gr.Number(PAGE, visible="hidden")
    timer = gr.Timer(REFRESH, active=False)
    library = LibraryTab(studio, search, state, limit, view, more, message, timer)
    for changed in (search.change, state.change, timer.tick, limit.change):
        changed(library.show, library.inputs, library.outputs, trigger_mode="always_last", **QUIET)
    more.click(lambda limit: limit + PAGE, limit, limit, **QUIET)
    return library


def cards(entries: Sequence[RunCard]) -> str:
    """Return a card for each run."""
    return f'<div class="sds-cards">{"".join(_card(e) for e in entries)}</div>'


def _card(e: RunCard) -> str:
    name, title = escape(e.name, quote=True), escape(e.title)
    actions = [_action("Open", "open", name, "primary")] if e.recipe else []
    if e.recipe:
        actions.append(_action("New seed", "again", name))
        actions.append(_action("Compare", "compare", name))
    if e.own and e.status in RESUMABLE:
        actions.append(_action("Resume", "resume", name))
    if e.own and e.status in STOPPABLE:
        actions.append(_action("Cancel", "cancel", name))
    elif e.own and e.status != "exporting":
        confirm = escape(f"Delete “{e.title[:80]}” ({e.name}) and all its files? This cannot be undone.", quote=True)
        actions.append(_action("Delete", "delete", name, "delete", f' data-confirm="{confirm}"'))
    going = e.progress is not None and e.progress.active
    progress = fragments.bar(e.share) if going else ""
    return (
        f'<article class="sds-card" data-run="{name}" data-state="{e.status}">'
        f'<button class="picture" data-action="open" data-run="{name}" aria-label="Open {title}">'
        f"{fragments.thumbnail(e.run)}</button>"
        f'<div class="text"><b title="{escape(e.title, quote=True)}">{title}</b>'
        f'<p><span class="sds-badge {e.status}">{fragments.LABELS[e.status]}</span> {escape(ago(e.changed))}</p>'
        f'<p class="about" title="{escape(e.about, quote=True)}">{escape(e.about)}</p>{progress}'
        f'<div class="actions">{"".join(actions)}</div></div></article>'
    )


def _action(label: str, action: str, name: str, kind: str = "", more: str = "") -> str:
    return f'<button class="{kind}" data-action="{action}" data-run="{name}"{more}>{label}</button>'


def ago(when: float) -> str:
    """Return how long ago a time in seconds since 1970 was."""
    if not when:
        return ""
    seconds = max(0.0, time.time() - when)
    if seconds < 60:
        return "just now"
    for length, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return ""
