"""Maps of a render that tell a prior where surfaces are, how they face, and what light falls on them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.prompts.conditioning import Structure
from sds3d.rendering.resizing import resize_planes
from sds3d.rendering.shading import (
    Environment,
    linear_to_srgb,
    metallic_roughness,
    srgb_to_linear,
    toward_viewer,
)

FARTHEST = 0.2
"""Depth in the map of the farthest surface of a picture, so that it differs from the background, which is 0."""

KNOWN = ((0.8, 0.0, 0.9), (0.8, 0.0, 0.2), (0.95, 1.0, 0.1))
"""The materials of `light_maps`, each a grey in sRGB, metallic and roughness: matte, glossy, chrome."""
LIGHT = 3 * len(KNOWN)
"""Channels of `light_maps`."""


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


@torch.no_grad()
def light_maps(
    alpha: Tensor,
    normal: Tensor,
    cameras: Cameras,
    environment: Environment,
    which: Tensor | None = None,
    turn: Tensor | None = None,
) -> Tensor:
    """Return B renders with each of the `KNOWN` materials in the light of their view, (B, H, W, 9) sRGB in [0, 1].

    They tell a prior the light: what is bright in them is lit, whatever the surface is made of (DreamMat, Zhang et al.
    2024, arXiv:2405.17176). alpha: (B, H, W, 1). normal: (B, H, W, 3) in the world frame. which, turn: (B,),
    of lights, see `metallic_roughness`. They are 0 at the background.
    """
    to_camera = -cameras.resized(*alpha.shape[1:3]).rays()[1]  # (B, H, W, 3)
    facing = toward_viewer(normal, to_camera)
    lit = [
        None if each is None else each[:, None, None, None].expand(alpha.shape).to(alpha.device)
        for each in (which, turn)
    ]
    shades = []
    for grey, metallic, roughness in KNOWN:
        base = srgb_to_linear(torch.full_like(normal, grey))
        metal, rough = torch.full_like(alpha, metallic), torch.full_like(alpha, roughness)
        shades.append(metallic_roughness(base, metal, rough, facing, to_camera, environment, 1.0, *lit))
    return alpha * linear_to_srgb(torch.cat(shades, dim=-1)).clamp(0, 1)


def lit_by(structure: Structure, light: Tensor | None) -> Structure:
    """Return the structure with `light_maps` of the same renders, resized to its size."""
    if light is None:
        return structure
    planes = resize_planes(light.permute(0, 3, 1, 2), structure.alpha.shape[1])
    return replace(structure, light=planes.permute(0, 2, 3, 1))


def resized(structure: Structure, size: int) -> Structure:
    """Return the maps at `size` x `size` pixels, bilinear and antialiased."""
    if structure.alpha.shape[1:] == (size, size):
        return structure
    return unstacked(resize_planes(stacked(structure), size))


def stacked(structure: Structure) -> Tensor:
    """Return the maps as channels, (B, 5 or 14, H, W): depth, three components of the normal, opacity, and the light if
    it is told."""
    maps = [structure.depth[:, None], structure.normal.permute(0, 3, 1, 2), structure.alpha[:, None]]
    maps += [] if structure.light is None else [structure.light.permute(0, 3, 1, 2)]
    return torch.cat(maps, dim=1)


def unstacked(maps: Tensor) -> Structure:
    """Undo `stacked`."""
    light = maps[:, 5:].permute(0, 2, 3, 1) if maps.shape[1] > 5 else None
    return Structure(maps[:, 0], maps[:, 1:4].permute(0, 2, 3, 1), maps[:, 4], light)
