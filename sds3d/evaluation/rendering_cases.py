"""What `sds3d bench rendering` measures: each kernel, its plain-torch reference and scenes of several sizes."""

# Arguments are passed on unpacked, and pyright cannot count them.
# pyright: reportCallIssue=false

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import trimesh
from torch import Tensor
from torch.nn import functional

from sds3d.cameras import Cameras, turntable
from sds3d.compiled import njit
from sds3d.rendering import mesh_differentiable as meshes
from sds3d.rendering import packed, splatting, splatting_tiles_numba, volume
from sds3d.rendering.mesh_differentiable import Raster
from sds3d.rendering.simd import lowest_bit
from sds3d.rendering.splatting_blend_numba import MAX_ALPHA, MIN_TRANSMITTANCE, rows_touched
from sds3d.rendering.splatting_tiles_numba import MIN_ALPHA, PACKED, TILE
from sds3d.representations.fields import Blob, to_unit, trilinear
from sds3d.representations.fields_hash import HashField, hash_encode, hash_encode_reference
from sds3d.representations.fields_triplane import TriplaneField, triplane_encode, triplane_encode_reference

Run = Callable[[], tuple[Tensor, ...]]
Operations = tuple[float, float]
"""Floating-point operations of the forward and of the backward."""

OCCUPIED = 0.5  # density per metre from which a cell counts as occupied, as in `representations`

# ---- floating-point operations an item, counted in the kernels ----

EXP = 17  # simd.exp_minus: scaling, rounding, six multiply-adds, the power of two
PROJECT, PROJECT_BACKWARD = 203, 450  # a Gaussian in a camera
BLEND = 5 + EXP + 4 + 8  # a pair of pixel and Gaussian: exponent, alpha, transmittance and weight, four features
BLEND_BACKWARD = 5 + EXP + 4 + 7 + 2 + 6 + 5 + 8  # ... value, what is left, slope, moments, features
TRILINEAR = 114
SAMPLE = 12 + TRILINEAR + EXP + 3 + 14  # place, lookup, transmittance and weight, sums
SAMPLE_BACKWARD = 12 + TRILINEAR + EXP + 3 + 11 + 81  # ... slope of the loss, eight corners
MARCH = 9 + 2 + 9  # a sample: place in the grid, certain matter in front, time and point
HASH = 53  # a point on a level, forward or backward: cell, eight weights, eight corners of two features


def _composite_operations(channels: int) -> Operations:
    """Of a sample."""
    return EXP + 5 + 2 * channels, EXP + 12 + 3 * channels


def _triplane_operations(channels: int) -> Operations:
    """Of a point: cells, then 12 weights and multiply-adds for every eight channels; the backward splits them."""
    return 9 + channels * (12 / 8 + 24), 3 * channels * (80 + 4) / 8


def _decoder_operations(inputs: int, hidden: int) -> Operations:
    """Of a point: two matrices; twice that backward."""
    forward = 2 * hidden * (inputs + 4)
    return forward, 2 * forward


# ---- what is measured ----


@dataclass(frozen=True)
class Case:
    """One kernel on one scene.

    run, reference: return what is rendered. leaves: what the backward takes the gradient of; none when there is no
    backward. items, unit: what the speed is counted in. operations: of `run`. reference_bytes: what the reference
    would hold. library: what `run` calls on CUDA, empty when only a CPU has the kernel. note: more about the scene.
    """

    kernel: str
    scene: str
    run: Run
    reference: Run
    leaves: tuple[Tensor, ...]
    items: int
    unit: str
    operations: Operations
    reference_bytes: float
    library: str = ""
    note: str = ""


Builder = Callable[[torch.device], Case]


# ---- Gaussians ----


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _radius(directions: Tensor) -> Tensor:
    """A lumpy ball: metres from the centre to the surface in unit directions (..., 3)."""
    x, y, z = directions.unbind(-1)
    return 0.36 + 0.04 * torch.sin(7 * x + 1) * torch.sin(6 * y) + 0.03 * torch.sin(9 * z + 4 * x)


def _short(n: int) -> str:
    return f"{n / 1000:.3g}k" if n >= 1000 else str(n)


def _scene(n: int, what: str, size: int, views: int = 1) -> str:
    return f"{_short(n)} {what} @ {size} px" + (f", {views} views" if views > 1 else "")


