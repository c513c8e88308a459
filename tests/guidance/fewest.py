"""Settings of rules with few calls of a prior."""

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
