"""The Python interface of the README, with an exactly known prior."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh

import sds3d
from sds3d.cameras import turntable
from sds3d.config import ConfigError
from sds3d.formats.load import load_asset
from sds3d.geometry.mesh import Mesh
from sds3d.geometry.splats import Splats
from sds3d.run.asset import Keywords
from sds3d.run.config import RunConfig
from tests.run.tiny_runs import TINY, disc

SETTINGS: dict[str, Any] = {key: value for key, value in TINY.items() if key != "prompt"}


@pytest.fixture(scope="module")
def asset(tmp_path_factory: pytest.TempPathFactory) -> sds3d.Asset:
    return sds3d.generate("a ball", out=tmp_path_factory.mktemp("runs"), prior=disc(), threads=1, **SETTINGS)


def test_an_asset_gives_its_run_mesh_splats_and_pictures(asset: sds3d.Asset) -> None:
    assert asset.run.state.status == "done"
    assert asset.config.prompt == "a ball"
    assert asset.mesh(24).vertices.shape[1] == 3
    assert asset.splats(500).means.shape == (500, 3)
    looks = asset.pictures(turntable(3, size=20))
    assert looks.shape == (3, 20, 20, 3)
    assert 0 <= looks.min() < looks.max() <= 1
    png = asset._repr_png_()
    assert png is not None
    assert png.startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["ball.glb", "ball.OBJ", "ball.ply", "ball.stl", "deeper/ball.usdz"])
def test_the_suffix_chooses_the_format_of_a_mesh(name: str, asset: sds3d.Asset, tmp_path: Path) -> None:
    path = asset.save(tmp_path / name, texture_size=64)
    assert path == tmp_path / name
    if path.suffix == ".usdz":
        assert path.read_bytes().startswith(b"PK")
        return
    mesh = trimesh.load(path, force="mesh", process=False)
    assert len(mesh.faces) > 50  # type: ignore[union-attr]
    if path.suffix == ".stl":
        assert np.ptp(mesh.bounds, axis=0).max() == pytest.approx(100, rel=1e-5)  # millimetres
    else:
        assert np.abs(mesh.bounds).max() < 0.6
    if path.suffix == ".OBJ":
        assert {file.suffix for file in tmp_path.iterdir()} == {".OBJ", ".mtl", ".png"}


@pytest.mark.parametrize(("name", "format"), [("b.splat", None), ("b.spz", None), ("b.ply", "splat-ply")])
def test_splats_are_saved(name: str, format: Any, asset: sds3d.Asset, tmp_path: Path) -> None:
    path = asset.save(tmp_path / name, format)
    assert isinstance(load_asset(path), Splats)


def test_an_unknown_suffix_lists_the_formats(asset: sds3d.Asset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'the format "fbx" is unknown; use one of: glb, obj'):
        asset.save(tmp_path / "ball.fbx")


def test_a_finished_run_is_found(asset: sds3d.Asset) -> None:
    again = sds3d.generate("a ball", out=asset.folder.parent, prior=None, threads=1, **SETTINGS)
    assert again == asset


def test_a_stream_gives_previews(asset: sds3d.Asset, tmp_path: Path) -> None:
    previews = list(sds3d.stream("a ball", out=tmp_path, every=0.0, prior=disc(), threads=1, **SETTINGS))
    total = previews[-1].total
    assert [preview.step for preview in previews] == [*range(1, total), total]
    assert len(previews[-1].rgb) == 8
    assert all(preview.losses.keys() == previews[0].losses.keys() for preview in previews)
    assert previews[0]._repr_png_().startswith(b"\x89PNG")
    ours, theirs = previews[-1].asset.mesh(24), asset.mesh(24)
    assert isinstance(ours, Mesh)
    np.testing.assert_array_equal(ours.vertices, theirs.vertices)


def test_a_closed_stream_can_be_continued(asset: sds3d.Asset, tmp_path: Path) -> None:
    watching = sds3d.stream("a ball", out=tmp_path, every=0.0, prior=disc(), threads=1, **SETTINGS)
    first = [next(watching), next(watching)][-1]
    watching.close()  # type: ignore[attr-defined]
    assert first.asset.run.state.status == "paused"
    done = sds3d.generate("a ball", out=tmp_path, prior=disc(), threads=1, **SETTINGS)
    torch.testing.assert_close(done.scene().state_dict(), asset.scene().state_dict(), rtol=0, atol=0)


def test_an_unknown_setting_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='unknown key "stepz"; did you mean "steps"'):
        sds3d.generate("a ball", out=tmp_path, stepz=3)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match=r'"representation\.resolution" in all stages'):
        sds3d.generate("a ball", out=tmp_path, representation={"resolution": 16})
    with pytest.raises(ConfigError, match=r"stages\.9: give a setting of a stage"):
        sds3d.generate("a ball", out=tmp_path, stages={9: {"steps": 1}})
    with pytest.raises(ConfigError, match='did you mean "vsd"'):
        sds3d.generate("a ball", preset="vsdd", out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_keywords_are_the_settings_of_a_run() -> None:
    driving = {"preset", "out", "device", "threads", "prior"}
    filled_in = {"prompt", "start_from_sha256"}
    assert Keywords.__annotations__.keys() == driving | RunConfig.model_fields.keys() - filled_in


def test_importing_sds3d_does_not_import_torch() -> None:
    code = "import sys, sds3d; print(sds3d.__version__, 'torch' in sys.modules, callable(sds3d.generate))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [sds3d.__version__, "False", "True"]
    with pytest.raises(AttributeError, match="no attribute 'generat'"):
        sds3d.generat  # type: ignore[attr-defined]  # noqa: B018
