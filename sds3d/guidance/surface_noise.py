"""Noise that is locked to an object's surface: all views of a piece of surface have the same noise there.

A reference noise W of independent normals is stored in texels of space: 6 maps of a hemisphere each (about +-x, +-y and
+-z) in 4 radial shells, with R x R texels per map and shell, as in Consistent Flow Distillation (Yan et al. 2025,
arXiv:2501.05445). The corners of a view's noise pixels are projected along the rays to the surface, and from there to
the maps, where each pixel covers a set of texels, Omega. Its noise is

    eps = sum of W over Omega / sqrt(|Omega|)

as in integral noise (Chang et al. 2024, "How I Warped Your Noise", ICLR). This noise is exactly N(0, 1). It is white
within a view, because pixels of a view never share a texel. Pixels of two views have the covariance
|Omega and Omega'| / sqrt(|Omega| |Omega'|). A lookup of W, with any filter, has none of these three properties.

Every direction belongs to three hemispheres, so a triangle that crosses the rim of one is complete in another. Pixels
without texels (background, silhouettes, surfaces parallel to the direction from the world's centre) have another noise,
constant for each index in the batch. A constant background noise follows the same flow as the object, and there the
views of a step stay independent of each other.

W is stored and not computed from a hash, because it evolves as an autoregressive process: its value depends on all
earlier steps.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sds3d.compiled import njit
from sds3d.geometry.mesh import FloatArray, IntArray
from sds3d.guidance.base import Views
from sds3d.rendering.volume import BOUND

MAPS, SHELLS = 6, 4
VISIBLE = 0.1
"""Opacity above which a pixel counts as surface."""

_REACH = np.float32(math.sqrt(3) * BOUND)  # outer radius of the last shell in metres: the corners of the cube
_ONE, _HALF, _ZERO = np.float32(1.0), np.float32(0.5), np.float32(0.0)
_WEDGE = np.float32(4 / math.pi)
_KERNEL: Any = {"nogil": True, "cache": True, "error_model": "numpy"}


class SurfaceNoise:
    """The noise of a batch of views, float32 on the CPU, from one seed.

    shape: (B, C, h, w) of the noise. resolution: R, texels per side of a map. 24 R^2 C floats are stored; with
    R = 4 h, a pixel covers about 60 texels.
    """

    def __init__(self, shape: tuple[int, int, int, int], resolution: int, seed: int) -> None:
        self._seed, self._resolution, self._changed = seed, resolution, False
        generator = torch.Generator().manual_seed(seed)
        self.background = torch.randn(shape, generator=generator)  # (B, C, h, w)
        self.texels = torch.randn(MAPS, SHELLS, resolution, resolution, shape[1], generator=generator)

    def __call__(self, views: Views) -> tuple[Tensor, Tensor]:
        """Return the noise (B, C, h, w), and which of its pixels are locked to the surface, bool (B, h, w).

        Raises ValueError if there are not B views.
        """
        batch, _, height, width = self.background.shape
        if len(views.cameras) != batch:
            raise ValueError(f"the noise was made for {batch} views, got {len(views.cameras)}: keep their number")
        noise, count = integrate(self.texels, *surface_corners(views, height, width))
        locked = count > 0  # (B, h, w)
        return torch.where(locked[:, None], noise, self.background), locked

    def evolved(self, gamma: float, generator: torch.Generator) -> SurfaceNoise:
        """Return the noise after a step: sqrt(1 - gamma) W + sqrt(gamma) fresh, which is N(0, 1) again."""
        noise = copy.copy(self)
        for name in ("background", "texels"):
            old: Tensor = getattr(self, name)
            fresh = torch.randn(old.shape, generator=generator)
            setattr(noise, name, fresh.mul_(math.sqrt(gamma)).add_(old, alpha=math.sqrt(1 - gamma)))
        noise._changed = True
        return noise

    def for_views(self, batch: int) -> SurfaceNoise:
        """Return the noise for another number of views. Earlier views keep their backgrounds; those of new ones follow
        from the seed. The surface keeps its noise.
        """
        if batch == len(self.background):
            return self
        noise = copy.copy(self)
        shape = (batch, *self.background.shape[1:])
        noise.background = torch.randn(shape, generator=torch.Generator().manual_seed(self._seed + 1))
        kept = min(batch, len(self.background))
        noise.background[:kept] = self.background[:kept]
        noise._changed = True
        return noise

    def state_dict(self) -> dict[str, Tensor]:
        """Seed and background; the texels too after a change. Before that, they follow from the seed."""
        state = {
            "seed": torch.tensor(self._seed),
            "resolution": torch.tensor(self._resolution),
            "background": self.background.clone(),
        }
        return state | ({"texels": self.texels.clone()} if self._changed else {})

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> SurfaceNoise:
        """Return the noise of a `state_dict`."""
        batch, channels, height, width = state["background"].shape
        noise = cls((batch, channels, height, width), int(state["resolution"]), int(state["seed"]))
        if "texels" in state:
            noise.background, noise.texels = state["background"].clone(), state["texels"].clone()
            noise._changed = True
        return noise


def surface_corners(views: Views, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Project the corners of B x height x width noise pixels to the surface, on the CPU.

    Returns points (B, height + 1, width + 1, 3) in metres, the means of the visible points around each corner, and
    bool (B, height + 1, width + 1): whether there are visible points and the mean opacity is above `VISIBLE`.
    """
    alpha, depth = views.alpha[..., 0].float(), views.depth[..., 0].float()  # (B, H, W)
    origins, directions = views.cameras.to(alpha.device).resized(*alpha.shape[1:]).rays()  # (B, H, W, 3)
    visible = (alpha > VISIBLE) & (depth > 0) & depth.isfinite()
    distance = torch.where(visible, depth / alpha, 0.0)  # depth is weighted by alpha
    points = origins + distance[..., None] * directions  # (B, H, W, 3)
    # In one transfer, since each waits for a GPU.
    seen = torch.cat([points, alpha.nan_to_num(0.0)[..., None], visible[..., None]], dim=-1).cpu().numpy()
    corners = np.zeros((len(alpha), height + 1, width + 1, 3), np.float32)
    solid = np.zeros(corners.shape[:3], np.bool_)
    arrays = (np.ascontiguousarray(part) for part in (seen[..., :3], seen[..., 3], seen[..., 4] > 0))
    _corners(*arrays, corners, solid)
    return torch.from_numpy(corners), torch.from_numpy(solid)


