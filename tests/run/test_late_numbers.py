"""A loop that reads its numbers late, as on a GPU: here with fused Adam on the CPU."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.guidance.sds import SDS, SDSConfig
from sds3d.guidance.vsd import VSD, VSDConfig
from sds3d.representations.base import Rendering
from sds3d.run.numbers import Numbers
from sds3d.run.optimize import (
    LoopState,
    NumericalError,
    OptimizerConfig,
    Setup,
    Teacher,
    optimize,
    pack,
    random_streams,
    start,
)
from tests.run.scenes import CAMERAS, Canvas, encoded, gaussian_prior


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sds3d.updates.runs_late", lambda device: True)
    monkeypatch.setattr("sds3d.run.optimize.READ_EVERY", 1e9)


class Faulty(Canvas):
    """A scene with a fault at one step and from then on, and with an edit after some steps."""

    def __init__(self, fault: str = "", at: int = 0, edited: int = 0) -> None:
        super().__init__()
        self.fault, self.at, self.edited, self.seen = fault, at, edited, 0

    def render(self, cameras: Cameras, background: Tensor) -> Rendering:
        self.seen += 1
        shown = super().render(cameras, background)
        rgb = shown.rgb * float("nan") if self.fault == "render" and self.seen >= self.at > 0 else shown.rgb
        return Rendering(rgb, shown.alpha, shown.depth, shown.normal)

    def regularisers(self, rendering: Rendering, progress: float) -> dict[str, Tensor]:
        factor = {"loss": float("inf"), "gradient": 1e12}.get(self.fault, 0.0)
        return {"flat": rendering.rgb.sum() * (factor if self.seen >= self.at else 0.0)}

    def edits(self, step: int) -> bool:
        return self.edited > 0 and (step + 1) % self.edited == 0

    def after_step(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        if self.edits(step):
            with torch.no_grad():
                self.rgb.add_(0.25)


def loop(scene: Any, rule: Any, prior: Any, steps: int) -> tuple[LoopState, Any]:
    config = OptimizerConfig(eps=1e-8)
    state = start(scene, config, random_streams(0, "cameras", "guidance"))
    return state, optimize(Setup(scene, [Teacher(prior, rule, encoded(prior))], steps, CAMERAS, config), state)


def rule_of(name: str, prior: Any) -> Any:
    return SDS(SDSConfig(), prior) if name == "sds" else VSD(VSDConfig(), prior)


@pytest.mark.parametrize("rule", ["sds", "vsd"])
def test_numbers_and_parameters_are_those_of_a_loop_that_reads_at_once(
    rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to the rounding of fused Adam."""

    def run() -> tuple[dict[str, Tensor], list[Numbers], int]:
        prior = gaussian_prior()
        guidance, scene = rule_of(rule, prior), Faulty(edited=4)
        state, steps = loop(scene, guidance, prior, 9)
        known = [(step.step, state.take()) for step in steps]
        together = max(len(numbers) for _, numbers in known)
        return pack(scene, [guidance], state), [numbers for _, some in known for numbers in some], together

    expected, prompt, one = run()
    monkeypatch.setattr("sds3d.updates.runs_late", lambda device: True)
    monkeypatch.setattr("sds3d.run.optimize.READ_EVERY", 1e9)
    actual, later, several = run()
    assert (one, several) == (1, 4)  # one transfer after the first step, then only before edits and at the end
    assert [numbers.step for numbers in later] == list(range(1, 10))
    for mine, other in zip(later, prompt, strict=True):
        assert mine.metrics == pytest.approx(other.metrics, rel=1e-4)
        assert mine.losses == pytest.approx(other.losses, rel=1e-4)
        assert mine.grad_norm == pytest.approx(other.grad_norm, rel=1e-4)
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(actual[key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rule", ["sds", "vsd"])
@pytest.mark.parametrize(
    ("fault", "message"), [("render", "the render"), ("loss", 'the loss "flat"'), ("gradient", "norm is ")]
)
def test_a_fault_that_is_seen_late_leaves_the_last_good_state(rule: str, fault: str, message: str, late: None) -> None:
    def run(scene: Faulty, steps: int) -> tuple[dict[str, Tensor], list[int], str]:
        prior = gaussian_prior()
        guidance = rule_of(rule, prior)
        state, running = loop(scene, guidance, prior, 9)
        error, known = "", []
        try:
            for _ in itertools.islice(running, steps):
                known += state.take()
            state.settle()
        except NumericalError as raised:
            error = str(raised)
        return pack(scene, [guidance], state), [numbers.step for numbers in known + state.take()], error

    expected, _, error = run(Faulty(), 3)
    assert error == ""
    actual, known, error = run(Faulty(fault, at=4), 7)  # four more steps run before the numbers are read
    assert error.startswith("step 4: ")
    assert message in error
    assert known == [1, 2, 3]
    assert actual.keys() == expected.keys()
    assert [key for key, value in expected.items() if not torch.equal(actual[key], value)] == []


def test_a_scene_edits_itself_only_after_good_steps(late: None) -> None:
    """A fault is seen before the edit of the same step, and one of an earlier step before the step itself."""
    for at in (4, 2):
        prior, scene = gaussian_prior(), Faulty("gradient", at=at, edited=4)
        state, running = loop(scene, SDS(SDSConfig(), prior), prior, 9)
        with pytest.raises(NumericalError, match=f"step {at}: "):
            list(running)
        assert state.step == at - 1
        assert scene.rgb.max() < 0.7  # without the edit's 0.25
