"""The contract of 3D representations: every scene renders the same four pictures, whatever it consists of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.config import Config
from sds3d.geometry.mesh import Mesh
from sds3d.geometry.sampling import splats_from_mesh
from sds3d.geometry.splats import Splats
from sds3d.ramps import Ramp
from sds3d.rendering.packed import FieldFunction
from sds3d.representations.convert import grid_from_mesh
from sds3d.representations.fields_hash import HashColors

SURFACE = 96
"""Samples per side of the grid on which a surface is extracted to convert one representation into another."""


@dataclass(frozen=True)
class Rendering:
    """Pictures of B views, with row 0 at the top. All are differentiable.

    rgb: (B, H, W, 3) in [0, 1], composited on the background. alpha: (B, H, W, 1) opacity in [0, 1].
    depth: (B, H, W, 1) expected distance along the ray in metres, alpha-weighted, 0 where nothing is hit.
    normal: (B, H, W, 3) unit vectors in the world frame where alpha > 0, else 0.
    latent: (B, C, h, w) in the prior's space, from scenes that render latents; else None.
    depth_variance: (B, H, W, 1) variance of the depth along each ray in square metres, if the scene penalises it;
        else None.
    facing_away: (B, H, W, 1) sum along each ray of weight max(n.d, 0)^2, if the scene penalises it; else None.
    albedo, metallic, roughness: (B, H, W, 3), (B, H, W) and (B, H, W) in [0, 1], the sRGB base colour and the material
        where the surface is hit, else 0; None for scenes without a material.
    """

    rgb: Tensor
    alpha: Tensor
    depth: Tensor
    normal: Tensor
    latent: Tensor | None = None
    depth_variance: Tensor | None = None
    facing_away: Tensor | None = None
    albedo: Tensor | None = None
    metallic: Tensor | None = None
    roughness: Tensor | None = None

    def __getitem__(self, rows: Tensor) -> Rendering:
        """Return the pictures of the views with these indices (b,)."""
        parts = {name: value[rows] for name, value in vars(self).items() if value is not None}
        return Rendering(**parts)


class Source(ABC):
    """What a new scene can start from: another scene, or the contents of a file."""

    @abstractmethod
    def to_mesh(self, resolution: int) -> Mesh:
        """Return the surface with vertex colours.

        resolution: samples per side of the grid on which the surface is extracted; ignored if there is a mesh already.
        Raises EmptySurfaceError if there is no surface.
        """

    def to_splats(self, count: int, generator: torch.Generator) -> Splats:
        """Return Gaussians that look like this source: its own if it has any, else `count` new ones."""
        return splats_from_mesh(self.to_mesh(SURFACE), count, generator)

    def to_grid(self, resolution: int) -> Tensor:
        """Return density per metre and r, g, b in [0, 1] on a grid for `render_rays`, (R, R, R, 4).

        R is `resolution`, except that a scene that is a dense grid returns it at its own size.
        Raises EmptySurfaceError if there is no surface.
        """
        return grid_from_mesh(self.to_mesh(SURFACE), resolution)

    def radiance_field(self) -> FieldFunction | None:
        """Return the radiance field, or None if this source has none.

        The field maps points (P, 3) in metres to densities (P,) per metre and r, g, b (P, 3) in [0, 1].
        """
        return None

    def hash_colors(self) -> HashColors | None:
        """Return the hash grid whose colours the surface has; None if they come from elsewhere."""
        return None

    @property
    def particles(self) -> Sequence[Source]:
        """The separate objects of this source; usually one."""
        return (self,)


class Scene(Source):
    """A 3D representation that can be optimised."""

    def parts(self) -> Iterator[float]:
        """Prepare the parts of a step, one after the other, and yield the share of each in the step's gradient.

        Each part is rendered and taught by itself, and its gradient is computed before the next one is prepared. Most
        scenes have one part: themselves.
        """
        yield 1.0

    @abstractmethod
    def render(self, cameras: Cameras, background: Tensor) -> Rendering:
        """Render the B views over `background`, (B, 3) or (3,) in [0, 1]."""

    def portray(self, cameras: Cameras, background: Tensor) -> Rendering:
        """Render like `render`, but always in the light in which pictures of the asset are drawn, also in training."""
        return self.render(cameras, background)

    def light_maps(self, cameras: Cameras, rendering: Rendering) -> Tensor | None:
        """Return what tells a prior the light of a step's renders, see `rendering.structure.light_maps`.

        cameras, rendering: of `render` in this step, all views. None: no environment lights the scene.
        """
        return None

    @property
    def shows_colors(self) -> bool:
        """Whether `portray` shows the object's colours; False for scenes that are drawn as white or as normals."""
        return True

    @abstractmethod
    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the parameters with their learning rates, in the form that torch optimisers take.

        A group may also have "rate", a Ramp: its learning rate over time, see `Ramp.geometric`.
        """

    @abstractmethod
    def regularisers(self, rendering: Rendering, progress: float) -> dict[str, Tensor]:
        """Return the weighted scalar losses of this step by name; the loop adds them up.

        progress: 0 at the first step, 1 at the last.
        """

    @abstractmethod
    def after_step(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Update the occupancy, densify or prune. Called after each step of the optimiser; steps count from 0.

        A scene whose parameters change in size puts the new ones and their moments into `optimizer`.
        """

    def edits(self, step: int) -> bool:
        """Return whether `after_step` of this step changes parameters or their number, whatever their gradients.

        On a GPU, the loop then waits and makes sure that the step was good.
        """
        return False

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that the next step depends on."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned. Raises ValueError for the state of another kind of scene."""

    def splats(self) -> Splats | None:
        """Return the Gaussians that the scene consists of; None if it does not consist of Gaussians."""
        return None

    @property
    def particles(self) -> Sequence[Scene]:
        """The separate objects of the scene; usually one."""
        return (self,)


