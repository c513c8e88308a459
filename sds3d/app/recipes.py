"""The preset of a run. Runs store their complete settings, but not the name of their preset."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from sds3d.app.edits import Edits, leaves_of, nested, stage_leaves
from sds3d.app.studio import Studio
from sds3d.config import ConfigError, parse_value
from sds3d.presets import DEFAULT_PRESET, load_preset
from sds3d.run.config import RunConfig, read_config, run_config
from sds3d.run.folder import Run
from sds3d.run.settings import within_stage

ITS_OWN = ("prompt", "seed", "start_from_sha256", "made_for", "other_presets")
"""Settings that do not count as differences from a preset."""

Base = Callable[[Edits], RunConfig]
"""Builds the configuration of a preset with edits."""

ANY = "a red mug"

_MISSING = object()


@dataclass(frozen=True)
class Recipe:
    """A run's settings: a preset, and the differences from it."""

    config: RunConfig
    preset: str
    edits: Edits


def recipe(studio: Studio, run: Run) -> Recipe:
    """Return the recipe of a run. Raises ConfigError if its settings cannot be read."""
    try:
        changed = run.config_path.stat().st_mtime_ns
    except OSError as error:
        raise ConfigError(f"{run.folder.name}: its settings are missing") from error
    try:
        return _recipe(studio, run.folder, changed)
    except ConfigError as error:
        raise ConfigError(studio.redacted(str(error))) from error


@lru_cache(maxsize=1 << 14)  # 10 kB each; runs are read in order, so a smaller cache would never hit
def _recipe(studio: Studio, folder: Path, changed: int) -> Recipe:
    config = read_config(Run(folder))
    preset = nearest_preset(config, settings_of_presets(studio))
    return Recipe(config, preset, edits_of(config, lambda edits: studio.own_config(ANY, preset, nested(edits))))


@lru_cache(maxsize=8)
def settings_of_presets(studio: Studio) -> dict[str, Edits]:
    """Return the settings of all presets that accept the studio's overrides."""
    found = {}
    for name in studio.presets():
        try:
            found[name] = leaves_of(studio.own_config(ANY, name))
        except ConfigError:
            continue
    return found


def edits_of(config: RunConfig, base: Base) -> Edits:
    """Return the edits that turn a preset into this configuration. Raises ConfigError if there are none."""
    wanted, chosen = leaves_of(config), {}
    while True:
        start = leaves_of(base(chosen))
        other = [k for k, v in wanted.items() if k.endswith(".name") and k not in chosen and start.get(k) != v]
        if start["stages"] and not wanted["stages"]:
            other.append("representation.name")  # which replaces the stages
        if not other:
            break
        key = min(other, key=lambda name: name.count("."))  # an outer variant determines its inner ones
        chosen[key] = wanted[key]
    differing = {k: v for k, v in wanted.items() if k not in ITS_OWN and start.get(k, _MISSING) != v}
    edits = chosen | {k: v for k, v in differing.items() if k != "stages"}
    return edits | _stage_edits(config, edits, base)


def _stage_edits(config: RunConfig, edits: Edits, base: Base) -> Edits:
    """Return what else turns the stages of a preset with edits into those of a configuration."""
    wanted, start = _stages_of(config), _stages_of(base(edits))
    if wanted == start:
        return {}
    if len(config.stages) == len(base(edits).stages):
        differing = {k: v for k, v in wanted.items() if start.get(k, _MISSING) != v}
        with suppress(ConfigError):
            if _stages_of(base(edits | differing)) == wanted:
                return differing
    return {"stages": leaves_of(config)["stages"]}


def _stages_of(config: RunConfig) -> Edits:
    return {key: value for key, value in stage_leaves(config).items() if within_stage(key) not in ITS_OWN}


def nearest_preset(config: RunConfig, presets: Mapping[str, Edits]) -> str:
    """Return the preset with the fewest differing settings. presets: settings by preset name."""
    wanted = leaves_of(config)

    def differing(name: str) -> int:
        settings = presets[name]
        keys = wanted.keys() | settings.keys()
        return sum(wanted.get(k, _MISSING) != settings.get(k, _MISSING) for k in keys if k not in ITS_OWN)

    return min(presets, key=lambda name: (differing(name), name != DEFAULT_PRESET, name))


def command_line(made: Recipe) -> str:
    """Return the command that makes the same run: `sds3d generate "a red mug" --preset vsd guidance.scale=4`."""
    words = ["sds3d", "generate", made.config.prompt, "--preset", made.preset]
    words += ["--seed", str(made.config.seed)] if made.config.seed else []
    words += [f"{key.removesuffix('.name')}={_yaml(value)}" for key, value in _own_edits(made).items()]
    return shlex.join(words)


def python_call(made: Recipe) -> str:
    """Return the call in Python that makes the same run."""
    given = {"preset": made.preset, "seed": made.config.seed, **nested(_own_edits(made))}
    lines = [repr(made.config.prompt), *(f"{key}={value!r}" for key, value in given.items())]
    return "import sds3d\n\nasset = sds3d.generate(\n" + "".join(f"    {line},\n" for line in lines) + ")"


def _own_edits(made: Recipe) -> Edits:
    """Return the differences from the preset alone: a recipe's edits leave out what the studio was started with."""
    layers = load_preset(made.preset).layers
    return edits_of(made.config, lambda edits: run_config(*layers, {"prompt": ANY}, nested(edits)))


def _yaml(value: Any) -> str:
    """Return a value as `parse_value` reads it, without quotes where none are needed."""
    plain = isinstance(value, str) and value == value.strip() and value
    try:
        return value if plain and parse_value(value) == value else json.dumps(value, ensure_ascii=False)
    except ConfigError:
        return json.dumps(value, ensure_ascii=False)
