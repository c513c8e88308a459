"""Write an asset into a folder, in several formats and with pictures."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from sds3d.cameras import Cameras, turntable
from sds3d.files import write_atomically
from sds3d.formats.pictures import contact_sheet, png
from sds3d.formats.table import DEFAULT_FORMATS, Format, export_format
from sds3d.formats.video import turntable_mp4
from sds3d.geometry.maps import lighter, with_occlusion
from sds3d.geometry.mesh import FloatArray, Mesh
from sds3d.geometry.placing import for_printing
from sds3d.geometry.splats import Splats
from sds3d.geometry.triangles import ColorFn, simplify
from sds3d.geometry.uv_atlas import bake
from sds3d.rendering.shading import headlight, shade_mesh
from sds3d.rendering.threads import parallel_map

BACKDROP = (0.94, 0.945, 0.95)
"""Colour behind the pictures of a mesh, sRGB."""
TO_LIGHT, AMBIENT = (-0.35, 0.75, 0.8), 0.62
"""Direction of their light in the camera's frame, and the share of light that comes from everywhere."""
MARGIN = 1.04
"""Radius of the picture's inner circle, as a share of the mesh's."""

PRINT_SIZE = 100.0
"""Longest side of a file for 3D printers, in millimetres, unless another is set."""


Result = TypeVar("Result")
Report = Callable[[float, str], object]
"""Is told the share of a job that is done, 0 to 1, and what comes next."""


def silent(share: float, part: str) -> None:
    """Report no progress."""


def write_exports(
    folder: Path,
    mesh: Mesh | None,
    drawn: Future[dict[str, bytes]] | None,
    name: str,
    *,
    formats: Collection[Format] | None = None,
    color_fn: ColorFn | None = None,
    splats: Splats | None = None,
    title: str = "",
    texture_size: int = 1024,
    faces: int = 0,
    occlusion: bool = False,
    print_size: float = PRINT_SIZE,
    size: int = 256,
    frames: int = 60,
    report: Report = silent,
) -> dict[str, Path]:
    """Write an asset in some formats, with the files of its pictures; see `draw_pictures`.

    mesh: with vertex colours, which are baked to a texture unless it has one. None, for a scene without a surface,
        leaves out the formats of meshes.
    drawn: the pictures, if they are being drawn already. None: the mesh is drawn, as it is handed over.
    name: of the files, without their ending; see `FileFormat.ending`.
    formats: None writes DEFAULT_FORMATS, without those of splats if there are no splats.
    color_fn: colours of surface points, sharper than vertex colours, to bake from.
    splats: Gaussians for the formats of splats.
    faces, occlusion: see `with_texture`; formats without textures have as many faces.
    print_size: longest side, in millimetres, of files for 3D printers.
    title, size, frames: of the pictures, see `draw_pictures`. report: see `Report`.

    Files without a texture and pictures are made in other threads, beside the work on the texture.
    Returns the paths by file name. A file is written completely or not at all. Raises ValueError for a format of splats
    without splats, ImportError for `usdz` without usd-core, and OSError, which names the folder, if the disk is full.
    """
    if formats is None:
        formats = [f for f in DEFAULT_FORMATS if splats is not None or export_format(f).holds is not Splats]
    if mesh is None:
        formats = [f for f in formats if export_format(f).holds is Splats]
    if mesh is None and drawn is None:
        raise ValueError("an asset without a mesh needs `drawn`")
    prepare(formats)
    report(0.0, "texture")  # the shares are those of a field on a CPU
    plain = [format_ for format_ in formats if not export_format(format_).textured]
    bare = mesh if mesh is None or not faces else simplify(mesh, faces)
    others = _beside(partial(asset_files, plain, name, bare, splats, print_size=print_size))
    textured = None if mesh is None else with_texture(formats, mesh, color_fn, texture_size, faces, occlusion)
    report(0.45, "files")
    if drawn is None:
        assert textured is not None
        drawn = draw_pictures(partial(portraits, textured), title or name, size, frames)
    with_textures = [format_ for format_ in formats if format_ not in plain]
    files = asset_files(with_textures, name, mesh, splats, textured=textured, print_size=print_size)
    files |= others.result()
    report(0.6, "pictures")
    files |= drawn.result()
    return {file: write_atomically(folder / file, data) for file, data in files.items()}


