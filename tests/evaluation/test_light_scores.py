"""Scores of distilled materials: exact for the truth, and a painted scene is read as it is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sds3d.cameras import orbit
from sds3d.cli.main import main
from sds3d.evaluation.light_scores import RED, WHITE, compared, table, truth_of, views_of, white_table
from sds3d.evaluation.material_scores import PROMPTS
from sds3d.priors.structure import LIT_MAPS
from sds3d.representations.lights import LightsConfig, load_lights
from sds3d.representations.mesh_scene import MeshScene
from sds3d.toybox.material_views import lamps
from sds3d.toybox.materials import build_look, parse
from tests.representations.mesh_scenes import mesh_config
from tests.structured_prior import write_structured_prior

CAMERAS = orbit([15.0, 105.0], 10.0, size=48)


def test_a_scene_of_the_true_material_has_hardly_an_error_and_a_wrong_one_has_its_difference() -> None:
    look = parse("a red rubber mug")
    assert look is not None
    shape, lights = build_look(look, np.random.default_rng(0)), [lamps(1), lamps(2)]
    color, factors = np.array([0.6, 0.3, 0.2], np.float32), np.array([0.9, 0.4], np.float32)
    mesh = replace(
        shape, colors=np.tile(color, (len(shape.vertices), 1)), materials=np.tile(factors, (len(shape.vertices), 1))
    )
    config = mesh_config("fixed", material="pbr", vertices_lr=0)
    scene = MeshScene.from_mesh(replace(mesh, colors=None, materials=None), config, torch.Generator().manual_seed(0))

    def painted(albedo: np.ndarray) -> None:
        with torch.no_grad():
            scene.parameters["color"].copy_(torch.logit(torch.from_numpy(albedo)).expand(24, 24, 24, 3))
            scene.parameters["material"].copy_(torch.logit(torch.from_numpy(factors)).expand(24, 24, 24, 2))

    truth = truth_of(mesh, CAMERAS, lights)
    exact = compared(truth.views, truth)
    assert (exact.albedo, exact.roughness, exact.metallic, exact.relit, exact.redness) == (100, 0, 0, 100, 0)
    painted(color)
    right = compared(views_of(scene, CAMERAS), truth)
    assert right.albedo > 60
    assert right.relit > 60
    assert max(right.roughness, right.metallic, abs(right.redness)) < 1e-3
    painted(color + np.array([0.1, 0, 0], np.float32))
    redder = compared(views_of(scene, CAMERAS), truth)
    assert redder.albedo == pytest.approx(-10 * np.log10(0.1**2 / 3), abs=0.05)
    assert redder.redness == pytest.approx(0.1, abs=1e-3)
    assert redder.relit < right.relit - 5
    results = {"told": {"a red rubber mug": right, "a white rubber mug": redder}}
    assert [row[0] for row in table(results)] == ["told", "a red rubber mug, told"]
    assert white_table(results)[0][2] == "+0.100"


def test_the_red_lamp_is_red() -> None:
    red, green, blue = load_lights(LightsConfig(environments=(RED,))).diffuse[0].amax(dim=(0, 1)).tolist()
    assert red > 3 * max(green, blue)


def test_a_prior_that_is_not_told_the_light_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["bench", "light", "toybox", "--out", str(tmp_path)])
    assert end.value.code == 1
    assert "is not told the light: make one that is, sds3d toybox train --light" in capsys.readouterr().err


@pytest.mark.slow
def test_the_benchmark_writes_what_it_measured(tmp_path: Path) -> None:
    prior = write_structured_prior(tmp_path / "prior", LIT_MAPS)
    options = ["--objects", "1", "--set", "steps=2", "--threads", "1", "--out", str(tmp_path)]
    with pytest.raises(SystemExit) as end:
        main(["bench", "light", str(prior), *options])
    assert end.value.code == 0
    scores = json.loads((tmp_path / "light.json").read_text())["scores"]
    assert scores.keys() == {"told the light", "not told"}
    told, untold = scores.values()
    assert list(told) == [PROMPTS[0], WHITE]
    assert told != untold  # the encoder is random, so that the light changes what is painted
    assert (tmp_path / "light.md").read_text().count("\n") == 11
    assert (tmp_path / "light.png").stat().st_size > 1000
