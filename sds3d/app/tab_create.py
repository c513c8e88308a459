"""The tab "Create": a form on the left, the run on the right."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.context import LocalContext

from sds3d.app import cards, estimates, fragments, own_file, own_pictures, own_style, recipe_panel, settings_form
from sds3d.app.cutting import OwnPictures, read_pictures
from sds3d.app.drafts_panel import COUNT, DraftsPanel, start_drafts
from sds3d.app.edits import Edits, choices_of, leaves_of, nested
from sds3d.app.limits import OWNERS_ONLY
from sds3d.app.own_file import OF_A_RUN, OwnFile
from sds3d.app.own_pictures import OwnPicturesPanel
from sds3d.app.own_style import OwnStyle
from sds3d.app.recipes import Recipe, recipe
from sds3d.app.result_panel import Updates
from sds3d.app.run_panel import QUIET, RunPanel, block
from sds3d.app.studio import MAX_SEED, Studio, one_line, refuse_without_file
from sds3d.config import ConfigError
from sds3d.files import RunError
from sds3d.presets import DEFAULT_PRESET, presets
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.run.config import RunConfig, draft_steps, total_steps
from sds3d.run.folder import Run
from sds3d.run.reference_config import ReferenceConfig
from sds3d.run.settings import Setting

EXAMPLES = (
    "a red mug",
    "a blue chair",
    "a yellow snowman with a green hat",
    "a yellow duck",
    "an orange car",
    "a red mushroom with a white stem",
)
STAGES = "This preset has stages. A rule that you choose here holds in all of them, a representation replaces them."
NO_STAGES = "The representation that you chose replaces the stages of this preset."
REPLAN = 5.0  # seconds between looks at the queue

# Gradio's dropdowns send each choice twice. Processed at the same time, both would change the draft, and the settings
# would be rebuilt a second time, possibly while the visitor opens a section.
ONE_BY_ONE: dict[str, Any] = {**QUIET, "concurrency_limit": 1, "concurrency_id": "choices"}

# Gradio keeps a queue for each function, also for those of forms of visitors who left, unless it has a name.
OF_FORM: dict[str, Any] = {**QUIET, "concurrency_id": "form"}


@dataclass(frozen=True)
class Draft:
    """The content of the advanced settings: a preset with edits on top.

    changes: the edits as JSON, so that drafts can be compared. unfolded: the section that is open, if any.
    version: a number that makes the page build the settings again although the rest is the same.
    """

    preset: str = DEFAULT_PRESET
    changes: str = "{}"
    unfolded: str | None = None
    version: int = 0

    @staticmethod
    def of(preset: str, edits: Edits, unfolded: str | None = None, version: int = 0) -> Draft:
        """Make a draft that the page's state can hold."""
        return Draft(preset, json.dumps(edits), unfolded, version)

    @property
    def edits(self) -> Edits:
        """The differences from the preset."""
        return json.loads(self.changes)


