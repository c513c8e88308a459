"""PLY of Gaussian splats, in the layout of the reference code of Kerbl et al. 2023 (arXiv:2308.04079).

Frame: the world frame turned by 180 degrees about Z (right-handed, -Y up, front +Z, metres). PLY names no axes, but
splats in PLY come from cameras with y pointing down, so SuperSplat, PlayCanvas and Babylon.js turn every such file by
180 degrees when they load it: our files are then upright and face +Z. Comment lines in the header state the frame.
Layout (`binary_little_endian 1.0`): one vertex per Gaussian, all float: `x y z`, `nx ny nz` (zeros), `f_dc_0..2`
(constant harmonic of r, g, b), `f_rest_0..44` (the other 15 of r, then of g, then of b), `opacity` (logit),
`scale_0..2` (logarithms), `rot_0..3` (w, x, y, z): 62 floats, 248 bytes. Some programs require all of them.
"""

from __future__ import annotations

import io
import math

import numpy as np
from numpy.typing import NDArray

from sds3d.formats.base import FileFormat, valid_gaussians
from sds3d.formats.ply_elements import is_ply, ply_header, read_header, read_vertices
from sds3d.geometry.mesh import FloatArray
from sds3d.geometry.splats import Splats, turned

_BLOCK = 65536  # Gaussians converted at a time, so that memory holds little more than the file
_LOGIT = 20.0  # opacities 0 and 1 have infinite logits; the sigmoids of +-20 are within 2e-9 of them
_NORMALS = ["nx", "ny", "nz"]
_CENTRE, _CONSTANT = ["x", "y", "z"], ["f_dc_0", "f_dc_1", "f_dc_2"]
_SHAPE = ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]


def to_splat_ply(splats: Splats, *, compact: bool = False) -> bytes:
    """Return the Gaussians as one PLY file, 248 bytes each.

    compact: leave out the normals and the harmonics that the splats do not have; 56 bytes each at degree 0. Most
    viewers read such files. Raises ValueError for splats that `Splats.checked` refuses.
    """
    from scipy.special import logit

    splats = splats.checked()
    rest = splats.sh.shape[1] - 1 if compact else 15
    names = [*_CENTRE, *([] if compact else _NORMALS), *_CONSTANT, *(f"f_rest_{i}" for i in range(3 * rest)), *_SHAPE]
    properties = [f"float {name}" for name in names]
    file = io.BytesIO()
    file.write(ply_header("right-handed, -Y up, front +Z, metres", {"vertex": (len(splats), properties)}))
    first = names.index("f_dc_0")
    for start in range(0, len(splats), _BLOCK):
        block = turned(splats[start : start + _BLOCK])
        rows = np.zeros((len(block), len(names)), "<f4")
        rows[:, :3] = block.means
        rows[:, first : first + 3] = block.sh[:, 0]
        harmonics = rows[:, first + 3 : -8].reshape(len(block), 3, rest)  # a view
        harmonics[:, :, : block.sh.shape[1] - 1] = block.sh[:, 1:].transpose(0, 2, 1)
        rows[:, -8] = np.clip(logit(block.opacities.astype(np.float64)), -_LOGIT, _LOGIT)
        rows[:, -7:-4] = np.log(block.scales)
        rows[:, -4:] = block.quats
        file.write(rows.data)
    return file.getvalue()


def from_splat_ply(data: bytes) -> Splats:
    """Return the Gaussians of a PLY file, in the world frame. The file's y axis is taken to point down, as is usual.

    Binary files of both byte orders and text files are read, with properties in any order and of any number type, with
    or without normals and `f_rest`. Other properties and elements are ignored. Bands of harmonics that are zero in all
    Gaussians are left out. Gaussians with NaN are left out with a warning.

    Raises ValueError, in one line, if data is not a PLY, is truncated, or holds no Gaussian splats.
    """
    columns = read_vertices(data)
    missing = [name for name in (*_CENTRE, *_CONSTANT, *_SHAPE) if name not in columns]
    if "packed_position" in columns:
        raise ValueError("this is a compressed splat PLY, which cannot be read: convert it to an ordinary one")
    if missing:
        raise ValueError(f"the PLY holds no Gaussian splats: its vertices lack {', '.join(missing)}")
    harmonics = [name for name in columns if name.startswith("f_rest_")]
    if len(harmonics) not in (0, 9, 24, 45) or set(harmonics) != {f"f_rest_{i}" for i in range(len(harmonics))}:
        raise ValueError(f"the PLY has {len(harmonics)} f_rest properties: 0, 9, 24 or 45, from f_rest_0, make sense")

    n = len(columns["x"])
    blocks = [{name: column[i : i + _BLOCK] for name, column in columns.items()} for i in range(0, n, _BLOCK)]
    degree = max(_degree(block, len(harmonics) // 3) for block in blocks)
    shapes = [(n, 3), (n, 4), (n, 3), (n,), (n, (degree + 1) ** 2, 3)]
    whole = Splats(*(np.empty(shape, np.float32) for shape in shapes))
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is left out
        for i, block in enumerate(blocks):
            rows = slice(i * _BLOCK, (i + 1) * _BLOCK)
            part = turned(_block_splats(block, len(harmonics) // 3, whole.sh.shape[1]))
            whole.means[rows], whole.quats[rows], whole.scales[rows] = part.means, part.quats, part.scales
            whole.opacities[rows], whole.sh[rows] = part.opacities, part.sh
    return valid_gaussians(whole)


def _degree(columns: dict[str, NDArray], rest: int) -> int:
    """Return the lowest degree above which all of the `rest` harmonics of each channel are zero."""
    used = [i for i in range(rest) if any(columns[f"f_rest_{rest * c + i}"].any() for c in range(3))]
    return math.isqrt(max(used) + 1) if used else 0


def _block_splats(columns: dict[str, NDArray], rest: int, kept: int) -> Splats:
    """Return the Gaussians as the file stores them, with the first `kept` harmonics."""
    from scipy.special import expit

    def gather(names: list[str]) -> FloatArray:
        return np.stack([columns[name].astype(np.float32) for name in names], axis=1)

    names = [_CONSTANT, *([f"f_rest_{rest * channel + i}" for channel in range(3)] for i in range(kept - 1))]
    sh = np.stack([gather(channels) for channels in names], axis=1)
    opacities = expit(gather(_SHAPE[:1])[:, 0])
    return Splats(gather(_CENTRE), gather(_SHAPE[4:]), np.exp(gather(_SHAPE[1:4])), opacities, sh)


def _recognises(data: bytes) -> bool:
    """Whether data is a PLY of Gaussians, compressed or not."""
    if not is_ply(data):
        return False
    _, elements, _ = read_header(data)
    vertices = [element for element in elements if element.name == "vertex"]
    return any(name in ("f_dc_0", "packed_position") for element in vertices for name, _ in element.properties)


SPLAT_PLY = FileFormat(
    "splat-ply",
    "-splats.ply",
    Splats,
    write=lambda splats, _: to_splat_ply(splats),
    read=lambda data, _: from_splat_ply(data),
    recognises=_recognises,
    default=True,
)
