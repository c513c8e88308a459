"""PNG pictures, and contact sheets that show an asset from all sides."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sds3d.geometry.mesh import FloatArray

_PAPER, _INK, _FAINT = (255, 255, 255), (30, 30, 34), (120, 120, 128)
_GAP, _MARGIN = 4, 16
_REMEMBERED = 1 << 24  # bytes of the largest picture whose file is remembered: a texture of 2048 x 2048


def to_uint8(rgb: FloatArray) -> NDArray[np.uint8]:
    """Convert floats in [0, 1] to bytes, rounded. Values out of range are clipped, NaN becomes black."""
    clipped = np.fmax(np.asarray(rgb, np.float32), 0)  # of a NaN and a number, fmax returns the number
    np.minimum(clipped, 1, out=clipped)
    clipped *= 255
    return np.rint(clipped, out=clipped).astype(np.uint8)


def rgb8(image: Image.Image) -> NDArray[np.uint8]:
    """Return any image as (H, W, 3) bytes. Greys of 16 bits are rounded to 8; alpha is left out."""
    if image.mode.startswith("I"):  # Pillow's own conversion clips values above 255
        grey = np.rint(np.asarray(image).clip(0, 65535) / 257).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    return np.asarray(image.convert("RGB"))


def png(picture: NDArray[np.uint8] | Image.Image) -> bytes:
    """Return a picture, (H, W, 3) or grey (H, W) if it is an array, as a PNG file."""
    if isinstance(picture, Image.Image):
        return _encoded(picture)
    if picture.nbytes > _REMEMBERED:
        return _encoded(Image.fromarray(np.ascontiguousarray(picture)))
    return _encoded_before(picture.tobytes(), picture.shape)


@lru_cache(maxsize=2)
def _encoded_before(pixels: bytes, shape: tuple[int, ...]) -> bytes:
    """Remember the last files, since several formats of an asset hold the same texture."""
    return _encoded(Image.fromarray(np.frombuffer(pixels, np.uint8).reshape(shape)))


def _encoded(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


def to_png(rgb: FloatArray) -> bytes:
    """Return a picture (H, W, 3) in [0, 1] as a PNG file. The pictures of a batch (B, H, W, 3) are put side by side."""
    rgb = np.asarray(rgb, np.float32)
    if rgb.ndim == 4:
        rgb = np.concatenate(list(rgb), axis=1)
    if rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ValueError(f"a picture must have shape (H, W, 3) or (B, H, W, 3), got {rgb.shape}")
    return png(to_uint8(rgb))


def contact_sheet(
    rows: Sequence[tuple[str, FloatArray]], columns: Sequence[str] = (), title: str = "", size: int = 128
) -> Image.Image:
    """Return a sheet with one labelled row of pictures per entry.

    rows: (label, pictures (n, H, W, 3) in [0, 1]); rows may differ in length and in picture size.
    columns: headings above the pictures, such as azimuths. size: side of a picture on the sheet, in pixels.
    Pictures keep their aspect ratio. Small ones are enlarged without blur, so that single pixels stay visible.
    """
    if not rows:
        raise ValueError("a contact sheet needs at least one row of pictures")
    for label, pictures in rows:
        if np.ndim(pictures) != 4 or np.shape(pictures)[3] != 3 or not len(pictures):
            raise ValueError(f"row {label!r} must hold pictures of shape (n, H, W, 3), got {np.shape(pictures)}")
    font, small, large = (ImageFont.load_default(points) for points in (15, 12, 19))
    wrapped = [_wrap(label, font, 200) for label, _ in rows]
    label_width = max(_width(label, font) for label in wrapped)
    label_width += 12 if label_width else 0
    title_height = 34 if title else 0
    heading_height = 20 if columns else 0
    most = max(len(pictures) for _, pictures in rows)
    left, top = _MARGIN + label_width, _MARGIN + title_height + heading_height
    width = left + most * (size + _GAP) - _GAP + _MARGIN
    sheet = Image.new(
        "RGB",
        (max(width, 2 * _MARGIN + _width(title, large)), top + len(rows) * (size + _GAP) - _GAP + _MARGIN),
        _PAPER,
    )
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((_MARGIN, _MARGIN), title, _INK, large)
    for i, heading in enumerate(columns[:most]):
        draw.text((left + i * (size + _GAP) + size / 2, top - 9), heading, _FAINT, small, anchor="ms")
    for row, (label, (_, pictures)) in enumerate(zip(wrapped, rows, strict=True)):
        y = top + row * (size + _GAP)
        draw.multiline_text((_MARGIN, y + size / 2), label, _INK, font, anchor="lm", spacing=3)
        for i, picture in enumerate(pictures):
            tile = _fit(Image.fromarray(to_uint8(picture)), size)
            x = left + i * (size + _GAP)
            sheet.paste(tile, (x + (size - tile.width) // 2, y + (size - tile.height) // 2))
    return sheet


def picture_grid(
    pictures: Sequence[tuple[str, FloatArray]], columns: int = 10, size: int = 128, title: str = ""
) -> Image.Image:
    """Return pictures (H, W, 3) in [0, 1] in rows of `columns`, each with its label below it.

    size: side of a picture on the sheet, in pixels. Longer labels are broken into lines.
    """
    if not pictures:
        raise ValueError("a grid needs at least one picture")
    font, large = ImageFont.load_default(12), ImageFont.load_default(19)
    labels = [_wrap(label, font, size) for label, _ in pictures]
    height = size + 8 + 15 * max(label.count("\n") + 1 for label in labels)
    columns = min(columns, len(pictures))
    top = _MARGIN + (34 if title else 0)
    shape = (columns * (size + _GAP) - _GAP + 2 * _MARGIN, top + -(-len(pictures) // columns) * height + _MARGIN)
    grid = Image.new("RGB", shape, _PAPER)
    draw = ImageDraw.Draw(grid)
    if title:
        draw.text((_MARGIN, _MARGIN), title, _INK, large)
    for i, (label, (_, picture)) in enumerate(zip(labels, pictures, strict=True)):
        x, y = _MARGIN + i % columns * (size + _GAP), top + i // columns * height
        grid.paste(_fit(Image.fromarray(to_uint8(picture)), size), (x, y))
        draw.multiline_text((x + size / 2, y + size + 3), label, _INK, font, anchor="ma", spacing=3, align="center")
    return grid


def stacked(sheets: Sequence[Image.Image]) -> Image.Image:
    """Return sheets one below the other, as wide as the widest."""
    whole = Image.new("RGB", (max(sheet.width for sheet in sheets), sum(sheet.height for sheet in sheets)), _PAPER)
    top = 0
    for sheet in sheets:
        whole.paste(sheet, (0, top))
        top += sheet.height
    return whole


def _fit(picture: Image.Image, size: int) -> Image.Image:
    scale = size / max(picture.size)
    shape = (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1))
    if shape == picture.size:
        return picture
    return picture.resize(shape, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS)


def _width(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    return int(np.ceil(max((font.getlength(line) for line in text.split("\n")), default=0)))


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Break `text` into lines of at most `width` pixels. A longer word stays whole."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return "\n".join(lines)