@dataclass(frozen=True)
class CreateTab:
    """The widgets of the tab that other tabs use."""

    studio: Studio
    live: RunPanel
    drafts: DraftsPanel
    own: OwnFile
    pictures: OwnPicturesPanel
    style: OwnStyle
    prompt: gr.Textbox
    hint: gr.HTML
    preset: gr.Textbox
    cards: gr.HTML
    draft: gr.State
    steps: gr.State
    seed: gr.Number
    search: gr.Textbox
    found: gr.HTML
    generate: gr.Button
    several: gr.Button
    problem: gr.HTML
    plan: gr.HTML
    clock: gr.Timer

    @property
    def outputs(self) -> list[Any]:
        """The widgets that `open` changes."""
        return [*self.live.outputs, *self.form]

    @property
    def form(self) -> list[Any]:
        """The widgets that `fill` changes."""
        shown = [*self.own.outputs, *self.pictures.outputs, *self.style.outputs]
        return [self.prompt, self.preset, self.cards, self.draft, self.seed, *shown]

    def open(self, name: str) -> Updates:
        """Show a run, and its settings in the form."""
        try:
            run = self.studio.open(name)
            made = recipe(self.studio, run)
        except (RunError, ConfigError, OSError) as error:
            return {self.live.message: block(fragments.error(self.studio.problem(error)))}
        return {
            **self.fill(made, f"{OF_A_RUN}{name}" if run.own else ""),
            **self.pictures.open(name),
            **self.style.open(name),
            **self.live.opened(name),
        }

    def fill(self, made: Recipe, reference: str = "") -> Updates:
        """Show settings in the form, without pictures. reference: of the file to start from, see `own_file.file`."""
        elsewhere = ("up_axis", "reference", "prompts.image", *(["start_from"] if reference else []))
        edits = {key: value for key, value in made.edits.items() if key not in elsewhere}
        return {
            self.prompt: made.config.prompt,
            self.preset: made.preset,
            # Always another text: the page draws equal ones only once, and the visitor may have chosen another card.
            self.cards: f"{_cards(self.studio, made.preset)}<!-- {new_seed()} -->",
            self.draft: Draft.of(made.preset, edits),
            self.seed: made.config.seed,
            **self.own.open(reference, made.config.up_axis),
            **self.pictures.show(OwnPictures()),
            **self.style.look(""),
        }

    def again(self, name: str) -> Run:
        """Queue a run with the same settings and a new seed. Raises RunError, ConfigError, OSError."""
        run = self.studio.open(name)
        config = recipe(self.studio, run).config
        self.studio.own_references(run)
        self.studio.own_style(run)
        return self.studio.start(config.model_copy(update={"seed": new_seed()}), self.studio.own_file(run))


def lay_out(studio: Studio) -> CreateTab:
    """Add the tab and its events to the open layout."""
    draft = gr.State(Draft())
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            prompt = gr.Textbox(
                label="Prompt", placeholder=EXAMPLES[0], lines=1, max_lines=4, interactive=True, elem_id="prompt"
            )
            examples = gr.HTML(
                cards.objects(DiffusersConfig().vocabulary()), js_on_load=cards.OBJECTS_SCRIPT, elem_id="examples"
            )
            hint = gr.HTML(visible=False)
            # Enabled when the form is complete; before that, the page would submit other values than it shows.
            with gr.Row(elem_id="start"):
                generate = gr.Button("Generate", variant="primary", size="lg", interactive=False, elem_id="generate")
                several = gr.Button(
                    "Four drafts", size="lg", interactive=False, min_width=130, elem_id="several-drafts"
                )
            problem = gr.HTML(visible=False, elem_id="problem")
            plan = gr.HTML(elem_id="plan")
            preset = gr.Textbox(DEFAULT_PRESET, visible="hidden", elem_id="preset-name")
            shown = gr.HTML(_cards(studio, DEFAULT_PRESET), js_on_load=cards.PRESETS_SCRIPT, elem_id="preset")
            with gr.Row(equal_height=True):
                seed = gr.Number(0, label="Seed", precision=0, interactive=True, min_width=120, elem_id="seed")
                new = gr.Button("Random seed", min_width=130, scale=0, elem_id="new-seed")
            own = own_file.lay_out(studio)
            pictures = own_pictures.lay_out(studio)
            style = own_style.lay_out(studio)
            brought = gr.Column()
            search = gr.Textbox(
                label="Search the settings",
                placeholder="noise, texture, camera ...",
                max_lines=1,
                elem_id="find-setting",
            )
            found = gr.HTML(elem_id="found")
            settings = gr.Column(elem_id="settings")
        with gr.Column(scale=3, min_width=320):
            drafts = DraftsPanel.lay_out(studio)
            live = RunPanel.lay_out(studio)
    create = CreateTab(
        studio, live, drafts, own, pictures, style, prompt, hint, preset, shown, draft, gr.State(0), seed, search,
        found, generate, several, problem, plan, gr.Timer(REPLAN),
    )  # fmt: skip
    with brought:
        recipe_panel.lay_out(studio, DEFAULT_PRESET, create.fill, create.form, prompt, pictures)
    with settings:
        _settings(create)
    _wire(create, examples, new)
    return create


