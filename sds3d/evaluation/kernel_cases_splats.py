"""Cases of Gaussian splatting: projection, blending, and both together."""

# Arguments are passed unpacked, and pyright cannot count them.
# pyright: reportCallIssue=false

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional

from sds3d.cameras import turntable
from sds3d.compiled import njit
from sds3d.evaluation.kernel_case import (
    EXP,
    Builder,
    Case,
    bound,
    lumpy_radius,
    scene_name,
    seeded,
)
from sds3d.rendering import splatting, splatting_numba, splatting_tiles_numba
from sds3d.rendering.simd import lowest_bit
from sds3d.rendering.splatting_blend_numba import MAX_ALPHA, MIN_TRANSMITTANCE, rows_touched
from sds3d.rendering.splatting_tiles_numba import MIN_ALPHA, PACKED, TILE

# Floating-point operations, counted in the kernels: per Gaussian in a camera, per pair of pixel and Gaussian.
PROJECT, PROJECT_BACKWARD = 203, 450
BLEND = 5 + EXP + 4 + 8  # exponent, alpha, transmittance and weight, four features
BLEND_BACKWARD = 5 + EXP + 4 + 7 + 2 + 6 + 5 + 8  # ... value, remainder, slope, moments, features

_SPLATS = (
    (500, 32),
    (2000, 64),
    (10_000, 64),
    (10_000, 128),
    (10_000, 256),
    (20_000, 256),
    (50_000, 256),
    (200_000, 512),
)


class SplatScene:
    """n flat Gaussians in a thin shell around a lumpy ball, as large as the gaps between them, and C cameras."""

    def __init__(self, n: int, size: int, views: int, device: torch.device) -> None:
        generator = seeded()
        directions = functional.normalize(torch.randn(n, 3, generator=generator), dim=-1)
        depth = 0.01 * torch.randn(n, 1, generator=generator)
        means = (lumpy_radius(directions)[:, None] + depth) * directions
        spacing = math.sqrt(4 * math.pi * 0.36**2 / n)
        scales = spacing * torch.exp(0.4 * torch.randn(n, 3, generator=generator) - torch.tensor([0.3, 0.3, 1.5]))
        quats = torch.randn(n, 4, generator=generator)
        opacities = torch.sigmoid(1.5 * torch.randn(n, generator=generator) + 0.5)
        colors = torch.rand(n, 3, generator=generator)
        gaussians = (means, quats, scales, opacities, colors)
        self.leaves = tuple(tensor.to(device).requires_grad_() for tensor in gaussians)
        cameras = turntable(views, size=size)
        self.viewmats, self.intrinsics = cameras.opencv_viewmats().to(device), cameras.intrinsics().to(device)
        self.camera = splatting._Camera(size, size, 0.01, 1e10, 0.3, 0.0)

    def projected(self) -> splatting._Projected:
        """Return the Gaussians as the kernel projects them, without gradients."""
        means, quats, scales, opacities, _ = (leaf.detach() for leaf in self.leaves)
        gaussians = means, quats, scales, opacities
        outputs = splatting_numba.Project.apply(*gaussians, self.viewmats, self.intrinsics, self.camera)
        return splatting._Projected(*outputs)  # type: ignore[misc]

    def blending(self) -> tuple[float, float]:
        """Return how many pairs of pixel and Gaussian the kernel evaluates, and how many of them it blends."""
        seen, size = self.projected(), self.camera.width
        shape = (*seen.depths.shape, 4)
        splats = (seen.means2d, seen.conics, self.leaves[3].expand(shape[:2]), torch.zeros(shape), seen.depths)
        bins = splatting_tiles_numba.bin_splats(*(splatting_numba.array_of(tensor) for tensor in splats), size, size)
        return _pairs(bins.packed.reshape(-1), bins.splat, bins.start, bins.end, shape[1], bins.rows, bins.columns)


