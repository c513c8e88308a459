"""Vehicles."""

from __future__ import annotations

import numpy as np

from sds3d.toybox.paint import DARK_GLASS, GLASS, GLOW, GREY, INK, WHITE, Paint, contrast, shade
from sds3d.toybox.parts import Builder, mirrored, side_profile, wheel
from sds3d.toybox.shapes import Shape, arc, box, cylinder, disc, ellipsoid, lathe, prism, rectangle, tube
from sds3d.toybox.world import COLORS


def bus(p: Paint) -> list[Shape]:
    """Build a bus with a stripe in the accent colour."""
    long, wide, tall, ride = p.u(1.5, 1.75), p.u(0.6, 0.68), p.u(0.64, 0.74), 0.15
    glass = contrast(p.main, GLASS, DARK_GLASS)
    front, high = long / 2, ride + tall * 0.7
    tyre = (0.36, 0.36, 0.39) if max(p.main) < 0.3 else INK
    parts = [
        box(wide, tall, long, 0.1).move(0, ride + tall / 2).paint(p.main),
        box(wide + 0.05, tall * 0.16, long + 0.03, 0.01).move(0, ride + tall * 0.36).paint(p.accent),
        box(wide * 0.86, tall * 0.38, 0.08, 0.03).move(0, high - 0.02, front).paint(glass),
        box(wide * 0.6, tall * 0.24, 0.08, 0.03).move(0, high, -front).paint(glass),
        box(wide * 0.6, 0.1, 0.1, 0.02).move(0, ride + tall * 0.97, front - 0.03).paint(contrast(p.main, INK, WHITE)),
        box(wide * 0.9, 0.09, 0.1, 0.02).move(0, ride + 0.06, front).paint(contrast(p.main, GREY, INK)),
        box(wide * 0.9, 0.09, 0.1, 0.02).move(0, ride + 0.06, -front).paint(contrast(p.main, GREY, INK)),
        box(0.065, tall * 0.8, long * 0.13, 0.01).move(-wide / 2, ride + tall * 0.45, front - long * 0.12).paint(glass),
    ]
    for z in np.linspace(-0.36, 0.18, 4) * long:
        parts.append(box(wide + 0.05, tall * 0.28, long * 0.13).move(0, high, z).paint(glass))
    lamp = ellipsoid(0.08, 0.08, 0.06, 6, 12).move(wide * 0.34, ride + tall * 0.19, front)
    tail = box(0.12, 0.12, 0.06).move(wide * 0.34, ride + tall * 0.2, -front)
    size = p.u(0.16, 0.19)
    pieces = [lamp.paint(contrast(p.main, GLOW, WHITE)), tail.paint(contrast(p.main, COLORS["red"], (0.45, 0.0, 0.03)))]
    for z in (-0.28 * long, 0.27 * long):
        pieces += [s.move(wide / 2 - 0.04, size, z) for s in wheel(size, 0.16, tyre)]
    return parts + mirrored(pieces)