class _Splats:
    """n Gaussians, flat and of the size of their distances, in a thin shell round a lumpy ball; C cameras."""

    def __init__(self, n: int, size: int, views: int, device: torch.device) -> None:
        generator = _generator()
        directions = functional.normalize(torch.randn(n, 3, generator=generator), dim=-1)
        depth = 0.01 * torch.randn(n, 1, generator=generator)
        means = (_radius(directions)[:, None] + depth) * directions
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
        """As the kernel projects them, without a gradient."""
        means, quats, scales, opacities, _ = (leaf.detach() for leaf in self.leaves)
        outputs = splatting._Project.apply(means, quats, scales, opacities, self.viewmats, self.intrinsics, self.camera)
        return splatting._Projected(*outputs)  # type: ignore[misc]

    def blending(self) -> tuple[float, float]:
        """Pairs of pixel and Gaussian that the kernel evaluates, and those of them that are blended."""
        seen, size = self.projected(), self.camera.width
        shape = (*seen.depths.shape, 4)
        splats = (seen.means2d, seen.conics, self.leaves[3].expand(shape[:2]), torch.zeros(shape), seen.depths)
        bins = splatting_tiles_numba.bin_splats(*(splatting._array(tensor) for tensor in splats), size, size)
        return _pairs(bins.packed.reshape(-1), bins.splat, bins.start, bins.end, shape[1], bins.rows, bins.columns)


@njit(cache=True, nogil=True, error_model="numpy")
def _pairs(packed, splat, start, end, n, rows, columns):
    """Walks the tiles as `splatting_blend_numba._blend` does and counts the pairs it evaluates, and those inside."""
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
    """Projection of Gaussians alone."""
    scene = _Splats(n, size, 1, device)
    leaves = scene.leaves[:3]
    arguments = (*scene.leaves[:3], scene.leaves[3].detach(), scene.viewmats, scene.intrinsics, scene.camera)
    return Case(
        "splat projection",
        _scene(n, "Gaussians", size),
        lambda: splatting._Project.apply(*arguments)[:4],  # type: ignore[index, return-value]
        lambda: tuple(splatting._project_reference(*arguments))[:4],
        leaves,
        n,
        "Gaussians",
        (n * PROJECT, n * PROJECT_BACKWARD),
        n * 2e3,
    )


def splat_blending(n: int, size: int, device: torch.device, views: int = 1) -> Case:
    """Sorting, tiles and blending of projected Gaussians."""
    scene = _Splats(n, size, views, device)
    seen = scene.projected()
    means2d, conics = seen.means2d.requires_grad_(), seen.conics.requires_grad_()
    opacities, colors = (leaf.detach().expand(views, *leaf.shape).contiguous() for leaf in scene.leaves[3:])
    leaves = (means2d, conics, opacities.requires_grad_(), colors.requires_grad_())
    seen = seen._replace(means2d=means2d, conics=conics)
    pairs, inside = scene.blending()
    return Case(
        "splat blending",
        _scene(n, "Gaussians", size, views),
        lambda: splatting._blend_fused(seen, opacities, colors, scene.camera),
        lambda: splatting._blend_reference(seen, opacities, colors, scene.camera),
        leaves,
        n * views,
        "Gaussians",
        (pairs * BLEND, pairs * BLEND_BACKWARD),
        _blend_bytes(n, size, views),
        note=f"{pairs / 1e6:.3g}M pairs of pixel and Gaussian evaluated, {inside / pairs:.0%} of them blended",
    )


def splatting_whole(n: int, size: int, device: torch.device, views: int = 1) -> Case:
    """`splatting.rasterization`, from Gaussians to pictures."""
    scene = _Splats(n, size, views, device)
    arguments = (*scene.leaves, scene.viewmats, scene.intrinsics, size, size)
    pairs, _ = scene.blending() if device.type == "cpu" else (0.0, 0.0)
    return Case(
        "splatting",
        _scene(n, "Gaussians", size, views),
        lambda: tuple(splatting.rasterization(*arguments))[:2],
        lambda: tuple(splatting.rasterization_reference(*arguments))[:2],
        scene.leaves,
        n * views,
        "Gaussians",
        (pairs * BLEND + n * views * PROJECT, pairs * BLEND_BACKWARD + n * views * PROJECT_BACKWARD),
        _blend_bytes(n, size, views),
        library="gsplat",
    )


# ---- radiance fields ----


def _ball(resolution: int) -> Tensor:
    """A lumpy ball of density and colour, (N, N, N, 4)."""
    axis = torch.linspace(-volume.BOUND, volume.BOUND, resolution)
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)
    distance = points.norm(dim=-1)
    inside = _radius(functional.normalize(points, dim=-1)) - distance
    return torch.cat([60 * torch.sigmoid(inside[..., None] / 0.01), 0.5 + 0.5 * torch.sin(8 * points)], dim=-1)


