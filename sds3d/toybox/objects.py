"""Objects of the toy world as meshes, with random proportions and a canonical front on +Z."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sds3d.geometry.mesh import Mesh
from sds3d.toybox import figures, things
from sds3d.toybox.kinds import (
    buildings,
    food,
    furniture,
    gear,
    household,
    pets,
    plants,
    road,
    sea,
    toys,
    travel,
    vehicles,
    vessels,
    wild,
)
from sds3d.toybox.paint import Paint
from sds3d.toybox.parts import Builder
from sds3d.toybox.shapes import Color, merge
from sds3d.toybox.world import CATEGORIES, COLORS, DEFAULT_ACCENT, Spec

BUILDERS: dict[str, Builder] = {
    "mug": things.mug,
    "chair": things.chair,
    "snowman": figures.snowman,
    "car": things.car,
    "house": things.house,
    "duck": figures.duck,
    "lamp": things.lamp,
    "mushroom": figures.mushroom,
    "rocket": things.rocket,
    "robot": figures.robot,
    "teapot": things.teapot,
    "tree": figures.tree,
    "cat": figures.cat,
    "boat": things.boat,
    "table": things.table,
    "hat": things.hat,
    **pets.BUILDERS,
    **wild.BUILDERS,
    **road.BUILDERS,
    **sea.BUILDERS,
    **vehicles.BUILDERS,
    **buildings.BUILDERS,
    **furniture.BUILDERS,
    **household.BUILDERS,
    **vessels.BUILDERS,
    **toys.BUILDERS,
    **gear.BUILDERS,
    **travel.BUILDERS,
    **food.BUILDERS,
    **plants.BUILDERS,
}


def build(spec: Spec, rng: np.random.Generator) -> Mesh:
    """Build one object with random proportions, vertex colours and normals, its front on +Z and +Y up.

    Its bounding box is centred, and its farthest vertex is 0.46 to 0.5 m from the origin.
    Raises ValueError, with the known names, for an unknown category or colour.
    """
    return _placed(_assembled(spec, _paint(spec, rng)), rng)


MAIN, ACCENT = 1, 2
"""Numbers of the parts in the main and in the accent colour; 0: those with fixed colours."""


def build_with_parts(spec: Spec, rng: np.random.Generator) -> tuple[Mesh, NDArray[np.int64]]:
    """Return what `build` returns, and the part that each vertex belongs to (V,): MAIN, ACCENT or 0."""
    again = np.random.default_rng()
    again.bit_generator.state = rng.bit_generator.state
    mesh = build(spec, rng)
    # The same object in pure red and green: its own shades of them have no other colour in them.
    colors = _assembled(spec, replace(_paint(spec, again), main=(1.0, 0.0, 0.0), accent=(0.0, 1.0, 0.0))).colors
    assert colors is not None
    pure = colors > 0
    main, accent = (
        (pure == np.array([True, False, False])).all(axis=1),
        (pure == np.array([False, True, False])).all(axis=1),
    )
    return mesh, np.where(main, MAIN, np.where(accent, ACCENT, 0))


def _paint(spec: Spec, rng: np.random.Generator) -> Paint:
    """Draw the shades of an object's colours. Raises ValueError."""
    if spec.category not in CATEGORIES:
        raise ValueError(f"unknown category {spec.category!r}; known: {', '.join(CATEGORIES)}")
    for color in (spec.color, spec.accent):
        if color is not None and color not in COLORS:
            raise ValueError(f"unknown colour {color!r}; known: {', '.join(COLORS)}")
    accent = spec.accent or DEFAULT_ACCENT[spec.category] or spec.color
    main = _jitter(COLORS[spec.color], rng)
    return Paint(main, main if accent == spec.color else _jitter(COLORS[accent], rng), rng)


def _assembled(spec: Spec, paint: Paint) -> Mesh:
    return merge(BUILDERS[spec.category](paint))


def _placed(mesh: Mesh, rng: np.random.Generator) -> Mesh:
    """Centre a mesh and give it its size."""
    low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
    centred = (mesh.vertices - (low + high) / 2).astype(np.float64)
    radius = 0.5 * rng.uniform(0.92, 1.0)
    # Slightly below the radius, so that rounding to float32 stays inside the sphere.
    centred *= radius * (1 - 1e-6) / np.linalg.norm(centred, axis=1).max()
    return replace(mesh, vertices=centred.astype(np.float32))


def _jitter(color: Color, rng: np.random.Generator) -> Color:
    """Return a slightly different shade of the colour."""
    r, g, b = np.clip(np.array(color) * rng.uniform(0.93, 1.05) * rng.uniform(0.975, 1.025, 3), 0.0, 1.0)
    return (float(r), float(g), float(b))
