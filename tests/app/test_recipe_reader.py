"""Settings from elsewhere: what is read equals what was written, and what is unknown is named."""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from sds3d.app import recipe_reader
from sds3d.app.recipe_reader import Brought
from sds3d.app.recipes import command_line, recipe
from sds3d.app.result_panel import pack_run
from sds3d.app.studio import Studio
from sds3d.app.visitors import visiting
from sds3d.config import ConfigError
from sds3d.files import zipped
from sds3d.run.config import make_config, new_run
from sds3d.run.inputs import check_inputs

DATA = Path(__file__).parents[1] / "data"

SETTINGS = (
    ("toybox", ()),
    ("vsd", ("guidance.scale=4", "seed=7")),
    ("mesh", ("steps=100", "export.texture_size=512")),
    ("splats", ("up_axis=z", "representation.count=900", "prompts.negative=blurry, dark")),
)


def read(studio: Studio, text: str) -> Brought:
    return recipe_reader.of_text(studio, text, "toybox")


@pytest.mark.parametrize(("preset", "overrides"), SETTINGS)
def test_what_the_recipe_says_is_read_back(preset: str, overrides: tuple[str, ...], studio: Studio, tmp_path: Path):
    config = make_config("a yellow snowman's hat", preset, overrides)
    run = new_run(studio.root, config)
    written = command_line(recipe(studio, run))
    for text in (written, f"$ {written} --out elsewhere --device cpu", written.replace(" --preset", " \\\n  --preset")):
        brought = read(studio, text)
        assert (brought.recipe.config, brought.named, brought.file) == (config, True, "")
    assert read(studio, run.config_path.read_text()).recipe.config == config
    assert read(studio, run.config_path.read_text()).recipe.edits == recipe(studio, run).edits
    (path := studio.root / "recipe.zip").write_bytes(pack_run(run, studio).read_bytes())
    assert recipe_reader.of_file(studio, path, "toybox", tmp_path / "copies")[0].recipe.config == config


def test_a_part_of_the_settings_is_enough(studio: Studio):
    brought = read(studio, "steps: 20\nguidance: {name: vsd}\nmade_for: toybox\ndescription: mine\nbase: toybox\n")
    assert brought.recipe.edits["steps"] == 20
    assert brought.recipe.config.model_dump()["guidance"]["name"] == "vsd"
    assert not brought.named


def test_the_command_to_paint_names_its_file(studio: Studio):
    brought = read(studio, "sds3d texture models/My.glb 'a red mug' up_axis=z --seed=3")
    assert (brought.file, brought.recipe.preset) == ("My.glb", "texture")
    assert (brought.recipe.config.seed, brought.recipe.edits) == (3, {"up_axis": "z"})


WRONG = {
    "sds3d generate 'a red mug' guidance.scal=3 stepss=4": ("guidance.scal", "stepss"),
    "stepss: 4\nguidance: {scal: 3}\nnothing: 1": ("stepss", "guidance.scal", "nothing"),
    "sds3d generate 'a red mug' --colour red": ("--colour",),
    "sds3d generate 'a red mug' --preset nosuch": ("nosuch",),
    "sds3d generate 'a red mug' --seed": ("seed",),
    "sds3d generate": ("no prompt",),
    "sds3d bench runs": ("sds3d bench",),
    "sds3d generate 'a red": ("quotes",),
    "": ("nothing to read",),
    "a red mug": ("no mapping",),
    "- a\n- b": ("no mapping",),
    "{": ("not YAML",),
    "x: &a [1]\ny: [*a, *a]": ("alias",),
    "steps: 2001-99-99": ("not YAML",),
    "1: 2": ("no mapping",),
    "steps: 5000000": ("steps",),
    "[" * 3000: ("not YAML",),
    "x" * 200_000: ("too many",),
    "import sds3d": ("no mapping",),
}


@pytest.mark.parametrize("text", WRONG, ids=range(len(WRONG)))
def test_what_cannot_be_used_is_named(text: str, studio: Studio):
    with pytest.raises(ConfigError) as error:
        read(studio, text)
    for word in WRONG[text]:
        assert word in str(error.value)


