"""How a mesh or a cloud of splats stands: frames with +Z up, and the size and place on the plate of a 3D printer."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from sds3d.geometry.mesh import Mesh
from sds3d.geometry.splats import Geometry, Splats, rotated

Number = TypeVar("Number", np.float32, np.float64)


def z_up_to_y_up(points: NDArray[Number]) -> NDArray[Number]:
    """Turn points or directions (N, 3) by -90 degrees about X: +Z becomes +Y, and the front, -Y, becomes +Z."""
    return np.stack([points[:, 0], points[:, 2], -points[:, 1]], axis=1)


def y_up_to_z_up(points: NDArray[Number]) -> NDArray[Number]:
    """Return points or directions (N, 3) turned back: the inverse of `z_up_to_y_up`."""
    return np.stack([points[:, 0], -points[:, 2], points[:, 1]], axis=1)


def stood_up(asset: Geometry) -> Geometry:
    """Return a mesh or splats whose file has +Z up in the world frame, +Y up."""
    if isinstance(asset, Splats):
        return rotated(asset, z_up_to_y_up(np.eye(3)).T)
    normals = None if asset.normals is None else z_up_to_y_up(asset.normals)
    return replace(asset, vertices=z_up_to_y_up(asset.vertices), normals=normals)


def for_printing(mesh: Mesh, size: float) -> Mesh:
    """Return the mesh in millimetres with +Z up, standing on the middle of the plate, the plane z = 0.

    size: millimetres of the longest side of its bounding box. Raises ValueError for a mesh without faces or size.
    """
    used = y_up_to_z_up(mesh.vertices[np.unique(mesh.faces)].astype(np.float64))
    if not len(used) or not 0 < (extent := np.ptp(used, axis=0).max()) < np.inf:
        raise ValueError("a mesh without faces or without size cannot be printed")
    low, high = used.min(axis=0), used.max(axis=0)
    foot = np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]])
    vertices = (y_up_to_z_up(mesh.vertices.astype(np.float64)) - foot) * (size / extent)
    normals = None if mesh.normals is None else y_up_to_z_up(mesh.normals)
    return replace(mesh, vertices=vertices.astype(np.float32), normals=normals)
