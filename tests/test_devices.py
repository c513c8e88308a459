"""Which device runs use. Apple's GPUs and AMD's render by plain torch, which gives what the kernels give."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sds3d.config import build
from sds3d.devices import pick_device
from sds3d.rendering import gpu
from sds3d.run.config import RunConfig
from sds3d.run.drive import optimize_work, start_work
from sds3d.run.optimize import Step
from tests.run.tiny_runs import disc
from tests.test_pairs import REPRESENTATIONS


@pytest.mark.parametrize(
    ("cuda", "metal", "picked"),
    [(False, False, "cpu"), (True, False, "cuda"), (False, True, "mps"), (True, True, "cuda")],
)
def test_the_fastest_device_is_picked(cuda: bool, metal: bool, picked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: metal)
    assert pick_device() == torch.device(picked)
    assert pick_device("cpu") == torch.device("cpu")


def test_torch_for_amds_gpus_uses_no_package_for_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert {gpu.obstacle(package) for package in gpu.PACKAGE_NAMES} <= {"it needs an NVIDIA GPU", "not installed"}


@pytest.mark.parametrize(
    "representation", ["voxel_grid", "hash_nerf", "triplane_nerf", "tensor_nerf", "mlp_nerf", "gaussians"]
)
def test_plain_torch_takes_the_steps_of_the_kernels(representation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step has the same pictures, losses and gradients; the second still nearly the same pictures."""

    def steps() -> list[Step]:
        settings: dict[str, Any] = {
            "prompt": "a ball", "steps": 100, "cameras": {"size": 16, "views": 2}, "guidance": {"name": "sds"},
            "prompts": {"view_dependent": False}, "representation": REPRESENTATIONS[representation],
            "optimizer": {"eps": 1e-3},
        }  # fmt: skip
        work = start_work(build(RunConfig, settings), [disc()])
        walk = optimize_work(work)
        return [next(walk), next(walk)]

    expected = steps()
    chosen: list[str] = []

    def plain(task: str, *tensors: Tensor) -> str:
        chosen.append(task)
        return "torch"

    monkeypatch.setattr(gpu, "choose", plain)
    actual = steps()
    assert chosen
    for mine, other, tolerance in zip(actual, expected, (1e-4, 1e-2), strict=True):
        assert (mine.rendering.rgb - other.rendering.rgb).abs().max() < tolerance
        assert mine.losses == pytest.approx(other.losses, rel=10 * tolerance, abs=1e-4)
        assert mine.grad_norm == pytest.approx(other.grad_norm, rel=10 * tolerance)
