"""Parts and arrangements that several kinds of object share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from sds3d.toybox.paint import INK, WHITE, Paint
from sds3d.toybox.shapes import Array, Color, Shape, cylinder, ellipsoid, prism

Builder = Callable[[Paint], list[Shape]]
Outline = list[tuple[float, float]]


def eye(size: float, color: Color = WHITE) -> list[Shape]:
    """Build an eye that looks along +Z: a flat ball with a large pupil."""
    return [
        ellipsoid(size, size * 1.1, size * 0.5, 6, 12).paint(color),
        ellipsoid(size * 0.62, size * 0.7, size * 0.35, 6, 10).move(0, 0, size * 0.33).paint(INK),
    ]


def side_profile(outline: Outline, width: float, bevel: float = 0.0) -> Shape:
    """Extrude an outline in (z, y) across the object. It is counter-clockwise with z to the right."""
    return prism(outline, width, bevel).rotate("y", -90)


def mirrored(shapes: Iterable[Shape]) -> list[Shape]:
    """Return the shapes and their mirror images on the other side of the plane x = 0."""
    shapes = list(shapes)
    flip = np.array([-1.0, 1.0, 1.0])
    images = [replace(s, vertices=s.vertices * flip, normals=s.normals * flip, faces=s.faces[:, ::-1]) for s in shapes]
    return [*shapes, *images]


def bent(shape: Shape, vertices: Array) -> Shape:
    """Return the shape with its vertices moved to these, (V, 3), and normals that fit; creases stay creases."""
    corner = vertices[shape.faces]  # (F, 3, 3)
    flat = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    normals = np.zeros_like(vertices)
    for k in range(3):
        np.add.at(normals, shape.faces[:, k], flat)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return replace(shape, vertices=vertices, normals=normals)


def corners(shape: Shape, x: float, z: float) -> list[Shape]:
    """Return four copies of the shape, moved by (+-x, 0, +-z)."""
    return [shape.move(i * x, 0, k * z) for i in (-1, 1) for k in (-1, 1)]


def wheel(size: float, width: float, tyre: Color, hub: Color = (0.84, 0.85, 0.88)) -> list[Shape]:
    """Build a wheel of radius `size` with its axle along X through the origin."""
    rim = cylinder(size, width, rounding=0.04, segments=18).move(0, -width / 2).rotate("z", -90)
    cover = cylinder(size * 0.52, width + 0.05, segments=12).move(0, -width / 2 - 0.025).rotate("z", -90)
    return [rim.paint(tyre), cover.paint(hub)]


def arch(width: float, height: float) -> Outline:
    """Return the outline of a door with a round top that stands on y = 0, counter-clockwise."""
    turn = np.deg2rad(np.linspace(0, 180, 9))
    half = width / 2
    top = [(half * np.cos(a), height - half + half * np.sin(a)) for a in turn]
    return [(-half, 0), (half, 0), *((float(x), float(y)) for x, y in top)]
