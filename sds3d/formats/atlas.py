"""One UV space and one texture for the parts of a scene, whose materials have UVs and pictures of their own."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Hashable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sds3d.formats.looks import Look, Part, Picture, texel
from sds3d.geometry.colors import linear_to_srgb, srgb_to_linear
from sds3d.geometry.triangles import connected, surface_area

_SLACK = 1e-3  # of a tile, for the rounding of coordinates: Draco and others quantise them
_TILES = 10  # in a row of UDIM, where each tile has a picture of its own
_MARGIN = 1 / 64  # of a cell's side, round its content
_SMALLEST, _LARGEST, _LARGEST_PAINTED = 256, 4096, 2048  # sides of an atlas in texels
_COARSE = 256  # side of the picture in which overlaps are looked for
_SHARED = 0.02  # of a layout's texels that may lie on another's: neighbours touch

UV = NDArray[np.float64]


@dataclass
class _Group:
    """Parts that share a UV space and pictures.

    parts: their numbers. low, span: the tiles that their UVs cover. corner, side: of their cell in the atlas.
    """

    looks: list[Look]
    parts: list[int]
    low: NDArray[np.float64]
    span: NDArray[np.float64]
    corner: tuple[float, float] = (0.0, 0.0)
    side: float = 1.0
    margin: float = 0.0

    @property
    def look(self) -> Look:
        return self.looks[0]

    def placed(self, uv: UV) -> UV:
        """Return coordinates (V, 2) in the atlas."""
        inner = (uv - self.low) / self.span
        return np.array(self.corner) + self.side * (self.margin + (1 - 2 * self.margin) * inner.clip(0, 1))

    def texels(self, size: int) -> tuple[slice, slice]:
        """Return the rows and columns of the cell in an atlas of a size."""
        left, top = (round(value * size) for value in self.corner)
        side = max(round(self.side * size), 1)
        return slice(top, top + side), slice(left, left + side)


def with_uvs(parts: list[Part]) -> list[Part]:
    """Return parts that all have UVs: those without are unwrapped, and their vertices on seams doubled."""
    bare = sum(part.look.uv is None for part in parts)
    if bare:
        warnings.warn(f"{bare} of {len(parts)} parts have no UVs and are unwrapped", stacklevel=4)
    return [part if part.look.uv is not None else _unwrapped(part, number) for number, part in enumerate(parts)]


def _unwrapped(part: Part, number: int) -> Part:
    from sds3d.geometry.uv_atlas import unwrap

    vertices = (part.vertices - part.vertices.mean(axis=0)).astype(np.float32)
    origin, faces, uv = unwrap(vertices, part.faces, 1024)
    part = part.taken(origin, faces, uv.astype(np.float64))
    return replace(part, look=replace(part.look, layout=("unwrapped", number)))


def one_atlas(parts: list[Part]) -> tuple[UV, Picture | None, Picture | None]:
    """Return UVs (V, 2) in [0, 1] of all vertices, the texture and the metallic-roughness texture, if there are any.

    UVs and pictures that all parts share stay as they are. If the UVs of several layouts do not overlap and there are
    no pictures, they stay as well. Otherwise each layout gets a cell of the atlas, of a size after its surface, and its
    UVs are scaled into the cell; a warning of one line says so. Every part must have UVs.
    """
    uvs, groups = _grouped(parts)
    first = groups[0]
    drawn = [any(group.look.pictures[i] is not None for group in groups) for i in range(2)]
    whole = all((group.low == 0).all() and (group.span == 1).all() for group in groups)
    painted = drawn[0] and any(look.colors is not None for group in groups for look in group.looks)
    if whole and (len(groups) == 1 or (not any(drawn) and not _overlap(parts, uvs, groups))):
        flat = np.concatenate(uvs).clip(0, 1)
        if not painted:
            return flat, first.look.pictures[0], first.look.pictures[1]
    elif len(groups) == 1 and (first.span == 1).all():
        pass  # a single tile elsewhere, which is moved
    elif len(groups) == 1:
        across, down = (int(number) for number in first.span)
        warnings.warn(
            f"the UVs cover {across} x {down} tiles, which become one texture: the UVs are scaled into it", stacklevel=4
        )
    else:
        warnings.warn(
            f"{len(groups)} materials have UVs of their own: they become one atlas, and the UVs are scaled into it",
            stacklevel=4,
        )
        _give_cells(parts, groups)
    number = {part: group for group in groups for part in group.parts}
    placed = [number[i].placed(uv) for i, uv in enumerate(uvs)]
    size = _size(groups, _LARGEST_PAINTED if painted else _LARGEST)
    texture = _texture(parts, placed, groups, size) if drawn[0] else None
    factors = {(group.look.metallic, group.look.roughness) for group in groups}
    materials = _materials(groups, size) if drawn[1] or (drawn[0] and len(factors) > 1) else None
    return np.concatenate(placed), texture, materials


def _grouped(parts: list[Part]) -> tuple[list[UV], list[_Group]]:
    """Return the UVs of each part, moved into one tile where its picture repeats, and the parts by UV space."""
    members: dict[Hashable, list[int]] = {}
    names: dict[int, bytes] = {}
    for i, part in enumerate(parts):
        pictures = part.look.pictures
        for picture in pictures:
            if picture is not None and id(picture) not in names:
                names[id(picture)] = hashlib.sha256(np.ascontiguousarray(picture).data).digest()
        known = tuple(None if picture is None else (picture.shape, names[id(picture)]) for picture in pictures)
        key = (known, part.look.wrap) if any(known) else part.look.layout
        members.setdefault(key, []).append(i)
    uvs = [_in_fewest_tiles(part) for part in parts]
    groups = []
    for numbers in members.values():
        uv = np.concatenate([uvs[i] for i in numbers])
        low = np.floor(uv.min(axis=0) + _SLACK)
        span = np.maximum(np.ceil(uv.max(axis=0) - _SLACK) - low, 1)
        groups.append(_Group([parts[i].look for i in numbers], numbers, low, span))
    return uvs, groups


def _in_fewest_tiles(part: Part) -> UV:
    """Return the part's UVs. Where its pictures repeat, islands are moved by whole tiles, to begin in the first one.

    So are they without pictures, if they lie over more tiles than a set of pictures has.
    """
    uv = part.look.uv
    assert uv is not None
    within = uv.min() >= -_SLACK and uv.max() <= 1 + _SLACK
    bare = all(picture is None for picture in part.look.pictures)
    if within or (bare and np.ptp(uv, axis=0).max() <= _TILES):
        return uv
    number, island = connected(part.faces, len(uv))
    uv = uv.copy()
    for axis in (0, 1):
        if part.look.wrap[axis] == "repeat":
            low = np.full(number, np.inf)
            np.minimum.at(low, island, uv[:, axis])
            uv[:, axis] -= np.floor(low + _SLACK)[island]
    return uv


def _overlap(parts: list[Part], uvs: list[UV], groups: list[_Group]) -> bool:
    """Whether texels of one layout lie on another's, more than where neighbours touch."""
    from sds3d.geometry.uv_atlas import rasterize_uv

    covered = np.zeros((_COARSE, _COARSE), np.bool_)
    for group in groups:
        mine = np.zeros_like(covered)
        for i in group.parts:
            mine |= rasterize_uv(uvs[i].astype(np.float32), parts[i].faces, _COARSE)[0] >= 0
        if (mine & covered).sum() > _SHARED * mine.sum():
            return True
        covered |= mine
    return False


