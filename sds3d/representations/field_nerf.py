"""Scenes of any radiance field, rendered by ray marching with an occupancy grid, in colours or in latents.

The fields are in `hash_nerf`, `mlp_nerf`, `tensor_nerf` and `triplane_nerf`. A dense grid has a separate scene,
`voxel_grid`, with a faster fused kernel.

A scene of latents follows Latent-NeRF (Metzer et al. 2022, arXiv:2211.07600): it renders latents directly, so that the
prior's encoder does not run. Its colours are a linear map of the latents. With `refine` the map is learnt too, and the
prior encodes pictures again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sds3d.cameras import Cameras
from sds3d.devices import seeded
from sds3d.geometry.mesh import Mesh
from sds3d.geometry.splats import Splats
from sds3d.ramps import Ramp
from sds3d.rendering.packed import FieldFunction, FieldPictures, Occupancy, field_normals, occupancy_of, render_field
from sds3d.rendering.volume import BOUND
from sds3d.representations.base import (
    SURFACE,
    Rendering,
    Scene,
    Source,
    Start,
    depth_variance,
    opacity_losses,
    sparsity_loss,
    z_variance_loss,
)
from sds3d.representations.convert import splats_from_grid
from sds3d.representations.field_config import FieldNerfConfig
from sds3d.representations.field_conversion import distil
from sds3d.representations.field_shading import (
    FieldShading,
    Shader,
    convexity_loss,
    draw_light,
    normal_losses,
    normals_of,
)
from sds3d.representations.fields import deactivate
from sds3d.representations.fields_hash import HashColors, HashField
from sds3d.representations.gaussians import normals_from_depth
from sds3d.representations.grid_mesh import grid_mesh
from sds3d.representations.sketch_shape import SketchShape, load_sketch
from sds3d.representations.voxel_grid import VoxelGridConfig, VoxelGridScene

STABLE_DIFFUSION_RGB = ((0.298, 0.207, 0.208), (0.187, 0.286, 0.173), (-0.158, 0.189, 0.264), (-0.184, -0.271, -0.473))
"""r, g, b in [-1, 1] of each latent channel of Stable Diffusion 1 (scaled by 0.18215), fitted by users of Hugging
Face's forum ("Decoding latents to RGB without upscaling")."""

_OCCUPIED = 0.5  # density per metre under which a cell counts as empty: 1 % opacity over a step
_EXPLORED = 0.005  # share of the grid's corners whose eight cells are always rendered: matter may form there
_REFRESH = 8  # steps between two updates of the occupancy grid
_CORNERS = 48  # corners per side of the occupancy grid
_NEIGHBOUR = 2 * BOUND / 47  # metres between the points that smoothness compares: the default voxel of `voxel_grid`
_SMOOTH_POINTS = 2048
_DISTIL_STEPS = 60
_POINTS_AT_ONCE = 1 << 17
_RAYS_AT_ONCE = 1 << 15


def with_square(field: FieldFunction) -> FieldFunction:
    """Return the field with one more feature: the squared distance of a point from the origin, in square metres."""

    def at(points: Tensor) -> tuple[Tensor, Tensor]:
        density, features = field(points)
        return density, torch.cat([features, points.square().sum(-1, keepdim=True)], dim=-1)

    return at


def fit_latent_rgb(latents: Tensor, pictures: Tensor) -> Tensor:
    """Return the linear map (C, 3) from latents to colours in [-1, 1] with the least squared error.

    latents: (B, C, h, w) of pictures (B, H, W, 3) in [0, 1], whose size is a multiple of theirs.
    """
    _, _, height, width = latents.shape
    small = functional.adaptive_avg_pool2d(pictures.permute(0, 3, 1, 2), (height, width))  # (B, 3, h, w)
    inputs, outputs = (maps.permute(0, 2, 3, 1).flatten(0, 2) for maps in (latents, 2 * small - 1))  # (B h w, ...)
    # In float64, because the last bits of these sums depend on the memory alignment of the arrays.
    # On the CPU, because Apple's GPUs have no float64.
    return torch.linalg.lstsq(inputs.cpu().double(), outputs.cpu().double()).solution.to(latents)


