"""Runs that are finished, paused, killed, damaged and resumed."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import trimesh

from sds3d.config import build, dump_yaml, merge
from sds3d.files import RunError
from sds3d.formats.table import EXPORT_FORMATS
from sds3d.jobs.queue import enqueue, recover
from sds3d.priors.gaussian import Gaussian, GaussianPrior
from sds3d.run.config import ExportConfig, RunConfig, draft_steps, new_run, read_config
from sds3d.run.drive import drive
from sds3d.run.folder import Machine, Run, open_run, read_checkpoint
from sds3d.run.optimize import NumericalError
from sds3d.run.outputs import export_run
from tests.run.tiny_runs import disc, finish, same, tiny

PAINTED = {"name": "mesh", "geometry": {"name": "fixed"}, "appearance": "texels"}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An uninterrupted run."""
    run = new_run(tmp_path_factory.mktemp("straight"), tiny())
    finish(run)
    return run


def test_a_finished_run_has_everything(straight: Run):
    assert straight.folder.name.startswith("a-ball-")
    assert straight.state.status == "done"
    assert (straight.state.step, straight.state.total, straight.state.threads) == (12, 12, 1)
    assert [event["step"] for event in straight.events()] == list(range(1, 13))
    assert {"a-ball.glb", "a-ball.ply", "turntable.mp4", "contact_sheet.png"} <= {
        path.name for path in straight.exports.iterdir()
    }
    assert (straight.previews / "latest.png").stat().st_size > 0
    assert read_config(straight) == tiny()
    assert len(straight.checkpoints) == 2
    assert "finished" in (straight.folder / "run.log").read_text()


def test_a_finished_run_is_not_repeated(straight: Run):
    checkpoint = straight.checkpoints[0].stat().st_mtime_ns
    again = new_run(straight.folder.parent, tiny())
    assert again == straight
    assert finish(again) == []
    assert straight.checkpoints[0].stat().st_mtime_ns == checkpoint


@pytest.mark.parametrize("stop", [1, 5, 8])
def test_a_paused_run_ends_the_same(stop: int, straight: Run, tmp_path: Path):
    run = new_run(tmp_path, tiny())
    assert finish(run, stop)[-1] == stop
    assert run.state.status == "paused"
    assert run.state.step == stop
    assert run.requested() is None
    assert finish(run)[0] == stop + 1
    assert same(run, straight)


def test_a_draft_pauses_once_and_ends_as_the_run_would_have(straight: Run, tmp_path: Path):
    run = new_run(tmp_path, tiny())
    assert draft_steps(tiny()) == 3
    enqueue(run, pause_at=3)
    assert finish(run)[-1] == 3
    assert (run.state.status, run.state.step, run.state.pause_at) == ("paused", 3, 0)
    assert run.preview is not None
    assert not run.exports.exists()
    enqueue(run)
    assert finish(run)[0] == 4
    assert same(run, straight)


def test_a_draft_that_was_killed_is_still_a_draft_and_one_that_is_resumed_is_none(tmp_path: Path):
    run = new_run(tmp_path, tiny())
    enqueue(run, pause_at=5)
    run.update(status="running", step=2)  # as a killed process leaves it
    assert recover(run, retries=2)
    assert finish(run)[-1] == 5
    other = new_run(tmp_path, tiny(seed=1))
    enqueue(other, pause_at=5)
    assert finish(other, stop=2)[-1] == 2
    assert finish(other)[-1] == 12


def test_a_run_keeps_the_file_that_it_starts_from(tmp_path: Path):
    mesh, mine = tmp_path / "ball.stl", tiny(representation=PAINTED, up_axis="y")
    trimesh.creation.icosphere(2, 0.4).export(mesh)
    run = new_run(tmp_path / "runs", mine, own=mesh)
    assert new_run(tmp_path / "runs", mine, own=mesh) == run
    assert run.own is not None
    assert (run.own.name, run.own.read_bytes()) == ("ball.stl", mesh.read_bytes())
    mesh.unlink()
    moved = Run(run.folder.rename(tmp_path / "elsewhere"))
    finish(moved)
    assert len(trimesh.load_mesh(moved.exports / "a-ball.ply").faces) == 320


def test_closing_the_generator_leaves_a_resumable_run(straight: Run, tmp_path: Path):
    run = new_run(tmp_path, tiny())
    steps = drive(run, threads=1, prior=disc())
    for _ in range(6):
        next(steps)
    steps.close()
    assert (run.state.status, run.state.step) == ("paused", 6)
    assert not run.busy()
    finish(run)
    assert same(run, straight)


