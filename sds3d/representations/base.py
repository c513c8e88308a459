"""The contract of 3D representations: whatever a scene is made of, it renders the same four pictures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.config import Config
from sds3d.geometry.mesh import Mesh
from sds3d.geometry.sampling import splats_from_mesh
from sds3d.geometry.splats import Splats
from sds3d.rendering.packed import FieldFunction
from sds3d.representations.convert import grid_from_mesh

SURFACE = 96
"""Samples along an edge of the grid on which a surface is extracted when one representation becomes another."""


@dataclass(frozen=True)
class Rendering:
    """Pictures of B views, row 0 at the top, all differentiable.

    rgb: (B, H, W, 3) in [0, 1], composited on the background. alpha: (B, H, W, 1) opacity in [0, 1].
    depth: (B, H, W, 1) expected distance along the ray in metres, alpha-weighted, 0 where nothing is hit.
    normal: (B, H, W, 3) unit vectors in the world frame where alpha > 0, else 0.
    latent: (B, C, h, w) in the prior's space, from scenes that render latents; else None.
    depth_variance: (B, H, W, 1) variance of the depth along each ray in square metres, if the scene penalises it;
        else None.
    """

    rgb: Tensor
    alpha: Tensor
    depth: Tensor
    normal: Tensor
    latent: Tensor | None = None
    depth_variance: Tensor | None = None


class Source(ABC):
    """What a new scene can start as: another scene, or the contents of a file."""

    @abstractmethod
    def to_mesh(self, resolution: int) -> Mesh:
        """The surface with vertex colours.

        resolution: samples along an edge of the grid on which a surface is extracted, where one has to be.
        Raises EmptySurfaceError if there is no surface.
        """

    def to_splats(self, count: int, generator: torch.Generator) -> Splats:
        """Gaussians that look like this: its own if it consists of Gaussians, else `count` new ones."""
        return splats_from_mesh(self.to_mesh(SURFACE), count, generator)

    def to_grid(self, resolution: int) -> Tensor:
        """Density per metre and r, g, b in [0, 1] on a grid, (R, R, R, 4), as `render_rays` takes it.

        R is `resolution`, except that a dense grid is returned at its own size. Raises EmptySurfaceError.
        """
        return grid_from_mesh(self.to_mesh(SURFACE), resolution)

    def radiance_field(self) -> FieldFunction | None:
        """Density (P,) per metre and r, g, b (P, 3) as a function of points (P, 3) in metres; None without any."""
        return None

    @property
    def particles(self) -> Sequence[Source]:
        """The separate objects in here; usually just one."""
        return (self,)


class Scene(Source):
    """A 3D representation that can be optimised."""

    @abstractmethod
    def render(self, cameras: Cameras, background: Tensor) -> Rendering:
        """Pictures of the B views over `background`, (B, 3) or (3,) in [0, 1]."""

    @abstractmethod
    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters with their learning rates, as torch optimisers take them."""

    @abstractmethod
    def regularisers(self, rendering: Rendering, progress: float) -> dict[str, Tensor]:
        """Weighted scalar losses of this step by name; the loop adds them up."""

    @abstractmethod
    def after_step(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Update occupancy, densify or prune. Called after each optimiser step, counted from 0.

        A scene with parameters that grow or shrink puts the new ones, and their moments, into `optimizer`.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """Everything that the next step depends on."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned. Raises ValueError for the state of another kind of scene."""

    def splats(self) -> Splats | None:
        """The Gaussians that the scene consists of; None if it does not consist of Gaussians."""
        return None

    @property
    def particles(self) -> Sequence[Scene]:
        """The separate objects in the scene; usually just one."""
        return (self,)


@dataclass(frozen=True)
class Start:
    """What a new scene starts from.

    generator: random stream of the initial values. steps: steps the scene will be optimised for, which densification
    plans by. before: what the scene looks like at the start; None leaves that to the representation.
    latent_rgb: (C, 3) initial map from latents to colours in [-1, 1], for a scene that renders latents. Without it the
    scene is incomplete until a checkpoint is loaded.
    """

    generator: torch.Generator
    steps: int
    device: torch.device | str = "cpu"
    before: Source | None = None
    latent_rgb: Tensor | None = None


class RepresentationConfig(Config, ABC):
    """Base of the settings of every representation.

    A file in this package with a subclass that has a literal `name` adds a representation that configurations can name.
    """

    name: Any
    """The word that chooses the representation, a `Literal` in every subclass that can be chosen."""

    @property
    def renders_latents(self) -> bool:
        """Whether the scene renders latents and needs `Start.latent_rgb`."""
        return False

    def for_loading(self) -> Self:
        """The settings that suffice to load a checkpoint and look at it: no files that only training reads."""
        return self

    @abstractmethod
    def make(self, start: Start) -> Scene:
        """Make a new scene. Raises EmptySurfaceError or ValueError if `start.before` is empty."""


def opacity_losses(rendering: Rendering, opacity: float, entropy: float) -> dict[str, Tensor]:
    """Weighted opacity and weighted entropy of the opacity, each summed over a view's pixels and averaged over views.

    Both act against fog: the first makes it costly, the second (in nats) pushes pixels to be either full or empty.
    """
    alpha, views = rendering.alpha, len(rendering.alpha)
    inside = alpha.clamp(1e-3, 1 - 1e-3)  # the entropy's slope is infinite at 0 and 1
    nats = -(inside * inside.log() + (1 - inside) * torch.log1p(-inside))
    return {"opacity": opacity * alpha.sum() / views, "entropy": entropy * nats.sum() / views}


def depth_variance(depth: Tensor, depth_square: Tensor, alpha: Tensor) -> Tensor:
    """Variance of the distance along a ray from its alpha-weighted mean and mean square; all of one shape."""
    covered = alpha.clamp_min(0.01)
    return (depth_square / covered - (depth / covered) ** 2).clamp_min(0.0)


def z_variance_loss(rendering: Rendering, weight: float, progress: float) -> dict[str, Tensor]:
    """Variance of the depth (HiFA, arXiv:2305.18766, sec. 3.3), summed over a view's pixels that are more than half
    opaque and averaged over the views. The weight rises linearly from 0 to `weight` in the first half of the run.

    It gathers the matter along each ray in one place, so that surfaces are no clouds.
    """
    if rendering.depth_variance is None:
        return {}
    inside = (rendering.alpha.detach() > 0.5) * rendering.depth_variance
    return {"z_variance": weight * min(2 * progress, 1.0) * inside.sum() / len(inside)}