def _wire(create: CreateTab, examples: gr.HTML, new: gr.Button) -> None:
    studio, live = create.studio, create.live

    def choose(event: gr.EventData) -> Updates:
        preset = str(event.preset)
        return {create.preset: preset, create.draft: Draft(preset)} if preset in studio.presets() else {}

    def take(event: gr.EventData) -> str:
        return str(event.prompt)

    def warn(prompt: str, draft: Draft) -> gr.HTML:
        model = draft.edits.get("prior.model", "toybox")
        return block(fragments.prompt_hint(prompt, DiffusersConfig(model=model).vocabulary()))

    def more(name: str, prompt: str) -> Updates:
        try:
            before = recipe(studio, studio.open(name)).config
            run = create.again(name)
        except (RunError, ConfigError, OSError) as error:
            return {live.message: block(fragments.error(studio.problem(error)))}
        # A prompt that is being typed stays.
        return create.open(run.folder.name) if prompt == before.prompt else live.opened(run.folder.name)

    def plan(draft: Draft, steps: float | None, held: str) -> str:
        try:
            config = studio.config(EXAMPLES[0], draft.preset, nested(draft.edits))
            pictures = [
                ReferenceConfig(image=each.file, azimuth=0, elevation=0) for each in read_pictures(held).pictures
            ]
        except ConfigError:
            return ""
        steps = config.steps if steps is None else int(steps)
        config = config.model_copy(update={"steps": steps, "reference": tuple(pictures)})
        edits = draft.edits | ({"reference": pictures} if pictures else {})
        cost = estimates.expected(studio, draft.preset, edits, config)
        drafts = COUNT * (cost.seconds(draft_steps(config)) - cost.export)
        return fragments.plan(cost.seconds(total_steps(config)), estimates.wait(studio), drafts)

    def pick(event: gr.EventData, names: str) -> Updates:
        name = str(event.run)
        try:
            if event.action == "refine":
                studio.resume(studio.open_own(name))
        except (RunError, OSError) as error:
            return {live.message: block(fragments.error(studio.problem(error)))}
        return {**create.open(name), **create.drafts.show(names, "")}

    create.drafts.view.select(pick, create.drafts.names, [*create.outputs, *create.drafts.outputs], **QUIET)
    # Not among the events of the settings: the clock may tick while these are built again, and would call a former one.
    gr.on(
        [create.clock.tick, create.steps.change, create.draft.change, create.pictures.held.change],  # type: ignore[attr-defined]
        plan, [create.draft, create.steps, create.pictures.held], create.plan, trigger_mode="always_last", **QUIET,
    )  # fmt: skip
    create.cards.select(choose, None, [create.preset, create.draft], **ONE_BY_ONE)
    examples.select(take, None, create.prompt, **QUIET)
    create.prompt.change(warn, [create.prompt, create.draft], create.hint, trigger_mode="always_last", **QUIET)
    gr.on([create.prompt.input, create.seed.input], lambda: block(""), None, create.problem, **QUIET)
    new.click(new_seed, None, create.seed, **QUIET)
    live.more.click(more, [live.run, create.prompt], create.outputs, **QUIET)


@dataclass(frozen=True)
class Form:
    """The settings of a draft with their widgets. start: the values of the preset by key."""

    settings: list[Setting]
    start: Edits
    widgets: list[Any]

    def edits(self, values: Sequence[Any]) -> Edits:
        """Return the settings whose widgets differ from the preset. Raises ConfigError."""
        return settings_form.edited(self.settings, self.start, values)


