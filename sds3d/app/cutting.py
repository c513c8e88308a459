"""Pictures that a run follows, as the form holds them: files, cameras, and a person's corrections of the masks."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sds3d.config import ConfigError
from sds3d.formats.masks import TOLERANCE, cut_out, open_picture, read_mask, read_picture
from sds3d.formats.pictures import png, to_uint8
from sds3d.geometry.mesh import FloatArray

MOST = 8
"""Pictures of a run."""
SIDE = 1024
"""Longest side in pixels of a picture that is kept; renders are smaller."""
SHOWN = 720
"""Longest side in pixels of the picture on the page."""
THUMB = 96
PIXELS = 25_000_000
"""Most pixels of a visitor's picture that are decoded, in 250 MB."""
MOST_POINTS = 20_000
"""Points of all strokes, which the page sends with the form."""
ELEVATION = 15.0
"""Degrees above the horizon from which most pictures are taken."""

_TILE, _LIGHT, _DARK = 10, 0.93, 0.8  # of the chequers behind the object
_LEFT = 0.25  # of the picture, before them

How = Literal["alpha", "border", "network", "file", "nothing"]
Share = Annotated[float, Field(ge=-1, le=2)]  # a brush may leave the picture


class Stroke(BaseModel):
    """A line of the brush. keep: whether what it covers belongs to the object, or to the background.

    width: of the brush, as a share of the picture's longer side. points: (x, y), as shares of its width and height.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    keep: bool
    width: float = Field(gt=0, le=1)
    points: tuple[tuple[Share, Share], ...] = Field(min_length=1)


class OwnPicture(BaseModel):
    """A picture in the form.

    file: the token of an upload, or "run:NAME:INDEX" for a picture of a run. azimuth, elevation: of the camera, in
    degrees. tolerance: of `masked_by_border`. strokes: corrections of the mask, the later ones on top.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    file: str
    azimuth: float = Field(default=0.0, ge=-360, le=360)
    elevation: float = Field(default=ELEVATION, ge=-90, le=90)
    tolerance: float = Field(default=TOLERANCE, ge=0, le=1)
    strokes: tuple[Stroke, ...] = ()


class OwnPictures(BaseModel):
    """All pictures in the form, which the page holds as JSON. chosen: the one whose mask is shown."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    pictures: tuple[OwnPicture, ...] = Field(default=(), max_length=MOST)
    chosen: int = Field(default=0, ge=0)

    @property
    def shown(self) -> OwnPicture | None:
        """The chosen picture; None without any."""
        return self.pictures[self.chosen] if self.chosen < len(self.pictures) else None

    def with_shown(self, picture: OwnPicture) -> OwnPictures:
        """Return the pictures with another in place of the chosen one."""
        i = self.chosen
        return OwnPictures(pictures=(*self.pictures[:i], picture, *self.pictures[i + 1 :]), chosen=i)

    def without_shown(self) -> OwnPictures:
        """Return the pictures without the chosen one; the one before it is chosen."""
        i = self.chosen
        return OwnPictures(pictures=self.pictures[:i] + self.pictures[i + 1 :], chosen=max(i - 1, 0))


def read_pictures(text: str) -> OwnPictures:
    """Return the pictures that the page holds. Raises ConfigError."""
    try:
        pictures = OwnPictures.model_validate_json(text) if text else OwnPictures()
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"pictures: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if sum(len(stroke.points) for each in pictures.pictures for stroke in each.strokes) > MOST_POINTS:
        raise ConfigError("pictures: there are too many strokes: press Start again, and use a larger brush")
    return pictures


def normalised(path: Path) -> bytes:
    """Return a visitor's picture as the PNG that is kept: upright, in sRGB, of `SIDE` pixels, with nothing but pixels.

    Raises PictureError.
    """
    rgb, alpha = open_picture(path, PIXELS)
    image = Image.fromarray(to_uint8(rgb if alpha is None else np.dstack([rgb, alpha])))
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return png(image)


def masked(path: Path, mask: Path | None) -> bytes:
    """Return a picture as `normalised`, with the picture of its mask, if there is one, as its transparency.

    Raises PictureError.
    """
    data = normalised(path)
    if mask is None:
        return data
    image = Image.open(io.BytesIO(data)).convert("RGB")
    image.putalpha(Image.fromarray(to_uint8(read_mask(mask, (image.height, image.width)))))
    return png(image)


@dataclass(frozen=True)
class Cut:
    """A picture in two parts. rgb: (H, W, 3) in [0, 1]. mask: (H, W), 1 on the object. how: what made the mask;
    "nothing": the background could not be told apart, so all is the object."""

    rgb: FloatArray
    mask: FloatArray
    how: How


def cut(path: Path, mask: Path | None, tolerance: float = TOLERANCE, strokes: Sequence[Stroke] = ()) -> Cut:
    """Cut the object out of a picture, and correct its mask. mask: a picture of the mask. Raises PictureError.

    Colours and mask are rounded to 8 bits.
    """
    changed = path.stat().st_mtime_ns if path.exists() else 0  # the reader says what is wrong
    layers, how = _cut(path, mask, changed, round(tolerance, 3))
    values = layers.astype(np.float32) / np.float32(255)
    return Cut(values[..., :3], corrected(values[..., 3], strokes), how)


@lru_cache(maxsize=2 * MOST)  # of uploads, 4 MB each; of a run's pictures that were not uploaded, 17 MB at most
def _cut(path: Path, mask: Path | None, changed: int, tolerance: float) -> tuple[NDArray[np.uint8], How]:
    """Return a picture's colours and mask (H, W, 4), and what made the mask. changed: part of the cache key."""
    how: How = "nothing"
    if mask is not None:
        (rgb, alpha), how = read_picture(path, mask), "file"
    else:
        rgb, alpha = open_picture(path)
        if (found := cut_out(rgb, alpha, tolerance)) is not None:
            rgb, alpha, how = found.rgb, found.mask, found.how
    return to_uint8(np.dstack([rgb, np.ones_like(rgb[..., 0]) if alpha is None else alpha])), how


