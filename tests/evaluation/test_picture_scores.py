"""The benchmark of objects made from pictures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sds3d.cameras import Cameras, orbit
from sds3d.evaluation.picture_scores import (
    CASES,
    ELEVATION,
    UNSEEN,
    Score,
    bench,
    config_of,
    psnr,
    sized_cameras,
    table,
    true_pictures,
)
from sds3d.geometry.mesh import FloatArray
from sds3d.rendering.shading import shade_mesh
from sds3d.toybox.objects import build
from sds3d.toybox.world import Spec

MUG = Spec("mug", "red")


def test_psnr_in_closed_form() -> None:
    assert psnr(np.full((2, 4, 4, 3), 0.6, np.float32), np.full((2, 4, 4, 3), 0.5, np.float32)) == pytest.approx(20)


def test_given_pictures_are_those_of_the_object_and_no_unseen_view_is_given(tmp_path: Path) -> None:
    truth, files = true_pictures(MUG, 0, tmp_path)
    mesh = truth.mesh
    assert truth.views.shape == (8, 128, 128, 3)
    assert truth.alpha.shape == (8, 128, 128, 1)
    assert not set(files) & {float(azimuth) for azimuth in UNSEEN.azimuth}
    layers = np.asarray(Image.open(files[135]), np.float32) / 255
    over = layers[..., :3] * layers[..., 3:] + (1 - layers[..., 3:])
    alike = shade_mesh(mesh, orbit([135.0], ELEVATION, size=128), (1, 1, 1), supersampling=3)[0][0]
    assert np.abs(over - alike).max() < 0.02
    other = true_pictures(MUG, 1, tmp_path)[0].mesh
    assert other.vertices.shape != mesh.vertices.shape or not np.allclose(other.vertices, mesh.vertices)


def test_an_object_of_another_size_and_place_is_shown_like_the_true_one() -> None:
    mesh = build(MUG, np.random.default_rng(0))
    views, alpha = shade_mesh(mesh, UNSEEN, (0.9,) * 3, supersampling=3)
    moved = replace(mesh, vertices=0.8 * mesh.vertices + np.float32([0.04, -0.06, 0.02]))

    def look(cameras: Cameras) -> FloatArray:
        return shade_mesh(moved, cameras, (0.9,) * 3, supersampling=3)[1]

    cameras = sized_cameras(look, look(UNSEEN), alpha)
    sized = shade_mesh(moved, cameras, (0.9,) * 3, supersampling=3)[0]
    assert psnr(shade_mesh(moved, UNSEEN, (0.9,) * 3, supersampling=3)[0], views) < 20
    assert psnr(sized, views) > 32
    wanted = 0.8 * UNSEEN.c2w()[:, :3, 3] + torch.tensor([0.04, -0.06, 0.02])
    np.testing.assert_allclose(cameras.c2w()[:, :3, 3], wanted, atol=0.02)
    np.testing.assert_allclose(sized_cameras(lambda _: alpha, alpha, alpha).c2w(), UNSEEN.c2w(), atol=1e-5)


def test_cases_differ_in_their_pictures_only(tmp_path: Path) -> None:
    files = {azimuth: tmp_path / f"{azimuth}.png" for azimuth in range(0, 360, 45)}
    configs = {name: config_of(MUG, case, files, "splats", ()) for name, case in CASES.items()}
    assert len({config.model_copy(update={"reference": ()}).model_dump_json() for config in configs.values()}) == 1
    told = {name: [picture.azimuth for picture in config.reference] for name, config in configs.items()}
    assert (told["1 picture"], told["1, wrong camera"]) == ([45], [135])
    assert (told["text alone"], told["1, camera found"]) == ([], [None])
    assert told["8 pictures"] == [45.0 * i for i in range(8)]


@pytest.mark.slow
def test_the_benchmark_writes_scores_and_sheets_and_continues(tmp_path: Path) -> None:
    cases, small = ["text alone", "1 picture"], ["steps=3", "export.resolution=24", "representation.resolution=24"]
    told: list[Score] = []
    scores = bench(tmp_path, 1, cases, "toybox", small, threads=1, tell=told.append)
    assert [score.case for score in scores] == cases
    assert scores == told
    assert all(5 < score.psnr < 40 and 0 <= score.iou <= 1 for score in scores)
    kept = json.loads((tmp_path / "pictures.json").read_text())
    assert [score["case"] for score in kept["scores"]] == cases
    assert "| 1 picture | 1 |" in (tmp_path / "pictures.md").read_text()
    assert Image.open(tmp_path / "a-blue-mug-0.png").height > 3 * 128
    steps: list[int] = []
    again = bench(tmp_path, 1, cases, "toybox", small, threads=1, report=lambda name, step, total: steps.append(step))
    assert (again, steps) == (scores, [])


def test_the_table_has_means_and_medians() -> None:
    scores = [
        Score("a", "2 pictures", psnr, psnr + 1, iou, 10 * psnr) for psnr, iou in ((20, 0.5), (22, 0.7), (27, 0.9))
    ]
    assert table(scores) == [["2 pictures", "3", "23.0", "24.0", "0.70", "220"]]
