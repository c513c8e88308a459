"""The toy world: sixteen kinds of object with a main colour, an accent part and a canonical front on +Z."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from sds3d.geometry.mesh import Mesh
from sds3d.toybox.shapes import (
    Color,
    Shape,
    arc,
    box,
    cap,
    cylinder,
    disc,
    ellipsoid,
    lathe,
    merge,
    prism,
    rectangle,
    tube,
)

COLORS: dict[str, Color] = {
    "red": (0.86, 0.08, 0.09),
    "orange": (0.99, 0.50, 0.03),
    "yellow": (0.99, 0.86, 0.12),
    "green": (0.12, 0.62, 0.20),
    "blue": (0.10, 0.30, 0.86),
    "purple": (0.50, 0.14, 0.72),
    "pink": (0.99, 0.55, 0.75),
    "white": (0.95, 0.95, 0.95),
    "black": (0.12, 0.12, 0.13),
    "brown": (0.46, 0.26, 0.12),
}
"""sRGB values in [0, 1]."""

ACCENT_PART: dict[str, str] = {
    "mug": "handle",
    "chair": "legs",
    "snowman": "hat",
    "car": "roof",
    "house": "roof",
    "duck": "beak",
    "lamp": "base",
    "mushroom": "stem",
    "rocket": "fins",
    "robot": "head",
    "teapot": "lid",
    "tree": "trunk",
    "cat": "collar",
    "boat": "sail",
    "table": "legs",
    "hat": "band",
}
"""The part of each category that the accent colours."""

DEFAULT_ACCENT: dict[str, str | None] = {
    "mug": None,
    "chair": None,
    "snowman": "black",
    "car": None,
    "house": "brown",
    "duck": "orange",
    "lamp": "brown",
    "mushroom": "white",
    "rocket": "red",
    "robot": None,
    "teapot": None,
    "tree": "brown",
    "cat": "red",
    "boat": "white",
    "table": None,
    "hat": "white",
}
"""The accent part's colour where none is asked for; None is the main colour."""

CATEGORIES: tuple[str, ...] = tuple(ACCENT_PART)
HAS_FRONT: frozenset[str] = frozenset(CATEGORIES) - {"lamp", "mushroom", "tree"}
"""Categories whose front can be told from their back."""

WHITE, INK, GREY = (0.96, 0.96, 0.96), (0.07, 0.07, 0.09), (0.55, 0.56, 0.60)
GLASS, DARK_GLASS = (0.66, 0.86, 0.97), (0.13, 0.22, 0.34)
GLOW, CARROT, BRICK, WOOD = (1.0, 0.90, 0.35), (0.98, 0.45, 0.05), (0.66, 0.26, 0.18), (0.55, 0.34, 0.17)


@dataclass(frozen=True)
class Spec:
    """What an object is: a category of CATEGORIES, a colour of COLORS, and the accent part's colour or None."""

    category: str
    color: str
    accent: str | None = None


@dataclass(frozen=True)
class Paint:
    """The main and accent colours of one object and its random numbers."""

    main: Color
    accent: Color
    rng: np.random.Generator

    def u(self, low: float, high: float) -> float:
        """A uniform random proportion."""
        return float(self.rng.uniform(low, high))


def build(spec: Spec, rng: np.random.Generator) -> Mesh:
    """One object with random proportions: vertex colours and normals, front on +Z, +Y up.

    Its bounding box is centred and its farthest vertex lies 0.46 to 0.5 m from the origin.
    Raises ValueError for an unknown category or colour, naming the known ones.
    """
    if spec.category not in CATEGORIES:
        raise ValueError(f"unknown category {spec.category!r}; known: {', '.join(CATEGORIES)}")
    for color in (spec.color, spec.accent):
        if color is not None and color not in COLORS:
            raise ValueError(f"unknown colour {color!r}; known: {', '.join(COLORS)}")
    accent = spec.accent or DEFAULT_ACCENT[spec.category] or spec.color
    main = _jitter(COLORS[spec.color], rng)
    paint = Paint(main, main if accent == spec.color else _jitter(COLORS[accent], rng), rng)
    mesh = merge(_BUILDERS[spec.category](paint))
    low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
    centred = (mesh.vertices - (low + high) / 2).astype(np.float64)
    radius = 0.5 * rng.uniform(0.92, 1.0)
    # A hair below the radius, so that rounding to float32 stays inside the sphere.
    centred *= radius * (1 - 1e-6) / np.linalg.norm(centred, axis=1).max()
    return replace(mesh, vertices=centred.astype(np.float32))


