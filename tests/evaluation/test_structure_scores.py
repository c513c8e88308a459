"""The measurement of painted shapes: known pictures have known scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sds3d.cameras import turntable
from sds3d.cli.main import main
from sds3d.evaluation.structure_scores import (
    CASES,
    PaintScore,
    cameras_of_scores,
    color_edges,
    mean,
    named_colors,
    score,
    shape_edges,
    truth_of,
)
from sds3d.toybox.world import COLORS
from tests.structured_prior import write_structured_prior


def test_every_case_has_both_parts_and_its_own_colours_are_right():
    names = {case.name for case in CASES}
    assert len(names) == len(CASES)
    for case in CASES:
        truth = truth_of(case.mesh(), turntable(2, 15.0, size=256))
        own = score(truth, truth.colors, case.spec)
        assert (own.main, own.accent) == (1, 1), case.name
        assert own.edges < 1  # true colours change within a pixel of the edges of the shape


def test_a_mug_with_two_handles_is_as_wide_on_both_sides():
    mesh = CASES[0].mesh()
    assert mesh.colors is not None
    handle = mesh.vertices[np.abs(mesh.colors - np.array(COLORS["yellow"], np.float32)).max(axis=1) < 1e-6]
    assert handle[:, 0].min() == pytest.approx(-handle[:, 0].max(), abs=1e-4)
    assert handle[:, 0].max() > 0.4


def test_shares_and_edges_of_wrong_paint():
    case = CASES[0]  # blue, with yellow handles
    truth = truth_of(case.mesh(), cameras_of_scores())
    blue = np.where(truth.covered[..., None], np.array(COLORS["blue"], np.float32), np.float32(1))
    plain = score(truth, blue, case.spec)
    assert (plain.main, plain.accent, plain.parts) == (1, 0, 0.5)
    assert np.isnan(plain.edges)
    right_half = blue.copy()
    columns = np.arange(256)
    right_half[truth.covered & (columns >= 128)] = np.array(COLORS["yellow"], np.float32)
    half = score(truth, right_half, case.spec)
    assert half.main == pytest.approx(0.5, abs=0.05)
    assert half.accent == pytest.approx(0.5, abs=0.05)
    # The edge of the paint is the middle line, whose distance from the shape's edges is many pixels.
    assert half.edges > 2
    darker = score(truth, 0.8 * truth.colors, case.spec)
    assert darker.parts > 0.99


def test_colours_keep_their_names_in_the_shade():
    for place, color in enumerate(COLORS.values()):
        for light in (1.0, 0.9, 0.75):
            assert named_colors(light * np.array(color, np.float32)) == place


def test_edges_are_where_depth_jumps_normals_bend_or_colours_change():
    depth = np.zeros((1, 6, 8), np.float32)
    normal = np.zeros((1, 6, 8, 3), np.float32)
    depth[:, :, 2:], normal[:, :, 2:, 2] = 2.0, 1.0
    found = shape_edges(depth, normal)
    assert found[0, 0].tolist() == [False, True, True, False, False, False, False, False]
    normal[:, :, 5:] = [1, 0, 0]
    assert shape_edges(depth, normal)[0, 0].tolist() == [False, True, True, False, True, True, False, False]
    colors = np.zeros((1, 6, 8, 3), np.float32)
    colors[:, 3:, :, 0] = 1
    covered = np.ones((1, 6, 8), np.bool_)
    covered[:, :, 0] = False
    rows = color_edges(colors, covered)[0]
    assert rows[:, 1].tolist() == [False, False, True, True, False, False]
    assert not rows[:, 0].any()


def test_means_leave_out_what_is_not_defined():
    one, two = PaintScore(1.0, 0.5, float("nan")), PaintScore(0.5, 0.5, 2.0)
    assert mean({"a": one, "b": two}) == PaintScore(0.75, 0.5, 2.0)


def test_a_prior_without_structure_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        main(["bench", "structure", "toybox", "--out", str(tmp_path)])
    assert end.value.code == 1
    assert "takes no structure: make one that does, sds3d toybox train --structure" in capsys.readouterr().err


@pytest.mark.slow
def test_the_benchmark_writes_what_it_measured(tmp_path: Path):
    structured_prior = write_structured_prior(tmp_path / "prior")
    options = ["--cases", "1", "--set", "steps=1", "--threads", "1", "--out", str(tmp_path)]
    with pytest.raises(SystemExit) as end:
        main(["bench", "structure", str(structured_prior), *options])
    assert end.value.code == 0
    details = json.loads((tmp_path / "structure.json").read_text())
    assert details["scores"].keys() == {"with structure", "without structure", "truth"}
    assert details["scores"]["truth"]["mug with two handles"]["accent"] == 1
    assert (tmp_path / "structure.md").read_text().count("\n") == 8
    assert (tmp_path / "structure.png").stat().st_size > 1000
