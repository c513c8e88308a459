"""How vehicles of the road and the field are built: bus, truck and tractor."""

from __future__ import annotations

import numpy as np

from sds3d.toybox.paint import DARK_GLASS, GLASS, GLOW, GREY, INK, WHITE, Paint, apart, contrast, shade
from sds3d.toybox.parts import Builder, mirrored, side_profile, wheel
from sds3d.toybox.shapes import Color, Shape, arc, box, cylinder, ellipsoid
from sds3d.toybox.world import COLORS

SAND: Color = (0.86, 0.70, 0.42)


def rubber(beside: Color) -> Color:
    """Return the colour of tyres that stand out against a body of this colour."""
    return (0.36, 0.36, 0.39) if max(beside) < 0.3 else INK


def tail_light(body: Color) -> Color:
    """Return a red that stands out against a body of this colour."""
    return contrast(body, COLORS["red"], (0.45, 0.0, 0.03))


def bus(p: Paint) -> list[Shape]:
    """Build a bus with one deck or two and a stripe in the accent colour all around."""
    double = p.rng.random() < 0.5
    long, tall = (p.u(1.3, 1.45), p.u(0.98, 1.06)) if double else (p.u(1.5, 1.7), p.u(0.66, 0.76))
    wide, ride, size = p.u(0.6, 0.68), 0.15, p.u(0.17, 0.2)
    rows = [(0.36, 0.22), (0.78, 0.23)] if double else [(0.7, 0.32)]  # middle and height of the windows
    stripe, thick = (0.575, 0.11) if double else (0.37, 0.17)
    glass, dark, front = contrast(p.main, GLASS, DARK_GLASS), contrast(p.main, INK, GREY), long / 2
    parts = [
        box(wide, tall, long, 0.1).move(0, ride + tall / 2).paint(p.main),
        box(wide + 0.06, tall * thick, long + 0.04, 0.01).move(0, ride + tall * stripe).paint(apart(p.accent, p.main)),
        # The front: a sign over the windscreen, and a grille. The back: a small window over the engine.
        box(wide * 0.62, 0.1, 0.1).move(0, ride + tall * 0.965, front - 0.02).paint(contrast(p.main, INK, WHITE)),
        box(wide * 0.44, 0.13, 0.06, 0.02).move(0, ride + 0.13, -front).paint(dark),
        box(wide * 0.66, 0.4, long * 0.26, 0.03).move(0, ride + tall - 0.14, -long * 0.24).paint(shade(p.main, 0.82)),
        box(wide * 0.5, 0.4, long * 0.13, 0.03).move(0, ride + tall - 0.16, long * 0.2).paint(shade(p.main, 0.82)),
    ]
    for z in (front, -front):
        parts.append(box(wide * 0.94, 0.09, 0.12, 0.02).move(0, ride + 0.01, z).paint(contrast(p.main, GREY, INK)))
    for middle, height in rows:
        y, h = ride + tall * middle, tall * height
        parts.append(box(wide * 0.88, h * 1.12, 0.08, 0.03).move(0, y - 0.02 * tall, front).paint(glass))
        parts.append(box(wide * 0.56, h * 0.76, 0.08, 0.03).move(0, y + 0.02 * tall, -front).paint(glass))
        for z in np.linspace(-0.37, 0.37, 5)[: 4 if middle == rows[0][0] else 5] * long:
            parts.append(box(wide + 0.05, h * 0.9, long * 0.135).move(0, y, z).paint(glass))
    door = tall * (0.46 if double else 0.78)
    parts.append(box(0.085, door, long * 0.14, 0.01).move(-wide / 2, ride + 0.05 + door / 2, long * 0.37).paint(glass))
    y, h = ride + tall * rows[0][0], tall * rows[0][1]
    parts.append(box(0.055, h * 0.9, long * 0.135).move(wide / 2, y, long * 0.37).paint(glass))
    pieces = [
        ellipsoid(0.085, 0.085, 0.07, 6, 12).move(wide * 0.33, ride + 0.13, front).paint(GLOW),
        box(0.12, 0.15, 0.08, 0.02).move(wide * 0.37, ride + 0.15, -front).paint(tail_light(p.main)),
    ]
    for part in wheel(size, 0.18, rubber(p.main)):
        pieces += [part.move(wide / 2 - 0.04, size, z) for z in (-0.27 * long, 0.235 * long)]
    return parts + mirrored(pieces)