def _jitter(color: Color, rng: np.random.Generator) -> Color:
    """A slightly different shade of the colour."""
    r, g, b = np.clip(np.array(color) * rng.uniform(0.93, 1.05) * rng.uniform(0.975, 1.025, 3), 0.0, 1.0)
    return (float(r), float(g), float(b))


def _contrast(color: Color, *options: Color) -> Color:
    """The first of the options that stands out clearly against the colour, or the farthest of them."""
    distance = [float(np.linalg.norm(np.subtract(color, option))) for option in options]
    return next((o for o, d in zip(options, distance, strict=True) if d > 0.6), options[int(np.argmax(distance))])


def _shade(color: Color, factor: float) -> Color:
    """Darker (factor below 1); what is dark already becomes lighter, so that the two shades differ."""
    if max(color) < 0.3:
        return (color[0] + 0.2, color[1] + 0.2, color[2] + 0.2)
    return (color[0] * factor, color[1] * factor, color[2] * factor)


def _eye(size: float, color: Color = WHITE) -> list[Shape]:
    """An eye looking along +Z: a flat ball with a large pupil."""
    return [
        ellipsoid(size, size * 1.1, size * 0.5, 6, 12).paint(color),
        ellipsoid(size * 0.62, size * 0.7, size * 0.35, 6, 10).move(0, 0, size * 0.33).paint(INK),
    ]


def _mug(p: Paint) -> list[Shape]:
    radius, height, taper = p.u(0.42, 0.52), p.u(0.92, 1.1), p.u(0.88, 1.0)
    wall, foot, rim = 0.07, 0.05, radius
    base = radius * taper
    inner = _shade(p.main, 0.72)
    cup = [
        (0, 0),
        (base - foot, 0),
        (base, foot),
        (rim, height - 0.03),
        (rim - 0.03, height),
        (rim - wall, height - 0.03),
    ]
    cup += [(base - wall, foot + 0.04), (0, foot + 0.04)]
    well = [
        (0, height * 0.55),
        (rim - wall - 0.005, height * 0.55),
        (rim - wall - 0.005, height * 0.56),
        (0, height * 0.56),
    ]
    grip, size = p.u(0.075, 0.095), p.u(0.24, 0.29)
    handle = arc(size, grip, -105, 105, 14).scale(1.0, p.u(1.0, 1.2), 1.0)
    badge = disc(p.u(0.17, 0.21), 0.05).wrap((base + rim) / 2 + 0.012)
    return [
        lathe(cup, 28).paint(p.main),
        lathe(well, 28).paint(inner),
        handle.move(rim * (1 + taper) / 2 - 0.015, height * 0.52).paint(p.accent),
        badge.move(0, height * 0.52).paint(_contrast(p.main, WHITE, INK)),
    ]


def _chair(p: Paint) -> list[Shape]:
    width, depth, leg = p.u(0.68, 0.82), p.u(0.66, 0.78), p.u(0.5, 0.62)
    thick, back, post = p.u(0.10, 0.13), p.u(0.68, 0.85), p.u(0.11, 0.14)
    parts = [box(width, thick, depth, 0.04).move(0, leg + thick / 2).paint(p.main)]
    for x in (-1, 1):
        for z in (-1, 1):
            pillar = cylinder(post / 2 * 0.85, leg + 0.02, post / 2 * 1.15, segments=12)
            parts.append(pillar.move(x * (width / 2 - 0.09), 0, z * (depth / 2 - 0.09)).paint(p.accent))
    rest = leg + thick + back / 2 - 0.03
    tilt = p.u(0, 7)
    if p.rng.random() < 0.5:
        slab = box(width * 0.98, back, 0.11, 0.1)
        parts.append(slab.rotate("x", -tilt).move(0, rest, -depth / 2 + 0.05).paint(p.main))
        return parts
    for x in (-1, 1):
        parts.append(box(0.11, back, 0.11).move(x * (width / 2 - 0.06), 0, 0).paint(p.main))
    for y, tall in ((0.34, 0.26), (-0.08, 0.2)):
        parts.append(box(width * 0.98, back * tall, 0.1, 0.04).move(0, y * back, 0.005).paint(p.main))
    return parts[:5] + [s.rotate("x", -tilt).move(0, rest, -depth / 2 + 0.06) for s in parts[5:]]


