"""Geometry as the zero level of signed distances on a grid, extracted again for each render.

Gradients of the pictures reach the distances as in nvdiffrec (Munkberg et al. 2022, arXiv:2111.12503).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TypeVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from sds3d.geometry.mesh import EmptySurfaceError, FloatArray, IntArray, Mesh
from sds3d.geometry.triangles import connected, decimate, vertex_normals
from sds3d.ramps import Ramp
from sds3d.rendering.volume import BOUND
from sds3d.representations.isosurface import Surface, dmtet, flat_index, grid_points
from sds3d.representations.isosurface_flexicubes import DualSurface
from sds3d.representations.mesh_geometry import GeometryConfig, Losses, MeshGeometry, coarse_lattices, learnable
from sds3d.representations.signed_distance import mesh_to_sdf

_RETURN = 2.0  # radius, in voxels, of the ball that replaces a vanished surface
_SPECK = 6.0  # a surface that extends over fewer voxels counts as empty
_BAND = 2.5  # distance from the surface, in voxels, within which the slope of the distances should be 1
_DUST = 0.01  # a component with a smaller share of the surface area is dropped
_MAX_FACES = 20_000


class DistancesConfig(GeometryConfig):
    """Settings of every geometry that is extracted from signed distances."""

    sdf_lr: float = Field(default=0.0065, gt=0)
    """Learning rate of the signed distances, in metres, for each lattice."""
    offsets_lr: float = Field(default=0.003, gt=0)
    """Learning rate of the pre-activations of the grid points' offsets; 1 is about a third of a voxel."""
    eikonal: Ramp = Field(default=Ramp(0.01), ge=0)
    """Weight, times a view's number of pixels, of the mean squared deviation of the distances' slope from 1 near the
    surface: keeps them valid distances."""


D = TypeVar("D", bound=DistancesConfig)


class Distances(MeshGeometry[D]):
    """Triangles extracted from signed distances.

    parameters: sdf (N, N, N) metres and offsets (N, N, N, 3), as for `dmtet`; coarse_K (K, K, K) metres, added to the
    distances after interpolation. extra: initial values of further parameters.
    """

    def __init__(self, config: D, device: torch.device, **extra: Tensor) -> None:
        self.config, self.device = config, device
        n = config.resolution
        sdf = grid_points(n).norm(dim=-1) - config.radius
        start = {"sdf": sdf, "offsets": torch.zeros(n, n, n, 3), **coarse_lattices(n), **extra}
        self.parameters = learnable(start, device)
        inner = torch.full((n - 2, n - 2, n - 2), -torch.inf, device=device)
        self._floor = functional.pad(inner, (1,) * 6, value=config.voxel)  # the least distance of each grid point
        # The versions of the parameters, and the triangles that were extracted from them without gradients.
        self._still: tuple[list[tuple[int, int]], Surface | DualSurface | None] | None = None

    @abstractmethod
    def extract(self) -> Surface | DualSurface:
        """Return the zero level of `sdf()`. Raises EmptySurfaceError."""

    def rates(self) -> dict[str, float]:
        """Return the learning rate of each parameter."""
        return dict.fromkeys(self.parameters, self.config.sdf_lr) | {"offsets": self.config.offsets_lr}

    def sdf(self) -> Tensor:
        """Return the signed distances (N, N, N) in metres; positive on the cube's faces, so that the surface closes."""
        return torch.maximum(self._free_sdf(), self._floor)

    def surface(self) -> Surface | DualSurface | None:
        """Return the triangles as they are now, differentiable in the parameters; None if there are none.

        Without gradients, they are extracted once until a parameter changes.
        """
        if torch.is_grad_enabled():
            return self._extracted()
        versions = [(id(parameter), parameter._version) for parameter in self.parameters.values()]
        if self._still is None or self._still[0] != versions:
            self._still = versions, self._extracted()
        return self._still[1]

    def _extracted(self) -> Surface | DualSurface | None:
        try:
            return self.extract()
        except EmptySurfaceError:
            return None

    def losses(self, surface: Surface | DualSurface | None, normals: Tensor | None) -> Losses:
        """Return losses on the triangles, and the eikonal loss on the distances."""
        losses = {} if surface is None else self.surface_losses(surface, normals)
        return losses | {"eikonal": (self.config.eikonal, lambda: eikonal(self.sdf() / self.config.voxel))}

    @torch.no_grad()
    def after_step(self) -> None:
        """Replace a vanished surface by a small ball where the distances are smallest; it may grow again."""
        sdf, free = self.sdf(), self._free_sdf()
        if bool((sdf < 0).any()):
            return
        points = grid_points(self.config.resolution).to(self.device)
        center = points.reshape(-1, 3)[sdf.argmin()].clamp(-BOUND + 0.1, BOUND - 0.1)
        ball = (points - center).norm(dim=-1) - _RETURN * self.config.voxel
        self.parameters["sdf"].add_(torch.minimum(free, ball) - free)

    def mesh(self) -> Mesh:
        """Return at most 20 000 triangles, without specks and cavities. Raises EmptySurfaceError."""
        with torch.no_grad():
            surface = self.surface()
        vertices, faces = np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32)
        if surface is not None:
            vertices, faces = surface.vertices.cpu().numpy(), surface.faces.cpu().numpy().astype(np.int32)
        vertices, faces = decimate(*_without_dust_and_cavities(vertices, faces), _MAX_FACES)
        if not len(faces) or np.ptp(vertices, axis=0).max() < _SPECK * self.config.voxel:
            raise EmptySurfaceError(
                "the surface has vanished: start from a larger shape (representation.geometry.radius), or lower "
                "representation.geometry.sdf_lr"
            )
        return Mesh(vertices, faces, normals=vertex_normals(vertices, faces))

    def start_from(self, mesh: Mesh) -> None:
        """Become `mesh` as closely as the grid can."""
        sdf = torch.from_numpy(mesh_to_sdf(mesh, self.config.resolution))
        self.load_state_dict(self.state_dict() | {"sdf": sdf})
        dmtet(self.sdf())  # raises if nothing is inside

    def _free_sdf(self) -> Tensor:
        """Return the signed distances (N, N, N) in metres before the surface is closed at the cube's faces."""
        lattices = [parameter for name, parameter in self.parameters.items() if name.startswith("coarse")]
        coarse = torch.zeros_like(lattices[-1])
        for level in reversed(lattices):
            coarse = _resized(coarse, len(level)) + level
        return self.parameters["sdf"] + _resized(coarse, self.config.resolution)


