"""A voxel grid that is mirror-symmetric from left to right, for chairs, cars and animals."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from sds3d.cameras import Cameras
from sds3d.geometry.mesh import Mesh
from sds3d.rendering.volume import BOUND, render_rays, smoothness
from sds3d.representations.base import Rendering, RepresentationConfig, Scene, Start, opacity_losses
from sds3d.representations.grid_mesh import grid_mesh


class MirroredConfig(RepresentationConfig):
    """Settings of `MirroredScene`."""

    name: Literal["mirrored"] = "mirrored"
    resolution: int = Field(default=48, ge=4, le=256)
    """Voxels per side of the cube."""
    lr: float = Field(default=0.05, gt=0)
    """Learning rate."""

    def make(self, start: Start) -> MirroredScene:
        """A ball, or a grid resampled from `start.before`."""
        return MirroredScene(self, start)


class MirroredScene(Scene):
    """Density and colour of the half x >= 0; the other half is its mirror image.

    values: (N / 2, N, N, 4) pre-activations of density and r, g, b, axes x, y, z.
    """

    def __init__(self, config: MirroredConfig, start: Start) -> None:
        self.config = config
        axis = torch.linspace(-BOUND, BOUND, config.resolution)
        radius = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).norm(dim=0)  # (N, N, N)
        values = 0.1 * torch.randn(*radius.shape, 4, generator=start.generator)
        values[..., 0] += 3 * (1 - radius / 0.275).clamp(min=-2)
        if start.before is not None:
            size = (config.resolution,) * 3
            grid = start.before.to_grid(config.resolution).cpu().permute(3, 0, 1, 2)[None]  # (1, 4, M, M, M)
            planes = functional.interpolate(grid, size, mode="trilinear", align_corners=True)[0]
            density = (planes[0] / 20).clamp(min=1e-3)
            values[..., 0] = density + torch.log(-torch.expm1(-density))  # the inverse of softplus
            values[..., 1:] = torch.logit(planes[1:].permute(1, 2, 3, 0), eps=0.01)
        self.values = torch.nn.Parameter(values[config.resolution // 2 :].to(start.device))

    def whole(self) -> Tensor:
        """Both halves of the values, (N, N, N, 4)."""
        other = self.values if self.config.resolution % 2 == 0 else self.values[1:]  # both halves share the middle
        return torch.cat([other.flip(0), self.values])

    def grid(self) -> Tensor:
        """(N, N, N, 4) density per metre and r, g, b in [0, 1]."""
        values = self.whole()
        return torch.cat([20 * functional.softplus(values[..., :1]), torch.sigmoid(values[..., 1:])], dim=-1)

    def render(self, cameras: Cameras, background: Tensor) -> Rendering:
        """Pictures of the B views over `background`, (B, 3) or (3,) in [0, 1]."""
        origins, directions = cameras.to(self.values.device).rays()  # (B, H, W, 3)
        seen = render_rays(self.grid(), origins, directions, samples=64)
        alpha = seen.alpha[..., None]  # (B, H, W, 1)
        behind = background.to(alpha).expand(len(cameras), 3)[:, None, None]  # (B, 1, 1, 3)
        return Rendering(seen.rgb + (1 - alpha) * behind, alpha, seen.depth[..., None], seen.normal)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The half grid."""
        return [{"params": [self.values], "lr": self.config.lr}]

    def regularisers(self, rendering: Rendering, progress: float) -> dict[str, Tensor]:
        """Against fog and noise."""
        pixels = rendering.alpha[0].numel()
        fog = opacity_losses(rendering, opacity=0.04, entropy=0.02 * progress)
        return {**fog, "smoothness": 7.5e-5 * pixels * smoothness(self.whole())}

    def after_step(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Nothing to update."""

    @torch.no_grad()
    def to_mesh(self, resolution: int) -> Mesh:
        """The surface with vertex colours. Raises EmptySurfaceError if there is none."""
        return grid_mesh(self.grid(), resolution, self.silhouettes)

    def to_grid(self, resolution: int) -> Tensor:
        """The scene's own grid, whatever `resolution`."""
        return self.grid().detach()

    @torch.no_grad()
    def silhouettes(self, cameras: Cameras) -> NDArray[np.float32]:
        """Opacity (B, H, W) of the views."""
        return self.render(cameras, torch.zeros(3)).alpha[..., 0].cpu().numpy()

    def state_dict(self) -> dict[str, Tensor]:
        """The half grid."""
        return {"values": self.values.detach().clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        with torch.no_grad():
            self.values.copy_(state["values"])