def integrate(texels: Tensor, corners: Tensor, solid: Tensor) -> tuple[Tensor, Tensor]:
    """Return sums of texels over noise pixels, divided by the square roots of their numbers.

    texels: (6, 4, R, R, C) float32. corners, solid: of `surface_corners`. Returns (B, C, h, w) float32, 0 for pixels
    without texels, and the numbers of texels, int32 (B, h, w).
    """
    batch, rows, columns = solid.shape
    resolution, channels = texels.shape[2], texels.shape[-1]
    sums = np.zeros((batch, rows - 1, columns - 1, channels), np.float32)
    counts = np.zeros(sums.shape[:3], np.int32)
    owner = np.empty((SHELLS, resolution, resolution), np.int32)
    radius = np.empty(owner.shape, np.float32)
    for view in range(batch):
        _integrate(corners[view].numpy(), solid[view].numpy(), texels.numpy(), owner, radius, sums[view], counts[view])
    count = torch.from_numpy(counts)
    noise = torch.from_numpy(sums) / count.clamp(min=1)[..., None].sqrt()  # (B, h, w, C)
    return noise.permute(0, 3, 1, 2).contiguous(), count


@njit(**_KERNEL)
def hemisphere_to_square(a: np.float32, b: np.float32, c: np.float32) -> tuple[np.float32, np.float32]:
    """Map the hemisphere c > 0 of directions (a, b, c) of any length to the square [-1, 1]^2, with equal areas.

    A circle around the pole becomes a square around the centre: half its side is sqrt(1 - cos theta), and the wedge of
    90 degrees around +-a or +-b is one of its sides.
    """
    length = np.sqrt(a * a + b * b + c * c)
    # 1 - cos theta without cancellation near the pole.
    side = np.sqrt((a * a + b * b) / (length * (length + c)))
    if abs(a) > abs(b):
        along = side * _WEDGE * np.arctan(b / abs(a))
        return (side if a > _ZERO else -side), along
    if b == _ZERO:
        return _ZERO, _ZERO
    along = side * _WEDGE * np.arctan(a / abs(b))
    return along, (side if b > _ZERO else -side)


@njit(**_KERNEL)
def _window(index: int, cells: int, pixels: int) -> tuple[int, int]:
    """Return the first and last pixel (exclusive) around corner `index` of `cells` cells on `pixels` pixels: at least
    two, except at the border.
    """
    stride = pixels / cells
    reach = max(stride / 2, 1.0)
    first, last = math.ceil(index * stride - reach - 0.5), math.floor(index * stride + reach - 0.5) + 1
    return max(first, 0), min(last, pixels)


