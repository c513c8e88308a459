"""From a configuration to a finished run folder: builds prior, scene and rule, and drives the loop.

This is the only module that knows every choice there is; each is one line of a `match`.
"""

from __future__ import annotations

import math
import os
import time
import traceback
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numba
import torch
from pydantic import AfterValidator, Field, field_validator, model_validator
from torch import Tensor
from typing_extensions import Self

from sds3d.cameras import CameraConfig, Cameras, turntable
from sds3d.config import Config, ConfigError, build, load_preset, load_yaml, nearest, parse_override
from sds3d.export.folder import DEFAULT_FORMATS, FORMATS, SPLAT_FORMATS, Format, write_exports
from sds3d.export.pictures import to_png
from sds3d.files import write_atomically
from sds3d.guidance.base import Guidance
from sds3d.guidance.multiview import MultiView, MultiViewConfig
from sds3d.guidance.sds import SDS, SDSConfig
from sds3d.mesh import FloatArray
from sds3d.optimize import (
    LoopState,
    NumericalError,
    OptimizerConfig,
    Step,
    optimize,
    pack,
    part,
    random_streams,
    resume,
    start,
    undisturbed,
)
from sds3d.priors.base import Prior
from sds3d.priors.diffusers import DiffusersConfig, load_prior
from sds3d.prompts import PromptConfig, checked_prompt, encode_prompt, slug
from sds3d.representations.base import Scene
from sds3d.representations.field_nerf import HashNerfConfig, TriplaneNerfConfig
from sds3d.representations.gaussians import GaussiansScene
from sds3d.representations.nerf import NerfConfig
from sds3d.runs import Run, RunError, create_run, open_run
from sds3d.scenes import Asset, RepresentationConfig, as_splats, latent_rgb_of, make_scene

GuidanceConfig = Annotated[MultiViewConfig | SDSConfig, Field(discriminator="name")]

PREVIEW_VIEWS = 8
_SURFACE_SPLATS = 30_000  # that a mesh becomes for the formats of splats


class ExportConfig(Config):
    """What is written when the optimisation is done, beside the pictures."""

    formats: tuple[Format, ...] = DEFAULT_FORMATS
    """Formats of the asset. What is no cloud of splats becomes one for theirs. usdz needs pip install "sds3d[usd]"."""
    resolution: int = Field(default=128, ge=16, le=1024)
    """Samples a side of the grid that the surface is extracted from."""
    texture_size: int = Field(default=1024, ge=64, le=8192)
    """Height and width of the texture in pixels."""
    picture_size: int = Field(default=256, ge=32, le=2048)
    """Height and width of the turntable video in pixels."""
    frames: int = Field(default=60, ge=4)
    """Frames of the turntable video."""

    @field_validator("formats", mode="before")
    @classmethod
    def _formats_are_known(cls, given: object) -> object:
        for name in given if isinstance(given, (list, tuple)) else ():
            if name not in FORMATS:
                close = nearest(str(name), FORMATS)
                hint = f'did you mean "{close[0]}"?' if close else f"use some of: {', '.join(FORMATS)}"
                raise ValueError(f'the format "{name}" is unknown; {hint}')
        return given


class RunConfig(Config):
    """A complete run: the same configuration, seed and thread count give the same asset on a CPU."""

    prompt: Annotated[str, AfterValidator(checked_prompt)]
    """The object, for example "a red mug"."""
    seed: int = Field(default=0, ge=0)
    """Seed of every random choice."""
    steps: int = Field(default=300, ge=1)
    """Optimisation steps."""
    prior: DiffusersConfig = DiffusersConfig()
    """The frozen diffusion model."""
    guidance: GuidanceConfig = MultiViewConfig()
    """The score-distillation rule."""
    representation: RepresentationConfig = NerfConfig()
    """What the object is made of while it is optimised."""
    cameras: CameraConfig = CameraConfig()
    """The views of each step."""
    prompts: PromptConfig = PromptConfig()
    """How the prompt becomes text for each view."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Adam and its schedule."""
    background: tuple[float, float, float] | None = None
    """Colour behind the renders in [0, 1]; none draws a light grey each step."""
    preview_every: float = Field(default=5.0, gt=0)
    """Seconds between preview pictures."""
    checkpoint_every: int = Field(default=50, ge=1)
    """Steps between checkpoints."""
    export: ExportConfig = ExportConfig()
    """What is written at the end."""
    start_from: str = ""
    """What the object begins as: a file of a mesh, of splats or of points, or the folder of another run."""
    stages: tuple[dict[str, Any], ...] = ()
    """Partial configurations, carried out one after the other, each on top of this one: the scene of a stage begins as
    what the stage before made, in another representation if it has another."""

    @model_validator(mode="after")
    def _stages_are_valid(self) -> Self:
        for i, stage in enumerate(self.stages):
            if wrong := stage.keys() & {"stages", "prompt", "seed", "export", "start_from"}:
                raise ValueError(f"stages.{i}.{min(wrong)}: that is the whole run's, set it outside of stages")
            try:
                stage_config(self, i)
            except ConfigError as error:
                raise ValueError(f"in stages.{i}: {error}") from None
        return self