@njit(cache=True, nogil=True, error_model="numpy")
def _pairs(packed, splat, start, end, n, rows, columns):
    """Walk the tiles as `splatting_blend_numba._blend` does. Return the pairs it evaluates and the pairs it blends."""
    evaluated, inside = 0.0, 0.0
    transmittance = np.empty((TILE, TILE), np.float32)
    for item in range(len(start)):
        c, tile = item // (rows * columns), item % (rows * columns)
        left, top = np.float32(tile % columns * TILE + 0.5), np.float32(tile // columns * TILE + 0.5)
        transmittance[:] = 1
        unfinished = (1 << TILE) - 1
        for j in range(start[item], end[item]):
            base = (c * n + splat[j]) * PACKED
            x, y = left - packed[base], top - packed[base + 1]
            touched = rows_touched(packed, base, x, y) & unfinished
            while touched:
                row = lowest_bit(touched)
                touched &= touched - 1
                evaluated += TILE
                dy, alive = y + row, False
                for k in range(TILE):
                    dx, before = x + k, transmittance[row, k]
                    quadratic = packed[base + 2] * dx * dx + packed[base + 4] * dy * dy
                    alpha = np.exp(-(0.5 * quadratic + packed[base + 3] * dx * dy + packed[base + 5]))
                    if before > 0 and alpha >= MIN_ALPHA:
                        inside += 1
                        after = before * (1 - min(alpha, MAX_ALPHA))
                        transmittance[row, k] = after if after > MIN_TRANSMITTANCE else 0
                    alive |= transmittance[row, k] > 0
                if not alive:
                    unfinished &= ~(1 << row)
            if unfinished == 0:
                break
    return evaluated, inside


def _blend_bytes(n: int, size: int, views: int) -> float:
    return 16 * 4.0 * n * size * size * views  # about 16 arrays (N, H, W) at a time


def splat_projection(n: int, size: int, device: torch.device) -> Case:
    """Return the case of projecting Gaussians."""
    scene = SplatScene(n, size, 1, device)
    leaves = scene.leaves[:3]
    arguments = (*scene.leaves[:3], scene.leaves[3].detach(), scene.viewmats, scene.intrinsics, scene.camera)
    return Case(
        "splat projection",
        scene_name(n, "Gaussians", size),
        lambda: splatting_numba.Project.apply(*arguments)[:4],  # type: ignore[index, return-value]
        lambda: tuple(splatting._project_reference(*arguments))[:4],
        leaves,
        n,
        "Gaussians",
        (n * PROJECT, n * PROJECT_BACKWARD),
        n * 2e3,
    )


def splat_blending(n: int, size: int, device: torch.device, views: int = 1) -> Case:
    """Return the case of sorting projected Gaussians, assigning them to tiles and blending them."""
    scene = SplatScene(n, size, views, device)
    seen = scene.projected()
    means2d, conics = seen.means2d.requires_grad_(), seen.conics.requires_grad_()
    opacities, colors = (leaf.detach().expand(views, *leaf.shape).contiguous() for leaf in scene.leaves[3:])
    leaves = (means2d, conics, opacities.requires_grad_(), colors.requires_grad_())
    seen = seen._replace(means2d=means2d, conics=conics)
    pairs, inside = scene.blending()
    return Case(
        "splat blending",
        scene_name(n, "Gaussians", size, views),
        lambda: splatting._blend_on_cpu(seen, opacities, colors, scene.camera),
        lambda: splatting._blend_reference(seen, opacities, colors, scene.camera),
        leaves,
        n * views,
        "Gaussians",
        (pairs * BLEND, pairs * BLEND_BACKWARD),
        _blend_bytes(n, size, views),
        note=f"{pairs / 1e6:.3g}M pairs of pixel and Gaussian evaluated, {inside / pairs:.0%} of them blended",
    )


def splatting_whole(n: int, size: int, device: torch.device, views: int = 1) -> Case:
    """Return the case of `splatting.rasterization`, from Gaussians to pictures."""
    scene = SplatScene(n, size, views, device)
    arguments = (*scene.leaves, scene.viewmats, scene.intrinsics, size, size)
    pairs, _ = scene.blending() if device.type == "cpu" else (0.0, 0.0)
    return Case(
        "splatting",
        scene_name(n, "Gaussians", size, views),
        lambda: tuple(splatting.rasterization(*arguments))[:2],
        lambda: tuple(splatting.rasterization_reference(*arguments))[:2],
        scene.leaves,
        n * views,
        "Gaussians",
        (pairs * BLEND + n * views * PROJECT, pairs * BLEND_BACKWARD + n * views * PROJECT_BACKWARD),
        _blend_bytes(n, size, views),
        library="gsplat",
    )


def groups() -> list[list[Builder]]:
    """Return makers of all cases, one list per kernel, the smallest scene first."""
    return [
        [bound(splat_projection, n, 256) for n in (2000, 10_000, 50_000, 200_000)],
        [*(bound(splat_blending, *case) for case in _SPLATS), bound(splat_blending, 10_000, 64, views=4)],
        [*(bound(splatting_whole, *case) for case in _SPLATS), bound(splatting_whole, 10_000, 64, views=4)],
    ]
