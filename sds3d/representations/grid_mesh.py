"""The mesh of a grid of densities and colours."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sds3d.cameras import Cameras
from sds3d.geometry.mesh import Mesh
from sds3d.rendering.volume import BOUND, render_rays
from sds3d.representations.density_surface import extract_surface
from sds3d.representations.fields import trilinear


@torch.no_grad()
def grid_mesh(grid: Tensor, resolution: int, silhouettes: Callable[[Cameras], NDArray[np.float32]]) -> Mesh:
    """Return the surface of a grid for `render_rays`, with vertex colours.

    grid: (N, N, N, 4) density per metre and r, g, b in [0, 1]. resolution: samples per side for the extraction.
    silhouettes: renders the opacity (B, H, W) of given cameras; the isovalue is chosen to match it.
    The colour of a vertex is that of a ray that comes in along its normal. Raises EmptySurfaceError if there is no
    surface.
    """
    size = (resolution, resolution, resolution)
    density = functional.interpolate(grid[None, None, ..., 0], size, mode="trilinear", align_corners=True)
    inward = _inward_directions(grid[..., 0])  # (N, N, N, 3)

    def colors_of(points: NDArray[np.float32]) -> NDArray[np.float32]:
        return _surface_colors(grid, inward, torch.from_numpy(points).to(grid)).cpu().numpy()

    return extract_surface(density[0, 0].cpu().numpy(), colors_of, bounds=(-BOUND, BOUND), alpha_of=silhouettes)


def _inward_directions(density: Tensor) -> Tensor:
    """Return unit vectors (N, N, N, 3) along the gradient of the density (N, N, N), after a slight blur."""
    padded = functional.pad(density[None, None], (1,) * 6, mode="replicate")
    blurred = functional.avg_pool3d(padded, 3, stride=1)[0, 0]
    return functional.normalize(torch.stack(torch.gradient(blurred), dim=-1), dim=-1)


def _surface_colors(grid: Tensor, inward: Tensor, points: Tensor) -> Tensor:
    """Return the colours (P, 3) of rays that enter the surface at points (P, 3) along `inward` (N, N, N, 3)."""
    voxel = 2 * BOUND / (grid.shape[0] - 1)
    direction = functional.normalize(trilinear(inward, points), dim=-1)
    # Start a little outside, so that the soft edge of the surface counts.
    pictures = render_rays(grid, points - 1.5 * voxel * direction, direction, samples=2 * grid.shape[0])
    alpha = pictures.alpha[:, None]
    seen = pictures.rgb / alpha.clamp(min=1e-6)
    return torch.where(alpha > 0.05, seen, trilinear(grid[..., 1:], points))