@dataclass
class Work:
    """The live objects of a run. stage: which of its stages, from 0; config: that stage's."""

    stage: int
    config: RunConfig
    scene: Scene
    guidance: Guidance
    state: LoopState


def make_config(prompt: str, preset: str = "toybox", overrides: list[str] | None = None) -> RunConfig:
    """Defaults, a preset's values, the prompt and KEY=VALUE overrides, in this order. Raises ConfigError."""
    layers = [load_preset(preset).values, {"prompt": prompt}]
    return build(RunConfig, *layers, *(parse_override(text) for text in overrides or []))


def stage_count(config: RunConfig) -> int:
    """How many stages a run has: one when none are named."""
    return max(len(config.stages), 1)


def stage_config(config: RunConfig, stage: int) -> RunConfig:
    """The complete configuration of a stage, itself without stages. Raises ConfigError."""
    patch = config.stages[stage] if config.stages else {}
    return build(RunConfig, config.model_dump(exclude={"stages"}), patch)


def total_steps(config: RunConfig, stages: int | None = None) -> int:
    """Steps of the first `stages` stages, or of all."""
    return sum(stage_config(config, i).steps for i in range(stage_count(config) if stages is None else stages))


def read_config(run: Run) -> RunConfig:
    """The configuration of a run folder."""
    return build(RunConfig, load_yaml(run.config_path))


def new_run(root: Path, config: RunConfig) -> Run:
    """The run folder of this configuration under `root`, made when it is not there yet."""
    return create_run(root, slug(config.prompt), config)


def make_guidance(config: GuidanceConfig, prior: Prior) -> Guidance:
    """The rule of this configuration."""
    match config:
        case MultiViewConfig():
            return MultiView(config, prior)
        case SDSConfig():
            return SDS(config, prior)


def start_work(
    config: RunConfig,
    prior: Prior,
    checkpoint: dict[str, Tensor] | None = None,
    stage: int = 0,
    before: Scene | Asset | None = None,
) -> Work:
    """A stage's live objects: before its first step, beginning as `before` if given, or from a checkpoint."""
    if checkpoint is not None:
        stage = int(checkpoint["stage"])
    mine = stage_config(config, stage)
    # Each stage draws from streams of its own; a run of one stage from those of its seed.
    generators = random_streams(config.seed + 1_000_003 * stage, "cameras", "guidance", "scene")
    fresh, representation = checkpoint is None, mine.representation
    latents = isinstance(representation, HashNerfConfig | TriplaneNerfConfig) and representation.latent_channels > 0
    scene = make_scene(
        representation,
        generators["scene"],
        prior.device,
        mine.steps,
        before if fresh else None,
        latent_rgb_of(prior) if fresh and latents else None,
    )
    guidance = make_guidance(mine.guidance, prior)
    if checkpoint is None:
        state = start(scene, mine.optimizer, generators)
    else:
        state = resume(checkpoint, scene, guidance, mine.optimizer, generators)
    return Work(stage, mine, scene, guidance, state)


def pick_device(wanted: str = "") -> torch.device:
    """The device of this name, or the fastest there is. Raises RunError when it is not there."""
    if not wanted:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=wanted).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(
            f'device "{wanted}" cannot be used ({reason}); leave it out to pick one, see sds3d doctor'
        ) from None


def set_threads(threads: int) -> int:
    """Set the CPU threads of numba and torch; 0 takes the physical cores, at most 8. Returns the number set."""
    threads = threads or default_threads()
    with suppress(ValueError):  # more than the machine has cores: numba then keeps all of them
        numba.set_num_threads(threads)
    torch.set_num_threads(threads)  # last, because numba's first call resets OpenMP's count, which torch shares
    return threads


