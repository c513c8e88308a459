"""The advanced settings: widgets built from the configuration models, with their help texts."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from types import NoneType
from typing import Any, get_args

import gradio as gr
from gradio.components import Component
from pydantic import BeforeValidator

from sds3d.app.edits import Edits
from sds3d.app.fragments import note
from sds3d.config import ConfigError, alternatives, help_texts, parse_value
from sds3d.guidance.rules import rule_configs
from sds3d.ramps import Ramp
from sds3d.run.config import RunConfig, stage_config
from sds3d.run.settings import Setting, settings_of_run

ELSEWHERE = ("prompt", "seed", "up_axis", "reference", "start_from_sha256", "made_for", "other_presets")
"""Settings without a widget here: they are elsewhere on the page, or cannot be changed."""

PROMINENT = ("representation.name", "guidance.name", "steps")
"""Settings that come before the others, in this order."""

IN_STAGES = "in stages: "
"""Begins the option of a preset's stages among the representations."""

REPRESENTATIONS = alternatives(RunConfig, "representation")

MOST_FOUND = 12
"""Settings that a search lists."""

TITLES = {
    "": "Run", "guidance": "Guidance rule", "representation": "Representation", "prior": "Prior", "cameras": "Cameras",
    "prompts": "View texts", "seen": "What teachers see", "optimizer": "Optimiser", "export": "Export",
}  # fmt: skip


def editable_settings(config: RunConfig, preset: RunConfig | None = None) -> list[Setting]:
    """Return the settings of a configuration that have a widget.

    preset: the preset's own configuration. If it has stages, they are an option of the run's representation, and their
    settings have widgets instead of the list of stages.
    """
    settings = [setting for setting in settings_of_run(config) if setting.key not in ELSEWHERE]
    if preset is None or not preset.stages:
        return settings
    info, names = RunConfig.model_fields["representation"], [m.model_fields["name"].default for m in REPRESENTATIONS]
    listed = in_stages(preset)
    value = listed if config.stages else config.representation.name
    choice = Setting("representation.name", info, value, (listed, *names), help_texts(RunConfig)["representation"])
    return [choice] + [s for s in settings if s.key not in ("representation.name", "stages")]


def in_stages(config: RunConfig) -> str:
    """Return the option for a representation in each stage: "in stages: gaussians, mesh"."""
    stages = [stage_config(config, index) for index in range(len(config.stages))]
    return f"{IN_STAGES}{', '.join(stage.representation.name for stage in stages)}"


def label(setting: Setting) -> str:
    """Return the label of a setting: its key within the section, as words."""
    inner = setting.key.removeprefix(f"{setting.section}.") if setting.section else setting.key
    if setting.section.startswith("stages."):
        inner = setting.within
    words = inner.removesuffix(".name").replace("_", " ").replace(".", " · ")
    return words[:1].upper() + words[1:] if inner != "name" else title(setting.section)


def title(section: str) -> str:
    """Return the title of a section: "Cameras", "Stage 2"."""
    return TITLES[section] if section in TITLES else f"Stage {int(section.partition('.')[2]) + 1}"


def widget(setting: Setting, interactive: bool = True) -> Component:
    """Add the widget of a setting to the open layout."""
    common: dict[str, Any] = {"label": label(setting), "info": setting.help(), "interactive": interactive}
    common["elem_id"] = elem_id(setting.key)
    kinds = _kinds(setting.info.annotation)
    if setting.within == "guidance.name":
        return gr.Dropdown(list(setting.options), value=setting.value, **{**common, "info": about_rule(setting.value)})
    if setting.options:
        many = isinstance(setting.value, list)
        return gr.Dropdown(list(setting.options), value=setting.value, multiselect=many, **common)
    if kinds == {bool}:
        return gr.Checkbox(setting.value, **common)
    if kinds in ({int}, {float}):
        return gr.Number(setting.value, precision=0 if kinds == {int} else None, step=_step(kinds), **common)
    if kinds == {str}:
        return gr.Textbox(setting.value, max_lines=3, **common)
    return gr.Textbox(_yaml(setting.value), max_lines=8, **common)


def _step(kinds: set[type]) -> float:
    return 1 if kinds == {int} else 0.01


def _kinds(annotation: Any) -> set[Any]:
    return set(get_args(annotation)) - {NoneType} | {Any} if NoneType in get_args(annotation) else {annotation}


