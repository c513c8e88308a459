"""Objects of the toy world as meshes, with random proportions and a canonical front on +Z."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

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
    if spec.category not in CATEGORIES:
        raise ValueError(f"unknown category {spec.category!r}; known: {', '.join(CATEGORIES)}")
    for color in (spec.color, spec.accent):
        if color is not None and color not in COLORS:
            raise ValueError(f"unknown colour {color!r}; known: {', '.join(COLORS)}")
    accent = spec.accent or DEFAULT_ACCENT[spec.category] or spec.color
    main = _jitter(COLORS[spec.color], rng)
    paint = Paint(main, main if accent == spec.color else _jitter(COLORS[accent], rng), rng)
    mesh = merge(BUILDERS[spec.category](paint))
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
