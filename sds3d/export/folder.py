"""Everything an asset is handed over as, written into one folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sds3d.cameras import Cameras, turntable
from sds3d.export.glb import to_glb
from sds3d.export.obj import to_obj
from sds3d.export.pictures import contact_sheet, sheet_png
from sds3d.export.ply import to_ply
from sds3d.export.splat_file import to_splat
from sds3d.export.splat_glb import to_splat_glb
from sds3d.export.splat_ply import to_splat_ply
from sds3d.export.spz import to_spz
from sds3d.export.surface import ColorFn
from sds3d.export.texture import bake
from sds3d.export.video import turntable_mp4
from sds3d.files import write_atomically
from sds3d.mesh import FloatArray, Mesh
from sds3d.splats import Splats


def write_exports(
    folder: Path,
    mesh: Mesh,
    render: Callable[[Cameras], FloatArray],
    name: str,
    *,
    color_fn: ColorFn | None = None,
    splats: Splats | None = None,
    title: str = "",
    texture_size: int = 1024,
    size: int = 256,
    frames: int = 60,
) -> dict[str, Path]:
    """Write `<name>.glb`, `.ply`, `.obj` with `.mtl` and `.png`, `contact_sheet.png` and `turntable.mp4`.

    mesh: with vertex colours; it is baked to a texture here unless it has one. color_fn: sharper colours for baking.
    splats: a cloud of Gaussians, written as `<name>-splats.ply`, `<name>.splat`, `<name>.spz` and `<name>-splats.glb`.
    render: the scene's pictures (B, H, W, 3) in [0, 1] of any number of cameras. title: of the sheet, `name` if empty.
    size: pixels of the video and of the sheet's renders. frames: of one turn, shown in two seconds at 60.

    Returns the paths by file name. Each file appears whole or not at all. Raises OSError, with the folder named, when
    the disk is full.
    """
    textured = mesh if mesh.texture is not None else bake(mesh, color_fn, texture_size)
    files = {f"{name}.glb": to_glb(textured, name), f"{name}.ply": to_ply(mesh), **to_obj(textured, name)}
    if splats is not None:
        files |= {
            f"{name}-splats.ply": to_splat_ply(splats),
            f"{name}.splat": to_splat(splats),
            f"{name}.spz": to_spz(splats),
            f"{name}-splats.glb": to_splat_glb(splats),
        }
    azimuths = turntable(8, size=size)
    headings = [f"{azimuth:.0f}°" for azimuth in azimuths.azimuth.tolist()]
    sheet = contact_sheet([("", render(azimuths))], headings, title or name, size=min(size, 192))
    files["contact_sheet.png"] = sheet_png(sheet)
    files["turntable.mp4"] = turntable_mp4(render(turntable(frames, size=size)), fps=30)
    return {file: write_atomically(folder / file, data) for file, data in files.items()}
