"""A cloud of 3D Gaussians (Kerbl et al. 2023, arXiv:2308.04079), optimised and densified in place."""

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
from sds3d.config import Config
from sds3d.devices import seeded
from sds3d.geometry.mesh import Mesh
from sds3d.geometry.sampling import points_around, splats_from_points
from sds3d.geometry.splats import SH_C0, Splats
from sds3d.ramps import Ramp
from sds3d.rendering.splatting import rasterization
from sds3d.rendering.volume import BOUND
from sds3d.representations.base import (
    Rendering,
    RepresentationConfig,
    Scene,
    Start,
    depth_variance,
    nearness,
    opacity_losses,
    sparsity_loss,
    z_variance_loss,
)
from sds3d.representations.densify import (
    DensifyConfig,
    DistillationConfig,
    FixedCountConfig,
    MCMCConfig,
    Pull,
    apply_edit,
    densify,
    due,
    shake,
)
from sds3d.representations.grid_mesh import grid_mesh
from sds3d.representations.voxels import fill_hidden, voxelize

_BETAS = (0.9, 0.95)
# Bounds of the scales in metres: a degenerate scale must not become NaN or fill the scene.
_SMALLEST, _LARGEST = math.log(1e-4), math.log(0.5)


class AroundConfig(Config):
    """Further points around those that a run starts from, as in GaussianDreamer (Yi et al. 2023, arXiv:2310.08529,
    section 3.3). All points then become round Gaussians, as wide as the distance to their neighbours."""

    tries: int = Field(default=1_000_000, ge=1, le=10_000_000)
    """Random points in the box around the start, of which those near it are taken."""
    distance: float = Field(default=0.016, gt=0, le=BOUND)
    """Greatest distance in metres from the nearest point of the start. GaussianDreamer's code has 0.01 before it scales
    Shap-E's shapes by 1.6."""
    brighter: float = Field(default=0.2, ge=0, le=1)
    """Most that is added to each channel of the nearest point's colour, in [0, 1]; uniform from 0."""


