"""Batches: failed lines, pauses, killed workers and shards do not change the results of the other runs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sds3d.cli.main import main
from sds3d.console import duration
from sds3d.jobs.batch import Batch, Job, Watch, carry_out, make_batch, progress_of
from sds3d.jobs.board import Board
from sds3d.jobs.prompts_file import read_prompts
from sds3d.jobs.queue import stop, waiting
from sds3d.run.folder import Run, list_runs, read_checkpoint
from tests.browser.studio import QUICK, wait_for

ROOT = Path(__file__).parents[2]
SETTINGS = [*QUICK, "steps=8", "checkpoint_every=3", "export.frames=4", "export.formats=[glb, splat-ply]"]
PROMPTS = "prompt,start_from\na red mug,\na blue chair,missing.glb\na green ball,\na red mug,\n"
GOOD = ("a red mug", "a green ball")


def command(folder: Path, *more: str) -> list[str]:
    return ["batch", str(folder / "prompts.csv"), "--out", str(folder / "out"), "--threads", "1", *SETTINGS, *more]


def begin(folder: Path, *more: str) -> subprocess.Popen[str]:
    """Start the command in its own process."""
    (folder / "prompts.csv").write_text(PROMPTS)
    return subprocess.Popen(
        [sys.executable, "-m", "sds3d", *command(folder, *more)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def carry_through(folder: Path, *more: str) -> int:
    """Run the command in this process. Return its exit status."""
    (folder / "prompts.csv").write_text(PROMPTS)
    with pytest.raises(SystemExit) as ended:
        main(command(folder, *more))
    return int(ended.value.code or 0)


def manifest(folder: Path, name: str = "manifest.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out" / name).read_text(encoding="utf-8").splitlines()]


def results(folder: Path) -> dict[str, bytes]:
    """Return exports and the tensors of the last checkpoints, by path."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.glob("out/*/exports/*")}
    for path in folder.glob("out/*/checkpoints/00000008.safetensors"):
        tensors = read_checkpoint(path)
        found |= {f"{path.parts[-3]}: {key}": tensor.numpy().tobytes() for key, tensor in tensors.items()}
    return found