def eikonal(sdf: Tensor) -> Tensor:
    """Return the mean of (slope - 1)^2 over the cells within 2.5 voxels of the surface; 0 if there are none.

    sdf: (N, N, N) in voxels. Source: Gropp et al. 2020, arXiv:2002.10099.
    """
    n = len(sdf)
    cells = (sdf.detach().abs() < _BAND)[:-1, :-1, :-1].nonzero()
    low, flat = flat_index(cells, n), sdf.reshape(-1)
    here = flat.index_select(0, low)
    steps = [flat.index_select(0, low + stride) - here for stride in (n * n, n, 1)]
    slope = (torch.stack(steps).square().sum(0) + 1e-12).sqrt()  # (C,); the root's own slope is infinite at 0
    return (slope - 1).square().sum() / max(len(cells), 1)


def _resized(lattice: Tensor, n: int) -> Tensor:
    """Return a lattice (K, K, K) resampled trilinearly to (n, n, n), with aligned corners.

    Matrix products are faster than `functional.interpolate`.
    """
    k = len(lattice)
    place = torch.linspace(0, k - 1, n, device=lattice.device)
    knots = torch.arange(k, device=lattice.device)
    matrix = (1 - (place[:, None] - knots).abs()).clamp(min=0).to(lattice)  # (n, K)
    for _ in range(3):  # the last axis is stretched and moves to the front
        lattice = torch.einsum("nk,xyk->nxy", matrix, lattice)
    return lattice


def _without_dust_and_cavities(vertices: FloatArray, faces: IntArray) -> tuple[FloatArray, IntArray]:
    """Remove components with less than a hundredth of the area, and components that face inwards."""
    if not len(faces):
        return vertices, faces
    component = connected(faces, len(vertices))[1][faces[:, 0]]  # (F,)
    a, b, c = (vertices[faces[:, k]].astype(np.float64) for k in range(3))
    area = np.bincount(component, np.linalg.norm(np.cross(b - a, c - a), axis=1))
    volume = np.bincount(component, np.einsum("fi,fi->f", a, np.cross(b, c)))
    kept = faces[((area >= _DUST * area.sum()) & (volume > 0))[component]]
    used, place = np.unique(kept, return_inverse=True)
    return vertices[used], place.reshape(-1, 3).astype(np.int32)
