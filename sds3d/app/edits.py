"""Settings by dotted key, and the differences between a run and its preset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sds3d.config import Tree
from sds3d.run.config import RunConfig, stage_config
from sds3d.run.settings import within_stage

Edits = dict[str, Any]
"""JSON values by dotted key. The variant of a section is its `name`: {"guidance.name": "vsd"}."""


def flat(tree: Mapping[str, Any], prefix: str = "") -> Edits:
    """Return the leaves of a nested mapping by dotted key; lists are leaves."""
    leaves: Edits = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = value
    return leaves


def leaves_of(config: RunConfig) -> Edits:
    """Return all settings of a run by dotted key."""
    return flat(config.model_dump(mode="json"))


def stage_leaves(config: RunConfig) -> Edits:
    """Return all settings of all stages by dotted key: {"stages.0.steps": 200, ...}; {} for a run without stages."""
    stages = [leaves_of(stage_config(config, index)) for index in range(len(config.stages))]
    return {f"stages.{i}.{key}": value for i, leaves in enumerate(stages) for key, value in leaves.items()}


def nested(edits: Mapping[str, Any]) -> Tree:
    """Return the nested mapping of dotted keys: the inverse of `flat`."""
    tree: Tree = {}
    for key, value in edits.items():
        *sections, leaf = key.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[leaf] = value
    return tree


def choices_of(edits: Edits) -> Edits:
    """Return only the variants that are chosen, on which the other keys depend."""
    return {key: value for key, value in edits.items() if key.endswith(".name")}


def choices_in(layer: Mapping[str, Any], config: RunConfig) -> Tree:
    """Return only the variants that a layer chooses, also those given as plain names. config: the run with them."""
    names = leaves_of(config).keys() | {within_stage(key) for key in stage_leaves(config)}
    given = flat(layer)
    return nested({k: v for k, v in given.items() if k.endswith(".name") or f"{within_stage(k)}.name" in names})


def in_one_line(edits: Edits) -> str:
    """Return edits as a line: "guidance=vsd, steps=100"."""
    return ", ".join(f"{key.removesuffix('.name')}={text_of(value)}" for key, value in edits.items())


def text_of(value: Any) -> str:
    """Return a value as readable text."""
    match value:
        case bool():
            return "yes" if value else "no"
        case None:
            return "none"
        case float():
            return f"{value:g}"
        case dict():
            return ", ".join(f"{key}: {text_of(item)}" for key, item in value.items())
        case list() | tuple():
            return "[" + ", ".join(text_of(item) for item in value) + "]"
        case _:
            return str(value)
