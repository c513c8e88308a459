"""Faces of different shapes in one plane, which flicker in a picture: which of the two is seen is chance.

`python tests/toybox/coplanar.py dog owl` lists them for these kinds; without names, for all kinds.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sds3d.toybox.objects import BUILDERS
from sds3d.toybox.paint import Paint
from sds3d.toybox.shapes import Shape
from sds3d.toybox.world import CATEGORIES, COLORS

Array = NDArray[np.float64]

APART = 1e-3
"""Planes closer than this are one, in metres of an object with radius 0.5 m."""
PARALLEL = np.cos(np.deg2rad(1.0))
SMALLEST = 1e-4
"""Square metres: about one pixel of a picture of 128 x 128."""
SAME_COLOR = 0.03


class Overlap(NamedTuple):
    """Two shapes of a builder's list with faces in one plane, on the same side of it.

    area: in square metres, of an object with radius 0.5 m. place: of the largest common part; normal: its direction.
    """

    first: int
    second: int
    area: float
    place: tuple[float, ...]
    normal: tuple[float, ...]


def shapes_of(category: str, seed: int, main: str = "red", accent: str = "blue") -> list[Shape]:
    """Build the shapes of one object, scaled to a radius of 0.5 m."""
    shapes = BUILDERS[category](Paint(COLORS[main], COLORS[accent], np.random.default_rng(seed)))
    points = np.concatenate([shape.vertices for shape in shapes])
    center = (points.min(axis=0) + points.max(axis=0)) / 2
    scale = 0.5 / np.linalg.norm(points - center, axis=1).max()
    return [replace(shape, vertices=(shape.vertices - center) * scale) for shape in shapes]


def coplanar(shapes: list[Shape]) -> list[Overlap]:
    """Return the pairs of shapes of different colours with visible faces in one plane that look the same way.

    Faces in one plane of the same colour look the same whichever is seen. What lies inside another shape is not seen.
    """
    corners = [shape.vertices[shape.faces] for shape in shapes]  # each (F, 3, 3)
    normals = []
    for triangles in corners:
        cross = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
        normals.append(cross / np.linalg.norm(cross, axis=1, keepdims=True))
    low = [triangles.min(axis=(0, 1)) - APART for triangles in corners]
    high = [triangles.max(axis=(0, 1)) + APART for triangles in corners]
    found = []
    for a in range(len(shapes)):
        for b in range(a + 1, len(shapes)):
            if (low[a] > high[b]).any() or (low[b] > high[a]).any():
                continue
            near = (normals[a] @ normals[b].T > PARALLEL) & _near(corners[a], normals[a], corners[b])
            parts = []
            for i, j in np.argwhere(near):
                if np.abs(_color(shapes[a], i) - _color(shapes[b], j)).max() <= SAME_COLOR:
                    continue
                part = _common(corners[a][i], corners[b][j], normals[a][i])
                if part is not None and _is_seen(part[1], normals[a][i], corners):
                    parts.append((*part, normals[a][i]))
            area = sum(part[0] for part in parts)
            if area > SMALLEST:
                _, place, normal = max(parts, key=lambda part: part[0])
                found.append(Overlap(a, b, area, tuple(place.round(3).tolist()), tuple(normal.round(2).tolist())))
    return found


def _color(shape: Shape, face: int) -> Array:
    return shape.colors[shape.faces[face, 0]]


def _near(first: Array, normals: Array, second: Array) -> NDArray[np.bool_]:
    """Return whether boxes around triangles overlap, and the second's plane is close to the first's, (F, G)."""
    boxes = np.ones((len(first), len(second)), dtype=bool)
    for axis in range(3):
        lo, hi = first[:, :, axis].min(axis=1), first[:, :, axis].max(axis=1)
        others = second[:, :, axis].min(axis=1), second[:, :, axis].max(axis=1)
        boxes &= (lo[:, None] <= others[1] + APART) & (others[0] <= hi[:, None] + APART)
    offset = (normals * first[:, 0]).sum(axis=1)
    distance = np.einsum("fk,gvk->fgv", normals, second) - offset[:, None, None]
    return boxes & (distance.min(axis=2) < APART) & (distance.max(axis=2) > -APART)


def _common(first: Array, second: Array, normal: Array) -> tuple[float, Array] | None:
    """Return area and centre of what two triangles (3, 3) share, seen along the normal; None if they are apart.

    Only what lies within APART of the first's plane counts.
    """
    polygon = second
    for k in range(3):
        inward = np.cross(normal, first[(k + 1) % 3] - first[k])
        polygon = _cut(polygon, (polygon - first[k]) @ inward)
    for sign in (1.0, -1.0):
        polygon = _cut(polygon, APART - sign * ((polygon - first[0]) @ normal))
    if len(polygon) < 3:
        return None
    fan = np.cross(polygon[1:-1] - polygon[0], polygon[2:] - polygon[0])
    area = float(np.linalg.norm(fan.sum(axis=0)) / 2)
    return (area, polygon.mean(axis=0)) if area > 1e-9 else None


def _cut(polygon: Array, side: Array) -> Array:
    """Keep the part of a polygon (N, 3) where a linear function, (N,) at its corners, is not negative."""
    kept = []
    for k in range(len(polygon)):
        p, q, s, t = polygon[k - 1], polygon[k], side[k - 1], side[k]
        if (s < 0) != (t < 0):
            kept.append(p + (q - p) * (s / (s - t)))
        if t >= 0:
            kept.append(q)
    return np.array(kept).reshape(-1, 3)


def _is_seen(point: Array, normal: Array, corners: list[Array]) -> bool:
    """Return whether no shape holds the point just above a face, by winding numbers."""
    eye = point + 3 * APART * normal
    for triangles in corners:
        if (triangles.min(axis=(0, 1)) > eye).any() or (triangles.max(axis=(0, 1)) < eye).any():
            continue
        a, b, c = np.moveaxis(triangles - eye, 1, 0)
        la, lb, lc = (np.linalg.norm(side, axis=1) for side in (a, b, c))
        dots = la * lb * lc + (a * b).sum(1) * lc + (b * c).sum(1) * la + (c * a).sum(1) * lb
        angle = 2 * np.arctan2((a * np.cross(b, c)).sum(1), dots)
        if angle.sum() > 2 * np.pi:
            return False
    return True


if __name__ == "__main__":
    for name in sys.argv[1:] or CATEGORIES:
        for number in range(6):
            made = shapes_of(name, number)
            for overlap in coplanar(made):
                where = f"at {overlap.place}, facing {overlap.normal}"
                print(f"{name} {number}: shapes {overlap.first} and {overlap.second}: {overlap.area:.5f} m2 {where}")
