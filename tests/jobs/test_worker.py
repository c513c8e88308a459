"""A worker: one prior for many runs, errors that fail only their own run, and retries with less memory."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sds3d.jobs.queue import enqueue, runs_in
from sds3d.jobs.worker import Worker, device_failed, work
from sds3d.jobs.worker_settings import WorkerSettings
from sds3d.priors.base import Prior
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.run.config import make_config, new_run, read_config
from sds3d.run.drive import prior_settings
from sds3d.run.folder import Run
from tests.jobs.test_together import QUICK, assert_alike
from tests.priors.tiny import tiny_pipeline
from tests.run.tiny_runs import tiny

LOAD = DiffusersConfig.load


def queued(root: Path, prompt: str, *settings: str) -> Run:
    run = new_run(root, make_config(prompt, "toybox", [*QUICK, "steps=2", *settings]))
    enqueue(run)
    return run


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[DiffusersConfig]:
    """The configs of the priors that workers load from now on."""
    seen: list[DiffusersConfig] = []

    def load(config: DiffusersConfig, device: Any) -> Prior:
        seen.append(config)
        return LOAD(config, device)

    monkeypatch.setattr(DiffusersConfig, "load", load)
    return seen


def test_one_prior_serves_the_whole_queue_and_failed_runs_do_not_block_it(tmp_path: Path, loads: list[DiffusersConfig]):
    good = [queued(tmp_path, "a red mug"), queued(tmp_path, "a blue chair")]
    missing = queued(tmp_path, "a green hat", f"prior.model={tmp_path / 'nothing'}", "prior.offline=true")
    broken = queued(tmp_path, "a white cat")
    broken.config_path.write_text("prompt: [")
    last = queued(tmp_path, "a black boat")
    work(tmp_path, settings=WorkerSettings(threads=1))
    assert [run.state.status for run in (*good, last)] == ["done"] * 3
    assert (missing.state.status, broken.state.status) == ("failed", "failed")
    assert "nothing" in missing.state.error
    assert "not YAML" in broken.state.error
    assert [config.model for config in loads if config.model == "toybox"] == ["toybox"] * 2  # again after the failure


@pytest.mark.slow
def test_a_worker_that_is_no_longer_wanted_requeues_its_runs(tmp_path: Path):
    run, other = queued(tmp_path, "a red mug", "steps=6"), queued(tmp_path, "a blue chair", "steps=6")
    work(tmp_path, settings=WorkerSettings(threads=1, together=2), wanted=lambda: run.state.step < 3)
    assert (run.state.status, run.state.step) == ("queued", 3)
    assert other.state.status == "queued"
    assert other.state.step >= 2
    work(tmp_path, settings=WorkerSettings(threads=1))
    straight = queued(tmp_path / "straight", "a red mug", "steps=6")
    work(tmp_path / "straight", settings=WorkerSettings(threads=1))
    assert other.state.status == "done"
    assert_alike([run], [straight])


def short_of_memory(prior: Any, rows: int) -> None:
    """Make the network run out of memory if a call has more than this number of rows."""

    def refuse(_: nn.Module, args: tuple[Any, ...]) -> None:
        if len(args[0]) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    prior.network.register_forward_pre_hook(refuse)


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "status", "attempts"), [(4, "done", 1), (3, "failed", 1)])
def test_a_run_out_of_memory_continues_with_less(
    rows: int, status: str, attempts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def load(config: DiffusersConfig, device: Any) -> Prior:
        prior = LOAD(config, device)
        short_of_memory(prior, rows)
        return prior

    monkeypatch.setattr(DiffusersConfig, "load", load)
    several = [queued(tmp_path, "a red mug"), queued(tmp_path, "a blue chair")]
    work(tmp_path, settings=WorkerSettings(threads=1, together=2))
    for run in several:
        assert (run.state.status, run.state.attempts, run.state.lean) == (status, attempts, True)
    if status == "done":
        monkeypatch.undo()
        plain = [queued(tmp_path / "plain", "a red mug"), queued(tmp_path / "plain", "a blue chair")]
        work(tmp_path / "plain", settings=WorkerSettings(threads=1))
        assert_alike(several, plain)


@pytest.mark.parametrize("together", [1, 2])
def test_one_stages_models_are_in_memory_at_a_time(together: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Stages 1 and 3 have the same prior and another model for phi, stage 2 has a prior of its own."""
    folders = {"first": "sd", "phi": "sd v", "second": "sd"}
    for name, family in folders.items():
        tiny_pipeline(family).save_pretrained(tmp_path / name)
    alive: list[tuple[str, weakref.ref[Any]]] = []
    loaded: list[tuple[str, set[str]]] = []  # each with what was in memory when it was loaded

    def load(config: DiffusersConfig, device: Any) -> Prior:
        name = Path(config.model).name
        loaded.append((name, {other for other, network in alive if network() is not None}))
        prior = LOAD(config, device)
        alive.append((name, weakref.ref(prior.network)))
        return prior

    monkeypatch.setattr(DiffusersConfig, "load", load)
    models = {name: str(tmp_path / name) for name in folders}
    vsd = {"name": "vsd", "variational": {"model": models["phi"]}}
    stages = [
        {"steps": 1, "prior": {"model": models["first"]}, "guidance": vsd},
        {"steps": 1, "prior": {"model": models["second"]}},
        {"steps": 1, "prior": {"model": models["first"]}, "guidance": vsd},
    ]
    export = {"formats": ["ply"], "resolution": 16, "picture_size": 32, "frames": 4}
    runs = [new_run(tmp_path / "runs", tiny(stages=stages, export=export, seed=seed)) for seed in range(2)]
    for run in runs:
        enqueue(run)
    work(tmp_path / "runs", settings=WorkerSettings(threads=1, together=together))
    assert [run.state.status for run in runs] == ["done"] * 2, [run.state.error for run in runs]
    once = [("first", set()), ("phi", {"first"}), ("second", set()), ("first", set()), ("phi", {"first"})]
    if together == 1:  # the second run begins with the models that the first one ended with
        assert loaded == [*once, *once[2:]]
    else:  # the run that is behind still needs its own models when the other one goes on
        assert [name for name, _ in loaded] == [name for name, _ in once]