def corrected(mask: FloatArray, strokes: Sequence[Stroke]) -> FloatArray:
    """Return a mask (H, W) that is 1 or 0 where strokes cover it."""
    height, width = mask.shape
    layer = Image.fromarray(to_uint8(mask))
    draw = ImageDraw.Draw(layer)
    touched = Image.new("1", layer.size)
    mark = ImageDraw.Draw(touched)
    for stroke in strokes:
        points = [(x * width, y * height) for x, y in stroke.points]
        across = max(stroke.width * max(width, height), 1.0)
        for on, ink in ((draw, 255 * stroke.keep), (mark, 1)):
            on.line(points, ink, round(across), "curve")
            for x, y in (points[0], points[-1]):
                left, top = x - across / 2, y - across / 2
                on.ellipse((left, top, left + across - 1, top + across - 1), ink)
    return np.where(np.asarray(touched), np.asarray(layer, np.float32) / np.float32(255), mask).astype(np.float32)


def seen(found: Cut) -> str:
    """Return a picture as the source of an image on the page: the object, and its background faint before chequers."""
    scale = min(SHOWN / max(found.mask.shape), 1.0)
    size = tuple(max(round(side * scale), 1) for side in found.mask.shape[::-1])
    rgb, mask = (Image.fromarray(to_uint8(each)).resize(size) for each in (found.rgb, found.mask))
    rows, columns = (np.arange(side) // _TILE for side in mask.size[::-1])
    chequers = np.where((rows[:, None] + columns) % 2, _DARK, _LIGHT)[..., None]
    color, share = np.asarray(rgb) / 255, np.asarray(mask)[..., None] / 255
    return _source(color * share + (1 - share) * (_LEFT * color + (1 - _LEFT) * chequers))


def picture(path: Path) -> str:
    """Return a picture, on white where it is transparent, as the source of an image. Raises PictureError."""
    rgb, alpha = open_picture(path, PIXELS)
    image = Image.fromarray(to_uint8(rgb if alpha is None else rgb * alpha[..., None] + 1 - alpha[..., None]))
    image.thumbnail((SHOWN, SHOWN))
    return _source(np.asarray(image) / 255)


def thumbnail(found: Cut) -> str:
    """Return a small picture of the object on white as the source of an image."""
    image = Image.fromarray(to_uint8(found.rgb * found.mask[..., None] + 1 - found.mask[..., None]))
    image.thumbnail((THUMB, THUMB))
    return _source(np.asarray(image) / 255)


def _source(rgb: NDArray[np.floating]) -> str:
    file = io.BytesIO()
    Image.fromarray(to_uint8(rgb.astype(np.float32))).save(file, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