def running(folder: Path) -> Run | None:
    """Return a run that has finished some steps but is not near its end."""
    return next((run for run in list_runs(folder / "out") if 2 <= len(run.events()) < 6 and run.busy()), None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted batch."""
    folder = tmp_path_factory.mktemp("whole")
    process = begin(folder)
    output, _ = process.communicate()
    assert process.returncode == 1, output
    assert "same settings as line 2, so they share its run: line 5" in output
    assert "line 3, a blue chair: failed: " in output
    assert "missing.glb" in output
    assert "line 2, a red mug: done in " in output
    assert "2 done, 1 failed in " in output
    return folder


@pytest.mark.slow
def test_a_failing_line_does_not_stop_the_others(whole: Path):
    assert [(row["line"], row["prompt"], row["status"]) for row in manifest(whole)] == [
        (2, "a red mug", "done"),
        (3, "a blue chair", "failed"),
        (4, "a green ball", "done"),
        (5, "a red mug", "done"),
    ]
    for row in manifest(whole):
        assert ("missing.glb" in row["error"]) == (row["status"] == "failed")
        assert all((whole / "out" / path).is_file() for path in row["exports"])
    assert len({name for name in results(whole) if "/exports/" in name}) == 2 * 4
    assert {path.name for path in (whole / "out").glob("*.*")} >= {"index.html", "contact_sheet.png"}


@pytest.mark.slow
def test_a_second_batch_keeps_finished_runs_and_retries_failed_ones(whole: Path, capsys: pytest.CaptureFixture[str]):
    done = [run for run in list_runs(whole / "out") if run.state.status == "done"]
    files = [path for run in done for path in run.folder.rglob("*") if path.name != "lock"]
    before = [path.stat().st_mtime_ns for path in files]
    assert carry_through(whole) == 1
    assert before == [path.stat().st_mtime_ns for path in files]
    assert "line 3, a blue chair: failed: " in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_pauses_and_the_same_command_continues(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    process = begin(tmp_path)
    wait_for(lambda: running(tmp_path) or process.poll() is not None)
    os.killpg(process.pid, signal.SIGINT)  # like a terminal: the workers get it too
    output, _ = process.communicate()
    assert process.returncode == 130, output
    assert "paused; continue with the same command:" in output
    assert f"sds3d batch {tmp_path}/prompts.csv" in output
    assert "paused" in [row["status"] for row in manifest(tmp_path)]
    assert carry_through(tmp_path) == 1
    assert "continues after step" in capsys.readouterr().err
    assert results(tmp_path) == results(whole)


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_its_run_continues(whole: Path, tmp_path: Path):
    process = begin(tmp_path, "--workers", "2")
    wait_for(lambda: running(tmp_path) or process.poll() is not None)
    run = running(tmp_path)
    assert run is not None
    os.kill(int((run.folder / "lock").read_text()), signal.SIGKILL)
    output, _ = process.communicate()
    assert process.returncode == 1, output
    assert "signal 9; attempt 1 of 3" in (run.folder / "run.log").read_text()
    attempts = {each: each.state.attempts for each in list_runs(tmp_path / "out") if each.state.status == "done"}
    assert attempts == {each: int(each == run) for each in attempts}
    assert not run.state.lean
    assert results(tmp_path) == results(whole)


@pytest.mark.slow
def test_two_shards_give_the_whole_batch(whole: Path, tmp_path: Path):
    second = begin(tmp_path, "--shard", "2/2")
    assert carry_through(tmp_path, "--shard", "1/2") == 0
    output, _ = second.communicate()
    assert second.returncode == 1, output
    rows = manifest(tmp_path, "manifest-1-of-2.jsonl") + manifest(tmp_path, "manifest-2-of-2.jsonl")
    assert sorted(row["line"] for row in rows) == [2, 3, 4, 5]
    assert results(tmp_path) == results(whole)


def jobs(folder: Path, count: int = 3) -> Batch:
    folder.joinpath("prompts.txt").write_text("".join(f"a red mug {i}\n" for i in range(count)))
    return make_batch(folder / "out", read_prompts(folder / "prompts.txt", overrides=["steps=10"]))


def engine_of(act: Callable[[Run], object]) -> Callable[[Path, Sequence[str]], Iterator[None]]:
    """Return an engine that calls `act` for each waiting run."""

    def engine(root: Path, names: Sequence[str]) -> Iterator[None]:
        for run in waiting([Run(root / name) for name in names]):
            act(run)
            yield

    return engine


def finish(run: Run) -> None:
    run.update(status="done", step=10, total=10)


def test_cancelled_runs_stay_cancelled_and_others_continue(tmp_path: Path):
    batch = jobs(tmp_path, 4)
    statuses = ("cancelled", "paused", "running", "failed")
    for job, status in zip(batch.jobs, statuses, strict=True):
        job.run.update(status=status, step=4, total=10)
    for _ in carry_out(batch, engine_of(finish)):
        pass
    assert [job.run.state.status for job in batch.jobs] == ["cancelled", "done", "done", "done"]


def test_the_batch_waits_for_a_run_in_another_process(tmp_path: Path):
    batch = jobs(tmp_path, 2)
    other = batch.jobs[0].run
    other.update(status="running", total=10)
    with other.locked():
        steps = carry_out(batch, engine_of(finish))
        for _ in range(3):
            next(steps)
        assert batch.jobs[1].run.state.status == "done"
        finish(other)
    assert list(steps) == []


def test_a_run_with_links_counts_as_failed_and_the_others_are_done(tmp_path: Path):
    batch = jobs(tmp_path, 2)
    (batch.jobs[0].run.folder / "run.log").symlink_to(tmp_path / "elsewhere")
    for _ in carry_out(batch, engine_of(finish)):
        pass
    failed, done = (progress_of(job.run) for job in batch.jobs)
    assert (failed.status, done.status) == ("failed", "done")
    assert "run.log is a symbolic link, which is not followed" in failed.error
    assert not (tmp_path / "elsewhere").exists()


def test_a_run_paused_during_the_batch_counts_as_ended(tmp_path: Path):
    batch = jobs(tmp_path, 2)
    for _ in carry_out(batch, engine_of(lambda run: stop(run, "pause"))):
        pass
    watch = Watch(batch.jobs)
    assert watch.counts == {"paused": 2}
    assert (watch.steps, watch.total, watch.seconds_left) == (0, 0, 0.0)


def event(job: Job, step: int, seconds: float = 2.0) -> None:
    job.run.add_event({"step": step, "seconds": seconds})


def test_the_watch_estimates_the_remaining_time(tmp_path: Path):
    batch = jobs(tmp_path, 4)
    for job in batch.jobs:
        job.run.update(status="queued", total=0)
    watch = Watch(batch.jobs)
    assert (watch.steps, watch.total, watch.seconds_left) == (0, 44, 0.0)
    first, second = (job.run for job in batch.jobs[:2])
    with first.locked(), second.locked():
        for job in batch.jobs[:2]:
            job.run.update(status="running", total=10)
            event(job, 5)
        assert watch.look() == [0, 1]
        assert watch.seconds_left == pytest.approx(34)  # 30 steps of 2 s and 4 exports, two at a time
    first.update(status="failed", error="no surface", step=5)
    second.update(status="cancelled", step=6)
    watch.look()
    assert (watch.steps, watch.total) == (11, 33)


def test_the_watch_checks_some_of_many_waiting_runs_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sds3d.jobs.batch.LOOKED_AT", 4)
    batch = jobs(tmp_path, 9)
    for job in batch.jobs:
        job.run.update(status="queued")
    watch = Watch(batch.jobs)
    for job in batch.jobs:
        finish(job.run)
    found = watch.look()
    assert found == [0, 1]
    found += [number for _ in range(4) for number in watch.look()]
    assert sorted(found) == list(range(9))
    watch = Watch(batch.jobs[:5])
    for job in batch.jobs[:5]:
        job.run.update(status="failed")
    assert watch.look() == []
    assert watch.counts == {"done": 5}  # finished runs stay counted as done


def screen(tmp_path: Path, *, terminal: bool) -> tuple[Batch, Board, Console]:
    batch = jobs(tmp_path, 3)
    for job in batch.jobs:
        job.run.update(status="queued")
    console = Console(record=True, width=90, height=20, force_terminal=terminal, file=open(os.devnull, "w"))  # noqa: SIM115
    return batch, Board(Watch(batch.jobs), console), console


@pytest.mark.parametrize("terminal", [True, False])
def test_displayed_progress(terminal: bool, tmp_path: Path):
    batch, board, console = screen(tmp_path, terminal=terminal)
    runs = [job.run for job in batch.jobs]
    with board.shown():
        with runs[0].locked():
            runs[0].update(status="running", total=10)
            event(batch.jobs[0], 5, 1.5)
            board.look()
        board.look()
        runs[0].update(status="failed", error="[red]no surface", step=5)
        finish(runs[1])
    text = console.export_text()
    if terminal:
        assert re.search(r"line 1, a red mug 0 +running +5/10 +1.50 s/step +8 s", text)
    else:
        assert text.splitlines() == [
            "line 1, a red mug 0: started",
            "15 %: 1 running, 2 queued; about 42 s left",
            "line 1, a red mug 0: stopped: its process died",
            "line 1, a red mug 0: failed: [red]no surface",
            "line 2, a red mug 1: done in 0 s",
            text.splitlines()[-1],
        ]
        assert text.splitlines()[-1].startswith("59 %: 1 done, 1 failed, 1 queued; about ")
    assert "1 done, 1 failed, 1 queued" in text
    assert "[red]no surface" in text


def test_readable_durations():
    assert [duration(s) for s in (0, 99.4, 99.6, 3599, 6001, 36000)] == [
        "0 s",
        "99 s",
        "2 min",
        "60 min",
        "1 h 40 min",
        "10 h 00 min",
    ]


def test_a_file_with_invalid_lines_starts_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "prompts.csv").write_text("prompt,seed\na red mug,x\n,1\n")
    with pytest.raises(SystemExit) as ended:
        main(command(tmp_path))
    assert ended.value.code == 1
    output = capsys.readouterr().err
    assert f"error: {tmp_path}/prompts.csv:2: seed = x" in output
    assert f"error: {tmp_path}/prompts.csv:3: the prompt is empty" in output
    assert not (tmp_path / "out").exists()
