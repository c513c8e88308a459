"""Draws by error: what a student gets wrong is drawn more often ("PVD-AL", Fang et al. 2023, arXiv:2304.04012, sec. 4).

As in the paper, draws have no weights that would undo the preference: the student is to get better where it errs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sds3d.rendering.volume import BOUND

_UNIFORM = 0.5  # share of the draws that ignores the errors, which may be out of date
_CELLS = 12  # cells per side of the cube in which errors of points are remembered


def chances(errors: Tensor) -> Tensor:
    """Return the probabilities (N,) of choices with these errors (N,) >= 0: half uniform, half in proportion to them.

    Errors that are not finite count as 0.
    """
    errors = errors.nan_to_num(0.0, 0.0, 0.0)
    uniform = 1 / len(errors)
    total = errors.sum()
    return torch.where(total > 0, _UNIFORM * uniform + (1 - _UNIFORM) * errors / total, uniform)


def draw(probabilities: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return `count` indices (count,) drawn with replacement with probabilities (N,), on their device.

    generator: on the CPU, so that a seed gives the same draws on every device.
    """
    ends = probabilities.cumsum(0)
    places = torch.rand(count, generator=generator).to(ends) * ends[-1]
    return torch.searchsorted(ends, places, right=True).clamp(max=len(ends) - 1)


class CellErrors:
    """The last mean error of the points in each cell of a coarse grid in the cube; cells without points have 1."""

    def __init__(self, device: torch.device) -> None:
        self.errors = torch.ones(_CELLS**3, device=device)

    def points(self, count: int, generator: torch.Generator) -> Tensor:
        """Return points (count, 3) in metres: cells drawn by their `chances`, and places uniform in them."""
        cell = draw(chances(self.errors), count, generator)
        corner = torch.stack([cell // _CELLS**2, cell // _CELLS % _CELLS, cell % _CELLS], dim=-1)
        inside = torch.rand(count, 3, generator=generator).to(self.errors)
        return BOUND * (2 * (corner + inside) / _CELLS - 1)

    def update(self, points: Tensor, errors: Tensor) -> None:
        """Remember the errors (P,) of points (P, 3)."""
        x, y, z = ((points / BOUND + 1) / 2 * _CELLS).long().clamp(0, _CELLS - 1).unbind(-1)
        cell = (x * _CELLS + y) * _CELLS + z
        total, count = (
            torch.zeros_like(self.errors).index_add(0, cell, values) for values in (errors, torch.ones_like(errors))
        )
        self.errors = torch.where(count > 0, total / count.clamp(min=1), self.errors)