def _rays(size: int) -> tuple[Tensor, Tensor]:
    origins, directions = turntable(1, size=size).rays()
    return origins.reshape(-1, 3).contiguous(), directions.reshape(-1, 3).contiguous()


def _counted(density: Tensor, samples: packed.Samples) -> int:
    """Samples (S,) that lie in front of where their rays end."""
    optical = (density * samples.dt).double()
    before = optical.cumsum(0) - optical
    before = before - before[samples.offsets[samples.ray].clamp(max=len(before) - 1)]
    return int((before < -math.log(MIN_TRANSMITTANCE)).sum())


def dense_grid(resolution: int, size: int, device: torch.device, occupied: bool = False) -> Case:
    """`volume.render_rays`, with or without skipping of empty cells."""
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
        note=f"{counted / len(origins):.1f} samples a ray",
    )


def grid_smoothness(resolution: int, device: torch.device) -> Case:
    """`volume.smoothness`: value and gradient in one sweep."""
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
    """`packed.march` through the occupied cells of a ball."""
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
        note=f"{n / len(origins):.1f} samples a ray",
    )


def compositing(size: int, device: torch.device) -> Case:
    """`packed.composite` of colours."""
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
        f"{len(samples.t) / n:.1f} samples a ray @ {size} px",
        lambda: packed.composite(density, features, samples, n)[:3],
        lambda: packed.composite_reference(density, features, samples, n)[:3],
        (density, features),
        n,
        "rays",
        (counted * forward, counted * backward),
        100.0 * len(samples.t) + 40 * 111 * n,
        library="nerfacc",
    )


_BLOB = Blob(height=10.0)  # as scenes begin by default


def _field(kind: str, device: torch.device) -> tuple[Any, Any, Any, Operations]:
    """The field, the encoding's kernel and reference as functions of points in metres, and operations a point."""
    if kind == "hash":
        field = HashField(_generator(), blob=_BLOB).to(device)
        ours = lambda points: hash_encode(to_unit(points), field.table, field.cells)  # noqa: E731
        theirs = lambda points: hash_encode_reference(to_unit(points), field.table, field.cells)  # noqa: E731
        return field, ours, theirs, (len(field.cells) * HASH, len(field.cells) * HASH)
    field = TriplaneField(_generator(), blob=_BLOB).to(device)
    ours = lambda points: triplane_encode(to_unit(points), field.planes)  # noqa: E731
    theirs = lambda points: triplane_encode_reference(to_unit(points), field.planes)  # noqa: E731
    return field, ours, theirs, _triplane_operations(field.planes.shape[-1])


def _field_occupancy(field: Any) -> packed.Occupancy:
    axis = torch.linspace(-volume.BOUND, volume.BOUND, 48)
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).to(next(field.parameters()))
    with torch.no_grad():
        return packed.occupancy_of(field(points.reshape(-1, 3))[0].reshape(48, 48, 48), OCCUPIED)


_POINT_BYTES = {"hash": 2e3, "triplane": 1e3}


def encoding(kind: str, size: int, device: torch.device) -> Case:
    """`hash_encode` or `triplane_encode` at the samples of a picture."""
    field, ours, theirs, operations = _field(kind, device)
    points = packed.march(*_rays(size), _field_occupancy(field)).points
    leaf = field.table if kind == "hash" else field.planes
    n = len(points)
    return Case(
        f"{kind} encoding",
        f"{_short(n)} points of {size} px",
        lambda: (ours(points),),
        lambda: (theirs(points),),
        (leaf,),
        n,
        "points",
        (n * operations[0], n * operations[1]),
        n * _POINT_BYTES[kind],
    )


def field_whole(kind: str, size: int, device: torch.device, occupied: bool = True) -> Case:
    """`packed.render_field`: marching, encoding, torch's small network, compositing."""
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
        note=f"{n / len(origins):.1f} samples a ray; the network is torch's in both",
    )


# ---- meshes ----


