import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sds3d.cameras import orbit
from sds3d.priors.gaussian import Gaussian, GaussianPrior
from sds3d.prompts.conditioning import Conditioning
from sds3d.prompts.prompt import (
    VIEWS,
    PromptConfig,
    checked_prompt,
    encode_prompt,
    encode_texts,
    prompt_texts,
    slug,
    view_dependent,
    view_name,
)


@pytest.mark.parametrize(
    ("azimuth", "elevation", "expected"),
    [
        (0, 0, "front"),
        (44.9, 0, "front"),
        (45, 0, "side"),
        (-45, 0, "side"),
        (90, 0, "side"),
        (135, 0, "side"),
        (135.1, 0, "back"),
        (180, 0, "back"),
        (-180, 0, "back"),
        (225.1, 0, "side"),
        (270, 0, "side"),
        (316, 0, "front"),
        (360, 0, "front"),
        (0, 60, "front"),
        (0, 60.1, "overhead"),
        (180, 90, "overhead"),
        (90, -90, "side"),
    ],
)
def test_names_of_views(azimuth, elevation, expected):
    assert view_name(azimuth, elevation) == expected


@settings(deadline=None)
@given(azimuth=st.integers(-720, 720), turns=st.integers(-3, 3), threshold=st.sampled_from([30.0, 45.0, 60.0]))
def test_names_repeat_each_turn_and_mirror(azimuth, turns, threshold):
    name = view_name(azimuth, 0, threshold)
    assert name == view_name(azimuth + 360 * turns, 0, threshold) == view_name(-azimuth, 0, threshold)
    opposite = {"front": "back", "back": "front", "side": "side"}
    assert view_name(azimuth + 180, 0, threshold) == opposite[name]


def test_thresholds_are_settings():
    assert view_name(40, 0, threshold=30) == "side"
    assert view_name(0, 50, overhead=40) == "overhead"


def test_view_words_follow_the_prompt():
    assert view_dependent("a red mug") == {
        "front": "a red mug, front view",
        "side": "a red mug, side view",
        "back": "a red mug, back view",
        "overhead": "a red mug, overhead view",
    }


class CountingGaussian(GaussianPrior):
    """Counts the calls of the text encoder."""

    calls = 0

    def encode_text(self, prompts) -> Conditioning:
        self.calls += 1
        return super().encode_text(prompts)


def test_each_camera_gets_the_row_of_its_view():
    words = {text: Gaussian(float(i), 1.0) for i, text in enumerate(view_dependent("a mug").values())}
    others = {"a mug": Gaussian(7.0, 1.0), "blurry": Gaussian(-1.0, 1.0), "a thing": Gaussian(-2.0, 1.0)}
    prior = CountingGaussian({**words, **others, "": Gaussian(-3.0, 1.0)}, (3, 2, 2))
    texts = replace(prompt_texts(" a mug ", PromptConfig(negative="blurry")), extra={"kind": "a thing"})
    encoded = encode_texts(prior, texts)
    cameras = orbit([0.0, 90.0, 180.0, 270.0, 10.0], elevation=torch.tensor([0.0, 0.0, 0.0, 0.0, 80.0]))
    positive = encoded.positive(cameras)
    assert [VIEWS[int(mean)] for mean in positive.hidden[:, 0, 0]] == ["front", "side", "back", "side", "overhead"]
    rest = (encoded.plain, encoded.negative, encoded.extra["kind"], encoded.null)
    assert [row.hidden[:, 0, 0].tolist() for row in rest] == [[7.0], [-1.0], [-2.0], [-3.0]]
    encoded.positive(cameras)
    assert prior.calls == 1


