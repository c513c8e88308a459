"""The page: its layout, and the events that start, follow and cancel runs."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from sds3d.config import ConfigError, presets
from sds3d.jobs import queue
from sds3d.jobs.supervisor import ensure_workers
from sds3d.prompts import checked_prompt
from sds3d.run_config import RunConfig, make_config, new_run, read_config
from sds3d.runs import Run, RunError

from . import views
from .theme import CSS, GONE, THEME

EXAMPLES = (
    "a red mug",
    "a blue chair",
    "a white snowman with a green hat",
    "a yellow duck",
    "an orange car",
    "a red mushroom with a white stem",
)
DEFAULT_PRESET = "toybox"
MAX_SEED = 2**31 - 1
MAX_STEPS = 10_000
EXPORTS = (".glb", ".ply", ".obj", ".mtl", ".png", ".stl", ".usdz", ".splat", ".spz", ".mp4")
"""Endings of the files handed out, in the order of the list."""

# Puts the run into the address, so that reloading the page or opening its address again finds it.
REMEMBER = """(run) => { const url = new URL(window.location); url.searchParams.set('run', run);
if (run) window.history.replaceState(null, '', url); }"""

Updates = dict[Any, Any]
"""New values by the part of the page that takes them."""


def launch(runs: Path, host: str = "127.0.0.1", port: int = 7860, overrides: Sequence[str] = ()) -> None:
    """Serve the page on `host`:`port` until interrupted; runs that are going on then go on.

    runs: the folder of run folders; no other files are served. overrides: KEY=VALUE laid over every preset.
    Raises OSError when the port is taken, ConfigError when an override is wrong.
    """
    root = runs.resolve()
    root.mkdir(parents=True, exist_ok=True)
    page = build_page(root, overrides).queue(default_concurrency_limit=None)
    try:
        page.launch(
            server_name=host,
            server_port=port,
            share=False,
            allowed_paths=[str(root)],
            theme=THEME,
            css=CSS,
            footer_links=[],
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            enable_monitoring=False,
        )
    except OSError as error:
        raise OSError(f"cannot serve on {host}:{port}: is it taken? choose another with --port") from error


def find_run(root: Path, name: str) -> Run | None:
    """The run of this folder name, or None: a name that points anywhere but straight into `root` is no run."""
    folder = root / name
    if not re.fullmatch(r"[\w-][\w.-]*", name) or folder.resolve().parent != root.resolve():
        return None
    run = Run(folder)
    return run if run.config_path.is_file() else None


@dataclass(frozen=True)
class Form:
    """What can be filled in, and its defaults: the presets with `overrides` laid over them."""

    overrides: Sequence[str]

    def base(self, preset: str) -> RunConfig:
        """The configuration of a preset with any prompt."""
        return make_config(EXAMPLES[0], preset, list(self.overrides))

    def description(self, preset: str) -> str:
        """The line that says what a preset is for."""
        return next((p.description for p in presets() if p.name == preset), "")

    def config(self, prompt: str, preset: str, seed: float | None, steps: float | None) -> RunConfig:
        """The configuration of a filled-in form. Raises ValueError, in words for the person who filled it in."""
        prompt = checked_prompt(" ".join(prompt.split()))
        if seed is None or not 0 <= seed <= MAX_SEED:
            raise ValueError(f"the seed must be a whole number from 0 to {MAX_SEED}")
        if steps is None:
            raise ValueError("the number of steps is missing")
        return make_config(prompt, preset, [*self.overrides, f"seed={int(seed)}", f"steps={int(steps)}"])


@dataclass(frozen=True)
class Widgets:
    """The page's parts. `run` and `shown` are a visitor's own: the run's folder name, and what of it is shown."""

    run: gr.State
    shown: gr.State
    address: gr.Textbox
    timer: gr.Timer
    prompt: gr.Textbox
    hint: gr.HTML
    message: gr.HTML
    preset: gr.Dropdown
    seed: gr.Number
    new_seed: gr.Button
    steps: gr.Slider
    generate: gr.Button
    cancel: gr.Button
    status: gr.HTML
    preview: gr.HTML
    results: gr.Column
    model: gr.Model3D
    video: gr.Video
    files: gr.Files


