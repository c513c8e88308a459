import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sds3d.toybox import captions
from sds3d.toybox.captions import (
    VIEWS,
    VOCABULARY,
    WORLD,
    caption,
    choose_held_out,
    held_out,
    held_out_path,
    parse,
    prompt,
    sample_spec,
)
from sds3d.toybox.world import ACCENT_PART, CATEGORIES, COLORS, Spec

specs = st.builds(
    Spec, st.sampled_from(CATEGORIES), st.sampled_from(sorted(COLORS)), st.none() | st.sampled_from(sorted(COLORS))
)
seeds = st.integers(0, 2**32 - 1)
views = st.none() | st.sampled_from(VIEWS)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (Spec("mug", "red"), "a red mug"),
        (Spec("car", "orange"), "an orange car"),
        (Spec("snowman", "white", "green"), "a white snowman with a green hat"),
        (Spec("house", "blue", "orange"), "a blue house with an orange roof"),
        (Spec("chair", "black", "red"), "a black chair with red legs"),
        (Spec("hat", "pink", "blue"), "a pink hat with a blue band"),
    ],
)
def test_canonical_prompts(spec: Spec, text: str) -> None:
    assert prompt(spec) == text
    assert parse(text) == spec


@given(specs)
def test_parse_inverts_prompt(spec: Spec) -> None:
    assert parse(prompt(spec)) == spec
    assert WORLD.read(prompt(spec)).unknown == ()


@given(specs, seeds, views)
def test_captions_are_true_known_and_well_formed(spec: Spec, seed: int, view: str | None) -> None:
    text = caption(spec, np.random.default_rng(seed), view)
    assert text == caption(spec, np.random.default_rng(seed), view)
    assert WORLD.read(text).unknown == ()
    assert set(re.findall(r"[a-z0-9]+", text)) <= set(VOCABULARY)
    assert not re.search(r"\ba [aeiou]|\ban [^aeiou]|  | ,|^ | $", text)
    stated = {word for word in text.replace(",", "").split() if word in COLORS}
    assert stated <= {spec.color, spec.accent}
    parsed = parse(text)
    if spec.color != spec.accent and stated == {spec.color, spec.accent} - {None}:
        assert parsed == spec
    if parsed is not None:
        assert (parsed.category, parsed.color) == (spec.category, spec.color)
        assert parsed.accent in (None, spec.accent)
    if view is None:
        assert not set(text.split()) & {*VIEWS, "view", "seen", "from"}
    else:
        assert (view in text) or (view == "overhead" and "from above" in text)


def test_captions_vary_and_seldom_drop_a_color() -> None:
    rng = np.random.default_rng(0)
    spec = Spec("snowman", "white", "green")
    texts = [caption(spec, rng, VIEWS[i % 4]) for i in range(2000)]
    assert len(set(texts)) > 500
    complete = np.mean([parse(text) == spec for text in texts])
    assert 0.75 < complete < 0.9
    plain = [caption(Spec("mug", "red"), rng) for _ in range(1000)]
    assert np.mean(["red" in text for text in plain]) > 0.9
    assert np.mean([text == "a red mug" for text in plain]) > 0.25
    words = {word for text in texts for word in re.findall(r"[a-z0-9]+", text)}
    assert {"toy", "photo", "picture", "3d", "model", "a", "an", "the", "view", "above"} <= words


def test_every_word_of_the_vocabulary_is_used() -> None:
    rng = np.random.default_rng(1)
    used: set[str] = set()
    for i in range(8000):
        used |= set(re.findall(r"[a-z0-9]+", caption(sample_spec(rng), rng, VIEWS[i % 4])))
    assert used == set(VOCABULARY)
    assert sorted(VOCABULARY) == VOCABULARY


def test_unknown_view_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown view 'top'; known: front, side, back, overhead"):
        caption(Spec("mug", "red"), np.random.default_rng(0), "top")


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("RED MUG", Spec("mug", "red")),
        ("two violet puppies with one black ear", Spec("dog", "purple", "black")),
        ("a snowman that is white, and whose hat is green", Spec("snowman", "white", "green")),
        ("green hat, white snowman", Spec("snowman", "white", "green")),
        ("a photo of a toy car in blue, red roof, side view", Spec("car", "blue", "red")),
        ("a hat with a hat", None),
        ("a mug", None),
        ("a red and blue mug", None),
        ("a red mug and a red car", None),
        ("a snowman with a green hat", None),
        ("", None),
    ],
)
def test_parse(text: str, spec: Spec | None) -> None:
    assert parse(text) == spec


def test_held_out_is_a_tenth_spread_over_everything() -> None:
    held = held_out()
    colors = tuple(COLORS)
    every = {Spec(k, c, a) for k in CATEGORIES for c in colors for a in (None, *colors)}
    assert held < every
    assert 0.08 < len(held) / len(every) < 0.13
    plain = {spec for spec in held if spec.accent is None}
    assert len(plain) == len(CATEGORIES)
    for names, kept in (
        (CATEGORIES, lambda name: {s for s in every if s.category == name}),
        (colors, lambda name: {s for s in every if s.color == name}),
        (colors, lambda name: {s for s in every if s.accent == name}),
    ):
        for name in names:
            assert kept(name) & held
            assert kept(name) - held
    assert {spec.color for spec in plain} == set(colors)
    # A held-out pair is never shown with an accent either.
    for spec in plain:
        assert {Spec(spec.category, spec.color, accent) for accent in colors} <= held
    assert held.isdisjoint({Spec("mug", "red"), Spec("snowman", "white", "green"), Spec("house", "blue", "red")})


def test_held_out_file_is_the_rules_result_in_canonical_prompts() -> None:
    lines = held_out_path().read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(set(lines)) == len(held_out())
    assert {prompt(spec) for spec in choose_held_out()} == set(lines)


def test_held_out_refuses_other_lines(tmp_path, monkeypatch) -> None:
    (tmp_path / "toybox").mkdir()
    (tmp_path / "toybox" / "held_out.txt").write_text("a red mug\na shiny mug\n")
    monkeypatch.setattr(captions, "assets_dir", lambda: tmp_path)
    with pytest.raises(ValueError, match="'a shiny mug' is not a canonical prompt"):
        held_out.__wrapped__()


def test_sampler_never_gives_held_out_and_covers_the_rest() -> None:
    rng = np.random.default_rng(0)
    drawn = [sample_spec(rng) for _ in range(20000)]
    assert held_out().isdisjoint(drawn)
    plain = {spec for spec in drawn if spec.accent is None}
    assert len(plain) == 9 * len(CATEGORIES)
    assert np.mean([spec.accent is None for spec in drawn]) == pytest.approx(0.55, abs=0.03)
    assert {spec.category for spec in drawn} == set(ACCENT_PART)