class _Lumps:
    """A lumpy ball of 20 4^k triangles with vertex colours, in C cameras."""

    def __init__(self, subdivisions: int, size: int, views: int, device: torch.device) -> None:
        ball = trimesh.creation.icosphere(subdivisions=subdivisions)
        directions = torch.tensor(ball.vertices, dtype=torch.float32)
        self.vertices = (directions * _radius(directions)[:, None]).to(device).requires_grad_()
        self.faces = torch.tensor(ball.faces, dtype=torch.int32, device=device)
        self.colors = (0.5 + 0.5 * torch.sin(8 * directions)).to(device).requires_grad_()
        self.cameras: Cameras = turntable(views, size=size).to(device)
        self.scene = _scene(len(self.faces), "faces", size, views)
        with torch.no_grad():
            self.raster = meshes.rasterize_mesh(self.vertices, self.faces, self.cameras)
        self.covered = int((self.raster.face >= 0).sum())
        self.pixels = self.raster.face.numel()
        # The reference tries every face at every pixel of a view, in about 12 arrays (F, H W, 3).
        self.nearest_bytes = 12 * 12.0 * len(self.faces) * size * size

    def rasterising(self) -> Operations:
        """25 a vertex, 4 a face, 30 more and 16 a pixel of its bounding box, filled up to eights in a row, for one that
        holds a pixel's centre; 37 a covered pixel. Backward 81 a covered pixel and 38 a vertex."""
        views = len(self.cameras)
        screen = meshes._project_reference(self.vertices.detach(), meshes._view(self.cameras, self.vertices))
        corners = screen[:, self.faces.long(), :2]  # (B, F, 3, 2)
        extent = torch.tensor([self.cameras.width, self.cameras.height]).to(corners) - 1
        low = (corners.amin(2) - 0.5).ceil().clamp(min=0)
        high = torch.minimum((corners.amax(2) - 0.5).floor(), extent)
        across, down = (high - low + 1).clamp(min=0).unbind(-1)  # each (B, F)
        lanes = ((across / 8).ceil() * 8 * down).sum().item()
        held = ((across > 0) & (down > 0)).sum().item()
        vertices = views * len(self.vertices)
        forward = 25 * vertices + 4 * views * len(self.faces) + 30 * held + 16 * lanes + 37 * self.covered
        return forward, 81 * self.covered + 38 * vertices

    def interpolation(self) -> Operations:
        """Of three channels."""
        return 5 * 3 * self.covered, 12 * 3 * self.covered

    def antialiasing(self) -> Operations:
        """Which way faces turn, and vertices; the few pixels of the silhouette are left out."""
        views = len(self.cameras)
        return views * (7 * len(self.faces) + 25 * len(self.vertices)), 38 * views * len(self.vertices)


def mesh_rasterising(subdivisions: int, size: int, device: torch.device) -> Case:
    """`mesh.rasterize_mesh`."""
    mesh = _Lumps(subdivisions, size, 1, device)
    return Case(
        "mesh rasterising",
        mesh.scene,
        lambda: meshes.rasterize_mesh(mesh.vertices, mesh.faces, mesh.cameras)[1:],
        lambda: meshes.rasterize_mesh_reference(mesh.vertices, mesh.faces, mesh.cameras)[1:],
        (mesh.vertices,),
        mesh.pixels,
        "pixels",
        mesh.rasterising(),
        mesh.nearest_bytes if device.type == "cpu" else 0.0,
        library="Warp",
    )


def mesh_interpolation(subdivisions: int, size: int, device: torch.device) -> Case:
    """`mesh.interpolate` of colours."""
    mesh = _Lumps(subdivisions, size, 1, device)
    barycentric = mesh.raster.barycentric.requires_grad_()
    raster = Raster(mesh.raster.face, barycentric, mesh.raster.depth)
    return Case(
        "mesh interpolation",
        mesh.scene,
        lambda: (meshes.interpolate(mesh.colors, mesh.faces, raster),),
        lambda: (meshes.interpolate_reference(mesh.colors, mesh.faces, raster),),
        (mesh.colors, barycentric),
        mesh.pixels,
        "pixels",
        mesh.interpolation(),
        200.0 * mesh.pixels,
    )


def mesh_antialiasing(subdivisions: int, size: int, device: torch.device) -> Case:
    """`mesh.antialias` of colours."""
    mesh = _Lumps(subdivisions, size, 1, device)
    with torch.no_grad():
        pictures = meshes.interpolate(mesh.colors, mesh.faces, mesh.raster).requires_grad_()
    return Case(
        "mesh antialiasing",
        mesh.scene,
        lambda: (meshes.antialias(pictures, mesh.raster, mesh.vertices, mesh.faces, mesh.cameras),),
        lambda: (meshes.antialias_reference(pictures, mesh.raster, mesh.vertices, mesh.faces, mesh.cameras),),
        (pictures, mesh.vertices),
        mesh.pixels,
        "pixels",
        mesh.antialiasing(),
        600.0 * mesh.pixels + 200.0 * len(mesh.faces),
        library="Warp",
    )