def _yaml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def read(setting: Setting, given: Any) -> Any:
    """Return the value of a widget as JSON. Raises ConfigError if it is empty, not valid YAML, or no number over time
    where one is expected."""
    if setting.options or _kinds(setting.info.annotation) <= {bool, str}:
        return given
    if given is None:
        raise ConfigError(f"{setting.key} is empty; give a value")
    if not isinstance(given, str):
        return given
    try:
        value = parse_value(given)
        if setting.info.annotation is not Ramp:
            return value
        for step in setting.info.metadata:
            value = step.func(value) if isinstance(step, BeforeValidator) else value  # type: ignore[call-arg]
        return Ramp(value).plain()
    except ValueError as error:
        raise ConfigError(f"{setting.key}: {error}; an example: {_yaml(setting.value)}") from None


def edited(settings: Sequence[Setting], base: Mapping[str, Any], values: Sequence[Any]) -> Edits:
    """Return the settings whose widgets differ from the preset. Raises ConfigError."""
    read_ = {setting.key: read(setting, value) for setting, value in zip(settings, values, strict=True)}
    if str(read_.get("representation.name", "")).startswith(IN_STAGES):  # the preset's own
        del read_["representation.name"]
    return {key: value for key, value in read_.items() if key not in base or not _same(base[key], value)}


def _same(a: Any, b: Any) -> bool:
    """Whether two values are equal. The browser turns 1.0 into 1; text is never equal to a number."""
    return a == b and isinstance(a, str) == isinstance(b, str)


def find(settings: Sequence[Setting], text: str) -> list[Setting]:
    """Return the settings whose key, label or help contains all words of a text; those whose key does come first."""
    words = text.lower().split()

    def has_all(place: str) -> bool:
        return all(word in place.lower() for word in words)

    found = [s for s in settings if words and has_all(f"{s.key} {label(s)} {title(s.section)} {s.help()}")]
    return sorted(found, key=lambda setting: not has_all(setting.key))


def found_list(found: Sequence[Setting], text: str) -> str:
    """Return the settings that a search has found, as HTML: where they are and what they mean."""
    if not text.strip():
        return ""
    if not found:
        return note(f'No setting mentions "{text.strip()[:80]}".')
    rows = "".join(
        f"<li><b>{escape(title(setting.section))} · {escape(label(setting))}</b> {escape(setting.help())}</li>"
        for setting in found[:MOST_FOUND]
    )
    more = f"<li>and {len(found) - MOST_FOUND} more</li>" if len(found) > MOST_FOUND else ""
    return f'<ul class="sds-found">{rows}{more}</ul>'


def changed_list(keys: Iterable[str]) -> str:
    """Return the names of changed settings as HTML, with a style that marks their widgets; "" without any."""
    keys = list(keys)
    if not keys:
        return ""
    names = ", ".join(escape(key.removesuffix(".name")) for key in keys)
    marked = ", ".join(f"#{elem_id(key)}" for key in keys)
    style = f"{marked} {{ box-shadow: inset 3px 0 0 var(--primary-500) !important; }}"
    return f'<p class="sds-changed">Changed: {names}</p><style>{style}</style>'


def elem_id(key: str) -> str:
    """Return the id of a setting's widget on the page."""
    return f"set-{key.replace('.', '-')}"


def about_rule(name: str) -> str:
    """Return the first paragraph of the docstring of a rule's module."""
    module = next(rule.__module__ for rule in rule_configs() if rule.model_fields["name"].default == name)
    return " ".join((sys.modules[module].__doc__ or "").split("\n\n")[0].split())


def lay_out(
    settings: Sequence[Setting], fixed: Callable[[Setting], bool], unfolded: str | None = None
) -> list[Component]:
    """Add the widgets of all settings to the open layout. Return them in the order of the settings.

    fixed: whether a setting cannot be changed. unfolded: the section that is open at first, if any.
    """
    made: dict[str, Component] = {}
    by_key = {setting.key: setting for setting in settings}
    with gr.Row():
        for key in PROMINENT[:2]:
            made[key] = widget(by_key[key], not fixed(by_key[key]))
    made["steps"] = widget(by_key["steps"])
    with gr.Accordion("Advanced", open=unfolded is not None, elem_id="advanced"):
        for section in dict.fromkeys([*TITLES, *(setting.section for setting in settings)]):
            mine = [setting for setting in settings if setting.section == section and setting.key not in PROMINENT]
            if mine:
                with gr.Accordion(title(section), open=section == unfolded):
                    made |= {setting.key: widget(setting, not fixed(setting)) for setting in mine}
    return [made[setting.key] for setting in settings]
