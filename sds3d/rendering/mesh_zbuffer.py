"""Rasterise triangles on the CPU with a z-buffer. NumPy arrays, not differentiable; see `mesh_differentiable`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sds3d.cameras import Cameras
from sds3d.compiled import njit
from sds3d.geometry.mesh import FloatArray, IntArray
from sds3d.rendering import mesh_zbuffer_numba as zbuffer
from sds3d.rendering.threads import parallel_map


@dataclass(frozen=True)
class Rasterized:
    """B views of a mesh, sampled at pixel centres. Empty pixels are 0 in every array except `face`.

    attributes: (B, H, W, C) float32, the vertex attributes interpolated perspective-correctly.
    depth: (B, H, W) float32, metres from the camera centre along the pixel's ray.
    face: (B, H, W) int32 index of the nearest face, -1 where empty.
    barycentric: (B, H, W, 3) float32 perspective-correct weights of the face's three vertices; they sum to 1.
    """

    attributes: FloatArray
    depth: FloatArray
    face: IntArray
    barycentric: FloatArray


def rasterize(
    vertices: FloatArray, faces: IntArray, attributes: FloatArray, cameras: Cameras, near: float = 0.01
) -> Rasterized:
    """Rasterise one mesh into B views. Faces are visible from both sides.

    vertices: (V, 3) float32 positions in metres. faces: (F, 3) int32. attributes: (V, C) float32.
    near: metres. A triangle with a vertex closer to the camera than this, or behind it, is left out.

    Raises ValueError for arrays of the wrong shape and for faces with indices out of range.
    """
    vertices = np.ascontiguousarray(vertices, dtype=np.float32)
    faces = np.ascontiguousarray(faces, dtype=np.int32)
    attributes = np.ascontiguousarray(attributes, dtype=np.float32)
    if vertices.ndim != 2 or vertices.shape[1] != 3:
        raise ValueError(f"vertices must have shape (V, 3), got {vertices.shape}")
    if faces.ndim != 2 or faces.shape[1] != 3:
        raise ValueError(f"faces must have shape (F, 3), got {faces.shape}")
    if attributes.ndim != 2 or len(attributes) != len(vertices):
        raise ValueError(f"attributes must have shape ({len(vertices)}, C), one row per vertex, got {attributes.shape}")
    if faces.size and (faces.min() < 0 or faces.max() >= len(vertices)):
        raise ValueError(f"faces must index the {len(vertices)} vertices, got {faces.min()} to {faces.max()}")
    viewmats = cameras.opencv_viewmats().detach().cpu().numpy().astype(np.float32)  # (B, 4, 4)
    focal = cameras.intrinsics()[:, 0, 0].detach().cpu().numpy().astype(np.float32)  # (B,)
    shape = (len(cameras), cameras.height, cameras.width)
    out = Rasterized(
        np.zeros((*shape, attributes.shape[1]), np.float32),
        np.zeros(shape, np.float32),
        np.full(shape, -1, np.int32),
        np.zeros((*shape, 3), np.float32),
    )

    def draw(view: int) -> None:
        screen = np.empty((len(vertices), 3), np.float32)
        zbuffer.project(vertices, viewmats[view], focal[view], *shape[1:], np.float32(near), screen)
        zbuffer.nearest_faces(screen, faces, out.face[view])
        zbuffer.locate(screen, faces, focal[view], out.face[view], out.barycentric[view], out.depth[view])
        zbuffer.interpolate(attributes, faces, out.face[view], out.barycentric[view], out.attributes[view])

    parallel_map(draw, len(cameras))
    return out


def box_filter(pictures: FloatArray, factor: int) -> FloatArray:
    """Average blocks of `factor` x `factor` pixels: (B, H * factor, W * factor, C) -> (B, H, W, C), float32."""
    batch, height, width, channels = pictures.shape
    if height % factor or width % factor:
        raise ValueError(f"{height} x {width} pixels cannot be divided into blocks of {factor} x {factor}")
    out = np.zeros((batch, height // factor, width // factor, channels), np.float32)
    _box_filter(np.ascontiguousarray(pictures, dtype=np.float32), factor, out)
    return out


def antialiased(render: Callable[[Cameras], FloatArray], cameras: Cameras, factor: int = 2) -> FloatArray:
    """Supersample: call `render` (cameras -> (B, H, W, C)) at `factor` times the size and average blocks of pixels."""
    if factor < 1:
        raise ValueError(f"the supersampling factor must be 1 or more, got {factor}")
    pictures = render(cameras.resized(cameras.height * factor, cameras.width * factor))
    return box_filter(pictures, factor) if factor > 1 else pictures


@njit(cache=True, nogil=True, error_model="numpy")
def _box_filter(pictures: FloatArray, factor: int, out: FloatArray) -> None:
    scale = np.float32(1) / np.float32(factor * factor)
    batch, height, width, channels = out.shape
    for i in range(batch):
        for row in range(height * factor):
            for column in range(width * factor):
                for k in range(channels):
                    out[i, row // factor, column // factor, k] += pictures[i, row, column, k]
        for row in range(height):
            for column in range(width):
                for k in range(channels):
                    out[i, row, column, k] *= scale