def airplane(p: Paint) -> list[Shape]:
    """Build an airplane with wings in the accent colour."""
    radius, long, span = p.u(0.2, 0.25), p.u(1.5, 1.7), p.u(0.8, 0.95)
    hull = [(0, 0), (0.3, 0.02), (0.62, 0.18), (0.95, 0.42), (1, 0.58), (1, 0.8), (0.82, 0.92), (0.45, 0.985), (0, 1)]
    glass = contrast(p.main, GLASS, DARK_GLASS)
    wing = (
        prism([(0.03, -0.24), (span, -0.34), (span, -0.12), (0.03, 0.2)], 0.09, 0.02)
        .rotate("x", 90)
        .rotate("z", p.u(3, 8))
    )
    rear = prism([(0.03, -0.16), (span * 0.42, -0.2), (span * 0.42, -0.04), (0.03, 0.14)], 0.08, 0.02).rotate("x", 90)
    fin = side_profile([(-0.2, 0), (0.2, 0), (-0.06, 0.42), (-0.24, 0.42)], 0.08, 0.02)
    parts = [
        lathe([(r * radius, y * long) for r, y in hull], 20).rotate("x", 90).move(0, 0, -long / 2).paint(p.main),
        ellipsoid(radius * 0.72, radius * 0.5, 0.2, 8, 14).move(0, radius * 0.68, long * 0.3).paint(glass),
        fin.move(0, radius * 0.2, -long * 0.38).paint(p.accent),
    ]
    for z in np.linspace(-0.2, 0.16, 5) * long:
        parts.append(ellipsoid(radius * 1.03, 0.055, 0.055, 8, 14).move(0, radius * 0.25, z).paint(glass))
    pieces = [
        wing.move(0, -radius * 0.4, 0.05).paint(p.accent),
        rear.move(0, radius * 0.1, -long * 0.42).paint(p.accent),
    ]
    metal = contrast(p.main, GREY, INK)
    if p.rng.random() < 0.5:
        for turn in (0, 60, 120):
            blade = box(0.1, radius * 3.2, 0.05, 0.02).rotate("z", turn + 20).move(0, 0, long / 2 + 0.012 * turn / 60)
            parts.append(blade.paint(metal))
        parts.append(ellipsoid(0.1, 0.1, 0.14, 8, 12).move(0, 0, long / 2).paint(contrast(p.main, COLORS["red"], GLOW)))
    else:
        engine = cylinder(0.12, 0.36, 0.09, rounding=0.03, segments=14).rotate("x", -90)
        mouth = disc(0.085, 0.06, 14)
        pieces += [engine.move(span * 0.45, -radius * 0.4 - 0.09, 0.24).paint(metal)]
        pieces += [mouth.move(span * 0.45, -radius * 0.4 - 0.09, 0.24).paint(contrast(metal, INK, WHITE))]
        parts.append(ellipsoid(0.09, 0.09, 0.1, 8, 12).move(0, 0, long / 2 - 0.04).paint(contrast(p.main, INK, WHITE)))
    return parts + mirrored(pieces)


def train(p: Paint) -> list[Shape]:
    """Build a train with wheels in the accent colour."""
    long, radius, ride, cab = p.u(1.4, 1.6), p.u(0.27, 0.31), 0.3, p.u(0.42, 0.5)
    y, front, rear = ride + radius, long / 2, -long / 2
    glass, dark = contrast(p.main, GLASS, DARK_GLASS), contrast(p.main, INK, GREY)
    gold = contrast(p.main, GLOW, GREY)
    parts = [
        box(0.46, 0.18, long, 0.02).move(0, ride - 0.04).paint(dark),
        cylinder(radius, long - cab, rounding=0.04).rotate("x", 90).move(0, y, rear + cab).paint(p.main),
        disc(radius * 0.8, 0.08, 18).move(0, y, front).paint(dark),
        ellipsoid(0.11, 0.11, 0.09, 8, 12).move(0, y, front + 0.05).paint(GLOW),
        box(0.64, 0.68, cab, 0.03).move(0, ride + 0.38, rear + cab / 2).paint(p.main),
        box(0.76, 0.1, cab + 0.16, 0.04).move(0, ride + 0.75, rear + cab / 2).paint(dark),
        box(0.67, 0.24, cab * 0.5).move(0, ride + 0.52, rear + cab / 2).paint(glass),
        box(0.4, 0.22, cab + 0.04).move(0, ride + 0.52, rear + cab / 2).paint(glass),
        cylinder(0.1, p.u(0.3, 0.4), 0.16, segments=14).move(0, y + radius - 0.06, front - 0.22).paint(dark),
        ellipsoid(0.13, 0.15, 0.13, 8, 14).move(0, y + radius, rear + cab + 0.3).paint(gold),
        side_profile([(0, 0), (0.26, 0), (0, 0.24)], 0.52).move(0, 0.05, front - 0.03).paint(gold),
    ]
    for z in (rear + cab + 0.12, front - 0.06):
        parts.append(cylinder(radius + 0.025, 0.08).rotate("x", 90).move(0, y, z - 0.04).paint(gold))
    big, small = p.u(0.22, 0.26), 0.16
    pieces = []
    for z, size in ((rear + 0.26, big), (rear + 0.34 + 2 * big, big), (front - 0.2, small)):
        pieces += [s.move(0.29, size, z) for s in wheel(size, 0.12, p.accent, contrast(p.accent, GLOW, GREY))]
    return parts + mirrored(pieces)


