"""A learnable texture on a mesh of fixed connectivity (Metzer et al. 2022, "Latent-Paint", arXiv:2211.07600)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sds3d.geometry.mesh import Mesh
from sds3d.geometry.sampling import mesh_colors
from sds3d.geometry.uv_atlas import nearest_inside, rasterize_uv, unwrap

_ALMOST = 0.02  # initial colours are at least this far from 0 and 1, where the sigmoid is too flat to learn


class Layout(NamedTuple):
    """The corners of faces. Corners at one vertex differ where a file duplicates vertices or the texture has a seam.

    origin: (U,) int64, the vertex of each corner. faces: (F, 3) int64, the corners of each face, in the mesh's order.
    uv: (U, 2) float32 in [0, 1], in glTF's convention; (0, 2) while there is no texture.
    """

    origin: Tensor
    faces: Tensor
    uv: Tensor

    def to(self, device: torch.device) -> Layout:
        """Return a copy on another device."""
        return Layout(*(tensor.to(device) for tensor in self))


class TexelMap(NamedTuple):
    """The part of the mesh that each texel of an S x S texture shows. Texels are numbered row by row.

    source: (S * S,) int64, the texel itself if its centre is on a face, otherwise the nearest such texel. The gutter
    between islands thus has the colours of the islands' borders, and filtering a texture shows no seams.
    neighbours: (E, 2) int64, pairs of sources that are adjacent on an island or on both sides of a seam.
    face: (S, S) int32 at each texel's centre, -1 in the gutter. weights: (S, S, 3), its barycentric weights.
    """

    source: Tensor
    neighbours: Tensor
    face: NDArray[np.int32]
    weights: NDArray[np.float32]


def welded(mesh: Mesh) -> tuple[Tensor, Layout]:
    """Return the mesh's vertices (V, 3) without duplicates, in their order, and the layout of its corners.

    With duplicates, seams would count as silhouettes. The UVs are kept.
    """
    _, first, inverse = np.unique(mesh.vertices, axis=0, return_index=True, return_inverse=True)
    number = np.empty(len(first), np.int64)
    number[np.argsort(first)] = np.arange(len(first))
    uv = np.zeros((0, 2), np.float32) if mesh.uv is None else mesh.uv.astype(np.float32)
    arrays = number[inverse.reshape(-1)], mesh.faces.astype(np.int64), uv.copy()
    return torch.from_numpy(mesh.vertices[np.sort(first)]), Layout(*(torch.from_numpy(array) for array in arrays))


def with_uv(vertices: Tensor, layout: Layout, size: int) -> Layout:
    """Return the layout if it has UVs, otherwise a layout unwrapped for a texture of size x size texels.

    Raises ValueError for UVs outside [0, 1].
    """
    if len(layout.uv):
        if not (layout.uv.min() >= 0 and layout.uv.max() <= 1):
            raise ValueError("the mesh's UVs leave [0, 1], so its texture repeats: unwrap it again, or remove its UVs")
        return layout
    faces = layout.origin[layout.faces].cpu().numpy().astype(np.int32)
    origin, corners, uv = unwrap(vertices.detach().cpu().numpy(), faces, size)
    return Layout(*(torch.from_numpy(array) for array in (origin, corners.astype(np.int64), uv)))


def texel_map(layout: Layout, size: int) -> TexelMap:
    """Return the `TexelMap` of a texture of size x size. Raises ValueError if no texel's centre is on the mesh."""
    uv, faces = layout.uv.cpu().numpy(), layout.faces.cpu().numpy()
    face, weights = rasterize_uv(uv, faces.astype(np.int32), size)
    inside = face >= 0
    if not inside.any():
        raise ValueError(
            f"no texel of {size} x {size} is on the mesh: its UVs have no area, or the texture is too small"
        )
    source = nearest_inside(inside)  # (S, S)
    number = np.arange(size * size).reshape(size, size)
    across, down = inside[:, 1:] & inside[:, :-1], inside[1:] & inside[:-1]
    pairs = np.concatenate(
        [
            np.stack([number[:, :-1][across], number[:, 1:][across]], axis=1),
            np.stack([number[:-1][down], number[1:][down]], axis=1),
            source.ravel()[_seam_texels(uv, faces, layout.origin.cpu().numpy(), size)],
        ]
    )
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    return TexelMap(torch.from_numpy(source.ravel()), torch.from_numpy(pairs), face, weights)