def _give_cells(parts: list[Part], groups: list[_Group]) -> None:
    """Place square cells, each a quarter of a larger one as often as its share of the surface asks for."""
    areas = np.array([sum(surface_area(parts[i].vertices, parts[i].faces) for i in g.parts) for g in groups])
    shares = np.maximum(areas / max(areas.sum(), 1e-30), 1 / (8 * len(groups)))
    levels = np.ceil(np.log(shares.sum() / shares) / np.log(4) - 1e-9).astype(int)
    while (0.25 ** (levels - 1)).sum() <= 1:
        levels -= 1
    deepest, offset = int(levels.max()), 0
    for i in np.argsort(levels, kind="stable"):  # the largest first, along a Z-shaped curve
        x = sum(((offset >> (2 * bit)) & 1) << bit for bit in range(deepest))
        y = sum(((offset >> (2 * bit + 1)) & 1) << bit for bit in range(deepest))
        groups[i].corner, groups[i].side = (x / 2**deepest, y / 2**deepest), 0.5 ** int(levels[i])
        groups[i].margin = _MARGIN
        offset += 4 ** (deepest - int(levels[i]))


def _size(groups: list[_Group], largest: int) -> int:
    """Return the side of an atlas with about as many texels as the pictures have."""
    pictures = [(g, picture) for g in groups for picture in g.look.pictures if picture is not None]
    texels = sum(float(picture.shape[0] * picture.shape[1] * g.span.prod()) for g, picture in pictures)
    return int(np.clip(2 ** np.ceil(np.log2(max(texels, 1)) / 2), _SMALLEST, largest))


