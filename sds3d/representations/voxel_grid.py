"""A radiance field on a dense voxel grid. It has no network, so it trains in minutes on a CPU.

The grid is optimised directly, as in Plenoxels (arXiv:2112.05131) and DVGO (arXiv:2111.11215). It starts from
DreamFusion's density blob (arXiv:2209.14988, appendix A.2).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from sds3d.cameras import Cameras
from sds3d.devices import seeded
from sds3d.geometry.mesh import Mesh
from sds3d.geometry.splats import Splats
from sds3d.ramps import Ramp
from sds3d.rendering.packed import FieldFunction
from sds3d.rendering.volume import BOUND, empty_distance, render_rays, smoothness
from sds3d.representations.base import (
    Rendering,
    RepresentationConfig,
    Scene,
    Start,
    depth_variance,
    opacity_losses,
    z_variance_loss,
)
from sds3d.representations.convert import splats_from_grid
from sds3d.representations.fields import trilinear
from sds3d.representations.grid_mesh import grid_mesh

_DENSITY_SCALE = 20.0  # factor per metre: a pre-activation of 3 is opaque within a few centimetres
_FLOOR = -7.0  # least pre-activation at the start: keeps the gradient of the softplus alive in the corners
_OCCUPIED = 0.04  # density per metre under which a cell counts as empty: 4 % opacity over a whole metre
_BETAS = (0.9, 0.95)  # few steps show a given voxel, so the second moment needs a short memory
_REFRESH = 8  # steps between two renders of the whole grid


class VoxelGridConfig(RepresentationConfig):
    """A dense-grid radiance field. The weights balance the loop's data term, 1/2 sum |rgb - target|^2 per view."""

    name: Literal["voxel_grid"] = "voxel_grid"
    resolution: int = Field(default=48, ge=4, le=256)
    """Voxels per side of the cube [-0.55, 0.55]^3 metres."""
    samples: int = Field(default=64, ge=8, le=1024)
    """Steps of a ray per side of the cube; diagonal rays take more."""
    density_lr: float = Field(default=0.05, gt=0)
    """Learning rate of the pre-activation of the density."""
    color_lr: float = Field(default=0.1, gt=0)
    """Learning rate of the pre-activation of the colour."""
    blob_height: float = 3.0
    """Density blob at the start: pre-activation at the centre."""
    blob_radius: float = Field(default=0.275, gt=0)
    """Density blob at the start: radius in metres at which the pre-activation is 0."""
    opacity: Ramp = Field(default=Ramp(0.04), ge=0)
    """Weight of the opacity, summed over a view's pixels: prevents fog."""
    entropy: Ramp = Field(default=Ramp(0.02), ge=0)
    """Weight, at the last step, of the binary entropy of the opacity (nats), summed over a view's pixels: pushes pixels
    to be either opaque or empty. A plain number rises linearly
    from 0."""
    density_smoothness: Ramp = Field(default=Ramp(7.5e-5), ge=0)
    """Weight, times a view's number of pixels, of the mean squared difference of neighbours' density
    pre-activations."""
    color_smoothness: Ramp = Field(default=Ramp(4.7e-5), ge=0)
    """Weight, times a view's number of pixels, of the mean squared difference of neighbours' colour pre-activations."""
    z_variance: Ramp = Field(default=Ramp(0.0), ge=0)
    """Weight of the variance of the depth along rays (HiFA, square metres), summed over a view's opaque pixels: gathers
    the matter along a ray in one surface. A plain number rises linearly until the middle of the run. Paper: 3."""
    warmup: int = Field(default=120, ge=0)
    """Number of steps at the start that render the whole grid. Later steps skip empty cells, except every 8th step, so
    that matter may appear anywhere."""

    def make(self, start: Start) -> VoxelGridScene:
        """Make a density blob, or a grid resampled from `start.before`."""
        if start.before is None:
            return VoxelGridScene(self, start.generator, start.device)
        return VoxelGridScene.from_grid(start.before.to_grid(self.resolution), self, start.generator, start.device)