def _settings(create: CreateTab) -> None:
    """The settings of the draft. They and their events are rebuilt when the draft changes."""
    studio, live = create.studio, create.live

    @gr.render(inputs=[create.draft], show_progress="hidden")
    def render(draft: Draft) -> None:
        _forget_former_form()
        edits = draft.edits
        try:
            own = studio.config(EXAMPLES[0], draft.preset)
            base = studio.config(EXAMPLES[0], draft.preset, nested(choices_of(edits)))
            full = studio.config(EXAMPLES[0], draft.preset, nested(edits))
        except ConfigError as error:
            gr.HTML(fragments.error(studio.problem(error)))
            return
        listed = None if "stages" in edits else own  # with a list of its own stages, the run does not show the preset's
        settings = settings_form.editable_settings(full, listed)

        def fixed(setting: Setting) -> bool:
            return not studio.trusted and setting.within in OWNERS_ONLY

        widgets = settings_form.lay_out(settings, fixed, draft.unfolded)
        start = leaves_of(base) | {s.key: s.value for s in settings_form.editable_settings(base, listed)}
        form = Form(settings, start | dict.fromkeys(choices_of(edits), None), widgets)
        _changes(create, draft, form)
        if own.stages:
            gr.HTML(fragments.note(STAGES if full.stages else NO_STAGES))

        def submit(*given: Any) -> Updates:
            try:
                with _wanted(create, draft, form, *given) as wanted:
                    run = studio.start(*wanted)
            except (ValueError, RunError, OSError) as error:
                return {create.problem: block(fragments.error(studio.problem(error)))}
            return {create.problem: block(""), **create.drafts.open([]), **live.opened(run.folder.name, again=True)}

        def submit_drafts(*given: Any) -> Updates:
            try:
                with _wanted(create, draft, form, *given) as wanted:
                    runs = start_drafts(studio, *wanted)
            except (ValueError, RunError, OSError) as error:
                return {create.problem: block(fragments.error(studio.problem(error)))}
            return {create.problem: block(""), **live.close(), **create.drafts.open([run.folder.name for run in runs])}

        def rechoose(chosen: Setting, *values: Any) -> Draft:
            try:
                now = form.edits(values)
            except ConfigError:  # values that cannot be read are dropped with the former variant
                now = edits
            unfolded = draft.unfolded if chosen.key in settings_form.PROMINENT else chosen.section
            return Draft.of(draft.preset, consistent(now, edits), unfolded)

        brought = [*create.own.inputs, create.pictures.held, create.style.held]
        given = [create.prompt, create.preset, create.seed, *brought, *widgets]
        followed = [*live.outputs, *create.drafts.outputs, create.problem]
        create.several.click(submit_drafts, given, followed, trigger_mode="once", **OF_FORM)
        gr.on(
            [create.generate.click, create.prompt.submit],
            submit,
            given,
            followed,
            trigger_mode="once",
            **OF_FORM,
        )
        for setting, widget in zip(settings, widgets, strict=True):
            if setting.is_choice:
                widget.input(partial(rechoose, setting), widgets, create.draft, **ONE_BY_ONE)  # type: ignore[attr-defined]
        steps = widgets[[setting.key for setting in settings].index("steps")]
        steps.change(lambda n: n, steps, create.steps, trigger_mode="always_last", **OF_FORM)  # type: ignore[attr-defined]
        gr.on(
            None, lambda n: (gr.Button(interactive=True), gr.Button(interactive=True), n), steps,
            [create.generate, create.several, create.steps], **OF_FORM,
        )  # fmt: skip