def test_without_retries_a_run_out_of_memory_fails(tmp_path: Path):
    run = queued(tmp_path, "a red mug")
    worker = Worker(threads=1, retries=0)
    short_of_memory(worker._load(prior_settings(read_config(run), lean=False))[0], 4)
    worker.carry_out([run])
    assert (run.state.status, run.state.attempts) == ("failed", 0)
    assert "out of memory" in run.state.error


@pytest.mark.slow
def test_a_failed_gpu_needs_a_new_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first, second = queued(tmp_path, "a red mug"), queued(tmp_path, "a blue chair")

    def load(config: DiffusersConfig, device: Any) -> Prior:
        prior: Any = LOAD(config, device)

        def fail(*_: Any) -> None:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

        prior.network.register_forward_pre_hook(fail)
        return prior

    monkeypatch.setattr(DiffusersConfig, "load", load)
    for attempt in (1, 2):
        work(tmp_path, settings=WorkerSettings(threads=1, retries=2))
        assert (first.state.status, first.state.attempts, first.state.lean) == ("queued", attempt, False)
        assert (second.state.status, second.state.attempts) == ("queued", 0)
    work(tmp_path, settings=WorkerSettings(threads=1, retries=2))
    assert first.state.status == "failed"
    assert "illegal memory access" in first.state.error
    monkeypatch.undo()
    work(tmp_path, settings=WorkerSettings(threads=1, retries=2))
    assert (second.state.status, second.state.attempts) == ("done", 0)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("CUDA error: device-side assert triggered"), True),
        (torch.OutOfMemoryError("CUDA out of memory."), False),
        (RuntimeError("CUDA error: out of memory"), False),
        (RuntimeError("shape mismatch"), False),
    ],
)
def test_gpu_failures_are_recognised(error: Exception, expected: bool):
    assert device_failed(error) == expected


def test_texts_of_waiting_runs_are_embedded_with_those_of_the_first(tmp_path: Path):
    several = [queued(tmp_path, prompt) for prompt in ("a red mug", "a blue chair", "a green hat")]
    worker = Worker(threads=1)
    prior: Any = worker._load(prior_settings(read_config(several[0]), lean=False))[0]
    loaded: list[int] = []
    encoders = prior.family.texts.load
    prior.family.texts.load = lambda: loaded.append(1) or encoders()
    for run in several:
        worker.carry_out([run], upcoming=runs_in(tmp_path))
    assert [run.state.status for run in several] == ["done"] * 3
    assert len(loaded) == 1
