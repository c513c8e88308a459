"""Worker processes that are killed, retried, given up or stopped within a step, and supervisors that are killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from sds3d.jobs.queue import enqueue, progress, stop
from sds3d.jobs.supervisor import SPARE, ensure_workers, lock_of, memory_kills, supervise, supervised
from sds3d.jobs.worker import work
from sds3d.jobs.worker_settings import WorkerSettings
from sds3d.run.config import make_config, new_run
from sds3d.run.folder import Run, read_checkpoint
from sds3d.run.locks import RunBusyError
from tests.jobs.test_together import QUICK

PATIENCE = 600  # seconds after which a test counts as hung, on a busy machine too
ONE_WORKER = WorkerSettings(devices=["cpu"], threads=1)
STEPS = 30  # of runs whose results are compared with those of a run that nothing happens to


def queued(root: Path, prompt: str, steps: int, *more: str) -> Run:
    run = new_run(root, make_config(prompt, "toybox", [*QUICK, f"steps={steps}", "checkpoint_every=5", *more]))
    enqueue(run)
    return run


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of STEPS steps that nothing happens to, in this process."""
    root = tmp_path_factory.mktemp("straight")
    run = queued(root, "a red mug", STEPS)
    work(root, settings=WorkerSettings(threads=1))
    assert run.state.status == "done"
    return run


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.05)


def test_output_of_workers_follows_no_link(tmp_path: Path):
    (tmp_path / ".workers.log").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match=r"\.workers\.log is a symbolic link"):
        ensure_workers(tmp_path)
    assert not (tmp_path / "precious").exists()


def alive(pid: int) -> bool:
    """Return whether a process is running. A zombie counts as ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def same(a: Run, b: Run) -> bool:
    ours, theirs = read_checkpoint(a.checkpoints[0]), read_checkpoint(b.checkpoints[0])
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def drain(root: Path, settings: WorkerSettings = ONE_WORKER, each: Callable[[], object] = lambda: None) -> None:
    for _ in supervise(root, settings=settings):
        each()


@pytest.mark.slow
def test_a_run_that_kills_its_workers_is_given_up_and_runs_left_running_by_a_crash_are_recovered(tmp_path: Path):
    poison = queued(tmp_path, "a red mug", 9000)
    left, damaged, hopeless = (queued(tmp_path, prompt, 2) for prompt in ("a blue chair", "a green hat", "a red hat"))
    left.update(status="running")  # but no process holds it
    hopeless.update(status="running", attempts=1 + SPARE)
    (damaged.folder / "state.json").write_text("{")

    def kill() -> None:
        seen = progress(poison)
        if seen.status == "running" and seen.step > 5:
            os.kill(poison.holder(), signal.SIGKILL)

    drain(tmp_path, WorkerSettings(devices=["cpu"], threads=1, retries=1), kill)
    assert (poison.state.status, poison.state.attempts) == ("failed", 2)
    assert "signal 9 (2 times)" in poison.state.error
    assert poison.checkpoints, "checkpoints must be kept"
    assert (left.state.status, left.state.attempts) == ("done", 1)
    assert (hopeless.state.status, hopeless.state.attempts) == ("failed", 1 + SPARE + 1)


def test_workers_that_die_before_any_run_are_not_replaced_forever(
    tmp_path: Path,
):
    first, second = queued(tmp_path, "a red mug", 2), queued(tmp_path, "a blue chair", 2)
    started: set[int] = set()

    def kill() -> None:
        for process in multiprocessing.active_children():
            if process.name.startswith("sds3d-worker"):
                started.add(process.pid or 0)
                process.kill()

    drain(tmp_path, WorkerSettings(devices=["cpu"], threads=1, retries=1), kill)
    assert len(started) == 4
    for run in (first, second):
        assert (run.state.status, run.state.attempts) == ("failed", 2)
        assert "signal 9 (2 times)" in run.state.error


@pytest.mark.slow
def test_requests_take_effect_within_a_step_and_two_workers_share_the_runs_that_continue(straight: Run, tmp_path: Path):
    requests = ("pause", "cancel")
    # Another interval of previews makes another run with the same results.
    going = [queued(tmp_path, "a red mug", STEPS, f"preview_every={every}") for every in (1000, 1001)]
    waiting = [queued(tmp_path, prompt, 2) for prompt in ("a blue chair", "a green hat")]
    requested_at: dict[str, int] = {}

    def request() -> None:
        for what, run, other in zip(requests, going, waiting, strict=True):
            wait_for(lambda run=run: len(run.last_events(3)) == 3)
            stop(other, what)
            stop(run, what)
            requested_at[what] = int(run.last_events(1)[0]["step"])

    with ThreadPoolExecutor(1) as visitor:  # looks more often than the supervisor
        requested = visitor.submit(request)
        drain(tmp_path)
        requested.result()
    for runs in (going, waiting):
        assert [run.state.status for run in runs] == ["paused", "cancelled"]
    for what, run in zip(requests, going, strict=True):
        assert requested_at[what] <= run.state.step <= requested_at[what] + 1
    assert [run.state.step for run in waiting] == [0, 0]
    several = [*going, *waiting]
    for run in several:
        enqueue(run)
    drain(tmp_path, WorkerSettings(devices=["cpu", "cpu"], threads=1))
    assert [run.state.status for run in several] == ["done"] * 4
    assert all(same(run, straight) for run in going)
    assert len({run.holder() for run in several}) == 2
    for run in several:
        assert [event["step"] for event in run.events()] == list(range(1, run.state.total + 1)), "some steps ran twice"


@pytest.mark.slow
def test_workers_that_wait_start_before_the_first_run_and_a_supervisor_that_stops_pauses_its_runs(tmp_path: Path):
    assert not list(supervise(tmp_path, settings=ONE_WORKER)), "without idle, an empty queue needs no worker"
    steps = supervise(tmp_path, settings=WorkerSettings(devices=["cpu"], threads=1, idle=PATIENCE))
    next(steps)
    (worker,) = multiprocessing.active_children()
    assert worker.name == "sds3d-worker-0"
    run, waiting = queued(tmp_path, "a red mug", 9000), queued(tmp_path, "a blue chair", 2)
    for _ in steps:
        with pytest.raises(RunBusyError, match="is processed by process"):
            next(supervise(tmp_path, settings=ONE_WORKER))
        if len(run.last_events(2)) == 2:
            break
    assert run.holder() == worker.pid
    steps.close()  # type: ignore[attr-defined]
    assert not multiprocessing.active_children()
    assert (run.state.status, waiting.state.status) == ("paused", "queued")
    assert run.state.step == len(run.events()) == int(run.checkpoints[0].stem)
    assert not supervised(tmp_path)
    assert not run.busy()


@pytest.mark.slow
def test_a_worker_killed_for_lack_of_memory_is_followed_by_a_lean_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run, killed = queued(tmp_path, "a red mug", 12), []
    monkeypatch.setattr("sds3d.jobs.supervisor.memory_kills", lambda: len(killed))  # replaces the kernel's count

    def kill_once() -> None:
        if not killed and run.state.step >= 5 and run.busy():
            killed.append(run.holder())
            os.kill(killed[0], signal.SIGKILL)

    drain(tmp_path, each=kill_once)
    assert (run.state.status, run.state.attempts, run.state.lean) == ("done", 1, True)
    assert "because memory ran out" in (run.folder / "run.log").read_text()


@contextmanager
def workers(root: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run `sds3d worker` in its own process."""
    command = [sys.executable, "-m", "sds3d", "worker", "--out", str(root), "--threads", "1"]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_workers_whose_supervisor_was_killed_requeue_their_run(straight: Run, tmp_path: Path):
    run = queued(tmp_path, "a red mug", STEPS)
    with workers(tmp_path) as process:
        wait_for(lambda: len(run.last_events(3)) == 3)
        pid = run.holder()
        assert pid != process.pid
        process.kill()
        process.wait()
        wait_for(lambda: run.state.status == "queued")
        wait_for(lambda: not alive(pid))
    assert run.state.attempts == 0
    assert run.state.step == int(run.checkpoints[0].stem) >= 3
    work(tmp_path, settings=WorkerSettings(threads=1))  # in this process
    assert same(run, straight)


