"""Further samples along rays where the first ones found matter: NeRF's coarse and fine samples (Mildenhall et al. 2020,
arXiv:2003.08934, section 5.2), with HiFA's smoothing of the weights along the ray (Zhu and Zhuang 2023,
arXiv:2305.18766, section 3.4).

Each first sample stands for a cell, the piece of its ray around it. Fine samples are drawn by the cells' weights, and
each cell is then divided among the samples in it, so that the lengths along a ray still add up to the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sds3d.rendering.packed import Samples
from sds3d.rendering.volume import BOUND

Kernel = Literal["none", "boxcar", "trapezoidal"]
SIDES: dict[Kernel, float] = {"none": 0.0, "boxcar": 1 / 3, "trapezoidal": 1 / 8}
"""Share of a cell's weight that goes to each of its two neighbours; those of HiFA's code."""

_FLOOR = 1e-5  # added to all weights, so that a ray without matter has samples everywhere


@dataclass(frozen=True)
class Fine:
    """Adds `count` further samples per ray, a `Refine` for `render_field`. kernel: smooths the weights before."""

    count: int
    kernel: Kernel = "none"

    def __call__(
        self, samples: Samples, weights: Tensor, origins: Tensor, directions: Tensor, shift: Tensor | None
    ) -> Samples:
        """See `Refine` and `resample`."""
        weights = smoothed(weights + _FLOOR, samples, SIDES[self.kernel])
        return resample(samples, weights, origins, directions, self.count, shift)


@torch.no_grad()
def resample(
    samples: Samples, weights: Tensor, origins: Tensor, directions: Tensor, count: int, shift: Tensor | None = None
) -> Samples:
    """Return the samples together with `count` more on each ray that has any. Not differentiable.

    weights: (S,) above 0, by which the cells are drawn. origins, directions: (R, 3), unit directions. shift: (R,) in
    [0, 1), the random part of the draws, which are evenly spread over a ray's weight; None: the middle.
    """
    counts = samples.offsets.diff()  # (R,)
    rays = counts.nonzero()[:, 0]  # (H,), those with samples
    if not len(rays):
        return samples
    half = samples.dt / 2
    start, end = samples.t - half, samples.t + half  # (S,), the cells
    cell, share = _drawn(weights, samples.offsets[rays], counts[rays], count, None if shift is None else shift[rays])
    t = start[cell] + share * samples.dt[cell]  # (F,), near to far on each ray
    # The place of each sample among both kinds. Fine sample f follows the first samples up to its own cell's.
    after = cell + (t > samples.t[cell]).long()  # (F,), how many of the first samples are in front of it
    index, added, both = (torch.arange(n, device=t.device) for n in (len(samples.t), len(t), len(samples.t) + len(t)))
    place = torch.cat([index + torch.searchsorted(after, index, right=True), after + added])
    order = torch.empty_like(place).scatter_(0, place, both)
    cell = torch.cat([index, cell])[order]  # (S + F,)
    t, ray = torch.cat([samples.t, t])[order], samples.ray[cell]
    middle, divided = (t[1:] + t[:-1]) / 2, cell[1:] == cell[:-1]
    low, high = start[cell], end[cell]
    low[1:], high[:-1] = torch.where(divided, middle, low[1:]), torch.where(divided, middle, high[:-1])
    before = torch.zeros_like(samples.offsets)
    before[1:] = ((counts > 0).long() * count).cumsum(0)
    points = (origins[ray] + t[:, None] * directions[ray]).clamp(-BOUND, BOUND)
    return Samples(ray, t, high - low, points, samples.offsets + before)


def smoothed(weights: Tensor, samples: Samples, side: float) -> Tensor:
    """Return weights (S,) of which each has passed `side` of itself on to both neighbouring cells of its ray.

    What has no neighbour, at the ray's end or beside skipped cells, keeps that share.
    """
    if not side or len(weights) < 2:
        return weights
    near = (samples.ray[1:] == samples.ray[:-1]) & (samples.t.diff() < 1.5 * samples.dt[:-1])
    given = torch.zeros_like(weights)
    given[1:] += torch.where(near, weights[:-1] - weights[1:], 0)
    given[:-1] += torch.where(near, weights[1:] - weights[:-1], 0)
    return weights + side * given


def _drawn(pmf: Tensor, first: Tensor, counts: Tensor, count: int, shift: Tensor | None) -> tuple[Tensor, Tensor]:
    """Draw places by the weights of cells, (S,), on H rays with `counts` cells from `first` on.

    Returns the cells (H count,) int64, which never fall, and the places within them in [0, 1].
    """
    columns = torch.arange(int(counts.max()), device=pmf.device)
    inside = columns < counts[:, None]  # (H, L)
    rows = torch.where(inside, pmf[(first[:, None] + columns).clamp(max=len(pmf) - 1)], 0)
    total = rows.cumsum(1)
    total = total / total[:, -1:]
    offset = torch.full_like(total[:, 0], 0.5) if shift is None else shift.to(total)
    u = (torch.arange(count, device=pmf.device) + offset[:, None]) / count  # (H, count)
    found = torch.minimum(torch.searchsorted(total, u.contiguous(), right=True), counts[:, None] - 1)
    below = torch.where(found > 0, total.gather(1, (found - 1).clamp(min=0)), 0)
    share = (u - below) / (total.gather(1, found) - below).clamp_min(1e-12)
    return (first[:, None] + found).flatten(), share.clamp(0, 1).flatten()
