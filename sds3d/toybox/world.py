"""The vocabulary of the toy world: sixteen categories, ten colours, and the part of each object with the accent."""

from __future__ import annotations

from dataclasses import dataclass

from sds3d.toybox.shapes import Color

COLORS: dict[str, Color] = {
    "red": (0.86, 0.08, 0.09),
    "orange": (0.99, 0.50, 0.03),
    "yellow": (0.99, 0.86, 0.12),
    "green": (0.12, 0.62, 0.20),
    "blue": (0.10, 0.30, 0.86),
    "purple": (0.50, 0.14, 0.72),
    "pink": (0.99, 0.55, 0.75),
    "white": (0.95, 0.95, 0.95),
    "black": (0.12, 0.12, 0.13),
    "brown": (0.46, 0.26, 0.12),
}
"""sRGB values in [0, 1]."""

ACCENT_PART: dict[str, str] = {
    "mug": "handle",
    "chair": "legs",
    "snowman": "hat",
    "car": "roof",
    "house": "roof",
    "duck": "beak",
    "lamp": "base",
    "mushroom": "stem",
    "rocket": "fins",
    "robot": "head",
    "teapot": "lid",
    "tree": "trunk",
    "cat": "collar",
    "boat": "sail",
    "table": "legs",
    "hat": "band",
}
"""The part of each category that has the accent colour."""

DEFAULT_ACCENT: dict[str, str | None] = {
    "mug": None,
    "chair": None,
    "snowman": "black",
    "car": None,
    "house": "brown",
    "duck": "orange",
    "lamp": "brown",
    "mushroom": "white",
    "rocket": "red",
    "robot": None,
    "teapot": None,
    "tree": "brown",
    "cat": "red",
    "boat": "white",
    "table": None,
    "hat": "white",
}
"""The accent part's colour if the prompt names none. None stands for the main colour."""

CATEGORIES: tuple[str, ...] = tuple(ACCENT_PART)
HAS_FRONT: frozenset[str] = frozenset(CATEGORIES) - {"lamp", "mushroom", "tree"}
"""Categories whose front and back differ."""


@dataclass(frozen=True)
class Spec:
    """A kind of object: a category of CATEGORIES, a colour of COLORS, and the accent part's colour or None."""

    category: str
    color: str
    accent: str | None = None
