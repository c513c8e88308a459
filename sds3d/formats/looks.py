"""The parts of a scene, and how each looks: colours, UVs, pictures and a material."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sds3d.geometry.mesh import FloatArray, IntArray

Picture: TypeAlias = NDArray[np.uint8]
"""(H, W, 3)"""

Wrap = Literal["repeat", "mirror", "clamp"]
"""How a picture continues outside [0, 1]."""


@dataclass(frozen=True)
class Look:
    """The colours and the material of a part with V vertices.

    colors: (V, 3) or (1, 3) sRGB, or None. They multiply the texture, in linear light.
    uv: (V, 2), v down from the picture's top row, also outside [0, 1], or None.
    texture, metallic_roughness: pictures. Factors are already in them. Or None.
    metallic, roughness: the values without a metallic-roughness picture.
    wrap: how the pictures continue along u and along v.
    layout: parts of one layout share their UV space, as those of one material do.
    """

    colors: FloatArray | None = None
    uv: NDArray[np.float64] | None = None
    texture: Picture | None = None
    metallic_roughness: Picture | None = None
    metallic: float = 0.0
    roughness: float = 0.8
    wrap: tuple[Wrap, Wrap] = ("repeat", "repeat")
    layout: Hashable = None

    @property
    def pictures(self) -> tuple[Picture | None, Picture | None]:
        """The base colour and the metallic-roughness texture, None without uv."""
        return (None, None) if self.uv is None else (self.texture, self.metallic_roughness)


@dataclass(frozen=True)
class Part:
    """One piece of a scene, in its place: V vertices, F faces."""

    vertices: NDArray[np.float64]  # (V, 3)
    faces: IntArray  # (F, 3)
    normals: NDArray[np.float64] | None  # (V, 3)
    look: Look

    def taken(self, origin: NDArray[np.integer], faces: IntArray, uv: NDArray[np.float64] | None) -> Part:
        """The part with other vertices, such as some doubled on seams of new UVs (V', 2). origin: (V',), old ones."""
        colors = self.look.colors
        if colors is not None and len(colors) > 1:
            colors = colors[origin]
        normals = None if self.normals is None else self.normals[origin]
        return Part(self.vertices[origin], faces, normals, replace(self.look, colors=colors, uv=uv))


def texel(coordinate: NDArray[np.float64], size: int, wrap: Wrap) -> NDArray[np.int64]:
    """Return the numbers of the texels of a row of `size` that coordinates fall on."""
    inside = (coordinate >= 0) & (coordinate <= 1)
    if wrap == "mirror":
        within = 1 - np.abs(coordinate % 2 - 1)
    else:
        within = coordinate % 1 if wrap == "repeat" else coordinate.clip(0, 1)
    return np.minimum((np.where(inside, coordinate, within) * size).astype(np.int64), size - 1)
