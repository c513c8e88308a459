"""The tab "Create": a form on the left, the run it started on the right."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from sds3d.app import fragments, settings_form
from sds3d.app.edits import Edits, choices_of, leaves_of, nested
from sds3d.app.recipes import recipe
from sds3d.app.result_panel import Updates
from sds3d.app.run_panel import QUIET, RunPanel, said
from sds3d.app.studio import MAX_SEED, OWNERS_ONLY, Studio, checked
from sds3d.config import ConfigError
from sds3d.files import RunError
from sds3d.run.folder import Run
from sds3d.run.settings import Setting

EXAMPLES = (
    "a red mug",
    "a blue chair",
    "a white snowman with a green hat",
    "a yellow duck",
    "an orange car",
    "a red mushroom with a white stem",
)
DEFAULT_PRESET = "toybox"

# Gradio's dropdowns tell a choice twice. Answered at the same time, both would change the draft, and the settings would
# be made anew a second time, under the hands of whoever opens a section by then.
ONE_BY_ONE: dict[str, Any] = {**QUIET, "concurrency_limit": 1}


@dataclass(frozen=True)
class Draft:
    """What the advanced settings show: a preset with edits on top, which are JSON, so that drafts can be compared.

    unfolded: the section that is open, if any.
    """

    preset: str = DEFAULT_PRESET
    changes: str = "{}"
    unfolded: str | None = None

    @staticmethod
    def of(preset: str, edits: Edits, unfolded: str | None = None) -> Draft:
        """A draft that the page's state can hold."""
        return Draft(preset, json.dumps(edits), unfolded)

    @property
    def edits(self) -> Edits:
        """What differs from the preset."""
        return json.loads(self.changes)


@dataclass(frozen=True)
class CreateTab:
    """The tab's widgets that others need."""

    studio: Studio
    live: RunPanel
    prompt: gr.Textbox
    hint: gr.HTML
    preset: gr.Dropdown
    draft: gr.State
    seed: gr.Number
    generate: gr.Button

    @property
    def outputs(self) -> list[Any]:
        """What `open` changes."""
        return [*self.live.outputs, self.prompt, self.preset, self.draft, self.seed]

    def open(self, name: str) -> Updates:
        """Show a run, with its settings in the form."""
        try:
            run = self.studio.open(name)
            made = recipe(self.studio, run)
        except (RunError, ConfigError, OSError) as error:
            return {self.live.message: said(fragments.error(self.studio.problem(error)))}
        return {
            self.prompt: made.config.prompt,
            self.preset: gr.Dropdown(value=made.preset, info=self.studio.presets()[made.preset]),
            self.draft: Draft.of(made.preset, made.edits),
            self.seed: made.config.seed,
            **self.live.opened(name),
        }

    def again(self, name: str) -> Run:
        """Queue a run's settings with a new seed. Raises RunError, ConfigError, OSError."""
        config = recipe(self.studio, self.studio.open(name)).config
        return self.studio.start(config.model_copy(update={"seed": new_seed()}))


def lay_out(studio: Studio) -> CreateTab:
    """The tab, in the layout that is open, with its events."""
    presets = studio.presets()
    draft = gr.State(Draft())
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            prompt = gr.Textbox(
                label="Prompt", placeholder=EXAMPLES[0], lines=1, max_lines=4, interactive=True, elem_id="prompt"
            )
            examples = gr.Examples(
                [[text] for text in EXAMPLES], prompt, label="The embedded prior knows things like", elem_id="examples"
            )
            examples.dataset.api_visibility = "private"  # type: ignore[attr-defined]
            hint = gr.HTML(visible=False)
            # Enabled when the form is filled in: before that, what is submitted would not be what is shown.
            generate = gr.Button("Generate", variant="primary", size="lg", interactive=False, elem_id="generate")
            preset = gr.Dropdown(
                list(presets),
                value=DEFAULT_PRESET,
                label="Preset",
                info=presets[DEFAULT_PRESET],
                interactive=True,
                elem_id="preset",
            )
            with gr.Row(equal_height=True):
                seed = gr.Number(0, label="Seed", precision=0, interactive=True, min_width=120, elem_id="seed")
                new = gr.Button("New seed", min_width=130, scale=0, elem_id="new-seed")
            settings = gr.Column(elem_id="settings")
        with gr.Column(scale=3, min_width=320):
            live = RunPanel.lay_out(studio)
    create = CreateTab(studio, live, prompt, hint, preset, draft, seed, generate)
    with settings:
        _settings(create)
    _wire(create, new)
    return create


