"""The geometry of a mesh scene: the base of its kinds, and the losses on shape that they share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from sds3d.config import Config
from sds3d.geometry.mesh import Mesh
from sds3d.geometry.uv_atlas import unwrap
from sds3d.ramps import Ramp
from sds3d.rendering.mesh_differentiable import mesh_edges
from sds3d.rendering.mesh_losses import edge_length, laplacian, pull_length
from sds3d.rendering.volume import BOUND
from sds3d.representations.isosurface import Surface
from sds3d.representations.isosurface_flexicubes import DualSurface
from sds3d.representations.mesh_texture import Layout

Losses = dict[str, tuple[Ramp, Callable[[], Tensor]]]
"""Weights and losses by name. A loss is computed only while its weight is positive."""


Parameters = dict[str, torch.nn.Parameter]


class GeometryConfig(Config, ABC):
    """Settings of every kind of geometry."""

    name: Any
    """The word that chooses the kind, a `Literal` in every subclass."""
    resolution: int = Field(default=48, ge=8, le=256)
    """Samples per side of the grid that fills the cube [-0.55, 0.55]^3 metres."""
    radius: float = Field(default=0.3, gt=0, le=0.5)
    """Radius in metres of the ball that the mesh starts as."""
    normal_consistency: Ramp = Field(default=Ramp(0.02), ge=0)
    """Weight, times a view's number of pixels, of the mean of 1 - cos of the angles between neighbouring triangles."""
    laplacian: Ramp = Field(default=Ramp(0.0), ge=0)
    """Weight, times a view's number of pixels, of the mean squared distance, in voxels, of vertices from the mean of
    their neighbours."""
    pull_length: Ramp = Field(default=Ramp(0.0), ge=0)
    """Weight, times a view's number of pixels, of the mean length, in metres, of the sum of the vectors from a vertex
    to its neighbours (threestudio's Laplacian; ProlificDreamer and CFD have 10,000 of the mean)."""
    edge_length: Ramp = Field(default=Ramp(0.0), ge=0)
    """Weight, times a view's number of pixels, of the mean squared length of the triangles' edges, in voxels."""

    @property
    def voxel(self) -> float:
        """Metres between two samples of the grid."""
        return 2 * BOUND / (self.resolution - 1)

    @abstractmethod
    def make(self, device: torch.device) -> MeshGeometry:
        """Make a ball."""


C = TypeVar("C", bound=GeometryConfig)


