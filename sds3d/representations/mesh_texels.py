"""Appearance kept in a texture, for a mesh of fixed connectivity (Metzer et al. 2022, "Latent-Paint",
arXiv:2211.07600)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from sds3d.geometry.mesh import Mesh
from sds3d.geometry.uv_atlas import with_materials
from sds3d.ramps import Ramp
from sds3d.rendering.mesh_differentiable import Raster, interpolate
from sds3d.rendering.shading import sample_texture
from sds3d.representations.isosurface import Surface
from sds3d.representations.isosurface_flexicubes import DualSurface
from sds3d.representations.mesh_appearance import AppearanceConfig, Cells
from sds3d.representations.mesh_geometry import MeshGeometry
from sds3d.representations.mesh_texture import Layout, TexelMap, look_up, picture, roughening, start_colors, texel_map

_PAIRS = 65_536  # pairs of neighbouring texels in the smoothness loss of a step


class TexelsConfig(AppearanceConfig):
    """Colours kept in a texture. A given mesh keeps its UVs, if it has any."""

    name: Literal["texels"] = "texels"
    size: int = Field(default=256, ge=16, le=4096)
    """Height and width of the texture in texels."""
    smoothness: Ramp = Field(default=Ramp(0.03), ge=0)
    """Weight, times a view's number of pixels, of the mean squared difference of neighbouring texels' colour
    pre-activations."""

    def make(self, geometry: MeshGeometry, generator: torch.Generator) -> Texels:
        """Make a grey texture with a little noise."""
        return Texels(self, geometry, generator)


class Texels(Cells[TexelsConfig]):
    """Colours and materials in textures, (S, S, C)."""

    size_setting = "size"

    def __init__(self, config: TexelsConfig, geometry: MeshGeometry, generator: torch.Generator) -> None:
        super().__init__(config, geometry, (config.size,) * 2, generator)
        self._known: tuple[Layout, TexelMap] | None = None

    def atlas(self) -> tuple[Layout, TexelMap]:
        """Return the texels of the mesh; the mesh is unwrapped when they are first needed."""
        if self._known is None:
            layout = self.geometry.layout(self.config.size)
            texels = texel_map(layout, self.config.size)
            source, neighbours = texels.source.to(self.geometry.device), texels.neighbours.to(self.geometry.device)
            self._known = layout, texels._replace(source=source, neighbours=neighbours)
        return self._known

    def values(self, name: str, raster: Raster, points: Tensor, hit: Tensor) -> Tensor:
        """Return values (P, C) of the texels that the covered pixels show."""
        layout, texels = self.atlas()
        raster = raster._replace(barycentric=raster.barycentric.detach())
        return look_up(self.parameters[name], texels.source, interpolate(layout.uv, layout.faces, raster)[hit])

    def roughening(
        self, names: Sequence[str], surface: Surface | DualSurface | None, generator: torch.Generator
    ) -> Tensor:
        """Return the smoothness loss of neighbouring texels."""
        pairs = self.atlas()[1].neighbours
        if len(pairs) > _PAIRS:  # a random part of them: a large texture has millions
            pairs = pairs[torch.randint(len(pairs), (_PAIRS,), generator=generator).to(pairs.device)]
        return torch.stack([roughening(self.parameters[name], pairs) for name in names]).sum()

    def painted(self) -> Mesh:
        """Return the mesh with the texture, and with the texture's colours at the vertices."""
        layout, texels = self.atlas()
        texture, uv = picture(self.parameters["color"], texels.source), layout.uv.cpu().numpy()
        mesh = replace(self.geometry.mesh(), colors=sample_texture(texture, uv), uv=uv, texture=texture)
        if self.material is None:
            return mesh
        shares = torch.from_numpy(picture(self.parameters["material"], texels.source))  # (S, S, 2), of the ranges
        factors = (255 * self.material.scaled(shares / 255)).round().numpy()
        inside = texels.face >= 0
        return with_materials(mesh, inside, factors[inside] / 255)

    def state_dict(self) -> dict[str, Tensor]:
        """Return copies of the textures. The geometry's state has the UVs that belong to them."""
        self.atlas()
        return super().state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned; the geometry is already restored."""
        super().load_state_dict(state)
        self._known = None

    def _start_colors(self, mesh: Mesh) -> dict[str, Tensor]:
        return {"color": start_colors(mesh, self.atlas()[1])}
