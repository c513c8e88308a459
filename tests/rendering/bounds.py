"""How far a float32 kernel may differ from its float64 reference: as far as rounding explains.

A fixed tolerance would be too tight for slivers of triangles, which magnify rounding a thousandfold, and too loose for
everything else. So each test case measures its own conditioning: the plain-torch reference also runs in float32,
several times, on inputs perturbed at random by a few units in the last place. Each trial rounds differently, as another
order of operations, another vector width or a fused multiply-add would. Where a choice depends on rounding (the face of
a pixel on an edge, an alpha at its threshold), some trials choose differently, and the bound is wide there.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

EPS = torch.finfo(torch.float32).eps
TRIALS = 8
MOVED = 4  # perturbation of the inputs, in units in the last place
MARGIN = 4  # allowed error at an element, in multiples of the largest error of the trials there

Reference = Callable[..., Sequence[Tensor]]


def assert_within_rounding(
    results: Sequence[Tensor],
    reference: Reference,
    *inputs: Tensor,
    condition: Callable[[Sequence[Tensor]], Mapping[int, Tensor]] = lambda exact: {},
) -> None:
    """Assert that a kernel's results equal those of its reference except for rounding.

    results: of the kernel for the inputs, float32. reference: computes the same in the dtype of its inputs.
    inputs: floats are perturbed in each trial, integers are not.
    condition: returns factors for the bounds of some results (by index), given the reference's results in float64. For
    kernels with a formula that magnifies rounding more than that of the reference.
    Integers and booleans among the results must equal those of float64 or of a trial.
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
    """Return the largest error of a kernel relative to its bound, given the results of trials (T, ...).

    The bound of an element is MARGIN times the largest error of the trials there, plus their largest error in the whole
    tensor, since all trials may happen to be accurate at one element.
    """
    errors = (trials - true).abs()
    explained = factor * (MARGIN * errors.amax(0) + errors.max() + EPS * true.abs()) if true.numel() else true
    # NaN in both results is no error. NaN in the kernel's result only is an infinite error.
    off = torch.where(mine.isnan() & true.isnan(), 0.0, (mine - true).abs()).nan_to_num(torch.inf)
    return float(torch.where(off > 0, off / explained, 0.0).max()) if off.numel() else 0.0


def rounding(operations: float, magnitude: float = 1.0) -> float:
    """Return the error of a number of roundings to float32 of values up to `magnitude`, if all have the same sign."""
    return operations * EPS / 2 * magnitude


def _as(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.detach().to(dtype) if tensor.is_floating_point() else tensor


def _moved(tensor: Tensor, seed: int) -> Tensor:
    uniform = torch.rand(tensor.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return _as(tensor * (1 + MOVED * EPS * (2 * uniform - 1)), torch.float32) if tensor.is_floating_point() else tensor
