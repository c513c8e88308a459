"""Reading the pictures that a run follows: colours, mask, depth and normals as square layers, and their cameras."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sds3d.cameras import Cameras, orbit
from sds3d.config import ConfigError
from sds3d.formats.masks import PictureError, open_picture, read_picture
from sds3d.geometry.mesh import FloatArray
from sds3d.run.copies import PICTURES
from sds3d.run.reference_config import ReferenceConfig

SIDE = 1024
"""Largest height and width in pixels at which pictures are kept."""
FILL = 0.85
"""Distance of the object's farthest pixel from the middle of a picture that is cut to it, as a share of half its
height. In renders of the embedded prior's objects it is 0.8 to 0.9."""
COLOR, MASK, SEEN, DEPTH, NORMAL = slice(0, 3), slice(3, 4), slice(4, 5), slice(5, 6), slice(6, 9)
"""Channels of `View.layers`."""


@dataclass(frozen=True)
class View:
    """A picture that was made square, and its camera.

    layers: (S, S, 5) float32, with depth (S, S, 6), with normals (S, S, 9). COLOR: r, g, b in [0, 1]. MASK: share of
    the pixel that the object covers. SEEN: 1 in the picture, 0 in the margin that made it square. DEPTH: in [0, 1],
    larger is nearer; 0 if there are normals alone. NORMAL: in [-1, 1], in the camera's frame. Colours, depth and
    normals are times the mask, so that the background does not mix with them in smaller pictures. camera: one, of S x S
    pixels.
    """

    layers: FloatArray
    camera: Cameras


def read_view(config: ReferenceConfig, place: str, distance: float, fovy: float) -> View:
    """Read a picture and what belongs to it.

    place: the reference in the settings, for errors. distance, fovy: of the run's renders, in metres and degrees.
    Raises ConfigError, in one line, for files that cannot be read or do not fit together.
    """
    files = {key: Path(name).expanduser() for key in PICTURES if (name := getattr(config, key))}
    try:
        color, mask = read_picture(files["image"], files.get("mask"))
        height, width = mask.shape
        depth = _grey(files["depth"], mask.shape) if "depth" in files else np.zeros_like(mask)
        normal = 2 * _alike(files["normal"], mask.shape) - 1 if "normal" in files else np.zeros_like(color)
    except PictureError as error:
        raise ConfigError(f"{place}: {error}") from None
    covered = mask[..., None]
    layers = np.dstack([color * covered, mask, np.ones_like(mask), depth * mask, normal * covered]).astype(np.float32)
    layers = layers[..., : NORMAL.stop if "normal" in files else DEPTH.stop if "depth" in files else SEEN.stop]
    frame = distance * math.tan(math.radians(fovy) / 2)  # half the height of renders at the origin, in metres
    middle = (config.center[0] * width, config.center[1] * height)
    focal = None if config.fovy is None else height / 2 / math.tan(math.radians(config.fovy) / 2)  # pixels
    if config.pose is None and config.distance is None:
        middle, half = _around(mask)
    else:
        focal = focal or height / 2 / math.tan(math.radians(fovy) / 2)
        half = max(middle[0], width - middle[0], middle[1], height - middle[1])
    angle = fovy if focal is None else 2 * math.degrees(math.atan(half / focal))
    square = _cut(layers, middle, half)
    if config.pose is not None:
        camera = _posed(torch.tensor(config.pose), angle, len(square))
    else:
        away = config.distance or frame / math.tan(math.radians(angle) / 2)
        camera = orbit([config.azimuth or 0.0], config.elevation or 0.0, away, angle, len(square))
    return View(square, camera)


def _posed(pose: torch.Tensor, fovy: float, size: int) -> Cameras:
    """Return a camera with this pose (4, 4). Its angles and distance are those of its position."""
    x, y, z = pose[:3, 3].tolist()
    distance = math.sqrt(x * x + y * y + z * z)
    azimuth, elevation = math.degrees(math.atan2(x, z)) % 360, math.degrees(math.asin(y / max(distance, 1e-9)))
    camera = orbit([azimuth], elevation, distance, fovy, size)
    return Cameras(camera.azimuth, camera.elevation, camera.distance, camera.fovy, size, size, pose[None].float())


def _around(mask: FloatArray) -> tuple[tuple[float, float], float]:
    """Return the middle (x, y) of a mask's object, and half the side of the square around it, in pixels."""
    rows, columns = np.nonzero(mask >= 0.5)
    middle = ((columns.min() + columns.max() + 1) / 2, (rows.min() + rows.max() + 1) / 2)
    farthest = np.hypot(columns + 0.5 - middle[0], rows + 0.5 - middle[1]).max()
    return middle, max(float(farthest), 1.0) / FILL


def _cut(layers: FloatArray, middle: tuple[float, float], half: float) -> FloatArray:
    """Return the square of side 2 `half` around `middle` (x, y), in pixels; outside of the picture it is 0."""
    left, top, right, bottom = middle[0] - half, middle[1] - half, middle[0] + half, middle[1] + half
    before = max(0, math.ceil(-top)), max(0, math.ceil(-left))
    after = max(0, math.ceil(bottom) - layers.shape[0]), max(0, math.ceil(right) - layers.shape[1])
    margin = list(zip(before, after, strict=True))
    box = (left + before[1], top + before[0], right + before[1], bottom + before[0])
    side = min(max(round(2 * half), 8), SIDE)
    padded = (Image.fromarray(np.pad(layers[..., i], margin)) for i in range(layers.shape[2]))  # each may be large
    return np.stack([np.asarray(p.resize((side, side), Image.Resampling.BILINEAR, box)) for p in padded], axis=-1)


def _alike(path: Path, shape: tuple[int, ...]) -> FloatArray:
    """Return the colours (H, W, 3) of a picture that belongs to one of this shape (H, W). Raises PictureError."""
    rgb = open_picture(path)[0]
    height, width = shape
    if abs(rgb.shape[1] * height - rgb.shape[0] * width) > max(*rgb.shape, *shape):
        raise PictureError(
            f"{path.name}: it has another shape than the picture ({rgb.shape[1]} x {rgb.shape[0]} pixels)"
        )
    if rgb.shape[:2] == shape:
        return rgb
    planes = [Image.fromarray(np.ascontiguousarray(rgb[..., i])) for i in range(3)]
    return np.dstack([np.asarray(plane.resize((width, height), Image.Resampling.BILINEAR)) for plane in planes])


def _grey(path: Path, shape: tuple[int, ...]) -> FloatArray:
    """Return the levels (H, W) in [0, 1] of a grey picture, like `_alike`."""
    rgb = _alike(path, shape)
    if np.ptp(rgb, axis=-1).max() > 0.05:
        raise PictureError(f"{path.name}: the picture has colours: give a grey one")
    return rgb.mean(axis=-1, dtype=np.float32)
