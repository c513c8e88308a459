"""The .splat format of antimatter15's viewer (https://github.com/antimatter15/splat): small, without harmonics.

Frame: the frame of splat PLYs, which is the world frame turned by 180 degrees about Z (right-handed, -Y up, front +Z,
metres). Viewers turn it upright; see `splat_ply`. The format has no header that could say so.
Layout: 32 bytes per Gaussian, little endian: centre (3 float), scales in metres (3 float), r, g, b, opacity (4 uchar in
1/255), quaternion w, x, y, z (4 uchar, 128 + 128 q). The most important Gaussians come first, so that a viewer can show
them while it loads the rest. Only the constant harmonic of the colours is kept.
"""

from __future__ import annotations

import numpy as np

from sds3d.formats.base import FileFormat, valid_gaussians
from sds3d.geometry.splats import SH_C0, Splats, turned

_ROW = np.dtype([("centre", "<f4", 3), ("scales", "<f4", 3), ("rgba", "u1", 4), ("rotation", "u1", 4)])


def to_splat(splats: Splats) -> bytes:
    """Return the Gaussians as one .splat file, sorted by opacity times volume, the largest first.

    Colours are clipped to [0, 1]. Raises ValueError for splats that `Splats.checked` refuses.
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
    """Return the Gaussians of a .splat file, in the file's order and the world frame, with harmonics of degree 0.

    Gaussians with NaN are left out with a warning. Raises ValueError if the file is empty or not a multiple of 32
    bytes. A file that is truncated between two Gaussians looks like a complete one.
    """
    if not data or len(data) % _ROW.itemsize:
        raise ValueError(
            f"a .splat file is a multiple of {_ROW.itemsize} bytes, this one has {len(data)}: is it truncated?"
        )
    rows = np.frombuffer(data, _ROW)
    rgba = np.divide(rows["rgba"], 255, dtype=np.float32)
    quats = rows["rotation"].astype(np.float32) - 128
    sh = np.divide(rgba[:, None, :3] - 0.5, SH_C0, dtype=np.float32)
    return valid_gaussians(turned(Splats(rows["centre"], quats, rows["scales"], rgba[:, 3], sh)))


SPLAT = FileFormat(
    "splat",
    ".splat",
    Splats,
    write=lambda splats, _: to_splat(splats),
    read=lambda data, _: from_splat(data),
    up="-y",
    default=True,
)
