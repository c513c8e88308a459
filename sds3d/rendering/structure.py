"""Maps of a render that tell a prior where surfaces are and how they face."""

from __future__ import annotations

import torch
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.prompts.conditioning import Structure
from sds3d.rendering.resizing import resize_planes
from sds3d.rendering.shading import toward_viewer

FARTHEST = 0.2
"""Depth in the map of the farthest surface of a picture, so that it differs from the background, which is 0."""


def structure_of(alpha: Tensor, depth: Tensor, normal: Tensor, cameras: Cameras, size: int) -> Structure:
    """Return the maps of B renders, resized to `size` x `size` pixels.

    alpha: (B, H, W, 1) opacity. depth: (B, H, W, 1) distance along the ray in metres, weighted by the opacity. normal:
    (B, H, W, 3) in the world frame. All are without gradients.

    The depth is a disparity, 1 / z along the camera's axis, as depth estimators give it. It is scaled in each picture:
    1 at its nearest and 0.2 at its farthest surface. Depths and normals are weighted by the opacity.
    """
    directions = cameras.resized(*alpha.shape[1:3]).rays()[1]  # (B, H, W, 3)
    to_world = cameras.c2w()[:, :3, :3]
    along = -torch.einsum("bi,bhwi->bhw", to_world[:, :, 2], directions)  # cosine to the camera's axis
    weight, distance = alpha[..., 0], depth[..., 0]
    disparity = weight / (distance * along).clamp(min=1e-6)
    solid = weight > 0.5
    least = disparity.masked_fill(~solid, torch.inf).amin(dim=(1, 2), keepdim=True)
    most = disparity.masked_fill(~solid, -torch.inf).amax(dim=(1, 2), keepdim=True)
    place = ((disparity - least) / (most - least).clamp(min=1e-6)).clamp(0, 1)
    flat = most - least < 1e-6  # also in a picture without surfaces
    scaled = torch.where(flat, torch.ones_like(place), FARTHEST + (1 - FARTHEST) * place)
    seen = toward_viewer(normal, -directions)
    local = torch.einsum("bij,bhwi->bhwj", to_world.to(normal), seen)
    return resized(Structure(weight * scaled, alpha * local, weight), size)


def resized(structure: Structure, size: int) -> Structure:
    """Return the maps at `size` x `size` pixels, bilinear and antialiased."""
    if structure.alpha.shape[1:] == (size, size):
        return structure
    maps = resize_planes(stacked(structure), size)
    return Structure(maps[:, 0], maps[:, 1:4].permute(0, 2, 3, 1), maps[:, 4])


def stacked(structure: Structure) -> Tensor:
    """Return the maps as channels, (B, 5, H, W): depth, three components of the normal, opacity."""
    return torch.cat([structure.depth[:, None], structure.normal.permute(0, 3, 1, 2), structure.alpha[:, None]], dim=1)