def _seam_texels(
    uv: NDArray[np.float32], faces: NDArray[np.int64], origin: NDArray[np.int64], size: int
) -> NDArray[np.int64]:
    """Return pairs of texels (E, 2) that show the same points of the surface, one pair per texel along each seam."""
    sides = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])  # (3 F, 2) corners
    backward = origin[sides[:, 0]] > origin[sides[:, 1]]
    sides[backward] = sides[backward][:, ::-1]
    ends = origin[sides]
    order = np.lexsort((ends[:, 1], ends[:, 0]))
    sides, ends = sides[order], ends[order]
    same = (ends[1:] == ends[:-1]).all(1) & (sides[1:] != sides[:-1]).any(1)
    one, other = uv[sides[:-1][same]], uv[sides[1:][same]]  # (K, 2 ends, 2)
    length = np.maximum(*(np.linalg.norm(side[:, 1] - side[:, 0], axis=1) for side in (one, other))) * size
    steps = np.ceil(length).astype(np.int64) + 1  # (K,)
    seam = np.repeat(np.arange(len(steps)), steps)
    t = (np.arange(len(seam)) - np.repeat(np.cumsum(steps) - steps, steps) + 0.5) / steps[seam]
    texels = []
    for side in (one, other):
        point = side[seam, 0] + t[:, None] * (side[seam, 1] - side[seam, 0])
        column, row = (point * size).astype(np.int64).clip(0, size - 1).T
        texels.append(row * size + column)
    return np.stack(texels, axis=1)


def start_colors(mesh: Mesh, texels: TexelMap) -> Tensor:
    """Return the pre-activations (S, S, 3) of the mesh's texture, or of its vertex colours; grey if it has neither."""
    inside = texels.face >= 0
    values = torch.zeros(*inside.shape, 3)
    if not mesh.is_colored():
        return values  # all colours are equally near to grey
    colors = mesh_colors(mesh, texels.face[inside], texels.weights[inside])
    values[torch.from_numpy(inside)] = torch.logit(torch.from_numpy(colors).float(), eps=_ALMOST)
    return values


def look_up(texels: Tensor, source: Tensor, uv: Tensor) -> Tensor:
    """Return bilinear look-ups (P, C) of sigmoid(texels), clamped at the borders. Differentiable in texels and uv.

    texels: (S, S, C) pre-activations. source: (S * S,), see `TexelMap`. uv: (P, 2); texel centres are at half-integers
    divided by S.
    """
    size, channels = texels.shape[1:]
    place = (uv * size - 0.5).clamp(0, size - 1)  # (P, 2)
    low = place.detach().floor().clamp(max=max(size - 2, 0)).long()
    right, down = (place - low).unbind(-1)
    first = low[:, 1] * size + low[:, 0]
    corners = torch.stack([first, first + 1, first + size, first + size + 1], dim=1)  # (P, 4)
    weights = torch.stack([(1 - right) * (1 - down), right * (1 - down), (1 - right) * down, right * down], dim=1)
    values = texels.reshape(-1, channels).index_select(0, source[corners.reshape(-1)]).sigmoid()
    return (weights[..., None] * values.reshape(-1, 4, channels)).sum(1)


def picture(texels: Tensor, source: Tensor) -> NDArray[np.uint8]:
    """Return the texture (S, S, C) uint8 that looks like `look_up`."""
    flat = texels.detach().reshape(-1, texels.shape[2]).sigmoid()[source]
    return (255 * flat).round().to(torch.uint8).reshape(texels.shape).cpu().numpy()


def roughening(texels: Tensor, neighbours: Tensor) -> Tensor:
    """Return the mean squared difference of neighbours. texels: (S, S, C). neighbours: (E, 2), see `TexelMap`."""
    flat = texels.reshape(-1, texels.shape[2])
    one, other = (flat.index_select(0, index) for index in neighbours.unbind(1))
    return (one - other).square().sum() / max(len(neighbours) * flat.shape[1], 1)
