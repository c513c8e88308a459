"""Gaussian splatting (Kerbl et al. 2023, arXiv:2308.04079) with gsplat's signature and semantics, on any machine.

`rasterization` uses Numba kernels on a CPU, gsplat or NVIDIA Warp on CUDA, and plain torch elsewhere. Gaussians are
projected by the local affine approximation of EWA splatting (Zwicker et al. 2001), and their covariances in the picture
are blurred by `eps2d` pixels^2. Pixels blend Gaussians front to back with alpha = min(0.999, opacity exp(-d^2 / 2)),
leaving out alphas below 1/255. A pixel is finished before its transmittance would fall to 1e-4.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from sds3d.geometry.splats import SH_C0, harmonics
from sds3d.rendering import gpu, splatting_numba
from sds3d.rendering.splatting_blend_numba import MAX_ALPHA, MIN_TRANSMITTANCE
from sds3d.rendering.splatting_tiles_numba import MIN_ALPHA

RenderMode = Literal["RGB", "D", "ED", "RGB+D", "RGB+ED"]
"""D is the depth z weighted by alpha. ED is the expected depth, D / alpha."""
RasterizeMode = Literal["classic", "antialiased"]
"""antialiased dims a Gaussian by as much as the blur enlarges it (Mip-Splatting, arXiv:2311.16493)."""


class Splatted(NamedTuple):
    """Pictures of C cameras, and what densification needs, named as in gsplat.

    colors: (C, H, W, D), with depth as the last channel in modes that have it. alphas: (C, H, W, 1).
    meta: "means2d" (C, N, 2) pixels, part of the graph, so that after retain_grad its gradient shows how strongly
        pixels pull on each Gaussian; "radii" (C, N, 2) int32 pixels, 0 for Gaussians that are not visible; "depths"
        (C, N), "conics" (C, N, 3) and "opacities" (C, N).
    """

    colors: Tensor
    alphas: Tensor
    meta: dict[str, Tensor]


def rasterization(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    *,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    eps2d: float = 0.3,
    sh_degree: int | None = None,
    backgrounds: Tensor | None = None,
    render_mode: RenderMode = "RGB",
    rasterize_mode: RasterizeMode = "classic",
    backend: gpu.Backend | None = None,
) -> Splatted:
    """Render N Gaussians from C cameras. Differentiable in all properties of the Gaussians.

    means: (N, 3) metres. quats: (N, 4) as w, x, y, z, of any length. scales: (N, 3) standard deviations in metres.
    opacities: (N,) in [0, 1]. colors: (N, D) or (C, N, D) values, or with `sh_degree` coefficients (N, K, 3) or
    (C, N, K, 3), K >= (sh_degree + 1)^2. viewmats: (C, 4, 4) world to OpenCV camera. Ks: (C, 3, 3) intrinsics.
    near_plane, far_plane: metres. radius_clip: Gaussians with a smaller radius in pixels are left out.
    backgrounds: (C, D), seen where the Gaussians let light through.
    backend: default: the fastest that works. All but torch need float32, gsplat also CUDA. numba blends on the
        CPU, wherever the tensors are.

    Raises ValueError for shapes that do not match.
    """
    _check(means, quats, scales, opacities, colors, viewmats, Ks, sh_degree, backgrounds)
    backend = backend or _backend(means)
    if backend == "gsplat":
        return _gsplat(
            means, quats, scales, opacities, colors, viewmats, Ks, width, height,
            near_plane=near_plane, far_plane=far_plane, radius_clip=radius_clip, eps2d=eps2d, sh_degree=sh_degree,
            backgrounds=backgrounds, render_mode=render_mode, rasterize_mode=rasterize_mode,
        )  # fmt: skip
    camera = _Camera(width, height, near_plane, far_plane, eps2d, radius_clip)
    return _rasterize(
        means, quats, scales, opacities, colors, viewmats, Ks, camera,
        sh_degree, backgrounds, render_mode, rasterize_mode, backend,
    )  # fmt: skip


def _backend(means: Tensor) -> gpu.Backend:
    chosen = gpu.choose("splats", means)
    # Plain torch has every Gaussian at every pixel: too much for the memory of a GPU.
    return "numba" if chosen == "torch" and means.device.type != "cpu" and means.dtype == torch.float32 else chosen


def rasterization_reference(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    *,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    eps2d: float = 0.3,
    sh_degree: int | None = None,
    backgrounds: Tensor | None = None,
    render_mode: RenderMode = "RGB",
    rasterize_mode: RasterizeMode = "classic",
) -> Splatted:
    """`rasterization` in plain torch, every Gaussian at every pixel. Slow, but for any device and floating dtype."""
    _check(means, quats, scales, opacities, colors, viewmats, Ks, sh_degree, backgrounds)
    camera = _Camera(width, height, near_plane, far_plane, eps2d, radius_clip)
    return _rasterize(
        means, quats, scales, opacities, colors, viewmats, Ks, camera,
        sh_degree, backgrounds, render_mode, rasterize_mode, "torch",
    )  # fmt: skip


class _Camera(NamedTuple):
    width: int
    height: int
    near: float
    far: float
    blur: float
    radius_clip: float


class _Projected(NamedTuple):
    """means2d (C, N, 2), depths (C, N), conics (C, N, 3), compensations (C, N), radii (C, N, 2) int32."""

    means2d: Tensor
    depths: Tensor
    conics: Tensor
    compensations: Tensor
    radii: Tensor


def _check(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    sh_degree: int | None,
    backgrounds: Tensor | None,
) -> None:
    n, cameras = len(means), len(viewmats)
    shapes = {
        "means": (means, (n, 3)),
        "quats": (quats, (n, 4)),
        "scales": (scales, (n, 3)),
        "opacities": (opacities, (n,)),
        "viewmats": (viewmats, (cameras, 4, 4)),
        "Ks": (Ks, (cameras, 3, 3)),
    }
    for name, (tensor, shape) in shapes.items():
        if tensor.shape != shape:
            raise ValueError(
                f"{name} must be {shape} for {n} Gaussians and {cameras} cameras, got {tuple(tensor.shape)}"
            )
    tail = 1 if sh_degree is None else 2
    if colors.shape[:-tail] not in ((n,), (cameras, n)):
        raise ValueError(f"colors must begin with ({n},) or ({cameras}, {n}), got {tuple(colors.shape)}")
    if sh_degree is not None and not (0 <= sh_degree <= 3 and colors.shape[-2] >= (sh_degree + 1) ** 2):
        raise ValueError(f"sh_degree {sh_degree} needs {(sh_degree + 1) ** 2} coefficients, got {colors.shape[-2]}")
    if backgrounds is not None and backgrounds.shape != (cameras, colors.shape[-1]):
        raise ValueError(f"backgrounds must be {(cameras, colors.shape[-1])}, got {tuple(backgrounds.shape)}")


def _rasterize(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    camera: _Camera,
    sh_degree: int | None,
    backgrounds: Tensor | None,
    render_mode: RenderMode,
    rasterize_mode: RasterizeMode,
    backend: gpu.Backend,
) -> Splatted:
    cameras, n = len(viewmats), len(means)
    if backend == "warp":
        from sds3d.rendering.splatting_blend_warp import Blend
        from sds3d.rendering.splatting_projection_warp import Project

        project, blend = Project.apply, partial(_in_fours, Blend.apply)
    elif backend == "numba":
        project, blend = (
            splatting_numba.Project.apply if means.device.type == "cpu" else _project_reference,
            _blend_on_cpu,
        )
    else:
        project, blend = _project_reference, _blend_reference
    projected = _Projected(*project(means, quats, scales, opacities, viewmats, Ks, camera))
    alphas = opacities.expand(cameras, n)
    if rasterize_mode == "antialiased":
        alphas = alphas * projected.compensations
    if sh_degree is not None:
        positions = -(viewmats[:, :3, :3].transpose(1, 2) @ viewmats[:, :3, 3:])[..., 0]  # (C, 3)
        directions = functional.normalize(means - positions[:, None], dim=-1)  # (C, N, 3)
        colors = (spherical_harmonics(sh_degree, directions, colors) + 0.5).clamp(min=0)
    features = [] if render_mode in ("D", "ED") else [colors.expand(cameras, n, -1)]
    if render_mode != "RGB":
        features.append(projected.depths[..., None])
    values = features[0] if len(features) == 1 else torch.cat(features, dim=-1)  # (C, N, D)
    picture, alpha = blend(projected, alphas, values, camera)
    if render_mode in ("ED", "RGB+ED"):
        picture = torch.cat([picture[..., :-1], picture[..., -1:] / alpha.clamp(min=1e-10)], dim=-1)
    if backgrounds is not None and render_mode not in ("D", "ED"):
        behind = backgrounds if render_mode == "RGB" else functional.pad(backgrounds, (0, 1))
        picture = picture + (1 - alpha) * behind[:, None, None]
    meta = {
        "means2d": projected.means2d,
        "radii": projected.radii,
        "depths": projected.depths,
        "conics": projected.conics,
        "opacities": alphas,
    }
    return Splatted(picture, alpha, meta)


# ---- spherical harmonics ----


def spherical_harmonics(degree: int, directions: Tensor, coefficients: Tensor) -> Tensor:
    """Evaluate real spherical harmonics, with the signs and order of 3D Gaussian splatting. Returns (..., 3).

    directions: (..., 3) unit vectors. coefficients: (..., K, 3), K >= (degree + 1)^2, degree 0 to 3.
    """
    x, y, z = directions.unbind(-1)
    basis = [torch.full_like(x, SH_C0), *harmonics(degree, x, y, z)]
    return torch.einsum("...k,...kc->...c", torch.stack(basis, dim=-1), coefficients[..., : len(basis), :])


# ---- plain torch ----


def rotation_matrices(quats: Tensor) -> Tensor:
    """Return rotation matrices (N, 3, 3) of quaternions (N, 4) as w, x, y, z, of any length."""
    w, x, y, z = functional.normalize(quats, dim=-1).unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def _project_reference(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, viewmats: Tensor, Ks: Tensor, camera: _Camera
) -> _Projected:
    rotation, translation = viewmats[:, None, :3, :3], viewmats[:, None, :3, 3]
    x, y, z = ((rotation @ means[..., None])[..., 0] + translation).unbind(-1)  # each (C, N)
    visible = (z > camera.near) & (z < camera.far)
    safe = torch.where(visible, z, 1.0)
    fx, fy, cx, cy = (Ks[:, i, j, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))  # each (C, 1)
    # Far outside the picture the linear approximation diverges: clamp its slope at 15 % beyond the edge.
    margin_x, margin_y = 0.15 * camera.width, 0.15 * camera.height
    tx = (x / safe).clamp(min=-(cx + margin_x) / fx, max=(camera.width - cx + margin_x) / fx)
    ty = (y / safe).clamp(min=-(cy + margin_y) / fy, max=(camera.height - cy + margin_y) / fy)
    zero = torch.zeros_like(x)
    jacobian = torch.stack(
        [
            torch.stack([fx / safe, zero, -fx * tx / safe], dim=-1),
            torch.stack([zero, fy / safe, -fy * ty / safe], dim=-1),
        ],
        dim=-2,
    )  # (C, N, 2, 3)
    half = jacobian @ rotation @ (rotation_matrices(quats) * scales[:, None])  # (C, N, 2, 3)
    covariance = half @ half.transpose(-1, -2)  # (C, N, 2, 2)
    xx, xy, yy = covariance[..., 0, 0], covariance[..., 0, 1], covariance[..., 1, 1]
    sharp = xx * yy - xy * xy
    xx, yy = xx + camera.blur, yy + camera.blur
    determinant = xx * yy - xy * xy
    means2d = torch.stack([fx * x / safe + cx, fy * y / safe + cy], dim=-1)  # (C, N, 2)
    with torch.no_grad():
        reach = (2 * (opacities / MIN_ALPHA).clamp(min=1e-6).log()).clamp(min=0).sqrt()
        spread = torch.stack([xx, yy], dim=-1).sqrt()
        radii = (reach[:, None] * spread).ceil()  # (C, N, 2)
        size = torch.tensor([camera.width, camera.height]).to(means2d, non_blocking=True)
        inside = ((means2d + radii > 0) & (means2d - radii < size)).all(-1)
        visible = visible & (determinant > 0) & inside & (reach > 0) & ~(radii <= camera.radius_clip).all(-1)
        radii = (radii * visible[..., None]).int()
    determinant = torch.where(visible, determinant, 1.0)
    conics = torch.stack([yy, -xy, xx], dim=-1) / determinant[..., None] * visible[..., None]
    ratio = torch.where(visible, sharp / determinant, 1.0)
    return _Projected(means2d * visible[..., None], z, conics, ratio.clamp(min=0).sqrt() * visible, radii)


def _blend_reference(
    projected: _Projected, opacities: Tensor, values: Tensor, camera: _Camera
) -> tuple[Tensor, Tensor]:
    columns = torch.arange(camera.width, device=values.device, dtype=values.dtype) + 0.5
    rows = torch.arange(camera.height, device=values.device, dtype=values.dtype) + 0.5
    pictures, alphas = [], []
    for c in range(len(values)):
        order = projected.depths[c].detach().argsort(stable=True)
        order = order[projected.radii[c, order, 0] > 0]  # (M,)
        mean, conic = projected.means2d[c, order], projected.conics[c, order]
        dx = columns - mean[:, 0, None, None]  # (M, 1, W)
        dy = rows[:, None] - mean[:, 1, None, None]  # (M, H, 1)
        a, b, d = conic[:, :, None, None].unbind(1)  # each (M, 1, 1)
        exponent = 0.5 * (a * dx * dx + d * dy * dy) + b * dx * dy  # (M, H, W)
        alpha = (opacities[c, order, None, None] * torch.exp(-exponent)).clamp(max=MAX_ALPHA)
        alpha = torch.where(alpha >= MIN_ALPHA, alpha, 0.0)
        after = torch.cumprod(1 - alpha, dim=0)
        alive = after > MIN_TRANSMITTANCE
        alpha = torch.where(alive, alpha, 0.0)
        transmittance = torch.cumprod(1 - alpha, dim=0)
        before = torch.cat([torch.ones_like(transmittance[:1]), transmittance[:-1]])
        weights = alpha * before
        pictures.append(torch.einsum("mhw,md->hwd", weights, values[c, order]))
        alphas.append(weights.sum(0)[..., None])
    return torch.stack(pictures), torch.stack(alphas)


# ---- Numba ----


def _blend_on_cpu(projected: _Projected, opacities: Tensor, values: Tensor, camera: _Camera) -> tuple[Tensor, Tensor]:
    """Blend on the CPU, wherever the tensors are."""
    device = values.device
    projected = _Projected(*(tensor.cpu() for tensor in projected))
    picture, alpha = _in_fours(splatting_numba.Blend.apply, projected, opacities.cpu(), values.cpu(), camera)
    return picture.to(device), alpha.to(device)


def _in_fours(
    blend: Callable[..., Any], projected: _Projected, opacities: Tensor, values: Tensor, camera: _Camera
) -> tuple[Tensor, Tensor]:
    """Blend four channels at a time, as the kernels do."""
    alpha, parts = torch.empty(0), []
    for four in values.split(4, dim=-1):
        picture, alpha = blend(projected.means2d, projected.conics, opacities, four, projected.depths, camera)
        parts.append(picture)
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1), alpha


# ---- gsplat ----


def _gsplat(*arguments: Any, **settings: Any) -> Splatted:
    import gsplat

    # packed=False keeps the tensors in meta as (C, N), as densification needs them.
    colors, alphas, meta = gsplat.rasterization(*arguments, packed=False, **settings)
    return Splatted(colors, alphas, {key: meta[key] for key in ("means2d", "radii", "depths", "conics", "opacities")})
