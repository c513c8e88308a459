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
import warnings

import numpy as np
from numpy.typing import NDArray

from sds3d.formats.base import ANTIALIASED, FileFormat, far_offset, valid_gaussians
from sds3d.formats.ply_elements import colors_of, is_ply, ply_header, read_header, read_rows
from sds3d.geometry.mesh import FloatArray
from sds3d.geometry.splats import SH_C0, Splats, turned

_BLOCK = 65536  # Gaussians converted at a time, so that memory holds little more than the file
_LOGIT = 20.0  # opacities 0 and 1 have infinite logits; the sigmoids of +-20 are within 2e-9 of them
_NORMALS = ["nx", "ny", "nz"]
_CENTRE, _CONSTANT = ["x", "y", "z"], ["f_dc_0", "f_dc_1", "f_dc_2"]
_MOST_REST = 15  # harmonics of a channel above the constant one, at degree 3
_THIRD_SCALE = "scale_2"
_MIP_COMMENT, _COMMENTS = b"SplatRenderMode: mip", 4096  # written by Brush and splat-transform; where to look for it
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
    or without normals and `f_rest`; PlayCanvas' compressed files too. Colours may be `red green blue` instead of
    `f_dc`. Two scales make flat Gaussians (2DGS, arXiv:2403.17888). The filter of Mip-Splatting (arXiv:2311.16493),
    `filter_3D`, becomes part of scales and opacities. Other properties and elements are ignored. Bands of harmonics
    that are zero in all Gaussians are left out. Gaussians with NaN and harmonics above degree 3 are left out with a
    warning.

    Raises ValueError, in one line, if data is not a PLY, is truncated, or holds no Gaussian splats.
    """
    columns = read_rows(data)
    if "packed_position" in columns:
        from sds3d.formats.splat_ply_compressed import decompressed

        columns = decompressed(data)
    needed = [*_CENTRE, *(_CONSTANT if columns.keys() & set(_CONSTANT) else []), *_SHAPE]
    if missing := [name for name in needed if name not in columns and name != _THIRD_SCALE]:
        raise ValueError(f"the PLY holds no Gaussian splats: its vertices lack {', '.join(missing)}")
    if _MIP_COMMENT in data[:_COMMENTS]:
        warnings.warn(ANTIALIASED, stacklevel=2)
    columns = {**columns, **_constant(columns)}
    rest = _rest(columns)
    offset = far_offset(np.stack([columns[name] for name in _CENTRE], axis=1))

    n = len(columns["x"])
    blocks = [{name: column[i : i + _BLOCK] for name, column in columns.items()} for i in range(0, n, _BLOCK)]
    degree = max(_degree(block, rest) for block in blocks)
    shapes = [(n, 3), (n, 4), (n, 3), (n,), (n, (degree + 1) ** 2, 3)]
    whole = Splats(*(np.empty(shape, np.float32) for shape in shapes))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # what is not finite is left out
        for i, block in enumerate(blocks):
            rows = slice(i * _BLOCK, (i + 1) * _BLOCK)
            part = turned(_block_splats(block, offset, rest, whole.sh.shape[1]))
            whole.means[rows], whole.quats[rows], whole.scales[rows] = part.means, part.quats, part.scales
            whole.opacities[rows], whole.sh[rows] = part.opacities, part.sh
    return valid_gaussians(whole)


def _constant(columns: dict[str, NDArray]) -> dict[str, NDArray]:
    """Return the constant harmonics by name, from colours or grey where the file has none."""
    if columns.keys() & set(_CONSTANT):
        return {}
    colors = colors_of(columns)
    if colors is None:
        warnings.warn(
            "the Gaussians have no colours that are known (f_dc, red green blue): they are grey", stacklevel=3
        )
        colors = np.full((len(columns["x"]), 3), 0.5, np.float32)
    return {name: (colors[:, i] - np.float32(0.5)) / np.float32(SH_C0) for i, name in enumerate(_CONSTANT)}


def _rest(columns: dict[str, NDArray]) -> int:
    """Return the number of harmonics above the constant one of each channel. Raises ValueError if degrees are cut."""
    names = [name for name in columns if name.startswith("f_rest_")]
    rest = len(names) // 3
    if (
        len(names) % 3
        or math.isqrt(rest + 1) ** 2 != rest + 1
        or set(names) != {f"f_rest_{i}" for i in range(len(names))}
    ):
        raise ValueError(f"the PLY has {len(names)} f_rest properties: 0, 9, 24, 45 or 72, from f_rest_0, make sense")
    return rest


def _degree(columns: dict[str, NDArray], rest: int) -> int:
    """Return the lowest degree above which all of the `rest` harmonics of each channel are zero, at most 3."""
    used = [i for i in range(rest) if any(columns[f"f_rest_{rest * c + i}"].any() for c in range(3))]
    if used and used[-1] >= _MOST_REST:
        warnings.warn("the harmonics above degree 3, the highest that can be shown, are left out", stacklevel=3)
    return math.isqrt(min(used[-1], _MOST_REST - 1) + 1) if used else 0


def _block_splats(columns: dict[str, NDArray], offset: NDArray[np.float64], rest: int, kept: int) -> Splats:
    """Return the Gaussians as the file stores them, with the first `kept` harmonics."""
    from scipy.special import expit

    def gather(names: list[str]) -> FloatArray:
        return np.stack([columns[name].astype(np.float32) for name in names], axis=1)

    names = [_CONSTANT, *([f"f_rest_{rest * channel + i}" for channel in range(3)] for i in range(kept - 1))]
    sh = np.stack([gather(channels) for channels in names], axis=1)
    opacities, scales = expit(gather(_SHAPE[:1])[:, 0]), np.exp(gather([n for n in _SHAPE[1:4] if n in columns]))
    if scales.shape[1] == 2:
        scales = np.pad(scales, ((0, 0), (0, 1)))
    elif "filter_3D" in columns:
        scales, opacities = _filtered(scales, opacities, columns["filter_3D"])
    means = np.stack([columns[name] - offset[i] for i, name in enumerate(_CENTRE)], axis=1).astype(np.float32)
    return Splats(means, gather(_SHAPE[4:]), scales, opacities, sh)


def _filtered(scales: FloatArray, opacities: FloatArray, width: NDArray) -> tuple[FloatArray, FloatArray]:
    """Return scales and opacities after convolution with Gaussians of the given widths (N,), which keeps their mass."""
    before = scales.astype(np.float64)
    after = np.hypot(before, width.astype(np.float64)[:, None])
    return after.astype(np.float32), (opacities * (before / after).prod(axis=1)).astype(np.float32)


def _recognises(data: bytes) -> bool:
    """Whether data is a PLY of Gaussians, compressed or not."""
    if not is_ply(data):
        return False
    _, elements, _ = read_header(data)
    names = {name for element in elements if element.name == "vertex" for name, _ in element.properties}
    return bool(names & {"f_dc_0", "packed_position"}) or names >= {"opacity", "scale_0", "rot_0"}


SPLAT_PLY = FileFormat(
    "splat-ply",
    "-splats.ply",
    Splats,
    write=lambda splats, _: to_splat_ply(splats),
    read=lambda data, _: from_splat_ply(data),
    recognises=_recognises,
    up="-y",
    default=True,
)
