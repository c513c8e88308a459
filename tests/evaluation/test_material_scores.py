"""Scores of recovered materials: exact for the truth, and a fit that knows its lights beats one that does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sds3d.cameras import orbit
from sds3d.evaluation import material_scores
from sds3d.evaluation.material_scores import PROMPTS, bench
from sds3d.toybox.material_views import lamps
from sds3d.toybox.materials import build_look, parse


def test_the_truth_has_no_error() -> None:
    for number, prompt in enumerate(PROMPTS):
        look = parse(prompt)
        assert look is not None, prompt
        assert look.accent_material is not None
        if number == 0:
            mesh = build_look(look, np.random.default_rng(0))
            score = material_scores._compared(mesh, mesh, orbit([0.0], size=24), [lamps(0)], [lamps(1)])
            assert (score.albedo, score.relit, score.seen) == (100.0, 100.0, 100.0)
            assert score.roughness == score.metallic == 0.0


@pytest.mark.slow
def test_known_lights_are_better_than_an_assumed_one(tmp_path) -> None:
    torch.manual_seed(0)
    told = []
    scores = bench(tmp_path, PROMPTS[:1], 3, 60, 32, lambda done, total: told.append((done, total)))
    known, one, assumed = scores.values()
    assert known.relit > assumed.relit + 1
    assert known.relit > one.relit
    assert known.albedo > assumed.albedo + 1
    assert known.roughness < assumed.roughness
    assert known.metallic < assumed.metallic
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert "3 lights, the studio assumed" in (tmp_path / "materials.md").read_text()