def test_visitors_cannot_bring_what_is_the_owners(studio: Studio):
    shop = replace(studio, local=False, users=frozenset({"ada", "own"}), owner="own")
    text = "sds3d generate 'a red mug' prior.model=/models/sd guidance.scale=5"
    with visiting("ada"), pytest.raises(ConfigError, match=r"prior\.model cannot be set"):
        read(shop, text)
    with visiting("own"):
        assert read(shop, text).recipe.edits["prior.model"] == "/models/sd"
    with visiting("ada"):
        brought = read(shop, f"prompt: a red mug\nstart_from: {__file__}\n")
        assert (brought.recipe.config.start_from, brought.file) == ("", Path(__file__).name)


def test_zips_that_lie_are_refused(studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.zip"

    def refused(data: bytes, why: str) -> None:
        path.write_bytes(data)
        with pytest.raises(ConfigError, match=why) as error:
            recipe_reader.of_file(studio, path, "toybox", tmp_path / "copies")
        assert "\n" not in str(error.value)

    good = zipped({"settings.yaml": b"steps: 9\n"})
    refused(b"no zip", "cannot be read")
    refused(good[:40], "cannot be read")
    refused(zipped({"other.yaml": b""}), "no settings.yaml")
    refused(zipped({"settings.yaml": bytes(recipe_reader.LONGEST + 1)}), "larger than 0.1 MB")
    monkeypatch.setattr(recipe_reader, "UPLOAD", 1000)
    bomb = {"settings.yaml": b"start_from: mug.glb\n", "mug.glb": bytes(1_000_000)}
    refused(zipped(bomb), "mug.glb in the zip is larger")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("settings.yaml", "start_from: ../../mug.glb\n")
        archive.writestr("../../mug.glb", b"escaped")
    brought, data = recipe_reader.of_file(studio, path, "toybox", tmp_path / "copies")
    assert (brought.file, data) == ("mug.glb", b"")


def test_the_zip_of_a_run_brings_its_file(studio: Studio, tmp_path: Path):
    mesh = tmp_path / "mug.glb"
    mesh.write_bytes(b"glTF, as far as this test is concerned")
    run = new_run(studio.root, make_config("a red mug", "texture", ["start_from=x"]), own=mesh)
    (path := tmp_path / "a.zip").write_bytes(pack_run(run, studio).read_bytes())
    brought, data = recipe_reader.of_file(studio, path, "toybox", tmp_path / "copies")
    assert (brought.file, data, brought.recipe.preset) == ("mug.glb", mesh.read_bytes(), "texture")


def test_the_zip_of_a_run_brings_its_lights_and_none_of_the_machines_pictures(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Studio, "presets", lambda self, **_: {"texture": ""})  # quicker than all of them
    shutil.copy(DATA / "panoramas" / "opencv.hdr", tmp_path / "sky.hdr")
    Image.new("RGB", (8, 8)).save(tmp_path / "other.png")
    light = f"[{{name: file, file: {tmp_path / 'sky.hdr'}, strength: 2}}]"
    settings = ["representation.appearance.material={name: pbr}", "start_from=x"]
    settings += [f"representation.appearance.material.environments={light}"]
    run = new_run(studio.root, make_config("a red mug", "texture", settings))
    with zipfile.ZipFile(pack_run(run, studio)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    hostile = [{"image": "inputs/0123456789abcdef/a.png"}, {"image": str(tmp_path / "other.png")}]
    hostile += [hostile[0] | {"mask": str(tmp_path / "other.png")}]
    files["settings.yaml"] = files["settings.yaml"].replace(
        b"reference: []", f"reference: {json.dumps(hostile)}".encode()
    )
    files["inputs/0123456789abcdef/a.png"] = (tmp_path / "other.png").read_bytes()
    files["inputs/0123456789abcdef/../../escaped.png"] = b"escaped"
    (path := tmp_path / "a.zip").write_bytes(zipped(files))
    (tmp_path / "sky.hdr").unlink()
    copies = tmp_path / "copies"
    brought, _ = recipe_reader.of_file(studio, path, "toybox", copies)
    (environment,) = brought.recipe.config.model_dump()["representation"]["appearance"]["material"]["environments"]
    assert Path(environment["file"]).read_bytes() == (DATA / "panoramas" / "opencv.hdr").read_bytes()
    assert [Path(picture.image).parents[2] for picture in brought.pictures] == [copies]
    assert brought.missing == 2
    assert not list(tmp_path.rglob("escaped.png"))
    check_inputs(brought.recipe.config)
