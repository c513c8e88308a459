"""Lambertian pictures of a mesh on a CPU, for the toybox's data set, previews and contact sheets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from sds3d.cameras import Cameras
from sds3d.mesh import FloatArray, IntArray, Mesh
from sds3d.rendering.rasterize import antialiased, rasterize

_ZERO, _HALF, _ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)


@dataclass(frozen=True)
class Light:
    """One distant light and its ambient share: a surface shows color * (ambient + diffuse * max(0, n.l)).

    direction: (3,) or one a view (B, 3), unit vector of the world frame that points towards the light.
    ambient, diffuse: factors in [0, 1]; their sum is at most 1 where nothing shall be clipped.
    """

    direction: FloatArray
    ambient: float = 0.65
    diffuse: float = 0.35


def headlight(cameras: Cameras, direction: ArrayLike = (-0.4, 0.6, 0.7), ambient: float = 0.65) -> Light:
    """A light carried by each camera. direction: (3,) in the camera's frame (x right, y up, z towards the viewer)."""
    local = np.asarray(direction, dtype=np.float32)
    world = cameras.c2w()[:, :3, :3].detach().cpu().numpy() @ (local / np.linalg.norm(local))  # (B, 3)
    return Light(world.astype(np.float32), ambient, 1.0 - ambient)


def shade_mesh(
    mesh: Mesh,
    cameras: Cameras,
    background: ArrayLike = (1.0, 1.0, 1.0),
    light: Light | None = None,
    supersampling: int = 2,
) -> tuple[FloatArray, FloatArray]:
    """Pictures (B, H, W, 3) float32 in [0, 1] over the background, and coverage (B, H, W, 1) in [0, 1].

    The base colour is the mesh's texture where it has one (bilinear), else its vertex colours, else light grey.
    Surfaces seen from inside are lit by the flipped normal. Light and filter act on sRGB values as they stand.

    background: (3,) sRGB in [0, 1]. light: None is a headlight. supersampling: n for n x n samples a pixel.
    """
    light = light or headlight(cameras)
    directions = np.ascontiguousarray(np.broadcast_to(light.direction, (len(cameras), 3)), dtype=np.float32)
    texture = mesh.texture if mesh.uv is not None else None
    base = mesh.uv if texture is not None else mesh.colors
    if base is None:
        base = np.full_like(mesh.vertices, 0.8)
    corners = mesh.vertices[mesh.faces]  # (F, 3 corners, 3)
    face_normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).astype(np.float32)  # (F, 3)
    to_camera = cameras.position().detach().cpu().numpy()[:, None] - corners[None, :, 0]  # (B, F, 3)
    inside = np.einsum("bfi,fi->bf", to_camera, face_normals) < 0  # (B, F)
    normals = mesh.normals if mesh.normals is not None else np.zeros_like(mesh.vertices)
    attributes = np.concatenate([normals, base], axis=1)  # (V, 3 + 2 or 3)
    ambient, diffuse = np.float32(light.ambient), np.float32(light.diffuse)
    backdrop = np.asarray(background, dtype=np.float32)

    def render(large: Cameras) -> FloatArray:
        hits = rasterize(mesh.vertices, mesh.faces, attributes, large)
        normal, color = hits.attributes[..., :3], hits.attributes[..., 3:]
        if mesh.normals is None:
            normal = face_normals[hits.face]  # (B, H, W, 3); empty pixels are overwritten below
        if texture is not None:
            color = sample_texture(texture, color)
        rgba = np.empty((*hits.face.shape, 4), np.float32)
        _lambert(hits.face, normal, color, inside, directions, ambient, diffuse, backdrop, rgba)
        return rgba

    rgba = antialiased(render, cameras, supersampling)
    return rgba[..., :3], rgba[..., 3:]


def sample_texture(texture: NDArray[np.uint8], uv: FloatArray) -> FloatArray:
    """Bilinear look-ups, clamped at the borders: texture (H, W, 3) uint8, uv (..., 2) -> (..., 3) in [0, 1]."""
    flat = np.ascontiguousarray(uv, dtype=np.float32).reshape(-1, 2)
    out = np.empty((len(flat), 3), np.float32)
    _bilinear(np.ascontiguousarray(texture), flat, out)
    return out.reshape(*uv.shape[:-1], 3)


@njit(cache=True, nogil=True, error_model="numpy")
def _bilinear(texture: NDArray[np.uint8], uv: FloatArray, out: FloatArray) -> None:
    height, width = texture.shape[:2]
    scale = np.float32(1.0 / 255.0)
    for i in range(uv.shape[0]):
        # Texel centres are at half-integers.
        x = min(max(uv[i, 0] * np.float32(width) - _HALF, _ZERO), np.float32(width - 1))
        y = min(max(uv[i, 1] * np.float32(height) - _HALF, _ZERO), np.float32(height - 1))
        left, top = int(x), int(y)
        right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
        fx, fy = x - np.float32(left), y - np.float32(top)
        for k in range(3):
            upper = np.float32(texture[top, left, k]) * (_ONE - fx) + np.float32(texture[top, right, k]) * fx
            lower = np.float32(texture[bottom, left, k]) * (_ONE - fx) + np.float32(texture[bottom, right, k]) * fx
            out[i, k] = (upper * (_ONE - fy) + lower * fy) * scale


@njit(cache=True, nogil=True, error_model="numpy")
def _lambert(
    face: IntArray,
    normal: FloatArray,
    color: FloatArray,
    inside: NDArray[np.bool_],
    directions: FloatArray,
    ambient: np.float32,
    diffuse: np.float32,
    background: FloatArray,
    rgba: FloatArray,
) -> None:
    batch, height, width = face.shape
    for i in range(batch):
        lx, ly, lz = directions[i, 0], directions[i, 1], directions[i, 2]
        for row in range(height):
            for column in range(width):
                f = face[i, row, column]
                if f < 0:
                    for k in range(3):
                        rgba[i, row, column, k] = background[k]
                    rgba[i, row, column, 3] = _ZERO
                    continue
                x, y, z = normal[i, row, column, 0], normal[i, row, column, 1], normal[i, row, column, 2]
                length = np.sqrt(x * x + y * y + z * z)
                cosine = (x * lx + y * ly + z * lz) / length if length > _ZERO else _ZERO
                if inside[i, f]:
                    cosine = -cosine
                shade = ambient + diffuse * max(_ZERO, cosine)
                for k in range(3):
                    rgba[i, row, column, k] = min(max(color[i, row, column, k] * shade, _ZERO), _ONE)
                rgba[i, row, column, 3] = _ONE
