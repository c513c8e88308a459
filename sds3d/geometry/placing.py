"""Where an asset of a file lies: its distance from the origin, and which of its axes points up."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LOST = 1e-5  # of the extent, which is about a tenth of a pixel in a large picture


def near_the_origin(points: NDArray[Any]) -> NDArray[np.float64]:
    """Return points (N, 3), moved to the origin in 64 bits if 32 bits would lose their detail where they are.

    Coordinates of maps are an example: metres from the equator. Warns in one line if the points are moved.
    """
    points = points.astype(np.float64)
    low, high = points.min(axis=0), points.max(axis=0)
    reach, extent = float(np.abs([low, high]).max()), float((high - low).max())
    if not 0 < extent < np.inf or reach * float(np.finfo(np.float32).eps) < _LOST * extent:
        return points
    centre = (low + high) / 2
    place = ", ".join(f"{value:.6g}" for value in centre)
    warnings.warn(f"the asset lies far from the origin, round ({place}), and is moved there", stacklevel=3)
    return points - centre
