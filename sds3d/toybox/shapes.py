"""Primitive solids as closed triangle meshes, the parts of toy objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sds3d.geometry.mesh import Mesh

Array = NDArray[np.float64]
Color = tuple[float, float, float]

CREASE = np.cos(np.deg2rad(40.0))
"""Neighbouring facets of an outline are shaded smoothly if the cosine between their normals is above this."""


@dataclass(frozen=True)
class Shape:
    """A closed solid: outward counter-clockwise faces and a normal and colour at each vertex.

    vertices, normals, colors: (V, 3) float64; colours are sRGB in [0, 1]. faces: (F, 3) int64.
    A vertex on a crease is stored once for each facet that meets there.
    """

    vertices: Array
    faces: NDArray[np.int64]
    normals: Array
    colors: Array

    def scale(self, x: float, y: float | None = None, z: float | None = None) -> Shape:
        """Scale by positive factors. A single factor scales all axes."""
        factors = np.array([x, x if y is None else y, x if z is None else z])
        normals = self.normals / factors
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        return replace(self, vertices=self.vertices * factors, normals=normals)

    def rotate(self, axis: Literal["x", "y", "z"], degrees: float) -> Shape:
        """Rotate around a world axis through the origin by the right-hand rule."""
        i = "xyz".index(axis)
        j, k = (i + 1) % 3, (i + 2) % 3
        cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        matrix = np.eye(3)
        matrix[j, j], matrix[j, k], matrix[k, j], matrix[k, k] = cos, -sin, sin, cos
        return replace(self, vertices=self.vertices @ matrix.T, normals=self.normals @ matrix.T)

    def move(self, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Shape:
        """Translate by (x, y, z)."""
        return replace(self, vertices=self.vertices + np.array([x, y, z]))

    def wrap(self, radius: float) -> Shape:
        """Bend around the Y axis: the plane z = 0 maps to the cylinder of `radius`, and x = 0 to its +Z line."""
        x, y, z = self.vertices.T
        cos, sin = np.cos(x / radius), np.sin(x / radius)
        nx, ny, nz = self.normals.T
        return replace(
            self,
            vertices=np.stack([(radius + z) * sin, y, (radius + z) * cos], axis=1),
            normals=np.stack([nx * cos + nz * sin, ny, nz * cos - nx * sin], axis=1),
        )

    def paint(self, color: ArrayLike) -> Shape:
        """Give all vertices one sRGB colour, values in [0, 1]."""
        return replace(self, colors=np.tile(np.asarray(color, dtype=np.float64), (len(self.vertices), 1)))


def merge(shapes: Sequence[Shape]) -> Mesh:
    """Join shapes to one mesh with vertex colours and normals."""
    offsets = np.cumsum([0, *(len(s.vertices) for s in shapes[:-1])])
    return Mesh(
        vertices=np.concatenate([s.vertices for s in shapes]).astype(np.float32),
        faces=np.concatenate([s.faces + o for s, o in zip(shapes, offsets, strict=True)]).astype(np.int32),
        colors=np.concatenate([s.colors for s in shapes]).astype(np.float32),
        normals=np.concatenate([s.normals for s in shapes]).astype(np.float32),
    )


def _shape(vertices: Array, faces: ArrayLike, normals: Array) -> Shape:
    return Shape(vertices, np.asarray(faces, dtype=np.int64).reshape(-1, 3), normals, np.ones_like(vertices))


def _outline_normals(points: Array, closed: bool) -> tuple[Array, Array]:
    """Return the normals at the start and the end of each segment of a 2D outline, to its right, each (S, 2)."""
    steps = np.diff(np.concatenate([points, points[:1]]) if closed else points, axis=0)
    flat = np.stack([steps[:, 1], -steps[:, 0]], axis=1)  # (S, 2)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    before, after = np.roll(flat, 1, axis=0), np.roll(flat, -1, axis=0)
    smooth_start = (flat * before).sum(axis=1) > CREASE
    smooth_end = (flat * after).sum(axis=1) > CREASE
    if not closed:
        smooth_start[0] = smooth_end[-1] = False
    start = np.where(smooth_start[:, None], flat + before, flat)
    end = np.where(smooth_end[:, None], flat + after, flat)
    return start / np.linalg.norm(start, axis=1, keepdims=True), end / np.linalg.norm(end, axis=1, keepdims=True)


def lathe(profile: ArrayLike, segments: int = 20) -> Shape:
    """Rotate a profile of (radius, y) points, (P, 2), around the Y axis.

    The profile starts and ends on the axis and has the solid on its left: it runs up along an outer wall and down
    along an inner one.
    """
    points = np.asarray(profile, dtype=np.float64)
    start, end = _outline_normals(points, closed=False)
    # A smooth pole, such as an ellipsoid's, has one normal along the axis.
    for normals, at in ((start, 0), (end, -1)):
        if abs(normals[at, 1]) > CREASE:
            normals[at] = [0.0, np.sign(normals[at, 1])]
    ends = np.stack([points[:-1], points[1:]], axis=1)  # (S, 2, 2): segment, its end, (radius, y)
    flat_normals = np.stack([start, end], axis=1)
    angle = 2 * np.pi * np.arange(segments) / segments

    def spin(values: Array) -> Array:
        radius, y = values[..., 0:1], values[..., 1:2]
        xyz = [radius * np.sin(angle), np.broadcast_to(y, (*y.shape[:-1], segments)), radius * np.cos(angle)]
        return np.stack(xyz, axis=-1).reshape(-1, 3)

    j = np.arange(segments)
    k = (j + 1) % segments
    faces = []
    for s, ((r0, _), (r1, _)) in enumerate(ends):
        a, b = 2 * s * segments, (2 * s + 1) * segments
        if r0 > 0:
            faces.append(np.stack([a + j, a + k, b + k], axis=1))
        if r1 > 0:
            faces.append(np.stack([a + j, b + k, b + j], axis=1))
    return _shape(spin(ends), np.concatenate(faces), spin(flat_normals))


@lru_cache(maxsize=8)
def _ball(rings: int, segments: int) -> Shape:
    polar = np.linspace(-np.pi / 2, np.pi / 2, rings + 1)
    radius = np.cos(polar)
    radius[[0, -1]] = 0.0
    return lathe(np.stack([radius, np.sin(polar)], axis=1), segments)


def ellipsoid(x: float, y: float | None = None, z: float | None = None, rings: int = 9, segments: int = 16) -> Shape:
    """Make an ellipsoid with these radii. A single radius makes a ball."""
    return _ball(rings, segments).scale(x, y, z)


def cap(radius: float, half_angle: float, segments: int = 12) -> Shape:
    """Make the cap of a ball around its +Y pole up to `half_angle` degrees: a round spot on a slightly smaller ball."""
    polar = np.deg2rad(np.linspace(half_angle, 0.0, 4))
    rim = np.stack([radius * np.sin(polar), radius * np.cos(polar)], axis=1)
    rim[-1, 0] = 0.0
    return lathe(np.concatenate([[[0.0, 0.9 * rim[0, 1]]], rim]), segments)


def cylinder(
    radius: float, height: float, top: float | None = None, rounding: float = 0.0, segments: int = 20
) -> Shape:
    """Make a cylinder on the ground plane y = 0.

    top: another radius at the top, 0 for a cone. rounding: radius of rounded rims, below half the height and below
    both radii.
    """
    top = radius if top is None else top
    quarter = np.deg2rad(np.linspace(0.0, 90.0, 4))
    profile = [(0.0, 0.0)]
    if rounding > 0:
        profile += [(radius - rounding * (1 - np.sin(a)), rounding * (1 - np.cos(a))) for a in quarter]
        if top > 0:
            profile += [(top - rounding * (1 - np.cos(a)), height - rounding * (1 - np.sin(a))) for a in quarter]
    else:
        profile += [(radius, 0.0), (top, height)] if top > 0 else [(radius, 0.0)]
    return lathe([*profile, (0.0, height)], segments)


def tube(path: ArrayLike, radius: ArrayLike, sides: int = 10, closed: bool = False) -> Shape:
    """Make a round tube along a path in the plane z = 0, (N, 2). radius: one value, or one per point."""
    points = np.asarray(path, dtype=np.float64)
    n = len(points)
    radii = np.broadcast_to(np.asarray(radius, dtype=np.float64), (n,))
    if closed:
        tangent = np.roll(points, -1, axis=0) - np.roll(points, 1, axis=0)
        slope = np.zeros(n)
    else:
        tangent = np.gradient(points, axis=0)
        slope = np.gradient(radii) / np.linalg.norm(tangent, axis=1)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    forward = np.pad(tangent, ((0, 0), (0, 1)))  # (N, 3)
    side = np.stack([-tangent[:, 1], tangent[:, 0], np.zeros(n)], axis=1)
    phi = 2 * np.pi * np.arange(sides) / sides
    around = np.cos(phi)[:, None] * side[:, None] + np.sin(phi)[:, None] * np.array([0.0, 0.0, 1.0])  # (N, sides, 3)
    centers = np.pad(points, ((0, 0), (0, 1)))
    rings = centers[:, None] + radii[:, None, None] * around
    normals = around - slope[:, None, None] * forward[:, None]
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)

    i = np.arange(n if closed else n - 1)[:, None]
    j = np.arange(sides)
    k = (j + 1) % sides
    a, b = i * sides, (i + 1) % n * sides
    faces = [np.stack([a + j, a + k, b + k], axis=-1), np.stack([a + j, b + k, b + j], axis=-1)]
    faces = [f.reshape(-1, 3) for f in faces]
    vertices, shading = [rings.reshape(-1, 3)], [normals.reshape(-1, 3)]
    if not closed:
        for at, sign in ((0, -1.0), (-1, 1.0)):
            first = sum(len(v) for v in vertices)
            fan = np.stack([np.full(sides, first), first + 1 + j, first + 1 + k], axis=1)
            faces.append(fan if sign > 0 else fan[:, ::-1])
            vertices.append(np.concatenate([centers[at : at + 1] if at == 0 else centers[-1:], rings[at]]))
            shading.append(np.tile(sign * forward[at], (sides + 1, 1)))
    return _shape(np.concatenate(vertices), np.concatenate(faces), np.concatenate(shading))


def arc(radius: float, thickness: float, start: float = 0.0, end: float = 360.0, steps: int = 12) -> Shape:
    """Make a torus around the Z axis, or its arc from `start` to `end` degrees, counted from +X to +Y."""
    closed = abs(end - start) >= 360.0
    angle = np.deg2rad(np.linspace(start, end, steps, endpoint=not closed))
    return tube(radius * np.stack([np.cos(angle), np.sin(angle)], axis=1), thickness, closed=closed)


def prism(outline: ArrayLike, depth: float, bevel: float = 0.0, taper: float = 1.0) -> Shape:
    """Extrude an outline in the plane z = 0, (N, 2), along Z, from -depth / 2 to depth / 2.

    outline: counter-clockwise, and star-shaped around its mean. bevel: length by which the two rims are chamfered.
    taper: scale of the outline at the end on -Z.
    """
    points = np.asarray(outline, dtype=np.float64)
    n = len(points)
    center = points.mean(axis=0)
    shrink = 1.0 - 2.0 * bevel / np.ptp(points, axis=0)
    back, front = center + taper * (points - center), points
    half = depth / 2
    sections = [(front, half), (back, -half)]
    if bevel > 0:
        sections = [
            (center + shrink * (front - center), half),
            (front, half - bevel),
            (back, bevel - half),
            (center + shrink * (back - center), -half),
        ]
    start, end = _outline_normals(points, closed=True)
    j = np.arange(n)
    vertices, normals, faces = [], [], []

    def add(corners: Array, shading: Array, triangles: NDArray[np.int64]) -> None:
        faces.append(triangles + sum(len(v) for v in vertices))
        vertices.append(corners)
        normals.append(shading)

    for (outer, z0), (inner, z1) in pairwise(sections):
        # The wall between two sections. Its normals lean towards +Z or -Z where the outline shrinks.
        lean = (np.linalg.norm(inner - center) - np.linalg.norm(outer - center)) / np.sqrt(n) / (z0 - z1)
        corners = [(outer, z0, start), (np.roll(outer, -1, axis=0), z0, end)]
        corners += [(np.roll(inner, -1, axis=0), z1, end), (inner, z1, start)]
        shading = [np.concatenate([normal, np.full((n, 1), lean)], axis=1) for _, _, normal in corners]
        shading = np.concatenate(shading) / np.sqrt(1 + lean**2)
        wall = np.concatenate([np.concatenate([p, np.full((n, 1), z)], axis=1) for p, z, _ in corners])
        quad = [np.stack([j, j + 3 * n, j + 2 * n], axis=1), np.stack([j, j + 2 * n, j + n], axis=1)]
        add(wall, shading, np.concatenate(quad))
    for (section, z), sign in ((sections[0], 1.0), (sections[-1], -1.0)):
        fan = np.stack([np.full(n, n), j, (j + 1) % n], axis=1)
        flat = np.concatenate([np.concatenate([section, center[None]]), np.full((n + 1, 1), z)], axis=1)
        add(flat, np.tile([0.0, 0.0, sign], (n + 1, 1)), fan if sign > 0 else fan[:, ::-1])
    return _shape(np.concatenate(vertices), np.concatenate(faces), np.concatenate(normals))


def rectangle(width: float, height: float, rounding: float = 0.0) -> Array:
    """Return the outline of a rectangle around the origin, counter-clockwise, with rounded corners, (N, 2)."""
    x, y = width / 2 - rounding, height / 2 - rounding
    corners = [(x, -y, -90.0), (x, y, 0.0), (-x, y, 90.0), (-x, -y, 180.0)]
    if rounding == 0:
        return np.array([corner[:2] for corner in corners])
    turn = np.deg2rad([0.0, 30.0, 60.0, 90.0])
    return np.array(
        [(cx + rounding * np.cos(np.deg2rad(a) + t), cy + rounding * np.sin(np.deg2rad(a) + t))
         for cx, cy, a in corners for t in turn]
    )  # fmt: skip


def box(width: float, height: float, depth: float, rounding: float = 0.0) -> Shape:
    """Make a box around the origin along X, Y, Z. Its edges along Z are rounded, the others chamfered."""
    return prism(rectangle(width, height, rounding), depth, bevel=min(0.6 * rounding, 0.3 * depth))


def disc(radius: float, thickness: float, segments: int = 16) -> Shape:
    """Make a flat round plate in the plane z = 0 that faces +Z and -Z."""
    angle = 2 * np.pi * np.arange(segments) / segments
    return prism(radius * np.stack([np.cos(angle), np.sin(angle)], axis=1), thickness)
