"""What visitors who do not own the machine may set. Its owner may set everything."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sds3d.app.edits import flat, leaves_of
from sds3d.cameras import CameraConfig
from sds3d.config import ConfigError
from sds3d.run.config import RunConfig, stage_config, stage_count
from sds3d.run.settings import within_stage

OWNERS_ONLY = (
    "prior.name", "prior.model", "prior.lora", "prior.ip_adapter", "prior.image_encoder", "prior.controlnets",
    "prompts.debias", "prompts.image", "representation.sketch", "start_from",
    "start_from_sha256", "reference", "rewards", "estimators", "stages", "log_to", "teachers",
    "guidance.variational.model",
    "representation.appearance.material.environments",
)  # fmt: skip
"""Settings that read files of this machine or the network, or send data away: for its owner, not for visitors."""

TIMES = 4
"""Largest factor by which a visitor who does not own the machine may multiply a whole number of the preset."""
TIMES_RESOLUTION = 2
"""The same for resolutions; memory grows with their third power."""
TIMES_PIXELS = 16
"""The same for the pixels that a run renders."""
COSTLESS = (
    "seed", "optimizer.warmup", "export.faces", "cameras.coarse_size", "cameras.group",
    "representation.densify.reset_every",
)  # fmt: skip
"""Whole numbers that do not make a run take longer, whatever they are; 0 means all, or none, in most of them."""
LEAST = {"preview_every": 1.0, "checkpoint_every": 10}
"""Settings whose small values are expensive, with the smallest value for such a visitor."""


def refuse_owners_only(layer: Mapping[str, Any]) -> None:
    """Raise ConfigError if a layer has a setting that only the machine's owner may set."""
    given = [within_stage(key) for key in flat(layer)]
    for key in OWNERS_ONLY:
        # A section given as plain text is only its name, so no key is missed.
        if any(name == key or name.startswith(f"{key}.") for name in given):
            raise ConfigError(f"{key} cannot be set in a studio that is open to others: it reads files or sends data")


def refuse_extremes(config: RunConfig, usual: RunConfig) -> None:
    """Raise ConfigError if a setting multiplies the cost of a run too much.

    usual: the same choices with the values of the preset. Whole numbers count things that take time or memory, all but
    those of `COSTLESS`.
    """
    for index in range(stage_count(config)):
        _refuse_large_values(stage_config(config, index), stage_config(usual, index))
    times = pixels(config) / (pixels(usual) or pixels_of_step(usual))
    if times > TIMES_PIXELS:
        raise ConfigError(
            f"the settings render {times:.0f} times the pixels of the preset; visitors of this studio may have "
            f"{TIMES_PIXELS} times as many: reduce steps, cameras.views, cameras.size or particles"
        )


def _refuse_large_values(config: RunConfig, usual: RunConfig) -> None:
    before, after = (leaves_of(each) | _most_of_a_step(each.cameras) for each in (usual, config))
    for key, value in after.items():
        least, start = LEAST.get(key, -math.inf), before.get(key)
        if value == start:
            continue
        if isinstance(value, (int, float)) and value < least:
            raise ConfigError(f"{key} = {value}: visitors of this studio may set {least:g} or more")
        if isinstance(value, bool) or not isinstance(value, int) or key in (*COSTLESS, *LEAST):
            continue
        factor = TIMES_RESOLUTION if key.endswith("resolution") else TIMES
        most = max(factor * start, TIMES) if isinstance(start, int) else TIMES
        if key.endswith("log2_entries") and isinstance(start, int):
            most = start + int(math.log2(TIMES))
        if value > most:
            raise ConfigError(f"{key} = {value}: visitors of this studio may set {most} or less")


def _most_of_a_step(cameras: CameraConfig) -> dict[str, int]:
    """Return the largest size and number of views of all phases, as settings."""
    parts = [now for _, now in cameras.parts()]
    return {"cameras.size": max(now.size for now in parts), "cameras.views": max(now.views for now in parts)}


def pixels(config: RunConfig) -> float:
    """Return how many pixels a run renders, which is about proportional to its time."""
    return sum(steps * rendered for steps, rendered in _pixels_of_stages(config))


def _pixels_of_step(cameras: CameraConfig) -> float:
    """Return how many pixels the views of a step have, on average over the steps."""
    parts = cameras.parts()
    ends = [*(begin for begin, _ in parts[1:]), 1.0]
    return sum((end - begin) * now.views * now.size**2 for (begin, now), end in zip(parts, ends, strict=True))


def pixels_of_step(config: RunConfig) -> float:
    """Return how many pixels a step renders, on average over the stages; each counts with a step at least."""
    counted = [(max(steps, 1), rendered) for steps, rendered in _pixels_of_stages(config)]
    return sum(steps * rendered for steps, rendered in counted) / sum(steps for steps, _ in counted)


def _pixels_of_stages(config: RunConfig) -> list[tuple[int, float]]:
    """Return the steps of each stage, and how many pixels one of them renders."""
    stages = [stage_config(config, index) for index in range(stage_count(config))]
    return [(stage.steps, stage.particles * _pixels_of_step(stage.cameras)) for stage in stages]
