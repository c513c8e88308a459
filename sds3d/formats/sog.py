"""PlayCanvas' SOG of Gaussian splats, as splat-transform and SuperSplat write it, version 2; it is read only.

Frame: that of splat PLYs, see `splat_ply`.
Layout: a zip file, or a folder, with a `meta.json` and lossless WebP pictures. Pixel i, row by row, has the values of
Gaussian i. Means: sign(x) log(1 + |x|), between limits, with 16 bits per axis in two pictures. Quaternions: the three
smallest components, and in alpha 252 plus the index of the largest of w, x, y, z. Scales (logarithms) and the constant
harmonic: indices into tables of 256 numbers, with the opacity in alpha. The other harmonics: 16-bit indices into a
palette. The palette is a picture with 64 entries per row and one pixel per harmonic; r, g, b are indices into another
table.
Specification: https://developer.playcanvas.com/user-guide/gaussian-splatting/formats/sog/
"""

from __future__ import annotations

import io
import json
import math
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sds3d.formats.base import ANTIALIASED, FileFormat, valid_gaussians
from sds3d.formats.splat_bits import largest_restored
from sds3d.geometry.splats import Splats, turned

_META = "meta.json"
_PALETTE_WIDTH = 64  # entries per row
_FIRST_TAG = 252  # of the index of a quaternion's largest component
_SLACK = 1 << 20  # bytes; WebP is not compressed further by the zip file, but meta.json is


def from_sog(data: bytes) -> Splats:
    """Return the Gaussians of a .sog file. Raises ValueError, in one line, if it is damaged or of another version."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            root = next(name for name in archive.namelist() if name.rpartition("/")[2] == _META).removesuffix(_META)

            def load(name: str) -> bytes:
                if archive.getinfo(root + name).file_size > len(data) + _SLACK:
                    raise ValueError(f"the .sog is damaged: {name} is larger than the whole file")
                return archive.read(root + name)

            return _splats(json.loads(load(_META)), load)
    except (zipfile.BadZipFile, StopIteration) as error:
        raise ValueError(f"the .sog is truncated, or no zip file with a {_META}: {error}") from None


def from_sog_folder(data: bytes, folder: Path) -> Splats:
    """Return the Gaussians of a SOG in a folder. data: its meta.json. Raises ValueError as `from_sog` does."""

    def load(name: str) -> bytes:
        if Path(name).name != name:
            raise ValueError(f"{_META} names a file outside its folder: {name[:80]!r}")
        return (folder / name).read_bytes()

    return _splats(json.loads(data), load)


def _splats(meta: dict[str, Any], load: Callable[[str], bytes]) -> Splats:
    try:
        if meta.get("version") != 2:
            version = meta.get("version", 1 if "means" in meta else "unknown")
            raise ValueError(f"SOG of version 2 can be read, this one is {version}: convert it with splat-transform")
        if meta.get("model") == "antialiased":
            warnings.warn(ANTIALIASED, stacklevel=4)
        count: int = meta["count"]
        low, high = (np.array(meta["means"][key], np.float64) for key in ("mins", "maxs"))
        lower, upper = (_pixels(load(name), count) for name in meta["means"]["files"])
        fraction = (lower[:, :3] + 256.0 * upper[:, :3]) / 65535
        logarithms = low + np.where(high > low, high - low, 1) * fraction
        quats = _pixels(load(meta["quats"]["files"][0]), count)
        scales = _pixels(load(meta["scales"]["files"][0]), count)[:, :3]
        constant = _pixels(load(meta["sh0"]["files"][0]), count)
        sh = _table(meta["sh0"])[constant[:, None, :3]]  # (N, 1, 3)
        if "shN" in meta:
            sh = np.concatenate([sh, _harmonics(meta["shN"], load, count)], axis=1)
        return valid_gaussians(
            turned(
                Splats(
                    (np.sign(logarithms) * np.expm1(np.abs(logarithms))).astype(np.float32),
                    _rotations(quats),
                    np.exp(_table(meta["scales"])[scales]),
                    np.divide(constant[:, 3], 255, dtype=np.float32),
                    sh,
                )
            )
        )
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"the SOG is damaged: {type(error).__name__} {error}") from None


def _pixels(picture: bytes, count: int) -> NDArray[np.uint8]:
    """Return the first `count` pixels (N, 4) of a picture."""
    pixels = _rgba(picture).reshape(-1, 4)
    if not 0 < count <= len(pixels):
        raise ValueError(f"the SOG is damaged: it promises {count} Gaussians, and a picture has {len(pixels)} pixels")
    return pixels[:count]


def _rgba(picture: bytes) -> NDArray[np.uint8]:
    from PIL import Image

    with Image.open(io.BytesIO(picture), formats=["WEBP"]) as image:
        return np.asarray(image.convert("RGBA"))


def _table(entry: dict[str, Any]) -> NDArray[np.float32]:
    return np.array(entry["codebook"], np.float32)


def _rotations(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return quaternions (N, 4) w, x, y, z; the identity for an invalid tag."""
    others = ((pixels[:, :3] / 255 * 2 - 1) / math.sqrt(2)).astype(np.float32)
    known = pixels[:, 3] >= _FIRST_TAG
    quats = largest_restored(others, np.where(known, pixels[:, 3], _FIRST_TAG).astype(np.intp) - _FIRST_TAG)
    quats[~known] = [1, 0, 0, 0]
    return quats


def _harmonics(entry: dict[str, Any], load: Callable[[str], bytes], count: int) -> NDArray[np.float32]:
    """Return the harmonics (N, K - 1, 3) above the constant one; zeros for an index that the palette does not have."""
    if entry["bands"] not in (1, 2, 3):
        raise ValueError(f"the SOG has harmonics of degree {entry['bands']}: 1, 2 and 3 can be read")
    rest = (entry["bands"] + 1) ** 2 - 1
    palette, labels = _rgba(load(entry["files"][0])), _pixels(load(entry["files"][1]), count)
    if palette.shape[1] != _PALETTE_WIDTH * rest:
        raise ValueError(f"the SOG is damaged: its palette is {palette.shape[1]} pixels wide")
    entries = _table(entry)[palette[..., :3]].reshape(-1, rest, 3)[: entry["count"]]
    label = labels[:, 0] + 256 * labels[:, 1].astype(np.intp)
    known = label < len(entries)
    return entries[np.where(known, label, 0)] * known[:, None, None]


def _recognises(data: bytes) -> bool:
    if data[:4] != b"PK\x03\x04":
        return False
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return any(name.rpartition("/")[2] == _META for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


SOG = FileFormat("sog", ".sog", Splats, read=lambda data, _: from_sog(data), recognises=_recognises, up="-y")
SOG_FOLDER = FileFormat("sog-folder", _META.removeprefix("meta"), Splats, read=from_sog_folder, up="-y")
