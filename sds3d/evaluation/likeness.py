"""The likeness of a mesh to true objects of a prompt: overlap of volumes and distance of surfaces."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from sds3d.geometry.mesh import Mesh
from sds3d.geometry.sampling import sample_surface
from sds3d.representations.signed_distance import mesh_to_occupancy
from sds3d.toybox.objects import build
from sds3d.toybox.world import Spec

_RESOLUTION = 48  # samples per side of the grid on which volumes are compared, 2.3 cm apart
_POINTS = 4096
_OBJECTS = 8


class Likeness(NamedTuple):
    """iou: see `volume_iou`, in [0, 1]. chamfer: see `chamfer`, in centimetres."""

    iou: float
    chamfer: float


def volume_iou(a: Mesh, b: Mesh) -> float:
    """Return the volume inside both meshes divided by the volume inside either, 0 if neither has an inside."""
    return _iou(mesh_to_occupancy(a, _RESOLUTION), mesh_to_occupancy(b, _RESOLUTION))


def chamfer(a: Mesh, b: Mesh) -> float:
    """Return the mean distance in metres from points of one surface to the other surface, averaged both ways."""
    return _chamfer(_tree(a), _tree(b))


def true_objects(spec: Spec, n: int = _OBJECTS, seed: int = 1) -> list[Mesh]:
    """Return n of the many objects that a prompt may mean."""
    return [build(spec, np.random.default_rng([seed, i])) for i in range(n)]


def likeness(mesh: Mesh, spec: Spec) -> Likeness:
    """Return the largest IoU and the smallest chamfer distance between a mesh and eight true objects of the prompt.

    The mesh is not aligned first: a toy object's size, place and front are part of the truth.
    """
    inside, points = mesh_to_occupancy(mesh, _RESOLUTION), _tree(mesh)
    objects = true_objects(spec)
    iou = max(_iou(inside, mesh_to_occupancy(o, _RESOLUTION)) for o in objects)
    return Likeness(iou, 100 * min(_chamfer(points, _tree(o)) for o in objects))


def _tree(mesh: Mesh) -> KDTree:
    return KDTree(sample_surface(mesh, _POINTS).points)


def _iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    either = int((a | b).sum())
    return int((a & b).sum()) / either if either else 0.0


def _chamfer(a: KDTree, b: KDTree) -> float:
    there, back = b.query(a.data)[0], a.query(b.data)[0]
    return float(there.mean() + back.mean()) / 2
