"""Geometry of fixed connectivity: the triangles stay the same, and the vertices move or stay in place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from sds3d.geometry.mesh import Mesh
from sds3d.geometry.triangles import vertex_normals
from sds3d.representations.fields import trilinear
from sds3d.representations.isosurface import Surface, dmtet, grid_points
from sds3d.representations.isosurface_flexicubes import DualSurface
from sds3d.representations.mesh_geometry import GeometryConfig, Losses, MeshGeometry, coarse_lattices, learnable
from sds3d.representations.mesh_texture import Layout, welded, with_uv

_LAYOUT = "layout_"


class FixedTrianglesConfig(GeometryConfig):
    """One mesh of fixed connectivity."""

    name: Literal["fixed"] = "fixed"
    vertices_lr: float = Field(default=0.001, ge=0)
    """Learning rate of the vertices, in metres; 0 leaves them where they are."""

    def make(self, device: torch.device) -> FixedTriangles:
        """Make a ball."""
        return FixedTriangles(self, device)


class FixedTriangles(MeshGeometry[FixedTrianglesConfig]):
    """Triangles of fixed connectivity.

    parameters: vertices (V, 3) metres, without duplicates; coarse_K (K, K, K, 3) metres, lattices of displacements that
    are interpolated at the vertices. faces: (F, 3) int64.
    """

    def __init__(self, config: FixedTrianglesConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        vertices, faces = dmtet(grid_points(config.resolution).norm(dim=-1) - config.radius)
        start = {"vertices": vertices, **coarse_lattices(config.resolution, 3)}
        self.parameters = learnable(start, device, moves=config.vertices_lr > 0)
        self._set_layout(Layout(torch.arange(len(vertices)), faces, torch.zeros(0, 2)))

    def rates(self) -> dict[str, float]:
        """Return the learning rate of each parameter."""
        return dict.fromkeys(self.parameters, self.config.vertices_lr)

    def vertices(self) -> Tensor:
        """Return the present positions of the vertices, (V, 3) metres."""
        vertices, *lattices = self.parameters.values()
        return vertices + sum((trilinear(coarse, vertices) for coarse in lattices), torch.zeros_like(vertices))

    def surface(self) -> Surface:
        """Return the triangles as they are now, differentiable in the parameters."""
        return Surface(self.vertices(), self.faces)

    def losses(self, surface: Surface | DualSurface | None, normals: Tensor | None) -> Losses:
        """Return losses on the triangles; none if the vertices stay in place."""
        if surface is None or self.config.vertices_lr == 0:
            return {}
        return self.surface_losses(surface, normals)

    def after_step(self) -> None:
        """Nothing: triangles cannot vanish."""

    def mesh(self) -> Mesh:
        """Return the triangles in their order. Vertices are duplicated at the seams of the texture."""
        return self._mesh(self._layout)

    def unwrapped(self, size: int) -> Mesh:
        """Return the triangles in their order with their UVs; new ones if they have none."""
        layout = with_uv(self.vertices(), self._layout, size)
        return replace(self._mesh(layout), uv=layout.uv.cpu().numpy())

    def _mesh(self, layout: Layout) -> Mesh:
        vertices, faces = self.vertices().detach().cpu().numpy(), self.faces.cpu().numpy().astype(np.int32)
        normals, origin = vertex_normals(vertices, faces), layout.origin.cpu().numpy()
        return Mesh(vertices[origin], layout.faces.cpu().numpy().astype(np.int32), normals=normals[origin])

    def start_from(self, mesh: Mesh) -> None:
        """Become exactly `mesh`, with its UVs if it has any."""
        vertices, layout = welded(mesh)
        self.load_state_dict(self.state_dict() | {"vertices": vertices} | _layout_state(layout))

    def layout(self, size: int) -> Layout:
        """Return the layout of the mesh in a texture of size x size texels; a mesh without UVs is unwrapped.

        Raises ValueError for UVs outside [0, 1].
        """
        self._set_layout(with_uv(self.vertices(), self._layout, size))
        return self._layout

    def state_dict(self) -> dict[str, Tensor]:
        """Return the parameters, the triangles and their UVs."""
        return super().state_dict() | _layout_state(self._layout)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned; the mesh may be another one."""
        super().load_state_dict(state)
        self._set_layout(Layout(*(state[_LAYOUT + name].clone() for name in Layout._fields)))

    def _set_layout(self, layout: Layout) -> None:
        self._layout = layout.to(self.device)
        self.faces = self._layout.origin[self._layout.faces]


def _layout_state(layout: Layout) -> dict[str, Tensor]:
    return {_LAYOUT + name: tensor.clone() for name, tensor in layout._asdict().items()}
