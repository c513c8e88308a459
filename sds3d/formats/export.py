"""Everything an asset is handed over as, written into one folder."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Literal, get_args

from sds3d.cameras import Cameras, turntable
from sds3d.files import write_atomically
from sds3d.formats.glb import to_glb
from sds3d.formats.obj import to_obj
from sds3d.formats.pictures import contact_sheet, sheet_png
from sds3d.formats.ply import to_ply
from sds3d.formats.splat import to_splat
from sds3d.formats.splat_glb import to_splat_glb
from sds3d.formats.splat_ply import to_splat_ply
from sds3d.formats.spz import to_spz
from sds3d.formats.stl import to_stl
from sds3d.formats.usdz import to_usdz
from sds3d.formats.video import turntable_mp4
from sds3d.geometry.mesh import FloatArray, Mesh
from sds3d.geometry.splats import Splats
from sds3d.geometry.texture import bake
from sds3d.geometry.triangles import ColorFn

Format = Literal["glb", "obj", "ply", "stl", "usdz", "splat-ply", "splat", "spz", "splat-glb"]
"""What an asset can be written as, beside its pictures."""
FORMATS: tuple[Format, ...] = get_args(Format)
SPLAT_FORMATS: tuple[Format, ...] = ("splat-ply", "splat", "spz", "splat-glb")
DEFAULT_FORMATS: tuple[Format, ...] = tuple(name for name in FORMATS if name != "usdz")
"""All that need no extra."""


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
    size: int = 256,
    frames: int = 60,
) -> dict[str, Path]:
    """Write an asset in some formats, with its pictures `contact_sheet.png` and `turntable.mp4`.

    mesh: with vertex colours; it is baked to a texture here unless it has one. None, of a scene without a surface,
    leaves its formats out. color_fn: sharper colours for baking.
    splats: a cloud of Gaussians, for the formats of splats.
    formats: `glb`, `ply`, `stl`, `usdz`, `splat` and `spz` are files `<name>.<format>`, `obj` comes with `.mtl` and
    textures, `splat-ply` and `splat-glb` are `<name>-splats.ply` and `.glb`. None takes DEFAULT_FORMATS, without those
    of splats when there are none.
    render: the scene's pictures (B, H, W, 3) in [0, 1] of any number of cameras. title: of the sheet, `name` if empty.
    size: pixels of the video and of the sheet's renders. frames: of one turn, shown in two seconds at 60.

    Returns the paths by file name. Each file appears whole or not at all. Raises ValueError for a format of splats
    without splats, ImportError for `usdz` without usd-core, and OSError, with the folder named, when the disk is full.
    """
    if formats is None:
        formats = DEFAULT_FORMATS if splats is not None else sorted(set(DEFAULT_FORMATS) - set(SPLAT_FORMATS))
    if mesh is None:
        formats = [format_ for format_ in formats if format_ in SPLAT_FORMATS]
    files = asset_files(formats, name, mesh, splats, color_fn=color_fn, texture_size=texture_size)
    azimuths = turntable(8, size=size)
    headings = [f"{azimuth:.0f}°" for azimuth in azimuths.azimuth.tolist()]
    sheet = contact_sheet([("", render(azimuths))], headings, title or name, size=min(size, 192))
    files["contact_sheet.png"] = sheet_png(sheet)
    files["turntable.mp4"] = turntable_mp4(render(turntable(frames, size=size)), fps=30)
    return {file: write_atomically(folder / file, data) for file, data in files.items()}


def asset_files(
    formats: Collection[Format],
    name: str,
    mesh: Mesh | None = None,
    splats: Splats | None = None,
    *,
    color_fn: ColorFn | None = None,
    texture_size: int = 1024,
) -> dict[str, bytes]:
    """The files of some formats by name, as `write_exports` says; a format's own file comes before what belongs to it.

    Raises ValueError for a format of splats without splats, or of meshes without a mesh.
    """
    textured = mesh
    if mesh is not None and mesh.texture is None and not {"glb", "obj", "usdz"}.isdisjoint(formats):
        textured = bake(mesh, color_fn, texture_size)
    files: dict[str, bytes] = {}
    for format_ in formats:
        if format_ in SPLAT_FORMATS:
            if splats is None:
                raise ValueError(
                    f"{format_} holds splats, and there are none: sds3d.representations.make.as_splats makes some"
                )
            files |= _splat_file(format_, splats, name)
        else:
            if mesh is None or textured is None:
                raise ValueError(f"{format_} is a format of meshes, and there is none")
            files |= _mesh_file(format_, mesh, textured, name)
    return files


def _mesh_file(format_: Format, mesh: Mesh, textured: Mesh, name: str) -> dict[str, bytes]:
    match format_:
        case "glb":
            return {f"{name}.glb": to_glb(textured, name)}
        case "obj":
            return to_obj(textured, name)
        case "ply":
            return {f"{name}.ply": to_ply(mesh)}
        case "stl":
            return {f"{name}.stl": to_stl(mesh)}
        case _:
            return {f"{name}.usdz": to_usdz(textured, name)}


def _splat_file(format_: Format, splats: Splats, name: str) -> dict[str, bytes]:
    match format_:
        case "splat-ply":
            return {f"{name}-splats.ply": to_splat_ply(splats)}
        case "splat":
            return {f"{name}.splat": to_splat(splats)}
        case "spz":
            return {f"{name}.spz": to_spz(splats)}
        case _:
            return {f"{name}-splats.glb": to_splat_glb(splats)}
