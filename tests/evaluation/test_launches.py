"""What steps ask of a fake GPU: a step that begins to wait, or to launch more, fails here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sds3d.cli.main import main
from sds3d.config import build
from sds3d.evaluation.fake_gpu import META, pretended
from sds3d.evaluation.launches import CASES, PROMPT, Row, check, row, table
from sds3d.files import RunError
from sds3d.priors.base import Prior
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.run.config import RunConfig, make_config
from tests.priors.test_diffusers import tiny_pipeline
from tests.slow import slow_after


@pytest.fixture
def prior(tmp_path: Path) -> Prior:
    """A new one, whose calls are not recorded yet."""
    tiny_pipeline("v_prediction").save_pretrained(tmp_path)
    return DiffusersConfig(model=str(tmp_path)).load(META)


def mesh(geometry: str) -> dict[str, Any]:
    return {"name": "mesh", "geometry": {"name": geometry, "resolution": 12}}


MOST: dict[str, tuple[Any, str, int, int, int]] = {
    "dense grid, VSD": ("voxel_grid", "vsd", 510, 1820, 0),
    "hash grid": ("hash_nerf", "sds", 510, 320, 1),
    "splats": ("gaussians", "sds", 490, 320, 0),
    "DMTet": (mesh("dmtet"), "sds", 960, 320, 10),
    "dense grid, CFD": ("voxel_grid", "cfd", 530, 320, 1),
    "triplane": ("triplane_nerf", "sds", 510, 320, 1),
    "dense grid": ("voxel_grid", "sds", 455, 320, 0),
    "FlexiCubes": (mesh("flexicubes"), "sds", 1240, 320, 12),
    "fixed mesh": (mesh("fixed"), "sds", 655, 320, 2),
    "hash grid in light": ({"name": "hash_nerf", "orientation": 1.0, "shading": {}}, "sds", 600, 320, 2),
}
"""Representation, rule, and the most launches, recorded operations and waits of a step."""


@pytest.mark.parametrize("name", slow_after(4, MOST))
def test_no_step_asks_for_more_than_it_did(name: str, prior: Prior) -> None:
    representation, rule, launches, recorded, waits = MOST[name]
    settings = {"prompt": PROMPT, "representation": representation, "guidance": rule, "cameras": {"size": 16}}
    with pretended() as watch:
        found = row(name, build(RunConfig, settings), [prior], watch, first=2, steps=1)
    assert 0.9 * launches < found.launches <= launches
    assert 0.9 * recorded < found.recorded <= recorded
    assert found.waits == sum(found.places.values()) <= waits, found.places


def test_presets_that_can_be_counted() -> None:
    for name, settings in CASES:
        check(name, make_config(PROMPT, name, list(settings)))
    for name in ("mvdream", "magic3d-sd"):
        settings = ["start_from=a.ply"] if name == "magic3d-sd" else []
        with pytest.raises(RunError, match=f"{name}: .* counted"):
            check(name, make_config(PROMPT, name, settings))


@pytest.mark.slow
def test_the_command_writes_a_row_for_each_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sds3d.evaluation.launches.STEPS", 2)
    with pytest.raises(SystemExit) as ended:
        main(["bench", "launches", "coupled-stages", "--out", str(tmp_path)])
    assert ended.value.code == 0
    rows = json.loads((tmp_path / "launches.json").read_text())["rows"]
    assert [row["representation"] for row in rows] == ["gaussians", "mesh"]
    assert (tmp_path / "launches.md").read_text() == table([Row(**row) for row in rows])
    assert len((tmp_path / "launches.md").read_text().splitlines()) == 4
