"""Which preset a run was made from: runs keep their complete settings, and no name of a preset."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from sds3d.app.edits import Edits, leaves_of, nested
from sds3d.app.studio import Studio
from sds3d.config import ConfigError
from sds3d.run.config import RunConfig, read_config
from sds3d.run.folder import Run

ITS_OWN = ("prompt", "seed", "start_from_sha256", "made_for")
"""What every run has for itself, and no preset."""

Base = Callable[[Edits], RunConfig]
"""The configuration of a preset with these edits."""

ANY = "a red mug"

_MISSING = object()


@dataclass(frozen=True)
class Recipe:
    """What a run is made from: a preset, and what differs from it."""

    config: RunConfig
    preset: str
    edits: Edits


def recipe(studio: Studio, run: Run) -> Recipe:
    """What a run is made from. Raises ConfigError when its settings cannot be read."""
    try:
        changed = run.config_path.stat().st_mtime_ns
    except OSError as error:
        raise ConfigError(f"{run.folder.name}: its settings are gone") from error
    try:
        return _recipe(studio, run.folder, changed)
    except ConfigError as error:
        raise ConfigError(studio.told(str(error))) from error


@lru_cache(maxsize=1 << 14)  # 10 kB each; runs are looked through in order, which a smaller one would never help
def _recipe(studio: Studio, folder: Path, changed: int) -> Recipe:
    config = read_config(Run(folder))
    preset = nearest_preset(config, _presets(studio))
    return Recipe(config, preset, edits_of(config, lambda edits: studio.own_config(ANY, preset, nested(edits))))


@lru_cache(maxsize=8)
def _presets(studio: Studio) -> dict[str, Edits]:
    """The settings of every preset that the studio's overrides go with."""
    found = {}
    for name in studio.presets():
        try:
            found[name] = leaves_of(studio.own_config(ANY, name))
        except ConfigError:
            continue
    return found


def edits_of(config: RunConfig, base: Base) -> Edits:
    """What must be laid over a preset to get this configuration. Raises ConfigError when nothing will."""
    wanted, chosen = leaves_of(config), {}
    while True:
        start = leaves_of(base(chosen))
        other = [k for k, v in wanted.items() if k.endswith(".name") and k not in chosen and start.get(k) != v]
        if not other:
            break
        key = min(other, key=lambda name: name.count("."))  # an outer choice brings inner ones with it
        chosen[key] = wanted[key]
    values = {k: v for k, v in wanted.items() if k not in ITS_OWN and start.get(k, _MISSING) != v}
    return chosen | values


def nearest_preset(config: RunConfig, presets: Mapping[str, Edits]) -> str:
    """The preset that the fewest settings differ from. presets: their settings by name."""
    wanted = leaves_of(config)

    def differing(name: str) -> int:
        settings = presets[name]
        keys = wanted.keys() | settings.keys()
        return sum(wanted.get(k, _MISSING) != settings.get(k, _MISSING) for k in keys if k not in ITS_OWN)

    return min(presets, key=lambda name: (differing(name), name))