@contextmanager
def _wanted(
    create: CreateTab, draft: Draft, form: Form, prompt: str, preset: str, seed: float | None, reference: str, up: str,
    pictures: str, style: str, *values: Any,
) -> Iterator[tuple[RunConfig, Path | None]]:  # fmt: skip
    """Yield the settings of the run that the form describes, and the file that it starts from.

    The files of its pictures exist only meanwhile. Raises ValueError, RunError, OSError.
    """
    studio = create.studio
    if preset != draft.preset:
        raise ConfigError("the settings are still loading; try again in a moment")
    chosen = form.edits(values) | {"seed": checked_seed(seed), "up_axis": up}
    config, file = studio.config(one_line(prompt), preset, nested(chosen)), own_file.file(studio, reference)
    config = create.style.told(config, style)
    with create.pictures.references(pictures) as references:
        config = config.model_copy(update={"reference": references or config.reference})
        refuse_without_file(preset, config, file)
        yield config, file


def _forget_former_form() -> None:
    """Let go of the widgets of the form that is built again. Gradio keeps them as long as the visitor's session."""
    session, form = LocalContext.blocks_config.get(), LocalContext.renderable.get()
    if session is None or form is None:
        return
    container = form.container_id

    def of_form(widget: Any) -> bool:
        return widget.parent is not None and (widget.parent._id == container or of_form(widget.parent))

    for number in [number for number, widget in session.blocks.items() if of_form(widget)]:
        del session.blocks[number]


def _changes(create: CreateTab, draft: Draft, form: Form) -> None:
    """Add the list of changed settings, the button that takes them back, and the search."""
    changed = gr.HTML(settings_form.changed_list(draft.edits), elem_id="changed")
    reset = gr.Button("Back to the preset's settings", size="sm", visible=bool(draft.edits), elem_id="reset")

    def mark(*values: Any) -> Updates:
        try:
            now = form.edits(values)
        except ConfigError:  # the visitor is still typing
            return {}
        return {changed: settings_form.changed_list(now), reset: gr.Button(visible=bool(now))}

    def look_up(text: str, *values: Any) -> Updates:
        hits = settings_form.find(form.settings, text)
        listed = settings_form.found_list(hits, text)
        try:
            now = form.edits(values)
        except ConfigError:  # a value that cannot be read would be lost if the form were built again
            return {create.found: listed}
        unfolded = hits[0].section if hits else draft.unfolded
        return {create.found: listed, create.draft: Draft.of(draft.preset, now, unfolded, draft.version)}

    reset.click(lambda: Draft(draft.preset, version=draft.version + 1), None, create.draft, **ONE_BY_ONE)
    create.search.submit(look_up, [create.search, *form.widgets], [create.found, create.draft], **ONE_BY_ONE)
    typed = [w.input for s, w in zip(form.settings, form.widgets, strict=True) if not s.is_choice]
    gr.on(typed, mark, form.widgets, [changed, reset], trigger_mode="always_last", **OF_FORM)


def _cards(studio: Studio, chosen: str) -> str:
    """Return the cards of the presets."""
    known = studio.presets()
    return cards.presets([preset for preset in presets() if preset.name in known], chosen, DEFAULT_PRESET)


def consistent(now: Edits, before: Edits) -> Edits:
    """Return the edits after a variant has changed: edits of the former variant's section are dropped."""
    changed = [k for k, v in now.items() if k.endswith(".name") and before.get(k) != v]
    changed += [k for k in before if k.endswith(".name") and k not in now]
    sections = tuple(key.removesuffix("name") for key in changed)
    if "representation.name" in changed:
        sections += ("stages.",)  # which it replaces
    return {k: v for k, v in now.items() if k in changed or not (sections and k.startswith(sections))}


def new_seed() -> int:
    """Return a random seed that is short enough to remember."""
    return random.randrange(10_000)


def checked_seed(seed: float | None) -> int:
    """Return the seed as an int. Raises ConfigError if it is not a whole number in range."""
    if seed is None or not 0 <= seed <= MAX_SEED or seed != int(seed):
        raise ConfigError(f"the seed must be a whole number from 0 to {MAX_SEED}")
    return int(seed)
