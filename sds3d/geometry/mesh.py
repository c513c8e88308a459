"""The triangle mesh that representations extract, and that formats read and write."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]

FRAME = "right-handed, +Y up, front +Z, metres"
"""The world frame, as a comment in files of formats that do not define a frame."""


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh in the world frame: right-handed, +Y up, front +Z, metres.

    vertices: (V, 3) float32 positions.
    faces: (F, 3) int32 vertex indices, counter-clockwise when viewed from outside.
    colors: (V, 3) float32 sRGB in [0, 1], or None.
    normals: (V, 3) float32 unit vectors, or None for flat shading.
    uv: (V, 2) float32 in [0, 1], glTF convention (v runs down from the image's top row), or None.
    texture: (H, W, 3) uint8 sRGB base colour sampled at `uv`, or None.
    metallic, roughness: the material's factors in [0, 1].
    metallic_roughness: (H, W, 3) uint8, linear, sampled at `uv`, in glTF's channels: roughness in G, metallic in B, R
        unused. If present, it replaces the two factors. Or None.
    materials: (V, 2) float32 metallic and roughness in [0, 1], of which baking makes `metallic_roughness`; the factors
        are their means. Or None.
    normal_map: (H, W, 3) uint8, linear, sampled at `uv`: unit vectors in the basis of tangent, bitangent and normal,
        from -1 to 1; +Y is the top of the picture, as in glTF. Or None.
    tangents: (V, 4) float32, see `maps.tangents`, or None.
    occlusion: (H, W) uint8, linear, sampled at `uv`: the share of the light from everywhere that arrives. Or None.
    """

    vertices: FloatArray
    faces: IntArray
    colors: FloatArray | None = None
    normals: FloatArray | None = None
    uv: FloatArray | None = None
    texture: NDArray[np.uint8] | None = None
    metallic: float = 0.0
    roughness: float = 0.8
    metallic_roughness: NDArray[np.uint8] | None = None
    materials: FloatArray | None = None
    normal_map: NDArray[np.uint8] | None = None
    tangents: FloatArray | None = None
    occlusion: NDArray[np.uint8] | None = None

    def is_colored(self) -> bool:
        """Whether the mesh has base colours: a texture with its uv, or vertex colours."""
        return self.colors is not None or (self.texture is not None and self.uv is not None)

    def volume(self) -> float:
        """Return the signed volume in cubic metres, positive if the faces of a closed mesh look outwards."""
        a, b, c = (self.vertices[self.faces[:, i]].astype(np.float64) for i in range(3))
        return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6.0)


class EmptySurfaceError(RuntimeError):
    """Raised if a scene has no surface."""
