"""The tab "Compare": two to four runs side by side, or one prompt with several presets."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from sds3d.app import fragments
from sds3d.app.edits import Edits, leaves_of, text_of
from sds3d.app.estimates import seconds_left
from sds3d.app.result_panel import Updates, measures
from sds3d.app.run_panel import POLL, QUIET, block
from sds3d.app.serving import address
from sds3d.app.studio import Studio, files, one_line
from sds3d.app.tab_create import EXAMPLES, checked_seed
from sds3d.app.tab_library import RunCard, card_of
from sds3d.config import ConfigError, parse_value
from sds3d.files import RunError
from sds3d.presets import DEFAULT_PRESET
from sds3d.run.config import RunConfig, stage_config, stage_count, total_steps
from sds3d.run.folder import Run

MOST = 4  # runs side by side
CHOICES = 200  # at most this many runs are offered, the newest first


@dataclass(frozen=True)
class CompareTab:
    """The widgets of the tab that other tabs use."""

    studio: Studio
    runs: gr.Dropdown
    view: gr.HTML
    signature: gr.Textbox
    message: gr.HTML
    timer: gr.Timer

    @property
    def outputs(self) -> list[Any]:
        """The widgets that `choose` and `show` change."""
        return [self.runs, self.view, self.signature, self.message]

    def choose(self, names: Sequence[str]) -> Updates:
        """Show these runs side by side."""
        names = [name for name in dict.fromkeys(names) if self.studio.find(name)][-MOST:]
        offered = [card_of(self.studio, run) for run in self.studio.runs()[:CHOICES]]
        listed = [(f"{e.title} · {e.about} · {e.name[-8:]}", e.name) for e in offered]
        here = {name for _, name in listed}
        listed += [(name, name) for name in names if name not in here]
        return {self.runs: gr.Dropdown(choices=listed, value=names), **self.show(names, "")}

    def show(self, names: Sequence[str] | None, signature: str) -> Updates:
        """Update the runs if they changed since `signature`."""
        entries = [card_of(self.studio, run) for name in (names or [])[:MOST] if (run := self.studio.find(name))]
        now = " ".join(f"{e.name} {e.status} {_step(e)} {_drawn(e.run)}" for e in entries) or "none"
        if now == signature:
            return {self.signature: now}
        return {self.signature: now, self.view: side_by_side(entries)}

    def start(self, prompt: str, presets: Sequence[str] | None, seed: float | None, steps: str) -> Updates:
        """Start a run of the prompt with each preset."""
        try:
            presets = list(presets or [])
            if not 2 <= len(presets) <= MOST:
                raise ConfigError(f"choose 2 to {MOST} presets to compare")
            layer: dict[str, Any] = {"seed": checked_seed(seed)}
            if steps.strip():
                layer["steps"] = parse_value(steps)
            configs = [
                self.studio.config(one_line(prompt), preset, layer) for preset in presets
            ]  # before any run starts
            runs = [self.studio.start(config) for config in configs]
        except (ValueError, RunError, OSError) as error:
            return {self.message: block(fragments.error(self.studio.problem(error)))}
        return {self.message: block(""), **self.choose([run.folder.name for run in runs])}


def lay_out(studio: Studio) -> CompareTab:
    """Add the tab and its events to the open layout."""
    with gr.Accordion("One prompt with several presets", open=False, elem_id="several"):
        prompt = gr.Textbox(label="Prompt", placeholder=EXAMPLES[0], elem_id="compare-prompt")
        with gr.Row():
            presets = gr.Dropdown(
                list(studio.presets(of_files=False)), value=[DEFAULT_PRESET, "dreamfusion"], multiselect=True,
                max_choices=MOST, scale=3, label="Presets", info=f"2 to {MOST}; one run each",
                elem_id="compare-presets",
            )  # fmt: skip
            seed = gr.Number(0, label="Seed", info="the same for all runs", precision=0, min_width=110)
            # A number field without a number would show 0.
            steps = gr.Textbox(
                label="Steps", info="the same for all runs", placeholder="as in each preset", min_width=110
            )
        start = gr.Button("Generate side by side", variant="primary", elem_id="compare-start")
    message = gr.HTML(visible=False, elem_id="compare-message")
    runs = gr.Dropdown(
        [], value=[], multiselect=True, max_choices=MOST, label="Runs", info=f"2 to {MOST} runs of the library",
        elem_id="compare-runs",
    )  # fmt: skip
    view = gr.HTML(side_by_side([]), elem_id="side-by-side")
    signature = gr.Textbox(visible="hidden")
    timer = gr.Timer(2 * POLL, active=False)
    compare = CompareTab(studio, runs, view, signature, message, timer)
    runs.input(lambda names: compare.show(names, ""), runs, [view, signature], **QUIET)
    timer.tick(compare.show, [runs, signature], [view, signature], **QUIET)
    start.click(compare.start, [prompt, presets, seed, steps], compare.outputs, **QUIET)
    return compare


def side_by_side(entries: Sequence[RunCard]) -> str:
    """Return columns with the pictures, differing settings and figures of each run."""
    if not entries:
        return fragments.empty(
            "Choose runs above, press Compare in the library, or run one prompt with several presets."
        )
    columns = "".join(f"<td>{_column(e)}</td>" for e in entries)
    settings = differing(entries)
    figures = _rows([dict(_figures(e)) for e in entries])
    body = _section("Settings that differ", settings, len(entries)) + _section("Figures", figures, len(entries))
    return (
        f'<div class="sds-scroll" tabindex="0" role="region" aria-label="Runs side by side">'
        f'<table class="sds-table sds-compare" style="--columns:{len(entries)}">'
        f'<tr class="pictures"><td></td>{columns}</tr>{body}</table></div>'
    )


def differing(entries: Sequence[RunCard]) -> list[tuple[str, list[str]]]:
    """Return the settings that differ between the runs, except the prompt, with the value of each run."""
    leaves = [_settings(e.recipe.config) if e.recipe else {} for e in entries]
    presets = [e.recipe.preset if e.recipe else "" for e in entries]
    rows = [("preset (nearest)", presets)] if len(set(presets)) > 1 else []
    for key in dict.fromkeys(key for settings in leaves for key in settings):
        if key in ("prompt", "start_from_sha256") or not all(key in settings for settings in leaves):
            continue  # settings of only one variant: the variant itself is listed
        values = [text_of(settings[key]) for settings in leaves]
        if len(set(values)) > 1:
            rows.append((key.removesuffix(".name"), values))
    return rows


def _settings(config: RunConfig) -> Edits:
    """Return all settings by dotted key. Of a run with stages, those of the last stage, which makes the result."""
    if not config.stages:
        return leaves_of(config) | {"stages": "none"}
    stages = [leaves_of(stage_config(config, index)) for index in range(stage_count(config))]
    named = [
        f"{n}: {stage['representation.name']} by {stage['guidance.name']}, {stage['steps']} steps"
        for n, stage in enumerate(stages, 1)
    ]
    return stages[-1] | {"steps": total_steps(config), "stages": "; ".join(named)}


def _figures(e: RunCard) -> list[tuple[str, str]]:
    if e.progress is None:
        return [("State", "damaged")]
    rows = [("State", fragments.LABELS[e.progress.status]), ("Step", f"{e.progress.step} of {e.progress.total}")]
    try:
        return rows + (measures(e.run) if e.progress.status == "done" else [("Folder", e.name)])
    except (RunError, OSError):
        return [*rows, ("Error", "its files cannot be read")]


def _rows(figures: Sequence[dict[str, str]]) -> list[tuple[str, list[str]]]:
    names = dict.fromkeys(name for of_one in figures for name in of_one)
    return [(name, [of_one.get(name, "–") for of_one in figures]) for name in names]


def _section(title: str, rows: Sequence[tuple[str, list[str]]], columns: int) -> str:
    if not rows:
        return ""
    head = f'<tr class="head"><th colspan="{columns + 1}">{escape(title)}</th></tr>'
    return head + "".join(
        f"<tr><th>{escape(name)}</th>{''.join(f'<td>{escape(value)}</td>' for value in values)}</tr>"
        for name, values in rows
    )


def _column(e: RunCard) -> str:
    status = fragments.LABELS[e.status]
    bar = fragments.bar(e.share) if e.progress else ""
    kind = e.progress.status if e.progress else "failed"
    return (
        f'<article data-run="{escape(e.name, quote=True)}" data-state="{e.status}">{_moving(e)}'
        f'<b>{escape(e.title)}</b><p class="about" title="{escape(e.about, quote=True)}">{escape(e.about)}</p>'
        f'<p><span class="sds-badge {e.status}">{status}</span> {escape(_left(e))}</p>'
        f'<div class="sds-progress plain {kind}">{bar}</div></article>'
    )


def _left(e: RunCard) -> str:
    p = e.progress
    if p is None or p.status != "running":
        return ""
    left = seconds_left(p, e.cost)
    return f"step {p.step} of {p.total}" + (f" · {fragments.about(left)} left" if left else "")


def _moving(e: RunCard) -> str:
    """Return the turntable of a finished run, or an animation of the views so far."""
    video = next((path for path in files(e.run) if path.name == "turntable.mp4"), None) if e.status == "done" else None
    if video is not None:
        with suppress(OSError):  # if it cannot be copied, show the views
            source, label = escape(address(video), quote=True), "The object, turning"
            return f'<video src="{source}" autoplay loop muted playsinline aria-label="{label}"></video>'
    picture = e.run.preview
    return fragments.turning(picture) if picture else f'<div class="sds-turning">{fragments.CUBE}</div>'


def _step(e: RunCard) -> int:
    return e.progress.step if e.progress else 0


def _drawn(run: Run) -> int:
    picture = run.preview
    return picture.stat().st_mtime_ns if picture else 0
