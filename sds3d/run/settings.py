"""All settings of a run as a list: keys, values, help texts and bounds, from the configuration models."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from sds3d.config import Config, alternatives, help_texts
from sds3d.ramps import EXPECTED as RAMP
from sds3d.ramps import Ramp
from sds3d.run.config import RunConfig, stage_config
from sds3d.run.stages import representations_of


@dataclass(frozen=True)
class Setting:
    """One setting.

    key: dotted name. info: pydantic's field, with bounds. value: as JSON. options: the possible values, if they are a
    fixed list. text: what it does.
    """

    key: str
    info: FieldInfo
    value: Any
    options: tuple[Any, ...] = ()
    text: str = ""

    @property
    def section(self) -> str:
        """The first part of the key, "stages.0" for a setting of a stage; "" for the run's own settings."""
        stage = self.key.removesuffix(self.within).removesuffix(".")
        return stage or (self.key.split(".")[0] if "." in self.key else "")

    @property
    def within(self) -> str:
        """The key within its stage: without "stages.0."."""
        return within_stage(self.key)

    @property
    def is_choice(self) -> bool:
        """Whether the setting chooses a variant that has other settings."""
        return self.key.endswith(".name")

    def help(self) -> str:
        """Return the help text, with the bounds."""
        text = " ".join(self.text.split())
        signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
        bounds = [f"{s} {getattr(m, n):g}" for m in self.info.metadata for n, s in signs.items() if hasattr(m, n)]
        kind = [RAMP] if self.info.annotation is Ramp else []
        return f"{text} ({', '.join([*kind, *bounds])})".strip() if kind or bounds else text


def within_stage(key: str) -> str:
    """Return a dotted key without the "stages.0." of a stage."""
    return re.sub(r"^stages\.\d+\.", "", key)


def settings_of_run(config: RunConfig) -> Iterator[Setting]:
    """Yield the settings of a run and, with keys such as `stages.0.representation.name`, those that its stages set.

    If all stages choose a representation, that of the run is left out, because nothing uses it.
    """
    unused = config.stages and len(representations_of(config.stages)) == len(config.stages)
    yield from (s for s in settings_of(config) if not (unused and s.section == "representation"))
    for index, patch in enumerate(config.stages):
        prefix = f"stages.{index}."
        for setting in settings_of(stage_config(config, index), prefix):
            if setting.within.split(".")[0] in patch:
                yield setting


def settings_of(config: BaseModel, prefix: str = "") -> Iterator[Setting]:
    """Yield the settings of a configuration, for the variants it chooses. prefix: goes before their keys."""
    model = type(config)
    texts = help_texts(model)
    for name, info in model.model_fields.items():
        key, value = prefix + name, getattr(config, name)
        if isinstance(value, Config):
            models = alternatives(model, name)
            if len(models) > 1:
                names = tuple(other.model_fields["name"].default for other in models)
                yield Setting(f"{key}.name", info, value.name, names, texts.get(name, ""))  # type: ignore[attr-defined]
            yield from (f for f in settings_of(value, f"{key}.") if f.key != f"{key}.name" or len(models) == 1)
        elif name != "name":
            plain = config.model_dump(mode="json")[name]
            yield Setting(key, info, plain, _literals(info.annotation), texts.get(name, ""))


def _literals(annotation: Any) -> tuple[Any, ...]:
    """Return the values of a Literal, or of a tuple of Literals."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    if get_origin(annotation) is tuple and get_args(annotation)[1:] == (Ellipsis,):
        return _literals(get_args(annotation)[0])
    return ()
