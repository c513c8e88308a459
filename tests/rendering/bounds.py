"""How far a kernel in float32 may lie from its reference in float64: as far as rounding takes the reference itself.

A fixed tolerance is too tight for a sliver of a triangle, where rounding grows a thousandfold, and too loose for
everything else. So each case measures its own conditioning: the plain-torch reference also runs in float32, several
times, from inputs that are moved at random by a few units in the last place. Every trial rounds differently, as
another order of operations, another vector width or a fused multiply-add does. Where a choice depends on rounding (the
face of a pixel on an edge, an alpha at its threshold), some trials choose differently, and the bound is wide there.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

EPS = torch.finfo(torch.float32).eps
TRIALS = 8
MOVED = 4  # units in the last place by which inputs move at most
MARGIN = 4  # how many times the largest error of the trials at an element a kernel may be off there

Reference = Callable[..., Sequence[Tensor]]


def assert_within_rounding(
    results: Sequence[Tensor],
    reference: Reference,
    *inputs: Tensor,
    condition: Callable[[Sequence[Tensor]], Mapping[int, Tensor]] = lambda exact: {},
) -> None:
    """Assert that a kernel's results are those of its reference but for rounding.

    results: what the kernel makes of the inputs in float32. reference: computes the same in the dtype of its inputs.
    inputs: floats are moved from trial to trial, whole numbers are not.
    condition: from the reference's results in float64, how much more some results (by index) may be off. For kernels
    whose formula is known to magnify rounding more than the reference's does.
    Results that are whole numbers or booleans must equal those of float64 or those of a trial.
    """
    exact = reference(*(_as(tensor, torch.float64) for tensor in inputs))
    trials = zip(*(reference(*(_moved(tensor, seed) for tensor in inputs)) for seed in range(TRIALS)), strict=True)
    factors = condition(exact)
    for i, (mine, true, others) in enumerate(zip(results, exact, trials, strict=True)):
        assert mine.shape == true.shape, f"result {i} has another shape"
        if true.is_floating_point():
            strained = strain(mine, true, torch.stack(others), factors.get(i, torch.ones(1)))
            assert strained <= 1, f"result {i} is off by {strained:.3g} times what rounding explains"
        else:
            assert ((mine == true) | (mine == torch.stack(others)).any(0)).all(), f"result {i}: no trial chooses so"


def strain(mine: Tensor, true: Tensor, trials: Tensor, factor: Tensor) -> float:
    """Return the largest error of a kernel, relative to what the trials (T, ...) explain at the same element.

    That is MARGIN times their largest error there plus, since all of them may have been lucky there, their largest
    error in the tensor.
    """
    errors = (trials - true).abs()
    explained = factor * (MARGIN * errors.amax(0) + errors.max() + EPS * true.abs()) if true.numel() else true
    # A NaN in both is no error, and one in the kernel's result alone is an infinite one.
    off = torch.where(mine.isnan() & true.isnan(), 0.0, (mine - true).abs()).nan_to_num(torch.inf)
    return float(torch.where(off > 0, off / explained, 0.0).max()) if off.numel() else 0.0


def rounding(operations: float, magnitude: float = 1.0) -> float:
    """Return the error of so many roundings to float32 of values up to `magnitude`, if all point the same way."""
    return operations * EPS / 2 * magnitude


def _as(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.detach().to(dtype) if tensor.is_floating_point() else tensor


def _moved(tensor: Tensor, seed: int) -> Tensor:
    uniform = torch.rand(tensor.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return _as(tensor * (1 + MOVED * EPS * (2 * uniform - 1)), torch.float32) if tensor.is_floating_point() else tensor
