"""Settings on top of stages: a layer has precedence over the stages of the layers below it.

A preset's stages are partial configurations. A setting that is given on top of the preset, such as guidance.scale=7.5,
holds in all stages that have it, also in those that set it themselves. A representation is chosen for the whole run, so
it replaces stages that choose their own. `stages.1.KEY=VALUE` is for one stage. A setting that no stage has is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from sds3d.config import Config, ConfigError, Tree, chosen_model, completed, merge, nearest, valid_keys
from sds3d.run.migration import migrated

Stage = dict[str, Any]
"""A partial configuration, see `RunConfig.stages`."""


def on_stages(model: type[BaseModel], layers: Iterable[Mapping[str, Any]]) -> list[Tree]:
    """Return the layers; those above stages also have the stages, as these are with the layer's settings.

    model: that of the whole run. Raises ConfigError for a setting that no stage has.
    """
    done: list[Tree] = []
    for given in layers:
        layer = {key: value.model_dump() if isinstance(value, Config) else value for key, value in given.items()}
        stages = next((below["stages"] for below in reversed(done) if "stages" in below), ())
        if isinstance(layer.get("stages"), Mapping) or (stages and "stages" not in layer):
            base = completed(model, *done)
            below = base.pop("stages", ())
            if isinstance(below, Sequence) and all(isinstance(stage, Mapping) for stage in below):
                layer = _Staged(model, base, below).under(layer)  # building the configuration reports other stages
        done.append(layer)
    return done


def steps_of(steps: int, stages: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the steps of each stage. steps: those of the run, for stages that set a share of them, or nothing."""
    shares = [float(stage.get("share", 0.0)) for stage in stages]
    result = []
    for i, stage in enumerate(stages):
        begin, end = (round(steps * sum(shares[:n]) / (sum(shares) or 1)) for n in (i, i + 1))
        result.append(max(end - begin, min(steps, 1)) if "share" in stage else stage.get("steps", steps))
    return result


