"""What the embedded prior cannot draw of a prompt."""

from __future__ import annotations

import pytest

from sds3d.app.hints import hint, known_objects
from sds3d.toybox.captions import prompt
from sds3d.toybox.world import CATEGORIES, COLORS, Spec

KNOWS = f"It knows {known_objects()}. For anything else use a large model: Advanced, Prior, Model."


TOGETHER = "The embedded prior draws one object at a time, not a duck and a car together."
ONE_COLOR = "Each part has one colour, and the"
NOTHING = f"The prompt names no object that the embedded prior knows. {KNOWS}"
ONE = "The embedded prior draws one object: write"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  ", ""),
        ("a white snowman with a green hat", ""),
        ("a photo of a toy duck that is yellow, side view", ""),
        ("a red and blue duck next to a green car", TOGETHER),
        ("ducks and cars", TOGETHER),
        ("a red and blue duck", f"{ONE_COLOR} duck has red and blue: try “a red duck with a blue beak”."),
        ("a car with a red roof, blue roof", f"{ONE_COLOR} roof has red and blue: try “a red car with a blue roof”."),
        ("a red and black cat", f"{ONE_COLOR} cat has red and black: try “a red cat with a black collar”."),
        ("red", NOTHING),
        ("\N{DUCK}", NOTHING),
        ("ducks", f"{ONE} “duck” instead of “ducks”."),
        ("snowmen", f"{ONE} “snowman” instead of “snowmen”."),
        ("a red dragon with a green hat", f"The embedded prior does not know the word “dragon”. {KNOWS}"),
        ("a red hause", f"The embedded prior does not know the word “hause” (“house”?). {KNOWS}"),
    ],
    ids=range(14),
)  # fmt: skip
def test_hints(text: str, expected: str):
    assert hint(text) == expected


def test_what_is_known_needs_no_hint():
    for category in CATEGORIES:
        for color in COLORS:
            assert hint(prompt(Spec(category, color, "white"))) == ""
