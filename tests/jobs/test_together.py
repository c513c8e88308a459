"""Runs that are optimised together get the same results as runs that are optimised alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.guidance.rules import rule_configs
from sds3d.jobs.queue import enqueue
from sds3d.jobs.together import _Call, drive_together
from sds3d.jobs.worker import Worker, next_group
from sds3d.priors.base import Prediction, Prior
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.prompts.conditioning import Conditioning, Structure
from sds3d.run.config import make_config, new_run, read_config
from sds3d.run.drive import drive
from sds3d.run.folder import Run, read_checkpoint
from tests.run.tiny_runs import disc
from tests.slow import slow_after

PROMPTS = ("a red mug", "a blue chair", "a green hat")
QUICK = (
    "steps=3",
    "checkpoint_every=1",
    "optimizer.eps=1e-6",  # else a gradient of pure rounding error moves a voxel by a whole learning rate
    "preview_every=1000",
    "representation.resolution=16",
    "representation.samples=16",
    "export.formats=[ply]",
    "export.resolution=24",
    "export.texture_size=64",
    "export.picture_size=32",
    "export.frames=4",
)


class Counting:
    """A prior that records the number of rows of each call."""

    def __init__(self, prior: Prior) -> None:
        self.prior, self.rows = prior, []

    def __getattr__(self, name: str) -> object:
        return getattr(self.prior, name)

    def predict(self, x_t: Tensor, t: Tensor, cond: Conditioning, cameras: Cameras | None) -> Prediction:
        self.rows.append(len(x_t))
        return self.prior.predict(x_t, t, cond, cameras)


@pytest.fixture(scope="module")
def toybox() -> Prior:
    return DiffusersConfig().load()


def runs(root: Path, *settings: str) -> list[Run]:
    return [new_run(root, make_config(prompt, "toybox", [*QUICK, *settings])) for prompt in PROMPTS]


def balls(root: Path, *settings: str) -> list[Run]:
    """Make runs that differ in their seeds, with the prompt that the prior `disc` knows."""
    tiny = ["cameras.size=16", "prompts.view_dependent=false", *settings]
    return [new_run(root, make_config("a ball", "toybox", [*QUICK, *tiny, f"seed={seed}"])) for seed in range(3)]


def alone(run: Run, prior: Prior) -> None:
    for _ in drive(run, threads=1, prior=prior):
        pass


def together(prior: Prior, several: list[Run], each: Callable[[Run, Prior], None] = alone) -> list[int]:
    """Drive the runs together with one prior. Return the number of rows of each of its calls."""
    counting = Counting(prior)
    drive_together(
        lambda wanted: [cast(Any, counting)], [lambda load, run=run: each(run, *load([])) for run in several]
    )
    return counting.rows


def assert_alike(ours: list[Run], theirs: list[Run]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert a.state.status == b.state.status == "done"
        mine, other = read_checkpoint(a.checkpoints[0]), read_checkpoint(b.checkpoints[0])
        assert mine.keys() == other.keys()
        for key, value in mine.items():
            torch.testing.assert_close(value, other[key], atol=1e-4, rtol=1e-4, msg=lambda m, key=key: f"{key}: {m}")


RULES = sorted(config.model_fields["name"].default for config in rule_configs())


@pytest.mark.parametrize("rule", slow_after(1, RULES))
def test_results_equal_those_of_separate_runs(rule: str, tmp_path: Path):
    prior = disc()
    separate, joint = (balls(tmp_path / name, f"guidance={rule}", "steps=2") for name in ("separate", "joint"))
    counting = Counting(prior)
    for run in separate:
        alone(run, cast(Any, counting))
    rows = together(prior, joint)
    assert_alike(joint, separate)
    assert sum(rows) == sum(counting.rows)
    if rule in ("sid", "sim"):  # gradients pass through the prior, and a joint call would join the runs' graphs
        assert rows == counting.rows
    elif rule == "uni_instruct":  # the same is true of some of its calls
        assert len(rows) < len(counting.rows)
    else:
        assert 3 * len(rows) == len(counting.rows), "calls were not batched"


@pytest.mark.parametrize("rule", slow_after(1, ["multiview", "vsd"]))
def test_views_of_several_prompts_are_one_call_of_the_embedded_prior(rule: str, toybox: Prior, tmp_path: Path):
    separate, joint = (runs(tmp_path / name, f"guidance={rule}", "steps=2") for name in ("separate", "joint"))
    for run in separate:
        alone(run, toybox)
    assert together(toybox, joint) == [24, 24]  # 3 prompts, 4 views, with and without text
    assert_alike(joint, separate)


def test_a_run_that_pauses_or_fails_does_not_affect_the_others(tmp_path: Path):
    prior = disc()
    separate, joint = (balls(tmp_path / name, "guidance=sds", "steps=8") for name in ("separate", "joint"))
    for run in separate:
        alone(run, prior)

    def each(run: Run, shared: Prior) -> None:
        for step in drive(run, threads=1, prior=shared):
            if run == joint[0] and step.step == 3:
                run.request("pause")
            if run == joint[1] and step.step == 5:
                return  # like after an error: the run stops here

    rows = together(prior, joint, each)
    assert (joint[0].state.status, joint[0].state.step) == ("paused", 3)
    assert (joint[1].state.status, joint[1].state.step) == ("paused", 5)
    assert joint[2].state.status == "done"
    views = rows[0] // 3
    assert rows == [3 * views] * 3 + [2 * views] * 2 + [views] * 3
    together(prior, joint[:2])  # at different steps, but still in one call
    assert_alike(joint, separate)


def test_an_error_of_the_prior_reaches_every_run_of_the_call(tmp_path: Path):
    class Broken(Counting):
        def predict(self, x_t: Tensor, t: Tensor, cond: Conditioning, cameras: Cameras | None) -> Prediction:
            raise MemoryError("out of memory")

    broken = cast(Any, Broken(disc()))
    joint = balls(tmp_path, "guidance=sds")[:2]
    seen: list[str] = []

    def each(run: Run, shared: Prior) -> None:
        try:
            alone(run, shared)
        except MemoryError as error:
            seen.append(str(error))

    drive_together(lambda wanted: [broken], [lambda load, run=run: each(run, *load([])) for run in joint])
    assert seen == ["out of memory"] * 2
    assert [run.state.status for run in joint] == ["failed"] * 2


def test_a_worker_groups_runs_with_equal_settings(tmp_path: Path):
    mugs = runs(tmp_path)
    other = new_run(tmp_path, make_config("a red mug", "toybox", [*QUICK, "guidance.scale=4"]))
    lean = new_run(tmp_path, make_config("a yellow duck", "toybox", list(QUICK)))
    lean.update(status="queued", lean=True)
    assert next_group([mugs[0], other, mugs[1], lean, mugs[2]], 4, {}) == mugs
    assert next_group([mugs[0], other, mugs[1], mugs[2]], 2, {}) == mugs[:2]
    assert next_group([other, *mugs], 4, {}) == [other]
    assert next_group([lean, *mugs], 4, {}) == [lean]
    for run in mugs[:2]:
        enqueue(run)
    Worker(threads=1).carry_out(mugs[:2])
    assert [run.state.status for run in mugs] == ["done", "done", "new"]
    assert read_config(mugs[0]).seed == read_config(mugs[1]).seed


def test_calls_that_are_told_other_things_are_not_joined():
    """Pictures of other shapes, or structure beside none, would not fit into one batch."""
    prior, x = disc(), torch.zeros(1, 3, 16, 16)
    text = prior.encode_text(["a ball"])
    maps = Structure(torch.zeros(1, 4, 4), torch.zeros(1, 4, 4, 3), torch.zeros(1, 4, 4))
    told = [
        text, replace(text, pictures=torch.zeros(1, 2, 3)), replace(text, pictures=torch.zeros(1, 4, 3)),
        replace(text, structure=maps),
    ]  # fmt: skip
    kinds = [_Call(prior, x, torch.ones(1), cond, None).kind for cond in [*told, *told]]
    assert len(set(kinds)) == len(told)
