"""How like true objects a mesh is: overlap of volumes and distance of surfaces."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.spatial import KDTree

from sds3d.mesh import Mesh
from sds3d.representations.convert import sample_surface
from sds3d.representations.signed_distance import mesh_to_occupancy
from sds3d.toybox.objects import Spec, build

_RESOLUTION = 48  # samples a side of the grid that volumes are compared on: 2.3 cm apart
_POINTS = 4096
_OBJECTS = 8


class Likeness(NamedTuple):
    """iou: share of the joint volume that both fill, in [0, 1]. chamfer: see `chamfer`, in centimetres."""

    iou: float
    chamfer: float


def volume_iou(a: Mesh, b: Mesh) -> float:
    """Volume inside both meshes over volume inside either; 0 where neither has an inside."""
    one, other = (mesh_to_occupancy(mesh, _RESOLUTION) for mesh in (a, b))
    either = int((one | other).sum())
    return int((one & other).sum()) / either if either else 0.0


def chamfer(a: Mesh, b: Mesh) -> float:
    """Mean distance in metres from points of one surface to the nearest of the other, averaged over both directions."""
    one, other = (sample_surface(mesh, _POINTS).points for mesh in (a, b))
    there, back = KDTree(other).query(one)[0], KDTree(one).query(other)[0]
    return float(there.mean() + back.mean()) / 2


def true_objects(spec: Spec, n: int = _OBJECTS, seed: int = 1) -> list[Mesh]:
    """n of the many objects that a prompt may mean."""
    return [build(spec, np.random.default_rng([seed, i])) for i in range(n)]


def likeness(mesh: Mesh, spec: Spec) -> Likeness:
    """The largest IoU and the smallest chamfer distance between a mesh and eight true objects of the prompt.

    The mesh is taken as it stands: a toy object's size, place and front are part of the truth.
    """
    objects = true_objects(spec)
    return Likeness(max(volume_iou(mesh, o) for o in objects), 100 * min(chamfer(mesh, o) for o in objects))
