"""Appearance kept in voxels, for any geometry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from sds3d.geometry.mesh import Mesh
from sds3d.geometry.sampling import sample_surface
from sds3d.ramps import Ramp
from sds3d.rendering.mesh_differentiable import Raster
from sds3d.rendering.volume import smoothness
from sds3d.representations.fields import trilinear
from sds3d.representations.isosurface import Surface
from sds3d.representations.isosurface_flexicubes import DualSurface
from sds3d.representations.mesh_appearance import AppearanceConfig, Cells
from sds3d.representations.mesh_geometry import MeshGeometry
from sds3d.representations.signed_distance import mesh_to_colors

_SAMPLES = 4096  # number of surface points for the material's mean


class VoxelsConfig(AppearanceConfig):
    """Colours kept in voxels."""

    name: Literal["voxels"] = "voxels"
    resolution: int = Field(default=64, ge=4, le=256)
    """Voxels per side of the cube [-0.55, 0.55]^3 metres."""
    smoothness: Ramp = Field(default=Ramp(4.7e-5), ge=0)
    """Weight, times a view's number of pixels, of the mean squared difference of neighbours' colour pre-activations."""

    def make(self, geometry: MeshGeometry, generator: torch.Generator) -> Voxels:
        """Make grey voxels with a little noise."""
        return Voxels(self, geometry, generator)


class Voxels(Cells[VoxelsConfig]):
    """Colours and materials in voxels, (M, M, M, C), axes x, y, z."""

    size_setting = "resolution"

    def __init__(self, config: VoxelsConfig, geometry: MeshGeometry, generator: torch.Generator) -> None:
        super().__init__(config, geometry, (config.resolution,) * 3, generator)

    def values(self, name: str, raster: Raster, points: Tensor, hit: Tensor) -> Tensor:
        """Return the values (P, C) of the voxels at the covered pixels."""
        return torch.sigmoid(trilinear(self.parameters[name], points[hit]))

    def roughening(
        self, names: Sequence[str], surface: Surface | DualSurface | None, generator: torch.Generator
    ) -> Tensor:
        """Return the smoothness loss of neighbouring voxels."""
        return torch.stack([smoothness(self.parameters[name]) for name in names]).sum()

    @torch.no_grad()
    def painted(self) -> Mesh:
        """Return the mesh with colours and materials of its vertices, and the mean of the material over the surface."""

        def values(name: str, points: NDArray[np.floating]) -> Tensor:
            parameter = self.parameters[name]
            return torch.sigmoid(trilinear(parameter, torch.from_numpy(points).float().to(parameter.device)))

        mesh = self.geometry.mesh()
        mesh = replace(mesh, colors=values("color", mesh.vertices).nan_to_num().cpu().numpy())
        if self.material is None:
            return mesh
        shares = values("material", sample_surface(mesh, _SAMPLES).points).cpu()
        metallic, roughness = self.material.scaled(shares).mean(0).tolist()
        at_vertices = self.material.scaled(values("material", mesh.vertices).nan_to_num().cpu()).numpy()
        return replace(mesh, metallic=metallic, roughness=roughness, materials=at_vertices)

    def _start_colors(self, mesh: Mesh) -> dict[str, Tensor]:
        if not mesh.is_colored():
            return {}
        return {"color": torch.logit(torch.from_numpy(mesh_to_colors(mesh, self.config.resolution)), eps=0.02)}
