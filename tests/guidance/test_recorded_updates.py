"""Updates of phi as CUDA graphs. A recorder for the CPU stands for that of CUDA."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sds3d.cameras import orbit
from sds3d.guidance.variational import TrainedScore, VariationalConfig
from sds3d.priors.base import Prior
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.priors.graphs import Function, Graph
from sds3d.updates import skipped_if
from tests.guidance.views import views_of
from tests.priors.tiny import tiny_pipeline

SETTINGS = VariationalConfig(lr=0.01, camera_dropout=0.4, text_dropout=0.3)


class Count(TorchDispatchMode):
    """Counts operations."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        return func(*args, **(kwargs or {}))


class Recorder:
    """Like a CUDA graph: recording runs nothing, and a replay runs on the inputs that were kept.

    inside: operations of replays, which are one launch each on a GPU.
    """

    def __init__(self) -> None:
        self.recorded, self.replayed, self.inside = 0, 0, 0

    def __call__(self, function: Function, inputs: Sequence[Tensor]) -> Graph:
        self.recorded += 1
        kept, loss = [tensor.clone() for tensor in inputs], torch.full((), float("nan"))

        def replay() -> None:
            self.replayed += 1
            with Count() as count:
                loss.copy_(function(*kept)[0])
            self.inside += count.operations

        return Graph(kept, (loss,), replay)


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Prior:
    folder = tmp_path_factory.mktemp("pipeline")
    tiny_pipeline("sd v").save_pretrained(folder)
    return DiffusersConfig(model=str(folder)).load()


@pytest.fixture(autouse=True)
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Return a function that sets what records; None: nothing does."""
    monkeypatch.setattr("sds3d.guidance.variational.fused", lambda device: True)  # fused Adam reads the flag
    return lambda recording: monkeypatch.setattr("sds3d.priors.graphs.recorder", lambda device: recording)


def trained(prior: Prior, phi: TrainedScore, steps: range) -> list[Tensor]:
    """Do updates on renders, cameras and skipped steps that differ from step to step. Return the losses."""
    losses = []
    for step in steps:
        draws = torch.Generator().manual_seed(step)
        x = torch.randn(2, 4, 8, 8, generator=draws)
        views = views_of(prior, 2, cameras=orbit([40.0 * step, 90.0], size=16))
        with skipped_if(torch.tensor(float(step == 7))):
            losses.append(torch.as_tensor(phi.train(x, views, draws)))
    return losses


def same(mine: TrainedScore, theirs: TrainedScore) -> bool:
    one, other = mine.state_dict(), theirs.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_recorded_updates_are_the_updates(prior: Prior, use: Callable[[Any], None]) -> None:
    recorder, steps = Recorder(), range(10)
    use(None)
    plain = TrainedScore(SETTINGS, prior)
    expected = trained(prior, plain, steps)
    use(recorder)
    phi = TrainedScore(SETTINGS, prior)
    before = phi.state_dict()
    assert [float(loss) for loss in trained(prior, phi, steps)] == [float(loss) for loss in expected]
    assert same(phi, plain)
    assert any(not torch.equal(value, before[name]) for name, value in phi.state_dict().items() if name in before)
    assert recorder.recorded >= 2  # with and without cameras
    assert recorder.replayed > 4


def test_a_skipped_update_changes_nothing(prior: Prior, use: Callable[[Any], None]) -> None:
    recorder = Recorder()
    use(recorder)
    phi = TrainedScore(VariationalConfig(camera_dropout=0), prior)
    trained(prior, phi, range(7))
    before = {name: value.clone() for name, value in phi.state_dict().items()}
    trained(prior, phi, range(7, 8))
    assert recorder.replayed == 7
    assert all(torch.equal(value, before[name]) for name, value in phi.state_dict().items())


def test_a_resumed_rule_records_anew(prior: Prior, use: Callable[[Any], None]) -> None:
    """The optimiser's tensors are others then."""
    use(Recorder())
    phi, again = TrainedScore(SETTINGS, prior), TrainedScore(SETTINGS, prior)
    trained(prior, phi, range(4))
    trained(prior, again, range(3))
    again.load_state_dict(phi.state_dict())
    for each in (phi, again):
        trained(prior, each, range(8, 12))
    assert same(phi, again)


def test_what_cannot_be_recorded_is_done_as_usual(prior: Prior, use: Callable[[Any], None]) -> None:
    use(None)
    plain = TrainedScore(SETTINGS, prior)
    trained(prior, plain, range(6))
    phi = TrainedScore(SETTINGS, prior)

    def broken(function: Function, inputs: Sequence[Tensor]) -> Graph:
        for parameter in phi.score.parameters():  # what a backward pass leaves that fails half-way
            parameter.grad = torch.full_like(parameter, float("nan"))
        raise RuntimeError("operation not permitted when stream is capturing")

    use(broken)
    trained(prior, phi, range(6))
    assert same(phi, plain)


def test_a_recorded_update_leaves_few_operations(prior: Prior, use: Callable[[Any], None]) -> None:
    recorder = Recorder()
    use(recorder)
    phi = TrainedScore(VariationalConfig(camera_dropout=0), prior)
    trained(prior, phi, range(2))
    recorder.inside = 0
    views, x = views_of(prior, 2), torch.zeros(2, 4, 8, 8)
    with Count() as count, skipped_if(torch.zeros(())):
        phi.train(x, views, torch.Generator().manual_seed(0))
    assert recorder.inside > 1000
    assert count.operations - recorder.inside < 50
