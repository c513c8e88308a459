"""Sinks of a run's events: what they receive, how they resume, and that a failing sink never stops a run."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sds3d.files import RunError
from sds3d.run import sinks
from sds3d.run.config import new_run, read_config
from sds3d.run.drive import drive
from sds3d.run.folder import Run
from tests.run.tiny_runs import disc, finish, tiny


def numbers(run: Run) -> dict[str, list[tuple[int, float]]]:
    """Return steps and values by name, as TensorBoard reads them from a run's folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(run.folder / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    read.Reload()
    return {name: [(e.step, e.value) for e in read.Scalars(name)] for name in read.Tags()["scalars"]}


def pictures(run: Run) -> list[int]:
    """Return the steps of the pictures that TensorBoard reads."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(run.folder / "tensorboard"), size_guidance={"images": 0})
    read.Reload()
    return [image.step for image in read.Images("preview")]


def expected(run: Run) -> dict[str, list[tuple[int, float]]]:
    """Return the same from events.jsonl, in float32. Later events replace earlier ones of a repeated step."""
    events = {event["step"]: event for event in run.events()}
    found: dict[str, list[tuple[int, float]]] = {}
    for step in sorted(events):
        for name, value in sinks.scalars(events[step]).items():
            found.setdefault(name, []).append((step, float(np.float32(value))))
    return found


class TestTensorBoard:
    @pytest.fixture(autouse=True)
    def installed(self) -> None:
        pytest.importorskip("tensorboard", reason='TensorBoard is not installed: pip install ".[tensorboard]"')

    def test_it_reads_the_events(self, tmp_path: Path):
        run = new_run(tmp_path, tiny(log_to=["tensorboard"], preview_every=1e-6))
        finish(run)
        assert numbers(run) == expected(run)
        assert {"grad_norm", "seconds"} < numbers(run).keys()
        assert any(name.startswith("losses/") for name in numbers(run))
        assert set(pictures(run)) == set(range(1, 13))

    def test_a_resumed_run_continues_the_axis_and_replaces_repeated_steps(self, tmp_path: Path):
        run = new_run(tmp_path, tiny(log_to=["tensorboard"]))
        finish(run, 7)
        run.checkpoints[0].unlink()  # like a process that is killed before it writes that of step 7
        assert finish(run)[0] == 5
        assert [step for step, _ in numbers(run)["grad_norm"]] == list(range(1, 13))
        assert numbers(run) == expected(run)


def test_sinks_do_not_change_a_runs_identity(tmp_path: Path):
    plain = new_run(tmp_path, tiny())
    before = plain.config_path.read_text()
    assert "log_to" not in before, "the hash of runs without sinks must not change"
    logged = new_run(tmp_path, tiny(log_to=["wandb"]))
    assert logged == plain
    assert read_config(plain).log_to == ("wandb",)
    assert new_run(tmp_path, tiny(log_to=["tensorboard", "wandb"])) == plain
    assert read_config(plain) == tiny(log_to=["tensorboard", "wandb"])
    assert new_run(tmp_path, tiny()) == plain
    assert plain.config_path.read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == [plain.folder.name]


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_reported_before_the_first_step(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    run = new_run(tmp_path, tiny(log_to=[name]))
    message = rf'log_to: {name} is not installed: run pip install "\.\[{name}\]" .*, or leave it out'
    with pytest.raises(RunError, match=message):
        next(drive(run, threads=1, prior=disc()))
    assert (run.state.status, run.events()) == ("failed", [])
    assert "\n" not in run.state.error


class Broken:
    """A sink that fails at the third event."""

    def __init__(self, *_: object) -> None:
        self.got: list[int] = []

    def write(self, event: Mapping[str, Any]) -> None:
        self.got.append(event["step"])
        if len(self.got) == 3:
            raise ConnectionError("no network\nand more")

    def show(self, step: int, picture: Path) -> None:
        assert picture.exists()

    def close(self) -> None:
        raise AssertionError("a sink that failed is left alone")


def test_a_sink_that_fails_is_dropped_and_the_run_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made: list[Broken] = []
    monkeypatch.setattr(sinks, "TensorBoard", lambda *given: made.append(Broken(*given)) or made[-1])
    run = new_run(tmp_path, tiny(log_to=["tensorboard"]))
    with pytest.warns(UserWarning, match="tensorboard failed and gets no more events"):
        assert finish(run) == list(range(1, 13))
    assert run.state.status == "done"
    assert made[0].got == [1, 2, 3]
    log = (run.folder / "run.log").read_text()
    assert log.count("the run continues: no network\n") == 1


def test_weights_and_biases_gets_steps_as_an_axis_and_the_same_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    calls: list[tuple[str, Any]] = []

    class FakeRun:
        def define_metric(self, name: str, step_metric: str) -> None:
            calls.append(("axis", (name, step_metric)))

        def log(self, values: dict[str, Any]) -> None:
            calls.append(("log", values))

        def finish(self) -> None:
            calls.append(("finish", None))

    def init(**given: Any) -> FakeRun:
        calls.append(("init", given))
        return FakeRun()

    fake = SimpleNamespace(init=init, Settings=dict, Image=lambda image: image.size)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    run = new_run(tmp_path, tiny(log_to=["wandb"]))
    finish(run, 5)
    finish(run)
    begun = [given for what, given in calls if what == "init"]
    assert [given["id"] for given in begun] == [(run.folder / "wandb" / "id").read_text()] * 2
    assert begun[0]["dir"] == str(run.folder)
    assert begun[0]["config"]["guidance"]["scale"] == 3.0
    assert [given for what, given in calls if what == "axis"] == [("*", "step")] * 2
    logged = [values for what, values in calls if what == "log"]
    assert [values["step"] for values in logged if "grad_norm" in values] == list(range(1, 13))
    assert any(values.get("preview") == (8 * 16, 16) for values in logged)
    assert [what for what, _ in calls].count("finish") == 2


def test_weights_and_biases_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("wandb", reason='Weights & Biases is not installed: pip install ".[wandb]"')
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = new_run(tmp_path, tiny(log_to=["wandb"]))
    finish(run, 5)
    finish(run)
    assert "failed" not in (run.folder / "run.log").read_text()
    files = sorted((run.folder / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2
    for path in files:
        assert path.parent.name.endswith((run.folder / "wandb" / "id").read_text())
        assert all(name in path.read_bytes() for name in (b"grad_norm", b"losses/", b"preview"))
