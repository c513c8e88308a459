"""The advanced settings: widgets made from the configuration models, with the models' own help texts."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from types import NoneType
from typing import Any, get_args

import gradio as gr
from gradio.components import Component

from sds3d.app.edits import Edits
from sds3d.config import ConfigError, parse_value
from sds3d.guidance.rules import rule_configs
from sds3d.run.config import RunConfig
from sds3d.run.settings import Setting, settings_of

ELSEWHERE = ("prompt", "seed", "start_from_sha256", "made_for")
"""Settings that the advanced ones do not show: those with a place of their own, and those without a choice."""

PROMINENT = ("representation.name", "guidance.name", "steps")
"""Settings shown before the others, in this order."""

TITLES = {
    "": "Run", "guidance": "Guidance rule", "representation": "Representation", "prior": "Prior", "cameras": "Cameras",
    "prompts": "Texts of the views", "optimizer": "Optimiser", "export": "Export",
}  # fmt: skip


def fields_of(config: RunConfig) -> list[Setting]:
    """All settings that can be changed, given the choices that the configuration makes."""
    return [setting for setting in settings_of(config) if setting.key not in ELSEWHERE]


def label(field: Setting) -> str:
    """The key within its section, as words."""
    inner = field.key.removeprefix(f"{field.section}.") if field.section else field.key
    words = inner.removesuffix(".name").replace("_", " ").replace(".", " · ")
    return words[:1].upper() + words[1:] if inner != "name" else TITLES[field.section]


def widget(field: Setting, interactive: bool = True) -> Component:
    """The widget of a setting, in the layout that is open."""
    common: dict[str, Any] = {"label": label(field), "info": field.help(), "interactive": interactive}
    common["elem_id"] = f"set-{field.key.replace('.', '-')}"
    kinds = _kinds(field.info.annotation)
    if field.key == "guidance.name":
        return gr.Dropdown(list(field.options), value=field.value, **{**common, "info": about_rule(field.value)})
    if field.options:
        many = isinstance(field.value, list)
        return gr.Dropdown(list(field.options), value=field.value, multiselect=many, **common)
    if kinds == {bool}:
        return gr.Checkbox(field.value, **common)
    if kinds in ({int}, {float}):
        return gr.Number(field.value, precision=0 if kinds == {int} else None, step=_step(kinds), **common)
    if kinds == {str}:
        return gr.Textbox(field.value, max_lines=3, **common)
    return gr.Textbox(_yaml(field.value), max_lines=8, **common)


def _step(kinds: set[type]) -> float:
    return 1 if kinds == {int} else 0.01


def _kinds(annotation: Any) -> set[Any]:
    return set(get_args(annotation)) - {NoneType} | {Any} if NoneType in get_args(annotation) else {annotation}


def _yaml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def read(field: Setting, given: Any) -> Any:
    """What a widget holds, as JSON has it. Raises ConfigError for text that is no YAML, or nothing at all."""
    if field.options or _kinds(field.info.annotation) <= {bool, str}:
        return given
    if given is None:
        raise ConfigError(f"{field.key} is empty: give a value")
    if not isinstance(given, str):
        return given
    try:
        return parse_value(given)
    except ConfigError as error:
        raise ConfigError(f"{field.key}: {error}; an example: {_yaml(field.value)}") from None


def edited(fields: Sequence[Setting], base: Mapping[str, Any], values: Sequence[Any]) -> Edits:
    """The settings whose widgets hold something else than the preset, the choices among them. Raises ConfigError."""
    read_ = {field.key: read(field, value) for field, value in zip(fields, values, strict=True)}
    return {key: value for key, value in read_.items() if key not in base or not _same(base[key], value)}


def _same(a: Any, b: Any) -> bool:
    """Equal; the browser does not tell 1 from 1.0, but text is no number."""
    return a == b and isinstance(a, str) == isinstance(b, str)


def about_rule(name: str) -> str:
    """The first sentence of the file that a rule stands in."""
    module = next(rule.__module__ for rule in rule_configs() if rule.model_fields["name"].default == name)
    return " ".join((sys.modules[module].__doc__ or "").split("\n\n")[0].split())


def lay_out(
    fields: Sequence[Setting], fixed: Callable[[Setting], bool], unfolded: str | None = None
) -> list[Component]:
    """The widgets of all fields, in their order, the prominent ones first.

    fixed: those that cannot be changed. unfolded: the section that is open at first, if any.
    """
    made: dict[str, Component] = {}
    by_key = {field.key: field for field in fields}
    with gr.Row():
        for key in PROMINENT[:2]:
            made[key] = widget(by_key[key], not fixed(by_key[key]))
    made["steps"] = widget(by_key["steps"])
    with gr.Accordion("Advanced", open=unfolded is not None, elem_id="advanced"):
        for section, title in TITLES.items():
            mine = [field for field in fields if field.section == section and field.key not in PROMINENT]
            if mine:
                with gr.Accordion(title, open=section == unfolded):
                    made |= {field.key: widget(field, not fixed(field)) for field in mine}
    return [made[field.key] for field in fields]
