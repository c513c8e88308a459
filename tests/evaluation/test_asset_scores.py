from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sds3d.config import ConfigError
from sds3d.evaluation.asset_scores import (
    AZIMUTHS,
    PIXELS,
    AssetScore,
    Summary,
    bench_prompts,
    choose_prompts,
    failed_asset,
    has_janus,
    known_kinds,
    run_of,
    score_asset,
    summary,
    truth,
)
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.prompts.vocabulary import Vocabulary
from sds3d.toybox.captions import held_out, parse, prompt
from sds3d.toybox.scorer import Scorer, load_scorer
from sds3d.toybox.world import CATEGORIES, Spec

AROUND = torch.arange(8) * 45.0


def test_prompts_are_held_out_and_cover_every_category_evenly() -> None:
    n = len(CATEGORIES)
    specs = bench_prompts(2 * n)
    assert len(set(specs)) == 2 * n
    assert set(specs) <= held_out()
    order = [spec.category for spec in specs[:n]]
    assert set(order) == set(CATEGORIES)
    assert [spec.category for spec in specs[n:]] == order
    assert all(spec.accent is None for spec in specs[:n])  # combinations without an accent come first
    assert bench_prompts(5) == specs[:5]
    assert all(parse(prompt(spec)) == spec for spec in specs)


def test_sixteen_prompts_reach_all_parts_of_the_world() -> None:
    at = sorted(CATEGORIES.index(spec.category) for spec in bench_prompts(16))
    assert max(np.diff([-1, *at, len(CATEGORIES)])) <= 5


def test_prompts_stay_with_the_kinds_that_are_asked_for() -> None:
    first = CATEGORIES[:16]
    assert [spec.category for spec in bench_prompts(32, first)] == list(first) * 2


def test_only_kinds_that_scorer_and_priors_know_are_measured(tmp_path: Path) -> None:
    scorer = Scorer(("mug", "cat", "hat", "dog"), width=8)
    priors = []
    for kinds in (("hat", "cat", "dragon"), ("dog", "cat", "hat")):
        folder = tmp_path / kinds[0]
        folder.mkdir()
        Vocabulary(dict.fromkeys(kinds, "part"), ("red",), frozenset(kinds)).write(folder)
        priors.append(DiffusersConfig(model=str(folder)))
    assert known_kinds(scorer, priors) == ["cat", "hat"]
    assert known_kinds(scorer, [DiffusersConfig(model=str(tmp_path))]) == list(scorer.kinds)  # it may know any word
    assert known_kinds(scorer, []) == list(scorer.kinds)


def test_a_run_without_the_file_that_is_measured_is_refused_before_it_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ply"):
        run_of(Spec("mug", "red"), "mesh", ["export.formats=[glb]"], tmp_path)
    assert not list(tmp_path.iterdir())
    run_of(Spec("mug", "red"), "mesh", ["export.formats=[ply]"], tmp_path)


def test_a_correct_object_has_no_janus_problem() -> None:
    assert not has_janus(AROUND, AROUND)
    # Side views are often read as their neighbours. That does not count as a second face.
    assert not has_janus(AROUND, torch.tensor([0.0, 0, 135, 180, 180, 180, 225, 0]))


def test_a_face_at_the_back_is_janus() -> None:
    assert has_janus(AROUND, torch.tensor([0.0, 45, 90, 135, 0, 225, 270, 315]))
    assert has_janus(AROUND, torch.tensor([0.0, 45, 90, 0, 180, 225, 270, 315]))


def test_no_face_at_all_is_janus() -> None:
    assert has_janus(AROUND, torch.full((8,), 180.0))


def test_summary_counts_janus_only_where_there_is_a_front() -> None:
    scores = [
        AssetScore("a", 1.0, False, 10.0, 0.5, 1.0, part=0.5),
        AssetScore("b", 0.5, True, 20.0, 0.6, 2.0),
        AssetScore("c", 0.0, None, 60.0, 0.9, 4.0, part=1.0),
    ]
    assert summary(scores) == Summary(3, 0.5, 0.5, 0.75, 0.6, 2.0, 20.0)
    assert summary(scores[2:]) == Summary(1, 0.0, None, 1.0, 0.9, 4.0, 60.0)


def test_an_asset_that_failed_counts_as_wrong() -> None:
    made = AssetScore("a red mug", 1.0, False, 10.0, 0.5, 1.0)
    failed, rgb, _ = failed_asset(Spec("mug", "red", "blue"), 30.0, "there is no surface")
    assert failed.prompt == "a red mug with a blue handle"
    assert rgb.shape == (AZIMUTHS, PIXELS, PIXELS, 3)
    assert summary([made, failed]) == Summary(2, 0.5, 0.5, 0.0, 0.25, 1.0, 20.0)


def test_selections_of_prompts() -> None:
    plain, parts = choose_prompts("plain"), choose_prompts("parts")
    assert sorted(spec.category for spec in plain) == sorted(CATEGORIES)
    assert all(spec.accent is None for spec in plain)
    assert len({spec.category for spec in parts}) == len(parts) == 32
    assert all(spec.accent is not None for spec in parts)
    assert choose_prompts("all") == plain + parts
    assert choose_prompts("5") == plain[:5]
    assert {spec.category for spec in choose_prompts("all", ["mug", "owl"])} == {"mug", "owl"}
    for wrong in ("some", "0", "-1", ""):
        with pytest.raises(ValueError, match="plain, parts, all, shown, or a number from 1"):
            choose_prompts(wrong)


def test_wrong_pictures_are_named_by_what_is_read() -> None:
    """The pictures of a true object are right; read for another prompt, they name the object."""
    scorer, spec = load_scorer(), Spec("duck", "yellow", "orange")
    rgb, mesh = truth(spec)
    right = score_asset(scorer, spec, rgb, mesh, 1.0)
    assert right.recognised > 0.8
    assert right.part is not None
    assert right.part > 0.5
    wrong = score_asset(scorer, Spec("mug", "yellow", None), rgb, mesh, 1.0)
    assert (wrong.recognised, wrong.read_as, wrong.part) == (0.0, "yellow duck", None)


def test_truth_shows_the_object_from_all_sides() -> None:
    rgb, mesh = truth(bench_prompts(1)[0])
    assert rgb.shape == (AZIMUTHS, PIXELS, PIXELS, 3)
    assert 0 <= rgb.min() <= rgb.max() <= 1
    assert abs(rgb[0] - rgb[4]).mean() > 0.005  # a mug's front is not its back
    assert abs(rgb[:, 0, 0] - 0.8).max() < 0.01
    assert np.linalg.norm(mesh.vertices, axis=1).max() <= 0.5


@pytest.mark.slow
def test_the_scorer_reads_true_objects_of_combinations_the_prior_never_saw() -> None:
    """The scorer must be right about true objects, from eight sides and for held-out prompts too."""
    scorer = load_scorer()
    scores = [score_asset(scorer, spec, *truth(spec), 0.0) for spec in bench_prompts(48, scorer.kinds)]
    assert summary(scores).recognised > 0.98
    assert (summary(scores).without_janus or 0) > 0.95
    assert summary(scores).iou > 0.6
