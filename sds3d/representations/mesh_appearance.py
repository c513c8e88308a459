"""The appearance of a mesh scene: the base of its kinds, and plain or metallic-roughness materials."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Generic, Literal, NamedTuple, Self, TypeVar

import torch
from pydantic import Field, model_validator
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.config import Config
from sds3d.geometry.mesh import Mesh
from sds3d.ramps import Ramp
from sds3d.rendering.mesh_differentiable import Raster
from sds3d.rendering.shading import Environment, linear_to_srgb, metallic_roughness, srgb_to_linear
from sds3d.representations.fields_hash import HashColors
from sds3d.representations.isosurface import Surface
from sds3d.representations.isosurface_flexicubes import DualSurface
from sds3d.representations.lights import LightsConfig, drawn, load_lights
from sds3d.representations.mesh_geometry import MeshGeometry, Parameters, learnable, loaded

CHANNELS = {"color": 3, "material": 2}
"""Values of a surface: the sRGB colour, and metallic and roughness."""
MATTE = (-3.0, 1.0)
"""Initial pre-activations of metallic and roughness: a dull plastic."""


class ColorMaterial(Config):
    """Only a colour."""

    name: Literal["color"] = "color"


Share = Annotated[float, Field(ge=0, le=1)]


class PBRMaterial(LightsConfig):
    """A colour, and how metallic and rough the surface is, under environments (Fantasia3D, arXiv:2303.13873; DreamMat,
    arXiv:2405.17176)."""

    name: Literal["pbr"] = "pbr"
    lr: float = Field(default=0.05, gt=0)
    """Learning rate of the pre-activations of metallic and roughness."""
    metallic: tuple[Share, Share] = (0.0, 1.0)
    """Range of metallic. DreamMat: 0 to 0.9."""
    roughness: tuple[Share, Share] = (0.0, 1.0)
    """Range of roughness. DreamMat: 0.1 to 0.95."""
    smoothness: Annotated[Ramp, Field(ge=0)] | None = None
    """Weight, times a view's number of pixels, of the mean squared difference of neighbours' pre-activations of
    metallic and roughness. null: that of the colours, `appearance.smoothness`."""

    @model_validator(mode="after")
    def _ranges_are_in_order(self) -> Self:
        for name in ("metallic", "roughness"):
            low, high = getattr(self, name)
            if low >= high:
                raise ValueError(f"{name}=[{low}, {high}]: give a range, the smaller number first")
        return self

    def scaled(self, activations: Tensor) -> Tensor:
        """Return metallic and roughness of values (..., 2) in [0, 1], stretched over their ranges."""
        low, high = self._ends(activations)
        return low + (high - low) * activations

    def unscaled(self, factors: Tensor) -> Tensor:
        """Return values (..., 2) in [0, 1] whose `scaled` values are these, or as near as the ranges allow."""
        low, high = self._ends(factors)
        return ((factors - low) / (high - low)).clamp(0, 1)

    def start(self, mesh: Mesh) -> Tensor:
        """Return the pre-activations (2,) of a mesh's mean metallic and roughness."""
        return torch.logit(self.unscaled(torch.tensor([mesh.metallic, mesh.roughness])), eps=0.05)

    def _ends(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the lower and the upper ends of metallic and roughness, (2,) each, without waiting for a GPU."""
        ends = torch.tensor([self.metallic, self.roughness], dtype=like.dtype).to(like.device, non_blocking=True)
        return ends[:, 0], ends[:, 1]


class AppearanceConfig(Config, ABC):
    """Settings of every kind of appearance."""

    name: Any
    """The word that chooses the kind, a `Literal` in every subclass."""
    material: Annotated[ColorMaterial | PBRMaterial, Field(discriminator="name")] = ColorMaterial()
    """The properties of the surface that are learnt."""
    lr: float = Field(default=0.1, gt=0)
    """Learning rate of the pre-activations of the colour, or of what they are made of."""

    @abstractmethod
    def make(self, geometry: MeshGeometry, generator: torch.Generator) -> Appearance:
        """Make a grey appearance with a little noise drawn from `generator`, on this geometry."""


C = TypeVar("C", bound=AppearanceConfig)


class Look(NamedTuple):
    """The surface at P pixels. color: (P, 3) sRGB. metallic, roughness: (P, 1), or None without a material."""

    color: Tensor
    metallic: Tensor | None = None
    roughness: Tensor | None = None


class Appearance(ABC, Generic[C]):
    """Colours, and materials if they are learnt.

    parameters: what is optimised, by name. names: what the surface has: "color", the sRGB colour; for a PBR material
    also "material", metallic and roughness. Each is the sigmoid of pre-activations.
    """

    parameters: Parameters

    def __init__(self, config: C, geometry: MeshGeometry) -> None:
        self.config, self.geometry = config, geometry
        self.material = config.material if isinstance(config.material, PBRMaterial) else None
        self.environment: Environment | None = None
        if self.material is not None:
            self.environment = load_lights(self.material).to(geometry.device)
        self.names = ("color",) if self.material is None else ("color", "material")

    @abstractmethod
    def rates(self) -> dict[str, float]:
        """Return the learning rate of each parameter."""

    @abstractmethod
    def values(self, name: str, raster: Raster, points: Tensor, hit: Tensor) -> Tensor:
        """Return values (P, C) in [0, 1] of "color" or "material" at the covered pixels.

        hit: (B, H, W) bool, the covered pixels. points: (B, H, W, 3) metres, the points that they show.
        """

    @abstractmethod
    def roughening(
        self, names: Sequence[str], surface: Surface | DualSurface | None, generator: torch.Generator
    ) -> Tensor:
        """Return the sum of the smoothness losses of "color" or "material", without a weight.

        surface: the triangles of this step.
        """

    @abstractmethod
    def painted(self) -> Mesh:
        """Return the geometry's mesh with its colours and materials. Raises EmptySurfaceError."""

    @abstractmethod
    def start_from(self, mesh: Mesh, colors: HashColors | None = None) -> None:
        """Start from the colours and the material of `mesh`. The geometry has already taken its shape.

        colors: the hash grid that the colours come from, if they do.
        """

    def hash_colors(self) -> HashColors | None:
        """Return the hash grid of the colours; None if they are kept elsewhere."""
        return None

    @abstractmethod
    def check(self, state: Mapping[str, Tensor]) -> None:
        """Raise ValueError if a state has tensors of other shapes, and name the setting. Tensors may be missing."""

    def look(self, raster: Raster, points: Tensor) -> Look:
        """Return colour and material of the covered pixels. points: (B, H, W, 3) metres, what each pixel shows."""
        hit = raster.face >= 0
        color = self.values("color", raster, points, hit)
        if self.material is None:
            return Look(color)
        return Look(color, *self.material.scaled(self.values("material", raster, points, hit)).split(1, dim=-1))

    def lit(
        self,
        look: Look,
        raster: Raster,
        normal: Tensor,
        directions: Tensor,
        cameras: Cameras,
        chance: torch.Generator | None,
    ) -> Tensor:
        """Return colours (P, 3) of the covered pixels, lit by the environments if the material is learnt.

        normal, directions: (B, H, W, 3); directions lead away from the camera. chance: draws the light; None: that of
        previews.
        """
        hit, material = raster.face >= 0, self.material
        if material is None or self.environment is None or look.metallic is None or look.roughness is None:
            return look.color
        given = srgb_to_linear(look.color), look.metallic, look.roughness, normal[hit], -directions[hit]
        base, metallic, roughness, facing, to_camera = (value[None, None] for value in given)
        lit = drawn(material, cameras, chance)
        which, turn = (
            None if each is None else each[:, None, None].expand(hit.shape)[hit][None, None, :, None]
            for each in (lit.which if len(self.environment.diffuse) > 1 else None, lit.turn)
        )
        light = metallic_roughness(base, metallic, roughness, facing, to_camera, self.environment, 1.0, which, turn)
        return linear_to_srgb(light[0, 0]).clamp(max=1)

    def state_dict(self) -> dict[str, Tensor]:
        """Return copies of everything that the next step depends on."""
        return {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned; the geometry is already restored."""
        self.parameters = loaded(self.parameters, state)


class Cells(Appearance[C]):
    """An appearance of pre-activations in cells.

    parameters: color (..., 3), and material (..., 2).
    """

    size_setting: ClassVar[str]
    """The setting that determines the shape of the parameters."""

    def __init__(self, config: C, geometry: MeshGeometry, shape: tuple[int, ...], generator: torch.Generator) -> None:
        super().__init__(config, geometry)
        start = {"color": 0.1 * torch.randn(*shape, 3, generator=generator)}
        if self.material is not None:
            start["material"] = torch.tensor(MATTE).expand(*shape, 2).clone()
        self.parameters = learnable(start, geometry.device)

    def rates(self) -> dict[str, float]:
        """Return the learning rate of each parameter."""
        rates = {"color": self.config.lr}
        return rates if self.material is None else rates | {"material": self.material.lr}

    def start_from(self, mesh: Mesh, colors: HashColors | None = None) -> None:
        """Start from the colours and the material of `mesh`. The geometry has already taken its shape."""
        start = self.state_dict() | self._start_colors(mesh)
        if self.material is not None:
            start["material"] = self.material.start(mesh).expand_as(start["material"])
        self.load_state_dict(start)

    @abstractmethod
    def _start_colors(self, mesh: Mesh) -> dict[str, Tensor]:
        """Return the parameter `color` for a mesh's colours, or an empty dictionary if it has none."""

    def check(self, state: Mapping[str, Tensor]) -> None:
        """Raise ValueError for another number of cells."""
        given, own = state.get("color"), self.parameters["color"]
        if given is None or given.shape == own.shape:
            return
        change = f"set representation.appearance.{self.size_setting}={len(given)}"
        if given.ndim != own.ndim:
            change = f"it is of another representation.appearance than {self.config.name}"
        raise ValueError(f"the state's color is {tuple(given.shape)}, the scene's {tuple(own.shape)}: {change}")