def default_threads() -> int:
    """Physical cores this process may use, at most 8: small kernels gain nothing from more."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    siblings = Path("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list")
    hyperthreads = 1
    if siblings.exists():
        text = siblings.read_text()
        hyperthreads = 2 if "," in text or "-" in text else 1
    return max(1, min(8, usable // hyperthreads))


def drive(run: Run, *, device: str = "", threads: int = 0, prior: Prior | None = None) -> Iterator[Step]:
    """Start or resume a run and drive it to its exports, yielding each step; a finished run yields nothing.

    device, threads: empty and 0 take what the run was started with, or the machine's defaults. prior: one that is
    loaded already, as a worker has it.

    The run ends early, and can be resumed to the same result, when its `control` file asks for it, when the
    consumer closes the generator, and when the process dies.
    Raises RunError (locked, no such device), NumericalError, ConfigError, OSError (disk full) and
    EmptySurfaceError; the state then says "failed" and the last good checkpoint is kept.
    """
    with run.locked():
        before = run.state
        if before.status == "finished":
            return
        run.clear_request()  # an old request was meant for another process
        try:
            yield from _drive(run, device or before.device, threads or before.threads, prior)
        except GeneratorExit:
            raise
        except KeyboardInterrupt:
            run.update(status="paused")
            raise
        except Exception as error:
            with suppress(OSError):  # on a full disk the state of before stays
                run.log(traceback.format_exc())
                run.update(status="failed", error=next(iter(str(error).splitlines()), type(error).__name__))
            raise


def _drive(run: Run, device_name: str, threads: int, loaded: Prior | None) -> Iterator[Step]:
    config = read_config(run)
    device = pick_device(device_name)
    threads = set_threads(threads)
    total = total_steps(config)
    run.update(status="running", error="", total=total, threads=threads, device=str(device))
    run.log(f"started by process {os.getpid()}: torch {torch.__version__}, {device}, {threads} threads")
    checkpoint = run.load_checkpoint()
    stage = 0 if checkpoint is None else int(checkpoint["stage"])
    priors = config.prior if loaded else None, loaded
    clock = _Clock(run.state.seconds if checkpoint else 0.0)
    scene: Scene | None = None
    before = starting_point(config, device) if checkpoint is None else None
    for index in range(stage, stage_count(config)):
        mine = stage_config(config, index)
        if priors[0] != mine.prior:
            priors = mine.prior, load_prior(mine.prior, device)
        prior = priors[1]
        assert prior is not None
        work = start_work(config, prior, checkpoint if index == stage else None, index, before)
        named = f"stage {index + 1} of {stage_count(config)}: {mine.representation.name}, " if config.stages else ""
        run.log(f"{named}{'resuming after' if work.state.step else 'starting at'} step {work.state.step}")
        finished = yield from _drive_stage(run, work, prior, clock, total_steps(config, index), total)
        if not finished:
            return
        before = scene = work.scene
    assert scene is not None  # there is always a stage
    export_scene(run, config, scene, device)
    run.update(status="finished", step=total, seconds=clock.seconds())
    run.log(f"finished in {clock.seconds():.1f} s")


def starting_point(config: RunConfig, device: torch.device) -> Scene | Asset | None:
    """What `start_from` names, scaled to fit the cube. Raises AssetError or RunError when it cannot be read."""
    if not config.start_from:
        return None
    path = Path(config.start_from)
    if path.is_dir():
        return load_scene(open_run(path), device)
    from sds3d.importers import fit_to_cube, load_asset

    asset, _ = fit_to_cube(load_asset(path))
    return asset


class _Clock:
    """Seconds spent on a run, over all processes."""

    def __init__(self, spent: float) -> None:
        self._began = time.monotonic() - spent

    def seconds(self) -> float:
        return time.monotonic() - self._began


def _drive_stage(
    run: Run, work: Work, prior: Prior, clock: _Clock, offset: int, total: int
) -> Generator[Step, None, bool]:
    """Optimise one stage, `offset` steps of `total` being done before it; returns whether it was finished."""
    config = work.config
    previewed = -math.inf  # the first step is drawn: it shows that the run is alive

    def save() -> None:
        tensors = pack(work.scene, work.guidance, work.state) | {"stage": torch.tensor(work.stage)}
        run.save_checkpoint(offset + work.state.step, tensors)
        run.update(step=offset + work.state.step, seconds=clock.seconds())

    steps = optimize(
        work.scene,
        prior,
        work.guidance,
        encode_prompt(prior, config.prompt, config.prompts),
        work.state,
        steps=config.steps,
        cameras=config.cameras,
        config=config.optimizer,
        background=config.background,
    )
    saved = work.state.step
    try:
        for local in steps:
            step = replace(local, step=offset + local.step, total=total)
            run.add_event(event_of(step))
            if time.monotonic() - previewed >= config.preview_every:
                save_preview(run, config, work)
                previewed = time.monotonic()
                run.update(step=step.step, seconds=clock.seconds())
            if local.step % config.checkpoint_every == 0 or local.step == config.steps:
                save()
                saved = local.step
            yield step
            request = run.requested()
            if request is not None and step.step < total:
                save()
                run.clear_request()
                run.update(status="paused" if request == "pause" else "cancelled")
                run.log(f"{request} after step {step.step}")
                return False
    except (GeneratorExit, NumericalError) as error:
        # Both leave the state of a finished step behind, which is worth keeping.
        if work.state.step > saved:
            save()
        if isinstance(error, GeneratorExit):
            run.update(status="paused")
        raise
    save_preview(run, config, work)
    return True


def event_of(step: Step) -> dict[str, object]:
    """The line of `events.jsonl` for a step."""
    return {
        "step": step.step,
        "seconds": round(step.seconds, 4),
        "grad_norm": step.grad_norm,
        "losses": step.losses,
        "metrics": step.guided.metrics,
    }


def pictures(scene: Scene, cameras: Cameras, device: torch.device) -> FloatArray:
    """Renders over white without gradients, a few views at a time: (B, H, W, 3) float32 in [0, 1]."""
    white = torch.ones(3, device=device)
    with torch.no_grad():
        parts = [scene.render(cameras[i : i + 4].to(device), white).rgb.cpu() for i in range(0, len(cameras), 4)]
    return torch.cat(parts).clamp(0, 1).numpy()


def camera_distance(config: CameraConfig) -> tuple[float, float]:
    """Middle of the ranges of distance (metres) and field of view (degrees): how previews look at the object."""
    return sum(config.distance) / 2, sum(config.fovy) / 2


def save_preview(run: Run, config: RunConfig, work: Work) -> Path:
    """Eight views side by side, as `previews/latest.png`; the run goes on as if it had not been drawn."""
    distance, fovy = camera_distance(config.cameras)
    cameras = turntable(PREVIEW_VIEWS, distance=distance, fovy=fovy, size=min(config.cameras.size, 256))
    device = work.state.optimizer.param_groups[0]["params"][0].device
    with undisturbed(work.state.generators):
        views = pictures(work.scene, cameras, device)  # (8, H, W, 3)
    return write_atomically(run.previews / "latest.png", to_png(views))


def export_scene(run: Run, config: RunConfig, scene: Scene, device: torch.device) -> dict[str, Path]:
    """Write every export of a scene into the run's folder. Raises EmptySurfaceError when it holds no surface."""
    mesh = scene.to_mesh(config.export.resolution)
    splats = scene.to_splats().without_invalid()[0] if isinstance(scene, GaussiansScene) else None
    if splats is None and not set(SPLAT_FORMATS).isdisjoint(config.export.formats):
        splats = as_splats(mesh, _SURFACE_SPLATS, torch.Generator().manual_seed(config.seed))
    return write_exports(
        run.exports,
        mesh,
        lambda cameras: pictures(scene, cameras, device),
        slug(config.prompt),
        formats=config.export.formats,
        splats=splats,
        title=config.prompt,
        texture_size=config.export.texture_size,
        size=config.export.picture_size,
        frames=config.export.frames,
    )


def load_scene(run: Run, device: torch.device) -> Scene:
    """The scene of a run's newest checkpoint, without its prior. Raises RunError when there is no checkpoint yet."""
    config = read_config(run)
    checkpoint = run.load_checkpoint()
    if checkpoint is None:
        raise RunError(f"{run.folder} has no checkpoint yet: nothing to show; sds3d resume {run.folder}")
    mine = stage_config(config, int(checkpoint["stage"]))
    representation = mine.representation
    if isinstance(representation, HashNerfConfig | TriplaneNerfConfig):
        representation = representation.model_copy(update={"sketch": ""})  # its file may be gone, and teaches only
    scene = make_scene(representation, random_streams(config.seed, "scene")["scene"], device, mine.steps)
    scene.load_state_dict(part(checkpoint, "scene/"))
    return scene


def export_run(run: Run, export: ExportConfig | None = None, device: str = "") -> dict[str, Path]:
    """Export a run's newest checkpoint again, finished or not. Raises RunError when there is none yet."""
    config = read_config(run)
    config = config.model_copy(update={"export": export or config.export})
    place = pick_device(device)
    return export_scene(run, config, load_scene(run, place), place)