def _snowman(p: Paint) -> list[Shape]:
    low, mid, head = p.u(0.54, 0.62), p.u(0.42, 0.47), p.u(0.35, 0.39)
    y_low, y_mid = low * 0.92, low * 1.6 + mid * 0.55
    y_head = y_mid + mid * 0.62 + head * 0.68
    dark = _contrast(p.main, INK, WHITE)
    stick = _contrast(p.main, WOOD, (0.80, 0.62, 0.40))
    parts = [
        ellipsoid(low, low * 0.92, low).move(0, y_low).paint(p.main),
        ellipsoid(mid).move(0, y_mid).paint(p.main),
        ellipsoid(head).move(0, y_head).paint(p.main),
    ]
    nose = cylinder(0.105, p.u(0.36, 0.46), 0.015, segments=10).rotate("x", 90)
    parts.append(nose.move(0, y_head - 0.03, head * 0.88).paint(_contrast(p.main, CARROT, GLOW)))
    for x in (-1, 1):
        eye = ellipsoid(0.075, 0.085, 0.05, 6, 10)
        parts.append(eye.move(x * 0.145, y_head + 0.11, head * 0.87).paint(dark))
        arm = cylinder(0.05, p.u(0.5, 0.6), 0.035, segments=8).rotate("z", -x * p.u(55, 75))
        parts.append(arm.move(x * mid * 0.8, y_mid + 0.05).paint(stick))
    for y in (0.2, -0.1):
        parts.append(ellipsoid(0.075, 0.075, 0.05, 6, 10).move(0, y_mid + y, np.sqrt(mid**2 - y**2)).paint(dark))
    brim, crown, tall = head * p.u(1.1, 1.25), head * p.u(0.72, 0.82), p.u(0.36, 0.46)
    y_hat = y_head + head * 0.66
    parts.append(cylinder(brim, 0.08, rounding=0.03).move(0, y_hat).paint(p.accent))
    parts.append(cylinder(crown, tall, crown * 0.92, rounding=0.04).move(0, y_hat + 0.02).paint(p.accent))
    return parts


def _side_profile(outline: list[tuple[float, float]], width: float, bevel: float = 0.0) -> Shape:
    """A prism across the object of an outline in (z, y), counter-clockwise with z to the right."""
    return prism(outline, width, bevel).rotate("y", -90)


def _car(p: Paint) -> list[Shape]:
    length, width, low, high = p.u(1.5, 1.75), p.u(0.82, 0.92), p.u(0.34, 0.4), p.u(0.34, 0.42)
    ride = 0.16
    z1, z0 = length / 2, -length / 2
    body = [
        (z0, 0),
        (z1, 0),
        (z1 + 0.02, low * 0.6),
        (z1 - 0.06, low * 0.88),
        (0.1, low),
        (z0 + 0.04, low),
        (z0 - 0.02, low * 0.6),
    ]
    glass = _contrast(p.main, GLASS, DARK_GLASS)
    rear, front = z0 + p.u(0.1, 0.2), z1 - p.u(0.5, 0.6)
    slope, inset = p.u(0.16, 0.22), 0.12
    cabin = [(rear, 0), (front, 0), (front - slope, high), (rear + inset, high)]
    top = ride + low
    roof = rectangle(front - slope - rear - inset + 0.14, width * 0.9, 0.1)
    middle = (front - slope + rear + inset) / 2
    seam = (rear + front) / 2 - 0.05
    parts = [
        _side_profile(body, width, 0.06).move(0, ride).paint(p.main),
        _side_profile(cabin, width * 0.82, 0.03).move(0, top - 0.01).paint(glass),
        prism(roof, 0.12, 0.03).rotate("x", -90).rotate("y", -90).move(0, top + high, middle).paint(p.accent),
        box(width * 0.85, high, 0.11).move(0, top + high / 2 - 0.01, seam).paint(p.main),
        box(width * 0.5, low * 0.3, 0.06).move(0, ride + low * 0.28, z1).paint(_contrast(p.main, INK, GREY)),
    ]
    for x in (-1, 1):
        lamp = ellipsoid(0.115, 0.105, 0.07, 6, 12)
        parts.append(lamp.move(x * width * 0.33, ride + low * 0.62, z1).paint(_contrast(p.main, GLOW, WHITE, GLOW)))
        tail = box(0.2, 0.14, 0.07, 0.03).move(x * width * 0.32, ride + low * 0.62, z0 - 0.01)
        parts.append(tail.paint(_contrast(p.main, COLORS["red"], (0.45, 0.0, 0.03))))
    tyre = (0.36, 0.36, 0.39) if max(p.main) < 0.3 else INK
    size = p.u(0.21, 0.25)
    for x in (-1, 1):
        for z in (z0 + length * 0.21, z1 - length * 0.21):
            wheel = cylinder(size, 0.2, rounding=0.04, segments=18).move(0, -0.1).rotate("z", -90)
            parts.append(wheel.move(x * (width / 2 - 0.04), size, z).paint(tyre))
            hub = cylinder(size * 0.52, 0.24, segments=12).move(0, -0.12).rotate("z", -90)
            parts.append(hub.move(x * (width / 2 - 0.04), size, z).paint((0.84, 0.85, 0.88)))
    return parts


