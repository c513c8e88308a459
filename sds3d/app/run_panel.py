"""The panel of the run that a visitor follows: progress, preview, curves and result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from sds3d.app import estimates, fragments, result_panel
from sds3d.app.recipes import recipe
from sds3d.app.result_panel import ResultPanel, Updates
from sds3d.app.studio import Studio
from sds3d.app.theme import GONE
from sds3d.app.viewing import live_view
from sds3d.app.visitors import access_of
from sds3d.config import ConfigError
from sds3d.files import RunError
from sds3d.jobs import queue
from sds3d.jobs.queue import Progress
from sds3d.run.folder import Run

POLL = 1.0  # seconds
REST = 5.0  # seconds; for stopped runs, which may be resumed from another page

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
"""Options of events that only the page triggers."""

# Puts the run into the address, so that a reload, a bookmark or the Back button finds it. On a phone, where the panel
# is below the form, scrolls to it.
REMEMBER = """(run) => { const url = new URL(window.location);
if (!run) return;
if (url.searchParams.get('run') !== run) {
  url.searchParams.set('run', run);
  url.searchParams.delete('tab');
  window.history.pushState(null, '', url);
}
if (window.innerWidth >= 700) return;
setTimeout(() => document.querySelector('#status, #preview').scrollIntoView({behavior: 'smooth'}), 500); }"""

STOPPABLE = ("queued", "starting", "running")
RESUMABLE = ("new", "paused", "cancelled", "failed", "stopped")


@dataclass(frozen=True)
class RunPanel:
    """The widgets of the panel.

    run: holds the run's folder name. shown: holds a signature of what the page shows. Both are stored in the page, so
    that they survive a restart of the server.
    """

    studio: Studio
    run: gr.Textbox
    shown: gr.Textbox
    timer: gr.Timer
    message: gr.HTML
    status: gr.HTML
    pause: gr.Button
    resume: gr.Button
    cancel: gr.Button
    more: gr.Button
    shared: gr.Checkbox
    live: gr.HTML
    preview: gr.HTML
    plots: gr.HTML
    curves: gr.Accordion
    result: ResultPanel

    @staticmethod
    def lay_out(studio: Studio) -> RunPanel:
        """Add the widgets and their events to the open layout."""
        run, shown = gr.Textbox(visible="hidden", elem_id="run"), gr.Textbox(visible="hidden", elem_id="shown")
        timer = gr.Timer(POLL, active=False)
        message, status = gr.HTML(visible=False, elem_id="message"), gr.HTML(visible=False, elem_id="status")
        with gr.Row(elem_id="actions"):
            buttons: dict[str, Any] = {"size": "md", "visible": False, "min_width": 100}
            pause = gr.Button("Pause", elem_id="pause", **buttons)
            resume = gr.Button("Resume", variant="primary", elem_id="resume", **buttons)
            cancel = gr.Button("Cancel", elem_id="cancel", **buttons)
            more = gr.Button("More like this", elem_id="more", **buttons)
        shared = gr.Checkbox(label="Others may see this run", visible=False, container=False, elem_id="shared")
        view = live_view(studio, "live")
        preview = gr.HTML(fragments.EMPTY, elem_id="preview")
        finished = result_panel.lay_out()
        with gr.Accordion("Curves", open=True, visible=False, elem_id="curves") as curves:
            plots = gr.HTML()
        live = RunPanel(
            studio,
            run,
            shown,
            timer,
            message,
            status,
            pause,
            resume,
            cancel,
            more,
            shared,
            view,
            preview,
            plots,
            curves,
            finished,
        )
        result_panel.wire(finished, studio, run)
        timer.tick(live.show, [run, shown], live.outputs, **QUIET)
        run.change(None, run, None, js=REMEMBER, api_visibility="private")
        pause.click(lambda name: live.request(name, "pause"), run, live.outputs, **QUIET)
        cancel.click(lambda name: live.request(name, "cancel"), run, live.outputs, **QUIET)
        resume.click(lambda name: live.request(name, "resume"), run, live.outputs, **QUIET)
        shared.input(live.share, [run, shared], message, **QUIET)
        return live

    @property
    def outputs(self) -> list[Any]:
        """The widgets that `opened`, `show` and `request` change."""
        return [self.run, self.shown, self.timer, self.message, self.status, self.pause, self.resume, self.cancel,
                self.more, self.shared, self.live, self.preview, self.plots, self.curves,
                *self.result.outputs]  # fmt: skip

    def opened(self, name: str, again: bool = False) -> Updates:
        """Start to follow a run. again: add a note if it was finished before."""
        text = ""
        if again and self._status(name) == "done":
            text = fragments.note(
                "This run was finished before. The same settings give the same object; another seed gives another one."
            )
        return {self.message: block(text), **self.result.hide(), **self.show(name, ""), self.run: name}

    def close(self) -> Updates:
        """Follow no run."""
        empty: Updates = dict.fromkeys((self.message, self.status), block(""))
        hidden = dict.fromkeys((self.pause, self.resume, self.cancel, self.more), gr.Button(visible=False))
        return {
            self.run: "", self.shown: "", self.timer: gr.Timer(active=False), self.shared: gr.Checkbox(visible=False),
            self.live: gr.HTML("", elem_classes=GONE), self.preview: gr.HTML(visible=False),
            self.curves: gr.Accordion(visible=False), **empty, **hidden, **self.result.hide(),
        }  # fmt: skip

    def _status(self, name: str) -> str:
        try:
            return self.studio.open(name).state.status
        except RunError:
            return ""

    def show(self, name: str, shown: str) -> Updates:
        """Update what changed since `shown`. The timer stops when the run cannot change any more."""
        if not name:
            return {self.timer: gr.Timer(active=False)}
        try:
            return self._changed(self.studio.open(name), shown)
        except (RunError, ConfigError, OSError) as error:
            return {self.timer: gr.Timer(active=False), self.message: self._error(error)}

    def _changed(self, run: Run, shown: str) -> Updates:
        """Like `show`. Raises RunError, ConfigError, OSError if the run cannot be read."""
        progress = queue.progress(run)
        prompt, cost = recipe(self.studio, run).config.prompt, estimates.cost_of(self.studio, run)
        planned = estimates.planned(self.studio, run, progress)
        left, share = estimates.seconds_left(planned, cost), estimates.share_done(planned, cost)
        before = estimates.wait(self.studio, run) if progress.status == "queued" else None
        updates: Updates = {self.status: block(fragments.status(prompt, planned, share, left, before, run.requested()))}
        picture = run.preview
        drawn = picture.stat().st_mtime_ns if picture else 0
        now = f"{progress.status} {drawn} {progress.step // max(progress.total // 100, 1)}"
        if now != shown:
            before_status, before_drawn, *_ = [*shown.split(), "", ""]
            updates |= {self.shown: now, **self._buttons(run, progress), **self._curves(run, progress)}
            done = progress.status == "done"
            if str(drawn) != before_drawn or progress.status != before_status:
                html = fragments.preview(picture) if picture else fragments.EMPTY
                updates[self.preview] = gr.HTML(html, visible=not done)
            if progress.status != before_status:
                going = progress.status in ("running", "exporting")
                updates[self.live] = gr.HTML(run.folder.name if going else "", elem_classes="" if going else GONE)
                updates |= self._status_changed(run, progress, before_status)
        return updates

    def _status_changed(self, run: Run, progress: Progress, before: str) -> Updates:
        """Update message and result after a change of the status. before: the former status."""
        updates: Updates = {}
        if progress.error:
            text = self.studio.redacted(f"The run {progress.status}: {progress.error}")
            updates[self.message] = block(fragments.error(text))
        elif before in ("failed", "stopped"):
            updates[self.message] = block("")
        try:
            updates |= self.result.show(run, self.studio) if progress.status == "done" else self.result.hide()
        except OSError as error:  # only the display failed, not the run
            updates |= {**self.result.hide(), self.message: self._error(error)}
        return updates

    def _error(self, error: Exception) -> gr.HTML:
        return block(fragments.error(self.studio.problem(error)))

    def _buttons(self, run: Run, progress: Progress) -> Updates:
        status, own = progress.status, self.studio.changes(run)
        stopped = status == "stopped"
        return {
            self.timer: gr.Timer(POLL if progress.active or stopped else REST, active=status != "done"),
            self.pause: gr.Button(visible=own and status in STOPPABLE),
            self.resume: gr.Button(visible=own and status in RESUMABLE),
            self.cancel: gr.Button(visible=own and (status in STOPPABLE or status == "paused")),
            self.more: gr.Button(visible=status != "new"),
            self.shared: gr.Checkbox(access_of(run).shared, visible=bool(self.studio.users) and own),
        }

    def _curves(self, run: Run, progress: Progress) -> Updates:
        seen = (run.folder / "events.jsonl").exists()
        return {
            self.plots: fragments.plots(run, progress.total) if seen else "",
            self.curves: gr.Accordion(visible=seen),
        }

    def share(self, name: str, shared: bool) -> gr.HTML:
        """Let the other users see the run, or not."""
        try:
            self.studio.share(self.studio.open_own(name), shared)
        except (RunError, OSError) as error:
            return self._error(error)
        return block("")

    def request(self, name: str, what: str) -> Updates:
        """Pause, cancel or resume the run."""
        try:
            run = self.studio.open_own(name)
            if what == "resume":
                self.studio.resume(run)
            else:
                queue.stop(run, "pause" if what == "pause" else "cancel")
        except (RunError, OSError) as error:
            return {self.message: self._error(error)}
        return {self.message: block(""), **self.show(name, "")}


def block(html: str) -> gr.HTML:
    """Return an HTML block that is hidden while it is empty."""
    return gr.HTML(html, visible=bool(html))