@dataclass(frozen=True)
class Start:
    """What a new scene starts from.

    generator: random stream of the initial values. steps: number of steps that the scene will be optimised for;
    densification is scheduled by it. before: what the scene looks like at the start; None: the representation's
    default. latent_rgb: (C, 3) initial map from latents to colours in [-1, 1], for a scene that renders latents.
    Without it, the scene is incomplete until a checkpoint is loaded.
    """

    generator: torch.Generator
    steps: int
    device: torch.device | str = "cpu"
    before: Source | None = None
    latent_rgb: Tensor | None = None


class RepresentationConfig(Config, ABC):
    """Base of the settings of every representation.

    Each subclass with a literal `name` in a file of this package is a representation that configurations can choose.
    """

    name: Any
    """The word that chooses the representation: a `Literal` in every subclass that can be chosen."""

    @property
    def renders_latents(self) -> bool:
        """Whether the scene renders latents and needs `Start.latent_rgb`."""
        return False

    @property
    def latents(self) -> int:
        """Channels of the latents that guidance sees in place of colours; 0 if it sees colours."""
        return 0

    def for_loading(self) -> Self:
        """Return the settings that suffice to load and render a checkpoint, without files that only training reads."""
        return self

    @abstractmethod
    def make(self, start: Start) -> Scene:
        """Make a new scene. Raises EmptySurfaceError or ValueError if `start.before` is empty."""


def opacity_losses(rendering: Rendering, opacity: float, entropy: float) -> dict[str, Tensor]:
    """Return the weighted losses "opacity" and "entropy", each summed over a view's pixels and averaged over views.

    Both prevent fog: the opacity itself makes it costly, and the binary entropy of the opacity (in nats) pushes pixels
    to be either opaque or empty. opacity, entropy: their weights.
    """
    alpha, views = rendering.alpha, len(rendering.alpha)
    inside = alpha.clamp(1e-3, 1 - 1e-3)  # the entropy's slope is infinite at 0 and 1
    nats = -(inside * inside.log() + (1 - inside) * torch.log1p(-inside))
    return {"opacity": opacity * alpha.sum() / views, "entropy": entropy * nats.sum() / views}


def sparsity_loss(rendering: Rendering, weight: float) -> dict[str, Tensor]:
    """Return the weighted loss "sparsity", sqrt(opacity^2 + 0.01), summed over a view's pixels and averaged over views;
    empty if it has no weight. Unlike the opacity, it does not push pixels that are nearly empty (threestudio).
    """
    if not weight:
        return {}
    return {"sparsity": weight * (rendering.alpha.square() + 0.01).sqrt().sum() / len(rendering.alpha)}


def nearness(rendering: Rendering) -> Tensor:
    """Return inverse distances stretched to [0, 1], (B, H, W, 1): 1 at a view's nearest pixel, 0 at the farthest opaque
    one and at all that is farther. What is behind the scene counts as 10 m away, as in LucidDreamer's code.
    """
    clear = 1 - rendering.alpha
    near = 1 / (rendering.depth + 10 * clear + 1e-5)
    opaque = clear <= 0.1
    least = torch.where(opaque, near, torch.inf).amin(dim=(1, 2, 3), keepdim=True)
    least = torch.where(least.isinf(), near.amin(dim=(1, 2, 3), keepdim=True), least)
    span = near.amax(dim=(1, 2, 3), keepdim=True) - least
    return ((near - least) / span.clamp_min(1e-6)).clamp(0, 1)


def depth_variance(depth: Tensor, depth_square: Tensor, alpha: Tensor) -> Tensor:
    """Return the variance of the distance along a ray. All tensors have the same shape.

    depth, depth_square: alpha-weighted means of the distance and of its square. alpha: opacity in [0, 1].
    """
    covered = alpha.clamp_min(0.01)
    return (depth_square / covered - (depth / covered) ** 2).clamp_min(0.0)


def z_variance_loss(rendering: Rendering, weight: Ramp, progress: float) -> dict[str, Tensor]:
    """Return the loss on the variance of the depth (HiFA, arXiv:2305.18766, sec. 3.3), empty if there is none.

    It is summed over a view's pixels that are more than half opaque and averaged over the views. A plain weight is
    reached linearly from 0 in the first half of the run. The loss gathers the matter along each ray in one place, which
    makes surfaces sharp.
    """
    if rendering.depth_variance is None:
        return {}
    inside = (rendering.alpha.detach() > 0.5) * rendering.depth_variance
    return {"z_variance": weight.at(progress, rise=min(2 * progress, 1.0)) * inside.sum() / len(inside)}
