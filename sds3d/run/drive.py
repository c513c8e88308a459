"""From a configuration to a finished run folder: builds prior, scene and rule, and drives the loop.

Every choice there is comes together here.
"""

from __future__ import annotations

import math
import os
import time
import traceback
import warnings
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from sds3d.devices import pick_device, set_threads
from sds3d.files import RunError
from sds3d.guidance.base import Guidance
from sds3d.priors.base import Prior, PriorConfig
from sds3d.prompts.prompt import encode_texts
from sds3d.representations.base import Scene, Source, Start
from sds3d.representations.contents import source_of
from sds3d.representations.field_nerf import fit_latent_rgb
from sds3d.representations.make import make_scene
from sds3d.run.config import RunConfig, prior_mismatches, read_config, stage_config, stage_count, total_steps
from sds3d.run.folder import STOPPED, Run, Status, open_run
from sds3d.run.optimize import (
    LoopState,
    NumericalError,
    Step,
    optimize,
    pack,
    random_streams,
    resume,
    start,
    undisturbed,
)
from sds3d.run.outputs import export_scene, load_scene, save_preview


@dataclass
class Work:
    """The live objects of a run. stage: which of its stages, from 0; config: that stage's."""

    stage: int
    config: RunConfig
    scene: Scene
    guidance: Guidance
    state: LoopState


