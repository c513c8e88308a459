"""The colours of an object: its main and accent colours, fixed ones, and ones that stand out against another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sds3d.toybox.shapes import Color

WHITE, INK, GREY = (0.96, 0.96, 0.96), (0.07, 0.07, 0.09), (0.55, 0.56, 0.60)
GLASS, DARK_GLASS = (0.66, 0.86, 0.97), (0.13, 0.22, 0.34)
GLOW, CARROT, BRICK, WOOD = (1.0, 0.90, 0.35), (0.98, 0.45, 0.05), (0.66, 0.26, 0.18), (0.55, 0.34, 0.17)
PALE_WOOD = (0.90, 0.74, 0.46)


@dataclass(frozen=True)
class Paint:
    """The main and accent colours of one object, and its random numbers."""

    main: Color
    accent: Color
    rng: np.random.Generator

    def u(self, low: float, high: float) -> float:
        """Return a random proportion, uniform between low and high."""
        return float(self.rng.uniform(low, high))


def contrast(color: Color, *options: Color) -> Color:
    """Return the first option that stands out clearly against the colour, or the most different one."""
    distance = [float(np.linalg.norm(np.subtract(color, option))) for option in options]
    return next((o for o, d in zip(options, distance, strict=True) if d > 0.6), options[int(np.argmax(distance))])


def shade(color: Color, factor: float) -> Color:
    """Return a darker shade (factor below 1). A colour that is already dark becomes lighter instead."""
    if max(color) < 0.3:
        return (color[0] + 0.2, color[1] + 0.2, color[2] + 0.2)
    return (color[0] * factor, color[1] * factor, color[2] * factor)


def apart(color: Color, ground: Color) -> Color:
    """Return the colour, or a shade of it if it could not be told from the ground."""
    return color if np.linalg.norm(np.subtract(color, ground)) > 0.3 else shade(color, 0.76)
