"""Objects of the toy world in shapes that their name does not tell, from which a prior learns to follow the structure.

They are doubled by their mirror image (a mug with two handles, a duck with two heads), turned, tipped over or
stretched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from sds3d.geometry.mesh import FloatArray, Mesh


def varied(mesh: Mesh, rng: np.random.Generator) -> Mesh:
    """Return the mesh in another shape, centred, and as large as before."""
    radius = float(np.linalg.norm(mesh.vertices, axis=1).max())
    if rng.random() < 0.35:
        mesh = joined(mesh, mirrored(mesh, int(rng.choice([0, 2]))))
    if rng.random() < 0.35:
        mesh = turned(mesh, "y", float(rng.uniform(0, 360)))
    if rng.random() < 0.35:
        mesh = turned(mesh, "xz"[int(rng.integers(2))], 90 * float(rng.integers(1, 4)))
    if rng.random() < 0.8:
        mesh = stretched(mesh, np.exp(rng.uniform(-0.5, 0.5, 3)))
    return fitted(mesh, radius)


def stretched(mesh: Mesh, factors: np.ndarray) -> Mesh:
    """Return the mesh stretched along the axes by the factors (3,)."""
    vertices = (mesh.vertices * factors).astype(np.float32)
    return replace(mesh, vertices=vertices, normals=_unit(mesh.normals, 1 / factors))


def mirrored(mesh: Mesh, axis: int) -> Mesh:
    """Return the mirror image of the mesh along an axis."""
    factors = np.ones(3)
    factors[axis] = -1
    return replace(stretched(mesh, factors), faces=mesh.faces[:, ::-1].copy())


def turned(mesh: Mesh, axis: str, degrees: float) -> Mesh:
    """Return the mesh turned about an axis of the world, x, y or z, by the right-hand rule."""
    i = "xyz".index(axis)
    j, k = (i + 1) % 3, (i + 2) % 3
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    matrix = np.eye(3)
    matrix[j, j], matrix[j, k], matrix[k, j], matrix[k, k] = cosine, -sine, sine, cosine
    normals = None if mesh.normals is None else (mesh.normals @ matrix.T).astype(np.float32)
    return replace(mesh, vertices=(mesh.vertices @ matrix.T).astype(np.float32), normals=normals)


def joined(first: Mesh, second: Mesh) -> Mesh:
    """Return two meshes with vertex colours and normals as one."""

    def cat(of: Callable[[Mesh], FloatArray | None]) -> FloatArray | None:
        parts = [part for part in map(of, (first, second)) if part is not None]
        return np.concatenate(parts) if len(parts) == 2 else None

    return Mesh(
        np.concatenate([first.vertices, second.vertices]),
        np.concatenate([first.faces, second.faces + np.int32(len(first.vertices))]),
        cat(lambda mesh: mesh.colors),
        cat(lambda mesh: mesh.normals),
    )


def fitted(mesh: Mesh, radius: float) -> Mesh:
    """Return the mesh with its bounding box centred, and its farthest vertex `radius` from the origin."""
    middle = (mesh.vertices.min(axis=0) + mesh.vertices.max(axis=0)) / 2
    centred = mesh.vertices.astype(np.float64) - middle
    centred *= radius * (1 - 1e-6) / np.linalg.norm(centred, axis=1).max()
    return replace(mesh, vertices=centred.astype(np.float32))


def _unit(normals: FloatArray | None, factors: np.ndarray) -> FloatArray | None:
    if normals is None:
        return None
    scaled = normals * factors
    return (scaled / np.linalg.norm(scaled, axis=1, keepdims=True).clip(1e-12)).astype(np.float32)