def prepare(formats: Collection[Format]) -> None:
    """Load the libraries that some formats need, before threads start that they would disturb. Raises ImportError."""
    for format_ in formats:
        export_format(format_).prepare()


def draw_pictures(
    render: Callable[[Cameras], FloatArray], title: str, size: int, frames: int
) -> Future[dict[str, bytes]]:
    """Start to draw `contact_sheet.png`, with eight views, and `turntable.mp4` in another thread.

    render: returns pictures (B, H, W, 3) in [0, 1] of an asset from any number of cameras. title: of the contact sheet.
    size: pixels of the video and of the sheet's pictures. frames: of one turn, shown at 30 per second.
    """

    def draw() -> dict[str, bytes]:
        azimuths = turntable(8, size=size)
        headings = [f"{azimuth:.0f}°" for azimuth in azimuths.azimuth.tolist()]
        sheet = contact_sheet([("", render(azimuths))], headings, title, size=min(size, 192))
        video = turntable_mp4(render(turntable(frames, size=size)), fps=30)
        return {"contact_sheet.png": png(sheet), "turntable.mp4": video}

    return _beside(draw)


def _beside(function: Callable[[], Result]) -> Future[Result]:
    """Call a function in another thread, with as many threads for its kernels. Nothing waits for it but `result()`."""
    future: Future[Result] = Future()
    threads = torch.get_num_threads()

    def call() -> None:
        torch.set_num_threads(threads)  # each thread has its own number, on which results depend
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=call, daemon=True, name="sds3d-export").start()
    return future


def asset_files(
    formats: Collection[Format],
    name: str,
    mesh: Mesh | None = None,
    splats: Splats | None = None,
    *,
    textured: Mesh | None = None,
    texture_size: int = 1024,
    faces: int = 0,
    occlusion: bool = False,
    print_size: float = PRINT_SIZE,
) -> dict[str, bytes]:
    """Return an asset's files in some formats by file name; see `write_exports`.

    textured: the mesh with its texture, if it is baked already. faces, occlusion: see `with_texture`. The main file of
    a format comes before the files that belong to it, such as textures. Raises ValueError for an unknown format, for a
    format of splats without splats, and for one of meshes without a mesh.
    """
    if mesh is not None and textured is None:
        textured = with_texture(formats, mesh, None, texture_size, faces, occlusion)
        mesh = simplify(mesh, faces) if faces else mesh
    chosen = [export_format(format_) for format_ in formats]
    files: dict[str, bytes] = {}
    for format_ in chosen:
        surface = textured if format_.textured else mesh
        if surface is not None and format_.printed:
            surface = for_printing(surface, print_size)
        files |= format_.files(splats if format_.holds is Splats else surface, name)
    return files


def with_texture(
    formats: Collection[Format],
    mesh: Mesh,
    color_fn: ColorFn | None,
    size: int,
    faces: int = 0,
    occlusion: bool = False,
) -> Mesh:
    """Return the mesh with textures, unless none of the formats holds them.

    faces: number of triangles at most; the mesh keeps its look by a normal map. 0: all. occlusion: whether the mesh
    gets an occlusion map.
    """
    if not any(export_format(format_).textured for format_ in formats):
        return mesh
    if mesh.texture is None and not 0 < faces < len(mesh.faces):
        mesh = bake(mesh, color_fn, size)
    mesh = lighter(mesh, faces, size) if faces else mesh
    return with_occlusion(mesh, size) if occlusion and mesh.occlusion is None else mesh


def portraits(mesh: Mesh, cameras: Cameras) -> FloatArray:
    """Draw a mesh in soft light from the camera's side over a light grey: (B, H, W, 3) in [0, 1].

    The field of view is narrowed so that the mesh fills the pictures of a full turn.
    """
    radius = float(np.linalg.norm(mesh.vertices, axis=1).max()) * MARGIN
    wanted = 2 * torch.rad2deg(torch.asin((radius / cameras.distance).clamp(max=1.0)))
    cameras = replace(cameras, fovy=torch.minimum(cameras.fovy, wanted))

    def draw(view: int) -> FloatArray:  # one at a time: a turn of large pictures would take gigabytes
        one = cameras[view : view + 1]
        return shade_mesh(mesh, one, BACKDROP, headlight(one, TO_LIGHT, AMBIENT))[0]

    return np.concatenate(parallel_map(draw, len(cameras)))