class GaussiansConfig(RepresentationConfig):
    """A cloud of Gaussians. The weights balance the loop's data term, 1/2 sum |rgb - target|^2 per view. Learning rates
    with knots fall exponentially between them."""

    name: Literal["gaussians"] = "gaussians"
    count: int = Field(default=4000, ge=1, le=1_000_000)
    """Number of Gaussians at the start, placed at random in a ball."""
    radius: float = Field(default=0.4, gt=0, le=BOUND)
    """Radius of the ball in metres."""
    opacity_start: float = Field(default=0.1, gt=0, lt=1)
    """Opacity of each Gaussian at the start."""
    around: AroundConfig | None = None
    """Further points around what the run starts from; null: none."""
    sh_degree: int = Field(default=0, ge=0, le=3)
    """Degree of the spherical harmonics that make colours depend on the view; 0: the same colour from all sides."""
    densify: DensifyConfig = DistillationConfig()
    """How Gaussians are added and removed."""
    means_lr: Ramp = Field(default=Ramp(0.004), gt=0)
    """Learning rate of the centres, in metres."""
    scales_lr: Ramp = Field(default=Ramp(0.02), gt=0)
    """Learning rate of the scales' logarithms."""
    quats_lr: Ramp = Field(default=Ramp(0.02), gt=0)
    """Learning rate of the quaternions."""
    opacities_lr: Ramp = Field(default=Ramp(0.05), gt=0)
    """Learning rate of the opacities' logits."""
    colors_lr: Ramp = Field(default=Ramp(0.05), gt=0)
    """Learning rate of the colours' logits; the higher harmonics have a twentieth of it."""
    opacity: Ramp = Field(default=Ramp(0.04), ge=0)
    """Weight of the opacity, summed over a view's pixels: prevents fog."""
    entropy: Ramp = Field(default=Ramp(0.02), ge=0)
    """Weight, at the last step, of the binary entropy of the opacity (nats), summed over a view's pixels: pushes pixels
    to be either opaque or empty. A plain number rises linearly
    from 0."""
    z_variance: Ramp = Field(default=Ramp(0.0), ge=0)
    """Weight of the variance of the depth along rays (HiFA, square metres), summed over a view's opaque pixels: gathers
    the matter along a ray in one surface. A plain number rises linearly until the middle of the run. Paper: 3."""
    size: Ramp = Field(default=Ramp(0.1), ge=0)
    """Weight, times a view's number of pixels, of the mean excess of the largest scales over 0.05 metres: prevents
    needles and sheets."""
    mean_scale: Ramp = Field(default=Ramp(0.0), ge=0)
    """Weight, times a view's number of pixels, of the mean scale in metres (LucidDreamer)."""
    roughness: Ramp = Field(default=Ramp(0.0), ge=0)
    """Weight, times a view's number of pixels, of the quadratic total variation of colours and inverse depths, see
    `nearness`, in the renders: twice the mean squared differences of neighbouring pixels, along rows and along columns
    (LucidDreamer)."""
    scale_noise: float = Field(default=0.0, ge=0, lt=1)
    """Standard deviation of the noise on each scale in training, relative to it, drawn in each step. LucidDreamer's
    code has 0.112."""
    sparsity: Ramp = Field(default=Ramp(0.0), ge=0)
    """Weight of sqrt(opacity^2 + 0.01), summed over a view's pixels (threestudio)."""

    def make(self, start: Start) -> GaussiansScene:
        """Make a ball of random Gaussians, or the Gaussians of `start.before`."""
        if start.before is None:
            return GaussiansScene(self, start.generator, start.device, start.steps)
        splats = start.before.to_splats(self.count, start.generator)
        if (around := self.around) is not None:
            colors = np.clip(0.5 + SH_C0 * splats.sh[:, 0], 0, 1)
            grown = points_around(splats.means, colors, around.tries, around.distance, around.brighter, start.generator)
            splats = splats_from_points(*grown)
        return GaussiansScene.from_splats(splats, self, start.generator, start.device, start.steps)


