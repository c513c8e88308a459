"""Notes of what is made from the prior: what they find stale, and how it is made anew."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sds3d.config import ConfigError, assets_dir
from sds3d.evaluation.made_from_prior import ITEMS, OTHER_PRESETS, PRIOR, Item, check, newest, refresh, write_note
from sds3d.files import RunError
from sds3d.priors.digest import weights_digest
from tests.commands import resolve

ROOT = assets_dir().parent
SPEED = ("priors", "rendering", "studio", "together")
NOT_FROM_THE_PRIOR = {
    "docs/pictures/data-flow.svg", "docs/pictures/camera_and_render.webp",
    *(f"benchmarks/{name}.json" for name in (*SPEED, "conversion", "launches", "materials")),
    *(f"benchmarks/{name}.md" for name in (*SPEED, "conversion", "launches", "materials")),
}  # fmt: skip


def checkout(folder: Path) -> Path:
    prior = folder / PRIOR
    (prior / "unet").mkdir(parents=True)
    (prior / "unet" / "model.safetensors").write_bytes(b"weights")
    return folder


def test_the_digest_is_of_names_and_weights(tmp_path: Path) -> None:
    prior = checkout(tmp_path) / PRIOR
    first = weights_digest(prior)
    (prior / "CARD.md").write_text("other files do not count")
    assert weights_digest(prior) == first
    (prior / "unet" / "model.safetensors").write_bytes(b"others!")
    changed = weights_digest(prior)
    assert changed != first
    (prior / "unet" / "model.safetensors").rename(prior / "unet" / "other.safetensors")
    assert weights_digest(prior) not in {first, changed}


def test_an_item_is_stale_when_the_prior_changes(tmp_path: Path) -> None:
    root = checkout(tmp_path)
    item = Item("picture", ("assets/picture.webp",), by_hand="drawn")
    assert check(root, [item])[0].state == "missing"
    (root / "assets/picture.webp").touch()
    assert check(root, [item])[0].state == "unknown"
    write_note(item, root)
    assert json.loads((root / "assets/picture.made.json").read_text())["made by"] == ["drawn"]
    assert check(root, [item])[0].state == "up to date"
    assert check(root, [replace(item, by_hand="", commands=("toybox render",))])[0].state == "by other commands"
    (root / PRIOR / "unet" / "model.safetensors").write_bytes(b"trained further")
    assert check(root, [item])[0].state == "stale"
    (root / "assets/picture.made.json").write_text("[]")
    assert check(root, [item])[0].state == "unknown"


def test_an_item_is_made_by_its_commands(tmp_path: Path) -> None:
    root, told = checkout(tmp_path), []

    def finish(work: Path, root: Path) -> None:
        with Image.open(work / "mug.png") as picture:
            picture.crop((0, 0, 8, 8)).save(root / "assets/mug.png")

    mug = Item("mug", ("assets/mug.png",), ("toybox render 'a red mug' --out mug.png",), finish)
    drawn = Item("drawn", ("assets/drawn.png",), by_hand="drawn")
    refresh(root, tmp_path / "work", [mug, drawn], told.append)
    assert told == ["mug: sds3d toybox render 'a red mug' --out mug.png"]
    assert [status.state for status in check(root, [mug, drawn])] == ["up to date", "missing"]
    wrong = Item("wrong", ("assets/wrong.png",), ("toybox render 'a red thing' --out wrong.png",))
    with pytest.raises(RunError, match=r"a red thing' --out wrong\.png failed in"):
        refresh(root, tmp_path / "work", [wrong], told.append)
    assert not (root / "assets/wrong.made.json").exists()


def test_every_file_that_depends_on_the_prior_is_listed() -> None:
    listed = [file for item in ITEMS for file in item.files]
    assert len(set(listed)) == len(listed)
    folders = ("docs/pictures", "assets/pictures", "assets/studio", "assets/instant", "benchmarks")
    pictures = {str(path.relative_to(ROOT)) for folder in folders for path in (ROOT / folder).iterdir()}
    assert {name for name in pictures if not name.endswith(".made.json")} - set(listed) == NOT_FROM_THE_PRIOR


@pytest.mark.parametrize("command", [command for item in ITEMS for command in item.commands])
def test_the_commands_exist(command: str) -> None:
    resolve(shlex.split(command))


@pytest.mark.parametrize(
    "command",
    [
        "bench toybox mesch --out a",
        "bench guidance --several 0 --set prior.multivew=false",
        "bench light lit/prior --set steps=many",
        "bench polish --set 'estimators=[{modell: seen/normals}]'",
        "bench pictures --set representation=splat",
        "generate 'a red mug' --preset quik",
        "generate 'a red mug' steps=0.5",
        "generator train picturs=true",
        "toybox train --light objets=640",
        "playground2d 'a red mug' --rule sdss",
    ],
)
def test_a_command_with_a_wrong_preset_or_setting_is_noticed(command: str) -> None:
    with pytest.raises(ConfigError):
        resolve(shlex.split(command))


@pytest.mark.slow
def test_the_presets_strip_has_the_rules_of_the_benchmark_and_runs_of_the_other_presets(tmp_path: Path) -> None:
    (item,) = [item for item in ITEMS if item.name == "presets"]
    files = [f"benchmarks/guidance.{ending}" for ending in ("json", "png")]
    for file in [*files, *(str(path.relative_to(ROOT)) for path in (ROOT / PRIOR).rglob("*.safetensors"))]:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes((ROOT / file).read_bytes())
    (tmp_path / "assets/studio").mkdir()
    short = " steps=3 export.formats=[glb] export.frames=4 export.resolution=48 export.texture_size=64"
    short += " export.faces=500"
    work = tmp_path / "work"

    def finish(work: Path, root: Path) -> None:
        for name in set(OTHER_PRESETS) - {"mesh"}:  # one run is enough for all tiles
            shutil.copytree(work / "presets/mesh", work / "presets" / name)
        item.finish(work, root)

    short_item = replace(item, commands=(item.commands[0] + short,), finish=finish)
    refresh(tmp_path, work, [short_item], print)
    names = list(json.loads((ROOT / "benchmarks/guidance.json").read_text())["summary"])
    assert json.loads((tmp_path / "assets/studio/presets.json").read_text()) == [*names, *OTHER_PRESETS]
    assert [status.state for status in check(tmp_path, [short_item])] == ["up to date"]
    with Image.open(tmp_path / "assets/studio/presets.webp") as strip:
        tiles = np.asarray(strip.convert("RGB"), int).reshape(64, len(names) + len(OTHER_PRESETS), 64, 3).swapaxes(0, 1)
    assert np.abs(tiles[:, :3, :3] - 204).max() <= 12  # all on the benchmark's grey
    assert (tiles.std((1, 2, 3)) > 8).all()  # objects, not the paper between them
    red, green, blue = tiles[names.index("truth")][20:44, 20:44].mean((0, 1))
    assert green > max(red, blue)  # the green house


def test_a_star_is_the_newest_file(tmp_path: Path) -> None:
    for name, when in (("a", 1), ("b", 3), ("c", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mug.glb").touch()
        os.utime(tmp_path / name / "mug.glb", (when, when))
    assert newest(tmp_path, "*/mug.glb") == tmp_path / "b" / "mug.glb"
    with pytest.raises(RunError, match=r"has no \*/cup\.glb"):
        newest(tmp_path, "*/cup.glb")