def truck(p: Paint) -> list[Shape]:
    """Build a box truck or a dump truck with sand, its cab in the accent colour."""
    dump = p.rng.random() < 0.5
    long, wide, ride, cab = p.u(1.55, 1.75), p.u(0.66, 0.74), 0.24, p.u(0.46, 0.54)
    head, size, front = p.u(0.6, 0.68), p.u(0.2, 0.23), long / 2
    cargo, middle = long - cab - 0.08, -(cab + 0.08) / 2
    glass, metal = contrast(p.accent, GLASS, DARK_GLASS), contrast(p.accent, GREY, INK)
    nose = [(0, 0), (cab, 0), (cab, head * 0.5), (cab - 0.12, head), (0, head)]
    y = ride - 0.06
    parts = [
        box(wide * 0.7, 0.17, long - 0.14, 0.02).move(0, ride - 0.035).paint(contrast(p.main, INK, GREY)),
        side_profile(nose, wide * 0.94, 0.04).move(0, y, front - cab).paint(p.accent),
        box(wide * 0.78, head * 0.38, 0.07, 0.02).rotate("x", -22).move(0, y + head * 0.73, front - 0.055).paint(glass),
        box(wide * 0.97, head * 0.32, cab * 0.42).move(0, y + head * 0.68, front - cab * 0.54).paint(glass),
        box(wide * 0.5, head * 0.22, 0.08).move(0, y + head * 0.25, front).paint(metal),
        box(wide * 0.99, 0.11, 0.12, 0.02).move(0, y + 0.01, front).paint(metal),
        box(wide * 0.9, 0.1, 0.1, 0.02).move(0, y + 0.02, -front + 0.03).paint(contrast(p.main, GREY, INK)),
    ]
    pieces = [
        ellipsoid(0.085, 0.085, 0.07, 6, 12).move(wide * 0.36, y + head * 0.25, front).paint(GLOW),
        box(0.12, 0.1, 0.08).move(wide * 0.34, y + 0.03, -front - 0.01).paint(tail_light(GREY)),
        box(0.06, 0.16, 0.1, 0.02).move(wide / 2 + 0.02, y + head * 0.62, front - cab * 0.2).paint(metal),
    ]
    if dump:
        tall, floor = p.u(0.32, 0.38), ride + 0.09
        parts += [
            box(wide * 0.98, 0.1, cargo, 0.01).move(0, floor, middle).paint(p.main),
            box(wide * 1.04, tall + 0.3, 0.09, 0.02).move(0, floor + tall / 2 + 0.13, -front + cargo).paint(p.main),
            box(wide * 0.94, 0.09, cab * 0.6, 0.02)
            .move(0, floor + tall + 0.23, -front + cargo + cab * 0.26)
            .paint(p.main),
            box(wide * 0.9, tall * 0.84, 0.09, 0.02)
            .rotate("x", 12)
            .move(0, floor + tall * 0.44, -front + 0.01)
            .paint(shade(p.main, 0.82)),
            ellipsoid(wide * 0.46, tall * 0.78, cargo * 0.46, 8, 16).move(0, floor + tall * 0.42, middle).paint(SAND),
        ]
        pieces.append(
            box(0.09, tall + 0.06, cargo - 0.02, 0.02).move(wide * 0.485, floor + tall / 2, middle).paint(p.main)
        )
        for z in (-0.3, 0.0, 0.3):
            rib = box(0.1, tall - 0.04, 0.08).move(wide * 0.53, floor + tall / 2, middle + z * cargo)
            pieces.append(rib.paint(shade(p.main, 0.82)))
    else:
        tall, line = p.u(0.72, 0.82), contrast(p.main, WHITE, INK)
        half = ride + 0.04 + tall / 2
        parts += [
            box(wide, tall, cargo, 0.05).move(0, half, middle).paint(p.main),
            box(wide + 0.04, 0.1, cargo * 0.84).move(0, ride + tall * 0.66, middle).paint(line),
            side_profile([(0, 0), (cab * 0.7, 0), (0, 0.2)], wide * 0.7, 0.02)
            .move(0, y + head - 0.02, front - cab + 0.03)
            .paint(p.accent),
            box(wide * 0.8, 0.09, 0.1).move(0, ride + tall + 0.01, -front + 0.02).paint(shade(p.main, 0.7)),
        ]
        pieces += [
            box(wide * 0.41, tall * 0.82, 0.08).move(wide * 0.235, half, -front).paint(shade(p.main, 0.82)),
            box(0.06, 0.28, 0.08).move(0.07, half, -front - 0.03).paint(line),
            box(0.07, 0.14, cargo * 0.3, 0.02).move(wide * 0.4, ride - 0.02, middle + cargo * 0.24).paint(GREY),
        ]
    for part in wheel(size, 0.18, rubber(p.main)):
        for z in (-front + 0.26, -front + 0.28 + 2 * size, front - cab * 0.55):
            pieces.append(part.move(wide / 2 - 0.05, size, z))
    return parts + mirrored(pieces)