def truck(p: Paint) -> list[Shape]:
    """Build a truck with a cab in the accent colour."""
    long, wide, ride, cab = p.u(1.6, 1.8), p.u(0.66, 0.74), 0.2, p.u(0.46, 0.54)
    tall, head = p.u(0.72, 0.84), p.u(0.6, 0.68)
    front, glass = long / 2, contrast(p.accent, GLASS, DARK_GLASS)
    dark, metal = contrast(p.main, INK, GREY), contrast(p.accent, GREY, INK)
    cargo, middle = long - cab - 0.08, -(cab + 0.08) / 2
    nose = [(0, 0), (cab, 0), (cab, head * 0.5), (cab - 0.12, head), (0, head)]
    parts = [
        box(wide * 0.7, 0.16, long - 0.1, 0.02).move(0, ride).paint(dark),
        box(wide, tall, cargo, 0.05).move(0, ride + 0.04 + tall / 2, middle).paint(p.main),
        side_profile(nose, wide * 0.94, 0.04).move(0, ride - 0.02, front - cab).paint(p.accent),
        box(wide * 0.78, head * 0.36, 0.06, 0.02)
        .rotate("x", -22)
        .move(0, ride + head * 0.72, front - 0.055)
        .paint(glass),
        box(wide * 0.97, head * 0.32, cab * 0.42).move(0, ride + head * 0.66, front - cab * 0.52).paint(glass),
        box(wide * 0.5, head * 0.22, 0.06).move(0, ride + head * 0.24, front + 0.01).paint(metal),
        box(wide, 0.1, 0.12, 0.02).move(0, ride - 0.01, front).paint(metal),
    ]
    line = contrast(p.main, WHITE, INK)
    parts.append(box(wide + 0.04, 0.09, cargo * 0.8).move(0, ride + tall * 0.62, middle).paint(line))
    pieces = [
        box(wide * 0.42, tall * 0.82, 0.06).move(wide * 0.23, ride + 0.04 + tall / 2, -front).paint(shade(p.main, 0.85))
    ]
    pieces += [box(0.06, 0.24, 0.06).move(0.06, ride + tall * 0.5, -front - 0.04).paint(line)]
    pieces += [ellipsoid(0.085, 0.085, 0.06, 6, 12).move(wide * 0.36, ride + head * 0.24, front).paint(GLOW)]
    size = p.u(0.2, 0.23)
    for z in (-front + 0.24, -front + 0.26 + 2 * size, front - cab * 0.55):
        pieces += [
            s.move(wide / 2 - 0.05, size, z) for s in wheel(size, 0.18, contrast(p.main, INK, (0.36, 0.36, 0.39)))
        ]
    return parts + mirrored(pieces)


