"""What a file format is, and checks that several formats share.

A format is a module with a reader, a writer and one `FileFormat` that names them. `sds3d.formats.table` lists all
formats. Another package adds one with an entry point of the group `sds3d.formats`:

    [project.entry-points."sds3d.formats"]
    off = "my_package.off:OFF"
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from sds3d.geometry.mesh import Mesh
from sds3d.geometry.splats import Geometry, Splats

UpAxis = Literal["auto", "y", "z"]
"""The axis of a file that points up; auto: that of its format."""

FileUp = Literal["y", "z", "-y"]
"""The axis that points up in the files of a format, if nobody says otherwise."""

AssetT = TypeVar("AssetT", Mesh, Splats)

ANTIALIASED = "the Gaussians were trained for antialiased rendering, which is not applied: small ones look too large"
"""Warning about files that declare this."""

_COARSE = 1e-5  # largest rounding error of coordinates, as a fraction of the asset's size


@dataclass(frozen=True)
class FileFormat(Generic[AssetT]):
    """A file format of meshes or of Gaussian splats.

    name: the name in settings and on the command line, such as "splat-ply".
    ending: what follows the asset's name in the file's name, such as ".glb" or "-splats.ply".
    holds: Mesh or Splats.
    write: turns an asset and its name into the file's bytes, or into several files by name, the main one first. Raises
        ValueError for an asset that the format cannot hold. None if the format cannot be written.
    read: turns bytes, and the folder that holds the files they refer to, into a mesh or splats. Raises ValueError with
        a message of one line. None if the format cannot be read.
    recognises: whether bytes are a file of this format. None if its files have no signature: then the extension of the
        file's name decides.
    textured: whether `write` takes a mesh with a texture; without one, the texture is baked first.
    printed: whether files are for 3D printers: `write` takes a mesh in millimetres with +Z up.
    up: the axis of the file that points up, where the file itself does not tell. `read` does not turn +Z, but turns
        what has -Y up, such as PLY files of splats, by 180 degrees about Z.
    default: whether the format is written when a run names no formats.
    prepare: loads the library that `write` needs; called before other threads start.
    """

    name: str
    ending: str
    holds: type[AssetT]
    write: Callable[[AssetT, str], bytes | dict[str, bytes]] | None = None
    read: Callable[[bytes, Path], Geometry] | None = None
    recognises: Callable[[bytes], bool] | None = None
    textured: bool = False
    printed: bool = False
    up: FileUp = "y"
    default: bool = False
    prepare: Callable[[], None] = lambda: None

    @property
    def extension(self) -> str:
        """The extension of the file's name, in lower case and with its dot."""
        return "." + self.ending.rpartition(".")[2].lower()

    def files(self, asset: Geometry | None, name: str) -> dict[str, bytes]:
        """Return the files of an asset by name, the main one first.

        Raises ValueError if the asset is not what the format holds, or if the format cannot be written.
        """
        if self.write is None:
            raise ValueError(f"{self.name} files can be read, but not written")
        if not isinstance(asset, self.holds):
            need = "a mesh" if self.holds is Mesh else "splats: sds3d.geometry.sampling.splats_from_mesh makes some"
            raise ValueError(f"{self.name} needs {need}")
        written = self.write(asset, name)
        return written if isinstance(written, dict) else {f"{name}{self.ending}": written}


def check_faces(mesh: Mesh, kind: str) -> None:
    """Raise ValueError for a mesh without faces. kind: the format's name in the message."""
    if not len(mesh.faces):
        raise ValueError(f"a mesh without faces cannot be written as {kind}")


def check_uv(mesh: Mesh) -> None:
    """Raise ValueError for a mesh with a texture of any kind but without uv."""
    pictures = (mesh.texture, mesh.metallic_roughness, mesh.normal_map, mesh.occlusion)
    if mesh.uv is None and any(picture is not None for picture in pictures):
        raise ValueError("a textured mesh needs uv coordinates: bake() makes both")


def valid_gaussians(splats: Splats) -> Splats:
    """Return the valid Gaussians of a file, `checked`. Warn with the number of the others, if any.

    Other programs do write a few NaN, and the rest of such a file is still worth reading. Raises ValueError if nothing
    is left.
    """
    valid, dropped = splats.without_invalid()
    if not len(valid):
        raise ValueError("the file holds no Gaussians" if not dropped else f"all {dropped} Gaussians are invalid")
    if dropped:
        message = f"{dropped} of {len(splats)} Gaussians have NaN, infinite or impossible values and are left out"
        warnings.warn(message, stacklevel=3)
    return valid.checked()


def far_offset(points: NDArray) -> NDArray[np.float64]:
    """Return what to subtract from points (N, 3) before they become 32-bit numbers, (3,) in whole units.

    It is zero unless 32-bit numbers are too coarse so far from the origin, as with coordinates on a map. Then it is the
    centre of the bounding box, and a warning tells it. Points that are not finite do not count.
    """
    if points.dtype.itemsize <= 4:
        return np.zeros(3)
    finite = points[np.isfinite(points).all(axis=1)]
    if not len(finite):
        return np.zeros(3)
    with np.errstate(over="ignore"):
        error = np.abs(finite - finite.astype(np.float32)).max()
    low, high = finite.min(axis=0), finite.max(axis=0)
    if error <= _COARSE * (high - low).max():
        return np.zeros(3)
    centre = np.rint(low / 2 + high / 2)
    place = ", ".join(f"{value:.15g}" for value in centre)
    warnings.warn(f"so far from the origin, 32-bit numbers are too coarse: ({place}) is the new origin", stacklevel=4)
    return centre
