"""The optimisation loop: a generator of steps that is independent of files, progress bars and processes.

Each step renders the scene from sampled cameras. Every teacher gives a gradient in its prior's space or target pictures
by its guidance rule; these add up at the render. Adam updates the scene's parameters (Kingma and Ba 2014,
arXiv:1412.6980), or Adan. Consumers pause, cancel, save and draw between two steps, where the state is complete.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from sds3d.cameras import CameraConfig, Cameras, sample_cameras
from sds3d.config import Config
from sds3d.guidance.base import Guidance, Guided, Number
from sds3d.ramps import Ramp
from sds3d.representations.base import Rendering, Scene
from sds3d.run.adan import Adan
from sds3d.run.backgrounds import Background, Environment, behind_views, render_over
from sds3d.run.estimated_maps import Followed
from sds3d.run.lessons import Lesson, Shown, Teacher, ask, backward, image_losses, metrics_of, numbered
from sds3d.run.numbers import Checks, Numbers, NumericalError, Unread, as_numbers, read
from sds3d.run.references import STREAM as REFERENCE_STREAM
from sds3d.run.references import References
from sds3d.run.rewards import Reward
from sds3d.run.seen import SeenConfig, seen
from sds3d.states import load_optimizer_state, optimizer_state, part, prefixed
from sds3d.updates import fused, skipped_if, update

READ_EVERY = 0.25
"""Seconds between two transfers of the numbers of steps from a GPU."""

BETAS = (0.9, 0.99)
"""Decay of Adam's moments for scenes that set none."""

Moment = Annotated[float, Field(ge=0, lt=1)]


class OptimizerConfig(Config):
    """The optimiser and its learning-rate schedule; the rates themselves belong to the representation."""

    method: Literal["adam", "adan"] = "adam"
    """adam: Adam, or AdamW with a weight decay. adan: Adan (arXiv:2208.06677), the optimiser of HiFA's code, which
    takes larger learning rates."""
    betas: tuple[Moment, Moment] | None = None
    """Decay of Adam's two moments. null: what suits the representation, mostly 0.9 and 0.95."""
    eps: float = Field(default=1e-15, gt=0)
    """Added to the root of the second moment. It is tiny because gradients of distant voxels are tiny."""
    warmup: int = Field(default=10, ge=0)
    """Steps over which the learning rates rise linearly from zero."""
    final: float = Field(default=0.2, gt=0, le=1)
    """Factor on the learning rates at the last step."""
    decay: Literal["linear", "exponential"] = "linear"
    """How the learning rates fall to it."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Share of every parameter, times its learning rate, that a step takes away, as in AdamW (arXiv:1711.05101), whose
    usual value is 0.01."""
    clip_norm: float | None = Field(default=None, gt=0)
    """A larger norm of the gradient of all parameters together is scaled down to this; HiFA's code has 1. null: none
    is."""
    max_grad_norm: float = Field(default=1e8, gt=0)
    """A larger gradient norm stops the run, because it has diverged."""

    @model_validator(mode="after")
    def _betas_are_adams(self) -> Self:
        if self.method == "adan" and self.betas is not None:
            raise ValueError("betas are those of adam, and adan has its own: set betas to null")
        return self


@dataclass(frozen=True)
class Step:
    """One finished step.

    step: number of this step, from 1 to `total`. rendering: detached pictures of its B views over `background`, see
    `behind_views`. If a step has several parts, cameras, pictures and metrics are those of the last one.
    guided: the first teacher's result, with the metrics of all; those of the second teacher end in "_2", and so on.
    losses: the scene's weighted regularisers and, for rules on pixels, "image", "image_2" and so on. grad_norm: norm of
    the gradient of all parameters. seconds: wall-clock time of this step, or on a GPU of queueing its work.

    On a GPU, losses, grad_norm and metrics are tensors there; `LoopState.take` has them as numbers, some steps later.
    """

    step: int
    total: int
    cameras: Cameras
    background: Tensor
    rendering: Rendering
    guided: Guided
    losses: Mapping[str, Number]
    grad_norm: Number
    seconds: float