DRIVER = """
import sys
from pathlib import Path
from tests.run.tiny_runs import disc, tiny
from sds3d.run.drive import drive
from sds3d.run.config import new_run

if __name__ == "__main__":
    for step in drive(new_run(Path(sys.argv[1]), tiny()), threads=1, prior=disc()):
        print(step.step, flush=True)
"""


def spawn(root: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(root)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_a_killed_run_ends_the_same(straight: Run, tmp_path: Path):
    process = spawn(tmp_path)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) == 7:
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    run = new_run(tmp_path, tiny())
    assert run.state.status == "running"
    assert not run.busy()
    assert run.checkpoints
    done = finish(run)
    assert done[-1] == 12
    assert done[0] in {5, 9}  # after the newest checkpoint, which depends on when the signal arrived
    assert same(run, straight)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_checkpoint_falls_back_to_the_previous_one(damage: str, straight: Run, tmp_path: Path):
    run = new_run(tmp_path, tiny())
    finish(run, 8)
    newest, older = run.checkpoints
    data = bytearray(newest.read_bytes())
    match damage:
        case "truncated":
            data = data[: len(data) // 2]
        case "flipped":
            data[-100] ^= 1
        case "empty":
            data = bytearray()
    newest.write_bytes(data)
    assert run.load_checkpoint() is not None
    assert newest.exists(), "reading must not delete it"
    assert finish(run)[0] == int(older.stem) + 1
    assert newest.with_suffix(".damaged").read_bytes() == bytes(data)
    assert "is damaged" in (run.folder / "run.log").read_text()
    assert same(run, straight)


def test_a_temporarily_unreadable_checkpoint_is_kept(tmp_path: Path):
    run = new_run(tmp_path, tiny())
    finish(run, 8)
    names = [path.name for path in run.checkpoints]
    for path in run.checkpoints:
        path.rename(path.with_suffix(".kept"))
        path.mkdir()  # reading a folder is an OSError, even for root
    with pytest.raises(OSError, match=r"00000008\.safetensors is a folder"):
        finish(run)
    assert run.state.status == "failed"
    assert [path.name for path in run.checkpoints] == names


def test_a_pause_withdrawn_while_the_run_saves_has_no_effect(
    straight: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    save = Run.save_checkpoint

    def save_slowly(run: Run, *arguments: Any) -> Path:
        path = save(run, *arguments)
        run.clear_request()  # like a user who presses Resume at this moment
        return path

    monkeypatch.setattr(Run, "save_checkpoint", save_slowly)
    run = new_run(tmp_path, tiny())
    assert finish(run, 6) == list(range(1, 13))
    assert run.state.status == "done"
    assert same(run, straight)


def test_a_request_overrides_the_state_after_closing_the_generator(tmp_path: Path):
    for request, status in (("cancel", "cancelled"), (None, "queued")):
        run = new_run(tmp_path / status, tiny())
        steps = drive(run, threads=1, prior=disc(), closed="queued")
        next(steps)
        if request is not None:
            run.request(request)
        steps.close()
        assert (run.state.status, run.state.step) == (status, 1)
        assert run.requested() is None


def test_half_written_files_of_killed_processes_are_deleted(tmp_path: Path):
    run = new_run(tmp_path, tiny(steps=1))
    (run.exports / "made").mkdir(parents=True)
    old, deep = run.folder / ".state.json.1-1.tmp", run.exports / "made" / ".ball.glb.1-1.tmp"
    young = run.folder / ".control.2-2.tmp"
    for path in (old, deep, young):
        path.write_bytes(b"{")
    for path in (old, deep):
        os.utime(path, (0, 0))
    finish(run)
    assert not old.exists()
    assert not deep.exists()
    assert young.exists(), "another process may still be writing it"


def test_equal_runs_have_equal_files(straight: Run, tmp_path: Path):
    """Byte for byte: checkpoints, exports and pictures, of a second process, too."""
    process = spawn(tmp_path)
    process.communicate()
    other = new_run(tmp_path, tiny())
    assert other.state.status == "done"
    ours, theirs = (
        {
            str(path.relative_to(run.folder)): path.read_bytes()
            for folder in ("checkpoints", "exports", "previews")
            for path in sorted((run.folder / folder).rglob("*"))
            if path.is_file()
        }
        for run in (straight, other)
    )
    assert len(ours) > 8
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


ALL_FORMATS = """
import sys
from pathlib import Path
from sds3d.formats.table import EXPORT_FORMATS
from sds3d.run.config import make_config, new_run
from sds3d.run.drive import drive

quick = ["steps=3", "export.resolution=48", "export.texture_size=128", "export.frames=4", "export.picture_size=64"]
settings = [*quick, f"export.formats=[{','.join(EXPORT_FORMATS)}]"]
for preset in sys.argv[2:]:
    for _ in drive(new_run(Path(sys.argv[1], preset), make_config("a red mug", preset, settings)), threads=1):
        pass
"""
ALL_KINDS = ("toybox", "mesh", "splats")  # presets of three kinds of scenes


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two folders with a run of each kind, made by two processes with different orders of sets, one after the other."""
    folders = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    for i, folder in enumerate(folders):
        subprocess.run(
            [sys.executable, "-c", ALL_FORMATS, str(folder), *ALL_KINDS],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": str(i)},
            cwd=Path(__file__).parents[2],
            check=True,
        )
    return folders


@pytest.mark.slow
@pytest.mark.parametrize("preset", ALL_KINDS)
def test_equal_runs_have_equal_exports_in_every_format(preset: str, twice: tuple[Path, Path]):
    written = [{path.name: path for path in folder.glob(f"{preset}/*/exports/*")} for folder in twice]
    times = [min(path.stat().st_mtime for path in files.values()) for files in written]
    assert times[1] - times[0] > 2  # the time of writing, which archives have in steps of 2 s, is not in them
    first, second = ({name: path.read_bytes() for name, path in files.items()} for files in written)
    assert len(first) > len(EXPORT_FORMATS)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


@pytest.mark.parametrize("lost", [["state.json"], ["state.json", "machine.json"], ["machine.json"]], ids=" and ".join)
def test_a_resumed_run_keeps_its_threads_and_device_without_these_files(lost: list[str], tmp_path: Path):
    run = new_run(tmp_path, tiny(steps=3, checkpoint_every=1))
    steps = drive(run, device="cpu", threads=3, prior=disc())
    next(steps)
    steps.close()
    for name in lost:
        (run.folder / name).unlink()
    assert run.machine == Machine(3, "cpu")
    seen = []
    for _ in drive(run, prior=disc()):
        seen.append(torch.get_num_threads())
    assert seen == [3, 3]
    assert (run.state.threads, run.state.device) == (3, "cpu")
    torch.set_num_threads(1)


def test_a_run_that_was_killed_before_its_first_step_keeps_its_threads(tmp_path: Path):
    run = new_run(tmp_path, tiny(steps=1))

    class KilledError(BaseException):
        """Nothing is caught or written after it."""

    def load() -> None:
        raise KilledError

    broken = disc()
    broken.encode_text = lambda prompts: load()
    with pytest.raises(KilledError):
        next(drive(run, threads=3, prior=broken))
    (run.folder / "state.json").unlink()
    for _ in drive(run, prior=disc()):
        assert torch.get_num_threads() == 3
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    "changes",
    [
        {"guidance": {"name": "csd"}},
        {"representation": {"name": "gaussians", "count": 50}},
        {"seed": 5},
        {"prior": {"model": "sdxl"}},
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(changes: dict[str, object], tmp_path: Path):
    run = new_run(tmp_path, tiny())
    finish(run, 4)
    run.config_path.write_text(dump_yaml(build(RunConfig, merge(tiny().model_dump(mode="json"), changes))))
    with pytest.raises(RunError, match=r"00000004\.safetensors was made with other settings than [^\n]*$"):
        finish(run)
    assert run.state.status == "failed"
    with pytest.raises(RunError, match="other settings"):
        export_run(run)
    shutil.rmtree(run.folder / "checkpoints")  # as the message says
    assert run.load_checkpoint() is None


def test_settings_that_do_not_change_the_result_may_change(straight: Run, tmp_path: Path):
    run = new_run(tmp_path, tiny())
    finish(run, 4)
    changes = {"export": {"frames": 8}, "preview_every": 60.0, "checkpoint_every": 6, "prior": {"chunk": 1}}
    run.config_path.write_text(dump_yaml(build(RunConfig, merge(tiny().model_dump(mode="json"), changes))))
    assert finish(run)[0] == 5
    ours, theirs = read_checkpoint(run.checkpoints[0]), read_checkpoint(straight.checkpoints[0])
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs if not key.startswith("run/"))


def test_memory_settings_of_stages_and_teachers_may_change(tmp_path: Path):
    def digest(name: str, memory: dict[str, object], model: str = "sdxl") -> bytes:
        teacher = {"prior": {"model": model, **memory}, "guidance": "sds"}
        stages = [{"steps": 2}, {"steps": 2, "prior": {"model": "sd21", **memory}, "teachers": [teacher]}]
        changes = {"teachers": [teacher], "stages": stages}
        return new_run(
            tmp_path / name, build(RunConfig, merge(tiny().model_dump(mode="json"), changes))
        ).settings_digest()

    plain = digest("plain", {})
    assert digest("lean", {"chunk": 1, "offload": True}) == plain
    assert digest("other", {}, model="sd21") != plain


def test_a_deleted_run_is_not_driven(tmp_path: Path):
    run = new_run(tmp_path, tiny())
    run.config_path.unlink()
    with pytest.raises(RunError, match="was deleted"):
        finish(run)


def test_without_a_complete_checkpoint_it_starts_over(straight: Run, tmp_path: Path):
    run = new_run(tmp_path, tiny())
    finish(run, 8)
    for path in run.checkpoints:
        path.write_bytes(b"")
    assert finish(run)[0] == 1
    assert same(run, straight)


def test_cancelling_stops_within_a_step(tmp_path: Path):
    run = new_run(tmp_path, tiny())
    steps = drive(run, threads=1, prior=disc())
    next(steps)
    run.request("cancel")
    assert list(steps) == []
    assert (run.state.status, run.state.step) == ("cancelled", 1)


def test_an_old_request_does_not_stop_a_new_process(tmp_path: Path):
    run = new_run(tmp_path, tiny())
    run.request("cancel")
    assert len(finish(run)) == 12


def test_a_diverged_run_fails_with_its_last_good_state(tmp_path: Path):
    run = new_run(tmp_path, tiny(optimizer={"max_grad_norm": 1e-6}))
    with pytest.raises(NumericalError):
        finish(run)
    assert run.state.status == "failed"
    assert "step 1" in run.state.error

    run = new_run(tmp_path, tiny(steps=11))
    prior = disc()
    steps = drive(run, threads=1, prior=prior)
    for _ in range(6):
        next(steps)
    prior.prompts["a ball"] = Gaussian(float("nan"), 0.1)
    prior.predict = lambda x_t, t, cond, cameras: GaussianPrior.predict(prior, x_t * float("nan"), t, cond, cameras)  # type: ignore[method-assign]
    with pytest.raises(NumericalError, match="step 7"):
        next(steps)
    assert run.state.status == "failed"
    assert run.state.step == 6
    assert int(run.checkpoints[0].stem) == 6
    assert finish(run)[0] == 7  # without the fault it continues


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX limits")
def test_a_full_disk_keeps_the_last_good_state(straight: Run, tmp_path: Path):
    import resource

    run = new_run(tmp_path, tiny())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    steps = drive(run, threads=1, prior=disc())
    for _ in range(5):
        next(steps)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
        with pytest.raises(OSError, match=r"no space left to write .*free some space and resume"):
            list(steps)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert run.state.status == "failed"
    assert [int(path.stem) for path in run.checkpoints] == [4]
    finish(run)
    assert same(run, straight)


def test_exports_can_be_written_again_without_the_prior(straight: Run, tmp_path: Path):
    run = new_run(tmp_path, tiny())
    with pytest.raises(RunError, match="no checkpoint yet"):
        export_run(run)
    before = (straight.exports / "a-ball.glb").read_bytes()
    (straight.exports / "a-ball.glb").unlink()
    files = export_run(straight)
    assert files["a-ball.glb"].read_bytes() == before
    run.update(status="done")
    with pytest.raises(RunError, match="its checkpoint is missing or damaged"):
        export_run(run)


def test_an_export_does_each_expensive_part_once(straight: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = open_run(Path(shutil.copytree(straight.folder, tmp_path / straight.folder.name)))
    counts: Counter[str] = Counter()
    for place in (
        "sds3d.representations.voxel_grid.grid_mesh",
        "sds3d.geometry.uv_atlas.unwrap",
        "sds3d.run.outputs.splats_from_mesh",
        "sds3d.formats.export.turntable_mp4",
    ):
        module, _, name = place.rpartition(".")
        original = getattr(importlib.import_module(module), name)

        def counted(*given: Any, name: str = name, original: Callable[..., Any] = original, **options: Any) -> Any:
            counts[name] += 1
            return original(*given, **options)

        monkeypatch.setattr(place, counted)
    files = export_run(run, ExportConfig(texture_size=64, picture_size=32, frames=4))
    assert counts == {"grid_mesh": 1, "unwrap": 1, "splats_from_mesh": 1, "turntable_mp4": 1}
    assert {path.suffix for path in files.values()} >= {
        ".glb",
        ".obj",
        ".ply",
        ".stl",
        ".3mf",
        ".splat",
        ".spz",
        ".mp4",
    }


def test_preview_pictures_do_not_change_the_result(straight: Run, tmp_path: Path):
    run = new_run(tmp_path, tiny(preview_every=1e-6))
    began = time.time()
    finish(run)
    assert (run.previews / "latest.png").stat().st_mtime >= began - 1
    assert same(run, straight)
