"""The advanced settings: widgets made from the configuration models, with the models' own help texts."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import gradio as gr
import yaml
from gradio.components import Component
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from sds3d.config import Config, ConfigError, alternatives
from sds3d.guidance.rules import rule_configs
from sds3d.run_config import RunConfig

from .settings import Edits

ELSEWHERE = ("prompt", "seed", "start_from_sha256", "prior.name")
"""Settings that the advanced ones do not show: those with a place of their own, and those without a choice."""

PROMINENT = ("representation.name", "guidance.name", "steps")
"""Settings shown before the others, in this order."""

TITLES = {
    "": "Run", "guidance": "Guidance rule", "representation": "Representation", "prior": "Prior", "cameras": "Cameras",
    "prompts": "Texts of the views", "optimizer": "Optimiser", "export": "Export",
}  # fmt: skip


@dataclass(frozen=True)
class Field:
    """A setting as a widget shows it.

    key: dotted. info: pydantic's, with help text and bounds. options: what a choice is made from, if it is one.
    """

    key: str
    info: FieldInfo
    value: Any
    options: tuple[Any, ...] = ()

    @property
    def section(self) -> str:
        """The outermost part of the key, empty for the run's own settings."""
        return self.key.split(".")[0] if "." in self.key else ""

    @property
    def is_choice(self) -> bool:
        """Whether other settings depend on it."""
        return self.key.endswith(".name")

    def label(self) -> str:
        """The key within its section, as words."""
        inner = self.key.removeprefix(f"{self.section}.") if self.section else self.key
        words = inner.removesuffix(".name").replace("_", " ").replace(".", " · ")
        return words[:1].upper() + words[1:] if inner != "name" else TITLES[self.section]

    def help(self) -> str:
        """The help text and the bounds."""
        text = " ".join((self.info.description or "").split())
        signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
        bounds = [f"{s} {getattr(m, n):g}" for m in self.info.metadata for n, s in signs.items() if hasattr(m, n)]
        return f"{text} ({', '.join(bounds)})".strip() if bounds else text


def fields_of(config: RunConfig) -> list[Field]:
    """All settings that can be changed, given the choices that the configuration makes."""
    return [field for field in _fields(config, "") if field.key not in ELSEWHERE]


def _fields(config: BaseModel, prefix: str) -> Iterator[Field]:
    model = type(config)
    for name, info in model.model_fields.items():
        key, value = prefix + name, getattr(config, name)
        if isinstance(value, Config):
            models = alternatives(model, name)
            if len(models) > 1:
                names = tuple(other.model_fields["name"].default for other in models)
                yield Field(f"{key}.name", info, value.name, names)  # type: ignore[attr-defined]
            yield from (f for f in _fields(value, f"{key}.") if f.key != f"{key}.name" or len(models) == 1)
        elif name != "name":
            yield Field(key, info, config.model_dump(mode="json")[name], _literals(info.annotation))


def _literals(annotation: Any) -> tuple[Any, ...]:
    """The words of a literal, or of a list of them."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    if get_origin(annotation) is tuple and get_args(annotation)[1:] == (Ellipsis,):
        return _literals(get_args(annotation)[0])
    return ()


def widget(field: Field, interactive: bool = True) -> Component:
    """The widget of a setting, in the layout that is open."""
    common: dict[str, Any] = {"label": field.label(), "info": field.help(), "interactive": interactive}
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


def read(field: Field, given: Any) -> Any:
    """What a widget holds, as JSON has it. Raises ConfigError for text that is no YAML, or nothing at all."""
    if field.options or _kinds(field.info.annotation) <= {bool, str}:
        return given
    if given is None:
        raise ConfigError(f"{field.key} is empty: give a value")
    if not isinstance(given, str):
        return given
    try:
        return yaml.safe_load(given)
    except yaml.YAMLError:
        raise ConfigError(f"{field.key} = {given!r} cannot be read; an example: {_yaml(field.value)}") from None


def edited(fields: Sequence[Field], base: Mapping[str, Any], values: Sequence[Any]) -> Edits:
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


def lay_out(fields: Sequence[Field], fixed: Callable[[Field], bool], unfolded: str | None = None) -> list[Component]:
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
