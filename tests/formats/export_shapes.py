"""Analytic density fields, colours and renders as references for the tests of exports."""

from __future__ import annotations

import numpy as np

from sds3d.cameras import Cameras
from sds3d.geometry.mesh import FloatArray, Mesh
from sds3d.representations.density_surface import extract_surface, grid_points


def grid(resolution: int) -> FloatArray:
    """(N, N, N, 3) world points of the density samples."""
    return grid_points(resolution).reshape(resolution, resolution, resolution, 3)


def sphere_density(points: FloatArray, radius: float = 0.35, width: float = 0.1, peak: float = 200.0) -> FloatArray:
    """Zero outside `radius`, rising linearly to `peak` at `width` below the surface."""
    depth = radius - np.linalg.norm(points, axis=-1)
    return (peak * np.clip(depth / width, 0, 1)).astype(np.float32)


def torus_density(points: FloatArray, major: float = 0.3, minor: float = 0.1) -> FloatArray:
    """A ring around the y axis. Its density is 10 at the surface and falls exponentially outwards."""
    ring = np.hypot(points[..., 0], points[..., 2]) - major
    return (10 * np.exp(np.clip(60 * (minor - np.hypot(ring, points[..., 1])), -15, 4))).astype(np.float32)


def position_color(points: FloatArray) -> FloatArray:
    """A colour that encodes the position: sRGB = position + 0.5, for points of the unit cube."""
    return np.clip(points + 0.5, 0, 1).astype(np.float32)


def sphere_alpha(cameras: Cameras, samples: int = 96, **sphere: float) -> FloatArray:
    """Opacity (B, H, W) of `sphere_density` by midpoint quadrature along the rays."""
    origins, directions = (tensor.numpy() for tensor in cameras.rays())
    near, far = float(cameras.distance.min()) - 0.5, float(cameras.distance.max()) + 0.5
    step = (far - near) / samples
    depth = np.zeros(origins.shape[:3])
    for i in range(samples):
        depth += sphere_density(origins + (near + (i + 0.5) * step) * directions, **sphere) * step
    return (1 - np.exp(-depth)).astype(np.float32)


def torus_mesh(max_faces: int = 4000) -> Mesh:
    """A coloured torus made by `extract_surface`."""
    return extract_surface(torus_density(grid(48)), position_color, max_faces=max_faces)
