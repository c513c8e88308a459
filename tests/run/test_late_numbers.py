"""A loop that reads its numbers late, as on a GPU: here with fused Adam on the CPU."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.config import build
from sds3d.guidance.sds import SDS, SDSConfig
from sds3d.guidance.vsd import VSD, VSDConfig
from sds3d.representations.base import Rendering
from sds3d.run.lessons import Teacher
from sds3d.run.numbers import Numbers
from sds3d.run.optimize import LoopState, NumericalError, OptimizerConfig, Setup, optimize, pack, random_streams, start
from sds3d.run.reference_config import ReferenceConfig
from sds3d.run.reference_pictures import read_view
from sds3d.run.references import References
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


def loop(scene: Any, rule: Any, prior: Any, steps: int, references: References | None = None) -> tuple[LoopState, Any]:
    config = OptimizerConfig(eps=1e-8)
    state = start(scene, config, random_streams(0, "cameras", "guidance", "reference"), references=references)
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


class Turning(Faulty):
    """A scene that is lighter from one side than from another."""

    shows_colors = True

    def portray(self, cameras: Cameras, background: Tensor) -> Rendering:
        shape = (len(cameras), cameras.height, cameras.width)
        rgb = self.rgb.mean() * cameras.azimuth[:, None, None, None] / 90
        alpha = self.alpha.mean().expand(*shape, 1)
        return Rendering(rgb.expand(*shape, 3), alpha, alpha, rgb.expand(*shape, 3))


@pytest.mark.parametrize("together", [True, False], ids=["read late", "read at once"])
def test_a_step_that_failed_leaves_the_cameras_of_pictures(
    together: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cameras are corrected in the sixth step: two after the failed one that is seen late, or in the failed one."""
    monkeypatch.setattr("sds3d.updates.runs_late", lambda device: together)
    monkeypatch.setattr("sds3d.run.optimize.READ_EVERY", 1e9)
    picture = Image.new("RGBA", (16, 16), (200, 200, 200, 255))
    picture.putpixel((0, 0), (0, 0, 0, 0))
    picture.save(tmp_path / "a.png")
    known = {"image": str(tmp_path / "a.png"), "azimuth": 30, "elevation": 0, "distance": 2, "refine": True}

    def run(scene: Turning, steps: int) -> tuple[dict[str, Tensor], str]:
        prior = gaussian_prior()
        rule, config = rule_of("sds", prior), build(ReferenceConfig, known)
        references = References([config], [read_view(config, "", 2.1, 30.0)])
        state, running = loop(scene, rule, prior, 9, references)
        error = ""
        try:
            list(itertools.islice(running, steps))
            state.settle()
        except NumericalError as raised:
            error = str(raised)
        return pack(scene, [rule], state), error

    moved, _ = run(Turning(), 6)
    assert moved["reference/changes"].any()
    at = 4 if together else 6
    expected, _ = run(Turning(), at - 1)
    actual, error = run(Turning("render", at=at), 7)
    assert error.startswith(f"step {at}: ")
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