def lay_out(form: Form) -> Widgets:
    """The page's parts, in the Blocks that is open."""
    run, shown = gr.State(""), gr.State("")
    address = gr.Textbox(visible="hidden")
    timer = gr.Timer(1.0, active=False)
    gr.HTML(views.HEAD, container=False)
    with gr.Tabs(), gr.Tab("Create"), gr.Row():
        with gr.Column(scale=2, min_width=320):
            prompt = gr.Textbox(label="Prompt", placeholder=EXAMPLES[0], lines=1, max_lines=4, elem_id="prompt")
            gr.Examples([[text] for text in EXAMPLES], prompt, label="Try one of these", elem_id="examples")
            hint = gr.HTML(visible=False, container=False)
            message = gr.HTML(visible=False, container=False)
            preset = gr.Dropdown(
                [p.name for p in presets() if not p.needs_asset],
                value=DEFAULT_PRESET,
                label="Preset",
                info=form.description(DEFAULT_PRESET),
            )
            with gr.Row(equal_height=True):
                seed = gr.Number(0, label="Seed", precision=0, min_width=120)
                new_seed = gr.Button("New seed", min_width=130, scale=0, elem_id="new-seed")
            with gr.Accordion("Advanced", open=False):
                default = form.base(DEFAULT_PRESET).steps
                steps = gr.Slider(
                    1, MAX_STEPS, default, step=1, label="Steps", info="More steps: more detail, and more time."
                )
            with gr.Row(elem_id="actions"):
                # Enabled when the form is filled in: before that, what is submitted would not be what is shown.
                generate = gr.Button("Generate", variant="primary", size="lg", scale=3, interactive=False)
                cancel = gr.Button("Cancel", size="lg", scale=1, interactive=False, elem_id="cancel", min_width=90)
        with gr.Column(scale=3, min_width=320):
            status = gr.HTML(visible=False, container=False)
            preview = gr.HTML(views.EMPTY, container=False)
            # Hidden by its class and not by `visible`: the viewer stays empty when it is mounted with its model.
            with gr.Column(elem_classes=GONE) as results:
                model = gr.Model3D(
                    label="3D model",
                    height=420,
                    clear_color=(0.945, 0.961, 0.976, 1),
                    interactive=False,
                    elem_id="model",
                )
                with gr.Row():
                    video = gr.Video(
                        label="Turntable", autoplay=True, loop=True, height=300, interactive=False, elem_id="video"
                    )
                    files = gr.Files(label="Download", height=300, interactive=False, elem_id="files")
    return Widgets(
        run, shown, address, timer, prompt, hint, message, preset, seed, new_seed, steps, generate, cancel, status,
        preview, results, model, video, files,
    )  # fmt: skip


