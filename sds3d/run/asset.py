"""The Python interface: `sds3d.generate("a red mug").save("mug.glb")`.

Runs are the same folders that the command line creates, so either can find, resume and open a run of the other.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch

from sds3d.cameras import Cameras, turntable
from sds3d.config import Config
from sds3d.console import progress_bar
from sds3d.files import RunError, write_atomically
from sds3d.formats.base import UpAxis
from sds3d.formats.export import asset_files
from sds3d.formats.pictures import to_png
from sds3d.formats.table import Format, export_format
from sds3d.geometry.mesh import FloatArray, Mesh
from sds3d.geometry.sampling import splats_from_mesh
from sds3d.geometry.splats import Splats
from sds3d.guidance.base import Number
from sds3d.presets import DEFAULT_PRESET
from sds3d.priors.base import Prior
from sds3d.representations.base import Scene
from sds3d.run.config import RunConfig, make_config, new_run, read_config
from sds3d.run.drive import drive
from sds3d.run.folder import Run, open_run
from sds3d.run.numbers import as_numbers
from sds3d.run.optimize import Step
from sds3d.run.outputs import SURFACE_SPLATS, load_scene, pictures


@dataclass(frozen=True)
class Asset:
    """The result of a run so far, read from its folder."""

    folder: Path

    @property
    def run(self) -> Run:
        """The run's folder, with its state and files."""
        return open_run(self.folder)

    @property
    def config(self) -> RunConfig:
        """The complete settings of the run."""
        return read_config(self.run)

    def scene(self, device: str = "cpu") -> Scene:
        """Load the optimised scene on `device`; it renders from any cameras. Raises RunError without a checkpoint."""
        return load_scene(self.run, torch.device(device)).particles[0]

    def mesh(self, resolution: int | None = None) -> Mesh:
        """Extract the surface with vertex colours.

        resolution: samples per side of the extraction grid; None: the run's setting.
        Raises EmptySurfaceError if there is no surface.
        """
        return self.scene().to_mesh(resolution or self.config.export.resolution)

    def splats(self, count: int = SURFACE_SPLATS) -> Splats:
        """Return the Gaussians of a splat run; for other runs, place `count` Gaussians on the surface."""
        own = self.scene().splats()
        if own is not None:
            return own.without_invalid()[0]
        return splats_from_mesh(self.mesh(), count, torch.Generator().manual_seed(self.config.seed))

    def pictures(self, cameras: Cameras | None = None) -> FloatArray:
        """Render over white, (B, H, W, 3) float32 in [0, 1]; without cameras, from eight sides."""
        return pictures(self.scene(), turntable(8, size=256) if cameras is None else cameras, torch.device("cpu"))

    def save(self, path: str | Path, format: Format | None = None, texture_size: int | None = None) -> Path:
        """Write the asset in the format of the file's ending: .glb, .obj, .ply, .stl, .3mf, .usdz, .splat or .spz.

        format: the name of a format instead of the ending; `splat-ply` and `splat-glb` write splats into .ply and .glb
        files. texture_size: pixels per side; None: the run's setting. Returns the path.
        Raises ValueError, with the nearest format, for an unknown ending.
        """
        path = Path(path)
        chosen = format or path.suffix.removeprefix(".").lower()
        if export_format(chosen).holds is Splats:
            files = asset_files([chosen], path.stem, splats=self.splats())
        else:
            export = self.config.export
            files = asset_files(
                [chosen],
                path.stem,
                self.mesh(),
                texture_size=texture_size or export.texture_size,
                faces=export.faces,
                occlusion=export.occlusion,
                print_size=export.print_size,
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        (_, data), *belonging = files.items()
        for name, more in belonging:  # materials and textures, which the file refers to by name
            write_atomically(path.parent / name, more)
        return write_atomically(path, data)

    def _repr_png_(self) -> bytes | None:
        """Return the picture that notebooks show, as a PNG file."""
        for picture in (self.run.exports / "contact_sheet.png", self.run.previews / "latest.png"):
            if picture.is_file():
                return picture.read_bytes()
        return None


@dataclass(frozen=True)
class Preview:
    """A preview of a run in progress.

    step, total: optimisation steps. rgb: (B, H, W, 3) float32 in [0, 1], the views of the step; in the last preview,
    eight sides of the finished object. losses: by name. asset: the asset; complete in the last preview.
    """

    step: int
    total: int
    rgb: FloatArray
    losses: dict[str, float]
    asset: Asset

    def _repr_png_(self) -> bytes:
        """Return the picture that notebooks show, as a PNG file."""
        return to_png(self.rgb)


Section = str | Mapping[str, Any] | Config
"""A section of the settings: the name of a choice, keys and values, or the settings themselves."""


class Keywords(TypedDict, total=False):
    """The keywords of `generate` and `stream`: how to drive the run, and fields of `RunConfig` on top of the preset."""

    preset: str
    """Name of a preset, or path of a YAML file. Default: `sds3d.presets.DEFAULT_PRESET`."""
    out: str | Path
    """The folder for run folders. Default: runs."""
    device: str
    """cpu, cuda, cuda:1 and so on. Default: the fastest available."""
    threads: int
    """CPU threads. Default: all physical cores, at most 8."""
    prior: Prior | Section | None
    """A loaded prior, which many calls can share, or settings such as `{"model": "sd21"}`."""

    seed: int
    steps: int
    guidance: Section
    gradient: Sequence[Mapping[str, Any]]
    teachers: Sequence[Mapping[str, Any] | Config]
    representation: Section
    particles: int
    cameras: Section
    prompts: Section
    seen: Section
    optimizer: Section
    background: Section | Sequence[float] | None
    reference: Sequence[Mapping[str, Any] | Config]
    reference_weight: float | Sequence[Sequence[float]]
    rewards: Sequence[Mapping[str, Any] | Config]
    estimators: Sequence[Mapping[str, Any] | Config]
    preview_every: float
    checkpoint_every: int
    export: Section
    log_to: Sequence[str]
    start_from: str
    up_axis: UpAxis
    made_for: str
    other_presets: Sequence[str]
    stages: Sequence[Mapping[str, Any]] | Mapping[int, Mapping[str, Any]]
    """All stages, or settings of some of the preset's by their number: `{1: {"steps": 50}}`."""


def generate(prompt: str, **keywords: Unpack[Keywords]) -> Asset:
    """Make a 3D asset from a prompt. A stopped run is continued, and a finished one is returned.

    keywords: see `Keywords`; for example `preset="splats"`, `out="runs"`, `device="cuda"`, `threads=4`, and settings
    such as `steps=150`, `representation="gaussians"` or `guidance={"scale": 5}`.

    Shows a progress bar on a terminal. After Ctrl-C, the same call resumes the run.
    Raises ConfigError for a wrong setting, PriorError if the model cannot be used, NumericalError if the run diverges,
    EmptySurfaceError if the result has no surface, RunError if the folder or device cannot be used, and OSError.
    """
    run, steps = _start(prompt, keywords)
    with progress_bar() as progress:
        task = progress.add_task(prompt, total=None)
        for step in steps:
            progress.update(task, completed=step.step, total=step.total)
    return _finished(run)


def stream(prompt: str, *, every: float = 2.0, **keywords: Unpack[Keywords]) -> Iterator[Preview]:
    """Like `generate`, but yield a preview every `every` seconds, and a last one with the complete asset.

    Breaking out of the loop pauses the run.
    """
    run, steps = _start(prompt, keywords)
    asset, shown = Asset(run.folder), -float("inf")
    losses: Mapping[str, Number] = {}
    for step in steps:
        losses = step.losses
        if time.monotonic() - shown >= every and step.step < step.total:
            shown = time.monotonic()
            rgb = step.rendering.rgb.clamp(0, 1).cpu().numpy()
            yield Preview(step.step, step.total, rgb, as_numbers(losses), asset)
    asset, state = _finished(run), run.state
    yield Preview(state.step, state.total, asset.pictures(), as_numbers(losses), asset)


def _start(prompt: str, keywords: Keywords) -> tuple[Run, Iterator[Step]]:
    """Create the run, if it is new, and return it with its remaining steps."""
    settings: dict[str, Any] = {**keywords}
    preset, out = settings.pop("preset", DEFAULT_PRESET), settings.pop("out", "runs")
    machine = {key: settings.pop(key) for key in ("device", "threads") if key in settings}
    if not isinstance(settings.get("prior"), (str, Mapping, Config)):
        machine["prior"] = settings.pop("prior", None)  # a loaded one
    run = new_run(Path(out), make_config(prompt, preset, settings=settings))
    return run, drive(run, **machine)


def _finished(run: Run) -> Asset:
    if run.state.status != "done":
        raise RunError(
            f"the run was {run.state.status} after step {run.state.step}; the same call continues it: {run.folder}"
        )
    return Asset(run.folder)
