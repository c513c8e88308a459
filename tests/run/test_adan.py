"""Adan against its algorithm in plain Python, and in a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sds3d.config import ConfigError
from sds3d.run.adan import Adan
from sds3d.run.config import new_run
from sds3d.states import load_optimizer_state, optimizer_state
from sds3d.updates import skipped_if, update
from tests.run.tiny_runs import finish, same, tiny


def expected(start: float, gradients: list[float], lr: float, eps: float, decay: float) -> float:
    """Algorithm 1 of the paper for one number, with bias corrections, in float64."""
    x, m, v, n = np.float64(start), 0.0, 0.0, 0.0
    for k, g in enumerate(gradients, 1):
        d = g - gradients[k - 2] if k > 1 else 0.0
        m, v = 0.98 * m + 0.02 * g, 0.92 * v + 0.08 * d
        n = 0.99 * n + 0.01 * (g + 0.92 * d) ** 2
        rate = lr / (np.sqrt(n / (1 - 0.99**k)) + eps)
        x = (x - rate * (m / (1 - 0.98**k) + 0.92 * v / (1 - 0.92**k))) / (1 + lr * decay)
    return float(x)


def test_steps_are_those_of_the_paper_and_a_bad_one_is_left_out():
    gradients = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    x = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
    optimizer = Adan([{"params": [x], "lr": 0.1}], eps=1e-3, weight_decay=0.2)

    def step(gradient: torch.Tensor) -> None:
        x.grad = gradient.clone()
        update(optimizer)

    for gradient in gradients[:3]:
        step(gradient)
    before = [x.detach().clone(), *(value.clone() for value in optimizer.state[x].values())]
    with skipped_if(torch.tensor(1.0)):
        step(torch.full((3,), torch.nan))
    assert all(torch.equal(a, b) for a, b in zip(before, [x, *optimizer.state[x].values()], strict=True))
    with skipped_if(torch.tensor(0.0)):
        step(gradients[3])
    # A new optimiser goes on from the state.
    saved = {name: value.clone() for name, value in optimizer_state(optimizer).items()}
    optimizer = Adan([{"params": [x], "lr": 0.1}], eps=1e-3, weight_decay=0.2)
    load_optimizer_state(optimizer, saved)
    step(gradients[4])
    wanted = [expected(a, gradients[:, i].tolist(), 0.1, 1e-3, 0.2) for i, a in enumerate((1.0, -2.0, 0.5))]
    np.testing.assert_allclose(x.detach().numpy(), wanted, rtol=1e-5)


def test_a_run_by_adan_ends_the_same_after_a_pause(tmp_path: Path):
    config = tiny(steps=4, checkpoint_every=2, optimizer={"method": "adan", "eps": 1e-8})
    straight, paused = (new_run(tmp_path / name, config) for name in ("straight", "paused"))
    finish(straight)
    finish(paused, stop=3)
    finish(paused)
    assert same(straight, paused)
    with pytest.raises(ConfigError, match="adan has its own"):
        tiny(optimizer={"method": "adan", "betas": [0.9, 0.99]})
