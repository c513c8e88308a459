"""Pictures to choose from."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from sds3d.app import cards, pictures
from sds3d.app.hints import hint
from sds3d.evaluation.made_from_prior import RULE_TILE, TILE
from sds3d.presets import presets
from sds3d.prompts.vocabulary import Vocabulary
from sds3d.toybox.captions import WORLD, parse
from sds3d.toybox.examples import OBJECTS
from sds3d.toybox.scorer import load_scorer, score
from sds3d.toybox.world import CATEGORIES


def strip(name: str) -> Image.Image:
    data = base64.b64decode(pictures.data_url(name).partition(",")[2])
    return Image.open(io.BytesIO(data)).convert("RGB")


def test_the_gallery_shows_an_object_of_every_category():
    specs = [spec for prompt in OBJECTS if (spec := parse(prompt))]
    assert [spec.category for spec in specs] == list(CATEGORIES)
    assert [hint(prompt, WORLD) for prompt in OBJECTS] == [""] * len(CATEGORIES)
    assert cards.objects(WORLD).count("data-prompt=") == len(CATEGORIES)
    tiles = np.asarray(strip("objects")).reshape(TILE, len(CATEGORIES), TILE, 3).swapaxes(0, 1)
    scorer = load_scorer()
    read = score(scorer, torch.from_numpy(tiles / np.float32(255)))
    known = [i for i, spec in enumerate(specs) if spec.category in scorer.kinds]
    right = [(read.category[i], read.color[i]) == (specs[i].category, specs[i].color) for i in known]
    assert np.mean(right) >= 0.8


def test_the_gallery_shows_what_the_prior_knows():
    first = Vocabulary({"mug": "handle", "hat": "band"}, ("red", "black", "white"), frozenset(["a", "mug", "hat"]))
    words = first.words | {*first.colors, "with", "band"}
    html = cards.objects(replace(first, words=words))
    assert re.findall(r'data-prompt="([^"]+)"', html) == ["a red mug", "a black hat with a white band"]
    last = len(CATEGORIES) - 1
    assert re.findall(r"background-position:([\d.]+)%", html) == ["0.000", f"{100 * 15 / last:.3f}"]
    assert cards.objects(None) == ""


def test_presets_are_cards_in_groups_the_default_first():
    listed = presets()
    html = cards.presets(listed, "vsd", "toybox")
    names = re.findall(r'value="([^"]+)"', html)
    assert names[0] == "toybox"
    assert sorted(names) == sorted(preset.name for preset in listed)
    assert re.findall(r'value="([^"]+)" checked', html) == ["vsd"]
    assert re.findall(r"<summary>(\w+)", html) == ["Recommended", "Papers", "Rules", "Real"]
    assert html.count("<details open>") == 2  # the recommended ones, and the group of the chosen one
    assert html.count("<i style") == len(pictures.presets()) - 1  # all but the truth
    assert strip("presets").size == (RULE_TILE * len(pictures.presets()), RULE_TILE)
