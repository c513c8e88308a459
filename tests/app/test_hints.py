"""What a prior with a small vocabulary cannot draw of a prompt."""

from __future__ import annotations

import pytest

from sds3d.app.hints import hint, known
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.prompts.vocabulary import Vocabulary
from sds3d.toybox.captions import WORLD, prompt
from sds3d.toybox.world import CATEGORIES, COLORS, Spec

KNOWS = f"It knows {known(WORLD)}. For anything else use a large model: Advanced, Prior, Model."
ONE = "One object is made at a time:"
ONE_COLOR = "Each part has one colour, and the"
NOTHING = f"The prompt names no object that the embedded prior knows. {KNOWS}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  ", ""),
        ("a white snowman with a green hat", ""),
        ("a photo of a toy duck that is yellow, side view", ""),
        ("a red and blue duck next to a green car", f"{ONE} “a red and blue duck”, without the car."),
        ("ducks and cars", f"{ONE} “a duck”, without the car."),
        ("a red and blue duck", f"{ONE_COLOR} duck has red and blue: try “a red duck with a blue beak”."),
        ("a car with a red roof, blue roof", f"{ONE_COLOR} roof has red and blue: try “a red car with a blue roof”."),
        ("a red and black cat", f"{ONE_COLOR} cat has red and black: try “a red cat with a black collar”."),
        ("red", NOTHING),
        ("\N{DUCK}", NOTHING),
        ("two ducks", f"{ONE} “a duck”."),
        ("a red puppy", "The prompt is read as “a red dog”."),
        ("a red dragon with a green hat", f"The embedded prior does not know the word “dragon”. {KNOWS}"),
        ("a red hause", f"The embedded prior does not know the word “hause” (“house”?). {KNOWS}"),
    ],
    ids=range(14),
)  # fmt: skip
def test_hints(text: str, expected: str):
    assert hint(text, WORLD) == expected


def test_what_is_known_needs_no_hint():
    for category in CATEGORIES:
        for color in COLORS:
            assert hint(prompt(Spec(category, color, "white")), WORLD) == ""


def test_a_prior_that_may_know_any_word_needs_no_hint():
    assert hint("two dragons", None) == ""


def test_hints_ask_the_prior_and_not_the_world():
    small = Vocabulary({"mug": "handle", "hat": "band"}, ("red", "blue"), frozenset(["a", "red", "blue", "mug", "hat"]))
    assert hint("a red dog", small) == (
        "The embedded prior does not know the word “dog”. It knows 2 kinds of object, such as mug and hat, in red and "
        "blue. For anything else use a large model: Advanced, Prior, Model."
    )


def test_few_kinds_are_named_as_examples():
    assert known(WORLD).startswith("76 kinds of object, such as mug, ")
    assert len(known(WORLD)) < 200


def test_the_shipped_prior_tells_its_words():
    vocabulary = DiffusersConfig().vocabulary()
    assert vocabulary is not None
    assert hint("a red mug with a blue handle", vocabulary) == ""
    assert vocabulary.kinds.keys() <= set(CATEGORIES)
    assert vocabulary.words <= WORLD.words