class VoxelGridScene(Scene):
    """A scene of density and colour voxels.

    With gradients enabled, `render` jitters the samples along each ray, differently in each step, and may skip cells
    that were empty a few steps ago. Under `torch.no_grad`, samples are at the middles and cells that are empty now are
    skipped.

    density: (N, N, N) pre-activations, axes x, y, z; 20 softplus(density) is the density per metre.
    color: (N, N, N, 3); sigmoid(color) is the sRGB colour.
    """

    def __init__(self, config: VoxelGridConfig, generator: torch.Generator, device: torch.device | str = "cpu") -> None:
        self.config = config
        self.device = torch.device(device)
        n = config.resolution
        axis = torch.linspace(-BOUND, BOUND, n)
        radius = torch.cartesian_prod(axis, axis, axis).norm(dim=-1).reshape(n, n, n)
        blob = (config.blob_height * (1 - radius / config.blob_radius)).clamp(min=_FLOOR)
        density = blob + 0.05 * torch.randn(n, n, n, generator=generator)
        color = 0.1 * torch.randn(n, n, n, 3, generator=generator)
        self.density = torch.nn.Parameter(density.to(self.device))
        self.color = torch.nn.Parameter(color.to(self.device))
        self._seed = int(torch.randint(2**62, (), generator=generator))
        self._step = 0
        self._skip = self._empty_distance()

    @classmethod
    def from_grid(
        cls, grid: Tensor, config: VoxelGridConfig, generator: torch.Generator, device: torch.device | str = "cpu"
    ) -> VoxelGridScene:
        """Make a scene resampled from a grid (M, M, M, 4) of density per metre and r, g, b in [0, 1]."""
        scene = cls(config, generator, device)
        size = (config.resolution,) * 3
        planes = functional.interpolate(grid.permute(3, 0, 1, 2)[None], size, mode="trilinear", align_corners=True)[0]
        with torch.no_grad():
            # Inverse of softplus; never below the floor that keeps its gradient alive.
            density = (planes[0] / _DENSITY_SCALE).clamp(min=1e-6)
            scene.density.copy_((density + torch.log(-torch.expm1(-density))).clamp(min=_FLOOR))
            scene.color.copy_(torch.logit(planes[1:].permute(1, 2, 3, 0), eps=0.01))
        scene._skip = scene._empty_distance()
        scene._step = config.warmup  # the matter is known, so no step has to search all of space
        return scene

    def render(self, cameras: Cameras, background: Tensor) -> Rendering:
        """Render the B views over `background`, (B, 3) or (3,) in [0, 1]."""
        training = torch.is_grad_enabled()
        shape = (len(cameras), cameras.height, cameras.width)
        jitter = self._jitter(shape) if training else None
        skip = self._training_skip() if training else self._empty_distance()
        origins, directions = cameras.to(self.device).rays()  # (B, H, W, 3)
        pictures = render_rays(self.grid(), origins, directions, samples=self.config.samples, jitter=jitter, skip=skip)
        alpha = pictures.alpha[..., None]  # (B, H, W, 1)
        background = background.to(alpha).expand(len(cameras), 3)[:, None, None]  # (B, 1, 1, 3)
        rgb = pictures.rgb + (1 - alpha) * background
        depth = pictures.depth[..., None]  # (B, H, W, 1)
        spread = depth_variance(depth, pictures.depth_square[..., None], alpha) if self.config.z_variance else None
        return Rendering(rgb, alpha, depth, pictures.normal, depth_variance=spread)

    def grid(self) -> Tensor:
        """Return density per metre and r, g, b in [0, 1], (N, N, N, 4)."""
        density = _DENSITY_SCALE * functional.softplus(self.density)
        return torch.cat([density[..., None], torch.sigmoid(self.color)], dim=-1)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return groups for Adam, with betas: density and colour."""
        return [
            {"params": [self.density], "lr": self.config.density_lr, "betas": _BETAS},
            {"params": [self.color], "lr": self.config.color_lr, "betas": _BETAS},
        ]

    def regularisers(self, rendering: Rendering, progress: float) -> dict[str, Tensor]:
        """Return the losses on opacity, entropy, depth variance and smoothness.

        Their unit is that of 1/2 sum |rgb - target|^2 over a view's pixels.
        """
        config = self.config
        pixels = rendering.alpha.shape[1] * rendering.alpha.shape[2]
        return {
            **opacity_losses(rendering, config.opacity.at(progress), config.entropy.at(progress, rise=progress)),
            **z_variance_loss(rendering, config.z_variance, progress),
            "smoothness": pixels
            * (
                config.density_smoothness.at(progress) * smoothness(self.density)
                + config.color_smoothness.at(progress) * smoothness(self.color)
            ),
        }

    def after_step(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Update the empty cells every few steps, after a step that rendered the whole grid."""
        self._step = step + 1
        if self._step == self.config.warmup or self._step % _REFRESH == 1:
            self._skip = self._empty_distance()

    def to_mesh(self, resolution: int) -> Mesh:
        """Return the surface whose silhouettes match the renders; see `grid_mesh`. Raises EmptySurfaceError."""
        with torch.no_grad():
            return grid_mesh(self.grid(), resolution, self.silhouettes)

    def to_splats(self, count: int, generator: torch.Generator) -> Splats:
        """Return `count` Gaussians on the visible surface of the grid."""
        return splats_from_grid(self.to_grid(self.config.resolution), count, generator)

    def to_grid(self, resolution: int) -> Tensor:
        """Return the scene's own grid, (N, N, N, 4). `resolution` is ignored."""
        return self.grid().detach()

    def radiance_field(self) -> FieldFunction:
        """Return the field: density and colour interpolated between voxels, differentiable in the parameters."""

        def interpolate(points: Tensor) -> tuple[Tensor, Tensor]:
            values = trilinear(self.grid(), points)  # (P, 4)
            return values[:, 0], values[:, 1:]

        return interpolate

    @torch.no_grad()
    def silhouettes(self, cameras: Cameras) -> NDArray[np.float32]:
        """Return the opacity (B, H, W) float32 in [0, 1] of the views."""
        return self.render(cameras, torch.zeros(3)).alpha[..., 0].cpu().numpy()

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that the next step depends on: parameters, empty cells and random stream."""
        return {
            "density": self.density.detach().clone(),
            "color": self.color.detach().clone(),
            "skip": self._skip.clone(),
            "step": torch.tensor(self._step),
            "seed": torch.tensor(self._seed),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore a `state_dict` of the same resolution. Raises ValueError for another one or for missing tensors."""
        missing = sorted(self.state_dict().keys() - state.keys())
        if missing:
            raise ValueError(f"the state of a voxel grid lacks {', '.join(missing)}: is it of another representation?")
        if state["density"].shape != self.density.shape:
            raise ValueError(
                f"the state holds {tuple(state['density'].shape)} voxels, the scene {tuple(self.density.shape)}: "
                f"set representation.resolution={state['density'].shape[0]}"
            )
        with torch.no_grad():
            self.density.copy_(state["density"])
            self.color.copy_(state["color"])
        self._skip = state["skip"].to(self.device)
        self._step = int(state["step"])
        self._seed = int(state["seed"])

    def _jitter(self, shape: tuple[int, ...]) -> Tensor:
        # Depends on the step alone, so that a repeated or resumed step draws the same.
        return torch.rand(shape, generator=seeded(self._seed + self._step, self.device), device=self.device)

    def _empty_distance(self) -> Tensor:
        # Compared before the activation, which is monotonic.
        return empty_distance(self.density, math.log(math.expm1(_OCCUPIED / _DENSITY_SCALE)))

    def _training_skip(self) -> Tensor | None:
        whole = self._step < self.config.warmup or self._step % _REFRESH == 0
        return None if whole else self._skip
