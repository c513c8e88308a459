"""Rotations as compressed formats of splats store them: the three smallest components of a unit quaternion."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sds3d.geometry.mesh import FloatArray

OTHERS = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])
"""The indices of the other components, by the index of the largest one."""


def largest_restored(others: FloatArray, largest: NDArray[np.intp]) -> FloatArray:
    """Return unit quaternions (N, 4) from three components (N, 3) and the index (N,) of the largest, positive one."""
    places = largest[:, None]
    quats = np.empty((len(others), 4), np.float32)
    np.put_along_axis(quats, OTHERS[largest], others, axis=1)
    np.put_along_axis(quats, places, np.sqrt(np.maximum(1 - (others**2).sum(axis=1, keepdims=True), 0)), axis=1)
    return quats