class GaussiansScene(Scene):
    """A scene of N Gaussians.

    parameters: means (N, 3) metres; quats (N, 4) w, x, y, z; scales (N, 3) logarithms of metres; opacities (N,) and
    colors (N, 3) logits; harmonics (N, K - 1, 3), spherical-harmonic coefficients of degree 1 and up.
    """

    def __init__(
        self, config: GaussiansConfig, generator: torch.Generator, device: torch.device | str = "cpu", steps: int = 400
    ) -> None:
        self.config = config
        self.device = torch.device(device)
        self.steps = steps
        n = config.count
        direction = functional.normalize(torch.randn(n, 3, generator=generator), dim=-1)
        means = config.radius * direction * torch.rand(n, 1, generator=generator) ** (1 / 3)
        spacing = config.radius * (4 / 3 * math.pi / n) ** (1 / 3)  # side of the cube that each Gaussian has to itself
        start = {
            "means": means,
            "quats": torch.randn(n, 4, generator=generator),
            "scales": torch.full((n, 3), math.log(0.6 * spacing)),
            "opacities": torch.full((n,), math.log(config.opacity_start / (1 - config.opacity_start))),
            "colors": 0.3 * torch.randn(n, 3, generator=generator),
            "harmonics": torch.zeros(n, (config.sh_degree + 1) ** 2 - 1, 3),
        }
        self.parameters = {name: torch.nn.Parameter(value.to(self.device)) for name, value in start.items()}
        self._still = torch.tensor([1e-8, 0.0, 0.0, 0.0], device=self.device)
        self._seed = int(torch.randint(2**62, (), generator=generator))
        self._step = 0
        self._pull = Pull.none(n, self.device)
        self._seen: tuple[Tensor, Tensor, int, int] | None = None  # means2d in the graph, radii, width, height

    @classmethod
    def from_splats(
        cls, splats: Splats, config: GaussiansConfig, generator: torch.Generator, device: torch.device | str, steps: int
    ) -> GaussiansScene:
        """Make a scene that starts as the given Gaussians.

        Colours are clamped to [0, 1], and harmonics above the scene's degree are dropped.
        """
        scene = cls(config.model_copy(update={"count": 1}), generator, device, steps)
        scene.config = config
        sh, n = torch.from_numpy(splats.sh), len(splats)
        harmonics = torch.zeros(n, (config.sh_degree + 1) ** 2 - 1, 3)
        shared = min(harmonics.shape[1], sh.shape[1] - 1)
        harmonics[:, :shared] = sh[:, 1 : 1 + shared]
        values = {
            "means": torch.from_numpy(splats.means),
            "quats": torch.from_numpy(splats.quats),
            "scales": torch.from_numpy(splats.scales).log(),
            "opacities": torch.logit(torch.from_numpy(splats.opacities), eps=1e-4),
            "colors": torch.logit(0.5 + SH_C0 * sh[:, 0], eps=0.004),  # 1/255 from 0 and 1, where gradients vanish
            "harmonics": harmonics,
        }
        scene.parameters = {name: torch.nn.Parameter(value.to(scene.device)) for name, value in values.items()}
        scene._pull = Pull.none(n, scene.device)
        return scene

    def to_splats(self, count: int, generator: torch.Generator) -> Splats:
        """Return the scene's own Gaussians, whatever `count`."""
        return self.splats()

    @torch.no_grad()
    def splats(self) -> Splats:
        """Return the Gaussians in the form that files store."""
        quats, scales, opacities = self.activated()
        arrays = (self.parameters["means"], functional.normalize(quats, dim=-1), scales, opacities, self.coefficients())
        return Splats(*(array.detach().cpu().numpy() for array in arrays))

    def render(self, cameras: Cameras, background: Tensor) -> Rendering:
        """Render the B views over `background`, (B, 3) or (3,) in [0, 1]."""
        cameras = cameras.to(self.device)
        quats, scales, opacities = self.activated()
        if self.config.scale_noise and torch.is_grad_enabled():
            scales = scales * self._noise()
        degree = self.config.sh_degree
        splatted = rasterization(
            self.parameters["means"],
            quats,
            scales,
            opacities,
            self.coefficients() if degree else torch.sigmoid(self.parameters["colors"]),
            cameras.opencv_viewmats(),
            cameras.intrinsics(),
            cameras.width,
            cameras.height,
            sh_degree=degree or None,
            backgrounds=background.to(self.device).expand(len(cameras), 3),
            render_mode="RGB+D",
        )
        if torch.is_grad_enabled():
            means2d = splatted.meta["means2d"]
            means2d.retain_grad()
            self._seen = (means2d, splatted.meta["radii"], cameras.width, cameras.height)
        rgb, z, alpha = splatted.colors[..., :3], splatted.colors[..., 3:], splatted.alphas
        origins, directions = cameras.rays()  # (B, H, W, 3)
        forward = -cameras.c2w()[:, None, None, :3, 2]  # (B, 1, 1, 3)
        slant = 1 / (directions * forward).sum(-1, keepdim=True)  # (B, H, W, 1), metres along the ray for one of depth
        depth, spread = z * slant, None
        if self.config.z_variance and torch.is_grad_enabled():
            spread = slant**2 * self._z_variance(cameras, z, alpha, quats, scales, opacities)
        normal = normals_from_depth(depth, alpha, origins, directions)
        return Rendering(rgb, alpha, depth, normal, depth_variance=spread)

    def _noise(self) -> Tensor:
        """Return the factors (N, 3) on the scales in this step."""
        generator = seeded(2**62 + self._seed + self._step, self.device)  # other numbers than edits have
        drawn = torch.randn(self.parameters["scales"].shape, generator=generator, device=self.device)
        return (1 + self.config.scale_noise * drawn).clamp(min=0)

    def _z_variance(
        self, cameras: Cameras, z: Tensor, alpha: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor
    ) -> Tensor:
        """Return the variance (B, H, W, 1) of the depths of the Gaussians' centres. z: their alpha-weighted mean."""
        means, viewmats = self.parameters["means"], cameras.opencv_viewmats()
        middle = viewmats[:, 2, 3]  # (B,) depth of the origin, the reference of squares, so that they do not cancel
        off = means @ viewmats[:, 2, :3].T  # (N, B)
        squares = rasterization(
            means,
            quats,
            scales,
            opacities,
            off.T.square()[..., None],  # (B, N, 1)
            viewmats,
            cameras.intrinsics(),
            cameras.width,
            cameras.height,
        ).colors
        return depth_variance(z - alpha * middle[:, None, None, None], squares, alpha)

    def activated(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return quaternions (N, 4), scales (N, 3) in metres and opacities (N,) in [0, 1]."""
        scales = self.parameters["scales"].clamp(_SMALLEST, _LARGEST).exp()
        # A quaternion of length 0 has no direction: treat it as no rotation.
        return self.parameters["quats"] + self._still, scales, torch.sigmoid(self.parameters["opacities"])

    def coefficients(self) -> Tensor:
        """Return the spherical-harmonic coefficients (N, K, 3), as splat files store them."""
        constant = (torch.sigmoid(self.parameters["colors"]) - 0.5) / SH_C0
        return torch.cat([constant[:, None], self.parameters["harmonics"]], dim=1)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return groups for Adam, one per parameter."""
        config = self.config
        rates = {
            "means": config.means_lr,
            "quats": config.quats_lr,
            "scales": config.scales_lr,
            "opacities": config.opacities_lr,
            "colors": config.colors_lr,
            "harmonics": config.colors_lr / 20,
        }
        return [
            {"params": [parameter], "lr": rates[name].geometric(0.0), "rate": rates[name], "betas": _BETAS}
            for name, parameter in self.parameters.items()
        ]

    def regularisers(self, rendering: Rendering, progress: float) -> dict[str, Tensor]:
        """Return the losses on opacity, entropy, sparsity, depth variance, size, mean scale and roughness.

        Their unit is that of 1/2 sum |rgb - target|^2 over a view's pixels.
        """
        config = self.config
        pixels = rendering.alpha.shape[1] * rendering.alpha.shape[2]
        too_large = (self.activated()[1].amax(-1) - 0.05).clamp(min=0)
        outside = (self.parameters["means"].abs() - BOUND).clamp(min=0).sum(-1)
        return {
            **opacity_losses(rendering, config.opacity.at(progress), config.entropy.at(progress, rise=progress)),
            **sparsity_loss(rendering, config.sparsity.at(progress)),
            **z_variance_loss(rendering, config.z_variance, progress),
            **self._lucid_losses(rendering, progress),
            "size": config.size.at(progress) * pixels * (too_large + outside).sum() / max(len(outside), 1),
        }

    def _lucid_losses(self, rendering: Rendering, progress: float) -> dict[str, Tensor]:
        """Return the losses "mean_scale" and "roughness" of LucidDreamer (arXiv:2311.11284) that have a
        weight now."""
        pixels = rendering.alpha.shape[1] * rendering.alpha.shape[2]
        scale, roughness = self.config.mean_scale.at(progress), self.config.roughness.at(progress)
        losses = {}
        if scale > 0:
            losses["mean_scale"] = pixels * scale * self.activated()[1].mean()
        if roughness > 0:
            pictures = (rendering.rgb, nearness(rendering))
            varied = [picture.diff(dim=axis).square().mean() for picture in pictures for axis in (1, 2)]
            losses["roughness"] = pixels * roughness * 2 * torch.stack(varied).sum()
        return losses

    def after_step(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Record the gradients of the Gaussians' positions; add and remove Gaussians when an edit is due."""
        self._step = step + 1
        if self._seen is not None and self._seen[0].grad is not None:
            means2d, radii, width, height = self._seen
            self._pull.note(means2d.grad, radii, width, height)  # type: ignore[arg-type]
        self._seen = None
        config = self.config.densify
        if isinstance(config, FixedCountConfig):
            return
        # Depends on the step alone, so that a repeated or resumed step draws the same.
        generator = torch.Generator().manual_seed(self._seed + step)
        progress = step / max(self.steps - 1, 1)
        with torch.no_grad():
            splats = {name: parameter.detach() for name, parameter in self.parameters.items()}
            if due(config, step, progress):
                edit = densify(config, splats, self._pull, step, generator)
                if edit is not None:
                    self.parameters = apply_edit(edit, self.parameters, optimizer)
                self._pull = Pull.none(len(self.parameters["means"]), self.device)
            elif isinstance(config, MCMCConfig) and config.start <= progress < config.until:
                rate = optimizer.param_groups[0]["lr"]
                self.parameters["means"].add_(shake(config, splats, rate, generator))

    def edits(self, step: int) -> bool:
        """Return whether Gaussians are added, removed or shaken after this step."""
        config, progress = self.config.densify, step / max(self.steps - 1, 1)
        shakes = isinstance(config, MCMCConfig) and config.start <= progress < config.until
        return shakes or due(config, step, progress)

    def to_mesh(self, resolution: int) -> Mesh:
        """Return the surface whose silhouettes match the renders; see `grid_mesh`. Raises EmptySurfaceError."""
        return grid_mesh(fill_hidden(self.grid(resolution)), resolution, self.silhouettes)

    @torch.no_grad()
    def grid(self, resolution: int) -> Tensor:
        """Return density per metre and r, g, b in [0, 1] on a grid for `render_rays`, (N, N, N, 4)."""
        quats, scales, opacities = self.activated()
        colors = torch.sigmoid(self.parameters["colors"])
        return voxelize(self.parameters["means"], quats, scales, opacities, colors, resolution)

    @torch.no_grad()
    def silhouettes(self, cameras: Cameras) -> NDArray[np.float32]:
        """Return the opacity (B, H, W) float32 in [0, 1] of the views."""
        return self.render(cameras, torch.zeros(3)).alpha[..., 0].cpu().numpy()

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that the next step depends on: parameters, recorded gradients and random stream."""
        return {
            **{name: parameter.detach().clone() for name, parameter in self.parameters.items()},
            "pull_total": self._pull.total.clone(),
            "pull_views": self._pull.views.clone(),
            "seed": torch.tensor(self._seed),
            **({"step": torch.tensor(self._step)} if self.config.scale_noise else {}),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore a `state_dict` of any number of Gaussians. Raises ValueError for missing tensors."""
        missing = sorted(self.state_dict().keys() - state.keys())
        if missing:
            raise ValueError(
                f"the state of a gaussians scene lacks {', '.join(missing)}: is it of another representation?"
            )
        if state["harmonics"].shape[1] != self.parameters["harmonics"].shape[1]:
            degree = math.isqrt(state["harmonics"].shape[1] + 1) - 1
            raise ValueError(f"the state holds colours of another degree: set representation.sh_degree={degree}")
        self.parameters = {name: torch.nn.Parameter(state[name].to(self.device)) for name in self.parameters}
        self._pull = Pull(state["pull_total"].to(self.device), state["pull_views"].to(self.device))
        self._seed = int(state["seed"])
        self._step = int(state.get("step", 0))


def normals_from_depth(depth: Tensor, alpha: Tensor, origins: Tensor, directions: Tensor) -> Tensor:
    """Return unit normals (B, H, W, 3) of the surface in a depth picture, towards the camera; 0 where alpha is small.

    depth: (B, H, W, 1) along the ray, weighted by alpha (B, H, W, 1). origins, directions: of the rays, (B, H, W, 3).
    """
    points = origins + depth / alpha.clamp(min=1e-6) * directions  # (B, H, W, 3)
    padded = functional.pad(points.permute(0, 3, 1, 2), (1, 1, 1, 1), mode="replicate").permute(0, 2, 3, 1)
    right = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    down = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    normals = functional.normalize(torch.linalg.cross(down, right, dim=-1), dim=-1, eps=1e-12)
    return normals * (alpha > 0.05)
