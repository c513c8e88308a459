"""Turn a configuration into a finished run folder: build prior, scene and rule, then drive the loop."""

from __future__ import annotations

import gc
import math
import os
import time
import traceback
import warnings
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional

from sds3d.devices import pick_device, set_threads
from sds3d.files import RunError, first_line
from sds3d.guidance.base import Guidance
from sds3d.priors.base import Prior, PriorConfig
from sds3d.priors.starts import load_start, start_folder
from sds3d.prompts.prompt import encode_prompt, encode_texts
from sds3d.rendering import gpu
from sds3d.representations.base import Scene, Source, Start
from sds3d.representations.contents import source_of
from sds3d.representations.field_nerf import fit_latent_rgb
from sds3d.representations.make import make_scene
from sds3d.run.backgrounds import STREAM, draws, make_environment
from sds3d.run.checks import prior_problems
from sds3d.run.config import (
    RunConfig,
    close_cameras,
    prior_mismatches,
    read_config,
    stage_config,
    stage_count,
    total_steps,
    unsought_pictures,
)
from sds3d.run.copies import check_copies
from sds3d.run.estimated_maps import Followed, load_followed
from sds3d.run.folder import STOPPED, Machine, Run, Status, open_run
from sds3d.run.generated_start import check_generator, generated_scene, is_generator, start_path
from sds3d.run.lessons import Teacher, numbered
from sds3d.run.live import Live
from sds3d.run.numbers import Numbers
from sds3d.run.optimize import (
    LoopState,
    NumericalError,
    Setup,
    Step,
    optimize,
    pack,
    random_streams,
    resume,
    start,
    undisturbed,
)
from sds3d.run.outputs import export_scene, load_scene, save_preview
from sds3d.run.prior_start import mesh_of_prior
from sds3d.run.prompt_picture import embedded, read_prompt_picture
from sds3d.run.references import STREAM as REFERENCE_STREAM
from sds3d.run.references import References, read_references
from sds3d.run.rewards import Reward, load_rewards
from sds3d.run.sinks import Sinks, sinks_of

Load = Callable[[Sequence[PriorConfig]], Sequence[Prior]]
"""Returns the priors with these settings; see `Priors.load`."""


@dataclass
class Work:
    """The live objects of a stage.

    stage: its number, from 0. config: its settings. offset: steps of the stages before it. rewards: judges of renders.
    estimators: of the normals, depths and materials in them.
    """

    stage: int
    config: RunConfig
    offset: int
    scene: Scene
    teachers: list[Teacher]
    state: LoopState
    rewards: tuple[Reward, ...] = ()
    estimators: tuple[Followed, ...] = ()

    @property
    def device(self) -> torch.device:
        """The device of the scene's parameters."""
        return self.state.optimizer.param_groups[0]["params"][0].device

    @property
    def steps_done(self) -> int:
        """Steps done so far, earlier stages included."""
        return self.offset + self.state.step

    @property
    def rules(self) -> list[Guidance]:
        """The rules of all teachers."""
        return [teacher.guidance for teacher in self.teachers]


