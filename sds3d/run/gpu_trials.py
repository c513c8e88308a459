"""Trials of the kernels for a GPU: values and gradients of something tiny are compared with those of plain torch.

Everything heavy is imported within functions, so that `sds3d doctor` can report that it is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sds3d.files import first_line
from sds3d.rendering.gpu import Backend, Package

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    Case = Callable[[Backend, torch.device], tuple[Tensor, Tensor]]
    """Computes on a device. Returns the result, and what its gradient is compared in."""

_TOLERANCE = 1e-3  # of values below about 1, which a GPU rounds differently


def trial(package: Package, device: torch.device) -> str:
    """Compute something tiny of each kind by a package's kernels on a device. Returns what is wrong, or ""."""
    try:
        for case in _CASES[package]:
            problem = _difference(case, package, device)
            if problem:
                return f"its kernels compute something else than plain torch: {problem}"
    except Exception as error:  # a compiler and a driver may fail in any way
        return first_line(error)
    return ""


def _difference(case: Case, package: Package, device: torch.device) -> str:
    """Return by how much values or gradients of a case differ from plain torch on the CPU, or ""."""
    import torch

    results = []
    places: list[tuple[Backend, torch.device]] = [(package, device), ("torch", torch.device("cpu"))]
    for backend, place in places:
        values, leaf = case(backend, place)
        (gradient,) = torch.autograd.grad(values.square().sum(), leaf)
        results.append({"values": values.detach().cpu(), "gradients": gradient.cpu()})
    for name, expected in results[1].items():
        off = float((results[0][name] - expected).abs().max() / max(1.0, float(expected.abs().max())))
        if not off < _TOLERANCE:
            return f"{name} of {case.__name__.strip('_')} differ by {off:.2g}"
    return ""


def _splats(backend: Backend, device: torch.device) -> tuple[Tensor, Tensor]:
    import torch

    from sds3d.cameras import orbit
    from sds3d.rendering.splatting import rasterization

    cameras, generator = orbit([20.0], size=16), torch.Generator().manual_seed(0)
    numbers = torch.rand(20, 14, generator=generator)
    means, quats, scales = 0.4 * numbers[:, :3] - 0.2, numbers[:, 3:7] - 0.5, 0.1 * numbers[:, 7:10] + 0.02
    inputs = means, quats, scales, numbers[:, 10], numbers[:, 11:], cameras.opencv_viewmats(), cameras.intrinsics()
    there = [tensor.to(device) for tensor in inputs]
    means = there[0].requires_grad_()
    return rasterization(*there, width=16, height=16, backend=backend).colors, means


def _samples(backend: Backend, device: torch.device) -> tuple[Tensor, Tensor]:
    import torch

    from sds3d.rendering.packed import Samples, composite

    index = torch.arange(40)
    samples = Samples(index // 8, 0.1 * (index % 8), torch.full((40,), 0.1), torch.zeros(40, 3), torch.arange(0, 41, 8))
    features = torch.rand(40, 3, generator=torch.Generator().manual_seed(0)).to(device).requires_grad_()
    there = Samples(*(tensor.to(device) for tensor in samples))
    return composite(5 * features[:, 0], features, there, 5, backend=backend).features, features


def _voxels(backend: Backend, device: torch.device) -> tuple[Tensor, Tensor]:
    import torch

    from sds3d.cameras import orbit
    from sds3d.rendering.volume import render_rays

    grid = (5 * torch.rand(4, 4, 4, 4, generator=torch.Generator().manual_seed(0))).to(device).requires_grad_()
    rays = (tensor.to(device) for tensor in orbit([20.0], size=8).rays())
    return render_rays(grid, *rays, samples=8, backend=backend).rgb, grid


def _hash_grid(backend: Backend, device: torch.device) -> tuple[Tensor, Tensor]:
    import torch

    from sds3d.representations.fields_hash import hash_encode, level_cells

    generator = torch.Generator().manual_seed(0)
    points = torch.rand(50, 3, generator=generator).to(device)
    table = torch.rand(3, 64, 2, generator=generator).to(device).requires_grad_()
    return hash_encode(points, table, level_cells(3, 2, 16), backend=backend), table


def _planes(backend: Backend, device: torch.device) -> tuple[Tensor, Tensor]:
    import torch

    from sds3d.representations.fields_triplane import triplane_encode

    generator = torch.Generator().manual_seed(0)
    points = torch.rand(50, 3, generator=generator).to(device)
    planes = torch.rand(3, 8, 8, 8, generator=generator).to(device).requires_grad_()
    return triplane_encode(points, planes, backend=backend), planes


def _meshes(backend: Backend, device: torch.device) -> tuple[Tensor, Tensor]:
    import torch

    from sds3d.cameras import orbit
    from sds3d.rendering.mesh_differentiable import antialias, interpolate, rasterize_mesh

    corners = [[0.3, -0.2, 0.1], [-0.3, -0.2, 0.15], [0.05, 0.35, 0.0], [0.0, -0.1, -0.3]]
    vertices = torch.tensor(corners, device=device, requires_grad=True)
    faces = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], device=device)
    cameras = orbit([20.0, 140.0], size=16).to(device)
    raster = rasterize_mesh(vertices, faces, cameras, backend=backend)
    pictures = interpolate(vertices + 0.5, faces, raster, backend=backend)
    return antialias(pictures, raster, vertices, faces, cameras, backend=backend), vertices


_CASES: dict[Package, tuple[Case, ...]] = {
    "gsplat": (_splats,),
    "nerfacc": (_samples,),
    "warp": (_splats, _samples, _voxels, _hash_grid, _planes, _meshes),
}
