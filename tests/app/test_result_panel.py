"""Files made on demand."""

from __future__ import annotations

import shlex
import shutil
import zipfile
from pathlib import Path

import pytest
import trimesh

from sds3d.app.result_panel import make_file, pack_run, recipe_text
from sds3d.app.studio import Studio
from sds3d.files import RunError
from sds3d.run.config import make_config, new_run, read_config
from sds3d.run.inputs import check_inputs

DATA = Path(__file__).parent.parent / "data"


def test_impossible_files_are_refused(studio: Studio):
    run = new_run(studio.root, make_config("a red mug"))
    with pytest.raises(ValueError, match='format "exe" is unknown'):
        make_file(run, "exe", 0, 1024)
    with pytest.raises(ValueError, match="64 to 4096"):
        make_file(run, "glb", 0, 100_000)
    with pytest.raises(RunError, match="no checkpoint"):
        make_file(run, "glb", 0, 1024)


def test_a_zip_has_the_exports_and_a_preset_that_makes_them_again(studio: Studio, tmp_path: Path):
    config = make_config("a red mug", "vsd", ["guidance.scale=4", "seed=3"])
    run = new_run(studio.root, config)
    run.exports.mkdir()
    (run.exports / "a-red-mug.glb").write_bytes(b"glTF")
    with zipfile.ZipFile(pack_run(run, studio)) as archive:
        assert sorted(archive.namelist()) == ["a-red-mug.glb", "recipe.txt", "settings.yaml"]
        assert archive.read("a-red-mug.glb") == b"glTF"
        archive.extract("settings.yaml", tmp_path)
        assert "--preset vsd --seed 3 guidance.scale=4" in archive.read("recipe.txt").decode()
    again = make_config("a red mug", str(tmp_path / "settings.yaml"))
    assert again == read_config(run) == config


def test_an_unpacked_zip_starts_the_run_with_its_lights_and_its_mesh(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Studio, "presets", lambda self, **_: {"texture": ""})  # quicker than all of them
    shutil.copy(DATA / "panoramas" / "opencv.hdr", tmp_path / "sky.hdr")
    mesh = tmp_path / "Cube.obj"
    mesh.write_text(str(trimesh.creation.box().export(file_type="obj")))
    light = f"[{{name: file, file: {tmp_path / 'sky.hdr'}}}]"
    material = "representation.appearance.material={name: pbr}"
    settings = [material, f"representation.appearance.material.environments={light}", "start_from=x"]
    run = new_run(studio.root, make_config("a red mug", "texture", settings), own=mesh)
    with zipfile.ZipFile(pack_run(run, studio)) as archive:
        archive.extractall(tmp_path / "unpacked")
    for name in ("sky.hdr", "Cube.obj"):
        (tmp_path / name).unlink()
    shutil.rmtree(run.folder)
    monkeypatch.chdir(tmp_path)
    check_inputs(config := make_config("a red mug", "unpacked/settings.yaml"))
    assert Path(config.start_from) == Path("unpacked/Cube.obj")
    assert new_run(tmp_path / "again", config, own=Path(config.start_from)).folder.name == run.folder.name
    recipe = (tmp_path / "unpacked" / "recipe.txt").read_text()
    assert str(tmp_path) not in recipe
    monkeypatch.chdir(tmp_path / "unpacked")
    command = shlex.split(recipe.splitlines()[1])
    check_inputs(config := make_config(command[2], command[4], command[5:]))
    assert new_run(tmp_path / "again", config).folder.name == run.folder.name


def test_the_recipe_is_escaped(studio: Studio):
    run = new_run(studio.root, make_config("a <b>red</b> mug"))
    assert "<b>" not in recipe_text(studio, run)
    assert "a &lt;b&gt;red" in recipe_text(studio, run)
