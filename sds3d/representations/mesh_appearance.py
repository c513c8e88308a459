"""The appearance of a mesh scene: the base of its kinds, and plain or metallic-roughness materials."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from sds3d.config import Config
from sds3d.geometry.mesh import Mesh
from sds3d.rendering.mesh_differentiable import Raster
from sds3d.rendering.shading import linear_to_srgb, metallic_roughness, prefilter, srgb_to_linear, studio
from sds3d.representations.mesh_geometry import MeshGeometry, Parameters, learnable, loaded

_MATTE = (-3.0, 1.0)  # initial pre-activations of metallic and roughness: a dull plastic


class ColorMaterial(Config):
    """Only a colour."""

    name: Literal["color"] = "color"


class PBRMaterial(Config):
    """A colour, and how metallic and rough the surface is, under studio light (Fantasia3D, arXiv:2303.13873)."""

    name: Literal["pbr"] = "pbr"
    lr: float = Field(default=0.05, gt=0)
    """Learning rate of the pre-activations of metallic and roughness."""


class AppearanceConfig(Config, ABC):
    """Settings of every kind of appearance."""

    name: Any
    """The word that chooses the kind, a `Literal` in every subclass."""
    material: Annotated[ColorMaterial | PBRMaterial, Field(discriminator="name")] = ColorMaterial()
    """The properties of the surface that are learnt."""
    lr: float = Field(default=0.1, gt=0)
    """Learning rate of the pre-activation of the colour."""

    @abstractmethod
    def make(self, geometry: MeshGeometry, generator: torch.Generator, device: torch.device) -> Appearance:
        """Make a grey appearance with a little noise drawn from `generator`, on this geometry."""


C = TypeVar("C", bound=AppearanceConfig)


class Appearance(ABC, Generic[C]):
    """Colours, and materials if they are learnt.

    parameters: color (..., 3), pre-activations of the sRGB colour; for a PBR material also material (..., 2),
    pre-activations of metallic and roughness. The activation is the sigmoid.
    """

    size_setting: ClassVar[str]
    """The setting that determines the shape of the parameters."""

    def __init__(self, config: C, shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> None:
        self.config = config
        start = {"color": 0.1 * torch.randn(*shape, 3, generator=generator)}
        self._environment = None
        if isinstance(config.material, PBRMaterial):
            start["material"] = torch.tensor(_MATTE).expand(*shape, 2).clone()
            self._environment = prefilter(studio())
        self.parameters: Parameters = learnable(start, device)

    def rates(self) -> dict[str, float]:
        """Return the learning rate of each parameter."""
        rates = {"color": self.config.lr}
        return rates | {"material": self.config.material.lr} if isinstance(self.config.material, PBRMaterial) else rates

    @abstractmethod
    def values(self, name: str, raster: Raster, points: Tensor, hit: Tensor) -> Tensor:
        """Return values (P, C) in [0, 1] of a parameter at the covered pixels.

        hit: (B, H, W) bool, the covered pixels. points: (B, H, W, 3) metres, the points that they show.
        """

    @abstractmethod
    def roughening(self, generator: torch.Generator) -> Tensor:
        """Return the smoothness loss of colour and material: a weighted scalar."""

    @abstractmethod
    def painted(self) -> Mesh:
        """Return the geometry's mesh with its colours and materials. Raises EmptySurfaceError."""

    def colors(self, raster: Raster, points: Tensor, hit: Tensor, normal: Tensor, directions: Tensor) -> Tensor:
        """Return colours (P, 3) of the covered pixels, lit by the studio if the material is learnt.

        hit: (B, H, W). points, normal, directions: (B, H, W, 3); directions lead away from the camera.
        """
        seen = {name: self.values(name, raster, points, hit) for name in self.parameters}
        if self._environment is None:
            return seen["color"]
        factors = seen["material"].split(1, dim=-1)
        base, metallic, roughness, facing, to_camera = (
            value[None, None] for value in (srgb_to_linear(seen["color"]), *factors, normal[hit], -directions[hit])
        )
        light = metallic_roughness(base, metallic, roughness, facing, to_camera, self._environment)
        return linear_to_srgb(light[0, 0]).clamp(max=1)

    def start_from(self, mesh: Mesh) -> None:
        """Start from the colours and the material of `mesh`. The geometry has already taken its shape."""
        start = self.state_dict() | self._start_colors(mesh)
        if "material" in start:
            factors = torch.tensor([mesh.metallic, mesh.roughness])
            start["material"] = torch.logit(factors, eps=0.05).expand_as(start["material"])
        self.load_state_dict(start)

    @abstractmethod
    def _start_colors(self, mesh: Mesh) -> dict[str, Tensor]:
        """Return the parameter `color` for a mesh's colours, or an empty dictionary if it has none."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return copies of everything that the next step depends on."""
        return {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned; the geometry is already restored."""
        self.parameters = loaded(self.parameters, state)
