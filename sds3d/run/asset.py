"""From Python: `sds3d.generate("a red mug").save("mug.glb")`.

Runs are the same folders that the command line makes: what one began, the other finds, resumes and opens.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sds3d.cameras import Cameras, turntable
from sds3d.console import progress_bar
from sds3d.files import RunError, write_atomically
from sds3d.formats.export import asset_files
from sds3d.formats.pictures import to_png
from sds3d.formats.table import Format, export_format
from sds3d.geometry.mesh import FloatArray, Mesh
from sds3d.geometry.sampling import splats_from_mesh
from sds3d.geometry.splats import Splats
from sds3d.priors.base import Prior
from sds3d.representations.base import Scene
from sds3d.run.config import RunConfig, make_config, new_run, read_config
from sds3d.run.drive import drive
from sds3d.run.folder import Run, open_run
from sds3d.run.outputs import SURFACE_SPLATS, load_scene, pictures


@dataclass(frozen=True)
class Asset:
    """What a run has made so far, read from its folder."""

    folder: Path

    @property
    def run(self) -> Run:
        """The run's folder, with its state and files."""
        return open_run(self.folder)

    @property
    def config(self) -> RunConfig:
        """The complete settings that it was made with."""
        return read_config(self.run)

    def scene(self, device: str = "cpu") -> Scene:
        """What was optimised, on `device`; it renders from any cameras. Raises RunError without a checkpoint."""
        return load_scene(self.run, torch.device(device)).particles[0]

    def mesh(self, resolution: int | None = None) -> Mesh:
        """The surface with vertex colours; samples a side of the grid it is found on, the run's own if None.

        Raises EmptySurfaceError when there is none.
        """
        return self.scene().to_mesh(resolution or self.config.export.resolution)

    def splats(self, count: int = SURFACE_SPLATS) -> Splats:
        """The Gaussians of a run of splats; of any other, `count` of them on its surface."""
        own = self.scene().splats()
        if own is not None:
            return own.without_invalid()[0]
        return splats_from_mesh(self.mesh(), count, torch.Generator().manual_seed(self.config.seed))

    def pictures(self, cameras: Cameras | None = None) -> FloatArray:
        """Renders over white, (B, H, W, 3) float32 in [0, 1]; of eight sides when no cameras are given."""
        return pictures(self.scene(), turntable(8, size=256) if cameras is None else cameras, torch.device("cpu"))

    def save(self, path: str | Path, format: Format | None = None, texture_size: int | None = None) -> Path:
        """Write the asset as the file's ending says: .glb, .obj, .ply, .stl, .usdz, .splat or .spz.

        format: `splat-ply` and `splat-glb` write splats with endings that meshes have too. texture_size: pixels a side,
        the run's own if None. Returns the path. Raises ValueError, with the nearest format, for an unknown ending.
        """
        path = Path(path)
        chosen = format or path.suffix.removeprefix(".").lower()
        if export_format(chosen).holds is Splats:
            files = asset_files([chosen], path.stem, splats=self.splats())
        else:
            size = texture_size or self.config.export.texture_size
            files = asset_files([chosen], path.stem, self.mesh(), texture_size=size)
        path.parent.mkdir(parents=True, exist_ok=True)
        (_, data), *belonging = files.items()
        for name, more in belonging:  # materials and textures, which the file calls by these names
            write_atomically(path.parent / name, more)
        return write_atomically(path, data)

    def _repr_png_(self) -> bytes | None:
        """What a notebook shows."""
        for picture in (self.run.exports / "contact_sheet.png", self.run.previews / "latest.png"):
            if picture.is_file():
                return picture.read_bytes()
        return None


@dataclass(frozen=True)
class Preview:
    """A look at a run under way.

    step, total: optimisation steps. rgb: (B, H, W, 3) float32 in [0, 1], the views of the step, or eight sides of what
    is finished. losses: by name. asset: what it is the preview of; complete with the last one.
    """

    step: int
    total: int
    rgb: FloatArray
    losses: dict[str, float]
    asset: Asset

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        return to_png(self.rgb)


def generate(
    prompt: str,
    *,
    preset: str = "toybox",
    out: str | Path = "runs",
    device: str = "",
    threads: int = 0,
    prior: Prior | None = None,
    **settings: Any,
) -> Asset:
    """Make a 3D asset from a prompt, or find it finished, or go on where it was stopped.

    settings: those of `RunConfig`, on top of the preset: `steps=150`, `representation="gaussians"`,
    `guidance={"scale": 5}`. device, threads: the fastest there is, and the physical cores, unless given. prior: one
    that is loaded already, for many prompts.
    Shows a progress bar on a terminal. Ctrl-C leaves a run that the same call resumes.

    Raises ConfigError for a wrong setting, PriorError, NumericalError, OSError and EmptySurfaceError.
    """
    run = _new_run(prompt, preset, out, settings)
    with progress_bar() as progress:
        task = progress.add_task(prompt, total=None)
        for step in drive(run, device=device, threads=threads, prior=prior):
            progress.update(task, completed=step.step, total=step.total)
    return _finished(run)


def stream(
    prompt: str,
    *,
    preset: str = "toybox",
    every: float = 2.0,
    out: str | Path = "runs",
    device: str = "",
    threads: int = 0,
    prior: Prior | None = None,
    **settings: Any,
) -> Iterator[Preview]:
    """As `generate`, step by step: yields a preview every so many seconds and one at the end, with the whole asset.

    Whoever stops iterating leaves a paused run.
    """
    run = _new_run(prompt, preset, out, settings)
    asset, shown = Asset(run.folder), -float("inf")
    losses: dict[str, float] = {}
    for step in drive(run, device=device, threads=threads, prior=prior):
        losses = step.losses
        if time.monotonic() - shown >= every and step.step < step.total:
            shown = time.monotonic()
            rgb = step.rendering.rgb.clamp(0, 1).cpu().numpy()
            yield Preview(step.step, step.total, rgb, losses, asset)
    asset, state = _finished(run), run.state
    yield Preview(state.step, state.total, asset.pictures(), losses, asset)


def _new_run(prompt: str, preset: str, out: str | Path, settings: dict[str, Any]) -> Run:
    return new_run(Path(out), make_config(prompt, preset, settings=settings))


def _finished(run: Run) -> Asset:
    if run.state.status != "done":
        raise RunError(f"the run was {run.state.status} after step {run.state.step}: call again to go on, {run.folder}")
    return Asset(run.folder)
