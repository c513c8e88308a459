"""Runs that are killed or fail, whose files are damaged or changed, and that are resumed."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch

from sds3d.config import build, dump_yaml, merge
from sds3d.files import RunError
from sds3d.priors.gaussian import Gaussian, GaussianPrior
from sds3d.run.config import RunConfig, new_run
from sds3d.run.drive import drive
from sds3d.run.folder import Machine, Run, read_checkpoint
from sds3d.run.optimize import NumericalError
from sds3d.run.outputs import export_run
from tests.run.tiny_runs import disc, finish, same, spawn, tiny


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


def test_without_a_complete_checkpoint_it_starts_over(straight: Run, tmp_path: Path):
    run = new_run(tmp_path, tiny())
    finish(run, 8)
    for path in run.checkpoints:
        path.write_bytes(b"")
    assert finish(run)[0] == 1
    assert same(run, straight)


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
