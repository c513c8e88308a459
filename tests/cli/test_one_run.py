"""Commands for one run, with a tiny untrained diffusers folder as the prior."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from sds3d.run.config import read_config
from sds3d.run.folder import list_runs

ROOT = Path(__file__).parents[2]
SMALL = [
    "--preset",
    "dreamfusion",
    "--threads",
    "1",
    "cameras.size=16",
    "representation.resolution=12",
    "representation.samples=16",
    "export.resolution=24",
    "export.texture_size=64",
    "export.picture_size=32",
    "export.frames=4",
]
Cli = Callable[..., tuple[int, str, str]]


def test_generate_writes_a_run_and_lists_its_files(cli: Cli, model: Path, tmp_path: Path):
    command = ["generate", "a red mug", f"prior.model={model}", "--steps", "3", "--out", str(tmp_path), *SMALL]
    code, stdout, stderr = cli(*command)
    assert code == 0, stderr
    run = list_runs(tmp_path)[0]
    assert run.state.status == "done"
    for name in ("a-red-mug.glb", "a-red-mug.obj", "a-red-mug.ply", "turntable.mp4", "contact_sheet.png"):
        assert re.search(rf"{re.escape(name)} +[0-9.]+ [kM]B", stdout), name
    assert "latest.png" in stdout
    assert re.search(r"[0-9.]+ s in total", stdout)
    assert "step 3/3" in stderr

    code, stdout, _ = cli(*command)
    assert code == 0
    assert "already finished" in stdout

    code, stdout, _ = cli(*command, "--json")
    assert code == 0
    result = json.loads(stdout)
    assert (result["folder"], result["status"], result["step"], result["total"]) == (str(run.folder), "done", 3, 3)
    assert set(map(Path, result["files"])) == {run.previews / "latest.png", *run.exports.iterdir()}

    (run.exports / "a-red-mug.glb").unlink()
    code, stdout, stderr = cli("export", str(run.folder), "frames=5", "--json")
    assert code == 0, stderr
    assert str(run.exports / "a-red-mug.glb") in json.loads(stdout)["files"]
    assert (run.exports / "a-red-mug.glb").exists()

    for path in run.exports.iterdir():
        path.unlink()
    code, stdout, stderr = cli("export", str(run.folder), "--format", "stl, spz")
    assert code == 0, stderr
    written = {path.name for path in run.exports.iterdir()}
    assert written == {"a-red-mug.stl", "a-red-mug.spz", "turntable.mp4", "contact_sheet.png"}
    code, _, stderr = cli("export", str(run.folder), "--format", "glb,splat-pyl")
    assert code == 1
    assert 'the format "splat-pyl" is unknown; did you mean "splat-ply"?' in stderr


def test_drafts_are_the_first_steps_of_several_seeds(cli: Cli, model: Path, tmp_path: Path):
    setting = [f"prior.model={model}", "--steps", "8", "--out", str(tmp_path), *SMALL]
    code, stdout, stderr = cli("generate", "a red mug", "--drafts", "2", "--seed", "5", *setting)
    assert code == 0, stderr
    assert "step 2/2" in stderr
    runs = list_runs(tmp_path)
    assert sorted(read_config(run).seed for run in runs) == [5, 6]
    for run in runs:
        assert (run.state.status, run.state.step, run.state.total) == ("paused", 2, 8)
        assert str(run.preview) in stdout
        assert f"sds3d resume {run.folder}" in stdout
    code, stdout, stderr = cli("generate", "a red mug", "--drafts", "2", "--seed", "5", "--json", *setting)
    assert code == 0, stderr
    assert {Path(draft["folder"]) for draft in json.loads(stdout)} == {run.folder for run in runs}
    code, _, stderr = cli("resume", str(runs[0].folder))
    assert code == 0, stderr
    assert (runs[0].state.status, runs[0].state.step, runs[1].state.step) == ("done", 8, 2)


@pytest.mark.slow
def test_ctrl_c_leaves_a_run_that_resumes(cli: Cli, model: Path, tmp_path: Path):
    command = ["generate", "a red mug", f"prior.model={model}", "--steps", "30", "--out", str(tmp_path), *SMALL]
    process = subprocess.Popen(
        [sys.executable, "-m", "sds3d", *command],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("step "):
            process.send_signal(signal.SIGINT)
            break
    rest = process.stderr.read()
    assert process.wait() == 130
    run = list_runs(tmp_path)[0]
    assert f"sds3d resume {run.folder}" in rest
    assert "Traceback" not in rest
    assert run.state.status == "paused"
    stopped = run.state.step
    assert 0 < stopped < 30
    code, _, stderr = cli("resume", str(run.folder))
    assert code == 0, stderr
    assert run.state.status == "done"
    assert [event["step"] for event in run.events()] == list(range(1, 31))


def test_only_meshes_can_be_textured(cli: Cli, tmp_path: Path):
    code, _, stderr = cli("texture", str(tmp_path / "mug.obj"), "a red mug")
    assert code == 1
    assert "mug.obj" in stderr
    points = tmp_path / "points \N{SMILING FACE WITH SMILING EYES}.ply"  # outside of the first 65536 characters
    trimesh.PointCloud(np.random.default_rng(0).random((20, 3))).export(points)
    code, _, stderr = cli("texture", str(points), "a red mug", "--out", str(tmp_path))
    assert code == 1
    assert "has no triangles to paint" in stderr.replace("\n", " ")
    assert len(stderr.splitlines()) == 1


def test_unknown_words_are_listed_with_the_nearest_known(cli: Cli, tmp_path: Path):
    code, _, stderr = cli("generate", "a red mugg on the moon", "--out", str(tmp_path), "--device", "quantum")
    assert code == 1
    assert "does not know: mugg (like mug" in stderr
    assert "moon" in stderr
    assert "prior.model=" in stderr


def test_what_is_made_of_several_objects_and_other_words_is_told(cli: Cli, tmp_path: Path):
    _, _, stderr = cli("generate", "two red cups and a car", "--out", str(tmp_path), "--device", "quantum")
    assert "One object is made at a time: “a red mug”, without the car." in stderr.replace("\n", " ")
    assert "does not know" not in stderr


def test_large_models_are_not_checked_for_toy_words(cli: Cli, model: Path, tmp_path: Path):
    _, _, stderr = cli("generate", "a corgi", f"prior.model={model}", "--out", str(tmp_path), "--device", "quantum")
    assert "does not know" not in stderr


def test_generate_from_a_picture(cli: Cli, model: Path, tmp_path: Path):
    picture = tmp_path / "\N{SMILING FACE WITH SMILING EYES}" / "red_mug-2.PNG"
    picture.parent.mkdir()
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[8:24, 10:20] = 255
    Image.fromarray(pixels).save(picture)
    out = tmp_path / "runs"
    # Without a prompt, the first word is a setting.
    command = [f"prior.model={model}", "--image", str(picture), "--steps", "2", "--out", str(out), *SMALL]
    code, stdout, stderr = cli("generate", *command)
    assert code == 0, stderr
    assert 'the prompt is "a red mug 2", by the name of red_mug-2.PNG' in stderr
    assert "a-red-mug-2.glb" in stdout
    config = read_config(list_runs(out)[0])
    assert config.prompt == "a red mug 2"
    assert [config.reference[0].azimuth, config.reference[0].elevation] == [None, None]

    code, _, stderr = cli("generate", "a mug", *command, "--azimuth", "30", "--elevation", "10")
    assert code == 0, stderr
    run = next(run for run in list_runs(out) if read_config(run).prompt == "a mug")
    assert (read_config(run).reference[0].azimuth, read_config(run).reference[0].elevation) == (30, 10)
    assert run.events()[0]["losses"]["reference_mask"] > 0

    for arguments, message in (
        (["a mug", *command, "--azimuth", "30"], "give both azimuth and elevation"),
        (["a mug", "--azimuth", "30"], "give --image"),
        ([], "give a PROMPT"),
        (["a mug", "--image", str(tmp_path / "none.png"), "--out", str(out)], "none.png"),
        (["--image", str(tmp_path / "123.png"), "--out", str(out)], "says nothing of the object"),
        (["a mug", *command, "reference=[]"], "give either --image or reference="),
    ):
        code, _, stderr = cli("generate", *arguments)
        assert code != 0
        assert message in " ".join(stderr.split()), stderr