def latent_rgb_of(prior: Prior) -> Tensor:
    """The linear map (C, 3) from a prior's latents to colours in [-1, 1] that is right for smooth pictures."""
    coarse = torch.rand(16, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    smooth = functional.interpolate(coarse, (prior.image_size,) * 2, mode="bicubic").clamp(0, 1)  # (16, 3, S, S)
    rgb = smooth.permute(0, 2, 3, 1).to(prior.device)
    with torch.no_grad():
        return fit_latent_rgb(prior.encode_image(rgb), rgb)


def start_work(
    config: RunConfig,
    prior: Prior,
    checkpoint: dict[str, Tensor] | None = None,
    stage: int = 0,
    before: Source | None = None,
) -> Work:
    """A stage's live objects: before its first step, beginning as `before` if given, or from a checkpoint."""
    if checkpoint is not None:
        stage = int(checkpoint["stage"])
    mine = stage_config(config, stage)
    # Each stage draws from streams of its own; a run of one stage from those of its seed.
    generators = random_streams(config.seed + 1_000_003 * stage, "cameras", "guidance", "scene")
    scene_start = Start(generators["scene"], mine.steps, prior.device)
    if checkpoint is None:
        latent_rgb = latent_rgb_of(prior) if mine.representation.renders_latents else None
        scene_start = replace(scene_start, before=before, latent_rgb=latent_rgb)
    scene = make_scene(mine.representation, scene_start, mine.particles)
    guidance = mine.guidance.make(prior)
    if checkpoint is None:
        state = start(scene, mine.optimizer, generators)
    else:
        state = resume(checkpoint, scene, guidance, mine.optimizer, generators)
    return Work(stage, mine, scene, guidance, state)


def optimize_work(work: Work, prior: Prior) -> Iterator[Step]:
    """The steps of a stage, from where it is to its end; see `sds3d.run.optimize.optimize`."""
    config = work.config
    return optimize(
        work.scene,
        prior,
        work.guidance,
        encode_texts(prior, config.guidance.texts(config.prompt, config.prompts)),
        work.state,
        steps=config.steps,
        cameras=config.cameras,
        config=config.optimizer,
        background=config.background,
        transforms=config.gradient,
    )


def drive(
    run: Run,
    *,
    device: str = "",
    threads: int = 0,
    prior: Prior | None = None,
    claim: bool = False,
    closed: Status = "paused",
) -> Iterator[Step]:
    """Start or resume a run and drive it to its exports, yielding each step; a finished run yields nothing.

    device, threads: empty and 0 take what the run was started with, or the machine's defaults. prior: one that is
    loaded already by `prior_settings`, as a worker has it. claim: only a run that is still queued is driven.
    closed: the status that closing the generator leaves.

    The run ends early, and can be resumed to the same result, when its `control` file asks for it, when the
    consumer closes the generator, and when the process dies.
    Raises RunError (locked, no such device), NumericalError, ConfigError, OSError (disk full) and
    EmptySurfaceError; the state then says "failed" and the last good checkpoint is kept.
    """
    with run.locked():
        if not run.config_path.is_file():
            raise RunError(f"{run.folder} is no run folder any more: it was deleted")
        before = run.state
        if before.status == "done" or (claim and before.status != "queued"):
            return
        if before.status != "queued":
            run.clear_request()  # an old request was meant for another process; whoever queues a run clears it then
        run.sweep()
        try:
            yield from _drive(run, device or before.device, threads or before.threads, prior, closed)
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


def _drive(run: Run, device_name: str, threads: int, loaded: Prior | None, closed: Status) -> Iterator[Step]:
    config = read_config(run)
    device = pick_device(device_name)
    threads = set_threads(threads)
    total = total_steps(config)
    run.update(status="running", error="", total=total, threads=threads, device=str(device))
    run.log(f"started by process {os.getpid()}: torch {torch.__version__}, {device}, {threads} threads")
    for mismatch in prior_mismatches(config):
        run.log(f"warning: {mismatch}")
        warnings.warn(mismatch, stacklevel=2)
    if _stops(run):
        return
    checkpoint = run.load_checkpoint(mend=True)
    stage = 0 if checkpoint is None else int(checkpoint["stage"])
    lean = run.state.lean
    priors = prior_settings(config, lean) if loaded else None, loaded
    clock = _Clock(run.state.seconds if checkpoint else 0.0)
    scene: Scene | None = None
    before = starting_point(config, device) if checkpoint is None else None
    for index in range(stage, stage_count(config)):
        mine = stage_config(config, index)
        if priors[0] != (settings := prior_settings(mine, lean)):
            priors = settings, settings.load(device)
        prior = priors[1]
        assert prior is not None
        work = start_work(config, prior, checkpoint if index == stage else None, index, before)
        named = f"stage {index + 1} of {stage_count(config)}: {mine.representation.name}, " if config.stages else ""
        run.log(f"{named}{'resuming after' if work.state.step else 'starting at'} step {work.state.step}")
        finished = yield from _drive_stage(run, work, prior, clock, total_steps(config, index), total, closed)
        if not finished:
            return
        before = scene = work.scene
    assert scene is not None  # there is always a stage
    export_scene(run, config, scene, device)
    run.update(status="done", step=total, seconds=clock.seconds())
    run.log(f"finished in {clock.seconds():.1f} s")


def prior_settings(config: RunConfig, lean: bool) -> PriorConfig:
    """How a run's prior is loaded. lean: in less memory, with results equal up to float error."""
    return config.prior.in_less_memory() if lean else config.prior


def starting_point(config: RunConfig, device: torch.device) -> Source | None:
    """What `start_from` names, scaled to fit the cube. Raises AssetError or RunError when it cannot be read."""
    if not config.start_from:
        return None
    path = Path(config.start_from)
    if path.is_dir():
        return load_scene(open_run(path), device)
    from sds3d.formats.load import fit_to_cube, load_asset

    asset, _ = fit_to_cube(load_asset(path))
    return source_of(asset)


class _Clock:
    """Seconds spent on a run, over all processes."""

    def __init__(self, spent: float) -> None:
        self._began = time.monotonic() - spent

    def seconds(self) -> float:
        return time.monotonic() - self._began


def _drive_stage(
    run: Run, work: Work, prior: Prior, clock: _Clock, offset: int, total: int, closed: Status
) -> Generator[Step, None, bool]:
    """Optimise one stage, `offset` steps of `total` being done before it; returns whether it was finished."""
    config = work.config
    previewed = -math.inf  # the first step is drawn: it shows that the run is alive

    def save() -> None:
        tensors = pack(work.scene, work.guidance, work.state) | {"stage": torch.tensor(work.stage)}
        run.save_checkpoint(offset + work.state.step, tensors)
        run.update(step=offset + work.state.step, seconds=clock.seconds())

    steps = optimize_work(work, prior)
    saved = work.state.step
    if _stops(run):
        return False
    try:
        for local in steps:
            step = replace(local, step=offset + local.step, total=total)
            run.add_event(event_of(step))
            if time.monotonic() - previewed >= config.preview_every:
                _preview(run, work)
                previewed = time.monotonic()
                run.update(step=step.step, seconds=clock.seconds())
            if local.step % config.checkpoint_every == 0 or local.step == config.steps:
                save()
                saved = local.step
            yield step
            if run.requested() is not None and step.step < total:
                save()
                saved = local.step
                if _stops(run):  # unless it was taken back meanwhile
                    return False
    except (GeneratorExit, NumericalError) as error:
        # Both leave the state of a finished step behind, which is worth keeping.
        if work.state.step > saved:
            save()
        if isinstance(error, GeneratorExit) and not _stops(run):
            run.update(status=closed)
        raise
    _preview(run, work)
    return True


def _stops(run: Run) -> bool:
    """Pauses or cancels the run if that was asked for, and says whether it was."""
    request = run.requested()
    if request is None:
        return False
    state = run.update(status=STOPPED[request])
    run.clear_request()  # last: killed before it, the run is stopped all the same
    run.log(f"{request} after step {state.step}")
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


def _preview(run: Run, work: Work) -> None:
    """Draw what there is; the run goes on as if it had not been drawn."""
    device = work.state.optimizer.param_groups[0]["params"][0].device
    with undisturbed(work.state.generators):
        save_preview(run, work.config.cameras, work.scene, device)
