"""The tab "System": what this machine can do, and the state of the studio."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from html import escape

import gradio as gr

from sds3d.app import fragments
from sds3d.app.studio import Studio
from sds3d.files import RunError
from sds3d.jobs import queue
from sds3d.jobs.supervisor import supervised
from sds3d.run.doctor import can_generate, examine
from sds3d.version import __version__


@dataclass(frozen=True)
class SystemTab:
    """The widgets of the tab. view: the findings."""

    studio: Studio
    view: gr.HTML

    def show(self) -> str:
        """Examine the machine, which takes some seconds."""
        findings = examine(self.studio.root)
        rows = "".join(
            f'<tr><td><span class="sds-badge {kind}">{mark}</span></td><th>{escape(finding.name)}</th>'
            f"<td>{escape(self.studio.redacted(finding.detail))}</td></tr>"
            for finding in findings
            for mark, kind in [_mark(finding.ok, finding.needed)]
        )
        verdict = fragments.good("This machine can generate.") if can_generate(findings) else ""
        if not verdict:
            verdict = fragments.error("Something that every run needs is missing; see the table below.")
        return (
            f'{verdict}<div class="sds-scroll"><table class="sds-table wide">{rows}</table></div>'
            f"{fragments.table(facts(self.studio))}"
        )


def facts(studio: Studio) -> list[tuple[str, str]]:
    """Return facts about the studio: versions, runs by state, and whether a worker is running."""
    counts: dict[str, int] = {}
    for run in studio.runs():
        try:
            status = queue.progress(run).status
        except RunError:
            status = "damaged"
        counts[status] = counts.get(status, 0) + 1
    runs = ", ".join(f"{count} {fragments.LABELS[status]}" for status, count in sorted(counts.items())) or "none yet"
    return [
        ("sds3d", __version__),
        ("Gradio", importlib.metadata.version("gradio")),
        ("Runs", runs),
        ("Worker", "running" if supervised(studio.root) else "none; the next run starts one"),
        ("Folder of runs", str(studio.root) if studio.trusted else studio.root.name),
    ]


def _mark(ok: bool, needed: bool) -> tuple[str, str]:
    if ok:
        return "ok", "done"
    return ("missing", "failed") if needed else ("no", "paused")


def lay_out(studio: Studio) -> SystemTab:
    """Add the tab to the open layout."""
    view = gr.HTML(fragments.empty("Examining the machine …"), elem_id="system")
    again = gr.Button("Check again", elem_id="check-again")
    system = SystemTab(studio, view)
    again.click(system.show, None, view, api_visibility="private", concurrency_limit=1)
    return system