@pytest.mark.slow
def test_ctrl_c_pauses_and_reports_it(tmp_path: Path):
    run = queued(tmp_path, "a red mug", 9000)
    command = [sys.executable, "-m", "sds3d", "worker", "--out", str(tmp_path), "--threads", "1"]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: len(run.last_events(2)) == 2)
        os.killpg(process.pid, signal.SIGINT)  # like a terminal: the workers get it too
        output = process.communicate(timeout=PATIENCE)[1]
    finally:
        process.kill()
    assert process.returncode == 130
    assert "paused" in output
    assert "Traceback" not in output
    assert run.state.status == "paused"


@pytest.mark.slow
def test_the_studios_workers_are_started_once_and_outlive_their_starter(tmp_path: Path):
    run = queued(tmp_path, "a red mug", 3)
    starter = (
        "import sys; from pathlib import Path; from sds3d.jobs.supervisor import ensure_workers as e; "
        "[e(Path(sys.argv[1]), ['--threads', '1']) for _ in range(3)]"
    )
    subprocess.run([sys.executable, "-c", starter, str(tmp_path)], check=True)
    wait_for(lambda: supervised(tmp_path))
    supervisor = int(lock_of(tmp_path).read_text())
    try:
        ensure_workers(tmp_path)  # they are running already
        wait_for(lambda: run.state.status == "done")
        assert int(lock_of(tmp_path).read_text()) == supervisor
        again = queued(tmp_path, "a blue chair", 2)  # idle workers wait for new runs
        wait_for(lambda: again.state.status == "done")
        assert again.holder() == run.holder(), "the prior was loaded twice"
    finally:
        os.kill(supervisor, signal.SIGTERM)
    wait_for(lambda: not alive(again.holder()))


def test_out_of_memory_kills_are_read_from_the_kernel():
    lines = [line.split() for line in Path("/proc/vmstat").read_text().splitlines()]
    assert memory_kills() >= sum(int(count) for key, count in lines if key == "oom_kill")
