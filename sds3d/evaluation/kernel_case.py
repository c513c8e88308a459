"""The cases of `sds3d bench rendering`: one kernel on one scene, with its plain-torch reference; and shared helpers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Run = Callable[[], tuple[Tensor, ...]]
Operations = tuple[float, float]
"""Floating-point operations of the forward pass and of the backward pass."""

OCCUPIED = 0.5  # density per metre above which a cell counts as occupied, as in `representations`
EXP = 17  # operations of simd.exp_minus: scaling, rounding, six multiply-adds, the power of two


@dataclass(frozen=True)
class Case:
    """One kernel on one scene.

    run, reference: render the scene and return the outputs.
    leaves: the tensors that get gradients; empty if the kernel has no backward pass.
    items, unit: number and kind of the items that the speed counts. operations: of `run`. reference_bytes: memory that
    the reference needs. library: the library that `run` calls on CUDA; empty if the kernel exists only on a CPU.
    note: more about the scene.
    """

    kernel: str
    scene: str
    run: Run
    reference: Run
    leaves: tuple[Tensor, ...]
    items: int
    unit: str
    operations: Operations
    reference_bytes: float
    library: str = ""
    note: str = ""


Builder = Callable[[torch.device], Case]


def bound(function: Callable[..., Case], *arguments: Any, **settings: Any) -> Builder:
    """Return a function that makes a case and takes only the device."""
    return lambda device: function(*arguments, device=device, **settings)


def seeded() -> torch.Generator:
    """Return a generator with the same seed for every case."""
    return torch.Generator().manual_seed(0)


def lumpy_radius(directions: Tensor) -> Tensor:
    """Return the distance in metres from a lumpy ball's centre to its surface, along unit directions (..., 3)."""
    x, y, z = directions.unbind(-1)
    return 0.36 + 0.04 * torch.sin(7 * x + 1) * torch.sin(6 * y) + 0.03 * torch.sin(9 * z + 4 * x)


def short(n: int) -> str:
    """Return a count in three digits, such as "1.28k"."""
    return f"{n / 1000:.3g}k" if n >= 1000 else str(n)


def scene_name(n: int, what: str, size: int, views: int = 1) -> str:
    """Return for example "2k Gaussians @ 64 px, 4 views"."""
    return f"{short(n)} {what} @ {size} px" + (f", {views} views" if views > 1 else "")
