"""Reading panoramas of light: Radiance (.hdr) and OpenEXR (.exr).

Sources: Ward, "Real pixels", Graphics Gems II (1991), for RGBE and its run lengths; https://openexr.com.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sds3d.extras import install_command
from sds3d.files import read_plain

ENDINGS = (".hdr", ".exr")
"""Endings of files that can be read."""

MOST_BYTES = 256_000_000
"""Size of the largest file that is read."""

_PIXELS = 8192 * 4096
_HEADER = 4096  # bytes
_LARGEST = 65504.0  # the largest half float: the sun in a panorama


def read_panorama(path: Path) -> NDArray[np.float32]:
    """Return the linear radiance (h, w, 3) of a panorama, at least 0, laid out as in `sds3d.rendering.panoramas`.

    The picture's middle is in front (+Z), and its right side is where one turns to the right, to -X.
    Raises ValueError, in one line, for a file that is too large, damaged, of another kind, or not twice as wide as
    high; ImportError without the package that reads .exr; OSError.
    """
    kind = path.suffix.lower()
    if kind not in ENDINGS:
        raise ValueError(f"{path.name} is no panorama: give a .hdr or .exr file")
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path.name} is larger than {MOST_BYTES // 10**6} MB: save it with fewer pixels")
    try:
        picture = from_hdr(read_plain(path, MOST_BYTES, follow=True)) if kind == ".hdr" else _from_exr(path)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None
    height, width = picture.shape[:2]
    if width != 2 * height:
        raise ValueError(f"{path.name} has {width} x {height} pixels, but a panorama is twice as wide as high")
    if not np.isfinite(picture).all():
        raise ValueError(f"{path.name} has pixels that are not finite: save it again")
    return np.ascontiguousarray(picture[:, ::-1]).clip(0, _LARGEST)  # pictures are seen from inside: +X is on the left


def from_hdr(data: bytes) -> NDArray[np.float32]:
    """Return the linear radiance (h, w, 3) of a Radiance picture (RGBE), top row first. Raises ValueError."""
    match = re.match(rb"#\?(?:RADIANCE|RGBE)\r?\n((?:[^\n]*\n)*?)\r?\n([^\n]*)\n", data[:_HEADER])
    if match is None:
        raise ValueError("it is no Radiance picture, or its header is damaged")
    lines = [line.strip() for line in match.group(1).decode("latin-1").split("\n")]
    pairs = [line.split("=", 1) for line in lines if "=" in line and not line.startswith("#")]
    variables = dict(pairs)
    exposure = _exposure([value for name, value in pairs if name == "EXPOSURE"])
    if variables.get("FORMAT", "32-bit_rle_rgbe") != "32-bit_rle_rgbe":
        raise ValueError(f"its format is {variables['FORMAT'][:40]}: save it as 32-bit_rle_rgbe")
    size = re.fullmatch(rb"-Y (\d{1,6}) \+X (\d{1,6})\s*", match.group(2))
    if size is None:
        raise ValueError("its rows do not run from the top left: save it with -Y HEIGHT +X WIDTH")
    height, width = int(size.group(1)), int(size.group(2))
    if not 0 < height * width <= _PIXELS:
        raise ValueError(f"it has {width} x {height} pixels; {_PIXELS} are the limit: make it smaller")
    stored = np.frombuffer(data, np.uint8, offset=match.end())
    rgbe = np.empty((height, width, 4), np.uint8)
    place = 0
    for row in rgbe:
        place = _scanline(stored, place, row)
    scale = np.ldexp(np.float32(1.0), rgbe[..., 3].astype(np.int32) - 136)  # 2^(e - 128) / 256
    picture = rgbe[..., :3] * np.where(rgbe[..., 3:] > 0, scale[..., None], 0)
    with np.errstate(all="ignore"):  # pixels that become too bright are refused as not finite
        return (picture / exposure).astype(np.float32)


def _exposure(values: list[str]) -> float:
    """Return the factor by which pixels were multiplied: several lines count together. Raises ValueError."""
    exposure = 1.0
    for value in values:
        try:
            factor = float(value)
        except ValueError:
            factor = math.nan
        exposure *= factor
        if not (factor > 0 and 0 < exposure < math.inf):
            raise ValueError(f"EXPOSURE={value[:40]} is no factor above 0: correct that line, or remove it")
    return exposure


def _scanline(stored: NDArray[np.uint8], place: int, row: NDArray[np.uint8]) -> int:
    """Fill a row (w, 4) from the bytes that begin at `place`. Return the place of the next row. Raises ValueError."""
    width = len(row)
    head = stored[place : place + 4].tolist()
    if len(head) < 4:
        raise ValueError("it is truncated")
    if 8 <= width < 32768 and head[:2] == [2, 2] and head[2] < 128:
        if 256 * head[2] + head[3] != width:
            raise ValueError("a row has another width: the file is damaged")
        return _run_lengths(stored, place + 4, row)
    return _flat(stored, place, row)


def _run_lengths(stored: NDArray[np.uint8], place: int, row: NDArray[np.uint8]) -> int:
    """Read a row whose four channels are each packed by run lengths."""
    width = len(row)
    for channel in range(4):
        column = 0
        while column < width:
            if place + 2 > len(stored):
                raise ValueError("it is truncated")
            count = int(stored[place])
            run = count > 128
            count -= 128 if run else 0
            taken = 1 if run else count
            values = stored[place + 1 : place + 1 + taken]
            if not 0 < count <= width - column or len(values) < taken:
                raise ValueError("a row is damaged or truncated")
            row[column : column + count, channel] = values
            place += 1 + taken
            column += count
    return place


def _flat(stored: NDArray[np.uint8], place: int, row: NDArray[np.uint8]) -> int:
    """Read a row of pixels; (1, 1, 1, n) repeats the pixel before n times, and further ones 256 times as often."""
    width, column, shift = len(row), 0, 0
    while column < width:
        pixel = stored[place : place + 4]
        if len(pixel) < 4:
            raise ValueError("it is truncated")
        if (pixel[:3] == 1).all():
            count = int(pixel[3]) << shift
            if column == 0 or count > width - column:
                raise ValueError("a row is damaged")
            row[column : column + count] = row[column - 1]
            column, shift = column + count, shift + 8
        else:
            row[column] = pixel
            column, shift = column + 1, 0
        place += 4
    return place


def _from_exr(path: Path) -> NDArray[np.float32]:
    """Return the channels R, G and B of an OpenEXR file. Raises ValueError, ImportError."""
    try:
        import OpenEXR
    except ImportError:
        raise ImportError(f"reading .exr files needs OpenEXR: {install_command('exr')}, or give a .hdr file") from None
    try:
        with OpenEXR.File(str(path), header_only=True) as file:
            (left, top), (right, bottom) = file.header()["dataWindow"]
            height, width = int(bottom) - int(top) + 1, int(right) - int(left) + 1
        if not 0 < height * width <= _PIXELS:
            raise ValueError(f"it has {width} x {height} pixels; {_PIXELS} are the limit: make it smaller")
        with OpenEXR.File(str(path), separate_channels=True) as file:
            channels = file.channels()
            missing = [name for name in "RGB" if name not in channels]
            if missing:
                raise ValueError(f"it has no channel {missing[0]}: save it as RGB")
            planes = [np.asarray(channels[name].pixels, np.float32) for name in "RGB"]
    except RuntimeError as error:  # of the library
        raise ValueError(f"it cannot be read ({' '.join(str(error).split())[:120]})") from None
    if any(plane.shape != (height, width) for plane in planes):
        raise ValueError("its colours are stored with fewer pixels: save it as RGB")
    return np.stack(planes, axis=-1)
