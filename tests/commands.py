"""Command lines of sds3d, parsed, with their presets and settings resolved as the commands would, without running."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer

from sds3d.cli.main import app
from sds3d.config import build, parse_override
from sds3d.evaluation.playground2d import rule_config, rule_names
from sds3d.evaluation.rule_scores import rule_presets
from sds3d.presets import DEFAULT_PRESET, load_generator_preset, load_preset
from sds3d.run.config import make_config
from sds3d.run.generated_start import start_path
from sds3d.run.train_generator import GeneratorTraining
from sds3d.toybox.train_config import TrainConfig

START = {"start_from": "mug.glb"}
"""For presets that need something to start from; settings of the command come after it."""
BENCH_PRESETS = {"light": "materials", "structure": "texture", "polish": "polish"}


def parsed(words: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Return the name of a command, such as "bench toybox", and its parameters.

    words: of a command line, after sds3d. Raises AssertionError for an unknown command, click's errors for unknown
    options and wrong values.
    """
    command: Any = typer.main.get_command(app)
    left, path = list(words), []
    while hasattr(command, "commands"):
        assert left[0] in command.commands, f"{left[0]} is not a command"
        path.append(left.pop(0))
        command = command.commands[path[-1]]
    if left in ([], ["--help"]):
        return " ".join(path), {}
    return " ".join(path), command.make_context(command.name, left).params


def resolve(words: Sequence[str]) -> None:
    """Parse a command line, and resolve its presets and settings. Raises what `parsed` raises, and ConfigError."""
    name, given = parsed(words)
    overrides, settings = given.get("overrides") or (), given.get("settings") or ()
    preset = given.get("preset") or DEFAULT_PRESET
    if name == "generator train":
        layers = load_generator_preset(given["preset"]).layers if given.get("preset") else ()
        build(GeneratorTraining, *layers, *map(parse_override, overrides))
    elif name == "generator sample" and given:
        start_path(str(given["folder"]))
    elif name.startswith("toybox train"):
        build(TrainConfig, *map(parse_override, overrides))
    elif name == "playground2d" and given:
        rules = given["rules"] or ["sds"]
        for rule in rule_names() if "all" in rules else rules:
            rule_config(rule, "a red mug", overrides)
    elif name == "bench generators":
        for one in given.get("names") or ():
            load_preset(one)
        build(GeneratorTraining, *map(parse_override, settings))
    elif name.startswith("bench "):
        usual = rule_presets() if name == "bench guidance" else [BENCH_PRESETS.get(name.split()[1], preset)]
        for one in given.get("names") or usual:
            make_config("a red mug", one, settings, START)
    elif preset.endswith(".yaml"):
        make_config("a red mug", DEFAULT_PRESET, overrides, START)
    elif "prompt" in given and overrides:
        make_config("a red mug", preset, overrides, START)
    elif given.get("preset"):
        load_preset(given["preset"])
