"""The contents of files, as sources that a scene can start from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

import torch

from sds3d.geometry.mesh import Mesh
from sds3d.geometry.splats import Geometry, Splats
from sds3d.representations.base import Source
from sds3d.representations.gaussians import GaussiansConfig, GaussiansScene


def source_of(geometry: Geometry) -> Source:
    """Return a mesh or splats as a source that a scene can start from."""
    match geometry:
        case Mesh():
            return _MeshSource(geometry)
        case Splats():
            return _SplatsSource(geometry)
        case _:
            assert_never(geometry)


@dataclass(frozen=True)
class _MeshSource(Source):
    mesh: Mesh

    def to_mesh(self, resolution: int) -> Mesh:
        return self.mesh


@dataclass(frozen=True)
class _SplatsSource(Source):
    splats: Splats

    def to_mesh(self, resolution: int) -> Mesh:
        return GaussiansScene.from_splats(self.splats, GaussiansConfig(), torch.Generator(), "cpu", 1).to_mesh(
            resolution
        )

    def to_splats(self, count: int, generator: torch.Generator) -> Splats:
        return self.splats