def representations_of(stages: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the names of the representations that stages choose."""
    return [name for stage in stages if (name := _name(stage.get("representation")))]


class _Staged:
    """Settings with stages. base: complete, without stages. full: each stage's complete settings."""

    def __init__(self, model: type[BaseModel], base: Tree, stages: Sequence[Mapping[str, Any]]) -> None:
        self.model, self.base, self.stages = model, base, [dict(stage) for stage in stages]
        self.full = [completed(model, *migrated(base, _without(stage, "share"))) for stage in stages]

    def under(self, layer: Tree) -> Tree:
        """Return a layer together with the stages, which have its settings on top."""
        picked = layer.pop("stages", {})
        chosen = _name(layer.get("representation"))
        if chosen and representations_of(self.stages):
            if picked:
                raise ConfigError(f"representation={chosen} replaces the stages, so stages.{min(picked)} cannot be set")
            return layer | {"stages": []}
        below = {key: rest for key, value in layer.items() if (rest := self._set(key, value)) is not None}
        for index, settings in picked.items():
            self._set_one(index, settings)
        return below | {"stages": self.stages}

    def _set(self, key: str, value: Any) -> Any:
        """Set a key in all stages that set it. Return the part of the value for the run itself; None: nothing."""
        mine = [i for i, stage in enumerate(self.stages) if key in stage]
        if key == "steps":
            self._divide_steps("steps", "share")
        elif mine and isinstance(self.base.get(key), Mapping):
            return self._set_section(key, _section(value), mine)
        else:
            for i in mine:
                del self.stages[i][key]
        return value

    def _set_section(self, key: str, given: Any, mine: Sequence[int]) -> Any:
        if not all(isinstance(section, Mapping) for section in (given, *(self.full[i][key] for i in mine))):
            return given  # building the configuration reports it
        base, missing = self.base[key], []
        for i in mine:
            section = self.full[i][key]
            fitting, other = _fitting(self.model, key, section, given)
            missing.append(set(other))
            if fitting:
                self.stages[i][key] = _over(self.stages[i][key], fitting, section)
        inherited = len(mine) < len(self.stages) or any(_same_name(self.full[i][key], base) for i in mine)
        fitting, other = _fitting(self.model, key, base, given) if inherited else ({}, None)
        if other is not None:
            missing.append(set(other))
        if unknown := sorted(set.intersection(*missing)):
            raise ConfigError("\n".join(self._unknown(key, name) for name in unknown))
        return fitting or None

    def _unknown(self, key: str, name: str) -> str:
        """Return the error about a setting of the section `key` that no stage has."""
        sections = {str(full[key].get("name")): full[key] for full in self.full}
        known: dict[str, None] = {}
        for section in sections.values():
            if chosen := chosen_model(self.model, key, section):
                known |= dict.fromkeys(valid_keys(chosen, section))
        same_leaf = [k for k in known if k.rpartition(".")[2] == name.rpartition(".")[2]]
        close = same_leaf[:1] or nearest(name, list(known))
        hint = f'did you mean "{key}.{close[0]}"?' if close else f"or choose one for the whole run: {key}=NAME"
        return f'unknown key "{key}.{name}" in all stages ({", ".join(sections)}); {hint}'

    def _set_one(self, index: Any, settings: Any) -> None:
        """Set keys of one stage."""
        known = [str(i) for i in range(len(self.stages))]
        if str(index) not in known or not isinstance(settings, Mapping):
            there = f"stages.0 to stages.{known[-1]}" if known else "none"
            raise ConfigError(
                f"stages.{index}: give a setting of a stage, such as stages.0.KEY=VALUE; there are {there}"
            )
        i = int(index)
        stage, full = self.stages[i], self.full[i]
        if "steps" in settings:
            self._divide_steps("share", "steps")
        elif "share" in settings:
            self._divide_steps("steps", "share")
        self.stages[i] = _over(stage, settings, full)

    def _divide_steps(self, before: str, after: str) -> None:
        """Turn the shares of the run's steps into numbers of steps, or the reverse, so that one of them can change."""
        given = [self.base["steps"], *(value for stage in self.stages for value in _of_steps(stage).values())]
        if any(before in stage for stage in self.stages) and all(map(_is_amount, given)):
            for stage, steps in zip(self.stages, steps_of(self.base["steps"], self.stages), strict=True):
                if steps or after == "steps":  # a share is above 0
                    stage.pop(before, None)
                    stage[after] = steps


def _fitting(
    model: type[BaseModel], field: str, section: Mapping[str, Any], given: Mapping[str, Any], prefix: str = ""
) -> tuple[Tree, list[str]]:
    """Return the part of `given` that a section can have, and the dotted keys of the rest."""
    chosen = chosen_model(model, field, merge(section, given))
    if chosen is None:
        return dict(given), []  # building the configuration reports it
    fitting: Tree = {}
    missing: list[str] = []
    for key, value in given.items():
        inner = section.get(key)
        if key not in chosen.model_fields:
            missing += _leaves(value, prefix + key)
        elif isinstance(inner, Mapping) and isinstance(value, Mapping):
            fitting[key], other = _fitting(chosen, key, inner, value, f"{prefix}{key}.")
            missing += other
        else:
            fitting[key] = value
    return {key: value for key, value in fitting.items() if value != {} or given[key] == {}}, missing


def _leaves(value: Any, key: str) -> list[str]:
    """Return the dotted keys of the values in a section, or `key` for a plain value."""
    if isinstance(value, Mapping) and value:
        return [leaf for inner, item in value.items() for leaf in _leaves(item, f"{key}.{inner}")]
    return [key]


def _over(patch: Any, given: Mapping[str, Any], full: Mapping[str, Any]) -> Stage:
    """Return a partial section with `given` on top, like `merge` for the complete section `full`."""
    if _name(given) and not _same_name(given, full):
        return dict(given)
    result: Stage = dict(_section(patch))
    for key, new in given.items():
        old, value = full.get(key), _section(new)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            result[key] = _over(result.get(key, {}), value, old)
        else:
            result[key] = new
    return result


def _section(value: Any) -> Any:
    """Return a section given by its name as a mapping."""
    return {"name": value} if isinstance(value, str) else value


def _name(section: Any) -> str:
    value = _section(section)
    name = value.get("name") if isinstance(value, Mapping) else None
    return name if isinstance(name, str) else ""


def _same_name(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return a.get("name") == b.get("name")


def _of_steps(stage: Mapping[str, Any]) -> Stage:
    return {key: stage[key] for key in ("steps", "share") if key in stage}


def _is_amount(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf


def _without(stage: Mapping[str, Any], key: str) -> Stage:
    return {k: v for k, v in stage.items() if k != key}
