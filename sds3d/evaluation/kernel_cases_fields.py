"""Cases of radiance fields: dense grids, ray marching, compositing, hash grids and triplanes."""

# Arguments are passed unpacked, and pyright cannot count them.
# pyright: reportCallIssue=false

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sds3d.cameras import turntable
from sds3d.evaluation.kernel_case import (
    EXP,
    OCCUPIED,
    Builder,
    Case,
    Operations,
    bound,
    lumpy_radius,
    seeded,
    short,
)
from sds3d.rendering import packed, volume
from sds3d.rendering.splatting_blend_numba import MIN_TRANSMITTANCE
from sds3d.representations.fields import Blob, to_unit, trilinear
from sds3d.representations.fields_hash import HashField, hash_encode, hash_encode_reference
from sds3d.representations.fields_triplane import TriplaneField, triplane_encode, triplane_encode_reference

# Floating-point operations, counted in the kernels: per sample of a ray, per point.
TRILINEAR = 114
SAMPLE = 12 + TRILINEAR + EXP + 3 + 14  # place, lookup, transmittance and weight, sums
SAMPLE_BACKWARD = 12 + TRILINEAR + EXP + 3 + 11 + 81  # ... slope of the loss, eight corners
MARCH = 9 + 2 + 9  # place in the grid, opaque matter in front, time and point
HASH = 53  # on one level, forward or backward: cell, eight weights, eight corners of two features

_GRIDS = ((32, 32), (64, 64), (64, 128), (64, 256), (64, 512), (128, 64), (128, 128))
_BLOB = Blob(height=10.0)  # the default start of a scene
_POINT_BYTES = {"hash": 2e3, "triplane": 1e3}


def _composite_operations(channels: int) -> Operations:
    """Return the operations per sample."""
    return EXP + 5 + 2 * channels, EXP + 12 + 3 * channels


def _triplane_operations(channels: int) -> Operations:
    """Return the operations per point: cells, then 12 weights and multiply-adds for every eight channels."""
    return 9 + channels * (12 / 8 + 24), 3 * channels * (80 + 4) / 8


def _decoder_operations(inputs: int, hidden: int) -> Operations:
    """Return the operations per point: two matrices, and twice as many in the backward pass."""
    forward = 2 * hidden * (inputs + 4)
    return forward, 2 * forward


def _ball(resolution: int) -> Tensor:
    """Return the density and the colour of a lumpy ball, (N, N, N, 4)."""
    axis = torch.linspace(-volume.BOUND, volume.BOUND, resolution)
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)
    distance = points.norm(dim=-1)
    inside = lumpy_radius(functional.normalize(points, dim=-1)) - distance
    return torch.cat([60 * torch.sigmoid(inside[..., None] / 0.01), 0.5 + 0.5 * torch.sin(8 * points)], dim=-1)


def _rays(size: int) -> tuple[Tensor, Tensor]:
    origins, directions = turntable(1, size=size).rays()
    return origins.reshape(-1, 3).contiguous(), directions.reshape(-1, 3).contiguous()


def _counted(density: Tensor, samples: packed.Samples) -> int:
    """Return how many of the samples (S,) are evaluated before their rays become opaque."""
    optical = (density * samples.dt).double()
    before = optical.cumsum(0) - optical
    before = before - before[samples.offsets[samples.ray].clamp(max=len(before) - 1)]
    return int((before < -math.log(MIN_TRANSMITTANCE)).sum())


def dense_grid(resolution: int, size: int, device: torch.device, occupied: bool = False) -> Case:
    """Return the case of `volume.render_rays`. occupied: empty cells are skipped."""
    grid = _ball(resolution).requires_grad_()
    origins, directions = _rays(size)
    density = grid.detach()[..., 0].contiguous()
    skip = volume.empty_distance(density, OCCUPIED) if occupied else None
    occupancy = None if skip is None else packed.Occupancy(skip, torch.zeros_like(density))
    samples = packed.march(origins, directions, occupancy)
    counted = _counted(trilinear(density[..., None], samples.points)[:, 0], samples)
    return Case(
        "dense grid, occupancy" if occupied else "dense grid",
        f"{resolution}^3 @ {size} px",
        lambda: volume.render_rays(grid, origins, directions, skip=skip)[:2],
        lambda: volume.render_rays_reference(grid, origins, directions, skip=skip)[:2],
        (grid,),
        len(origins),
        "rays",
        (counted * SAMPLE, counted * SAMPLE_BACKWARD),
        700.0 * len(samples.t) + 150.0 * 64 * len(origins),
        note=f"{counted / len(origins):.1f} samples per ray",
    )


def grid_smoothness(resolution: int, device: torch.device) -> Case:
    """Return the case of `volume.smoothness`, which computes value and gradient in one sweep."""
    grid = _ball(resolution).requires_grad_()
    return Case(
        "grid smoothness",
        f"{resolution}^3",
        lambda: (volume.smoothness(grid),),
        lambda: (volume.smoothness_reference(grid),),
        (grid,),
        resolution**3,
        "voxels",
        (4 * resolution**3 * 18.0, 4.0 * resolution**3),  # six neighbours: difference, multiply-add, three squares
        30 * 4.0 * resolution**3 * 4,
    )


def marching(size: int, device: torch.device) -> Case:
    """Return the case of `packed.march` through the occupied cells of a ball."""
    origins, directions = (tensor.to(device) for tensor in _rays(size))
    occupancy = packed.occupancy_of(_ball(48)[..., 0].to(device), OCCUPIED)
    n = len(packed.march(origins, directions, occupancy).t)
    return Case(
        "ray marching",
        f"48^3 cells @ {size} px",
        lambda: tuple(packed.march(origins, directions, occupancy)),
        lambda: tuple(packed.march_reference(origins, directions, occupancy)),
        (),
        len(origins),
        "rays",
        (n * MARCH, 0.0),
        100.0 * 111 * len(origins),
        library="nerfacc",
        note=f"{n / len(origins):.1f} samples per ray",
    )


