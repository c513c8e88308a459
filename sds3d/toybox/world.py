"""The vocabulary of the toy world: 76 kinds of object, ten colours, and the part of each kind with the accent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

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


class Kind(NamedTuple):
    """The facts about a kind of object.

    part: the part with the accent colour. accent: that part's colour if the prompt names none; None stands for the main
    colour. has_front: whether front and back differ.
    """

    part: str
    accent: str | None
    has_front: bool = True


KINDS: dict[str, Kind] = {
    "mug": Kind("handle", None),
    "chair": Kind("legs", None),
    "snowman": Kind("hat", "black"),
    "car": Kind("roof", None),
    "house": Kind("roof", "brown"),
    "duck": Kind("beak", "orange"),
    "lamp": Kind("base", "brown", has_front=False),
    "mushroom": Kind("stem", "white", has_front=False),
    "rocket": Kind("fins", "red"),
    "robot": Kind("head", None),
    "teapot": Kind("lid", None),
    "tree": Kind("trunk", "brown", has_front=False),
    "cat": Kind("collar", "red"),
    "boat": Kind("sail", "white"),
    "table": Kind("legs", None),
    "hat": Kind("band", "white"),
    "dog": Kind("ears", "brown"),
    "rabbit": Kind("scarf", "blue"),
    "bear": Kind("shirt", None),
    "pig": Kind("snout", "pink"),
    "elephant": Kind("blanket", "red"),
    "fish": Kind("fins", "orange"),
    "turtle": Kind("shell", "brown"),
    "owl": Kind("wings", "brown"),
    "penguin": Kind("belly", "white"),
    "frog": Kind("spots", "yellow"),
    "snail": Kind("shell", "brown"),
    "bee": Kind("stripes", "black"),
    "dinosaur": Kind("spikes", "orange"),
    "whale": Kind("belly", "white"),
    "bus": Kind("stripe", "white"),
    "airplane": Kind("wings", None),
    "train": Kind("wheels", "red"),
    "truck": Kind("cab", None),
    "helicopter": Kind("rotor", "black"),
    "tractor": Kind("wheels", "black"),
    "submarine": Kind("tower", None),
    "castle": Kind("towers", None),
    "lighthouse": Kind("stripes", "white"),
    "windmill": Kind("blades", "white"),
    "tent": Kind("stripes", "white"),
    "mailbox": Kind("post", "brown"),
    "sofa": Kind("cushions", None),
    "bed": Kind("blanket", None),
    "clock": Kind("bells", None),
    "television": Kind("screen", "black"),
    "camera": Kind("flash", "white"),
    "guitar": Kind("neck", "brown"),
    "umbrella": Kind("handle", "brown", has_front=False),
    "backpack": Kind("pocket", None),
    "bucket": Kind("handle", "white", has_front=False),
    "bottle": Kind("cap", "white"),
    "vase": Kind("tulips", "pink", has_front=False),
    "candle": Kind("holder", "yellow", has_front=False),
    "book": Kind("spine", "brown"),
    "drum": Kind("rims", "yellow", has_front=False),
    "trophy": Kind("base", "brown"),
    "crown": Kind("jewels", "blue"),
    "chest": Kind("lid", None),
    "gift": Kind("ribbon", "yellow"),
    "boot": Kind("sole", "brown"),
    "balloon": Kind("basket", "brown", has_front=False),
    "bench": Kind("legs", "black"),
    "sword": Kind("hilt", "yellow", has_front=False),
    "shield": Kind("cross", "white"),
    "piano": Kind("stool", None),
    "ladder": Kind("rungs", None),
    "barrel": Kind("hoops", "black"),
    "apple": Kind("leaves", "green", has_front=False),
    "carrot": Kind("leaves", "green", has_front=False),
    "cake": Kind("icing", "white"),
    "burger": Kind("cheese", "yellow", has_front=False),
    "donut": Kind("icing", "pink"),
    "cactus": Kind("pot", "brown", has_front=False),
    "flower": Kind("leaves", "green"),
    "pumpkin": Kind("stem", "green"),
}
"""All kinds by name. New ones go to the end: a scorer numbers its outputs in this order."""

CATEGORIES: tuple[str, ...] = tuple(KINDS)
ACCENT_PART: dict[str, str] = {name: kind.part for name, kind in KINDS.items()}
DEFAULT_ACCENT: dict[str, str | None] = {name: kind.accent for name, kind in KINDS.items()}
HAS_FRONT: frozenset[str] = frozenset(name for name, kind in KINDS.items() if kind.has_front)


@dataclass(frozen=True)
class Spec:
    """A kind of object: a category of CATEGORIES, a colour of COLORS, and the accent part's colour or None."""

    category: str
    color: str
    accent: str | None = None