def helicopter(p: Paint) -> list[Shape]:
    """Build a helicopter with a rotor in the accent colour."""
    wide, tall, long = p.u(0.34, 0.4), p.u(0.36, 0.42), p.u(0.5, 0.58)
    boom, reach, metal = p.u(0.75, 0.9), p.u(0.75, 0.88), contrast(p.main, GREY, INK)
    turn = p.u(20, 70)
    fin = [(-0.04, -0.08), (0.18, -0.08), (-0.02, 0.34), (-0.2, 0.34)]
    glass = contrast(p.main, GLASS, DARK_GLASS)
    parts = [
        ellipsoid(wide, tall, long, 12, 20).paint(p.main),
        ellipsoid(wide * 0.86, tall * 0.7, long * 0.6, 10, 18).move(0, tall * 0.18, long * 0.46).paint(glass),
        box(wide * 2.03, tall * 0.5, long * 0.36, 0.05).scale(0.94, 1, 1).move(0, tall * 0.2, -0.04).paint(glass),
        cylinder(0.16, boom + 0.2, 0.08, segments=14).rotate("x", -92).move(0, 0.06, -long + 0.22).paint(p.main),
        side_profile(fin, 0.08).move(0, 0.14, -long - boom + 0.12).paint(p.main),
        cylinder(0.12, 0.16, 0.09, segments=14).move(0, tall - 0.05).paint(metal),
        cylinder(0.06, 0.3, segments=10).move(0, tall - 0.05).paint(metal),
        ellipsoid(0.12, 0.08, 0.12, 8, 12).move(0, tall + 0.26).paint(p.accent),
    ]
    for k in (0, 1):
        blade = box(2 * reach, 0.09, 0.16, 0.02).rotate("y", turn + 90 * k)
        parts.append(blade.move(0, tall + 0.24 + 0.015 * k).paint(p.accent))
        tail = box(0.06, 0.44, 0.1, 0.01).rotate("x", 45 + 90 * k)
        parts.append(tail.move(0.13 + 0.01 * k, 0.2, -long - boom + 0.1).paint(p.accent))
    skid = tube([(-0.55, 0), (0.4, 0), (0.5, 0.05), (0.56, 0.14)], 0.05, 10).rotate("y", -90)
    pieces = [skid.move(wide * 0.9, -tall - 0.18).paint(metal)]
    for z in (-0.22, 0.24):
        pieces.append(cylinder(0.04, 0.36, segments=8).rotate("z", 18).move(wide * 0.9, -tall - 0.18, z).paint(metal))
    return parts + mirrored(pieces)


def tractor(p: Paint) -> list[Shape]:
    """Build a tractor with wheels in the accent colour."""
    long, wide, big, small = p.u(0.72, 0.84), p.u(0.36, 0.42), p.u(0.4, 0.46), p.u(0.22, 0.25)
    glass, metal = contrast(p.main, GLASS, DARK_GLASS), contrast(p.main, GREY, INK)
    y, cab = big * 0.75, p.u(0.5, 0.58)
    hood = [(0, 0), (long, 0), (long + 0.03, 0.26), (long - 0.06, 0.34), (0, 0.38)]
    hub = contrast(p.accent, GLOW, COLORS["red"])
    parts = [
        side_profile(hood, wide, 0.05).move(0, y).paint(p.main),
        box(wide * 0.6, 0.14, long + 0.5, 0.02).move(0, y - 0.02, 0.22).paint(metal),
        box(wide * 1.2, 0.42, 0.5, 0.05).move(0, y + 0.16, -0.22).paint(p.main),
        box(wide * 1.1, cab, 0.46, 0.03).move(0, y + 0.36 + cab / 2, -0.2).paint(glass),
        box(wide * 1.36, 0.1, 0.62, 0.04).move(0, y + 0.38 + cab, -0.2).paint(p.main),
        box(wide * 0.76, 0.24, 0.06, 0.02).move(0, y + 0.15, long + 0.03).paint(metal),
        cylinder(0.05, 0.38, segments=10).move(wide * 0.22, y + 0.3, long * 0.62).paint(metal),
        cylinder(0.07, 0.12, segments=10).move(wide * 0.22, y + 0.6, long * 0.62).paint(metal),
    ]
    pieces = [ellipsoid(0.075, 0.075, 0.06, 6, 12).move(wide * 0.3, y + 0.26, long + 0.02).paint(GLOW)]
    pieces += [
        box(0.06, cab - 0.02, 0.06).move(wide * 0.53, y + 0.36 + cab / 2, z).paint(p.main) for z in (-0.41, 0.01)
    ]
    fender = arc(big + 0.05, 0.07, 10, 150, 12).scale(1, 1, 1.6).rotate("y", -90)
    pieces.append(fender.move(wide * 0.5 + 0.12, big, -0.22).paint(p.main))
    pieces += [s.move(wide * 0.5 + 0.14, big, -0.22) for s in wheel(big, 0.22, p.accent, hub)]
    pieces += [s.move(wide * 0.5 + 0.1, small, long - 0.2) for s in wheel(small, 0.16, p.accent, hub)]
    for i in range(9):
        lug = box(0.24, 0.09, 0.08).move(0, big, 0).rotate("x", 40 * i + 9)
        pieces.append(lug.move(wide * 0.5 + 0.14, big, -0.22).paint(p.accent))
    return parts + mirrored(pieces)


