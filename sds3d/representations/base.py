"""The contract of 3D representations: whatever it is made of, a scene renders the same four pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.geometry.mesh import Mesh


@dataclass(frozen=True)
class Rendering:
    """Pictures of B views, row 0 at the top, all differentiable.

    rgb: (B, H, W, 3) in [0, 1], composited on the background. alpha: (B, H, W, 1) opacity in [0, 1].
    depth: (B, H, W, 1) expected distance along the ray in metres, 0 where nothing is hit (alpha-weighted).
    normal: (B, H, W, 3) unit vectors in the world frame where alpha > 0, else 0.
    latent: (B, C, h, w) in the prior's space, from scenes that render what the prior's encoder would give; else None.
    depth_variance: (B, H, W, 1) square metres, of the matter along each ray; from scenes that keep it small, else None.
    """

    rgb: Tensor
    alpha: Tensor
    depth: Tensor
    normal: Tensor
    latent: Tensor | None = None
    depth_variance: Tensor | None = None


class Scene(Protocol):
    """A 3D representation that can be optimised."""

    def render(self, cameras: Cameras, background: Tensor) -> Rendering:
        """Pictures of the B views over `background`, (B, 3) or (3,) in [0, 1]."""
        ...

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters with their learning rates, as torch optimisers take them."""
        ...

    def regularisers(self, rendering: Rendering, progress: float) -> dict[str, Tensor]:
        """Weighted scalar losses of this step, by name; the loop adds them up."""
        ...

    def after_step(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Called after each optimiser step (0-based): occupancy update, densification, pruning.

        A scene whose parameters grow or shrink puts the new ones, and their moments, into `optimizer`.
        """
        ...

    def to_mesh(self, resolution: int) -> Mesh:
        """The surface with vertex colours; raises `EmptySurfaceError` when there is none."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """All that the next step depends on."""
        ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes back what `state_dict` gave."""
        ...


def opacity_losses(rendering: Rendering, opacity: float, entropy: float) -> dict[str, Tensor]:
    """Sums over a view's pixels, averaged over the views: of alpha times `opacity`, of its entropy times `entropy`.

    Both are against fog: the one makes it costly, the other (in nats) pushes pixels to be either full or empty.
    """
    alpha, views = rendering.alpha, len(rendering.alpha)
    inside = alpha.clamp(1e-3, 1 - 1e-3)  # the entropy's slope is infinite at 0 and 1
    nats = -(inside * inside.log() + (1 - inside) * torch.log1p(-inside))
    return {"opacity": opacity * alpha.sum() / views, "entropy": entropy * nats.sum() / views}


def depth_variance(depth: Tensor, depth_square: Tensor, alpha: Tensor) -> Tensor:
    """Variance of the distance along a ray, from its mean and mean square, both weighted by alpha; any one shape."""
    covered = alpha.clamp_min(0.01)
    return (depth_square / covered - (depth / covered) ** 2).clamp_min(0.0)


def z_variance_loss(rendering: Rendering, weight: float, progress: float) -> dict[str, Tensor]:
    """Variance of the depth (HiFA, arXiv:2305.18766, sec. 3.3), summed over a view's pixels that are more than half
    opaque, averaged over the views, times `weight`, which is reached linearly in the middle of the run.

    Against surfaces that are clouds: all of a ray's matter is drawn to one place.
    """
    if rendering.depth_variance is None:
        return {}
    inside = (rendering.alpha.detach() > 0.5) * rendering.depth_variance
    return {"z_variance": weight * min(2 * progress, 1.0) * inside.sum() / len(inside)}
