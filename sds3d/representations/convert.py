"""Conversions between representations: from a mesh to a grid of densities, and from a grid to splats."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from sds3d.geometry.mesh import Mesh
from sds3d.geometry.sampling import surface_splats
from sds3d.geometry.splats import Splats
from sds3d.rendering.volume import BOUND
from sds3d.representations.signed_distance import mesh_to_sdf_and_colors
from sds3d.representations.voxels import outward_depth

_SOLID = 120.0  # density per metre inside a mesh: opaque within two centimetres
_COVER = 0.45  # standard deviation of a splat over the width of its share of the surface


def grid_from_mesh(mesh: Mesh, resolution: int) -> Tensor:
    """Return a solid field that looks like a mesh: density per metre and r, g, b on a grid for `render_rays`.

    The grid is (R, R, R, 4), where R is `resolution`.

    Raises ValueError for a mesh without area or with vertices that are not finite.
    """
    sdf, color = (torch.from_numpy(array) for array in mesh_to_sdf_and_colors(mesh, resolution))
    voxel = 2 * BOUND / (resolution - 1)
    # A little below the surface, because a ray that only grazes the soft skin travels far inside it.
    inside = torch.sigmoid(-(sdf / voxel + 0.9) / 0.3)
    return torch.cat([_SOLID * inside[..., None], color], dim=-1).float()


@torch.no_grad()
def splats_from_grid(grid: Tensor, count: int, generator: torch.Generator) -> Splats:
    """Return `count` flat Gaussians on the visible surface of a grid.

    grid: (N, N, N, 4) density per metre and r, g, b, as for `render_rays`. Raises ValueError if it is empty.
    """
    size = (128, 128, 128)
    fine = functional.interpolate(grid.permute(3, 0, 1, 2)[None], size, mode="trilinear", align_corners=True)[0]
    density = fine[0]  # (128, 128, 128)
    voxel = 2 * BOUND / 127
    # The share of a ray that this voxel stops, when it comes from the most open side of the object.
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
    # Each splat covers an equal share of the surface: one layer of visible voxels.
    area = (weights.sum() / weights.max()).item() * voxel**2
    widths = torch.full((count,), _COVER * math.sqrt(area / count) + 0.15 * voxel)
    return surface_splats(*(value.cpu().double().numpy() for value in (means, normals, widths, colors)))
