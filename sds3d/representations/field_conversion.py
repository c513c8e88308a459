"""Distillation of one representation into another (Fang et al. 2022, "PVD", arXiv:2211.15977).

The student learns from pictures and, if both scenes are radiance fields, from densities and colours at points. Points
show where matter is, and pictures weight it by its visibility.
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
from sds3d.representations.base import Rendering, Scene

_LENGTH = 0.02  # metres over which densities are compared as opacities: above opaque, more density looks the same
_NEAR = 0.04  # distance in metres from the teacher's surface within which half of the points are drawn
_EMPTY = 0.02  # weight of the colour of empty space
_FASTER = 3.0  # factor on the learning rates of score distillation, which has noisier gradients
_VIEWS = CameraConfig(views=2, orthogonal=False, elevation=(-60.0, 75.0))


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
) -> Iterator[DistilStep]:
    """Optimise `student` in place to look like `teacher`, and yield after each step.

    cameras: the views of each step. points: number of points per step at which densities and colours are compared, if
    both scenes are radiance fields; otherwise only pictures are compared. The student's learning rates are raised at
    the start and fall to a tenth by the last step.
    """
    taught, learnt = teacher.radiance_field(), student.radiance_field()
    groups = student.parameter_groups()
    optimizer = torch.optim.Adam(groups, eps=1e-15)
    rates = [group["lr"] for group in groups]
    device = groups[0]["params"][0].device
    for step in range(steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = _FASTER * rate * (1 - 0.9 * step / max(steps - 1, 1))
        views = sample_cameras(cameras, generator).to(device)
        with torch.no_grad():
            picture = teacher.render(views, torch.zeros(3, device=device))
        background = torch.rand(3, generator=generator).to(device)
        rendering = student.render(views, background)
        error = (rendering.rgb - picture.rgb - (1 - picture.alpha) * background).square()
        loss = error.sum() + (rendering.alpha - picture.alpha).square().sum()
        if taught is not None and learnt is not None:
            loss = loss + point_loss(taught, learnt, _places(picture, views, points, generator))
        psnr = -10 * math.log10(max(error.detach().mean().item(), 1e-12))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        student.after_step(step, optimizer)
        yield DistilStep(step + 1, steps, loss.item(), psnr)


def point_loss(taught: FieldFunction, learnt: FieldFunction, points: Tensor) -> Tensor:
    """Return the squared differences of two fields, summed over points (P, 3): a scalar.

    The differences are those of the opacities over 2 cm, and of the colours weighted by opacity.
    """
    with torch.no_grad():
        density, colors = taught(points)
        opacity = -torch.expm1(-_LENGTH * density)  # (P,)
    student_density, student_colors = learnt(points)
    difference = torch.exp(-_LENGTH * student_density) - (1 - opacity)
    shade = ((opacity + _EMPTY) * (student_colors - colors).square().sum(-1)).sum()
    return difference.square().sum() + shade


def _places(picture: Rendering, cameras: Cameras, count: int, generator: torch.Generator) -> Tensor:
    """Return points (count, 3): half of them anywhere in the cube, half near the surface in the teacher's pictures."""
    origins, directions = cameras.rays()
    alpha, depth = picture.alpha[..., 0], picture.depth[..., 0]
    hit = (alpha > 0.5).nonzero(as_tuple=True)
    anywhere = BOUND * (2 * torch.rand(count, 3, generator=generator) - 1).to(alpha)
    near = count // 2
    chosen = torch.rand(near, generator=generator)
    offsets = (_NEAR * torch.randn(near, 1, generator=generator)).to(alpha)
    n = len(hit[0])
    if n == 0:
        return anywhere
    pick = (chosen.to(alpha) * n).long().clamp(max=n - 1)
    rays = tuple(index[pick] for index in hit)
    surface = origins[rays] + ((depth[rays] / alpha[rays])[:, None] + offsets) * directions[rays]
    return torch.cat([anywhere[near:], surface.clamp(-BOUND, BOUND)])