def latent_rgb_of(prior: Prior) -> Tensor:
    """Fit the linear map (C, 3) from a prior's latents to colours in [-1, 1] on smooth random pictures."""
    coarse = torch.rand(16, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    smooth = functional.interpolate(coarse, (prior.image_size,) * 2, mode="bicubic").clamp(0, 1)  # (16, 3, S, S)
    rgb = smooth.permute(0, 2, 3, 1).to(prior.device)
    with torch.no_grad():
        return fit_latent_rgb(prior.encode_image(rgb), rgb)


def start_work(
    config: RunConfig,
    priors: Sequence[Prior],
    checkpoint: dict[str, Tensor] | None = None,
    stage: int = 0,
    before: Source | None = None,
    references: References | None = None,
) -> Work:
    """Build a stage's live objects: from a checkpoint, or new ones that start from `before` if given.

    priors: those of `RunConfig.all_teachers`. references: the pictures that the scene follows.
    """
    if checkpoint is not None:
        stage = int(checkpoint["stage"])
    mine = stage_config(config, stage)
    # Each stage has its own streams; those of a run without stages depend on its seed alone.
    given, own = mine.all_teachers, priors[0]
    names = ["cameras", *(numbered("guidance", index) for index in range(len(given))), "scene"]
    names += [STREAM] if draws(mine.background) else []
    names += [REFERENCE_STREAM] if references is not None else []
    generators = random_streams(config.seed + 1_000_003 * stage, *names)
    scene_start = Start(generators["scene"], mine.steps, own.device)
    if checkpoint is None:
        latent_rgb = latent_rgb_of(own) if mine.representation.renders_latents else None
        scene_start = replace(scene_start, before=before, latent_rgb=latent_rgb)
    scene = make_scene(mine.representation, scene_start, mine.particles)
    if references is not None:
        references.ask(own, mine.prompt, mine.cameras)
    picture = read_prompt_picture(mine.prompts)
    teachers = [
        Teacher(
            prior,
            teacher.guidance.make(prior),
            encode_texts(prior, teacher.guidance.texts(mine.prompt, mine.prompts), embedded(prior, picture)),
            teacher.gradient,
            teacher.weight,
            teacher.views,
        )
        for teacher, prior in zip(given, priors, strict=True)
    ]
    environment = make_environment(mine.background, mine.representation.latents, generators, own.device)
    if checkpoint is None:
        state = start(scene, mine.optimizer, generators, environment, references)
    else:
        rules = [teacher.guidance for teacher in teachers]
        state = resume(checkpoint, scene, rules, mine.optimizer, generators, environment, references)
    rewards = load_rewards(mine.rewards, mine.prompt, own.device)
    estimators = load_followed(mine.estimators, own.device)
    return Work(stage, mine, total_steps(config, stage), scene, teachers, state, rewards, estimators)


def optimize_work(work: Work) -> Iterator[Step]:
    """Run the remaining steps of a stage; see `sds3d.run.optimize.optimize`."""
    config = work.config
    setup = Setup(
        work.scene,
        work.teachers,
        config.steps,
        config.cameras,
        config.optimizer,
        config.background,
        work.rewards,
        config.reference_weight,
        work.estimators,
        config.seen,
    )
    return optimize(setup, work.state)


def drive(
    run: Run,
    *,
    device: str = "",
    threads: int = 0,
    prior: Prior | None = None,
    load: Load | None = None,
    claim: bool = False,
    closed: Status = "paused",
) -> Iterator[Step]:
    """Start or resume a run and drive it to its exports, yielding each step. A finished run yields nothing.

    device, threads: "" and 0 use what the run was started with, or the machine's defaults. prior: the run's prior if
    the caller has loaded it. load: how priors are loaded instead, for a caller that keeps them for further runs; it
    must not keep those that a later call does not want. claim: drive the run only if it is still queued. closed: the
    run's status after the generator is closed.

    The run stops early, and can be resumed with the same result, when its `control` file requests it, when the
    generator is closed, and when the process dies.
    Raises RunError (locked, no such device, a sink's package is missing), PriorError, NumericalError, ConfigError,
    OSError (disk full) and EmptySurfaceError. The status is then "failed", and the last good checkpoint is kept.
    """
    with run.locked():
        if not run.config_path.is_file():
            raise RunError(f"{run.folder} was deleted")
        status = run.state.status
        if status == "done" or (claim and status != "queued"):
            return
        if status != "queued":
            run.clear_request()  # it was meant for an earlier process; queueing a run clears it, too
            run.update(pause_at=0)
        run.sweep()
        try:
            before = run.machine
            machine = Machine(threads or before.threads, device or before.device)
            yield from _drive(run, machine, prior, load, closed)
        except GeneratorExit:
            raise
        except KeyboardInterrupt:
            run.update(status="paused")
            raise
        except Exception as error:
            with suppress(OSError):  # on a full disk the previous state remains
                run.log(traceback.format_exc())
                run.update(status="failed", error=first_line(error))
            raise


def _drive(run: Run, wanted: Machine, prior: Prior | None, load: Load | None, closed: Status) -> Iterator[Step]:
    config = read_config(run)
    check_copies(config, run.folder)
    device = pick_device(wanted.device)
    machine = Machine(set_threads(wanted.threads), str(device))
    total = total_steps(config)
    run.start_on(machine)
    run.update(status="running", error="", total=total, threads=machine.threads, device=machine.device, optimised=0.0)
    run.log(f"started by process {os.getpid()}: torch {torch.__version__}, {device}, {machine.threads} threads")
    if device.type == "cuda":
        gpu.announce()
        run.log(f"kernels: {gpu.summary()}")
    _warn(run, [*prior_mismatches(config), *close_cameras(config), *unsought_pictures(config)])
    if _stopped(run):
        return
    checkpoint = run.load_checkpoint(mend=True)
    clock = _Clock(run.state.seconds if checkpoint else 0.0)
    if load is None:
        held = [] if prior is None else [(prior_settings(config, run.state.lean)[0], prior)]
        load = Priors(device, held).load
    with sinks_of(run, config, _steps_before(config, checkpoint)) as sinks, closing(Live(run)) as live:
        record = _Record(run, total, clock, sinks, closed, run.origin(machine), live, run.state.pause_at)
        scene = yield from _drive_stages(record, config, checkpoint, load, device)
        if scene is None:
            return
        optimised = clock.seconds()
        run.update(step=total, seconds=optimised, optimised=optimised, exported=0.0)
        export_scene(run, config, scene, device, lambda share, part: run.update(exported=share, exporting=part))
    run.update(status="done", step=total, seconds=clock.seconds(), exported=1.0, exporting="")
    run.log(f"finished in {clock.seconds():.1f} s")


def _warn(run: Run, problems: Sequence[str]) -> None:
    for problem in problems:
        run.log(f"warning: {problem}")
        warnings.warn(problem, stacklevel=3)


def _steps_before(config: RunConfig, checkpoint: dict[str, Tensor] | None) -> int:
    """Return the number of steps that a run has done before it continues from a checkpoint."""
    return total_steps(config, int(checkpoint["stage"])) + int(checkpoint["step"]) if checkpoint else 0


def _drive_stages(
    record: _Record, config: RunConfig, checkpoint: dict[str, Tensor] | None, load: Load, device: torch.device
) -> Generator[Step, None, Scene | None]:
    """Optimise the remaining stages. Return the scene of the last one, or None if the run was stopped."""
    first = 0 if checkpoint is None else int(checkpoint["stage"])
    scene: Scene | None = None
    before = starting_point(record.run, config, load, device) if checkpoint is None else None
    references = read_references(config.reference, config.cameras, device)
    told: list[str] = []
    for index in range(first, stage_count(config)):
        mine = stage_config(config, index)
        loaded = load(prior_settings(mine, record.run.state.lean))
        problems = [problem for problem in prior_problems(mine, loaded) if problem not in told]
        told += problems
        _warn(record.run, problems)
        work = start_work(config, loaded, checkpoint if index == first else None, index, before, references)
        named = f"stage {index + 1} of {stage_count(config)}: {mine.representation.name}, " if config.stages else ""
        record.run.log(f"{named}{'resuming after' if work.state.step else 'starting at'} step {work.state.step}")
        finished = yield from _drive_stage(record, work)
        for line in references.told() if references is not None else []:
            record.run.log(line)
        if not finished:
            return None
        before = scene = work.scene
        del work, loaded  # their memory may be needed for the next stage's
    return scene


def prior_settings(config: RunConfig, lean: bool) -> list[PriorConfig]:
    """Return the settings with which the priors of a run's teachers are loaded, its own first.

    lean: use less memory; results differ by float error.
    """
    return [teacher.prior.in_less_memory() if lean else teacher.prior for teacher in config.all_teachers]


def starting_point(run: Run, config: RunConfig, load: Load, device: torch.device) -> Source | None:
    """Load what `start_from` names, with +Y up, scaled to fit the cube, or make it of the prompt.

    Raises AssetError, RunError, PriorError or EmptySurfaceError.
    """
    if not config.start_from:
        return None
    if (folder := start_folder(config.start_from)) is not None:
        mine = stage_config(config, 0)
        network = load_start(folder, mine.prior)
        prior = load(prior_settings(mine, run.state.lean))[0]
        texts = encode_prompt(prior, mine.prompt, mine.prompts)
        return source_of(mesh_of_prior(network, prior, texts, config.seed))
    path = run.own or start_path(config.start_from)
    if is_generator(path):
        mine = stage_config(config, 0)
        check_generator(path, mine.prior)
        prior = load(prior_settings(mine, run.state.lean))[0]
        return generated_scene(path, prior, encode_prompt(prior, mine.prompt, mine.prompts), config.seed)
    if path.is_dir():
        return load_scene(open_run(path), device)
    from sds3d.formats.load import fit_to_cube, load_asset

    asset, _ = fit_to_cube(load_asset(path, config.up_axis))
    return source_of(asset)


@dataclass
class Priors:
    """The priors in memory.

    held: those that were wanted last, each with its settings. Others live as long as a run uses them.
    """

    device: torch.device
    held: list[tuple[PriorConfig, Prior]] = field(default_factory=list)
    _lent: list[tuple[PriorConfig, weakref.ref[Prior]]] = field(default_factory=list)

    def load(self, wanted: Sequence[PriorConfig]) -> list[Prior]:
        """Return the priors with these settings, one for those that are equal. Others are dropped first, since all
        together may not fit into memory.
        """
        released = [(settings, weakref.ref(prior)) for settings, prior in self.held if settings not in wanted]
        if released:
            self.held = [(settings, prior) for settings, prior in self.held if settings in wanted]
            gc.collect()
        self._lent = [(settings, lent) for settings, lent in [*self._lent, *released] if lent() is not None]
        for settings in wanted:
            if not any(settings == known for known, _ in self.held):
                used = (lent() for known, lent in self._lent if known == settings)
                self.held.append((settings, next(filter(None, used), None) or settings.load(self.device)))
        return [next(prior for known, prior in self.held if known == settings) for settings in wanted]


class _Clock:
    """Seconds spent on a run, over all processes."""

    def __init__(self, spent: float) -> None:
        self._began = time.monotonic() - spent

    def seconds(self) -> float:
        return time.monotonic() - self._began


@dataclass(frozen=True)
class _Record:
    """Writes what happens in a run into its folder and to its sinks.

    total: steps of all stages. closed: the run's status after the generator is closed. origin: see `Run.origin`.
    live: draws what visitors look at. pause_at: see `RunState`.
    """

    run: Run
    total: int
    clock: _Clock
    sinks: Sinks
    closed: Status
    origin: Mapping[str, Tensor]
    live: Live
    pause_at: int = 0

    def events(self, work: Work) -> None:
        """Write what became known about finished steps."""
        for numbers in work.state.take():
            event = event_of(numbers, work.offset)
            self.run.add_event(event)
            self.sinks.write(event)

    def settle(self, work: Work) -> None:
        """Write the events of all steps so far. Raises NumericalError if one of them failed."""
        try:
            work.state.settle()
        finally:
            self.events(work)

    def progress(self, work: Work) -> None:
        self.run.update(step=work.steps_done, seconds=self.clock.seconds())

    def checkpoint(self, work: Work) -> None:
        self.settle(work)
        tensors = pack(work.scene, work.rules, work.state) | {"stage": torch.tensor(work.stage)}
        tensors |= self.origin
        self.run.save_checkpoint(work.steps_done, tensors)
        self.progress(work)

    def preview(self, work: Work) -> None:
        """Draw the scene without changing the random streams of the run."""
        self.settle(work)
        with undisturbed(work.state.generators):
            picture = save_preview(self.run, work.config.cameras, work.scene, work.device)
        self.sinks.show(work.steps_done, picture)

    def look(self, work: Work) -> None:
        """Draw what visitors look at, like `preview`."""
        with undisturbed(work.state.generators):
            self.live.draw(work.scene, work.device)


def _drive_stage(record: _Record, work: Work) -> Generator[Step, None, bool]:
    """Optimise one stage. Return whether it was finished."""
    run, config = record.run, work.config
    previewed = -math.inf  # the first step is shown at once
    saved = work.state.step
    steps = optimize_work(work)
    if _stopped(run):
        return False
    try:
        for local in steps:
            step = replace(local, step=work.steps_done, total=record.total)
            record.events(work)
            record.look(work)
            if time.monotonic() - previewed >= config.preview_every:
                record.preview(work)
                previewed = time.monotonic()
                record.progress(work)
            if local.step % config.checkpoint_every == 0 and local.step < config.steps:
                record.checkpoint(work)
                saved = local.step
            yield step
            if 0 < record.pause_at <= step.step < record.total:
                record.checkpoint(work)
                record.preview(work)
                run.update(status="paused", pause_at=0)
                run.log(f"paused as a draft after step {step.step}")
                return False
            if run.requested() is not None and step.step < record.total:
                record.checkpoint(work)
                saved = local.step
                if _stopped(run):  # unless the request was withdrawn meanwhile
                    return False
        record.checkpoint(work)  # here, so that a stage without steps has one, too
    except (GeneratorExit, NumericalError) as error:
        # Both leave the state of a finished step, which is worth keeping, but not after a fault on a GPU: that is found
        # some steps later, and what is not a parameter has gone on.
        failed = isinstance(error, NumericalError)
        try:
            record.settle(work)
        except NumericalError:  # of a step before the generator was closed: it fails again when the run goes on
            failed = True
        if work.state.step > saved and not (failed and work.state.late):
            record.checkpoint(work)
        if isinstance(error, GeneratorExit) and not _stopped(run):
            run.update(status=record.closed)
        raise
    record.preview(work)
    return True


def _stopped(run: Run) -> bool:
    """Pause or cancel the run if that was requested. Return whether it was."""
    request = run.requested()
    if request is None:
        return False
    state = run.update(status=STOPPED[request])
    run.clear_request()  # last, so that the request remains if the process is killed before this line
    run.log(f"{request} after step {state.step}")
    return True


def event_of(numbers: Numbers, offset: int = 0) -> dict[str, object]:
    """Return the line of `events.jsonl` for a step. offset: steps of the stages before it."""
    return {
        "step": offset + numbers.step,
        "seconds": round(numbers.seconds, 4),
        "grad_norm": numbers.grad_norm,
        "losses": numbers.losses,
        "metrics": numbers.metrics,
    }
