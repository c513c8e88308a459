"""Pictures of an object to start from: colours in sRGB, and a mask of the object.

The mask is, in this order: a file of its own, the picture's alpha, what a border of one colour leaves over, or what a
network of the optional package rembg finds.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageFile, ImageOps

from sds3d.extras import install_command
from sds3d.files import NotPlainError, first_line, read_plain
from sds3d.formats.pictures import to_uint8
from sds3d.geometry.colors import linear_to_srgb
from sds3d.geometry.mesh import FloatArray

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
"""Extensions of pictures that can be read."""
BYTES = 64_000_000
"""Largest file of a picture."""
PIXELS = 60_000_000
"""Most pixels of a picture."""
SIDE = 2048
"""Longest side in pixels; larger pictures are reduced to it."""
TOLERANCE = 0.06
"""Largest difference, in any channel of sRGB in [0, 1], between the background and the colour of the border."""
MODELS = ("birefnet-general", "isnet-general-use", "u2net")
"""Networks of rembg that are used, the best first. They are never downloaded here."""

Read = TypeVar("Read")

_FORMATS = ("PNG", "JPEG", "WEBP")
_PLAIN = 0.9  # part of the border that must have its colour
_RING = 2  # pixels of the object's edge that may be mixed with the background
_LEAST = 0.1  # of a mixed pixel's alpha, when its own colour is computed


class PictureError(ValueError):
    """Raised when a picture or its mask cannot be read. The message is one line and says what to do."""


def read_picture(
    file: Path | bytes, mask: Path | bytes | None = None, *, tolerance: float = TOLERANCE
) -> tuple[FloatArray, FloatArray]:
    """Read a picture of an object. Return its colours (H, W, 3), sRGB in [0, 1], and its mask (H, W) in [0, 1].

    The picture is turned as its EXIF data say, converted from its colour profile to sRGB, and reduced to `SIDE` pixels.
    Colours are not multiplied by the mask: a pixel over a background b is mask * rgb + (1 - mask) * b.

    mask: a picture of the same shape whose alpha, or else brightness, is the mask: 1 on the object. Without it, the
    mask is the picture's alpha if that is not 1 everywhere, else that of `masked_by_border` with this tolerance, else
    that of `masked_by_network`. Raises PictureError.
    """
    rgb, alpha = open_picture(file)
    if mask is not None:
        return rgb, read_mask(mask, (rgb.shape[0], rgb.shape[1]))
    found = cut_out(rgb, alpha, tolerance)
    if found is None:
        raise PictureError(f"{_name(file)}: its background is neither transparent nor of one colour: {remedy()}")
    return found.rgb, _filled(found.mask, file)


@dataclass(frozen=True)
class CutOut:
    """An object without its background. rgb: (H, W, 3) in [0, 1]. mask: (H, W) in [0, 1]. how: what made the mask."""

    rgb: FloatArray
    mask: FloatArray
    how: Literal["alpha", "border", "network"]


def cut_out(rgb: FloatArray, alpha: FloatArray | None, tolerance: float = TOLERANCE) -> CutOut | None:
    """Find the object of a picture from `open_picture` as `read_picture` does; None if nothing tells it apart."""
    if alpha is not None:
        return CutOut(rgb, alpha, "alpha")
    if (found := masked_by_border(rgb, tolerance)) is not None:
        return CutOut(*found, "border")
    network = masked_by_network(rgb)
    return None if network is None else CutOut(rgb, network, "network")


def open_picture(file: Path | bytes, pixels: int = PIXELS) -> tuple[FloatArray, FloatArray | None]:
    """Return a picture's colours, see `read_picture`, and its alpha (H, W); None if it is 1 everywhere.

    pixels: most pixels that are decoded, each of 4 to 12 bytes; a JPEG may have more if decoding makes it smaller.
    Raises PictureError.
    """
    return _opened(file, partial(_decoded, pixels=pixels))


def picture_size(file: Path | bytes) -> tuple[int, int]:
    """Return height and width of a picture in pixels of its file, turned as its EXIF data say. Raises PictureError."""
    return _opened(file, _size)


def _opened(file: Path | bytes, read: Callable[[ImageFile.ImageFile, str], Read]) -> Read:
    """Return what `read` makes of an opened image and its name. Raises PictureError."""
    name = _name(file)
    try:
        data = file if isinstance(file, bytes) else read_plain(file, BYTES, follow=True)
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.width * image.height > PIXELS:
                raise _too_large(name, PIXELS)
            return read(image, name)
    except PictureError:
        raise
    except FileNotFoundError:
        raise PictureError(f"{name}: there is no such file") from None
    except (NotPlainError, PermissionError, IsADirectoryError) as error:
        raise PictureError(f"{name}: {first_line(error).replace(f'{file} ', 'it ')}") from None
    except Image.UnidentifiedImageError:
        raise PictureError(f"{name}: it is no PNG, JPEG or WebP picture: save it as one of these") from None
    # A broken file makes Pillow's decoders raise almost anything.
    except Exception as error:
        raise PictureError(f"{name}: it cannot be decoded ({first_line(error)[:100]}): save it again") from None


def read_mask(file: Path | bytes, shape: tuple[int, int]) -> FloatArray:
    """Return a mask of a shape (H, W) from a picture of its own: its alpha, or else its brightness.

    Raises PictureError, also if the picture's sides are not in proportion to the shape.
    """
    rgb, alpha = open_picture(file)
    grey = alpha if alpha is not None else rgb @ np.array([0.2126, 0.7152, 0.0722], np.float32)
    if abs(grey.shape[0] * shape[1] - grey.shape[1] * shape[0]) > max(*grey.shape, *shape):
        sizes = " and ".join(f"{width} x {height}" for height, width in (grey.shape, shape))
        raise PictureError(f"{_name(file)}: the mask and its picture are not of the same shape ({sizes} pixels)")
    if grey.shape != shape:
        grey = np.asarray(Image.fromarray(grey).resize((shape[1], shape[0]), Image.Resampling.BILINEAR))
    return _filled(grey.clip(0, 1).astype(np.float32), file)


def masked_by_border(rgb: FloatArray, tolerance: float = TOLERANCE) -> tuple[FloatArray, FloatArray] | None:
    """Take what has the colour of the border and is connected with it for the background.

    rgb: (H, W, 3) in [0, 1]. Returns colours and mask, see `read_picture`; None if the border is not of one colour.
    Pixels on the object's edge that are mixed with the background get the alpha and the colour of which they are mixed.
    """
    from scipy import ndimage

    frame = np.zeros(rgb.shape[:2], bool)
    frame[[0, -1]] = frame[:, [0, -1]] = True
    color = np.median(rgb[frame], axis=0)
    near = np.abs(rgb - color).max(axis=-1) <= tolerance
    if near[frame].mean() < _PLAIN:
        return None
    labels, count = cast("tuple[NDArray[np.int32], int]", ndimage.label(near))
    outside = np.zeros(count + 1, bool)
    outside[labels[frame]] = True
    outside[0] = False
    return _unmixed(rgb, ~outside[labels], color, tolerance)


def masked_by_network(rgb: FloatArray) -> FloatArray | None:
    """Return the mask (H, W) that a network of rembg makes of a picture (H, W, 3).

    None if the package or all files of `MODELS` are missing. rembg looks for the files in the folder that the
    environment variable REMBG_HOME or U2NET_HOME names, by default ~/.rembg. Raises PictureError if the file found is
    no such network.
    """
    if not (name := model_found()):
        return None
    try:
        masks = _session(name).predict(Image.fromarray(to_uint8(rgb)))
        return _unit(masks[0].convert("L"))
    # onnxruntime's errors have no class in common but this one.
    except Exception as error:
        why = first_line(error)[:200]
        raise PictureError(f"the network {name}.onnx cannot be used ({why}): delete it and {_download(name)}") from None


def model_found() -> str:
    """Return the name of the network that `masked_by_network` uses; "": there is none."""
    if not _installed() or not _downloaded():
        return ""
    from rembg.sessions import sessions

    return next((name for name in MODELS if sessions[name].resolve_existing(f"{name}.onnx")), "")


def remedy() -> str:
    """Return the end of an error message about a picture without a mask: what to do."""
    return f"use a picture with transparency, or give a mask (mask=FILE), or {network_remedy()}"


def network_remedy() -> str:
    """Return what makes `masked_by_network` work on this machine."""
    if not _installed():
        return install_command("background")
    return _download(MODELS[1])


def _download(model: str) -> str:
    return f"download a network: python -c \"import rembg; rembg.new_session('{model}')\""


def _downloaded() -> bool:
    """Whether any file of `MODELS` lies where rembg may look: the first import of rembg compiles for a minute."""
    data = os.getenv("XDG_DATA_HOME", "~")
    homes = (os.getenv("REMBG_HOME"), os.getenv("U2NET_HOME"), "~/.rembg", f"{data}/rembg", f"{data}/.u2net")
    folders = [Path(home).expanduser() for home in homes if home is not None]
    files = [f"{folder}{name}.onnx" for name in MODELS for folder in ("", f"models/{name}/")]
    return any((folder / file).exists() for folder in folders for file in files)


def _installed() -> bool:
    return find_spec("onnxruntime") is not None and find_spec("rembg") is not None  # rembg alone ends the process


@lru_cache(maxsize=1)
def _session(model: str) -> Any:
    import rembg

    return rembg.new_session(model, providers=["CPUExecutionProvider"])


def _too_large(name: str, most: int) -> PictureError:
    return PictureError(f"{name}: it has more than {most // 10**6} million pixels: make it smaller")


def _size(image: ImageFile.ImageFile, name: str) -> tuple[int, int]:
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    return (image.width, image.height) if turned else (image.height, image.width)


def _decoded(opened: ImageFile.ImageFile, name: str, pixels: int) -> tuple[FloatArray, FloatArray | None]:
    """Return the colours and the alpha of an opened image; None if the alpha is 1 everywhere."""
    # A JPEG (then MPO) of a telephone has others of the same view, such as a smaller one, behind the first.
    if getattr(opened, "n_frames", 1) > 1 and opened.format != "MPO":
        warnings.warn(f"{name}: of its {getattr(opened, 'n_frames', 1)} frames, the first is used", stacklevel=4)
    whole = opened.width * opened.height
    opened.draft(None, (SIDE, SIDE))  # JPEG decodes smaller pictures at once, but holds a progressive one in full
    if (whole if "progressive" in opened.info else opened.width * opened.height) > pixels:
        raise _too_large(name, pixels)
    image: Image.Image = opened
    gamma = None if "srgb" in image.info or "icc_profile" in image.info else image.info.get("gamma")
    profile = image.info.get("icc_profile")
    clear = _clear_color(opened, name)
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):  # greys of 16 bits
        alpha = None if clear is None else Image.fromarray(np.uint8(255) * (np.asarray(image) != clear))
        grey = np.array(image, np.float32)
        grey /= 65535
        image = Image.fromarray(grey if profile is None and alpha is None else to_uint8(grey))
        if alpha is not None:
            image.putalpha(alpha)
    elif image.mode in ("P", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
    elif image.mode not in ("L", "LA", "RGB", "RGBA", "CMYK"):
        image = image.convert("RGB")
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    opacity = _unit(image.getchannel("A")) if "A" in image.getbands() else None
    rgb = _colors(image, profile, name)
    if gamma and abs(gamma - 1 / 2.2) > 0.01:
        rgb = linear_to_srgb(rgb ** (1 / gamma))
    return rgb, None if opacity is None or opacity.min() == 1 else opacity


def _clear_color(image: ImageFile.ImageFile, name: str) -> Any:
    """Return the one transparent colour of an opened PNG, in the values of its pixels; None without one.

    Pillow keeps the file's values, but widens greys of 2 and 4 bits to 8 bits, and narrows colours of 16 bits.
    """
    kind = image.tile[0].args if image.format == "PNG" else ""
    if kind == "RGB;16B" and image.info.pop("transparency", None) is not None:
        warnings.warn(f"{name}: its transparent colour of 16 bits is not read: save it with 8 bits", stacklevel=5)
    elif kind in ("L;2", "L;4") and "transparency" in image.info:
        image.info["transparency"] *= {"L;2": 85, "L;4": 17}[kind]
    return image.info.get("transparency")


def _colors(image: Image.Image, profile: bytes | None, name: str) -> FloatArray:
    """Return the colours (H, W, 3) in sRGB of an image with an ICC profile."""
    if image.mode == "F":
        return np.repeat(np.asarray(image).clip(0, 1)[..., None], 3, axis=-1)
    if image.mode in ("LA", "RGBA"):
        image = image.convert(image.mode[:-1])
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            image = converted or image
        except (ImageCms.PyCMSError, OSError, ValueError):
            warnings.warn(f"{name}: its colour profile cannot be used, the colours are taken for sRGB", stacklevel=2)
    return _unit(image.convert("RGB"))


def _unmixed(
    rgb: FloatArray, inside: NDArray[np.bool_], color: NDArray[np.floating], tolerance: float
) -> tuple[FloatArray, FloatArray]:
    """Separate the edge's pixels c = a F + (1 - a) B from the background's colour B.

    F: the nearest pixel of the object that is not on its edge. Pixels that are no such mixture stay as they are.
    """
    from scipy import ndimage

    mask = inside.astype(np.float32)
    ring = inside & cast("NDArray[np.bool_]", ndimage.binary_dilation(~inside, np.ones((3, 3), bool), _RING))
    core = inside & ~ring
    if not core.any() or not ring.any():
        return rgb, mask
    nearest = ndimage.distance_transform_edt(~core, return_distances=False, return_indices=True)
    rows, columns = cast("NDArray[np.int32]", nearest)[:, ring]
    offset, full = rgb[ring] - color, rgb[rows, columns] - color
    length = (full**2).sum(axis=-1)
    a = ((offset * full).sum(axis=-1) / np.maximum(length, 1e-12)).clip(0, 1)[:, None]
    mixed = (np.abs(offset - a * full).max(axis=-1) <= tolerance) & (length > (2 * tolerance) ** 2)
    a = np.where(mixed[:, None], a, 1.0)
    rgb = rgb.copy()
    rgb[ring] = (color + offset / np.maximum(a, _LEAST)).clip(0, 1)
    mask[ring] = a[:, 0]
    return rgb, mask


def _filled(mask: FloatArray, file: Path | bytes) -> FloatArray:
    """Return a mask. Raises PictureError if there is no object in it."""
    if mask.max() < 0.5:
        raise PictureError(f"{_name(file)}: it shows no object: nothing stands out from the background, or is opaque")
    return mask


def _unit(image: Image.Image) -> FloatArray:
    """Return the bytes of an image as numbers in [0, 1]."""
    return np.asarray(image, np.float32) / np.float32(255)


def _name(file: Path | bytes) -> str:
    return "the picture" if isinstance(file, bytes) else file.name
