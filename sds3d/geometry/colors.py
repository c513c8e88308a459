"""Conversion between sRGB and linear light, for arrays; `rendering.shading` has the same for tensors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sds3d.geometry.mesh import FloatArray


def srgb_to_linear(colors: NDArray[np.floating]) -> FloatArray:
    """Return the linear light of sRGB values in [0, 1] (IEC 61966-2-1), in the same shape."""
    colors = np.clip(colors, 0.0, 1.0)
    return np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4).astype(np.float32)


def linear_to_srgb(light: NDArray[np.floating]) -> FloatArray:
    """Return the sRGB values in [0, 1] of linear light, in the same shape. Inverse of `srgb_to_linear`."""
    light = np.clip(light, 0.0, 1.0)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055).astype(np.float32)
