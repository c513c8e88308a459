"""Updates by Adam that a flag on the device switches off, so that nobody has to wait for the flag.

Reading a value from a GPU waits for all work that was queued. The loop of a run therefore does not ask whether a step
was good before it updates the parameters: fused Adam reads the flag on the device and leaves parameters, moments and
step counts alone if it is set.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_bad: ContextVar[Tensor | None] = ContextVar("bad", default=None)


def runs_late(device: torch.device) -> bool:
    """Return whether work on the device is queued and reading a value waits for it, as on CUDA and ROCm."""
    return device.type == "cuda"


def fused(device: torch.device) -> bool | None:
    """Return the option `fused` of torch's Adam for parameters on this device; None is torch's default."""
    return True if runs_late(device) else None


@contextmanager
def skipped_if(bad: Tensor | None) -> Iterator[None]:
    """Switch off every `update` in the block if `bad`, a float32 scalar on the device, is 1. None: switch off none."""
    token = _bad.set(bad)
    try:
        yield
    finally:
        _bad.reset(token)


def flag() -> Tensor | None:
    """Return the flag of the block of `skipped_if` that is being run, or None."""
    return _bad.get()


def update(optimizer: torch.optim.Optimizer) -> None:
    """Do a step of Adam or AdamW, unless the flag of `skipped_if` is set. A flag needs a fused optimiser."""
    if optimizer.param_groups[0]["params"][0].is_cuda:
        recorded = torch.cuda.is_current_stream_capturing()
        for group in optimizer.param_groups:
            group["capturable"] = recorded  # fused Adam does the same with it, but warns outside of a CUDA graph
    optimizer.found_inf = _bad.get()  # type: ignore[attr-defined]
    try:
        optimizer.step()
    finally:
        optimizer.found_inf = None  # type: ignore[attr-defined]