def mesh_edges(subdivisions: int, device: torch.device) -> Case:
    """`mesh.mesh_edges` of faces not seen before."""
    faces = _Lumps(subdivisions, 8, 1, device).faces
    n_vertices = int(faces.max()) + 1
    return Case(
        "mesh edges",
        f"{_short(len(faces))} faces",
        lambda: tuple(meshes.mesh_edges(faces.clone(), n_vertices)),  # a clone, as the last answer is kept
        lambda: tuple(meshes.mesh_edges_reference(faces)),
        (),
        len(faces),
        "faces",
        (0.0, 0.0),
        500.0 * len(faces),
    )


def mesh_whole(subdivisions: int, size: int, device: torch.device, views: int = 1) -> Case:
    """Rasterise, interpolate colours, antialias."""
    mesh = _Lumps(subdivisions, size, views, device)

    def run() -> tuple[Tensor, ...]:
        raster = meshes.rasterize_mesh(mesh.vertices, mesh.faces, mesh.cameras)
        pictures = meshes.interpolate(mesh.colors, mesh.faces, raster)
        return (meshes.antialias(pictures, raster, mesh.vertices, mesh.faces, mesh.cameras),)

    def reference() -> tuple[Tensor, ...]:
        raster = meshes.rasterize_mesh_reference(mesh.vertices, mesh.faces, mesh.cameras)
        pictures = meshes.interpolate_reference(mesh.colors, mesh.faces, raster)
        return (meshes.antialias_reference(pictures, raster, mesh.vertices, mesh.faces, mesh.cameras),)

    parts = mesh.rasterising(), mesh.interpolation(), mesh.antialiasing()
    return Case(
        "mesh",
        mesh.scene,
        run,
        reference,
        (mesh.vertices, mesh.colors),
        mesh.pixels,
        "pixels",
        (sum(part[0] for part in parts), sum(part[1] for part in parts)),
        mesh.nearest_bytes if device.type == "cpu" else 0.0,
        library="Warp",
    )


# ---- all of them ----

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
_GRIDS = ((32, 32), (64, 64), (64, 128), (64, 256), (64, 512), (128, 64), (128, 128))
_MESHES = (
    (2, 32),
    (3, 64),
    (3, 128),
    (3, 256),
    (4, 64),
    (5, 64),
    (5, 128),
    (5, 256),
    (6, 64),
    (6, 128),
    (6, 256),
    (6, 512),
)
_PARTS = ((2, 32), (3, 64), (4, 64), (5, 128), (6, 256))  # meshes whose steps are measured one by one


def _bound(function: Callable[..., Case], *arguments: Any, **settings: Any) -> Builder:
    return lambda device: function(*arguments, device=device, **settings)


def builders(quick: bool = False) -> list[Builder]:
    """Makers of all cases; with `quick` only the smallest of each kernel."""
    groups = [
        [_bound(splat_projection, n, 256) for n in (2000, 10_000, 50_000, 200_000)],
        [*(_bound(splat_blending, *case) for case in _SPLATS), _bound(splat_blending, 10_000, 64, views=4)],
        [*(_bound(splatting_whole, *case) for case in _SPLATS), _bound(splatting_whole, 10_000, 64, views=4)],
        [_bound(dense_grid, *case) for case in _GRIDS],
        [_bound(dense_grid, *case, occupied=True) for case in _GRIDS],
        [_bound(grid_smoothness, resolution) for resolution in (32, 64, 128)],
        [_bound(marching, size) for size in (64, 128, 256, 512)],
        [_bound(compositing, size) for size in (64, 128, 256, 512)],
        *([_bound(encoding, kind, size) for size in (32, 64, 128, 256)] for kind in ("hash", "triplane")),
        *([_bound(field_whole, kind, size) for size in (32, 64, 128, 256)] for kind in ("hash", "triplane")),
        *([_bound(field_whole, k, size, occupied=False) for size in (32, 64, 128)] for k in ("hash", "triplane")),
        [_bound(mesh_rasterising, *case) for case in _PARTS],
        [_bound(mesh_interpolation, *case) for case in _PARTS],
        [_bound(mesh_antialiasing, *case) for case in _PARTS],
        [_bound(mesh_edges, k) for k in (3, 4, 5, 6)],
        [*(_bound(mesh_whole, *case) for case in _MESHES), _bound(mesh_whole, 5, 128, views=4)],
    ]
    return [build for group in groups for build in (group[:1] if quick else group)]