def _house(p: Paint) -> list[Shape]:
    width, depth, wall, rise = p.u(0.95, 1.1), p.u(0.95, 1.2), p.u(0.55, 0.7), p.u(0.42, 0.55)
    half = width / 2
    gable = [(-half, 0), (half, 0), (half, wall), (0, wall + rise), (-half, wall)]
    parts = [prism(gable, depth).paint(p.main)]
    pitch = np.rad2deg(np.arctan2(rise, half))
    slope, thick, over = np.hypot(rise, half), 0.13, 0.14
    for x in (-1, 1):
        slab = box(slope + over, thick, depth + 0.2).move(x * (slope + over) / 2, thick / 2 - 0.02)
        parts.append(slab.rotate("z", -x * pitch).move(0, wall + rise).paint(p.accent))
    ridge = cylinder(thick * 0.8, depth + 0.2, segments=10).rotate("x", 90)
    parts.append(ridge.move(0, wall + rise + 0.03, -(depth + 0.2) / 2).paint(p.accent))
    chimney = box(0.18, 0.42, 0.18).move(half * 0.5, wall + rise * 0.85, -depth * 0.22)
    parts.append(chimney.paint(_contrast(p.accent, BRICK, GREY, (0.8, 0.75, 0.7))))
    frame = _contrast(p.main, WHITE, WOOD)
    pane = _contrast(frame, DARK_GLASS, GLASS)
    door_x = p.u(-0.22, -0.14)
    front = depth / 2
    parts.append(
        box(0.3, 0.46, 0.06).move(door_x, 0.23, front + 0.01).paint(_contrast(p.main, WOOD, (0.9, 0.75, 0.45)))
    )
    parts.append(ellipsoid(0.035, rings=6, segments=8).move(door_x + 0.09, 0.22, front + 0.05).paint(GLOW))

    def window(size: float) -> list[Shape]:
        """A framed window facing +Z."""
        return [
            box(size, size, 0.05).paint(frame),
            box(size * 0.68, size * 0.68, 0.05).move(0, 0, 0.012).paint(pane),
        ]

    parts += [s.move(0.22, wall * 0.52, front + 0.01) for s in window(0.27)]
    parts += [disc(0.12, 0.05).move(0, wall + rise * 0.32, front + 0.01).paint(pane)]
    for x in (-1, 1):
        parts += [s.rotate("y", x * 90).move(x * (half + 0.01), wall * 0.5, 0) for s in window(0.3)]
    return parts


def _duck(p: Paint) -> list[Shape]:
    wide, tall, long = p.u(0.42, 0.5), p.u(0.34, 0.4), p.u(0.56, 0.66)
    head = p.u(0.3, 0.35)
    y, z = tall + head * 0.95, long * 0.52
    shade = _shade(p.main, 0.82)
    parts = [
        ellipsoid(wide, tall, long, 10, 18).paint(p.main),
        cylinder(0.25, 0.4, 0.03, segments=12)
        .rotate("x", -52)
        .scale(1.2, 1, 1)
        .move(0, 0.1, -long * 0.72)
        .paint(p.main),
        ellipsoid(head * 0.8, head, head * 0.8).move(0, tall * 0.8, z * 0.85).paint(p.main),
        ellipsoid(head).move(0, y, z).paint(p.main),
        ellipsoid(0.19, 0.07, 0.27, 8, 14).move(0, y - 0.01, z + head * 1.0).paint(p.accent),
        ellipsoid(0.15, 0.06, 0.2, 8, 14).rotate("x", 14).move(0, y - 0.1, z + head * 0.98).paint(p.accent),
    ]
    for x in (-1, 1):
        wing = ellipsoid(0.09, tall * 0.55, long * 0.5, 8, 12).rotate("x", 12)
        parts.append(wing.move(x * wide * 0.93, 0.04, -long * 0.12).paint(shade))
        parts += [s.rotate("y", x * 38).move(x * head * 0.58, y + 0.1, z + head * 0.72) for s in _eye(0.1)]
    return parts