class MeshGeometry(ABC, Generic[C]):
    """Triangles that are differentiable in `parameters`.

    parameters: by name; parameters that are not learnt need no gradient.
    """

    config: C
    device: torch.device
    parameters: Parameters

    @abstractmethod
    def rates(self) -> dict[str, float]:
        """Return the learning rate of each parameter."""

    @abstractmethod
    def surface(self) -> Surface | DualSurface | None:
        """Return the present triangles; None if there are none."""

    @abstractmethod
    def losses(self, surface: Surface | DualSurface | None, normals: Tensor | None) -> Losses:
        """Return losses on the shape. surface: as `surface` returned it. normals: its `face_normals`, if known."""

    @abstractmethod
    def mesh(self) -> Mesh:
        """Return the mesh as it is rendered, with vertex normals.

        Raises EmptySurfaceError if there is no surface or only a speck.
        """

    @abstractmethod
    def start_from(self, mesh: Mesh) -> None:
        """Take the shape of `mesh`, as closely as this kind of geometry can.

        Raises ValueError for a mesh without area, EmptySurfaceError for one that is too small or thin.
        """

    def continue_from(self, before: MeshGeometry) -> None:
        """Copy the state of another geometry if that is of the same kind and size; otherwise do nothing."""
        mine, given = ({name: t.shape for name, t in each.state_dict().items()} for each in (self, before))
        if type(self) is type(before) and mine == given:
            self.load_state_dict(before.state_dict())

    def layout(self, size: int) -> Layout:
        """Return the layout of the mesh in a texture of size x size texels. Raises ValueError if triangles change."""
        raise ValueError(f"geometry={self.config.name} has no texture, because its triangles change")

    def unwrapped(self, size: int) -> Mesh:
        """Return `mesh` with UVs for a texture of size x size texels. Vertices on seams are duplicated.

        Raises EmptySurfaceError if there is no surface, ValueError for UVs outside [0, 1].
        """
        mesh = self.mesh()
        origin, faces, uv = unwrap(mesh.vertices, mesh.faces, size)
        normals = None if mesh.normals is None else mesh.normals[origin]
        return Mesh(mesh.vertices[origin], faces, normals=normals, uv=uv)

    @abstractmethod
    def after_step(self) -> None:
        """Repair the geometry after a step of the optimiser, if necessary."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return copies of everything that the next step depends on."""
        return {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self.parameters = loaded(self.parameters, state)

    def surface_losses(self, surface: Surface | DualSurface, normals: Tensor | None) -> Losses:
        """Return losses on the triangles of a surface."""
        if normals is None:
            normals = face_normals(surface.vertices, surface.faces)
        bent = normals, surface.faces, len(surface.vertices)
        mesh = surface.vertices / self.config.voxel, surface.faces
        return {
            "normal_consistency": (self.config.normal_consistency, lambda: bending(*bent)),
            "laplacian": (self.config.laplacian, lambda: laplacian(*mesh)),
            "pull_length": (self.config.pull_length, lambda: pull_length(surface.vertices, surface.faces)),
            "edge_length": (self.config.edge_length, lambda: edge_length(*mesh)),
        }


def learnable(start: Mapping[str, Tensor], device: torch.device, moves: bool = True) -> Parameters:
    """Make parameters with these initial values. moves: whether they need gradients."""
    return {name: torch.nn.Parameter(value.to(device), requires_grad=moves) for name, value in start.items()}


def loaded(parameters: Parameters, state: Mapping[str, Tensor]) -> Parameters:
    """Return parameters of the same names with copies of the values in `state`, which may have other shapes."""
    return {
        name: torch.nn.Parameter(state[name].detach().clone().to(old), requires_grad=old.requires_grad)
        for name, old in parameters.items()
    }


def coarse_lattices(resolution: int, *channels: int) -> dict[str, Tensor]:
    """Return zeros on lattices coarse_K (K, K, K, *channels) that halve the resolution down to four samples.

    A picture's gradient reaches only the few samples near an outline. These lattices move the surface as a whole.
    """
    lattices = {}
    k = resolution
    while k // 2 >= 4:
        k //= 2
        lattices[f"coarse_{k}"] = torch.zeros(k, k, k, *channels)
    return lattices


def bending(normals: Tensor, faces: Tensor, n_vertices: int) -> Tensor:
    """Return the mean, over edges between two faces, of 1 - cos of the angle between the faces.

    Like `mesh_losses.normal_consistency`, for known face normals (F, 3) of any length; several times faster.
    """
    edges = mesh_edges(faces, n_vertices)
    first = edges.starts[:-1][edges.starts.diff() == 2]  # (I,)
    corner = edges.corners[torch.stack([first, first + 1]).long()].long()  # (2, I), opposite to the edge
    face = corner // 3
    # Two faces that run along the edge in the same direction face opposite sides of the surface.
    begin = faces.reshape(-1)[3 * face + (corner + 1) % 3]
    turned = 1 - 2 * (begin[0] == begin[1]).to(normals)
    normals = functional.normalize(normals, dim=-1, eps=1e-30)
    one, other = (normals.index_select(0, index) for index in face)
    whole = (one.detach().abs().sum(1) > 0) & (other.detach().abs().sum(1) > 0)  # a face without area has no angle
    cosines = turned * (one * other).sum(1)
    return ((1 - cosines) * whole).sum() / max(len(cosines), 1)


def face_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Return the normals of faces, (F, 3). The length of each is twice the face's area."""
    a, b, c = (vertices.index_select(0, corner) for corner in faces.unbind(1))
    (ux, uy, uz), (vx, vy, vz) = (b - a).unbind(1), (c - a).unbind(1)  # faster than torch.linalg.cross
    return torch.stack([uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx], dim=1)


def smooth_normals(weighted: Tensor, faces: Tensor, n_vertices: int) -> Tensor:
    """Return unit vertex normals (V, 3): means of the adjacent faces' normals (F, 3), weighted by their lengths."""
    normals = weighted.new_zeros(n_vertices, 3)
    for corner in faces.unbind(1):
        normals = normals.index_add(0, corner, weighted)
    return functional.normalize(normals, dim=-1, eps=1e-20)