def tractor(p: Paint) -> list[Shape]:
    """Build a tractor, with a cab or an open seat, and wheels in the accent colour."""
    closed = p.rng.random() < 0.5
    long, wide, big, small = p.u(0.72, 0.84), p.u(0.36, 0.42), p.u(0.4, 0.46), p.u(0.22, 0.25)
    glass, metal, dark = contrast(p.main, GLASS, DARK_GLASS), contrast(p.main, GREY, INK), contrast(p.main, INK, GREY)
    y, hub = big * 0.75, contrast(p.accent, GLOW, COLORS["red"])
    hood = [(-0.02, 0), (long, 0), (long + 0.03, 0.26), (long - 0.06, 0.34), (-0.02, 0.38)]
    parts = [
        side_profile(hood, wide, 0.05).move(0, y).paint(p.main),
        box(wide * 0.6, 0.14, long + 0.4, 0.02).move(0, y - 0.02, 0.2).paint(metal),
        box(wide * 1.2, 0.42, 0.5, 0.05).move(0, y + 0.16, -0.22).paint(p.main),
        box(wide * 0.72, 0.26, 0.08, 0.02).move(0, y + 0.14, long + 0.01).paint(dark),
        cylinder(0.05, 0.38, segments=10).move(wide * 0.22, y + 0.3, long * 0.62).paint(metal),
        cylinder(0.075, 0.14, segments=10).move(wide * 0.22, y + 0.6, long * 0.62).paint(metal),
        box(wide * 0.5, 0.16, 0.1).move(0, y + 0.1, -0.47).paint(dark),
        box(0.1, 0.08, 0.22).move(0, y - 0.06, -0.52).paint(metal),
    ]
    pieces = [
        ellipsoid(0.08, 0.08, 0.07, 6, 12).move(wide * 0.3, y + 0.27, long).paint(GLOW),
        box(0.09, 0.13, 0.08, 0.02).move(wide * 0.48, y + 0.2, -0.47).paint(tail_light(p.main)),
    ]
    if closed:
        cab = p.u(0.5, 0.58)
        parts += [
            box(wide * 1.1, cab, 0.46, 0.03).move(0, y + 0.35 + cab / 2, -0.2).paint(glass),
            box(wide * 1.42, 0.1, 0.64, 0.04).move(0, y + 0.36 + cab, -0.2).paint(p.main),
            box(wide * 1.12, 0.14, 0.07).move(0, y + 0.43, -0.42).paint(p.main),
        ]
        post = box(0.08, cab - 0.01, 0.08).paint(p.main)
        pieces += [post.move(wide * 0.53, y + 0.36 + cab / 2, z) for z in (-0.41, 0.01)]
        lamp = ellipsoid(0.055, 0.055, 0.05, 6, 10).paint(GLOW)
        pieces.append(lamp.move(wide * 0.5, y + 0.36 + cab, 0.12))
    else:
        rest = p.u(0.3, 0.36)
        parts += [
            box(wide * 0.78, 0.1, 0.34, 0.04).move(0, y + 0.43, -0.2).paint(dark),
            box(wide * 0.72, rest, 0.1, 0.04).rotate("x", -10).move(0, y + 0.41 + rest / 2, -0.38).paint(dark),
            cylinder(0.04, 0.3, segments=8).rotate("x", -30).move(0, y + 0.34, 0.2).paint(metal),
            arc(0.15, 0.035, steps=14).rotate("x", 60).move(0, y + 0.6, 0.06).paint(dark),
        ]
    fender = arc(big + 0.05, 0.07, 10, 150, 12).scale(1, 1, 1.6).rotate("y", -90)
    pieces.append(fender.move(wide * 0.5 + 0.12, big, -0.22).paint(p.main))
    for part in wheel(big, 0.22, p.accent, hub):
        pieces.append(part.move(wide * 0.5 + 0.14, big, -0.22))
    for part in wheel(small, 0.16, p.accent, hub):
        pieces.append(part.move(wide * 0.5 + 0.1, small, long - 0.2))
    lug = box(0.23, 0.09, 0.08).move(0, big, 0).paint(p.accent)
    pieces += [lug.rotate("x", 40 * i + 9).move(wide * 0.5 + 0.14, big, -0.22) for i in range(9)]
    return parts + mirrored(pieces)


BUILDERS: dict[str, Builder] = {"bus": bus, "truck": truck, "tractor": tractor}
