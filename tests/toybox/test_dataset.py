"""Files of rendered objects: complete, in order, the same however they were made."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sds3d.toybox import dataset
from sds3d.toybox.captions import held_out
from sds3d.toybox.dataset import CAPTIONS, OBJECTS, DataConfig, Rendering, joined, load_tokenizer, render_files
from sds3d.toybox.render import iterate_objects

SMALL = DataConfig(objects=OBJECTS + 5, seed=3, size=16)


def ignore(stage: str, step: int, total: int, figures: dict[str, float]) -> None:
    pass


def whole(folder: Path, config: DataConfig, workers: int = 1) -> dataset.ObjectFile:
    return joined(render_files(folder, config, workers, ignore))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the set SMALL, rendered in this process."""
    path = tmp_path_factory.mktemp("objects")
    render_files(path, SMALL, 1, ignore)
    return path


@pytest.fixture
def objects(folder: Path) -> dataset.ObjectFile:
    return whole(folder, SMALL)


def test_objects_are_those_of_the_endless_set(objects: dataset.ObjectFile) -> None:
    expected = list(iterate_objects(SMALL.objects, SMALL.seed, size=16))
    assert objects.specs == [views.spec for views in expected]
    assert held_out().isdisjoint(objects.specs)
    for i in (0, OBJECTS, SMALL.objects - 1):
        assert torch.equal(objects.pictures[i], torch.from_numpy(expected[i].pictures))
        azimuth, elevation, distance = objects.angles[i].unbind(-1)
        assert torch.equal(azimuth, torch.from_numpy(expected[i].azimuth))
        assert elevation.tolist() == pytest.approx([expected[i].elevation] * 4)
        assert distance.tolist() == pytest.approx([expected[i].distance] * 4)


def test_captions_tell_the_object_and_its_views(objects: dataset.ObjectFile) -> None:
    tokenizer = load_tokenizer("")
    assert objects.tokens.shape == (len(objects), CAPTIONS, 24)
    plain = tokenizer.batch_decode(objects.tokens[0], skip_special_tokens=True)
    assert all(objects.specs[0].category in text for text in plain)
    for angle, captions in zip(objects.angles[0], objects.view_tokens[0], strict=True):
        texts = tokenizer.batch_decode(captions, skip_special_tokens=True)
        if angle[1] < 38:
            side = (float(angle[0]) + 45) % 360 // 90  # 0 front, 1 and 3 sides, 2 back
            word = {0: "front", 2: "back"}.get(int(side), "side")
            assert all(word in text for text in texts), texts


def test_a_set_does_not_depend_on_the_number_of_workers_nor_on_a_kill(
    folder: Path, objects: dataset.ObjectFile, tmp_path: Path
) -> None:
    shutil.copy(folder / "000001.safetensors", tmp_path)
    (tmp_path / "000000.partial").write_bytes(b"half a file")
    others = whole(tmp_path, SMALL, workers=2)  # one of them is enough, whose imports take seconds
    assert others.specs == objects.specs
    for name in ("pictures", "angles", "tokens", "view_tokens"):
        assert torch.equal(getattr(others, name), getattr(objects, name)), name


def test_a_longer_set_begins_with_the_shorter_one(tmp_path: Path) -> None:
    short, long = whole(tmp_path / "a", replace(SMALL, objects=3)), whole(tmp_path / "b", replace(SMALL, objects=7))
    assert torch.equal(short.pictures, long.pictures[:3])
    assert torch.equal(short.view_tokens, long.view_tokens[:3])


def test_a_worker_that_fails_is_told(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        render_files(tmp_path, replace(SMALL, tokenizer="/nowhere"), 1, ignore)


@pytest.fixture
def long(monkeypatch: pytest.MonkeyPatch) -> DataConfig:
    """A set of 80 files, each with a quarter of the usual objects."""
    monkeypatch.setattr(dataset, "OBJECTS", OBJECTS // 4)
    return replace(SMALL, objects=20 * OBJECTS)


def begun(folder: Path, config: DataConfig) -> list[Path]:
    """Render the first file of a set, and end it."""
    with Rendering(folder, config, 1) as rendering:
        first = rendering.wait(ignore, seconds=0)
        paths = rendering.end()
    assert 1 <= len(first) <= len(paths)
    return paths


def test_a_set_that_ends_early_ends_at_its_first_gap(long: DataConfig, tmp_path: Path) -> None:
    for i in (1, 2, 40):  # of a call that was killed
        dataset.render_file(tmp_path, long, i)
    paths = begun(tmp_path, long)
    assert 3 <= len(paths) < 40
    assert [path.name for path in paths] == [f"{i:06d}.safetensors" for i in range(len(paths))]
    assert render_files(tmp_path, long, 1, ignore) == paths


def test_a_set_that_ends_early_keeps_its_size(long: DataConfig, tmp_path: Path) -> None:
    paths = begun(tmp_path, long)
    assert 1 <= len(paths) < 80
    assert [path.name for path in paths] == [f"{i:06d}.safetensors" for i in range(len(paths))]
    paths[0].unlink()
    assert render_files(tmp_path, long, 1, ignore) == paths  # without a limit of time: still the same set
    assert all(path.exists() for path in paths)