@njit(**_KERNEL)
def _corners(
    points: FloatArray, alpha: FloatArray, visible: NDArray[np.bool_], corners: FloatArray, solid: NDArray[np.bool_]
) -> None:
    """Fill corners (B, h + 1, w + 1, 3) and solid from points (B, H, W, 3), alpha and visible (B, H, W)."""
    batch, rows, columns = solid.shape
    for view in range(batch):
        for row in range(rows):
            top, bottom = _window(row, rows - 1, alpha.shape[1])
            for column in range(columns):
                left, right = _window(column, columns - 1, alpha.shape[2])
                seen, opacity = 0, _ZERO
                x, y, z = _ZERO, _ZERO, _ZERO
                for i in range(top, bottom):
                    for j in range(left, right):
                        opacity += alpha[view, i, j]
                        if visible[view, i, j]:
                            x, y, z = x + points[view, i, j, 0], y + points[view, i, j, 1], z + points[view, i, j, 2]
                            seen += 1
                if seen > 0 and opacity > VISIBLE * (bottom - top) * (right - left):
                    scale = _ONE / np.float32(seen)
                    corners[view, row, column, 0] = x * scale
                    corners[view, row, column, 1] = y * scale
                    corners[view, row, column, 2] = z * scale
                    solid[view, row, column] = True


@njit(**_KERNEL)
def _integrate(
    corners: FloatArray,
    solid: NDArray[np.bool_],
    texels: FloatArray,
    owner: IntArray,
    radius: FloatArray,
    sums: FloatArray,
    counts: IntArray,
) -> None:
    """Add one view's texels to sums (h, w, C) and counts (h, w). owner, radius: (4, R, R), scratch."""
    height, width, channels = sums.shape
    size = owner.shape[1]
    square = np.empty((height + 1, width + 1, 3), np.float32)  # place in a map, in texels, and radius in metres
    for side in range(MAPS):
        axis, sign = side // 2, (_ONE if side % 2 == 0 else -_ONE)
        owner[:] = -1
        for row in range(height + 1):
            for column in range(width + 1):
                p = corners[row, column]
                a, b, c = p[(axis + 1) % 3], p[(axis + 2) % 3], p[axis] * sign
                square[row, column, 2] = -_ONE  # not on this hemisphere
                if solid[row, column] and c > _ZERO:
                    u, v = hemisphere_to_square(a, b, c)
                    square[row, column, 0] = (u + _ONE) * _HALF * np.float32(size)
                    square[row, column, 1] = (v + _ONE) * _HALF * np.float32(size)
                    square[row, column, 2] = np.sqrt(a * a + b * b + c * c)
        for row in range(height):
            for column in range(width):
                pixel = row * width + column
                upper_right, lower_left = square[row, column + 1], square[row + 1, column]
                _claim(square[row, column], upper_right, lower_left, pixel, owner, radius)
                _claim(square[row + 1, column + 1], upper_right, lower_left, pixel, owner, radius)
        for shell in range(SHELLS):
            for i in range(size):
                for j in range(size):
                    pixel = owner[shell, i, j]
                    if pixel >= 0:
                        row, column = pixel // width, pixel % width
                        counts[row, column] += 1
                        for k in range(channels):
                            sums[row, column, k] += texels[side, shell, i, j, k]


@njit(**_KERNEL)
def _claim(a: FloatArray, b: FloatArray, c: FloatArray, pixel: int, owner: IntArray, radius: FloatArray) -> None:
    """Assign the texels with their centre in the triangle to `pixel`, unless they belong to a pixel farther out.

    A whole triangle belongs to the shell of its mean radius, so that triangles across two shells are not lost. The
    outermost triangle wins in every view. A texel on a shared edge of two triangles stays with the first.
    """
    if min(a[2], b[2], c[2]) < _ZERO:
        return
    size = owner.shape[1]
    mean = (a[2] + b[2] + c[2]) / np.float32(3.0)
    shell = min(int(mean / _REACH * SHELLS), SHELLS - 1)
    area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
    if area == _ZERO:
        return
    sign = _ONE if area > _ZERO else -_ONE
    first, last = max(int(min(a[0], b[0], c[0])), 0), min(int(max(a[0], b[0], c[0])), size - 1)
    low, high = max(int(min(a[1], b[1], c[1])), 0), min(int(max(a[1], b[1], c[1])), size - 1)
    for i in range(first, last + 1):
        x = np.float32(i) + _HALF
        for j in range(low, high + 1):
            y = np.float32(j) + _HALF
            u = (b[0] - x) * (c[1] - y) - (b[1] - y) * (c[0] - x)
            v = (c[0] - x) * (a[1] - y) - (c[1] - y) * (a[0] - x)
            w = (a[0] - x) * (b[1] - y) - (a[1] - y) * (b[0] - x)
            inside = (u * sign >= _ZERO) & (v * sign >= _ZERO) & (w * sign >= _ZERO)
            if inside and (owner[shell, i, j] < 0 or mean > radius[shell, i, j]):
                owner[shell, i, j] = pixel
                radius[shell, i, j] = mean
