"""Geometry by deep marching tetrahedra (Shen et al. 2021, arXiv:2111.04276)."""

from __future__ import annotations

from typing import Literal

import torch

from sds3d.representations.isosurface import Surface, dmtet
from sds3d.representations.mesh_distances import Distances, DistancesConfig


class DMTetConfig(DistancesConfig):
    """Deep marching tetrahedra on a grid of signed distances."""

    name: Literal["dmtet"] = "dmtet"

    def make(self, device: torch.device) -> DMTet:
        """Make a ball."""
        return DMTet(self, device)


class DMTet(Distances[DMTetConfig]):
    """Triangles that marching tetrahedra extract from signed distances."""

    def extract(self) -> Surface:
        """Return the zero level of the distances. Raises EmptySurfaceError."""
        return dmtet(self.sdf(), self.parameters["offsets"])