def _lamp(p: Paint) -> list[Shape]:
    low, top, tall, pole = p.u(0.46, 0.54), p.u(0.26, 0.32), p.u(0.48, 0.58), p.u(0.62, 0.74)
    base = p.u(0.36, 0.42)
    wall = 0.04
    shade = [(low - wall, 0), (low, 0), (top, tall), (top - wall, tall)]
    outer = [
        (0, tall * 0.5),
        (low * 0.5 + top * 0.5 - wall, tall * 0.5),
        *shade[:3],
        (top - wall, tall - 0.02),
        (0, tall - 0.02),
    ]
    y = pole - tall * 0.12
    return [
        cylinder(base, 0.13, base * 0.85, rounding=0.05).paint(p.accent),
        ellipsoid(0.17, 0.15, 0.17).move(0, 0.2).paint(p.accent),
        cylinder(0.065, pole + 0.3, segments=12).move(0, 0.08).paint(p.accent),
        lathe(outer, 24).move(0, y).paint(p.main),
        ellipsoid(0.16, 0.18, 0.16).move(0, y + 0.08).paint(GLOW),
    ]


def _mushroom(p: Paint) -> list[Shape]:
    cap_radius, cap_height, stem, tall = p.u(0.58, 0.68), p.u(0.42, 0.52), p.u(0.2, 0.25), p.u(0.5, 0.62)
    polar = np.deg2rad(np.linspace(0, 90, 7))
    dome = [(0, 0.06), (cap_radius * 0.8, 0.0), (cap_radius * 0.96, -0.03)]
    dome += [(cap_radius * np.cos(a), cap_height * np.sin(a)) for a in polar[:-1]] + [(0, cap_height)]
    foot = [
        (0, 0),
        (stem * 1.25, 0.0),
        (stem * 1.35, 0.1),
        (stem, tall * 0.6),
        (stem * 0.92, tall + 0.1),
        (0, tall + 0.1),
    ]
    parts = [lathe(foot, 18).paint(p.accent), lathe(dome, 24).move(0, tall).paint(p.main)]
    dots = _contrast(p.main, WHITE, INK)
    turn = p.u(0, 72)
    rings = [(52, 72 * i, 14) for i in range(5)] + [(77, 72 * i + 36, 9) for i in range(5)]
    for lean, around, size in [(0, 0, 17), *rings]:
        dot = cap(1.025, size, 10).rotate("x", lean).rotate("y", around + turn)
        parts.append(dot.scale(cap_radius, cap_height, cap_radius).move(0, tall).paint(dots))
    return parts


def _rocket(p: Paint) -> list[Shape]:
    radius, tall = p.u(0.34, 0.42), p.u(1.45, 1.65)
    hull = [(0, 0), (0.68, 0), (0.9, 0.14), (1, 0.32), (0.98, 0.5), (0.84, 0.68), (0.56, 0.85), (0.22, 0.965), (0, 1)]
    profile = [(r * radius, y * tall) for r, y in hull]
    reach, root = p.u(0.34, 0.42), p.u(0.5, 0.62)
    fin = [
        (radius * 0.6, 0.05),
        (radius + reach * 0.75, -0.28),
        (radius + reach, -0.2),
        (radius + reach * 0.9, 0.14),
        (radius * 0.7, root),
    ]
    parts = [lathe(profile, 22).paint(p.main)]
    parts += [prism(fin, 0.1).rotate("y", 45 + 90 * i).paint(p.accent) for i in range(4)]
    parts.append(
        cylinder(radius * 0.62, 0.16, radius * 0.45, segments=16).move(0, -0.14).paint(_contrast(p.main, GREY, INK))
    )
    frame = _contrast(p.main, WHITE, GREY)
    y, size = tall * 0.52, p.u(0.17, 0.2)
    parts.append(disc(size, 0.07, 18).wrap(radius).move(0, y).paint(frame))
    parts.append(disc(size * 0.68, 0.1, 18).wrap(radius).move(0, y).paint(_contrast(frame, GLASS, DARK_GLASS)))
    return parts


