"""Distillation of one representation into another (Fang et al. 2022, "PVD", arXiv:2211.15977).

The student learns from pictures and, if both scenes are radiance fields, from densities and colours at points. Points
show where matter is, and pictures weight it by its visibility. Views, pixels and points where the student errs most can
be drawn more often (Fang et al. 2023, "PVD-AL", arXiv:2304.04012); see `active_sampling`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sds3d.cameras import CameraConfig, Cameras, sample_cameras
from sds3d.rendering.packed import FieldFunction
from sds3d.rendering.volume import BOUND
from sds3d.representations.active_sampling import CellErrors, chances, draw
from sds3d.representations.base import Rendering, Scene

_LENGTH = 0.02  # metres over which densities are compared as opacities: above opaque, more density looks the same
_NEAR = 0.04  # distance in metres from the teacher's surface within which half of the points are drawn
_EMPTY = 0.02  # weight of the colour of empty space
_FASTER = 3.0  # factor on the learning rates of score distillation, which has noisier gradients
_VIEWS = CameraConfig(views=2, orthogonal=False, stratified=True, elevation=(-60.0, 75.0))
_POOL = 32  # views of the teacher, rendered once: it does not change


@dataclass(frozen=True)
class DistilStep:
    """One finished step, numbered from 1 to `total`. psnr: of the step's pictures, in dB."""

    step: int
    total: int
    loss: float
    psnr: float


def distil(
    teacher: Scene,
    student: Scene,
    steps: int,
    generator: torch.Generator,
    *,
    cameras: CameraConfig = _VIEWS,
    points: int = 8192,
    active: bool = False,
) -> Iterator[DistilStep]:
    """Optimise `student` in place to look like `teacher`, and yield after each step.

    cameras: the distribution of the views, of which 32 are rendered by the teacher once, and the number of them in each
    step. points: number of points per step at which densities and colours are compared, if both scenes are radiance
    fields; otherwise only pictures are compared. active: whether views, pixels and points with larger errors are drawn
    more often; `sds3d bench conversion` found no gain here. The student's learning rates are raised at the start and
    fall to a tenth by the last step.
    """
    taught, learnt = teacher.radiance_field(), student.radiance_field()
    groups = student.parameter_groups()
    optimizer = torch.optim.Adam(groups, eps=1e-15)
    rates = [group["lr"] for group in groups]
    device = groups[0]["params"][0].device
    views = sample_cameras(cameras.model_copy(update={"views": _POOL}), generator).to(device)
    with torch.no_grad():
        pictures = teacher.render(views, torch.zeros(3, device=device))
    view_errors, cell_errors = torch.ones(_POOL), CellErrors(device)
    for step in range(steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = _FASTER * rate * (1 - 0.9 * step / max(steps - 1, 1))
        rows = torch.multinomial(chances(view_errors), cameras.views, generator=generator)
        here, picture = views[rows.to(device)], pictures[rows.to(device)]
        background = torch.rand(3, generator=generator).to(device)
        rendering = student.render(here, background)
        error = (rendering.rgb - picture.rgb - (1 - picture.alpha) * background).square()
        errors = error.sum(-1) + (rendering.alpha - picture.alpha).square()[..., 0]  # (B, H, W)
        loss = errors.sum()
        if active:
            view_errors[rows] = errors.detach().mean(dim=(1, 2)).cpu()
        if taught is not None and learnt is not None:
            weights = errors.detach() if active else torch.ones_like(errors)
            near = _near_surface(picture, here, weights, points // 2, generator)
            anywhere = cell_errors.points(points - len(near), generator)
            differences = point_losses(taught, learnt, torch.cat([anywhere, near]))
            loss = loss + differences.sum()
            if active:
                cell_errors.update(anywhere, differences.detach()[: len(anywhere)])
        psnr = -10 * math.log10(max(error.detach().mean().item(), 1e-12))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        student.after_step(step, optimizer)
        yield DistilStep(step + 1, steps, loss.item(), psnr)


def point_losses(taught: FieldFunction, learnt: FieldFunction, points: Tensor) -> Tensor:
    """Return the squared differences (P,) of two fields at points (P, 3).

    The differences are those of the opacities over 2 cm, and of the colours weighted by opacity.
    """
    with torch.no_grad():
        density, colors = taught(points)
        opacity = -torch.expm1(-_LENGTH * density)  # (P,)
    student_density, student_colors = learnt(points)
    difference = torch.exp(-_LENGTH * student_density) - (1 - opacity)
    return difference.square() + (opacity + _EMPTY) * (student_colors - colors).square().sum(-1)


def _near_surface(
    picture: Rendering, cameras: Cameras, errors: Tensor, count: int, generator: torch.Generator
) -> Tensor:
    """Return points (count, 3) near the surface in the teacher's pictures, or none (0, 3) if these are empty.

    errors: (B, H, W), by which pixels are drawn.
    """
    origins, directions = cameras.rays()
    alpha, depth = picture.alpha[..., 0], picture.depth[..., 0]
    hit = (alpha > 0.5).nonzero(as_tuple=True)
    if len(hit[0]) == 0:
        return origins.new_zeros(0, 3)
    pick = draw(chances(errors[hit]), count, generator)
    rays = tuple(index[pick] for index in hit)
    offsets = (_NEAR * torch.randn(count, 1, generator=generator)).to(alpha)
    surface = origins[rays] + ((depth[rays] / alpha[rays])[:, None] + offsets) * directions[rays]
    return surface.clamp(-BOUND, BOUND)
