"""Texts about the toy world: canonical prompts, paraphrases, a parser, and the held-out combinations."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from sds3d.config import assets_dir
from sds3d.prompts.vocabulary import Vocabulary
from sds3d.toybox.world import ACCENT_PART, CATEGORIES, COLORS, Spec

VIEWS = ("front", "side", "back", "overhead")
"""The words of view-dependent prompts (DreamFusion, arXiv:2209.14988, section 3.2)."""

_MEDIA = ("photo of", "picture of", "image of", "render of", "3d model of", "3d render of")
_FROM = {"front": "from the front", "side": "from the side", "back": "from the back", "overhead": "from above"}
# Phrases for the main object and for its accent part; "a" becomes "an" afterwards.
_SUBJECTS = (
    "{color} {noun}",
    "{color} {noun}",
    "{color} {noun}",
    "{color} toy {noun}",
    "toy {noun} that is {color}",
    "{noun} in {color}",
    "{noun} that is {color}",
    "{color} colored {noun}",
)
_PLAIN_SUBJECTS = ("{noun}", "toy {noun}")
_PARTS = (
    "with {a} {accent} {part}",
    "with {a} {accent} {part}",
    "with {a} {accent} {part}",
    "that has {a} {accent} {part}",
    "with {a} {part} that {verb} {accent}",
    "and {a} {accent} {part}",
    "whose {part} {verb} {accent}",
    ", {accent} {part}",
)

_TEXTS = (*_MEDIA, *_FROM.values(), *_SUBJECTS, *_PARTS, "a an the is are view of seen")
VOCABULARY: list[str] = sorted(
    {
        word
        for text in (*_TEXTS, *VIEWS, *COLORS, *CATEGORIES, *ACCENT_PART.values())
        for word in re.findall(r"[a-z0-9]+", re.sub(r"\{\w+\}", " ", text))
    }
)
"""Every word that captions use, sorted."""
WORLD = Vocabulary(ACCENT_PART, tuple(COLORS), frozenset(VOCABULARY))
"""The whole world, which a prior knows that is trained from scratch."""


def _is_plural(part: str) -> bool:
    return part.endswith("s")


def with_articles(text: str) -> str:
    """Write "an" before vowels, and remove double spaces and spaces before commas."""
    text = re.sub(r"\s+", " ", text).strip().replace(" ,", ",")
    return re.sub(r"\ba (?=[aeiou])", "an ", text)


def prompt(spec: Spec) -> str:
    """Return the canonical prompt: "a red mug", "an orange car", "a white snowman with a green hat"."""
    text = f"a {spec.color} {spec.category}"
    if spec.accent is not None:
        part = ACCENT_PART[spec.category]
        text += f" with {'' if _is_plural(part) else 'a'} {spec.accent} {part}"
    return with_articles(text)


def category_prompt(spec: Spec) -> str:
    """Return the prompt of the category alone: "a mug"."""
    return with_articles(f"a {spec.category}")


def caption(spec: Spec, rng: np.random.Generator, view: str | None = None) -> str:
    """Return a random paraphrase of the prompt, with words for the view ("front", "side", "back", "overhead") if given.

    A caption is always true, but about one in eight leaves out the main or the accent colour.
    Raises ValueError for an unknown view.
    """
    if view is not None and view not in VIEWS:
        raise ValueError(f"unknown view {view!r}; known: {', '.join(VIEWS)}")

    def pick(options: tuple[str, ...]) -> str:
        return options[int(rng.integers(len(options)))]

    if rng.random() < 0.3 and view is None:
        return prompt(spec)
    drop = rng.random()
    article = pick(("a", "a", "a", "the", ""))
    subject = pick(_PLAIN_SUBJECTS if drop < 0.08 else _SUBJECTS)
    text = f"{article} " + subject.format(color=spec.color, noun=spec.category)
    if spec.accent is not None and not 0.08 <= drop < 0.2:
        part = ACCENT_PART[spec.category]
        a, verb = ("", "are") if _is_plural(part) else ("a", "is")
        text += " " + pick(_PARTS).format(a=a, accent=spec.accent, part=part, verb=verb)
    if rng.random() < 0.3:
        text = f"{pick(('a', 'a', ''))} {pick(_MEDIA)} {text}"
    if view is not None:
        form = rng.random()
        if form < 0.5:
            text = f"{text}, {view} view"
        elif form < 0.8:
            text = f"{pick(('a', 'the', ''))} {view} view of {text}"
        else:
            text = f"{text} {pick(('', 'seen'))} {_FROM[view]}"
    return with_articles(text)


def parse(text: str) -> Spec | None:
    """Return the object that a prompt or caption describes, or None if it does not name one kind and its colour.

    Plurals and other words for the same thing are understood, see `Vocabulary.read`. A colour belongs to the noun right
    after it, otherwise to the last noun before it. The accent is None if the prompt does not state it.
    """
    reading = WORLD.read(text)
    if len(reading.kinds) != 1:
        return None
    colors, accents = reading.colors.values()
    if len(colors) != 1 or len(accents) > 1:
        return None
    return Spec(reading.kinds[0], colors[0], accents[0] if accents else None)


# Combinations that the documentation shows stay in the training data.
_SHOWN = frozenset(
    {
        ("mug", "red"),
        ("chair", "blue"),
        ("snowman", "white"),
        ("car", "green"),
        ("car", "red"),
        ("house", "blue"),
        ("duck", "yellow"),
        ("lamp", "orange"),
        ("mushroom", "red"),
        ("rocket", "white"),
        ("robot", "purple"),
        ("teapot", "pink"),
        ("tree", "green"),
        ("cat", "orange"),
        ("cat", "black"),
        ("rocket", "red"),
        ("boat", "blue"),
        ("table", "brown"),
        ("hat", "black"),
        ("dog", "brown"),
        ("rabbit", "white"),
        ("bear", "brown"),
        ("pig", "pink"),
        ("elephant", "blue"),
        ("fish", "orange"),
        ("turtle", "green"),
        ("owl", "brown"),
        ("penguin", "black"),
        ("frog", "green"),
        ("bee", "yellow"),
        ("dinosaur", "green"),
        ("whale", "blue"),
        ("bus", "yellow"),
        ("airplane", "white"),
        ("train", "green"),
        ("truck", "red"),
        ("tractor", "green"),
        ("submarine", "yellow"),
        ("castle", "pink"),
        ("lighthouse", "red"),
        ("windmill", "white"),
        ("tent", "orange"),
        ("sofa", "red"),
        ("clock", "red"),
        ("television", "brown"),
        ("guitar", "orange"),
        ("umbrella", "red"),
        ("crown", "yellow"),
        ("trophy", "yellow"),
        ("chest", "brown"),
        ("apple", "red"),
        ("carrot", "orange"),
        ("cake", "pink"),
        ("burger", "brown"),
        ("donut", "brown"),
        ("cactus", "green"),
        ("flower", "red"),
        ("pumpkin", "orange"),
    }
)


def choose_held_out(seed: int = 0) -> frozenset[Spec]:
    """Choose the combinations of assets/toybox/held_out.txt.

    In every category, one colour is held out with all accents (unseen pairs). Of the other colours, one accent
    combination in forty is held out (unseen parts on seen pairs). That is 12 % of all, and 10 % of those without an
    accent.
    """
    rng = np.random.default_rng(seed)
    colors = tuple(COLORS)
    held: set[Spec] = set()
    queue: list[str] = []
    for category in CATEGORIES:
        # Colours are taken in shuffled rounds, so that each is held out for some category.
        queue += [colors[i] for i in rng.permutation(len(colors))]
        unseen = next(c for c in queue if (category, c) not in _SHOWN)
        queue.remove(unseen)
        held |= {Spec(category, unseen, accent) for accent in (None, *colors)}
        kept = [Spec(category, c, a) for c in colors for a in colors if c != unseen and (category, c) not in _SHOWN]
        held |= {kept[i] for i in rng.choice(len(kept), size=len(kept) // 40, replace=False)}
    return frozenset(held)


def held_out_path() -> Path:
    """Return the file that lists the held-out combinations, one canonical prompt per line."""
    return assets_dir() / "toybox" / "held_out.txt"


@cache
def held_out() -> frozenset[Spec]:
    """Return the combinations that training never shows.

    Raises ValueError if a line of the file is not a canonical prompt, OSError if the file is missing.
    """
    specs = set()
    for line in held_out_path().read_text(encoding="utf-8").splitlines():
        spec = parse(line)
        if spec is None or prompt(spec) != line:
            raise ValueError(f"{held_out_path()}: {line!r} is not a canonical prompt; write it as prompt(spec) does")
        specs.add(spec)
    return frozenset(specs)


def sample_any_spec(rng: np.random.Generator, kinds: Sequence[str] = CATEGORIES) -> Spec:
    """Draw a random combination of these kinds, held out or not. 55 % of draws have no accent."""
    category = kinds[int(rng.integers(len(kinds)))]
    color, accent = (tuple(COLORS)[int(i)] for i in rng.integers(len(COLORS), size=2))
    return Spec(category, color, None if rng.random() < 0.55 else accent)


def sample_spec(rng: np.random.Generator, kinds: Sequence[str] = CATEGORIES) -> Spec:
    """Draw a random combination for the prior's training, never a held-out one."""
    while True:
        spec = sample_any_spec(rng, kinds)
        if spec not in held_out():
            return spec