def _robot(p: Paint) -> list[Shape]:
    width, tall, depth = p.u(0.7, 0.8), p.u(0.6, 0.7), p.u(0.44, 0.52)
    head_w, head_h, head_d = p.u(0.54, 0.62), p.u(0.42, 0.48), p.u(0.42, 0.48)
    leg = p.u(0.26, 0.32)
    joint = _contrast(p.main, GREY, WHITE)
    body_y = leg + tall / 2
    head_y = leg + tall + 0.05 + head_h / 2
    parts = [
        box(width, tall, depth, 0.08).move(0, body_y).paint(p.main),
        cylinder(0.12, 0.12, segments=12).move(0, leg + tall - 0.03).paint(joint),
        box(head_w, head_h, head_d, 0.07).move(0, head_y).paint(p.accent),
        cylinder(0.035, 0.2, segments=8).move(0, head_y + head_h / 2 - 0.01).paint(joint),
        ellipsoid(0.085, rings=8, segments=12)
        .move(0, head_y + head_h / 2 + 0.22)
        .paint(_contrast(p.accent, COLORS["red"], GLOW)),
    ]
    panel = _contrast(p.main, WHITE, INK)
    parts.append(box(width * 0.66, tall * 0.52, 0.05, 0.04).move(0, body_y + 0.03, depth / 2 + 0.01).paint(panel))
    for x, light in ((-1, COLORS["red"]), (0, GLOW), (1, COLORS["green"])):
        parts.append(disc(0.062, 0.05, 12).move(x * 0.15, body_y + 0.08, depth / 2 + 0.04).paint(light))
    bar = box(width * 0.48, 0.07, 0.04).move(0, body_y - 0.07, depth / 2 + 0.035)
    parts.append(bar.paint(_contrast(panel, GREY, GLASS)))
    for x in (-1, 1):
        parts += [s.move(x * 0.135, head_y + 0.06, head_d / 2) for s in _eye(0.105)]
        ear = cylinder(0.09, 0.1, segments=12).rotate("z", -x * 90).move(x * (head_w / 2 - 0.02), head_y, 0)
        parts.append(ear.paint(joint))
        arm = cylinder(0.085, tall * 0.72, rounding=0.04, segments=12).move(0, -tall * 0.72).rotate("z", x * 12)
        parts.append(arm.move(x * (width / 2 + 0.07), leg + tall - 0.06).paint(p.main))
        hand = ellipsoid(0.115, rings=8, segments=12)
        parts.append(hand.move(x * (width / 2 + 0.07 + tall * 0.15), leg + tall * 0.22).paint(joint))
        parts.append(cylinder(0.1, leg + 0.03, segments=12).move(x * width * 0.25, 0).paint(joint))
        parts.append(box(0.26, 0.12, 0.36, 0.04).move(x * width * 0.26, 0.06, 0.05).paint(p.main))
    mouth = box(head_w * 0.5, 0.075, 0.05).move(0, head_y - 0.13, head_d / 2)
    parts.append(mouth.paint(_contrast(p.accent, INK, WHITE)))
    return parts


def _teapot(p: Paint) -> list[Shape]:
    radius, tall = p.u(0.52, 0.58), p.u(0.42, 0.5)
    body = ellipsoid(radius, tall, radius, 12, 24)
    spread = p.u(0.95, 1.1)
    spout = [
        (-radius * 0.75, -0.14),
        (-radius * 1.05, -0.06),
        (-radius * 1.3, 0.1),
        (-radius * 1.45, 0.28),
        (-radius * 1.68, 0.38),
    ]
    grip = arc(0.27 * spread, 0.07, -115, 115, 14)
    lid = cap(1.0, 46, 20).scale(radius * 1.04, tall * 1.08, radius * 1.04)
    badge = cap(1.02, p.u(19, 23), 16).rotate("x", 90).scale(radius, tall, radius)
    heart = cap(1.035, 9, 10).rotate("x", 90).scale(radius, tall, radius)
    mark = _contrast(p.main, WHITE, INK)
    return [
        body.paint(p.main),
        cylinder(radius * 0.62, 0.14).move(0, -tall - 0.03).paint(p.main),
        tube(spout, [0.19, 0.15, 0.11, 0.09, 0.085], 12).paint(p.main),
        grip.scale(1, 1.05, 1).move(radius * 0.98, 0.02).paint(p.main),
        lid.paint(p.accent),
        ellipsoid(0.1, 0.09, 0.1, 8, 12).move(0, tall * 1.08 + 0.06).paint(p.accent),
        badge.paint(mark),
        heart.paint(_contrast(mark, COLORS["red"], GLOW)),
    ]


