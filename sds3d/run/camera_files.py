"""Files that list pictures with their cameras: ours, and transforms.json of NeRF, instant-ngp and nerfstudio.

transforms.json has camera-to-world matrices of OpenGL cameras (x right, y up, looking along -z) in a world with +Z up,
as Blender writes them (Mildenhall et al. 2020). The object may be anywhere and of any size.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sds3d.config import ConfigError, load_yaml
from sds3d.files import first_line, read_plain
from sds3d.formats.masks import PictureError, picture_size, read_picture
from sds3d.run.copies import PICTURES
from sds3d.run.reference_config import MOST

OURS = ("cameras.yaml", "cameras.json")
THEIRS = ("transforms.json", "transforms_train.json")
RADIUS = 0.48
"""Radius in metres of the sphere around the origin that an object of unknown size gets."""
AT_ONCE = 4
"""Pictures that a step looks at; if there are more, they take turns."""
PINHOLES = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL")
DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
_TO_Y_UP = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
_LARGEST = 1e9  # number in a file
_EDGE = 64  # pixels along the longer side of a mask of which the size is measured

Matrix = NDArray[np.float64]


def read_cameras(folder: Path, front: float = 0.0) -> list[dict[str, Any]]:
    """Return the setting `reference` for the pictures of a folder.

    front: for transforms.json, the azimuth of the object's front in degrees, from the world's -Y around +Z.
    Raises ConfigError, in one line, if there is no file with cameras or it cannot be used.
    """
    found = [folder / name for name in (*OURS, *THEIRS) if (folder / name).is_file()]
    if not found:
        raise ConfigError(f"{folder} has no file with cameras: give it {', '.join((*OURS, *THEIRS))}")
    path = found[0]
    if path.name in OURS and front:
        raise ConfigError(f"{path} gives each camera's azimuth: --front is for transforms.json alone, leave it out")
    pictures = _ours(path) if path.name in OURS else _theirs(path, front)
    every = math.ceil(len(pictures) / AT_ONCE)
    return [{"every": every, **picture} for picture in pictures]


def _parsed(path: Path) -> dict[str, Any]:
    """Return the mapping in a file. JSON is read as such, because long files take YAML minutes."""
    if path.suffix == ".yaml":
        return load_yaml(path)
    try:
        values = json.loads(read_plain(path, follow=True))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read: {first_line(error)}") from None
    return values if isinstance(values, dict) else {}


def _ours(path: Path) -> list[dict[str, Any]]:
    values = _parsed(path).get("pictures")
    if not isinstance(values, list) or not all(isinstance(each, Mapping) and "image" in each for each in values):
        raise ConfigError(
            f"{path} has no list of pictures: give pictures: [{{image: FILE, azimuth: 0, elevation: 15}}]"
        )
    _check_count(path, values)
    return [{**each, **{key: str(_inside(path, each[key])) for key in PICTURES if each.get(key)}} for each in values]


def _theirs(path: Path, front: float) -> list[dict[str, Any]]:
    values = _parsed(path)
    frames = values.get("frames")
    if not isinstance(frames, list) or not all(isinstance(frame, Mapping) for frame in frames):
        raise ConfigError(f"{path} is no transforms.json: it has no list of frames")
    _check_count(path, frames)
    frames = [{**values, **frame} for frame in frames]
    pictures, poses, boxes = [], [], []
    for index, frame in enumerate(frames):
        try:
            picture, pose, masked = _frame(path, frame)
        except ConfigError:
            raise
        except (PictureError, ValueError, TypeError, KeyError, ArithmeticError) as error:
            missing = f"{error} is missing" if isinstance(error, KeyError) else first_line(error)
            raise ConfigError(f"{path}: frame {index}: {missing}") from None
        pictures.append(picture)
        poses.append(pose)
        boxes.append(masked)
    if any(frame.get(key) for frame in frames for key in DISTORTION):
        warnings.warn(f"{path.name}: the distortion of the lens is left out: undistort the pictures", stacklevel=2)
    turn = math.radians(-front)
    facing = np.array([[math.cos(turn), 0, math.sin(turn)], [0, 1, 0], [-math.sin(turn), 0, math.cos(turn)]])
    for picture, pose in zip(pictures, _placed(poses, boxes), strict=True):
        whole = np.eye(4)
        whole[:3] = facing @ pose
        picture["pose"] = whole.tolist()
    return pictures


def _frame(path: Path, values: Mapping[str, Any]) -> tuple[dict[str, Any], Matrix, Matrix]:
    """Return a picture without its pose, its pose (3, 4) with +Y up, and rays (n, 3) to the object.

    Rays are in the camera's frame. The first ray leads to the middle of the object, the others to its pixels.
    """
    model = str(values.get("camera_model", "OPENCV")).upper()
    if model not in PINHOLES or values.get("is_fisheye"):
        raise ValueError(f"cameras of the kind {model} are not supported: undistort the pictures to pinhole cameras")
    name = str(values["file_path"])
    image = _inside(path, name if Path(name).suffix else f"{name}.png")  # without it in NeRF's own scenes
    mask = _inside(path, values["mask_path"]) if values.get("mask_path") else None
    opacity = read_picture(image, mask)[1]
    height, width = opacity.shape
    # Intrinsics are in pixels of the picture whose size the file states; without it, of the picture's file.
    full = _stated_size(values, picture_size(image))  # width, height
    across = _number(values, "fl_x", positive=True)
    if across is None:
        angle = _number(values, "camera_angle_x", positive=True)
        if angle is None or angle >= math.pi:
            raise ValueError("the field of view is missing: give camera_angle_x, in radians below pi, or fl_x")
        across = full[0] / 2 / math.tan(angle / 2)
    down = _number(values, "fl_y", positive=True) or across
    if abs(down / across - 1) > 0.01:
        raise ValueError("pixels that are not square are not supported: stretch the pictures")
    axis = _number(values, "cx"), _number(values, "cy")
    center = [0.5 if pixel is None else pixel / side for pixel, side in zip(axis, full, strict=True)]
    if not all(-1 <= share <= 2 for share in center):
        raise ValueError("cx and cy are far outside of the picture: give them in pixels, like w and h")
    fovy = 2 * math.degrees(math.atan(full[1] / 2 / down))
    if not fovy < 179:
        raise ValueError(f"the field of view is {fovy:.0f} degrees: give fl_x in pixels, like w and h")
    focal = height / 2 / math.tan(math.radians(fovy) / 2)  # in pixels of the picture that was read
    step = max(1, max(height, width) // _EDGE)
    rows, columns = np.nonzero(opacity[::step, ::step] >= 0.5)
    if not len(rows):
        rows, columns = np.array([height // 2 // step]), np.array([width // 2 // step])
    x, y = step * columns + 0.5 - center[0] * width, center[1] * height - (step * rows + 0.5)
    x, y = (np.concatenate([[(side.min() + side.max()) / 2], side]) for side in (x, y))
    picture = {"image": str(image), "fovy": fovy, "center": center} | ({"mask": str(mask)} if mask else {})
    return picture, _pose(values["transform_matrix"]), np.stack([x, y, np.full_like(x, -focal)], axis=-1)


def _stated_size(values: Mapping[str, Any], size: tuple[int, int]) -> tuple[float, float]:
    """Return width and height of a picture in the pixels of its intrinsics. size: height and width of its file."""
    height, width = size
    w, h = _number(values, "w", positive=True), _number(values, "h", positive=True)
    if w is None and h is None:
        return width, height
    w, h = w or (h or 0.0) * width / height, h or (w or 0.0) * height / width
    if abs(w * height - h * width) > max(w, h, width, height):  # more than a pixel
        raise ValueError(
            f"w and h are {w:g} x {h:g}, but the picture has {width} x {height} pixels: these must be in proportion"
        )
    return w, h


def _number(values: Mapping[str, Any], key: str, positive: bool = False) -> float | None:
    """Return a number of a file; None if it is missing. Raises ValueError if it cannot be used."""
    given = values.get(key)
    if given is None:
        return None
    known = isinstance(given, (int, float)) and not isinstance(given, bool)
    if not known or not abs(given) < _LARGEST or (positive and given <= 0):
        raise ValueError(f"{key} = {str(given)[:20]}: give a number{' above 0' if positive else ''}")
    return float(given)


def _pose(given: Any) -> Matrix:
    """Return a matrix of transforms.json as (3, 4), with +Y up, its first three columns a rotation."""
    try:
        matrix = np.asarray(given, np.float64)
    except (ValueError, TypeError, OverflowError):
        matrix = np.zeros(0)
    if matrix.shape not in ((4, 4), (3, 4)) or not (np.abs(matrix) < _LARGEST).all():
        raise ValueError("transform_matrix is no matrix of 4 x 4 numbers")
    rotation = matrix[:3, :3]
    scale = abs(np.linalg.det(rotation)) ** (1 / 3)
    u, _, v = np.linalg.svd(rotation)
    nearest = u @ v
    if scale < 1e-9 or np.abs(rotation / scale - nearest).max() > 0.01 or np.linalg.det(nearest) < 0:
        raise ValueError("transform_matrix is no rotation and translation")
    return _TO_Y_UP @ np.hstack([nearest, matrix[:3, 3:]])


def _placed(poses: Sequence[Matrix], rays: Sequence[Matrix]) -> list[Matrix]:
    """Return poses moved and scaled so that the object is round the origin, with the radius `RADIUS`.

    The object's middle is nearest to the lines of sight to the middles of the masks. Its radius is the largest
    distance of the middle from a line of sight to a pixel of a mask.
    """
    lines = [ray @ pose[:, :3].T for pose, ray in zip(poses, rays, strict=True)]  # (n, 3), in the world
    lines = [line / np.linalg.norm(line, axis=-1, keepdims=True) for line in lines]
    across = [np.eye(3) - np.outer(line[0], line[0]) for line in lines]
    right = np.concatenate([a @ pose[:, 3] for a, pose in zip(across, poses, strict=True)])
    middle = np.linalg.lstsq(np.concatenate(across), right, rcond=1e-6)[0]
    offsets = [middle - pose[:, 3] for pose in poses]
    away = [np.linalg.norm(np.cross(line, offset), axis=-1).max() for line, offset in zip(lines, offsets, strict=True)]
    scale = RADIUS / max(*away, 1e-9)
    return [np.hstack([pose[:, :3], scale * (pose[:, 3:] - middle[:, None])]) for pose in poses]


def _check_count(path: Path, listed: Sequence[object]) -> None:
    if not 1 <= len(listed) <= MOST:
        raise ConfigError(f"{path} lists {len(listed)} pictures: give 1 to {MOST}")


def _inside(path: Path, name: object) -> Path:
    """Return the file that a list of cameras names, which must be in its folder."""
    if "\0" in str(name):
        raise ConfigError(f"{path}: {name!r} is no file's name")
    file = (path.parent / str(name)).resolve()
    if not file.is_relative_to(path.parent.resolve()):
        raise ConfigError(f"{path}: {name} is outside of the folder: copy it there")
    return file
