"""A triangle mesh with learnable geometry and appearance, rendered by differentiable rasterisation."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from sds3d.cameras import Cameras
from sds3d.geometry.mesh import Mesh
from sds3d.rendering.mesh_differentiable import Raster, antialias, interpolate, rasterize_mesh
from sds3d.rendering.structure import light_maps
from sds3d.representations.base import SURFACE, Rendering, RepresentationConfig, Scene, Start
from sds3d.representations.fields_hash import HashColors
from sds3d.representations.isosurface import Surface
from sds3d.representations.isosurface_flexicubes import DualSurface
from sds3d.representations.lights import drawn
from sds3d.representations.mesh_appearance import Look, PBRMaterial
from sds3d.representations.mesh_dmtet import DMTetConfig
from sds3d.representations.mesh_fixed import FixedTrianglesConfig
from sds3d.representations.mesh_flexicubes import FlexiCubesConfig
from sds3d.representations.mesh_geometry import Losses, face_normals, smooth_normals
from sds3d.representations.mesh_hash_grid import HashGridConfig
from sds3d.representations.mesh_shading import (
    LambertShading,
    MixedShading,
    NormalShading,
    NoShading,
    Shading,
    TexturelessShading,
    shaded,
)
from sds3d.representations.mesh_texels import TexelsConfig
from sds3d.representations.mesh_voxels import VoxelsConfig

_BETAS = (0.9, 0.95)  # few steps show a given grid point, so the second moment needs a short memory


class MeshConfig(RepresentationConfig):
    """A learnable mesh. The weights balance the loop's data term, 1/2 sum |rgb - target|^2 per view."""

    name: Literal["mesh"] = "mesh"
    geometry: Annotated[DMTetConfig | FlexiCubesConfig | FixedTrianglesConfig, Field(discriminator="name")] = (
        DMTetConfig()
    )
    """Source of the triangles: marching tetrahedra, FlexiCubes, or one mesh with fixed triangles."""
    appearance: Annotated[VoxelsConfig | TexelsConfig | HashGridConfig, Field(discriminator="name")] = VoxelsConfig()
    """Where colours and materials are kept: in voxels, in the texture of a fixed mesh, or in a hash grid."""
    shading: Shading = NoShading()
    """What is rendered: the colours as they are, the colours or white lit by a lamp, normals as colours, or one of
    these in each step."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if isinstance(self.appearance, TexelsConfig) and not isinstance(self.geometry, FixedTrianglesConfig):
            raise ValueError(
                "appearance=texels needs triangles that stay the same: set geometry=fixed, or appearance=hash_grid"
            )
        if isinstance(self.appearance.material, PBRMaterial) and isinstance(
            self.shading, (LambertShading, MixedShading)
        ):
            raise ValueError(
                "appearance.material=pbr is lit by environments, not by lamps: set shading=none, textureless or normal"
            )
        return self

    def make(self, start: Start) -> MeshScene:
        """Make a ball, or the surface of `start.before`; that of a mesh scene with the same grid is copied exactly."""
        if start.before is None:
            return MeshScene(self, start.generator, start.device, start.steps)
        mesh, colors = start.before.to_mesh(SURFACE), start.before.hash_colors()
        scene = MeshScene.from_mesh(mesh, self, start.generator, start.device, start.steps, colors)
        if isinstance(start.before, MeshScene):
            scene.geometry.continue_from(start.before.geometry)
        return scene


class MeshScene(Scene):
    """A scene of triangles: a geometry, and an appearance on it. steps: number of steps that it is optimised for."""

    def __init__(
        self, config: MeshConfig, generator: torch.Generator, device: torch.device | str = "cpu", steps: int = 400
    ) -> None:
        self.config, self.steps = config, steps
        self.device = torch.device(device)
        self.geometry = config.geometry.make(self.device)
        self.appearance = config.appearance.make(self.geometry, generator)
        self._seed = int(torch.randint(2**62, (), generator=generator))
        self._step = 0
        # The surface of the last render with gradients, and its face normals.
        self._drawn: tuple[Surface | DualSurface, Tensor] | None = None

    @classmethod
    def from_mesh(
        cls,
        mesh: Mesh,
        config: MeshConfig,
        generator: torch.Generator,
        device: torch.device | str = "cpu",
        steps: int = 400,
        colors: HashColors | None = None,
    ) -> Self:
        """Make a scene that starts as `mesh`, with its colours if it has any.

        colors: the hash grid that the colours come from, if they do.
        Fixed geometry reproduces the mesh exactly; other geometry reproduces it as closely as its grid allows.
        Raises ValueError for a mesh without area, EmptySurfaceError for one that is too small or thin for the grid.
        """
        scene = cls(config, generator, device, steps)
        scene.geometry.start_from(mesh)
        scene.appearance.start_from(mesh, colors)
        return scene

    @property
    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """All parameters by name; see the geometry and the appearance."""
        return self.appearance.parameters | self.geometry.parameters

    def render(self, cameras: Cameras, background: Tensor) -> Rendering:
        """Render the B views over `background`, (B, 3) or (3,) in [0, 1]; the background alone if there is no surface.

        With gradients enabled, positions of lamps and environments are drawn in each step; under `torch.no_grad`, lamps
        are at the cameras, and the first environment lights all views.
        """
        return self._render(cameras, background, training=torch.is_grad_enabled())

    def portray(self, cameras: Cameras, background: Tensor) -> Rendering:
        """Render with the lamps at the cameras, in the environment of previews."""
        return self._render(cameras, background, training=False)

    def light_maps(self, cameras: Cameras, rendering: Rendering) -> Tensor | None:
        """Return the light of the environments that this step's render has drawn; None without a material."""
        material, environment = self.appearance.material, self.appearance.environment
        if material is None or environment is None:
            return None
        cameras = cameras.to(self.device)
        lit = drawn(material, cameras, self._chance())  # what `render` has drawn in this step
        alpha, normal = rendering.alpha.detach(), rendering.normal.detach()
        return light_maps(alpha, normal, cameras, environment, *lit)

    @property
    def shows_colors(self) -> bool:
        """Whether the shading shows the surface's colours."""
        return not isinstance(self.config.shading, (NormalShading, TexturelessShading))

    def _render(self, cameras: Cameras, background: Tensor, training: bool) -> Rendering:
        cameras = cameras.to(self.device)
        background = background.to(self.device).expand(len(cameras), 3)[:, None, None]  # (B, 1, 1, 3)
        surface = self.geometry.surface()
        if surface is None:
            return self._blank(cameras, background)
        vertices, faces = surface.vertices, surface.faces
        normals = face_normals(vertices, faces)
        if torch.is_grad_enabled():
            self._drawn = surface, normals
        raster = rasterize_mesh(vertices, faces, cameras)
        hit = raster.face[..., None] >= 0  # (B, H, W, 1)
        normal = functional.normalize(interpolate(smooth_normals(normals, faces, len(vertices)), faces, raster), dim=-1)
        shown, look = self._shade(cameras, raster, normal, training)
        color = torch.where(hit, shown, background)
        sharp = torch.cat([color, hit.to(color), raster.depth, normal], dim=-1)  # (B, H, W, 8)
        rgb, alpha, depth, normal = antialias(sharp, raster, vertices, faces, cameras).split((3, 1, 1, 3), dim=-1)
        material = {} if look is None else _material(look, hit)
        return Rendering(rgb, alpha, depth, functional.normalize(normal, dim=-1, eps=1e-6), **material)

    def _shade(self, cameras: Cameras, raster: Raster, normal: Tensor, training: bool) -> tuple[Tensor, Look | None]:
        """Return the colours (B, H, W, 3) of the covered pixels, and what the surface looks like if these show it.

        normal: (B, H, W, 3). training: light is drawn.
        """
        origins, directions = cameras.rays()  # (B, H, W, 3)
        # Detached: a different colour a little further along the ray must not move the surface.
        points = origins + raster.depth.detach() * directions
        hit = raster.face >= 0

        def chance() -> torch.Generator | None:
            return self._chance() if training else None

        look: Look | None = None

        def colors() -> Tensor:
            nonlocal look
            look = self.appearance.look(raster, points)
            seen = self.appearance.lit(look, raster, normal, directions, cameras, chance())  # (P, 3)
            return torch.ones_like(points).masked_scatter(hit[..., None], seen)

        progress = min(self._step / max(self.steps - 1, 1), 1.0)
        return shaded(self.config.shading, cameras, points, normal, colors, chance(), progress), look

    def _blank(self, cameras: Cameras, background: Tensor) -> Rendering:
        """Return the background alone, with zero gradients, so that the step can be completed."""
        zero = 0 * next(iter(self.geometry.parameters.values())).sum().nan_to_num()
        empty = zero.expand(len(cameras), cameras.height, cameras.width, 3)
        return Rendering(empty + background, empty[..., :1], empty[..., :1], empty)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return groups for Adam, one per parameter; vertices that stay in place are left out."""
        rates = self.appearance.rates() | self.geometry.rates()
        return [
            {"params": [parameter], "lr": rates[name], "betas": _BETAS}
            for name, parameter in self.parameters.items()
            if parameter.requires_grad
        ]

    def regularisers(self, rendering: Rendering, progress: float) -> dict[str, Tensor]:
        """Return the losses on shape and smoothness with a positive weight.

        Their unit is that of 1/2 sum |rgb - target|^2 per view.
        """
        pixels = rendering.alpha.shape[1] * rendering.alpha.shape[2]
        surface, normals = self._drawn or (self.geometry.surface(), None)
        losses = self._smoothness_losses(surface) | self.geometry.losses(surface, normals)
        weighted = {name: (weight.at(progress), loss) for name, (weight, loss) in losses.items()}
        return {name: pixels * weight * loss() for name, (weight, loss) in weighted.items() if weight > 0}

    def _smoothness_losses(self, surface: Surface | DualSurface | None) -> Losses:
        """Return the losses on the smoothness of colours and materials, with their weights."""
        weight, material, names = self.config.appearance.smoothness, self.appearance.material, self.appearance.names

        def rough(*names: str) -> Tensor:
            return self.appearance.roughening(names, surface, self._chance())

        if material is None or material.smoothness is None:
            return {"color_smoothness": (weight, lambda: rough(*names))}
        return {
            "color_smoothness": (weight, lambda: rough("color")),
            "material_smoothness": (material.smoothness, lambda: rough("material")),
        }

    def after_step(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Replace a vanished surface."""
        self._drawn = None
        self._step = step + 1
        self.geometry.after_step()

    def to_mesh(self, resolution: int) -> Mesh:
        """Return the mesh as it is rendered, with vertex colours and normals. `resolution` is ignored.

        Raises EmptySurfaceError if there is no surface or only a speck.
        """
        return self.appearance.painted()

    def hash_colors(self) -> HashColors | None:
        """Return the hash grid of the colours, if the appearance is one."""
        return self.appearance.hash_colors()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the states of appearance and geometry, and the random stream."""
        return self.appearance.state_dict() | self.geometry.state_dict() | self._counters()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the `state_dict` of a scene with the same settings. With fixed geometry, the mesh may differ.

        Raises ValueError for another resolution or for missing tensors.
        """
        sdf, own = state.get("sdf"), self.parameters.get("sdf")
        if sdf is not None and own is not None and sdf.shape != own.shape:
            raise ValueError(
                f"the state's sdf is {tuple(sdf.shape)}, the scene's {tuple(own.shape)}: "
                f"set representation.geometry.resolution={len(sdf)}"
            )
        self.appearance.check(state)
        missing = sorted({*self.geometry.state_dict(), *self.parameters, *self._counters()} - state.keys())
        if missing:
            raise ValueError(
                f"the state of a {self.config.geometry.name} mesh scene lacks {', '.join(missing)}: is it of another "
                "representation, geometry, appearance or material?"
            )
        self.geometry.load_state_dict(state)
        self.appearance.load_state_dict(state)
        self._step, self._seed = int(state["step"]), int(state["seed"])
        self._drawn = None

    def _counters(self) -> dict[str, Tensor]:
        return {"step": torch.tensor(self._step), "seed": torch.tensor(self._seed)}

    def _chance(self) -> torch.Generator:
        """Return a generator that depends on the step alone, so that a repeated or resumed step draws the same."""
        return torch.Generator().manual_seed(self._seed + self._step)


def _material(look: Look, hit: Tensor) -> dict[str, Tensor]:
    """Return the pictures of base colour and material of a `Rendering`; none without a material. hit: (B, H, W, 1)."""
    if look.metallic is None or look.roughness is None:
        return {}
    values = torch.cat([look.color, look.metallic, look.roughness], dim=-1)
    pictures = values.new_zeros(*hit.shape[:3], 5).masked_scatter(hit, values)
    albedo, metallic, roughness = pictures.split((3, 1, 1), dim=-1)
    return {"albedo": albedo, "metallic": metallic[..., 0], "roughness": roughness[..., 0]}
