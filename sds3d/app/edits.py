"""Settings by dotted keys: what a run has other than its preset, and which preset that is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sds3d.config import Tree
from sds3d.run.config import RunConfig

ITS_OWN = ("prompt", "seed", "start_from_sha256")
"""What every run has for itself, and no preset."""

Edits = dict[str, Any]
"""Values by dotted key, as JSON has them; the choice of a section is its `name`: {"guidance.name": "vsd"}."""

Base = Callable[[Edits], RunConfig]
"""The configuration of a preset with these edits."""

_MISSING = object()


@dataclass(frozen=True)
class Recipe:
    """What a run is made from: a preset, and what differs from it."""

    config: RunConfig
    preset: str
    edits: Edits


def flat(tree: Mapping[str, Any], prefix: str = "") -> Edits:
    """The leaves of a nested mapping by dotted key; lists are leaves."""
    leaves: Edits = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = value
    return leaves


def leaves_of(config: RunConfig) -> Edits:
    """All settings of a run by dotted key."""
    return flat(config.model_dump(mode="json"))


def nested(edits: Mapping[str, Any]) -> Tree:
    """The inverse of `flat`."""
    tree: Tree = {}
    for key, value in edits.items():
        *sections, leaf = key.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[leaf] = value
    return tree


def choices_of(edits: Edits) -> Edits:
    """The choices among them, which say what other keys there are."""
    return {key: value for key, value in edits.items() if key.endswith(".name")}


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


def told(edits: Edits) -> str:
    """Edits in one line: "guidance.scale=4, steps=100"; the choice of a section is told by the section's name."""
    return ", ".join(f"{key.removesuffix('.name')}={shown(value)}" for key, value in edits.items())


def shown(value: Any) -> str:
    """A value as people write it."""
    match value:
        case bool():
            return "yes" if value else "no"
        case None:
            return "none"
        case float():
            return f"{value:g}"
        case list() | tuple():
            return "[" + ", ".join(shown(item) for item in value) + "]"
        case _:
            return str(value)