def submarine(p: Paint) -> list[Shape]:
    """Build a submarine with a tower in the accent colour."""
    radius, long, tower = p.u(0.3, 0.35), p.u(0.72, 0.84), p.u(0.3, 0.36)
    metal, pane = contrast(p.main, GLOW, GREY), contrast(p.main, GLASS, DARK_GLASS)
    sail = prism(rectangle(0.3, 0.5, 0.14), tower + 0.16, 0.03).rotate("x", -90)
    pipe = tube([(0, 0), (0, 0.26), (0.03, 0.31), (0.09, 0.34), (0.17, 0.34)], 0.05, 10).rotate("y", -90)
    parts = [
        ellipsoid(radius, radius, long, 14, 20).paint(p.main),
        sail.move(0, radius + tower / 2 - 0.12, 0.04).paint(p.accent),
        box(0.36, 0.07, 0.56, 0.03).move(0, radius + tower - 0.02, 0.04).paint(contrast(p.accent, WHITE, GREY)),
        pipe.move(0, radius + tower - 0.04, 0.06).paint(metal),
        ellipsoid(0.07, 0.07, 0.05, 6, 12)
        .move(0, radius + tower + 0.3, 0.24)
        .paint(contrast(metal, DARK_GLASS, GLASS)),
        ellipsoid(radius * 0.52, radius * 0.52, 0.1, 8, 16).move(0, 0, long * 0.86).paint(metal),
        ellipsoid(radius * 0.38, radius * 0.38, 0.1, 8, 16).move(0, 0, long * 0.9).paint(pane),
        cylinder(0.12, 0.2, 0.08, segments=12).rotate("x", -90).move(0, 0, -long * 0.92).paint(metal),
        side_profile([(-0.14, 0), (0.16, 0), (0.0, radius + 0.1), (-0.14, radius + 0.1)], 0.07)
        .move(0, 0, -long * 0.78)
        .paint(p.main),
    ]
    for i in range(4):
        blade = ellipsoid(0.1, 0.17, 0.04, 6, 10).rotate("y", 30).move(0, 0.18).rotate("z", 90 * i + 45)
        parts.append(blade.move(0, 0, -long - 0.06).paint(metal))
    pieces = [box(0.34, 0.07, 0.22, 0.02).move(radius * 0.85, 0, -long * 0.62).paint(p.main)]
    for z in (-0.34, 0.0, 0.34):
        x = radius * np.sqrt(1 - (z / long) ** 2)
        port = cylinder(0.105, 0.1, 0.09, segments=14).rotate("z", -90).move(x - 0.07, 0.04, z)
        pieces += [port.paint(metal), ellipsoid(0.05, 0.07, 0.07, 6, 12).move(x + 0.02, 0.04, z).paint(pane)]
    return parts + mirrored(pieces)


BUILDERS: dict[str, Builder] = {
    "bus": bus,
    "airplane": airplane,
    "train": train,
    "truck": truck,
    "helicopter": helicopter,
    "tractor": tractor,
    "submarine": submarine,
}
