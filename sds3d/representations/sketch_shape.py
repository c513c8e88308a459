"""Sketch-Shape: keep a field near a coarse mesh (Metzer et al. 2022, "Latent-NeRF", arXiv:2211.07600, section 3.2).

Matter outside the mesh and empty space inside it are penalised more, the further they are from the surface. At the
surface, where a coarse mesh is not reliable, they are not penalised.
"""

from __future__ import annotations

import math

import numpy as np
import scipy
import torch
from torch import Tensor

from sds3d.geometry.mesh import FloatArray, IntArray, Mesh
from sds3d.rendering.packed import FieldFunction
from sds3d.rendering.volume import BOUND
from sds3d.representations.base import SURFACE
from sds3d.representations.contents import source_of
from sds3d.representations.signed_distance import surface_points

_MARGIN = 0.01  # distance of the target from 0 and 1
_LENGTH = 0.2  # metres over which a density's opacity counts as occupancy
_SPACING = 0.003  # spacing in metres of the surface points that distances are measured to
_PAIRS_AT_ONCE = 1 << 20


def load_sketch(path: str, weight: float, slack: float) -> SketchShape:
    """Load a sketch, scaled to fit the cube; see `SketchShape`. Raises AssetError if the file cannot be read."""
    from sds3d.formats.load import fit_to_cube, load_asset

    asset, _ = fit_to_cube(load_asset(path))
    points = torch.Generator().manual_seed(0)  # the same points when a run is resumed
    return SketchShape(source_of(asset).to_mesh(SURFACE), points, weight=weight, slack=slack)


class SketchShape:
    """A pool of points in the cube, with their distances from the mesh and whether they are inside.

    mesh: in the world frame, inside the cube [-0.55, 0.55]^3 metres; it may be open or intersect itself.
    weight: of `loss`. slack: distance in metres by which the field may deviate from the mesh. points: size of the pool.
    batch: points per step. Raises ValueError for a mesh without faces, or one that extends beyond the cube.
    """

    def __init__(
        self,
        mesh: Mesh,
        generator: torch.Generator,
        *,
        weight: float = 1.0,
        slack: float = 0.15,
        points: int = 16384,
        batch: int = 2048,
    ) -> None:
        if not len(mesh.faces):
            raise ValueError("the sketch has no faces: give a mesh with triangles")
        if not np.abs(mesh.vertices).max() <= BOUND:  # also of NaN
            raise ValueError(f"the sketch extends beyond the cube of {BOUND} metres around the origin: scale it down")
        self.weight, self.slack, self.batch = weight, slack, min(batch, points)
        self.points = BOUND * (2 * torch.rand(points, 3, generator=generator) - 1)  # (P, 3)
        self.inside = winding_number(self.points, mesh.vertices, mesh.faces) > 0.5  # (P,)
        distance, _ = scipy.spatial.KDTree(surface_points(mesh, _SPACING).points).query(self.points.numpy())
        self.distance = torch.from_numpy(distance).float()  # (P,) metres

    def loss(self, field: FieldFunction, generator: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
        """Return the weighted mean over random points of the pool. generator: on the CPU. device: of the field."""
        chosen = torch.randint(len(self.points), (self.batch,), generator=generator)
        pool = (self.points, self.inside, self.distance)
        points, inside, distance = (part[chosen].to(device, non_blocking=True) for part in pool)
        density, _ = field(points)
        return self.weight / self.batch * sketch_shape_loss(density, inside, distance.to(density), self.slack)


def sketch_shape_loss(density: Tensor, inside: Tensor, distance: Tensor, slack: float) -> Tensor:
    """Return the cross-entropy between the occupancy 1 - exp(-0.2 density) and the mesh's inside, summed over points.

    density: (P,) per metre. inside: (P,) bool. distance: (P,) metres to the mesh; a point weighs
    1 - exp(-distance^2 / (2 slack^2)). The logarithm is that of the target, clamped to [0.01, 0.99]. The loss is thus
    linear in the occupancy, with the slope log 99 times the weight.
    """
    occupancy = -torch.expm1(-_LENGTH * density)
    target = inside.to(density).clamp(_MARGIN, 1 - _MARGIN)
    entropy = -(occupancy * target.log() + (1 - occupancy) * torch.log1p(-target))
    weight = -torch.expm1(-distance.square() / (2 * slack**2))
    return (weight * entropy).sum()


def winding_number(points: Tensor, vertices: FloatArray, faces: IntArray) -> Tensor:
    """Return the winding number (P,) float64 of a mesh around points (P, 3): 1 inside a closed mesh wound outwards.

    It is the sum of the triangles' solid angles (van Oosterom and Strackee 1983) divided by 4 pi: the generalised
    winding number of Jacobson et al. 2013, which is fractional for open meshes.
    """
    corners = torch.from_numpy(vertices[faces]).double()  # (F, 3, 3)
    parts = []
    for some in points.double().split(max(_PAIRS_AT_ONCE // len(corners), 1)):
        a, b, c = (corners[None, :, i] - some[:, None] for i in range(3))  # (p, F, 3)
        la, lb, lc = (side.norm(dim=-1) for side in (a, b, c))
        volume = (a * torch.linalg.cross(b, c, dim=-1)).sum(-1)
        rest = la * lb * lc + (a * b).sum(-1) * lc + (b * c).sum(-1) * la + (c * a).sum(-1) * lb
        parts.append(2 * torch.atan2(volume, rest).sum(-1))
    return torch.cat(parts) / (4 * math.pi)