def _tree(p: Paint) -> list[Shape]:
    trunk, tall, width = p.u(0.13, 0.17), p.u(0.4, 0.5), p.u(0.56, 0.66)
    parts = [cylinder(trunk * 1.25, tall + 0.15, trunk, segments=14).paint(p.accent)]
    y, step = tall, p.u(0.36, 0.42)
    for i, size in enumerate((1.0, 0.78, 0.55)):
        cone = cylinder(width * size, 0.62 - 0.04 * i, 0.0, rounding=0.04, segments=20)
        parts.append(cone.move(0, y + step * i).paint(_shade(p.main, 0.88) if i == 1 else p.main))
    return parts


def _cat(p: Paint) -> list[Shape]:
    wide, tall, head = p.u(0.36, 0.42), p.u(0.5, 0.56), p.u(0.38, 0.43)
    y, z = tall * 1.55 + head * 0.42, 0.14
    light = _contrast(p.main, WHITE, (0.72, 0.72, 0.74))
    inner = _contrast(p.main, COLORS["pink"], WHITE)
    body = [
        (0, 0),
        (wide * 0.9, 0.0),
        (wide * 1.05, tall * 0.3),
        (wide * 0.92, tall * 0.9),
        (wide * 0.62, tall * 1.45),
        (0, tall * 1.6),
    ]
    parts = [
        lathe(body, 20).scale(1, 1, 1.1).paint(p.main),
        ellipsoid(wide * 0.62, tall * 0.62, 0.14).move(0, tall * 0.68, wide * 0.9).paint(light),
        ellipsoid(head * 1.12, head * 0.92, head * 0.95, 10, 18).move(0, y, z).paint(p.main),
        ellipsoid(0.17, 0.115, 0.1, 8, 12).move(0, y - 0.13, z + head * 0.84).paint(light),
        ellipsoid(0.065, 0.05, 0.05, 6, 10)
        .move(0, y - 0.06, z + head * 0.97)
        .paint(_contrast(light, COLORS["pink"], INK)),
        arc(wide * 0.74, 0.085, steps=20).rotate("x", 90).move(0, y - head * 0.82, 0.07).paint(p.accent),
    ]
    for x in (-1, 1):
        ear = cylinder(0.19, 0.36, 0.015, segments=10).scale(1, 1, 0.6)
        parts.append(ear.rotate("z", -x * 22).move(x * head * 0.58, y + head * 0.6, z).paint(p.main))
        lining = cylinder(0.11, 0.24, 0.01, segments=8).scale(1, 1, 0.5)
        parts.append(lining.rotate("z", -x * 22).move(x * head * 0.6, y + head * 0.66, z + 0.08).paint(inner))
        parts += [s.rotate("y", x * 20).move(x * head * 0.44, y + 0.06, z + head * 0.82) for s in _eye(0.115)]
        paw = ellipsoid(0.14, 0.1, 0.2, 8, 12)
        parts.append(paw.move(x * wide * 0.5, 0.09, wide * 1.05).paint(light))
    bend = np.deg2rad(np.linspace(-100, 60, 9))
    reach = p.u(0.3, 0.38)
    path = np.stack([reach * np.cos(bend), reach * 1.15 * np.sin(bend)], axis=1)
    tail = tube(path, np.linspace(0.1, 0.08, 9)).rotate("y", 90)
    parts.append(tail.move(0, reach * 1.15 + 0.09, -wide * 1.0).paint(p.main))
    tip = ellipsoid(0.1, rings=8, segments=10).move(
        0, reach * 1.15 * (1 + np.sin(bend[-1])) + 0.09, -wide - reach * np.cos(bend[-1])
    )
    parts.append(tip.paint(light))
    return parts


