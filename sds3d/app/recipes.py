"""Which preset a run was made from: runs keep their complete settings, and no name of a preset."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from sds3d.app.edits import Edits, Recipe, edits_of, leaves_of, nearest_preset, nested
from sds3d.app.studio import Studio
from sds3d.config import ConfigError
from sds3d.run.config import read_config
from sds3d.run.folder import Run

ANY = "a red mug"


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
