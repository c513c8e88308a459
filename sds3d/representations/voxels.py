"""A cloud of Gaussians as a grid of densities and colours, from which a surface can be extracted."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sds3d.compiled import njit
from sds3d.rendering.splatting import rotation_matrices
from sds3d.rendering.threads import parallel
from sds3d.rendering.volume import BOUND

_REACH = np.float32(3.0)  # a Gaussian ends after this many standard deviations
_HALF = np.float32(0.5)
_HIDDEN = 1.0  # a voxel with this optical depth on every side counts as inside: 37 % of the light gets through
_FILL = 4  # distance in voxels by which colours extend into the empty space around the surface


def voxelize(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, colors: Tensor, resolution: int
) -> Tensor:
    """Return density per metre and r, g, b of N Gaussians on a grid for `render_rays`: (R, R, R, 4).

    means, scales: (N, 3) metres. quats: (N, 4). opacities: (N,) in [0, 1]. colors: (N, 3) in [0, 1].
    A ray through the centre of a Gaussian along its shortest axis has the Gaussian's opacity. Gaussians smaller than a
    voxel are widened to a voxel and keep this optical depth.
    """
    voxel = 2 * BOUND / (resolution - 1)
    wide = (scales.square() + (0.6 * voxel) ** 2).sqrt()  # (N, 3)
    depth = -torch.log1p(-opacities.clamp(0, 0.999))  # (N,) optical depth
    peak = depth / (wide.amin(-1) * math.sqrt(2 * math.pi))
    axes = rotation_matrices(quats) / wide[:, None]  # (N, 3, 3), columns over the scales
    inverse = axes @ axes.transpose(1, 2)
    spread = ((rotation_matrices(quats) * wide[:, None]).square().sum(-1)).sqrt()  # (N, 3) along x, y, z
    inputs = [tensor.detach().cpu().float().contiguous().numpy() for tensor in (means, inverse, spread, peak, colors)]
    total = np.zeros((resolution, resolution, resolution, 4), np.float32)
    parallel(_voxelize, *inputs, np.float32(voxel), total)
    if total.any():
        box = _occupied(total[..., 0])
        total[box] = _filled(torch.from_numpy(total[box])).numpy()
    return torch.from_numpy(total).to(means.device)


def _occupied(density: NDArray[np.float32]) -> tuple[slice, ...]:
    """Return the box around the voxels (R, R, R) that are not empty, with the margin into which colours extend.

    One voxel at least must not be empty.
    """
    spans = []
    for axis in range(3):
        used = np.flatnonzero(density.any(axis=tuple({0, 1, 2} - {axis})))
        spans.append(slice(max(used[0] - _FILL, 0), used[-1] + 1 + _FILL))
    return tuple(spans)


def _filled(grid: Tensor) -> Tensor:
    """Return the grid (X, Y, Z, 4) with colours instead of colours times densities, continued into empty voxels."""
    density = grid[..., :1]
    premultiplied = grid.permute(3, 0, 1, 2)[None]  # (1, 4, X, Y, Z)
    color = grid[..., 1:] / density.clamp(min=1e-12)
    empty = density <= 0
    for _ in range(_FILL):  # interpolation between an opaque and an empty voxel must not darken the surface
        premultiplied = functional.avg_pool3d(premultiplied, 3, stride=1, padding=1)
        blurred = premultiplied[0].permute(1, 2, 3, 0)
        fill = empty & (blurred[..., :1] > 0)
        color = torch.where(fill, blurred[..., 1:] / blurred[..., :1].clamp(min=1e-12), color)
        empty = empty & ~fill
    return torch.cat([density, color.clamp(0, 1)], dim=-1)


def fill_hidden(grid: Tensor) -> Tensor:
    """Return the grid (R, R, R, 4) with hidden voxels filled, so that shells of splats become solid."""
    resolution = grid.shape[0]
    density = grid[..., 0]
    if not (density > 0).any():
        return grid
    coarse = functional.interpolate(
        density[None, None], (min(resolution, 64),) * 3, mode="trilinear", align_corners=True
    )[0, 0]
    hidden = (outward_depth(coarse) > _HIDDEN).float()[None, None]
    hidden = functional.interpolate(hidden, (resolution,) * 3, mode="trilinear", align_corners=True)[0, 0]
    # the least density of the densest tenth
    solid = density[density > 0].topk(max(1, int((density > 0).sum()) // 10)).values[-1]
    return torch.cat([torch.maximum(density, solid * hidden)[..., None], grid[..., 1:]], dim=-1)


def outward_depth(density: Tensor) -> Tensor:
    """Return the least optical depth between each voxel and the outside, over 26 directions: (R, R, R).

    density: (R, R, R) per metre on a grid for `render_rays`.
    """
    voxel = 2 * BOUND / (density.shape[0] - 1)
    given = density.detach().cpu().float().contiguous().numpy()
    least = np.full_like(given, np.inf)
    for direction in itertools.product((-1, 0, 1), repeat=3):
        if any(direction):
            _lower(given, np.array(direction), np.float32(voxel * math.sqrt(sum(map(abs, direction)))), least)
    return torch.from_numpy(least).to(density.device)


@njit(nogil=True, cache=True, error_model="numpy")
def _lower(density: Any, direction: Any, length: Any, least: Any) -> None:
    """Lower `least` to the optical depths of rays that come in along `direction`, a voxel's `length` per step."""
    n = len(density)
    before = np.zeros_like(density)  # optical depth in front of each voxel
    half = np.float32(0.5) * length
    for i in range(n):
        x = i if direction[0] >= 0 else n - 1 - i
        for j in range(n):
            y = j if direction[1] >= 0 else n - 1 - j
            for k in range(n):
                z = k if direction[2] >= 0 else n - 1 - k
                u, v, w = x - direction[0], y - direction[1], z - direction[2]
                if 0 <= u < n and 0 <= v < n and 0 <= w < n:
                    before[x, y, z] = before[u, v, w] + length * density[u, v, w]
                least[x, y, z] = min(least[x, y, z], before[x, y, z] + half * density[x, y, z])


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "nsz", "arcp", "afn"})
def _voxelize(
    thread: Any, n_threads: Any, means: Any, inverse: Any, spread: Any, peak: Any, colors: Any, voxel: Any, total: Any
) -> None:
    n = total.shape[0]
    bound = np.float32(BOUND)
    limit = _REACH * _REACH
    for i in range(len(means)):
        if not peak[i] > 0:
            continue
        # Clamped as floats, because far-off Gaussians overflow an integer.
        low, high = np.empty(3, np.int64), np.empty(3, np.int64)
        for k in range(3):
            center, reach = (means[i, k] + bound) / voxel, _REACH * spread[i, k] / voxel
            low[k] = int(np.ceil(min(max(center - reach, np.float32(0)), np.float32(n))))
            high[k] = int(np.floor(max(min(center + reach, np.float32(n - 1)), np.float32(-1))))
        for x in range(low[0] + (thread - low[0]) % n_threads, high[0] + 1, n_threads):  # the slabs of this thread
            dx = np.float32(x) * voxel - bound - means[i, 0]
            for y in range(low[1], high[1] + 1):
                dy = np.float32(y) * voxel - bound - means[i, 1]
                for z in range(low[2], high[2] + 1):
                    dz = np.float32(z) * voxel - bound - means[i, 2]
                    u = inverse[i, 0, 0] * dx + inverse[i, 0, 1] * dy + inverse[i, 0, 2] * dz
                    v = inverse[i, 1, 0] * dx + inverse[i, 1, 1] * dy + inverse[i, 1, 2] * dz
                    w = inverse[i, 2, 0] * dx + inverse[i, 2, 1] * dy + inverse[i, 2, 2] * dz
                    square = dx * u + dy * v + dz * w
                    if square < limit:
                        density = peak[i] * np.exp(-_HALF * square)
                        total[x, y, z, 0] += density
                        for k in range(3):
                            total[x, y, z, 1 + k] += density * colors[i, k]