def test_front_threshold_reaches_the_choice():
    words = {text: Gaussian(float(i), 1.0) for i, text in enumerate(view_dependent("a mug").values())}
    prior = GaussianPrior({**words, "a mug": Gaussian(0.0, 1.0), "": Gaussian(-1.0, 1.0)}, (3, 2, 2))
    for threshold, expected in ((45.0, "front"), (30.0, "side")):
        positive = encode_prompt(prior, "a mug", PromptConfig(front_threshold=threshold)).positive(orbit([40.0]))
        assert VIEWS[int(positive.hidden[0, 0, 0])] == expected


def test_overhead_threshold_reaches_the_choice():
    words = {text: Gaussian(float(i), 1.0) for i, text in enumerate(view_dependent("a mug").values())}
    prior = GaussianPrior({**words, "a mug": Gaussian(0.0, 1.0), "": Gaussian(-1.0, 1.0)}, (3, 2, 2))
    for threshold, expected in ((60.0, "front"), (30.0, "overhead")):
        encoded = encode_prompt(prior, "a mug", PromptConfig(overhead_threshold=threshold))
        assert VIEWS[int(encoded.positive(orbit([0.0], elevation=40.0)).hidden[0, 0, 0])] == expected


@pytest.mark.parametrize(
    ("given", "n_views", "words"),
    [("auto", 1, True), ("auto", 4, False), (True, 4, True), (False, 1, False)],
)
def test_view_words_are_on_by_themselves_where_the_prior_takes_no_cameras(given: Any, n_views: int, words: bool):
    texts = {text: Gaussian(float(i), 1.0) for i, text in enumerate(view_dependent("a mug").values())}
    others = {"a mug": Gaussian(7.0, 1.0), "": Gaussian(-1.0, 1.0)}
    prior = GaussianPrior({**texts, **others}, (3, 2, 2), n_views=n_views)
    encoded = encode_prompt(prior, "a mug", PromptConfig(view_dependent=given))
    assert encoded.texts.view_dependent is words
    expected = [0.0, 2.0] if words else [7.0, 7.0]
    assert encoded.positive(orbit([0.0, 180.0])).hidden[:, 0, 0].tolist() == expected


def test_one_text_for_every_view():
    prior = GaussianPrior({"a mug": Gaussian(0.5, 1.0), "": Gaussian(0.0, 1.0)}, (3, 2, 2))
    encoded = encode_prompt(prior, "a mug", PromptConfig(view_dependent=False))
    assert encoded.positive(orbit([0.0, 90.0, 180.0])).hidden[:, 0, 0].tolist() == [0.5] * 3


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "empty"),
        (" \n\t ", "empty"),
        ("x" * 1001, "1001 characters"),
        ("a\nmug", "U\\+000A"),
        ("a\x00mug", "U\\+0000"),
        ("a\ud800mug", "U\\+D800"),
    ],
)
def test_unusable_prompts_are_refused_in_one_line(prompt, message):
    with pytest.raises(ValueError, match=message) as error:
        checked_prompt(prompt)
    assert "\n" not in str(error.value)


def test_usable_prompts_pass():
    assert checked_prompt("  eine rote Tasse, 赤いマグ 🫖 ") == "eine rote Tasse, 赤いマグ 🫖"
    assert len(checked_prompt("x" * 1000)) == 1000


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("A red Mug!", "a-red-mug"),
        ("Café über alles", "cafe-uber-alles"),
        ("赤いマグ", "prompt"),
        ("../../etc/passwd", "etc-passwd"),
        ("", "prompt"),
        ("a snowman with a green hat and a long orange nose", "a-snowman-with-a-green-hat-and-a-long"),
        ("x" * 100, "x" * 40),
    ],
)
def test_slugs(prompt, expected):
    assert slug(prompt) == expected


@settings(deadline=None)
@given(st.text(max_size=200), st.integers(8, 60))
def test_slugs_are_safe_names(prompt, max_length):
    name = slug(prompt, max_length)
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
    assert len(name) <= max_length
    assert slug(name, max_length) == name


def test_wrong_settings_are_refused():
    with pytest.raises(ValidationError):
        PromptConfig(front_threshold=120.0)
