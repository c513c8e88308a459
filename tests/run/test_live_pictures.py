"""Views of a run that is under way: they show the scene, cost little, and change nothing."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sds3d.cameras import orbit
from sds3d.files import NotPlainError
from sds3d.representations.base import Start
from sds3d.representations.make import make_scene
from sds3d.run import live
from sds3d.run.config import new_run
from sds3d.run.drive import drive
from sds3d.run.folder import Run
from sds3d.run.live import Live, View
from sds3d.run.outputs import pictures
from tests.run.tiny_runs import disc, finish, tiny
from tests.slow import slow_after

REPRESENTATIONS = [
    {"name": "voxel_grid", "resolution": 12, "samples": 16, "warmup": 2},
    {"name": "gaussians", "count": 200},
    {"name": "hash_nerf", "levels": 4, "samples": 16},
    {"name": "mesh", "geometry": {"name": "dmtet", "resolution": 12}},
]


@pytest.mark.parametrize("representation", slow_after(1, REPRESENTATIONS), ids=lambda each: each["name"])
def test_looking_changes_no_bit_of_a_run(representation: dict[str, object], tmp_path: Path):
    alone, watched = (new_run(tmp_path / name, tiny(representation=representation)) for name in ("alone", "watched"))
    finish(alone)
    seen = set()
    for step in drive(watched, threads=1, prior=disc()):
        live.ask(watched, "ada", View(30.0 * step.step, 20.0, 2.0))
        live.ask(watched, "bob", View(10.0, -80.0, 1.0 + 0.1 * step.step))
        seen |= {answer[1] for name in ("ada", "bob") if (answer := live.answer(watched, name))}
    assert len(seen) >= 2
    for ours, theirs in zip(alone.checkpoints, watched.checkpoints, strict=True):
        assert ours.read_bytes() == theirs.read_bytes()
    assert {path.name: path.read_bytes() for path in alone.exports.iterdir()} == {
        path.name: path.read_bytes() for path in watched.exports.iterdir()
    }
    assert (alone.previews / "latest.png").read_bytes() == (watched.previews / "latest.png").read_bytes()
    assert not (watched.folder / "live").exists()  # nothing is left over


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return new_run(tmp_path, tiny())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that starts at `clock[0]` seconds and moves on by `clock[1]` seconds each time it is read."""
    times = [1000.0, 0.0]

    def now() -> float:
        times[0] += times[1]
        return times[0]

    monkeypatch.setattr("sds3d.run.live.time.monotonic", now)
    return times


def test_a_picture_shows_the_scene_from_the_camera_that_is_asked_for(run: Run):
    scene = make_scene(
        tiny(representation={"name": "gaussians", "count": 500}).representation,
        Start(torch.Generator().manual_seed(0), 10),
        1,
    )
    view = View(70.0, 35.0, 1.7)
    live.ask(run, "ada", view)
    drawing = Live(run, size=128)
    assert drawing.draw(scene, torch.device("cpu")) == 1
    data, _ = live.answer(run, "ada") or (b"", "")
    shown = np.asarray(Image.open(io.BytesIO(data)), np.float32) / 255
    camera = orbit([view.azimuth], view.elevation, view.distance, live.FOVY, 128)
    (true,) = pictures(scene, camera, torch.device("cpu"))
    assert shown.shape == (128, 128, 3)
    assert np.abs(shown - true).mean() < 0.01
    elsewhere = pictures(scene, orbit([250.0], -20.0, 1.7, live.FOVY, 128), torch.device("cpu"))[0]
    assert np.abs(shown - elsewhere).mean() > np.abs(shown - true).mean() * 3


def test_drawing_takes_a_quarter_of_the_time_at_most(run: Run, clock: list[float]):
    scene = make_scene(tiny().representation, Start(torch.Generator().manual_seed(0), 10), 1)
    drawing, cpu = Live(run), torch.device("cpu")
    assert drawing.draw(scene, cpu) == 0  # nobody asks
    clock[1] = 0.15  # the clock is read at the begin and at the end: a picture takes 0.15 s
    live.ask(run, "ada", View(0.0, 0.0, 2.0))
    assert drawing.draw(scene, cpu) == 1
    done = clock[0]
    clock[1] = 0.0
    assert drawing.free == pytest.approx(done + 3 * 0.15)
    live.ask(run, "ada", View(5.0, 0.0, 2.0))
    clock[0] = done + 0.44
    assert drawing.draw(scene, cpu) == 0
    clock[0] = done + 0.46
    assert drawing.draw(scene, cpu) == 1
    # The same view is drawn again after a second, as the scene changes; another one at once.
    clock[0] += 0.9
    assert drawing.draw(scene, cpu) == 0
    clock[0] += 0.2
    assert drawing.draw(scene, cpu) == 1
    live.ask(run, "ada", View(6.0, 0.0, 2.0))
    assert drawing.draw(scene, cpu) == 1


@pytest.mark.parametrize(
    ("seconds", "size", "then"), [(0.06, 128, 128), (0.24, 128, 64), (0.015, 96, 192), (10.0, 96, 64), (0.0, 96, 256)]
)
def test_the_size_follows_from_the_time_of_a_picture(seconds: float, size: int, then: int):
    assert live.size_for(seconds, size) == then


def test_only_the_last_visitors_who_are_still_there_get_pictures(run: Run):
    scene = make_scene(tiny().representation, Start(torch.Generator().manual_seed(0), 10), 1)
    for number in range(50):
        live.ask(run, f"visitor {number}", View(number, 0.0, 2.0))
    requests = sorted((run.folder / "live").glob("*.json"))
    assert len(requests) == live.KEPT
    assert Live(run).draw(scene, torch.device("cpu")) == live.DRAWN
    for path in requests:  # all of them have left
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 3 * live.PRESENT))
    assert Live(run).draw(scene, torch.device("cpu")) == 0
    live.ask(run, "ada", View(0.0, 0.0, 2.0))
    assert len(list((run.folder / "live").iterdir())) == 1


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"azimuth": 1}', '{"azimuth": "x", "elevation": 0, "distance": 2}', "1" * 5000]
)
def test_requests_that_are_none_are_left_alone(text: str, run: Run):
    (run.folder / "live").mkdir()
    (run.folder / "live" / "a.json").write_text(text)
    assert Live(run).draw(None, torch.device("cpu")) == 0  # type: ignore[arg-type]


def test_a_view_is_moved_into_range():
    assert View.of({"azimuth": -30, "elevation": 200, "distance": 1e9}) == View(330.0, 90.0, live.FAR)
    assert View.of({"azimuth": 725.0, "elevation": -91, "distance": 0}) == View(5.0, -90.0, live.NEAR)
    for wrong in (
        {},
        {"azimuth": float("nan"), "elevation": 0, "distance": 1},
        {"azimuth": 0, "elevation": 0, "distance": None},
    ):
        with pytest.raises(ValueError, match="numbers"):
            View.of(wrong)


def test_no_link_is_followed_and_no_deleted_run_comes_back(run: Run, tmp_path: Path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (run.folder / "live").symlink_to(outside)
    with pytest.raises(NotPlainError, match="symbolic link"):
        live.ask(run, "ada", View(0.0, 0.0, 2.0))
    assert live.answer(run, "ada") is None
    Live(run).close()
    assert list(outside.iterdir()) == []
    gone = Run(tmp_path / "gone")
    with pytest.raises(FileNotFoundError):
        live.ask(gone, "ada", View(0.0, 0.0, 2.0))
    assert not gone.folder.exists()
