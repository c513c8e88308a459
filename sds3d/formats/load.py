"""Load meshes and Gaussian splats from files, to start a run from or to measure."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np

from sds3d.config import nearest
from sds3d.files import first_line
from sds3d.formats.base import FileUp, UpAxis
from sds3d.formats.table import EXTENSIONS, FORMATS
from sds3d.geometry.mesh import FloatArray, Mesh
from sds3d.geometry.placing import stood_up
from sds3d.geometry.splats import Geometry, Splats, turned

RADIUS = 0.5
"""Radius in metres of the sphere around the origin that an asset fits."""

_TOLERANCE = 1.01  # an asset this much larger than the sphere is left as it is
_SMALL = 0.25  # metres; an asset that reaches no further from the origin is enlarged


class AssetError(ValueError):
    """Raised when a file cannot be read. The message is one line and says what to do."""


def load_asset(path: Path | str, up_axis: UpAxis = "auto") -> Geometry:
    """Load the mesh or the Gaussian splats of a file.

    Meshes: GLB, glTF, OBJ (with MTL), PLY, STL and 3MF. The coordinates are kept, those of 3MF in metres, unless they
    are so far from the origin that 32-bit numbers lose their detail. The parts of a scene are moved to their places and
    joined. UVs, vertex colours, base colours, textures, metallic and roughness are kept. UVs and a texture that all
    parts share stay as they are; where parts have their own, or a texture repeats, they become one atlas. A mesh with a
    texture also gets the texture's colours as vertex colours.
    Splats: PLY, .splat, .spz, .sog, and GLB or glTF with KHR_gaussian_splatting. The points of a PLY without faces
    become round Gaussians. Formats that other packages register are read as well.

    up_axis: the axis of the file that points up; the asset is turned so that it becomes +Y. auto: +Z in STL and 3MF,
    -Y in PLY, .splat and .sog of splats, +Y in others.

    The content decides which format a file has, and its extension where the content has no signature.

    Warns, in a line each, of what is turned, moved or left out. Raises AssetError for a file that is missing, empty,
    truncated, of an unknown format, without triangles, or with positions that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise AssetError(f"{path} {'is a folder, not a file' if path.is_dir() else 'does not exist: check the path'}")
    extension = path.suffix.lower()
    if extension not in EXTENSIONS:
        close = nearest(extension, EXTENSIONS)
        hint = f'did you mean "{close[0]}"?' if close else f"files that can be read: {', '.join(EXTENSIONS)}"
        raise AssetError(f'{path}: files ending in "{extension}" cannot be read; {hint}')
    try:
        data = path.read_bytes()
        if not data:
            raise ValueError("the file is empty: write or copy it again")
        with np.errstate(over="ignore", invalid="ignore"):  # values that are not finite are reported
            asset, upwards = _read(data, extension, path.parent)
        if isinstance(asset, Mesh) and not np.isfinite(asset.vertices).all():
            raise ValueError("the mesh is larger than 32-bit numbers can hold: scale it down where it was made")
        return _with_y_up(asset, upwards, up_axis)
    except ValueError as error:
        raise AssetError(f"{path}: {first_line(error)}") from error
    except (MemoryError, RecursionError) as error:
        raise AssetError(f"{path}: the file is too large, or too deeply nested, for this machine") from error
    except OSError as error:
        raise AssetError(f"{path}: {error.strerror or first_line(error)}") from error
    except Exception as error:  # a reader met something that it did not expect: the file is at fault
        name = type(error).__name__
        raise AssetError(f"{path}: the file is damaged ({name}: {first_line(error)}); write it again") from error


def _with_y_up(asset: Geometry, upwards: FileUp, up_axis: UpAxis) -> Geometry:
    """Return the asset with +Y up. upwards: the axis that points up in files of its format."""
    if upwards == "-y" and up_axis != "auto" and isinstance(asset, Splats):
        asset = turned(asset)  # back to the axes of the file
    if up_axis == "y" or (up_axis == "auto" and upwards != "z"):
        return asset
    if up_axis == "auto":
        warnings.warn(
            "+Z is up in files of this format, and becomes +Y; up_axis=y if +Y is up in this one", stacklevel=2
        )
    return stood_up(asset)


def _read(data: bytes, extension: str, folder: Path) -> tuple[Geometry, FileUp]:
    """Return the content of a file, and the axis that points up in files of its format."""
    readers = [(format_, format_.read) for format_ in FORMATS.values() if format_.read is not None]
    for format_, read in reversed(readers):
        if format_.recognises is not None and format_.recognises(data):
            return read(data, folder), format_.up
    # Without a signature the extension decides. The reader says what is missing in a file that should have one.
    format_, read = next(pair for pair in readers if pair[0].extension == extension)
    return read(data, folder), format_.up


def fit_to_cube(asset: Geometry) -> tuple[Geometry, bool]:
    """Return the asset at the size of the toy world, and whether it had to be changed.

    An asset is changed if it reaches more than 1 % out of the sphere of radius 0.5 around the origin, or less than half
    as far as that sphere. Then the centre of its bounding box is moved to the origin and its farthest point to the
    sphere. For meshes, only vertices of triangles count. For splats, all centres count: remove stray Gaussians from a
    captured cloud first.
    """
    points = asset.means if isinstance(asset, Splats) else asset.vertices[np.unique(asset.faces)]
    points = points.astype(np.float64)
    if _SMALL < np.linalg.norm(points, axis=1).max() <= RADIUS * _TOLERANCE:
        return asset, False
    centre = (points.min(axis=0) + points.max(axis=0)) / 2
    reach = float(np.linalg.norm(points - centre, axis=1).max())
    scale = RADIUS / reach if reach > 0 else 1.0

    def moved(positions: FloatArray) -> FloatArray:
        return ((positions.astype(np.float64) - centre) * scale).astype(np.float32)

    if isinstance(asset, Splats):
        scales = (asset.scales * scale).astype(np.float32)
        return replace(asset, means=moved(asset.means), scales=scales).checked(), True
    return replace(asset, vertices=moved(asset.vertices)), True