class Events:
    """What happens on the page; each returns the parts that change."""

    def __init__(self, root: Path, form: Form, widgets: Widgets) -> None:
        self.root, self.form, self.widgets = root, form, widgets

    def restore(self, request: gr.Request) -> Updates:
        """A visit: the run of the address, or a fresh form with a seed of its own."""
        w = self.widgets
        ready: Updates = {w.generate: gr.Button(interactive=True)}
        name = str(request.query_params.get("run") or "")
        if not name:
            return {**ready, w.seed: new_seed()}
        run = find_run(self.root, name)
        if run is None:
            return {**ready, w.message: said(views.error("There is no run of that name here; was it deleted?"))}
        try:
            config = read_config(run)
        except ConfigError as problem:
            return {**ready, w.message: said(views.error(str(problem)))}
        form = {w.run: name, w.prompt: config.prompt, w.seed: config.seed, w.steps: config.steps}
        return {**ready, **form, w.timer: gr.Timer(active=True), **self.show(name, "")}

    def submit(self, name: str, prompt: str, preset: str, seed: float | None, steps: float | None) -> Updates:
        """Start the run of the form, or say why not."""
        w = self.widgets
        current = find_run(self.root, name)
        if current is not None and queue.progress(current).active:  # the Enter key is not disabled as the button is
            return {w.message: said(views.error("A run is going on here. Cancel it first, or open another tab."))}
        try:
            run = new_run(self.root, self.form.config(prompt, preset, seed, steps))
            queue.enqueue(run)
            ensure_workers(self.root)
        except (ValueError, RunError, OSError) as problem:
            text = str(problem)
            return {w.message: said(views.error(text[:1].upper() + text[1:]))}
        name = run.folder.name
        again = views.note("Made before: the same settings give the same object. Another seed gives another.")
        message = said(again if run.state.status == "done" else "")
        fresh = {w.run: name, w.address: name, w.message: message, w.model: None, w.video: None, w.files: None}
        return {**fresh, w.timer: gr.Timer(active=True), **self.show(name, "")}

    def show(self, name: str, shown: str) -> Updates:
        """What changed of the run since `shown`; the timer that asks stops when nothing more will happen."""
        w = self.widgets
        run = find_run(self.root, name)
        if run is None:
            return {w.timer: gr.Timer(active=False)}
        try:
            progress = queue.progress(run)
            prompt = read_config(run).prompt
        except (RunError, ConfigError) as problem:
            return {w.timer: gr.Timer(active=False), w.message: said(views.error(str(problem)))}
        updates: Updates = {
            w.status: said(views.status(prompt, progress)),
            w.generate: gr.Button(interactive=not progress.active),
            w.cancel: gr.Button(interactive=progress.active),
        }
        picture = run.previews / "latest.png"
        drawn = picture.exists()
        now = f"{progress.active} {picture.stat().st_mtime_ns if drawn else 0}"
        if now != shown:
            finished = progress.status == "done"
            updates |= {
                w.shown: now,
                w.timer: gr.Timer(active=progress.active),
                w.results: gr.Column(elem_classes="" if finished else GONE),
                w.preview: gr.HTML(views.preview(picture) if drawn else views.EMPTY, visible=not finished),
            }
            if finished:
                updates |= self.exports(run)
        if progress.error and not progress.active:
            updates[w.message] = said(views.error(f"The run {progress.status}: {progress.error}"))
        return updates

    def exports(self, run: Run) -> Updates:
        """The finished files, the mesh for the viewer first."""
        w = self.widgets
        found = sorted(
            (path for path in run.exports.glob("*") if path.suffix in EXPORTS),
            key=lambda path: (EXPORTS.index(path.suffix), path.name),
        )
        by_suffix = {path.suffix: str(path) for path in found}
        return {
            w.model: by_suffix.get(".glb"),
            w.video: by_suffix.get(".mp4"),
            w.files: [str(path) for path in found],
        }

    def stop(self, name: str) -> Updates:
        """Cancel the run."""
        run = find_run(self.root, name)
        if run is not None and queue.progress(run).active:
            queue.stop(run, "cancel")
        return {self.widgets.timer: gr.Timer(active=True)}

    def warn(self, prompt: str, preset: str) -> gr.HTML:
        """Name the words that the embedded prior does not know."""
        embedded = self.form.base(preset).prior.model == "toybox"
        return said(views.prompt_hint(prompt) if embedded else "")

    def choose(self, preset: str) -> Updates:
        """Say what the preset is for, and take its number of steps."""
        w = self.widgets
        return {w.preset: gr.Dropdown(info=self.form.description(preset)), w.steps: self.form.base(preset).steps}


def build_page(root: Path, overrides: Sequence[str] = ()) -> gr.Blocks:
    """The page over the run folders in `root`. Raises ConfigError when an override is wrong."""
    form = Form(overrides)
    with gr.Blocks(title="sds3d", analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        w = lay_out(form)
        events = Events(root, form, w)
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        view: list[Any] = [w.run, w.shown, w.address, w.timer, w.message, w.generate, w.cancel, w.status, w.preview,
                           w.results, w.model, w.video, w.files]  # fmt: skip
        page.load(events.restore, None, [*view, w.prompt, w.seed, w.steps], **quiet)
        for pressed in (w.generate.click, w.prompt.submit):
            pressed(events.submit, [w.run, w.prompt, w.preset, w.seed, w.steps], view, **quiet).then(
                None, w.address, None, js=REMEMBER, api_visibility="private"
            )
        w.timer.tick(events.show, [w.run, w.shown], view, **quiet)
        w.cancel.click(events.stop, w.run, view, **quiet)
        w.prompt.change(events.warn, [w.prompt, w.preset], w.hint, trigger_mode="always_last", **quiet)
        w.preset.change(events.choose, w.preset, [w.preset, w.steps], **quiet).then(
            events.warn, [w.prompt, w.preset], w.hint, **quiet
        )
        w.new_seed.click(new_seed, None, w.seed, **quiet)
    return page


def new_seed() -> int:
    """A seed short enough to be remembered."""
    return random.randrange(10_000)


def said(html: str) -> gr.HTML:
    """An HTML block that takes no room while it has nothing to say."""
    return gr.HTML(html, visible=bool(html))
