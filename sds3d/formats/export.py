"""Write an asset into a folder, in several formats and with pictures."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from sds3d.cameras import Cameras, turntable
from sds3d.files import write_atomically
from sds3d.formats.pictures import contact_sheet, png
from sds3d.formats.table import DEFAULT_FORMATS, Format, export_format
from sds3d.formats.video import turntable_mp4
from sds3d.geometry.mesh import FloatArray, Mesh
from sds3d.geometry.placing import for_printing
from sds3d.geometry.splats import Splats
from sds3d.geometry.triangles import ColorFn
from sds3d.geometry.uv_atlas import bake

PRINT_SIZE = 100.0
"""Longest side of a file for 3D printers, in millimetres, unless another is set."""


def silent(share: float) -> None:
    """Report no progress."""


def write_exports(
    folder: Path,
    mesh: Mesh | None,
    render: Callable[[Cameras], FloatArray],
    name: str,
    *,
    formats: Collection[Format] | None = None,
    color_fn: ColorFn | None = None,
    splats: Splats | None = None,
    title: str = "",
    texture_size: int = 1024,
    print_size: float = PRINT_SIZE,
    size: int = 256,
    frames: int = 60,
    report: Callable[[float], object] = silent,
) -> dict[str, Path]:
    """Write an asset in some formats, with its pictures `contact_sheet.png` and `turntable.mp4`.

    mesh: with vertex colours, which are baked to a texture unless it has one. None, for a scene without a surface,
        leaves out the formats of meshes.
    render: returns pictures (B, H, W, 3) in [0, 1] of the scene from any number of cameras.
    name: of the files, without their ending; see `FileFormat.ending`.
    formats: None writes DEFAULT_FORMATS, without those of splats if there are no splats.
    color_fn: colours of surface points, sharper than vertex colours, to bake from.
    splats: Gaussians for the formats of splats.
    print_size: longest side, in millimetres, of files for 3D printers.
    title: of the contact sheet, `name` if empty. size: pixels of the video and of the sheet's pictures. frames: of one
        turn, shown at 30 per second. report: called with the share that is done, 0 to 1.

    Returns the paths by file name. A file is written completely or not at all. Raises ValueError for a format of splats
    without splats, ImportError for `usdz` without usd-core, and OSError, which names the folder, if the disk is full.
    """
    if formats is None:
        formats = [f for f in DEFAULT_FORMATS if splats is not None or export_format(f).holds is not Splats]
    if mesh is None:
        formats = [f for f in formats if export_format(f).holds is Splats]
    files = asset_files(
        formats, name, mesh, splats, color_fn=color_fn, texture_size=texture_size, print_size=print_size
    )
    report(0.5)  # the shares are those of a field on a CPU
    azimuths = turntable(8, size=size)
    headings = [f"{azimuth:.0f}°" for azimuth in azimuths.azimuth.tolist()]
    sheet = contact_sheet([("", render(azimuths))], headings, title or name, size=min(size, 192))
    files["contact_sheet.png"] = png(sheet)
    report(0.6)
    files["turntable.mp4"] = turntable_mp4(render(turntable(frames, size=size)), fps=30)
    report(0.95)
    return {file: write_atomically(folder / file, data) for file, data in files.items()}


def asset_files(
    formats: Collection[Format],
    name: str,
    mesh: Mesh | None = None,
    splats: Splats | None = None,
    *,
    color_fn: ColorFn | None = None,
    texture_size: int = 1024,
    print_size: float = PRINT_SIZE,
) -> dict[str, bytes]:
    """Return an asset's files in some formats by file name; see `write_exports`.

    The main file of a format comes before the files that belong to it, such as textures. Raises ValueError for an
    unknown format, for a format of splats without splats, and for one of meshes without a mesh.
    """
    chosen = [export_format(format_) for format_ in formats]
    textured = mesh
    if mesh is not None and mesh.texture is None and any(format_.textured for format_ in chosen):
        textured = bake(mesh, color_fn, texture_size)
    files: dict[str, bytes] = {}
    for format_ in chosen:
        surface = textured if format_.textured else mesh
        if surface is not None and format_.printed:
            surface = for_printing(surface, print_size)
        files |= format_.files(splats if format_.holds is Splats else surface, name)
    return files
