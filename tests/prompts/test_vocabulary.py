"""How a prior with a small vocabulary reads prompts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sds3d.files import PriorError
from sds3d.prompts.synonyms import COUNTS, SYNONYMS
from sds3d.prompts.vocabulary import FILE, Vocabulary, read_vocabulary
from sds3d.toybox.captions import WORLD

SMALL = Vocabulary(
    {"mug": "handle", "car": "roof"},
    ("red", "blue"),
    frozenset(["a", "an", "the", "and", "with", "mug", "handle", "car", "roof", "red", "blue"]),
)


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        # Plurals and counts
        ("two red mugs", "a red mug"),
        ("Three RED mugs", "a RED mug"),
        ("red mugs with blue handles", "red mug with blue handle"),
        ("the two orange cars", "the orange car"),
        ("a pair of orange boots", "an orange boot"),
        ("12 buses", "a bus"),
        ("two fish", "a fish"),
        ("snowmen", "snowman"),
        ("cacti", "cactus"),
        ("white bunnies", "white rabbit"),
        # Other words
        ("a red puppy", "a red dog"),
        ("an orange automobile", "an orange car"),
        ("an automobile", "a car"),
        ("a plane", "an airplane"),
        ("one violet kitty", "a purple cat"),
        ("a jet-black aeroplane", "a black airplane"),
        ("a hot-air balloon in red", "a balloon in red"),
        ("a jack-o'-lantern", "a pumpkin"),
        ("a red treasure chest", "a red chest"),
        ("a rubber duck, side view", "a duck, side view"),
        ("a coloured teddy bear", "a colored bear"),
        # Parts
        ("a red dog with a brown ear", "a red dog with brown ears"),
        ("an elephant with an orange blanket", "an elephant with an orange blanket"),
        # One of several objects
        ("a red mug and a blue car", "a red mug"),
        ("a red mug, two cats", "a red mug"),
        ("a red puppy with an orange ear next to a blue car, back view", "a red dog with orange ears, back view"),
        ("a dog beside a red and blue duck", "a dog"),
        ("a red and blue duck beside a dog", "a red and blue duck"),
        ("a green apple tree", "a green tree"),
        ("a white snowman and a black hat", "a white snowman and a black hat"),  # the hat is its part
        # What stays
        ("", ""),
        ("  a  SHINY, red mug;", "  a  SHINY, red mug;"),
        ("a grey kettle", "a grey kettle"),
        ("two dragons", "two dragons"),
        ("a mug of coffee with a red and a blue handle", "a mug of coffee with a red and a blue handle"),
    ],
)
def test_text_is_put_into_known_words(prompt: str, text: str):
    assert WORLD.read(prompt).text == text
    assert WORLD.read(text).text == text


@pytest.mark.parametrize(
    ("prompt", "remark"),
    [
        ("a red mug", ""),
        ("a grey mug", ""),
        ("two red mugs", "One object is made at a time: “a red mug”."),
        ("mugs", "One object is made at a time: “mug”."),
        ("a red cup", "The prompt is read as “a red mug”."),
        ("a red cup, a dog and a cat", "One object is made at a time: “a red mug”, without the dog and the cat."),
    ],
)
def test_remarks_tell_what_is_made(prompt: str, remark: str):
    assert WORLD.read(prompt).remark() == remark


@pytest.mark.parametrize(
    ("prompt", "colors"),
    [
        ("a red mug with a blue handle", {"mug": ["red"], "handle": ["blue"]}),
        ("a mug that is red, handle in blue", {"mug": ["red"], "handle": ["blue"]}),
        ("a red mug next to a blue car with a green roof", {"mug": ["red"], "handle": []}),
        ("a red and green mug and a red car", {"mug": ["red", "green"], "handle": []}),
        ("a mug with a red and blue handle", {"mug": [], "handle": ["red", "blue"]}),
        ("red", {}),
    ],
)
def test_colors_belong_to_nouns(prompt: str, colors: dict[str, list[str]]):
    assert WORLD.read(prompt).colors == colors


def test_unknown_words_keep_order_and_lose_case_and_punctuation():
    assert WORLD.read("A shiny, RED mug; with a Dragon-shaped handle (shiny!)").unknown == ("shiny", "dragon-shaped")
    assert WORLD.read("").unknown == ()


def test_a_kind_that_was_not_trained_is_unknown_in_all_its_words():
    for prompt in ("a red dog", "a red puppy", "red puppies"):
        reading = SMALL.read(prompt)
        assert reading.text == prompt
        assert reading.kinds == ()
        assert reading.unknown == (prompt.split()[-1],)
    assert SMALL.read("two blue automobiles").text == "a blue car"
    assert SMALL.read("a violet cup").unknown == ("violet",)


def test_synonyms_are_of_the_world_and_no_words_of_it():
    assert set(SYNONYMS.values()) <= WORLD.words
    assert not SYNONYMS.keys() & WORLD.words
    assert not COUNTS & WORLD.words
    for phrase, word in SYNONYMS.items():
        assert phrase == phrase.lower()
        assert len(phrase.split()) <= 3
        assert WORLD.read(phrase).text == word


def test_the_file_keeps_everything(tmp_path: Path):
    assert read_vocabulary(tmp_path) is None
    assert read_vocabulary(tmp_path / "nowhere") is None
    SMALL.write(tmp_path)
    assert read_vocabulary(tmp_path) == SMALL


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"kinds": ["mug"], "colors": [], "words": []}'], ids=["cut", "list", "empty", "kinds"]
)
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, text: str):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(PriorError, match=r"toybox\.json is damaged .*copy it from the prior again$") as caught:
        read_vocabulary(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_file_is_readable_as_plain_json(tmp_path: Path):
    SMALL.write(tmp_path)
    data = json.loads((tmp_path / FILE).read_text(encoding="utf-8"))
    assert data["kinds"] == {"mug": "handle", "car": "roof"}
    assert data["colors"] == ["red", "blue"]
    assert data["words"] == sorted(SMALL.words)
