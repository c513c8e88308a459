"""Settings by dotted keys: what a run has other than its preset, and which preset that is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sds3d.config import Tree
from sds3d.run.config import RunConfig

Edits = dict[str, Any]
"""Values by dotted key, as JSON has them; the choice of a section is its `name`: {"guidance.name": "vsd"}."""


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
