"""Geometry by FlexiCubes (Shen et al. 2023, arXiv:2308.05371)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from sds3d.ramps import Ramp
from sds3d.representations.isosurface import Surface
from sds3d.representations.isosurface_flexicubes import WEIGHTS, DualSurface, deviation, flexicubes
from sds3d.representations.mesh_distances import Distances, DistancesConfig
from sds3d.representations.mesh_geometry import Losses


class FlexiCubesConfig(DistancesConfig):
    """FlexiCubes on a grid of signed distances: fewer triangles and sharper edges, but more to learn."""

    name: Literal["flexicubes"] = "flexicubes"
    weights_lr: float = Field(default=0.01, gt=0)
    """Learning rate of the pre-activations of FlexiCubes' weights."""
    deviation: Ramp = Field(default=Ramp(0.002), ge=0)
    """Weight, times a view's number of pixels, of FlexiCubes' own regulariser, in voxels: keeps cubes regular where
    the pictures do not determine them."""

    def make(self, device: torch.device) -> FlexiCubes:
        """Make a ball."""
        return FlexiCubes(self, device)


class FlexiCubes(Distances[FlexiCubesConfig]):
    """Triangles that FlexiCubes extracts from signed distances.

    parameters: also weights (N - 1, N - 1, N - 1, 21), as `flexicubes` takes them.
    """

    def __init__(self, config: FlexiCubesConfig, device: torch.device) -> None:
        cells = config.resolution - 1
        super().__init__(config, device, weights=torch.zeros(cells, cells, cells, WEIGHTS))

    def rates(self) -> dict[str, float]:
        """Return the learning rate of each parameter."""
        return super().rates() | {"weights": self.config.weights_lr}

    def extract(self) -> DualSurface:
        """Return the zero level of the distances. Raises EmptySurfaceError."""
        # Quads are split around their middles only to improve gradients.
        middles = torch.is_grad_enabled()
        return flexicubes(self.sdf(), self.parameters["offsets"], self.parameters["weights"], middles=middles)

    def surface_losses(self, surface: Surface | DualSurface, normals: Tensor | None) -> Losses:
        """Return losses on the triangles, and FlexiCubes' own."""
        assert isinstance(surface, DualSurface)
        own = (self.config.deviation, lambda: deviation(surface) / self.config.voxel)
        return super().surface_losses(surface, normals) | {"deviation": own}
