"""What teachers say of a step: how they see its renders, and how their answers reach the scene.

A teacher is a prior and the rule by which it guides the scene. Its gradient is one at x, the renders in its prior's
space; rules on pixels give target pictures instead, which become the loss "image".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.guidance.base import Guidance, Guided, Number, Views, group_count
from sds3d.guidance.transforms import GradientTransform
from sds3d.priors.base import Prior
from sds3d.prompts.prompt import EncodedPrompt
from sds3d.ramps import Ramp
from sds3d.rendering.resizing import resize
from sds3d.rendering.structure import lit_by, structure_of
from sds3d.representations.base import Rendering
from sds3d.run.numbers import Checks

FULL = Ramp(1.0)


@dataclass
class Teacher:
    """A prior, and the rule by which it guides the scene.

    prompt: the texts, embedded by this prior. transforms: applied to the rule's gradient, in this order. weight: factor
    on its gradient over the run; with 0 it is not asked. views: how many of a step's views it sees, drawn anew in each
    step in whole groups of the views that its prior denoises together; None: all. Its gradient is averaged over these.
    """

    prior: Prior
    guidance: Guidance
    prompt: EncodedPrompt
    transforms: Sequence[GradientTransform] = ()
    weight: Ramp = FULL
    views: int | None = None


@dataclass(frozen=True)
class Shown:
    """The renders of a step, or those of them that a teacher sees.

    background: see `behind_views`. light: see `Scene.light_maps`; None also if no teacher takes it.
    """

    cameras: Cameras
    background: Tensor
    rendering: Rendering
    light: Tensor | None

    def some(self, rows: Tensor | None) -> Shown:
        """Return the views of these rows (b,), or all of them for None, with colours of their own in the graph."""
        if rows is None:
            return replace(self, rendering=replace(self.rendering, rgb=self.rendering.rgb.view_as(self.rendering.rgb)))
        rows = rows.to(self.rendering.rgb.device, non_blocking=True)
        background = self.background if self.background.ndim == 1 else self.background[rows]
        light = None if self.light is None else self.light[rows]
        return Shown(self.cameras[rows], background, self.rendering[rows], light)


@dataclass(frozen=True)
class Lesson:
    """What a teacher says of a step.

    index: the teacher's. weight: in this part of the step, see `Scene.parts`. x: (b, C, h, w), the encoded renders that
    it sees. gradient: with respect to x, transformed.
    """

    teacher: Teacher
    index: int
    weight: float
    shown: Shown
    x: Tensor
    guided: Guided
    gradient: Tensor | None

    @property
    def share(self) -> float:
        """What the gradient of a single view is divided by, so that it is averaged over the views and weighted."""
        return len(self.shown.cameras) / self.weight


def ask(
    teacher: Teacher,
    index: int,
    shown: Shown,
    progress: float,
    generator: torch.Generator,
    checks: Checks,
    share: float = 1.0,
) -> Lesson:
    """Show a teacher its views, encoded by its prior, and transform its rule's gradient.

    share: of this part of the step, see `Scene.parts`.
    """
    prior = teacher.prior
    shown = shown.some(drawn_views(len(shown.cameras), teacher.views, prior.n_views, generator))
    rendering = shown.rendering
    rgb = resize(rendering.rgb, prior.image_size)  # (b, S, S, 3)
    # The graph of x is dropped unused if the rule works on pixels.
    x = prior.encode_image(rgb) if rendering.latent is None else rendering.latent
    alpha, depth = rendering.alpha.detach(), rendering.depth.detach()
    structure = None
    if prior.takes_structure:
        structure = structure_of(alpha, depth, rendering.normal.detach(), shown.cameras, prior.image_size)
        structure = lit_by(structure, shown.light if prior.takes_light else None)
    views = Views(shown.cameras, rgb.detach(), alpha, depth, teacher.prompt, structure)
    guided = teacher.guidance(x.detach(), views, progress, generator)
    gradient = guided.gradient
    if gradient is not None:
        for transform in teacher.transforms:
            gradient = transform.on_x(gradient, progress)
        checks.finite(gradient, "the guidance gradient")
    return Lesson(teacher, index, share * teacher.weight.at(progress), shown, x, guided, gradient)


def drawn_views(batch: int, views: int | None, n_views: int, generator: torch.Generator) -> Tensor | None:
    """Draw which of a step's `batch` views a teacher sees: rows (b,) in order, at most `views`; None: all of them.

    n_views: consecutive views that stay together. Raises ValueError if batch or views are no multiple of it.
    """
    if views is None or views >= batch:
        return None
    groups = torch.randperm(group_count(batch, n_views), generator=generator)[: group_count(views, n_views)]
    return (n_views * groups.sort().values[:, None] + torch.arange(n_views)).flatten()


def image_losses(lessons: Sequence[Lesson], full: int, checks: Checks) -> dict[str, Tensor]:
    """Return the weighted losses "image", "image_2" and so on of the rules that gave target pictures.

    full: height and width of full-size pictures, to which the sums over pixels are scaled.
    """
    losses = {}
    for lesson in lessons:
        guided = lesson.guided
        if guided.image_target is not None:
            checks.finite(guided.image_target, "the image target")
            loss = image_loss(lesson.shown.rendering, lesson.shown.background, guided.image_target)
            factor = lesson.weight * guided.image_weight * (full / guided.image_target.shape[1]) ** 2
            losses[numbered("image", lesson.index)] = factor * loss
    return losses


def border_color(pictures: Tensor) -> Tensor:
    """Return the median colour (B, 3) of the outermost pixels of pictures (B, H, W, 3)."""
    edges = [pictures[:, 0], pictures[:, -1], pictures[:, 1:-1, 0], pictures[:, 1:-1, -1]]  # each (B, n, 3)
    return torch.cat(edges, dim=1).median(dim=1).values


def image_loss(rendering: Rendering, background: Tensor, target: Tensor) -> Tensor:
    """Return 1/2 |rgb - target|^2, summed over pixels and averaged over the B views.

    The render is first composited on the target's border colour instead of `background`, (3,) or (B, 3). Otherwise, if
    the prior changes the background, the scene would imitate it by fog. A learned background (B, H, W, 3) follows the
    prior, and stays. target: (B, S, S, 3) in [0, 1].
    """
    rgb = rendering.rgb
    if background.ndim < 4:
        behind = (border_color(target) - background)[:, None, None]  # (B, 1, 1, 3)
        rgb = rgb + (1 - rendering.alpha) * behind  # (B, H, W, 3)
    return 0.5 * (resize(rgb, target.shape[1]) - target).square().sum() / len(target)


def backward(lessons: Sequence[Lesson], losses: dict[str, Tensor], progress: float) -> None:
    """Compute the gradients of all parameters from the rules' gradients at x and from the losses."""
    roots: list[Tensor] = []
    seeds: list[Tensor | None] = []
    for lesson in lessons:
        if lesson.gradient is not None:
            roots.append(lesson.x)
            seeds.append(lesson.gradient / lesson.share)
        rgb = lesson.shown.rendering.rgb
        if lesson.teacher.transforms and rgb.requires_grad:
            rgb.register_hook(partial(_on_picture, lesson, progress))
    roots += losses.values()
    seeds += [None] * len(losses)
    torch.autograd.backward(roots, seeds)


def _on_picture(lesson: Lesson, progress: float, gradient: Tensor) -> Tensor:
    """Transform the gradient (b, H, W, 3) of the pictures that a teacher sees."""
    for transform in lesson.teacher.transforms:
        gradient = transform.on_picture(gradient * lesson.share, progress) / lesson.share
    return gradient


def numbered(name: str, index: int) -> str:
    """Return the name of what the teacher of this index, from 0, has: "guidance", "guidance_2" and so on."""
    return f"{name}_{index + 1}" if index else name


def metrics_of(guided: Mapping[int, Guided]) -> dict[str, Number]:
    """Return the metrics of all teachers, by their index, in one mapping, see `Step.guided`."""
    return {numbered(key, index): value for index, one in guided.items() for key, value in one.metrics.items()}
