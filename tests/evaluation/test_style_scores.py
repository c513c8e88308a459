"""The benchmark of colours that are taken from the picture beside the prompt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sds3d.evaluation.style_scores import bench, reading, style_specs, table
from sds3d.files import PriorError
from sds3d.toybox.captions import held_out
from sds3d.toybox.render import render_prompt
from sds3d.toybox.scorer import load_scorer
from sds3d.toybox.world import DEFAULT_ACCENT, Spec

KINDS = ("mug", "car", "house")


def test_specs_are_held_out_and_have_an_accent_that_nothing_else_tells() -> None:
    specs = style_specs(9, KINDS)
    assert [spec.category for spec in specs] == 3 * list(KINDS)
    assert len(set(specs)) == 9
    for spec in specs:
        assert spec in held_out()
        assert spec.accent not in (None, spec.color, DEFAULT_ACCENT[spec.category])


def test_the_colours_of_true_views_are_read() -> None:
    views = render_prompt(Spec("house", "blue", "yellow"), size=64)
    assert reading(load_scorer(), torch.from_numpy(views.astype(np.float32) / 255)) == ("blue", "yellow")


def test_a_prior_that_takes_no_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PriorError, match="takes no pictures: make one that does, sds3d toybox train --pictures"):
        bench(tmp_path, "toybox", 1)


def test_the_table_has_shares() -> None:
    assert table({"a": [(True, True), (False, True)]}) == [["a", "2", "50%", "100%"]]
