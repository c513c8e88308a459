"""Settings of rules with few calls of a prior, and those of each path through a rule."""

from __future__ import annotations

from typing import Any

FEWEST = {
    **dict.fromkeys(("refine_every", "refresh_every", "updates", "refine_steps"), 1),
    **dict.fromkeys(("inversion_steps", "denoising_steps", "sampling_steps"), 2),
}
"""The fewest calls of a prior with which rules still take every branch, in every step.

One step of a refinement is enough: it samples as `sampling_steps` does.
"""


def quickened(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a rule with numbers of calls of at most `FEWEST`."""
    return {
        name: quickened(value) if isinstance(value, dict) else min(value, FEWEST[name]) if name in FEWEST else value
        for name, value in settings.items()
    }


def of_each_path(rules: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Leave out settings that take the same path through a rule as earlier ones: only numbers differ, not 0 nor 1."""
    first: dict[str, str] = {}
    for name, settings in rules.items():
        first.setdefault(repr(_path(settings)), name)
    return {name: rules[name] for name in first.values()}


def _path(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _path(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_path(part) for part in value]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return (value > 0, "another number") if number and value not in (0, 1) else value