def compositing(size: int, device: torch.device) -> Case:
    """Return the case of `packed.composite` for colours."""
    origins, directions = _rays(size)
    ball = _ball(48)
    samples = packed.march(origins, directions, packed.occupancy_of(ball[..., 0], OCCUPIED))
    values, n = trilinear(ball, samples.points), len(origins)
    counted = _counted(values[:, 0], samples)
    samples = packed.Samples(*(tensor.to(device) for tensor in samples))
    density, features = (tensor.contiguous().to(device).requires_grad_() for tensor in (values[:, 0], values[:, 1:]))
    forward, backward = _composite_operations(3)
    return Case(
        "compositing",
        f"{len(samples.t) / n:.1f} samples per ray @ {size} px",
        lambda: packed.composite(density, features, samples, n)[:3],
        lambda: packed.composite_reference(density, features, samples, n)[:3],
        (density, features),
        n,
        "rays",
        (counted * forward, counted * backward),
        100.0 * len(samples.t) + 40 * 111 * n,
        library="nerfacc",
    )


def _field(kind: str, device: torch.device) -> tuple[Any, Any, Any, Operations]:
    """Return a field, its encoding's kernel and reference, both of points in metres, and operations per point."""
    if kind == "hash":
        field = HashField(seeded(), blob=_BLOB).to(device)
        ours = lambda points: hash_encode(to_unit(points), field.table, field.cells)  # noqa: E731
        theirs = lambda points: hash_encode_reference(to_unit(points), field.table, field.cells)  # noqa: E731
        return field, ours, theirs, (len(field.cells) * HASH, len(field.cells) * HASH)
    field = TriplaneField(seeded(), blob=_BLOB).to(device)
    ours = lambda points: triplane_encode(to_unit(points), field.planes)  # noqa: E731
    theirs = lambda points: triplane_encode_reference(to_unit(points), field.planes)  # noqa: E731
    return field, ours, theirs, _triplane_operations(field.planes.shape[-1])


def _field_occupancy(field: Any) -> packed.Occupancy:
    axis = torch.linspace(-volume.BOUND, volume.BOUND, 48)
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).to(next(field.parameters()))
    with torch.no_grad():
        return packed.occupancy_of(field(points.reshape(-1, 3))[0].reshape(48, 48, 48), OCCUPIED)


def encoding(kind: str, size: int, device: torch.device) -> Case:
    """Return the case of `hash_encode` or `triplane_encode` at the samples of a picture."""
    field, ours, theirs, operations = _field(kind, device)
    points = packed.march(*_rays(size), _field_occupancy(field)).points
    leaf = field.table if kind == "hash" else field.planes
    n = len(points)
    return Case(
        f"{kind} encoding",
        f"{short(n)} points of {size} px",
        lambda: (ours(points),),
        lambda: (theirs(points),),
        (leaf,),
        n,
        "points",
        (n * operations[0], n * operations[1]),
        n * _POINT_BYTES[kind],
    )


def field_whole(kind: str, size: int, device: torch.device, occupied: bool = True) -> Case:
    """Return the case of `packed.render_field`: marching, encoding, a small torch network and compositing."""
    field, ours, theirs, operations = _field(kind, device)
    origins, directions = (tensor.to(device) for tensor in _rays(size))
    occupancy = _field_occupancy(field) if occupied else None
    n = len(packed.march(origins, directions, occupancy).t)
    inputs = field.decoder.hidden.in_features
    network, compose = _decoder_operations(inputs, field.decoder.hidden.out_features), _composite_operations(3)

    def run() -> tuple[Tensor, ...]:
        seen = packed.render_field(
            lambda points: field.decoder(ours(points), points), origins, directions, occupancy=occupancy
        )
        return tuple(seen)

    def reference() -> tuple[Tensor, ...]:
        samples = packed.march_reference(origins, directions, occupancy)
        density, features = field.decoder(theirs(samples.points), samples.points)
        return tuple(packed.composite_reference(density, features, samples, len(origins)))[:3]

    return Case(
        f"{kind} field, occupancy" if occupied else f"{kind} field",
        f"@ {size} px",
        run,
        reference,
        tuple(field.parameters()),
        len(origins),
        "rays",
        (n * (operations[0] + network[0] + compose[0] + MARCH), n * (operations[1] + network[1] + compose[1])),
        n * (_POINT_BYTES[kind] + 800),
        note=f"{n / len(origins):.1f} samples per ray; both use torch's network",
    )


def groups() -> list[list[Builder]]:
    """Return makers of all cases, one list per kernel, the smallest scene first."""
    return [
        [bound(dense_grid, *case) for case in _GRIDS],
        [bound(dense_grid, *case, occupied=True) for case in _GRIDS],
        [bound(grid_smoothness, resolution) for resolution in (32, 64, 128)],
        [bound(marching, size) for size in (64, 128, 256, 512)],
        [bound(compositing, size) for size in (64, 128, 256, 512)],
        *([bound(encoding, kind, size) for size in (32, 64, 128, 256)] for kind in ("hash", "triplane")),
        *([bound(field_whole, kind, size) for size in (32, 64, 128, 256)] for kind in ("hash", "triplane")),
        *([bound(field_whole, k, size, occupied=False) for size in (32, 64, 128)] for k in ("hash", "triplane")),
    ]
