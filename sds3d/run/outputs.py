"""Output of a run: previews, pictures and exports."""

from __future__ import annotations

from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

import torch

from sds3d.cameras import CameraConfig, Cameras, camera_distance, turntable
from sds3d.devices import pick_device
from sds3d.files import RunError, write_atomically
from sds3d.formats.export import Report, draw_pictures, prepare, silent, write_exports
from sds3d.formats.pictures import to_png
from sds3d.formats.table import export_format
from sds3d.geometry.mesh import EmptySurfaceError, FloatArray, Mesh
from sds3d.geometry.sampling import splats_from_mesh
from sds3d.geometry.splats import Splats
from sds3d.prompts.prompt import slug
from sds3d.representations.base import Scene, Start
from sds3d.representations.make import make_scene
from sds3d.run.config import ExportConfig, RunConfig, read_config, stage_config
from sds3d.run.folder import Run
from sds3d.run.optimize import random_streams
from sds3d.states import part

PREVIEW_VIEWS = 8
SURFACE_SPLATS = 40_000
"""Number of Gaussians that are placed on a surface for splat formats."""
SURFACE_SHARE = 0.3
"""Approximate share of an export's time for the extraction of the surface."""


def pictures(scene: Scene, cameras: Cameras, device: torch.device) -> FloatArray:
    """Render over white without gradients, about a million pixels at a time: (B, H, W, 3) float32 in [0, 1]."""
    white = torch.ones(3, device=device)
    n = max(1, 2**20 // (cameras.height * cameras.width))
    with torch.no_grad():
        parts = [scene.render(cameras[i : i + n].to(device), white).rgb.cpu() for i in range(0, len(cameras), n)]
    return torch.cat(parts).clamp(0, 1).numpy()


def save_preview(run: Run, cameras: CameraConfig, scene: Scene, device: torch.device) -> Path:
    """Write eight views side by side as `previews/latest.png`. Return its path."""
    distance, fovy = camera_distance(cameras)
    around = turntable(PREVIEW_VIEWS, distance=distance, fovy=fovy, size=min(cameras.full_size(), 256))
    return write_atomically(run.previews / "latest.png", to_png(pictures(scene, around, device)))  # (8, H, W, 3)


def export_scene(
    run: Run, config: RunConfig, scene: Scene, device: torch.device, report: Report = silent
) -> dict[str, Path]:
    """Write all exports of a scene into the run's folder; those of further particles into `particle-2` and so on.

    report: see `sds3d.formats.export.Report`. Return the paths of the first particle's files by name.
    Raises EmptySurfaceError if it has no surface, after writing what needs none.
    """
    first, *others = scene.particles
    for number, other in enumerate(others, start=2):
        with suppress(EmptySurfaceError):  # only the first particle decides whether the export failed
            _export(run.exports / f"particle-{number}", config, other, device)
        report((number - 1) / len(scene.particles), "surface")
    before = len(others) / len(scene.particles)

    def last(share: float, part: str) -> None:
        report(before + share / len(scene.particles), part)

    return _export(run.exports, config, first, device, last)


def _export(
    folder: Path, config: RunConfig, scene: Scene, device: torch.device, report: Report = silent
) -> dict[str, Path]:
    mesh: Mesh | None = None
    missing: EmptySurfaceError | None = None
    splats = scene.splats()

    def draw_scene() -> Future[dict[str, bytes]]:
        def render(cameras: Cameras) -> FloatArray:
            return pictures(scene, cameras, device)

        return draw_pictures(render, config.prompt, config.export.picture_size, config.export.frames)

    prepare(config.export.formats)
    report(0.0, "surface")
    drawn = draw_scene() if splats is not None else None  # beside the extraction of the surface
    try:
        mesh = scene.to_mesh(config.export.resolution)
    except EmptySurfaceError as error:
        missing = error
    of_splats = {name for name in config.export.formats if export_format(name).holds is Splats}
    if splats is not None:
        splats = splats.without_invalid()[0]
    elif mesh is not None and of_splats:
        splats = splats_from_mesh(mesh, SURFACE_SPLATS, torch.Generator().manual_seed(config.seed))
    formats = config.export.formats if splats is not None else set(config.export.formats) - of_splats
    paths = write_exports(
        folder,
        mesh,
        drawn or (draw_scene() if mesh is None else None),
        slug(config.prompt),
        formats=formats,
        splats=splats,
        title=config.prompt,
        texture_size=config.export.texture_size,
        faces=config.export.faces,
        occlusion=config.export.occlusion,
        print_size=config.export.print_size,
        size=config.export.picture_size,
        frames=config.export.frames,
        report=lambda share, part: report(SURFACE_SHARE + (1 - SURFACE_SHARE) * share, part),
    )
    if missing is not None:
        raise missing
    return paths


def load_scene(run: Run, device: torch.device) -> Scene:
    """Load the scene of a run's newest checkpoint, without its prior. Raises RunError if there is no checkpoint."""
    config = read_config(run)
    checkpoint = run.load_checkpoint()
    if checkpoint is None:
        if run.state.status == "done":
            raise RunError(
                f"{run.folder} is finished, but its checkpoint is missing or damaged; only its exports remain"
            )
        raise RunError(f"{run.folder} has no checkpoint yet; continue it with: sds3d resume {run.folder}")
    mine = stage_config(config, int(checkpoint["stage"]))
    stream = random_streams(config.seed, "scene")["scene"]
    scene = make_scene(mine.representation.for_loading(), Start(stream, mine.steps, device), mine.particles)
    scene.load_state_dict(part(checkpoint, "scene"))
    return scene


def export_run(run: Run, export: ExportConfig | None = None, device: str = "") -> dict[str, Path]:
    """Export a run's newest checkpoint again, finished or not. Raises RunError if there is none."""
    config = read_config(run)
    config = config.model_copy(update={"export": export or config.export})
    place = pick_device(device)
    return export_scene(run, config, load_scene(run, place), place)