def _wire(create: CreateTab, new: gr.Button) -> None:
    studio, live = create.studio, create.live

    def choose(preset: str) -> Updates:
        about = studio.presets().get(preset, "")
        return {create.preset: gr.Dropdown(info=about), create.draft: Draft(preset)}

    def warn(prompt: str, draft: Draft) -> gr.HTML:
        model = draft.edits.get("prior.model", "toybox")
        return said(fragments.prompt_hint(prompt) if model == "toybox" else "")

    def more(name: str) -> Updates:
        try:
            run = create.again(name)
        except (RunError, ConfigError, OSError) as error:
            return {live.message: said(fragments.error(studio.problem(error)))}
        return create.open(run.folder.name)

    create.preset.input(choose, create.preset, [create.preset, create.draft], **ONE_BY_ONE)
    create.prompt.change(warn, [create.prompt, create.draft], create.hint, trigger_mode="always_last", **QUIET)
    new.click(new_seed, None, create.seed, **QUIET)
    live.more.click(more, live.run, create.outputs, **QUIET)


def _settings(create: CreateTab) -> None:
    """The settings of the draft; they and what depends on them are made anew when the draft changes."""
    studio, live = create.studio, create.live

    @gr.render(inputs=[create.draft], show_progress="hidden")
    def render(draft: Draft) -> None:
        edits = draft.edits
        try:
            base = studio.config(EXAMPLES[0], draft.preset, nested(choices_of(edits)))
            full = studio.config(EXAMPLES[0], draft.preset, nested(edits))
        except ConfigError as error:
            gr.HTML(fragments.error(studio.problem(error)))
            return
        fields, start = settings_form.fields_of(full), leaves_of(base) | dict.fromkeys(choices_of(edits), None)
        stages = bool(full.stages)

        def fixed(field: Setting) -> bool:
            chosen = stages and field.key in settings_form.PROMINENT[:2]
            return chosen or (not studio.local and field.key in OWNERS_ONLY)

        widgets = settings_form.lay_out(fields, fixed, draft.unfolded)
        if stages:
            gr.HTML(fragments.note("This preset has stages, which choose their own representations and rules."))

        def submit(prompt: str, preset: str, seed: float | None, *values: Any) -> Updates:
            try:
                if preset != draft.preset:
                    raise ConfigError("the settings are still loading: try again in a moment")
                chosen = settings_form.edited(fields, start, values) | {"seed": checked_seed(seed)}
                config = studio.config(checked(prompt), preset, nested(chosen))
                run = studio.start(config)
            except (ValueError, RunError, OSError) as error:
                return {live.message: said(fragments.error(studio.problem(error)))}
            return live.opened(run.folder.name, again=True)

        def rechoose(chosen: Setting, *values: Any) -> Draft:
            try:
                now = settings_form.edited(fields, start, values)
            except ConfigError:  # what cannot be read is given up with the choice
                now = edits
            unfolded = draft.unfolded if chosen.key in settings_form.PROMINENT else chosen.section
            return Draft.of(draft.preset, consistent(now, edits), unfolded)

        given = [create.prompt, create.preset, create.seed, *widgets]
        gr.on([create.generate.click, create.prompt.submit], submit, given, live.outputs, trigger_mode="once", **QUIET)
        for field, widget in zip(fields, widgets, strict=True):
            if field.is_choice:
                widget.input(partial(rechoose, field), widgets, create.draft, **ONE_BY_ONE)  # type: ignore[attr-defined]
        gr.on(None, lambda: gr.Button(interactive=True), None, create.generate, **QUIET)


def consistent(now: Edits, before: Edits) -> Edits:
    """Edits after a choice was changed: those within the section that was chosen anew are dropped."""
    changed = [k for k, v in now.items() if k.endswith(".name") and before.get(k) != v]
    sections = tuple(key.removesuffix("name") for key in changed)
    return {k: v for k, v in now.items() if k in changed or not (sections and k.startswith(sections))}


def new_seed() -> int:
    """A seed short enough to be remembered."""
    return random.randrange(10_000)


def checked_seed(seed: float | None) -> int:
    """A whole number that can be a seed. Raises ConfigError."""
    if seed is None or not 0 <= seed <= MAX_SEED or seed != int(seed):
        raise ConfigError(f"the seed must be a whole number from 0 to {MAX_SEED}")
    return int(seed)