@dataclass
class LoopState:
    """The state of the loop itself: steps done, the optimiser's moments, the random streams, the learned background,
    and the pictures that the scene follows.

    late: whether numbers and checks stay on the device and are read a few times a second. bad: 1 there if a step whose
    numbers were not read yet failed; updates are switched off from that step on. unread, known: of `settle` and `take`.
    """

    step: int
    optimizer: torch.optim.Optimizer
    generators: dict[str, torch.Generator]
    environment: Environment | None = None
    references: References | None = None
    late: bool = False
    bad: Tensor | None = None
    unread: list[Unread] = field(default_factory=list)
    known: list[Numbers] = field(default_factory=list)

    def take(self) -> list[Numbers]:
        """Return the numbers of finished steps, in order, that became known since the last call or step."""
        known, self.known = self.known, []
        return known

    def settle(self) -> None:
        """Read the numbers of all finished steps, in one transfer.

        Raises NumericalError if one of them failed. The state is then that of the last good step.
        """
        unread, self.unread = self.unread, []
        values = iter(read([value for step in unread for value in step.scalars()]))
        for step in unread:
            try:
                self.known.append(step.numbers([next(values) for _ in step.scalars()]))
            except NumericalError:
                self.step = step.step - 1
                self.rewind(step.before)
                raise

    def snapshot(self) -> dict[str, Tensor]:
        """Return the states of the random streams and of the cameras of pictures; later steps do not change them."""
        state = {f"generator/{key}": generator.get_state() for key, generator in self.generators.items()}
        return state | prefixed("reference", self.references.state_dict() if self.references is not None else {})

    def rewind(self, before: Mapping[str, Tensor]) -> None:
        """Restore what `snapshot` returned, and forget that a step failed."""
        self.bad = None
        for name, stream in part(before, "generator").items():
            self.generators[name].set_state(stream)
        if self.references is not None:
            self.references.load_state_dict(part(before, "reference"))


def random_streams(seed: int, *names: str) -> dict[str, torch.Generator]:
    """Return independent CPU generators, one per name, so that draws from one never change another."""
    streams = {}
    for name in names:
        entropy = np.random.SeedSequence([seed, *name.encode()]).generate_state(1, np.uint64)[0]
        streams[name] = torch.Generator().manual_seed(int(entropy))
    return streams


def start(
    scene: Scene,
    config: OptimizerConfig,
    generators: Mapping[str, torch.Generator],
    environment: Environment | None = None,
    references: References | None = None,
) -> LoopState:
    """Return the state before the first step.

    generators: the streams "cameras" and, for the teachers, "guidance", "guidance_2" and so on, that of the background
    if it `draws`, and that of references if there are any. environment: see `make_environment`.
    """
    groups = _groups(scene, environment)
    late = fused(groups[0]["params"][0].device)
    if config.betas is not None:
        groups = [group | {"betas": config.betas} for group in groups]
    if config.method == "adan":
        optimizer = Adan(groups, config.eps, config.weight_decay)
    else:  # without weight decay, AdamW is Adam
        optimizer = torch.optim.AdamW(groups, betas=BETAS, eps=config.eps, weight_decay=config.weight_decay, fused=late)
    return LoopState(0, optimizer, dict(generators), environment, references, late=bool(late))


def _groups(scene: Scene, environment: Environment | None) -> list[dict[str, Any]]:
    """Return the parameters of the scene and of the learned background, if there is one, with their learning rates."""
    return scene.parameter_groups() + (environment.parameter_groups() if environment is not None else [])


@dataclass(frozen=True)
class Setup:
    """What is optimised, and how.

    teachers: all on one device, at least one with a weight above 0 at each step. If `cameras` has no size, renders have
    that of the first one's prior. steps: total number of steps. cameras: the views of each step. background: what is
    behind the renders. rewards: judges of the renders. reference_weight: factor on the losses of the pictures that the
    scene follows. estimators: of what the surface follows. seen: how the teachers see the renders.
    """

    scene: Scene
    teachers: Sequence[Teacher]
    steps: int
    cameras: CameraConfig
    optimizer: OptimizerConfig
    background: Background = None
    rewards: Sequence[Reward] = ()
    reference_weight: Ramp = field(default_factory=lambda: Ramp(1.0))
    estimators: Sequence[Followed] = ()
    seen: SeenConfig = field(default_factory=SeenConfig)

    @property
    def picture_size(self) -> int:
        """Height and width of the pictures of the first teacher's prior."""
        return self.teachers[0].prior.image_size


