"""From one representation to another: meshes, grids and points to splats. (To meshes leads every scene's `to_mesh`.)"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from sds3d.geometry.sampling import surface_splats
from sds3d.geometry.splats import Splats
from sds3d.rendering.volume import BOUND
from sds3d.representations.voxels import outward_depth

_COVER = 0.45  # standard deviation of a surface's splat over the width of its share of the surface
_SKIN = 1.5  # optical depth from outside down to which a grid's voxels become splats: the rest is hidden


@torch.no_grad()
def splats_from_grid(grid: Tensor, count: int, generator: torch.Generator) -> Splats:
    """`count` Gaussians, as flat as its skin, where a grid's surface can be seen.

    grid: (N, N, N, 4) density per metre and r, g, b, as `render_rays` takes it. Raises ValueError for an empty one.
    """
    size = (128, 128, 128)
    fine = functional.interpolate(grid.permute(3, 0, 1, 2)[None], size, mode="trilinear", align_corners=True)[0]
    density = fine[0]  # (128, 128, 128)
    voxel = 2 * BOUND / 127
    # How much of what is seen of the object from its most open side is seen in this voxel.
    seen = torch.exp(-(outward_depth(density) - 0.5 * voxel * density)) * -torch.expm1(-voxel * density)
    if not seen.max() > 1e-3:
        raise ValueError("the field is empty: there is nothing to turn into splats")
    weights = torch.where(seen > 0.02, seen, 0.0).flatten()
    drawn = torch.multinomial(weights.cpu(), count, replacement=True, generator=generator)
    index = torch.stack(torch.unravel_index(drawn, size), dim=-1).to(grid.device)  # (count, 3)
    jitter = torch.rand(count, 3, generator=generator).to(grid) - 0.5
    means = (index + jitter) * voxel - BOUND
    slopes = torch.stack(torch.gradient(functional.avg_pool3d(density[None, None], 3, 1, 1)[0, 0]), dim=-1)
    at = tuple(index.unbind(-1))
    normals = functional.normalize(-slopes[at] + 1e-9, dim=-1)
    colors = fine[1:].permute(1, 2, 3, 0)[at]
    # The share of the surface that each has to itself: the seen voxels, one layer thick, divided among them.
    area = (weights.sum() / weights.max()).item() * voxel**2
    widths = torch.full((count,), _COVER * math.sqrt(area / count) + 0.15 * voxel)
    return surface_splats(*(value.cpu().double().numpy() for value in (means, normals, widths, colors)))
