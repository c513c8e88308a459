"""The .splat format of antimatter15's viewer (https://github.com/antimatter15/splat): small, without harmonics.

Frame: that of splat PLYs, the world frame turned by 180 degrees about Z (right-handed, -Y up, front +Z, metres), which
viewers turn upright; see `splat_ply`. The format has no header to say so.
Layout: 32 bytes a Gaussian, little endian: centre (3 float), scales in metres (3 float), r, g, b, opacity (4 uchar of
255ths), quaternion w, x, y, z (4 uchar, 128 + 128 q). The most important come first, so that a viewer can show them
while it loads the rest. Colours keep only their constant harmonic.
"""

from __future__ import annotations

import numpy as np

from sds3d.geometry.splats import SH_C0, Splats, from_file, turned

_ROW = np.dtype([("centre", "<f4", 3), ("scales", "<f4", 3), ("rgba", "u1", 4), ("rotation", "u1", 4)])


def to_splat(splats: Splats) -> bytes:
    """The Gaussians as one .splat file, by falling opacity times volume.

    Colours are cut off at 0 and 1. Raises ValueError for splats that `Splats.checked` refuses.
    """
    splats = splats.checked()
    importance = splats.opacities.astype(np.float64) * splats.scales.prod(axis=1, dtype=np.float64)
    splats = turned(splats[np.argsort(-importance, kind="stable")])
    rows = np.empty(len(splats), _ROW)
    rows["centre"], rows["scales"] = splats.means, splats.scales
    rows["rgba"][:, :3] = np.rint(splats.colors() * 255)
    rows["rgba"][:, 3] = np.rint(splats.opacities * 255)
    rows["rotation"] = np.clip(np.rint(splats.quats * 128 + 128), 0, 255)
    return rows.tobytes()


def from_splat(data: bytes) -> Splats:
    """The Gaussians of a .splat file, in the file's order and the world frame, with harmonics of degree 0.

    Gaussians with NaN are left out with a warning. Raises ValueError for a file that is empty or not a multiple of
    32 bytes; one that is truncated between two Gaussians cannot be told from a whole one.
    """
    if not data or len(data) % _ROW.itemsize:
        raise ValueError(
            f"a .splat file is a multiple of {_ROW.itemsize} bytes, this has {len(data)}: is it truncated?"
        )
    rows = np.frombuffer(data, _ROW)
    rgba = np.divide(rows["rgba"], 255, dtype=np.float32)
    quats = rows["rotation"].astype(np.float32) - 128
    sh = np.divide(rgba[:, None, :3] - 0.5, SH_C0, dtype=np.float32)
    return from_file(turned(Splats(rows["centre"], quats, rows["scales"], rgba[:, 3], sh)))