def optimize(setup: Setup, state: LoopState) -> Iterator[Step]:
    """Optimise the scene in place from `state.step` to `setup.steps`, and yield after each step.

    At every yield, scene, guidance and state are those of a finished step, so the consumer may save, stop or draw.
    Raises NumericalError if a value is not finite or the gradient is too large. Parameters, moments, networks,
    random streams and cameras of pictures are then those of the last good step; on a GPU, the error may come some steps
    later.
    """
    rates = [group.get("rate", Ramp(group["lr"])) for group in _groups(setup.scene, state.environment)]
    settled = -math.inf
    while state.step < setup.steps:
        began = time.perf_counter()
        state.known.clear()
        if state.late and setup.scene.edits(state.step):
            state.settle()
        before = state.snapshot()
        progress = state.step / max(setup.steps - 1, 1)
        factor = learning_rate_factor(state.step, setup.steps, setup.optimizer)
        for group, rate in zip(state.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate.geometric(progress) * factor
        checks = Checks(f"step {state.step + 1}", setup.optimizer.max_grad_norm, state.late)
        try:
            event = _step(setup, state, checks)
        except NumericalError:
            state.rewind(before)
            raise
        now = time.perf_counter()
        event = replace(event, seconds=now - began)
        metrics = event.guided.metrics
        state.unread.append(Unread(event.step, event.seconds, event.grad_norm, event.losses, metrics, checks, before))
        if not state.late or now - settled > READ_EVERY or state.step == setup.steps:
            state.settle()
            settled = now
        yield event


def _step(setup: Setup, state: LoopState, checks: Checks) -> Step:
    progress = state.step / max(setup.steps - 1, 1)
    state.optimizer.zero_grad(set_to_none=True)
    taught = [_teach(setup, state, progress, share, checks) for share in setup.scene.parts()]
    grad_norm = _move(setup, state, checks)
    with skipped_if(state.bad):
        learned = [{index: guided.learned() for index, guided in part.guided.items()} for part in taught]
    guided = replace(next(iter(learned[-1].values())), metrics=metrics_of(learned[-1]))
    state.step += 1
    shown, losses = taught[-1].shown, summed([part.losses for part in taught])
    return Step(
        step=state.step,
        total=setup.steps,
        cameras=shown.cameras,
        background=shown.background,
        rendering=shown.rendering,
        guided=guided if state.late else replace(guided, metrics=as_numbers(guided.metrics)),
        losses=losses if state.late else as_numbers(losses),
        grad_norm=grad_norm if state.late else float(grad_norm),
        seconds=0.0,
    )


@dataclass(frozen=True)
class _Taught:
    """What remains of a part of a step after its gradient.

    shown: its detached pictures. guided: by the teacher's index. losses: detached, with the share of the part.
    """

    shown: Shown
    guided: Mapping[int, Guided]
    losses: Mapping[str, Tensor]


def _teach(setup: Setup, state: LoopState, progress: float, share: float, checks: Checks) -> _Taught:
    """Render the scene, ask the teachers, and add the gradient of this part of the step to the parameters'."""
    followed = _follow(setup, state, progress)  # first, because scenes remember their last render
    shown = _render(setup, state, progress, checks)
    looks = seen(setup.seen, shown, state.step, progress, setup.teachers[0].prior)
    lessons = [
        ask(teacher, index, looks, progress, state.generators[numbered("guidance", index)], checks, share)
        for index, teacher in enumerate(setup.teachers)
        if teacher.weight.at(progress) > 0
    ]
    losses = _losses(setup, shown, lessons, followed, state.step, progress, share, checks)
    backward(lessons, losses, progress)
    made = shown.rendering
    pictures = Rendering(made.rgb.detach(), made.alpha.detach(), made.depth.detach(), made.normal.detach())
    return _Taught(
        replace(shown, rendering=pictures, background=shown.background.detach()),
        {lesson.index: lesson.guided for lesson in lessons},
        {term: loss.detach() for term, loss in losses.items()},
    )


def summed(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the sums of the losses of a step's parts, by name."""
    total: dict[str, Tensor] = {}
    for losses in parts:
        total |= {term: total[term] + loss if term in total else loss for term, loss in losses.items()}
    return total


def _follow(setup: Setup, state: LoopState, progress: float) -> dict[str, Tensor]:
    """Return the weighted losses of the pictures that the scene follows, at the size of the step's renders."""
    if state.references is None:
        return {}
    size = setup.cameras.at(progress, setup.picture_size).size
    weight, generator = setup.reference_weight.at(progress), state.generators[REFERENCE_STREAM]
    losses = state.references.losses(setup.scene, state.step, progress, size, generator)
    return {name: weight * loss for name, loss in losses.items()} if weight else {}


def _render(setup: Setup, state: LoopState, progress: float, checks: Checks) -> Shown:
    """Render the scene from sampled cameras."""
    device, generator = setup.teachers[0].prior.device, state.generators["cameras"]
    cameras = sample_cameras(setup.cameras.at(progress, setup.picture_size), generator)
    grey = sample_background(generator)  # always drawn, so that other draws do not depend on the setting
    cameras = cameras.to(device)
    background = behind_views(setup.background, state.environment, cameras, grey, state.generators)
    background = background.to(device, non_blocking=True)
    rendering = render_over(setup.scene, cameras, background)
    checks.finite(rendering.rgb, "the render")
    wanted = any(teacher.prior.takes_light for teacher in setup.teachers)
    return Shown(cameras, background, rendering, setup.scene.light_maps(cameras, rendering) if wanted else None)


def _losses(
    setup: Setup,
    shown: Shown,
    lessons: Sequence[Lesson],
    followed: Mapping[str, Tensor],
    step: int,
    progress: float,
    share: float,
    checks: Checks,
) -> dict[str, Tensor]:
    """Return the losses of a part of a step by name: the scene's regularisers, those of the pictures and of the
    estimates that it follows, for rules on pixels "image" and so on, and those of rewards. step: from 0."""
    losses = {**setup.scene.regularisers(shown.rendering, progress), **followed}
    for index, estimator in enumerate(setup.estimators):
        followed = estimator.losses(shown.rendering, shown.cameras, step, progress)
        losses |= {numbered(term, index): loss for term, loss in followed.items()}
    # Sums over pixels are those of full size, so that coarse renders and large pictures change no weight.
    size, full = shown.rendering.alpha.shape[1], setup.cameras.full_size(setup.picture_size)
    if (factor := share * (full / size) ** 2) != 1:
        losses = {term: factor * loss for term, loss in losses.items()}
    losses |= image_losses(lessons, full, checks)
    for index, reward in enumerate(setup.rewards):
        judged = reward.losses(shown.rendering.rgb, step, progress)
        losses |= {numbered(term, index): share * loss for term, loss in judged.items()}
    for term, loss in losses.items():
        checks.finite(loss, f'the loss "{term}"')
    return losses


def _move(setup: Setup, state: LoopState, checks: Checks) -> Tensor:
    """Step the optimiser and update the scene; return the norm of all gradients before they are clipped."""
    parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
    grad_norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    checks.small(grad_norm)
    if (limit := setup.optimizer.clip_norm) is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, grad_norm)
    state.bad = checks.flag(state.bad)
    if state.late and setup.scene.edits(state.step):
        checks.read()
    with skipped_if(state.bad):
        update(state.optimizer)
    setup.scene.after_step(state.step, state.optimizer)
    return grad_norm


def learning_rate_factor(step: int, steps: int, config: OptimizerConfig) -> float:
    """Return the factor on the learning rates at 0-based `step`: a linear warm-up times a fall from 1 to `final`."""
    rise = min(1.0, (step + 1) / (config.warmup + 1))
    if config.decay == "exponential":
        return rise * config.final ** (step / max(steps - 1, 1))
    return rise * (1 - (1 - config.final) * step / max(steps - 1, 1))


def sample_background(generator: torch.Generator) -> Tensor:
    """Draw a tinted grey, (3,) in [0, 1], like the backgrounds of the toybox but less often white.

    White is less frequent because parts of an object may be white. With a wide range of greys, fog cannot imitate the
    background.
    """
    grey = 0.35 + 0.65 * torch.rand(1, generator=generator) ** 1.5
    tint = 0.16 * torch.rand(3, generator=generator) - 0.08
    return (grey + tint).clamp(0, 1)


@contextmanager
def undisturbed(generators: Mapping[str, torch.Generator]) -> Iterator[None]:
    """Restore the generators after the block, because drawing a preview must not change the run."""
    states = {name: generator.get_state() for name, generator in generators.items()}
    try:
        yield
    finally:
        for name, generator in generators.items():
            generator.set_state(states[name])


def pack(scene: Scene, rules: Sequence[Guidance], state: LoopState) -> dict[str, Tensor]:
    """Return everything that the rest of a run depends on, as flat CPU tensors; `resume` is the inverse.

    rules: of all teachers.
    """
    tensors = prefixed("scene", scene.state_dict())
    for index, rule in enumerate(rules):
        tensors |= prefixed(numbered("guidance", index), rule.state_dict())
    tensors |= state.snapshot()
    tensors |= prefixed("optimizer", optimizer_state(state.optimizer))
    if state.environment is not None:
        tensors |= prefixed("background", state.environment.state_dict())
    tensors["step"] = torch.tensor(state.step)
    return {key: value.detach().cpu().contiguous() for key, value in tensors.items()}


def resume(
    tensors: Mapping[str, Tensor],
    scene: Scene,
    rules: Sequence[Guidance],
    config: OptimizerConfig,
    generators: Mapping[str, torch.Generator],
    environment: Environment | None = None,
    references: References | None = None,
) -> LoopState:
    """Load `pack`'s tensors into scene, rules, generators, environment and references; return the loop's state."""
    scene.load_state_dict(part(tensors, "scene"))
    for index, rule in enumerate(rules):
        rule.load_state_dict(part(tensors, numbered("guidance", index)))
    for name, generator in generators.items():
        generator.set_state(tensors[f"generator/{name}"])
    if environment is not None:
        environment.load_state_dict(part(tensors, "background"))
    if references is not None:
        references.load_state_dict(part(tensors, "reference"))
    # After the scene is loaded: loading may resize its parameters.
    state = start(scene, config, generators, environment, references)
    load_optimizer_state(state.optimizer, part(tensors, "optimizer"))
    state.step = int(tensors["step"])
    return state
