"""All settings of a run as a list: keys, values, help texts and bounds, as the configuration models have them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from sds3d.config import Config, alternatives


@dataclass(frozen=True)
class Setting:
    """One of them.

    key: dotted. info: pydantic's, with help text and bounds. value: as JSON has it. options: what a choice is made
    from, if it is one.
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

    def help(self) -> str:
        """The help text and the bounds."""
        text = " ".join((self.info.description or "").split())
        signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
        bounds = [f"{s} {getattr(m, n):g}" for m in self.info.metadata for n, s in signs.items() if hasattr(m, n)]
        return f"{text} ({', '.join(bounds)})".strip() if bounds else text


def settings_of(config: BaseModel, prefix: str = "") -> Iterator[Setting]:
    """Those of a configuration in the order of its models, given the choices that it makes. prefix: of their keys."""
    model = type(config)
    for name, info in model.model_fields.items():
        key, value = prefix + name, getattr(config, name)
        if isinstance(value, Config):
            models = alternatives(model, name)
            if len(models) > 1:
                names = tuple(other.model_fields["name"].default for other in models)
                yield Setting(f"{key}.name", info, value.name, names)  # type: ignore[attr-defined]
            yield from (f for f in settings_of(value, f"{key}.") if f.key != f"{key}.name" or len(models) == 1)
        elif name != "name":
            yield Setting(key, info, config.model_dump(mode="json")[name], _literals(info.annotation))


def _literals(annotation: Any) -> tuple[Any, ...]:
    """The words of a literal, or of a list of them."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    if get_origin(annotation) is tuple and get_args(annotation)[1:] == (Ellipsis,):
        return _literals(get_args(annotation)[0])
    return ()
