"""Presets: partial configurations in YAML files, each with a description.

A preset file has settings and the keys of `About`. Files with a leading underscore have the settings that other presets
share, and are not listed. An example:

    description: "Score Jacobian chaining (2022)."
    status: verified
    seconds: 49
    base: _sds
    guidance: {name: sjc}
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, reduce
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from sds3d.config import Config, ConfigError, Tree, build, configs_dir, load_yaml, meant, merge

Status = Literal["verified", "reconstructed", "unverified"]
"""How a rule's equation relates to its paper. verified: compared with the paper. reconstructed: the paper's public
material does not give the equation, so it is ours. unverified: it could not be compared with the paper."""

Group = Literal["recommended", "paper", "rule", "real"]


class About(Config):
    """The keys of a preset file that are not settings."""

    description: str = ""
    """Its purpose, in one line."""
    status: Status | None = None
    """How the equation of its rule relates to the paper."""
    seconds: float | None = Field(default=None, gt=0)
    """About how long a run takes on two CPU cores; None: not measured."""
    group: Group = "rule"
    """Where it is listed. recommended: suits most prompts. paper: the stages of a paper. rule: a single rule. real:
    the published settings of a method, for a real model."""
    needs_asset: bool = False
    """Whether it needs start_from=FILE."""
    needs_settings: Mapping[str, str] = {}
    """Other settings that must be given, each with how: {representation.sketch: representation.sketch=FILE}."""
    base: str = ""
    """Another file in the folder of presets, without its ending. This preset's settings replace those of its base."""


RENAMED = {
    "c-sds-reconstructed": "c-sds",
    "coupled-reconstructed": "coupled-stages",
    "coupled-sd-reconstructed": "coupled-sd",
    "dsd-reconstructed": "dsd",
    "nfsd-unverified": "nfsd",
    "snoopi-unverified": "snoopi",
    "vdm-reconstructed": "vdm",
}
"""Former names of presets and their new names; the former ones still work."""


DEFAULT_PRESET = "mesh"
"""The preset of runs that name none: on the command line, in Python, in files of prompts and in the studio."""


@dataclass(frozen=True)
class Preset:
    """A partial configuration with a name. layers: the settings of its bases, the lowest first, and its own."""

    name: str
    about: About
    layers: tuple[Tree, ...]

    @property
    def values(self) -> Tree:
        """Its settings and those of its bases, as one mapping."""
        return reduce(merge, self.layers, {})

    @property
    def made_for(self) -> str:
        """The kind of prior that the settings suit, see `RunConfig.made_for`; empty if the preset does not say."""
        return str(self.values.get("made_for", ""))


def presets() -> list[Preset]:
    """Return the shipped presets, sorted by name."""
    return [_read_once(path) for path in shipped().values()]


def load_preset(name: str) -> Preset:
    """Load a shipped preset by name, or any YAML file by path.

    A former name is replaced with a warning. Raises ConfigError naming the nearest preset.
    """
    if is_file(name):
        return _read(Path(name))
    known, name = shipped(), current_name(name)
    if name not in known:
        raise ConfigError(f'there is no preset "{name}"; {meant(name, list(known))}')
    return _read_once(known[name])


def load_generator_preset(name: str) -> Preset:
    """Load a shipped preset of the training of a generator by name, or any YAML file by path. Raises ConfigError."""
    if is_file(name):
        return _read(Path(name))
    known = _files(configs_dir() / "generators")
    if name not in known:
        raise ConfigError(f'there is no preset "{name}" of a generator; {meant(name, list(known))}')
    return _read_once(known[name])


def is_file(name: str) -> bool:
    """Return whether a preset is the path of a YAML file instead of a name."""
    return Path(name).suffix in {".yaml", ".yml"}


def current_name(name: str) -> str:
    """Return the name itself, or the new name of a preset that was renamed, with a warning."""
    if name in RENAMED:
        warnings.warn(f'the preset "{name}" is now named "{RENAMED[name]}"', FutureWarning, stacklevel=2)
    return RENAMED.get(name, name)


def shipped() -> dict[str, Path]:
    """Return the files of the shipped presets, by name."""
    return {name: path for name, path in _files(configs_dir()).items() if not name.startswith("_")}


@cache
def _files(folder: Path) -> dict[str, Path]:
    """Return the YAML files of a folder by name, sorted. A folder is looked through once per process."""
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


@cache
def _read_once(path: Path) -> Preset:
    """Like `_read`, once per process: the studio asks for all presets with every form."""
    return _read(path)


def _read(path: Path, above: tuple[Path, ...] = ()) -> Preset:
    """Read a preset on top of its bases. above: the files that it is a base of."""
    return preset_of(path, load_yaml(path), above)


def preset_of(path: Path, values: Tree, above: tuple[Path, ...] = ()) -> Preset:
    """Return a preset with the contents of its file, on top of its bases. Raises ConfigError."""
    try:
        values = dict(values)
        about = build(About, {key: values.pop(key) for key in About.model_fields if key in values})
        below = _read(_base(about.base, (*above, path)), (*above, path)).layers if about.base else ()
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return Preset(path.stem, about, (*(_named(layer, values) for layer in below), values))


def _named(below: Mapping[str, Any], above: Mapping[str, Any]) -> Tree:
    """Return the settings of a base, whose sections take the names that a preset on top of it gives them.

    Else they would belong to the section that has this place by default, and would be lost with it.
    """
    named = dict(below)
    for key, section in above.items():
        under = below.get(key)
        if isinstance(section, Mapping) and isinstance(under, Mapping):
            first: Tree = {"name": section["name"]} if "name" in section else {}
            named[key] = first | _named(under, section)
    return named


def _base(name: str, above: tuple[Path, ...]) -> Path:
    """Return the file of a base. Raises ConfigError if it is missing, or if it is one of the files above."""
    files = _files(configs_dir())
    if name not in files:
        raise ConfigError(f'there is no base "{name}"; {meant(name, list(files))}')
    if files[name] in above:
        raise ConfigError(f'the base "{name}" has itself as a base')
    return files[name]
