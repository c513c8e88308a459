"""Shapes whose faces have corners of their own: flat shading, and stripes with a sharp edge."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sds3d.toybox.shapes import Color, Shape, lathe


def _apart(shape: Shape) -> Shape:
    """Return the shape with three vertices for each face, shared with no other face."""
    at = shape.faces.ravel()
    faces = np.arange(len(at)).reshape(-1, 3)
    return Shape(shape.vertices[at], faces, shape.normals[at], shape.colors[at])


def crate(wide: float, deep: float, tall: float, wall: float) -> Shape:
    """Build an open hollow box with flat sides on the ground plane.

    wall: thickness of the floor and of the two walls across X; the others are thinner by depth over width.
    """
    inner = 1 - 2 * wall / wide
    profile = np.array([(0, 0), (1, 0), (1, tall), (inner, tall), (inner, wall), (0, wall)]) * [np.sqrt(0.5), 1]
    shape = _apart(lathe(profile, 4).rotate("y", 45).scale(wide, 1, deep))
    corners = shape.vertices[shape.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return replace(shape, normals=np.repeat(normals, 3, axis=0))


def striped(shape: Shape, count: int, *colors: Color) -> Shape:
    """Paint `count` equal sectors around the Y axis in turn with the colours; the first one begins at +Z."""
    shape = _apart(shape)
    middle = shape.vertices[shape.faces].mean(axis=1)
    sector = np.floor(np.arctan2(middle[:, 0], middle[:, 2]) / (2 * np.pi) * count).astype(int) % len(colors)
    return replace(shape, colors=np.repeat(np.array(colors)[sector], 3, axis=0))