def _texture(parts: list[Part], uvs: list[UV], groups: list[_Group], size: int) -> Picture:
    picture = np.full((size, size, 3), 255, np.uint8)
    for group in groups:
        cell = group.texels(size)
        if group.look.texture is not None:
            picture[cell] = _drawn(group, group.look.texture, picture[cell].shape[0], size)
        colors = [look.colors for look in group.looks]
        if all(color is None for color in colors):
            continue
        if all(color is not None and len(color) == 1 and (color == colors[0]).all() for color in colors):
            light = srgb_to_linear(np.asarray(colors[0])).reshape(1, 1, 3)
        else:
            light = _painted(parts, uvs, group, size)[cell]
        picture[cell] = np.rint(linear_to_srgb(srgb_to_linear(picture[cell] / 255) * light) * 255).astype(np.uint8)
    return picture


def _painted(parts: list[Part], uvs: list[UV], group: _Group, size: int) -> NDArray[np.float32]:
    """Return the linear light (S, S, 3) of the vertex colours of a group's parts."""
    from sds3d.geometry.uv_atlas import nearest_inside, rasterize_uv

    light = np.ones((size, size, 3), np.float32)
    inside = np.zeros((size, size), np.bool_)
    for i in group.parts:
        faces, colors = parts[i].faces, parts[i].look.colors
        face, weights = rasterize_uv(uvs[i].astype(np.float32), faces, size)
        mine = face >= 0
        values = np.broadcast_to(np.float32(1) if colors is None else srgb_to_linear(colors), (len(uvs[i]), 3))
        light[mine] = (values[faces[face[mine]]] * weights[mine][:, :, None]).sum(axis=1)
        inside |= mine
    return light.reshape(-1, 3)[nearest_inside(inside)] if inside.any() else light


def _materials(groups: list[_Group], size: int) -> Picture:
    """Return the metallic-roughness texture: roughness in G, metallic in B."""
    if all(group.look.metallic_roughness is None for group in groups):
        size = _SMALLEST
    picture = np.zeros((size, size, 3), np.uint8)
    for group in groups:
        look, cell = group.look, group.texels(size)
        picture[cell] = np.rint([0, look.roughness * 255, look.metallic * 255]).astype(np.uint8)
        if look.metallic_roughness is not None:
            picture[cell] = _drawn(group, look.metallic_roughness, picture[cell].shape[0], size)
    return picture


def _drawn(group: _Group, picture: Picture, side: int, size: int) -> Picture:
    """Return what a cell of (side, side) texels shows of a picture, which may repeat."""
    height, width = picture.shape[:2]
    inner = side * (1 - 2 * group.margin)
    wanted = [max(round(inner / tiles), 1) for tiles in group.span]
    if wanted[0] < width or wanted[1] < height:
        smaller = (min(wanted[0], width), min(wanted[1], height))
        picture = np.asarray(Image.fromarray(picture).resize(smaller, Image.Resampling.BOX))
        height, width = picture.shape[:2]
    across = ((np.arange(side) + 0.5) / side - group.margin) / (1 - 2 * group.margin)
    places = [group.low[i] + group.span[i] * across.clip(0, 1 - 1e-9) for i in range(2)]
    column, row = (texel(places[i], n, group.look.wrap[i]) for i, n in enumerate((width, height)))
    return picture[row[:, None], column]