def _boat(p: Paint) -> list[Shape]:
    long, wide, deep = p.u(1.4, 1.6), p.u(0.66, 0.78), p.u(0.4, 0.48)
    half, w = long / 2, wide / 2
    # The deck's outline seen from below: the bow is on -Y before it is turned to +Z.
    deck = [(0, -half), (w * 0.55, -half * 0.62), (w, -half * 0.1), (w, half * 0.6), (w * 0.82, half)]
    deck += [(-w * 0.82, half), (-w, half * 0.6), (-w, -half * 0.1), (-w * 0.55, -half * 0.62)]
    deck = np.array(deck)
    plank = deck * [0.82, 0.88]
    mast, y = p.u(1.0, 1.15), deep
    foot, sail_h = p.u(0.85, 1.0), mast * 0.78
    swing = p.u(30, 42)
    sail = [(0, 0), (foot, 0.0), (foot * 0.55, sail_h * 0.55), (0, sail_h)]
    trim = _contrast(p.main, WHITE, GREY)
    parts = [
        prism(deck, deep, taper=0.72).rotate("x", -90).move(0, deep / 2).paint(p.main),
        prism(deck * 1.03, 0.08).rotate("x", -90).move(0, deep).paint(trim),
        prism(plank, 0.05).rotate("x", -90).move(0, deep + 0.03).paint(_contrast(trim, WOOD, (0.8, 0.62, 0.4))),
        cylinder(0.055, mast, segments=10).move(0, y, half * 0.25).paint(WOOD),
    ]
    # Mainsail and jib swing out to one side in two planes, so that no view sees both edge-on.
    jib = [(0, 0), (foot * 0.62, 0.0), (0, sail_h * 0.8)]
    for outline, angle in ((sail, 90 + swing), (jib, -90 - swing)):
        cloth = prism(outline, 0.09).rotate("y", angle)
        parts.append(cloth.move(0, y + 0.16, half * 0.25).paint(p.accent))
    flag = [(0, -0.11), (0.3, 0.0), (0, 0.11)]
    pennant = prism(flag, 0.05).rotate("y", 90 + swing).move(0, y + mast - 0.08, half * 0.25)
    parts.append(pennant.paint(_contrast(p.accent, COLORS["red"], COLORS["blue"])))
    return parts


def _table(p: Paint) -> list[Shape]:
    width, depth, leg, thick = p.u(1.2, 1.4), p.u(0.75, 0.9), p.u(0.62, 0.75), p.u(0.1, 0.13)
    post, skirt = p.u(0.13, 0.17), p.u(0.24, 0.28)
    front = depth / 2 - 0.06
    face = _contrast(p.main, WOOD, (0.86, 0.72, 0.5))
    parts = [
        box(width, thick, depth, 0.04).move(0, leg + thick / 2).paint(p.main),
        box(width - 0.2, skirt, depth - 0.12).move(0, leg - skirt / 2 + 0.01).paint(p.main),
        box(width * 0.5, skirt * 0.78, 0.06).move(0, leg - skirt / 2, front + 0.02).paint(face),
        ellipsoid(0.07, rings=8, segments=12).move(0, leg - skirt / 2, front + 0.09).paint(_contrast(face, GLOW, INK)),
    ]
    for x in (-1, 1):
        for z in (-1, 1):
            pillar = box(post, leg, post).move(
                x * (width / 2 - post / 2 - 0.05), leg / 2, z * (depth / 2 - post / 2 - 0.04)
            )
            parts.append(pillar.paint(p.accent))
    return parts


def _hat(p: Paint) -> list[Shape]:
    brim, crown, tall = p.u(0.66, 0.76), p.u(0.4, 0.46), p.u(0.52, 0.66)
    top, band = crown * p.u(0.84, 0.95), p.u(0.15, 0.18)
    edge = [(0, 0), (brim * 0.9, -0.02), (brim, 0.04), (brim * 0.95, 0.1), (crown, 0.07), (0, 0.07)]
    parts = [
        lathe(edge, 28).paint(p.main),
        cylinder(crown, tall, top, rounding=0.12, segments=24).paint(p.main),
        cylinder(crown + 0.025, band, crown + 0.01, segments=24).move(0, 0.06).paint(p.accent),
    ]
    petal = _contrast(p.main, COLORS["pink"], COLORS["yellow"], WHITE)
    y, z, size = 0.06 + band * 0.9, crown + 0.03, p.u(0.11, 0.13)
    for i in range(5):
        angle = np.deg2rad(90 + 72 * i)
        leaf = ellipsoid(size, size, 0.06, 6, 10).move(size * 1.15 * np.cos(angle), size * 1.15 * np.sin(angle))
        parts.append(leaf.move(0, y, z).paint(petal))
    parts.append(
        ellipsoid(size * 0.75, size * 0.75, 0.1, 6, 10)
        .move(0, y, z + 0.02)
        .paint(_contrast(petal, GLOW, COLORS["red"]))
    )
    return parts


_BUILDERS: dict[str, Callable[[Paint], list[Shape]]] = {
    "mug": _mug,
    "chair": _chair,
    "snowman": _snowman,
    "car": _car,
    "house": _house,
    "duck": _duck,
    "lamp": _lamp,
    "mushroom": _mushroom,
    "rocket": _rocket,
    "robot": _robot,
    "teapot": _teapot,
    "tree": _tree,
    "cat": _cat,
    "boat": _boat,
    "table": _table,
    "hat": _hat,
}