class FieldNerfScene(Scene):
    """A scene of a radiance field.

    With gradients enabled, `render` jitters the samples along each ray, differently in each step, and skips cells that
    were empty a few steps ago, except for some random ones. Under `torch.no_grad`, samples are at the middles and cells
    that are empty now are skipped.

    steps: number of steps that the scene is optimised for, which schedules the light.
    latent_rgb: (C, 3), colours in [-1, 1] of each channel of the latents; Stable Diffusion's by default.
    sketch: a coarse shape to stay close to.
    """

    def __init__(
        self,
        config: FieldNerfConfig,
        generator: torch.Generator,
        device: torch.device | str = "cpu",
        steps: int = 400,
        *,
        latent_rgb: Tensor | None = None,
        sketch: SketchShape | None = None,
    ) -> None:
        self.config = config
        self.device = torch.device(device)
        self.steps = steps
        self.field = config.make_field(generator).to(self.device)
        self.sketch = sketch
        channels = config.latent_channels
        if channels:
            latent_rgb = torch.tensor(STABLE_DIFFUSION_RGB) if latent_rgb is None else latent_rgb
            if latent_rgb.shape != (channels, 3):
                raise ValueError(
                    f"latent_channels = {channels}, but the map from latents to colours is for {len(latent_rgb)}: give "
                    f"representation.latent_channels={len(latent_rgb)}, or latent_rgb as ({channels}, 3)"
                )
            self.latent_rgb = torch.nn.Parameter(latent_rgb.detach().to(self.device).clone())
            self._back: Tensor | None = None  # (3, C), from colours to latents; only `refine` changes the map
        self._seed = int(torch.randint(2**62, (), generator=generator))
        self._step = 0
        self._begin = 0  # the first step of this scene, if it goes on from another with the same settings
        self._occupancy = self._survey(explore=True)

    def render(self, cameras: Cameras, background: Tensor) -> Rendering:
        """Render the B views over `background`, (B, 3) or (3,) in [0, 1].

        A scene of latents also returns its latents, over the latents of the background's colour.
        """
        return self._render(cameras, background, self.config.shading)

    def portray(self, cameras: Cameras, background: Tensor) -> Rendering:
        """Render the plain colours, without the light of the training."""
        return self._render(cameras, background, None)

    def _render(self, cameras: Cameras, background: Tensor, shading: FieldShading | None) -> Rendering:
        origins, directions = cameras.to(self.device).rays()  # (B, H, W, 3)
        if torch.is_grad_enabled():
            features, seen = self._train(cameras, origins, directions, shading)
        else:
            features, seen = self._look(origins, directions)
        alpha = seen.alpha
        behind = background.to(alpha).expand(len(cameras), 3)[:, None, None]  # (B, 1, 1, 3)
        if not self.config.latent_channels:
            return replace(seen, rgb=features + (1 - alpha) * behind)
        rgb = (features @ self.latent_rgb + alpha) / 2 + (1 - alpha) * behind
        # Clamp the colours but not their gradient: otherwise a pixel that is too bright could never darken.
        rgb = rgb + (rgb.clamp(0, 1) - rgb).detach()
        if self.config.refine:
            return replace(seen, rgb=rgb)
        back = self._back
        if back is None:
            # On the CPU and once: it waits, and Apple's GPUs have no float64.
            back = self._back = torch.linalg.pinv(self.latent_rgb.detach().cpu().double()).to(behind)
        latent = features + (1 - alpha) * ((2 * behind - 1) @ back)
        return replace(seen, rgb=rgb, latent=latent.permute(0, 3, 1, 2))

    def at(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return density (P,) per metre and r, g, b (P, 3) in [0, 1] at points (P, 3) in metres."""
        density, features = self.field(points)
        if not self.config.latent_channels:
            return density, features
        return density, ((features @ self.latent_rgb + 1) / 2).clamp(0, 1)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return groups for Adam, with betas: the encoding, the network and, when refining, the map to colours."""
        groups = self.field.parameter_groups()
        if self.config.refine:
            groups.append({"params": [self.latent_rgb], "lr": self.config.refine_lr})
        return groups

    def regularisers(self, rendering: Rendering, progress: float) -> dict[str, Tensor]:
        """Return the losses on opacity, entropy, sparsity, depth variance, normals, smoothness and sketch.

        Their unit is that of 1/2 sum |rgb - target|^2 over a view's pixels.
        """
        config = self.config
        pixels = rendering.alpha.shape[1] * rendering.alpha.shape[2]
        losses = {
            **opacity_losses(rendering, config.opacity.at(progress), config.entropy.at(progress, rise=progress)),
            **sparsity_loss(rendering, config.sparsity.at(progress)),
            **z_variance_loss(rendering, config.z_variance, progress),
            **normal_losses(rendering, config.orientation, config.normal_smoothness, progress),
            **convexity_loss(rendering, config.convexity.at(progress)),
            "smoothness": pixels * self._smoothness(progress),
        }
        if self.sketch is not None:
            losses["sketch"] = pixels * self.sketch.loss(self.field, self._generator("sketch"), self.device)
        return losses

    def after_step(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Update the occupancy grid every few steps."""
        self._step = step + 1
        self.field.begin(self.progress)
        if self._step % _REFRESH == 0:
            self.survey()

    def survey(self) -> None:
        """Update the occupancy grid now: the field was replaced or changed from outside."""
        self._occupancy = self._survey(explore=True)

    def learn(self, before: Source, generator: torch.Generator) -> None:
        """Make this new scene look like `before`: copy the state if the settings are the same, otherwise distil."""
        if isinstance(before, FieldNerfScene):
            mine, given = ({k: v.shape for k, v in s.state_dict().items() if k != "begin"} for s in (self, before))
            if mine == given:
                self.load_state_dict(before.state_dict())
                self._restart()
                return
        if isinstance(before, Scene) and before.radiance_field() is not None:
            teacher = before
        else:
            teacher = VoxelGridScene.from_grid(before.to_grid(SURFACE), VoxelGridConfig(), generator, self.device)
        # All of the field learns, without light, as if all steps were done.
        config, none = self.config, Ramp(0.0)
        plain = {"shading": None, "orientation": none, "normal_smoothness": none, "convexity": none}
        self.config = config.model_copy(update=plain)
        self._begin = -self.steps
        self.field.begin(self.progress)
        for _ in distil(teacher, self, _DISTIL_STEPS, generator):
            pass
        self.config = config
        self._restart()

    def _restart(self) -> None:
        """Count this scene's own steps from here."""
        self._begin = self._step
        self.field.begin(self.progress)

    def to_mesh(self, resolution: int) -> Mesh:
        """Return the surface whose silhouettes match the renders; see `grid_mesh`. Raises EmptySurfaceError."""
        return grid_mesh(self.to_grid(resolution), resolution, self.silhouettes)

    def to_splats(self, count: int, generator: torch.Generator) -> Splats:
        """Return `count` Gaussians on the visible surface of the field."""
        return splats_from_grid(self.to_grid(SURFACE), count, generator)

    def radiance_field(self) -> FieldFunction:
        """Return the field in colours; differentiable in the parameters."""
        return self.at

    def hash_colors(self) -> HashColors | None:
        """Return the hash grid of the colours, if the field is one."""
        return self.field.colors() if isinstance(self.field, HashField) else None

    @torch.no_grad()
    def to_grid(self, resolution: int) -> Tensor:
        """Return density per metre and r, g, b in [0, 1] on a grid for `render_rays`, (N, N, N, 4)."""
        parts = [
            torch.cat([density[:, None], rgb.clamp(0, 1)], dim=-1)
            for density, rgb in map(self.at, _lattice(resolution, self.device).split(_POINTS_AT_ONCE))
        ]
        return torch.cat(parts).reshape(resolution, resolution, resolution, 4)

    @torch.no_grad()
    def silhouettes(self, cameras: Cameras) -> NDArray[np.float32]:
        """Return the opacity (B, H, W) float32 in [0, 1] of the views."""
        origins, directions = cameras.to(self.device).rays()  # (B, H, W, 3)
        alpha = torch.cat([seen.alpha for _, _, seen in self._seen(origins, directions)])
        return alpha.reshape(origins.shape[:-1]).cpu().numpy()

    def state_dict(self) -> dict[str, Tensor]:
        """Return parameters, occupancy and random stream: everything that the next step depends on."""
        state = {f"field/{name}": value.detach().clone() for name, value in self.field.state_dict().items()}
        if self.config.latent_channels:
            state["latent_rgb"] = self.latent_rgb.detach().clone()
        return {
            **state,
            "skip": self._occupancy.skip.clone(),
            "solid": self._occupancy.solid.clone(),
            "step": torch.tensor(self._step),
            "seed": torch.tensor(self._seed),
            **({"begin": torch.tensor(self._begin)} if self._begin else {}),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore a `state_dict` of the same settings. Raises ValueError for other settings or missing tensors."""
        own = {name: value for name, value in self.state_dict().items() if name != "begin"}
        missing = sorted(own.keys() - state.keys())
        if missing:
            raise ValueError(
                f"the state of a radiance field lacks {', '.join(missing)}: is it of another representation?"
            )
        for name, value in own.items():
            if state[name].shape != value.shape:
                raise ValueError(
                    f"the state's {name} is {tuple(state[name].shape)}, the scene's {tuple(value.shape)}: build the "
                    "scene with the settings that the state was made with"
                )
        self.field.load_state_dict({name: state[f"field/{name}"] for name in self.field.state_dict()})
        if self.config.latent_channels:
            with torch.no_grad():
                self.latent_rgb.copy_(state["latent_rgb"])
            self._back = None
        self._occupancy = Occupancy(state["skip"].to(self.device), state["solid"].to(self.device))
        self._step = int(state["step"])
        self._seed = int(state["seed"])
        self._begin = int(state.get("begin", 0))
        self.field.begin(self.progress)

    @property
    def progress(self) -> float:
        """The share of the scene's steps that is done, in [0, 1]."""
        return min((self._step - self._begin) / max(self.steps - 1, 1), 1.0)

    def _train(
        self, cameras: Cameras, origins: Tensor, directions: Tensor, shading: FieldShading | None
    ) -> tuple[Tensor, Rendering]:
        """Return features (B, H, W, C) premultiplied by alpha, and pictures with these in place of rgb."""
        config, channels = self.config, self.config.latent_channels or 3
        jitter = torch.rand(origins.shape[:-1], generator=self._generator("jitter"), device=self.device)
        samples = config.samples
        field = with_square(self.field) if config.z_variance else self.field
        shader = self._shader(cameras, directions, shading)
        seen = render_field(
            field,
            origins,
            directions,
            samples=samples,
            jitter=jitter,
            occupancy=self._occupancy,
            shade=shader,
            refine=config.fine,
        )
        alpha, depth = seen.alpha[..., None], seen.depth[..., None]  # (B, H, W, 1)
        away = None
        if shader is not None:
            normal = functional.normalize(seen.features[..., -3:], dim=-1, eps=1e-6)
            away = shader.facing_away.reshape(alpha.shape)
        elif config.normals:
            normal = field_normals(self.field, origins, directions, seen, step=BOUND / samples)
        else:
            normal = normals_from_depth(depth, alpha, origins, directions)
        features = seen.features[..., :channels]
        pictures = Rendering(features, alpha, depth, normal, facing_away=away)
        if not config.z_variance:
            return features, pictures
        # Distances from the ray's point nearest to the origin: squared distances to the camera would cancel badly.
        nearest = -(origins * directions).sum(-1, keepdim=True)  # (B, H, W, 1) metres along the ray
        aside = origins.square().sum(-1, keepdim=True) - nearest**2
        square = seen.features[..., channels : channels + 1]
        spread = depth_variance(depth - alpha * nearest, square - alpha * aside, alpha)
        return features, replace(pictures, depth_variance=spread)

    def _shader(self, cameras: Cameras, directions: Tensor, shading: FieldShading | None) -> Shader | None:
        """Return what shades the samples of this step; None if no light and no loss needs their normals."""
        config, progress = self.config, self.progress
        light = None
        if shading is not None:
            light = draw_light(shading, cameras.to(self.device), progress, self._generator("light"))
        lit = light is not None and light.look != "albedo"
        losses = (config.orientation, config.normal_smoothness, config.convexity)
        if not lit and not any(weight.at(progress) for weight in losses):
            return None
        normals = normals_of(self.field, config.normal_step)
        return Shader(normals, directions, config.latent_channels or 3, light if lit else None)

    def _look(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, Rendering]:
        """Like `_train`, with the current occupancy and in parts, so that large pictures fit in memory."""
        parts = []
        for some_origins, some_directions, seen in self._seen(origins, directions):
            step = BOUND / self.config.samples
            normal = field_normals(self.field, some_origins, some_directions, seen, step=step)
            parts.append((seen.features, seen.alpha[:, None], seen.depth[:, None], normal))
        wholes = (torch.cat(pieces) for pieces in zip(*parts, strict=True))
        features, alpha, depth, normal = (whole.reshape(*origins.shape[:-1], whole.shape[-1]) for whole in wholes)
        return features, Rendering(features, alpha, depth, normal)

    def _seen(self, origins: Tensor, directions: Tensor) -> Iterator[tuple[Tensor, Tensor, FieldPictures]]:
        """Yield the pictures of some rays after the others, with their origins (R, 3) and directions (R, 3)."""
        occupancy, samples, fine = self._survey(explore=False), self.config.samples, self.config.fine
        for some in zip(*(rays.reshape(-1, 3).split(_RAYS_AT_ONCE) for rays in (origins, directions)), strict=True):
            yield *some, render_field(self.field, *some, samples=samples, occupancy=occupancy, refine=fine)

    @torch.no_grad()
    def _survey(self, explore: bool) -> Occupancy:
        """Return the current occupancy; with `explore`, some random empty cells count as occupied."""
        density = torch.cat([self.field(part)[0] for part in _lattice(_CORNERS, self.device).split(_POINTS_AT_ONCE)])
        if explore:
            chosen = torch.rand(density.shape, generator=self._generator("explore"), device=self.device) < _EXPLORED
            density = torch.where(chosen, density.clamp(min=_OCCUPIED), density)
        return occupancy_of(density.reshape(_CORNERS, _CORNERS, _CORNERS), _OCCUPIED)

    def _smoothness(self, progress: float) -> Tensor:
        """Return the weighted squared differences between random points and neighbours, summed over the three axes."""
        generator = self._generator("smoothness")
        options: Any = {"generator": generator, "device": self.device}
        points = BOUND * (2 * torch.rand(_SMOOTH_POINTS, 3, **options) - 1)
        away = _NEIGHBOUR * functional.normalize(torch.randn(_SMOOTH_POINTS, 3, **options), dim=-1)
        density, features = self.field(torch.cat([points, points + away]))
        # On average, a squared difference along a random direction is a third of the sum over the three axes.
        config = self.config
        raw = deactivate(density, config.density_scale, config.density == "exponential")
        steep, varied = (3 * (a - b).square().mean() for a, b in (raw.chunk(2), features.chunk(2)))
        return config.density_smoothness.at(progress) * steep + config.color_smoothness.at(progress) * varied

    def _generator(self, purpose: Literal["jitter", "explore", "smoothness", "sketch", "light"]) -> torch.Generator:
        """Return a generator that depends on the step alone, so that a repeated or resumed step draws the same."""
        if purpose == "light":
            return torch.Generator().manual_seed(2**62 + self._seed + self._step)
        stream = ("jitter", "explore", "smoothness", "sketch").index(purpose)
        return seeded(self._seed + 4 * self._step + stream, "cpu" if purpose == "sketch" else self.device)


def make_field_scene(config: FieldNerfConfig, start: Start) -> FieldNerfScene:
    """Make a density blob, or a field that looks like `start.before`."""
    latent_rgb = start.latent_rgb
    if config.renders_latents and latent_rgb is None:
        latent_rgb = torch.zeros(config.latent_channels, 3)
    sketch = load_sketch(config.sketch, config.sketch_weight, config.sketch_slack) if config.sketch else None
    scene = FieldNerfScene(config, start.generator, start.device, start.steps, latent_rgb=latent_rgb, sketch=sketch)
    if start.before is not None:
        scene.learn(start.before, start.generator)
    return scene


def _lattice(size: int, device: torch.device) -> Tensor:
    """Return the corners of a grid that fills the cube, (size^3, 3) metres, x slowest."""
    axis = torch.linspace(-BOUND, BOUND, size, device=device)
    return torch.cartesian_prod(axis, axis, axis)
