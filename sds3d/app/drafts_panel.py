"""Drafts: the first steps of a run with several seeds, side by side. The chosen one continues to its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from sds3d.app import fragments
from sds3d.app.estimates import cost_of, seconds_left
from sds3d.app.result_panel import Updates
from sds3d.app.run_panel import POLL, QUIET, RESUMABLE
from sds3d.app.studio import MAX_SEED, Studio
from sds3d.config import ConfigError
from sds3d.files import RunError
from sds3d.jobs import queue
from sds3d.run.config import RunConfig, draft_steps
from sds3d.run.folder import Run

COUNT = 4

PICKS = """element.addEventListener('click', event => {
const button = event.target.closest('[data-run]');
if (button) trigger('select', {run: button.dataset.run, action: button.dataset.action}); });"""

REMEMBER = """(names) => { const url = new URL(window.location);
if ((url.searchParams.get('drafts') ?? '') === names) return;
if (!names) {
  url.searchParams.delete('drafts');
  window.history.replaceState(null, '', url);
  return;
}
url.searchParams.set('drafts', names);
url.searchParams.delete('run');
url.searchParams.delete('tab');
window.history.pushState(null, '', url);
if (window.innerWidth >= 700) return;
setTimeout(() => document.querySelector('#drafts').scrollIntoView({behavior: 'smooth'}), 500); }"""


@dataclass(frozen=True)
class DraftsPanel:
    """The widgets. names: holds the names of the runs, with commas between them."""

    studio: Studio
    names: gr.Textbox
    shown: gr.Textbox
    view: gr.HTML
    timer: gr.Timer

    @staticmethod
    def lay_out(studio: Studio) -> DraftsPanel:
        """Add the widgets and their events to the open layout."""
        names = gr.Textbox("", visible="hidden", elem_id="draft-names")
        shown = gr.Textbox("", visible="hidden")
        view = gr.HTML(visible=False, js_on_load=PICKS, elem_id="drafts")
        panel = DraftsPanel(studio, names, shown, view, gr.Timer(POLL, active=False))
        panel.timer.tick(panel.show, [names, shown], panel.outputs, **QUIET)
        names.change(None, names, None, js=REMEMBER, api_visibility="private")
        return panel

    @property
    def outputs(self) -> list[Any]:
        """The widgets that `open` and `show` change."""
        return [self.names, self.shown, self.view, self.timer]

    def open(self, names: Sequence[str]) -> Updates:
        """Follow these runs; none: hide the panel."""
        known = [name for name in names[:COUNT] if self.studio.find(name)]
        return {**self.show(",".join(known), ""), self.names: ",".join(known)}

    def show(self, names: str, shown: str) -> Updates:
        """Update what changed since `shown`. The timer stops when no draft changes any more."""
        runs = [run for name in names.split(",")[:COUNT] if (run := self.studio.find(name))]
        drafts = [_draft_of(self.studio, run) for run in runs]
        now = " ".join(d.signature for d in drafts) or "none"
        updates: Updates = {self.timer: gr.Timer(active=any(d.changing for d in drafts))}
        if now != shown:
            updates |= {self.shown: now, self.view: gr.HTML(_cards(drafts), visible=bool(drafts))}
        return updates


def start_drafts(studio: Studio, config: RunConfig, own: Path | None) -> list[Run]:
    """Queue the first steps of a run with its seed and the following ones. Raises ConfigError, RunError, OSError."""
    seeds = [(config.seed + i) % (MAX_SEED + 1) for i in range(COUNT)]
    drafts = [config.model_copy(update={"seed": seed}) for seed in seeds]
    return [studio.start(draft, own, draft_steps(draft)) for draft in drafts]


@dataclass(frozen=True)
class _Draft:
    """What the panel shows of a run. changing: whether it changes without further action."""

    run: Run
    status: queue.LiveStatus
    step: int
    until: int
    left: float
    drawn: int
    error: str

    @property
    def changing(self) -> bool:
        return self.status in ("queued", "starting", "running", "exporting")

    @property
    def signature(self) -> str:
        return f"{self.run.folder.name} {self.status} {self.step} {self.drawn}"


def _draft_of(studio: Studio, run: Run) -> _Draft:
    picture = run.preview
    drawn = picture.stat().st_mtime_ns if picture else 0
    try:
        progress, until = queue.progress(run), run.state.pause_at
        cost = cost_of(studio, run)
    except (RunError, ConfigError, OSError) as error:
        return _Draft(run, "failed", 0, 0, 0.0, drawn, studio.problem(error))
    until = until or progress.total
    left = seconds_left(progress, cost) if progress.active else 0.0
    return _Draft(run, progress.status, progress.step, until, left, drawn, studio.redacted(progress.error))


def _cards(drafts: Sequence[_Draft]) -> str:
    return f'<div class="sds-drafts" role="group" aria-label="Drafts">{"".join(map(_card, drafts))}</div>'


def _card(draft: _Draft) -> str:
    name = escape(draft.run.folder.name)
    state = fragments.LABELS[draft.status]
    button = ""
    if draft.status == "done":
        button = f'<button data-run="{name}" data-action="open">Open</button>'
    elif draft.status in RESUMABLE and not draft.error:
        button = f'<button class="primary" data-run="{name}" data-action="refine">Refine this one</button>'
    elif draft.changing:
        button = fragments.bar(draft.step / max(draft.until, 1))
    return (
        f'<article data-draft="{name}" data-state="{draft.status}">'
        f'<div class="picture">{fragments.thumbnail(draft.run)}</div><p>{escape(draft.error) or state}</p>{button}'
        "</article>"
    )
