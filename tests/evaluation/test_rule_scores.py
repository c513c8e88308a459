"""The figures that compare rules, and the whole benchmark with few steps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sds3d.cli.main import main
from sds3d.evaluation.asset_scores import bench_prompts
from sds3d.evaluation.rule_scores import SEEDS, compare, rule_presets, saturation, spread, true_assets
from sds3d.toybox.scorer import load_scorer


def test_saturation_is_of_the_object_alone() -> None:
    picture = np.full((2, 8, 8, 3), 0.8, np.float32)
    assert saturation(picture) == 0
    picture[:, 2:5, 2:5] = (0.8, 0.2, 0.2)
    assert saturation(picture) == pytest.approx(0.75)
    picture[:, 6, 6] = (0.1, 0.1, 0.1)
    assert saturation(picture) == pytest.approx(0.75 * 9 / 10)


def test_spread_is_the_mean_distance_of_pairs() -> None:
    origin = np.zeros((8, 2))
    assert spread([origin, origin + np.array([3, 4]), origin]) == pytest.approx(10 / 3)


@pytest.mark.slow
def test_true_objects_get_the_true_scores() -> None:
    scorer = load_scorer()
    specs = bench_prompts(8, scorer.kinds)
    truth = true_assets(scorer, specs, 0, 8)
    others = compare(scorer, true_assets(scorer, specs, 20, SEEDS - 1), truth)
    assert others.recognised > 0.98
    assert others.without_janus > 0.8  # the scorer is sometimes wrong about a true object
    assert others.saturation == pytest.approx(1, abs=0.05)
    assert others.diversity == pytest.approx(1, abs=0.3)
    grey = true_assets(scorer, specs, 20, 0)
    for rgb in grey.rgb:
        rgb[:] = rgb.mean(axis=-1, keepdims=True)
    pale = compare(scorer, grey, truth)
    assert pale.saturation < 0.01
    assert pale.diversity is None
    assert pale.fid > 3 * others.fid


def test_rules_are_the_presets_that_choose_nothing_else() -> None:
    names = rule_presets()
    assert {"toybox", "dreamfusion"} <= set(names)
    assert not {"splats", "mesh", "texture", "magic3d"} & set(names)


@pytest.mark.slow
def test_the_benchmark_writes_what_it_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["steps=2", "representation.resolution=16", "representation.samples=16", "export.faces=500"]
    settings = [part for setting in small for part in ("--set", setting)]
    command = ["bench", "guidance", "toybox", "--prompts", "2", "--several", "1", *settings, "--out", str(tmp_path)]
    with pytest.raises(SystemExit) as end:
        main(command)
    assert end.value.code == 0
    summary = json.loads((tmp_path / "guidance.json").read_text())["summary"]
    assert list(summary) == ["truth", "toybox"]
    assert summary["toybox"]["diversity"] is not None
    assert summary["toybox"]["fid"] > summary["truth"]["fid"]
    assert (tmp_path / "guidance.md").read_text().count("\n") == 4
    with Image.open(tmp_path / "guidance.png") as sheet:
        assert sheet.width > 4 * 64
    assert len(list((tmp_path / "toybox").iterdir())) == 2 + SEEDS - 1
    assert "guidance.md" in capsys.readouterr().out
