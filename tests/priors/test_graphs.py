"""Recorded calls of a prior. A recorder for the CPU, which replays by calling again, stands for that of CUDA."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from sds3d.cameras import turntable
from sds3d.priors.base import Prediction, Prior
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.priors.graphs import MOST, Function, Graph, Graphs
from sds3d.prompts.conditioning import Conditioning


class Recorder:
    def __init__(self) -> None:
        self.recorded, self.replayed = 0, 0

    def __call__(self, function: Function, inputs: Sequence[Tensor]) -> Graph:
        self.recorded += 1
        kept = [tensor.clone() for tensor in inputs]
        outputs = tuple(torch.full_like(output, float("nan")) for output in function(*kept))

        def replay() -> None:
            self.replayed += 1
            for output, value in zip(outputs, function(*kept), strict=True):
                output.copy_(value)

        return Graph(kept, outputs, replay)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr("sds3d.priors.graphs.recorder", lambda device: recorder)
    return recorder


@pytest.fixture(scope="module")
def prior() -> Prior:
    return DiffusersConfig().load()


def asked(prior: Prior, seed: int, rows: int = 4, cameras: bool = True) -> Prediction:
    generator = torch.Generator().manual_seed(seed)
    x, t = torch.randn(rows, 12, 16, 16, generator=generator), torch.rand(rows, generator=generator)
    cond = Conditioning(torch.randn(rows, 24, 128, generator=generator))
    with torch.no_grad():
        return prior.predict(x, t, cond, turntable(rows) if cameras else None)


def test_recorded_calls_give_what_calls_give(prior: Prior, recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second call of the same shapes is recorded; with other cameras or rows it is another graph."""
    kinds = [{"rows": 4}, {"rows": 8}, {"rows": 4, "cameras": False}]
    actual = [asked(prior, seed, **kind) for seed in range(4) for kind in kinds]
    assert (recorder.recorded, recorder.replayed) == (3, 9)
    monkeypatch.setattr("sds3d.priors.graphs.recorder", lambda device: None)
    expected = [asked(prior, seed, **kind) for seed in range(4) for kind in kinds]
    for mine, plain in zip(actual, expected, strict=True):
        assert torch.equal(mine.eps, plain.eps)
        assert torch.equal(mine.x0, plain.x0)


def test_a_trained_copy_is_recorded_with_its_present_weights(prior: Prior, recorder: Recorder) -> None:
    score = prior.trainable_score(torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    x, t = torch.randn(4, 12, 16, 16, generator=generator), torch.rand(4, generator=generator)
    cond = Conditioning(torch.randn(4, 24, 128, generator=generator))
    for step in range(3):
        with torch.no_grad():
            replayed = score.predict(x, t, cond, turntable(4))
        prediction = score.predict(x, t, cond, turntable(4))  # with gradients, it is never recorded
        torch.testing.assert_close(replayed.eps, prediction.eps.detach(), rtol=1e-5, atol=1e-6)
        assert recorder.recorded == min(step, 1)
        with torch.no_grad():
            for parameter in score.parameters():
                parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
    assert recorder.replayed == 2


def test_what_cannot_be_recorded_is_called(recorder: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    def broken(function: Function, inputs: Sequence[Tensor]) -> Graph:
        raise RuntimeError("operation not permitted when stream is capturing\nCUDA kernel errors might ...")

    graphs = Graphs()
    with pytest.MonkeyPatch.context() as patch, torch.no_grad(), caplog.at_level(logging.WARNING):
        patch.setattr("sds3d.priors.graphs.recorder", lambda device: broken)
        for _ in range(4):
            (double,) = graphs(lambda x: (2 * x,), "double", [torch.ones(3)])
            assert torch.equal(double, 2 * torch.ones(3))
    assert [record.getMessage() for record in caplog.records] == [
        "the prior's calls are not recorded as CUDA graphs, and are slower: "
        "operation not permitted when stream is capturing"
    ]


def test_there_are_few_graphs(recorder: Recorder) -> None:
    graphs = Graphs()
    with torch.no_grad():
        for _ in range(2):
            for n in range(1, MOST + 4):
                (double,) = graphs(lambda x: (2 * x,), "double", [torch.ones(n)])
                assert torch.equal(double, 2 * torch.ones(n))
    assert recorder.recorded == MOST
