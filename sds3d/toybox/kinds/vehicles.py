"""How vehicles of rails, air and water are built: train, airplane, helicopter and submarine."""

from __future__ import annotations

import numpy as np

from sds3d.toybox.kinds.road import rubber, tail_light
from sds3d.toybox.paint import DARK_GLASS, GLASS, GLOW, GREY, INK, WHITE, Paint, contrast, shade
from sds3d.toybox.parts import Builder, mirrored, side_profile, wheel
from sds3d.toybox.shapes import Shape, box, cylinder, disc, ellipsoid, lathe, prism, rectangle, tube
from sds3d.toybox.world import COLORS


def train(p: Paint) -> list[Shape]:
    """Build a steam or a diesel locomotive with wheels in the accent colour."""
    return _steam(p) if p.rng.random() < 0.5 else _diesel(p)


def _wheels(p: Paint, x: float, places: list[tuple[float, float]]) -> list[Shape]:
    """Build the wheels of one side of a train from pairs of a place along Z and a radius."""
    hub = contrast(p.accent, GLOW, GREY)
    return [s.move(x, size, z) for z, size in places for s in wheel(size, 0.13, p.accent, hub)]


def _steam(p: Paint) -> list[Shape]:
    long, radius, ride, cab = p.u(1.4, 1.55), p.u(0.27, 0.31), 0.3, p.u(0.42, 0.5)
    y, front, rear = ride + radius, long / 2, -long / 2
    glass, dark = contrast(p.main, GLASS, DARK_GLASS), contrast(p.main, INK, GREY)
    gold, big = contrast(p.main, GLOW, GREY), p.u(0.22, 0.25)
    parts = [
        box(0.44, 0.18, long - 0.02, 0.02).move(0, ride - 0.04).paint(dark),
        cylinder(radius, long - cab, rounding=0.04).rotate("x", 90).move(0, y, rear + cab - 0.03).paint(p.main),
        disc(radius * 0.8, 0.1, 18).move(0, y, front).paint(dark),
        ellipsoid(0.11, 0.11, 0.09, 8, 12).move(0, y, front + 0.05).paint(GLOW),
        box(0.64, 0.68, cab, 0.03).move(0, ride + 0.38, rear + cab / 2).paint(p.main),
        box(0.78, 0.1, cab + 0.16, 0.04).move(0, ride + 0.75, rear + cab / 2).paint(dark),
        box(0.68, 0.26, cab * 0.5).move(0, ride + 0.52, rear + cab / 2).paint(glass),
        cylinder(0.1, p.u(0.3, 0.4), 0.17, segments=14).move(0, y + radius - 0.06, front - 0.22).paint(dark),
        ellipsoid(0.13, 0.16, 0.13, 8, 14).move(0, y + radius, rear + cab + 0.3).paint(gold),
        side_profile([(0, 0), (0.28, 0), (0, 0.25)], 0.54).move(0, 0.04, front - 0.03).paint(gold),
        # The back: a door between two windows, and buffers under red lamps.
        box(0.18, 0.5, 0.08, 0.02).move(0, ride + 0.32, rear).paint(dark),
        box(0.56, 0.12, 0.1, 0.02).move(0, ride - 0.03, rear - 0.02).paint(contrast(p.main, GREY, INK)),
    ]
    for z in (rear + cab + 0.12, front - 0.06):
        parts.append(cylinder(radius + 0.03, 0.08).rotate("x", 90).move(0, y, z - 0.04).paint(gold))
    pieces = [
        box(0.13, 0.2, cab + 0.06).move(0.2, ride + 0.54, rear + cab / 2).paint(glass),
        ellipsoid(0.055, 0.055, 0.05, 6, 10).move(0.22, ride + 0.16, rear - 0.01).paint(tail_light(p.main)),
        cylinder(0.075, 0.1, segments=12).rotate("x", -90).move(0.18, ride - 0.03, rear - 0.04).paint(INK),
        box(0.07, 0.07, 2 * big + 0.16, 0.01).move(0.38, big, rear + 0.29 + big).paint(contrast(p.accent, GREY, INK)),
    ]
    places = [(rear + 0.26, big), (rear + 0.32 + 2 * big, big), (front - 0.17, 0.16)]
    return parts + mirrored(pieces + _wheels(p, 0.29, places))


def _diesel(p: Paint) -> list[Shape]:
    long, wide, tall, ride = p.u(1.5, 1.65), p.u(0.56, 0.62), p.u(0.62, 0.7), 0.27
    front, rear, size = long / 2, -long / 2, p.u(0.165, 0.185)
    glass, dark = contrast(p.main, GLASS, DARK_GLASS), contrast(p.main, INK, GREY)
    line, y = contrast(p.main, WHITE, INK), ride + tall
    hull = [(rear, 0), (front, 0), (front + 0.03, tall * 0.44), (front - 0.2, tall * 0.94)]
    hull += [(front - 0.3, tall), (rear, tall)]
    pane = box(wide * 0.4, tall * 0.4, 0.08, 0.02).rotate("x", -31).move(wide * 0.225, ride + tall * 0.69, front - 0.08)
    pieces = [
        pane.paint(glass),
        ellipsoid(0.085, 0.085, 0.07, 6, 12).move(wide * 0.3, ride + tall * 0.25, front + 0.01).paint(GLOW),
        box(0.1, 0.13, 0.08, 0.02).move(wide * 0.34, ride + tall * 0.28, rear).paint(tail_light(p.main)),
        box(wide * 0.22, tall * 0.3, 0.08, 0.02).move(wide * 0.32, ride + tall * 0.69, rear).paint(glass),
        box(0.08, tall * 0.3, long * 0.12).move(wide * 0.5, ride + tall * 0.69, front - 0.4).paint(glass),
    ]
    places = [(z * long, size) for z in (-0.37, -0.145, 0.145, 0.37)]
    pieces += _wheels(p, wide / 2 - 0.03, places)
    parts = [
        side_profile(hull, wide, 0.05).move(0, ride).paint(p.main),
        box(wide * 0.7, 0.16, long - 0.08, 0.02).move(0, ride - 0.05).paint(dark),
        box(wide + 0.05, tall * 0.13, long * 0.94, 0.01).move(0, ride + tall * 0.4, -0.01).paint(line),
        box(wide * 0.22, tall * 0.7, 0.1, 0.02).move(0, ride + tall * 0.43, rear).paint(dark),
        box(0.16, 0.12, 0.14).move(0, ride - 0.05, rear - 0.04).paint(GREY),
        side_profile([(0, 0), (0.14, 0), (0.03, 0.17)], wide * 0.9).move(0, 0.06, front - 0.08).paint(dark),
        box(wide * 0.5, 0.12, long * 0.5, 0.03).move(0, y, -long * 0.16).paint(shade(p.main, 0.8)),
    ]
    for z in (-0.32, -0.14):
        parts.append(cylinder(wide * 0.17, 0.1, segments=14).move(0, y + 0.02, z * long).paint(dark))
    for z in (-0.34, -0.19, -0.04):
        parts.append(box(wide + 0.04, tall * 0.22, long * 0.09).move(0, ride + tall * 0.7, z * long).paint(glass))
    return parts + mirrored(pieces)


def airplane(p: Paint) -> list[Shape]:
    """Build a propeller plane or a jet liner with wings and tail in the accent colour."""
    propeller = p.rng.random() < 0.5
    radius, span = p.u(0.2, 0.25), p.u(0.8, 0.95)
    long = p.u(1.3, 1.45) if propeller else p.u(1.55, 1.75)
    hull = [(0, 0), (0.3, 0.02), (0.62, 0.18), (0.95, 0.42), (1, 0.58), (1, 0.8), (0.82, 0.92), (0.45, 0.985), (0, 1)]
    glass, metal = contrast(p.main, GLASS, DARK_GLASS), contrast(p.main, GREY, INK)
    line, wings, marks = contrast(p.main, WHITE, INK), p.accent, contrast(p.accent, WHITE, INK)
    if propeller:
        outline, root = [(0.03, -0.2), (span - 0.1, -0.18), (span, -0.08), (span - 0.04, 0.14), (0.03, 0.2)], 0.1
        band = [(span * 0.6, -0.2), (span * 0.73, -0.2), (span * 0.73, 0.17), (span * 0.6, 0.175)]
    else:
        outline, root = [(0.03, -0.2), (span, -0.46), (span, -0.26), (0.03, 0.24)], 0.06
        band = [(span * 0.72, -0.4), (span * 0.85, -0.435), (span * 0.85, -0.17), (span * 0.72, -0.1)]
    rise = p.u(3, 8)
    wing = prism(outline, 0.09, 0.02).rotate("x", 90).rotate("z", rise)
    mark = prism(band, 0.13, 0.02).rotate("x", 90).rotate("z", rise)
    rear = prism([(0.03, -0.16), (span * 0.42, -0.22), (span * 0.42, -0.04), (0.03, 0.14)], 0.08, 0.02)
    fin = side_profile([(-0.2, 0), (0.2, 0), (-0.06, 0.42), (-0.24, 0.42)], 0.09, 0.02)
    parts = [
        lathe([(r * radius, y * long) for r, y in hull], 20).rotate("x", 90).move(0, 0, -long / 2).paint(p.main),
        fin.move(0, radius * 0.2, -long * 0.38).paint(wings),
        side_profile([(-0.24, 0.24), (0.09, 0.24), (0.025, 0.34), (-0.25, 0.34)], 0.13, 0.02)
        .move(0, radius * 0.2, -long * 0.38)
        .paint(marks),
        ellipsoid(0.06, 0.06, 0.06, 6, 10).move(0, radius * 0.05, -long / 2).paint(tail_light(p.main)),
    ]
    pieces = [
        wing.move(0, -radius * 0.4, root).paint(wings),
        mark.move(0, -radius * 0.4, root).paint(marks),
        rear.rotate("x", 90).move(0, radius * 0.1, -long * 0.41).paint(wings),
    ]
    if propeller:
        parts += [
            ellipsoid(radius * 0.7, radius * 0.75, 0.27, 10, 16).move(0, radius * 0.72, long * 0.06).paint(glass),
            box(radius * 1.5, radius * 0.9, 0.07, 0.03).move(0, radius * 1.04, long * 0.06).paint(p.main),
            lathe([(0, 0), (radius * 1.04, 0), (radius * 1.04, 0.12), (0, 0.12)], 20)
            .rotate("x", 90)
            .move(0, 0, long * 0.26)
            .paint(line),
            ellipsoid(0.1, 0.1, 0.15, 8, 12).move(0, 0, long / 2).paint(contrast(p.main, COLORS["red"], GLOW)),
        ]
        blade = box(0.11, radius * 1.7, 0.06, 0.02).move(0, radius * 0.95, long / 2 + 0.01).paint(metal)
        parts += [blade.rotate("z", turn + 20) for turn in (0, 120, 240)]
        for part in wheel(0.12, 0.1, rubber(p.main)):
            pieces.append(part.move(0.27, -radius - 0.14, long * 0.14))
        leg = cylinder(0.035, 0.26, segments=8).move(0.22, -radius - 0.14, long * 0.14)
        pieces.append(leg.paint(metal))
        return parts + mirrored(pieces)
    parts.append(ellipsoid(radius * 0.72, radius * 0.5, 0.2, 8, 14).move(0, radius * 0.66, long * 0.33).paint(glass))
    for z in np.linspace(-0.22, 0.2, 6) * long:
        parts.append(ellipsoid(radius * 1.04, 0.07, 0.07, 8, 14).move(0, radius * 0.25, z).paint(glass))
    engine = cylinder(0.12, 0.38, 0.09, rounding=0.03, segments=14).rotate("x", -90)
    x, y, z = span * 0.42, -radius * 0.4 - 0.1, 0.2
    pieces += [
        engine.move(x, y, z).paint(metal),
        disc(0.085, 0.06, 14).move(x, y, z).paint(contrast(metal, INK, WHITE)),
        disc(0.06, 0.06, 12).move(x, y, z - 0.38).paint(contrast(p.main, GLOW, COLORS["red"])),
        box(0.07, 0.12, 0.2).move(x, y + 0.1, z - 0.16).paint(metal),
    ]
    parts.append(ellipsoid(0.09, 0.09, 0.1, 8, 12).move(0, 0, long / 2 - 0.04).paint(contrast(p.main, INK, WHITE)))
    return parts + mirrored(pieces)


def helicopter(p: Paint) -> list[Shape]:
    """Build a round helicopter on skids or a long one on wheels, with rotors in the accent colour."""
    skids = p.rng.random() < 0.5
    wide, tall = p.u(0.34, 0.4), p.u(0.36, 0.42)
    long = p.u(0.5, 0.56) if skids else p.u(0.66, 0.74)
    boom, reach, metal = p.u(0.7, 0.82), p.u(0.75, 0.88), contrast(p.main, GREY, INK)
    turn, glass = p.u(20, 70), contrast(p.main, GLASS, DARK_GLASS)
    hub = tall + (0.26 if skids else 0.2)
    fin = [(-0.04, -0.08), (0.18, -0.08), (-0.02, 0.34), (-0.2, 0.34)]
    end = -long - boom + 0.12
    parts = [
        cylinder(0.16, boom + 0.2, 0.08, segments=14).rotate("x", -92).move(0, 0.06, -long + 0.22).paint(p.main),
        side_profile(fin, 0.09, 0.02).move(0, 0.14, end).paint(p.main),
        cylinder(0.055, 0.3, segments=10).move(0, hub - 0.3).paint(metal),
        ellipsoid(0.14, 0.085, 0.14, 8, 12).move(0, hub).paint(p.accent),
        ellipsoid(0.055, 0.055, 0.06, 6, 10).move(0, 0.06, end - 0.1).paint(tail_light(p.main)),
    ]
    if skids:
        parts += [
            ellipsoid(wide, tall, long, 12, 20).paint(p.main),
            ellipsoid(wide * 0.86, tall * 0.72, long * 0.6, 10, 18).move(0, tall * 0.16, long * 0.47).paint(glass),
            box(wide * 1.94, tall * 0.5, long * 0.38, 0.05).move(0, tall * 0.2, -0.06).paint(glass),
            box(0.07, tall * 1.1, 0.1).rotate("x", -30).move(0, tall * 0.3, long * 0.93).paint(p.main),
            cylinder(0.15, 0.14, 0.1, segments=14).move(0, tall - 0.06).paint(metal),
        ]
        skid = tube([(-0.5, 0), (0.4, 0), (0.5, 0.05), (0.56, 0.14)], 0.05, 10).rotate("y", -90)
        pieces = [skid.move(wide * 0.9, -tall - 0.18).paint(metal)]
        leg = cylinder(0.04, 0.36, segments=8).rotate("z", 18).move(wide * 0.9, -tall - 0.18).paint(metal)
        pieces += [leg.move(0, 0, z) for z in (-0.22, 0.24)]
        arms = 4
    else:
        low = [(-long, -0.1), (-long * 0.7, -tall * 0.84), (long * 0.75, -tall * 0.84), (long, -tall * 0.3)]
        body = [*low, (long * 0.96, 0), (long * 0.6, tall * 0.62), (-long * 0.8, tall * 0.62)]
        parts += [
            side_profile(body, 2 * wide * 0.92, 0.09).paint(p.main),
            box(wide * 1.3, 0.24, long * 0.9, 0.07).move(0, tall * 0.66, -0.06).paint(shade(p.main, 0.82)),
            box(wide * 1.86, tall * 0.4, long * 0.26).move(0, tall * 0.18, long * 0.44).paint(glass),
            box(wide * 1.86, tall * 0.4, long * 0.22).move(0, tall * 0.18, -long * 0.02).paint(glass),
            box(wide * 1.86, tall * 0.4, long * 0.22).move(0, tall * 0.18, -long * 0.38).paint(glass),
            ellipsoid(0.09, 0.08, 0.08, 6, 12).move(0, -tall * 0.5, long * 0.93).paint(GLOW),
        ]
        pane = box(wide * 0.76, tall * 0.66, 0.09, 0.03).rotate("x", -32).move(wide * 0.43, tall * 0.3, long * 0.8)
        pieces = [pane.paint(glass)]
        pieces.append(disc(0.075, 0.1, 12).move(wide * 0.34, tall * 0.7, -long * 0.51).paint(INK))
        for part in wheel(0.13, 0.12, rubber(p.main)):
            pieces += [part.move(wide * 0.92, -tall * 0.86, z * long) for z in (-0.5, 0.55)]
        arms = 3
    blade = box(reach - 0.08, 0.085, 0.17, 0.02).move(reach / 2 + 0.04).paint(p.accent)
    parts += [blade.rotate("y", turn + 360 / arms * k).move(0, hub) for k in range(arms)]
    paddle = box(0.07, 0.2, 0.11, 0.01).move(0, 0.14).paint(p.accent)
    parts += [paddle.rotate("x", 45 + 90 * k).move(0.12, 0.2, end - 0.02) for k in range(4)]
    parts.append(ellipsoid(0.09, 0.07, 0.07, 6, 10).move(0.1, 0.2, end - 0.02).paint(metal))
    return parts + mirrored(pieces)


def submarine(p: Paint) -> list[Shape]:
    """Build a round submarine with portholes or a long one with a glass bow, its tower in the accent colour."""
    bow = p.rng.random() < 0.5
    radius, tower = (p.u(0.25, 0.29), p.u(0.27, 0.32)) if bow else (p.u(0.31, 0.36), p.u(0.3, 0.36))
    long = p.u(0.84, 0.94) if bow else p.u(0.68, 0.78)
    metal, pane = contrast(p.main, GLOW, GREY), contrast(p.main, GLASS, DARK_GLASS)
    z = 0.12 if bow else 0.04
    sail = prism(rectangle(0.3, 0.5, 0.14), tower + 0.16, 0.03).rotate("x", -90)
    pipe = tube([(0, 0), (0, 0.26), (0.03, 0.31), (0.09, 0.34), (0.17, 0.34)], 0.05, 10).rotate("y", -90)
    parts = [
        sail.move(0, radius + tower / 2 - 0.12, z).paint(p.accent),
        box(0.36, 0.08, 0.56, 0.03).move(0, radius + tower - 0.02, z).paint(contrast(p.accent, WHITE, GREY)),
        pipe.move(0, radius + tower - 0.05, z + 0.02).paint(metal),
        ellipsoid(0.07, 0.07, 0.05, 6, 12)
        .move(0, radius + tower + 0.3, z + 0.2)
        .paint(contrast(metal, DARK_GLASS, GLASS)),
        cylinder(0.13, 0.2, 0.09, segments=12).rotate("x", -90).move(0, 0, -long * 0.9).paint(metal),
        ellipsoid(0.055, 0.055, 0.05, 6, 10).move(0, radius + tower - 0.12, z - 0.26).paint(tail_light(p.accent)),
    ]
    rudder = [(-0.16, 0), (0.18, 0), (0.0, radius + 0.1), (-0.16, radius + 0.1)]
    parts.append(side_profile(rudder, 0.08, 0.02).move(0, 0, -long * 0.76).paint(shade(p.main, 0.8)))
    pieces = [box(0.36, 0.08, 0.24, 0.02).move(radius * 0.85, 0, -long * 0.66).paint(shade(p.main, 0.8))]
    screw = ellipsoid(0.1, 0.17, 0.045, 6, 10).rotate("y", 30).move(0, 0.18).paint(metal)
    parts += [screw.rotate("z", 90 * i + 45).move(0, 0, -long - 0.06) for i in range(4)]
    if bow:
        shape = [(0, 0), (0.42, 0.03), (0.8, 0.2), (1, 0.42), (1, 0.84), (0.94, 0.9), (0, 0.9)]
        parts += [
            lathe([(r * radius, 2 * long * y) for r, y in shape], 20).rotate("x", 90).move(0, 0, -long).paint(p.main),
            ellipsoid(radius * 0.9, radius * 0.9, radius * 0.95, 10, 18).move(0, 0, long * 0.78).paint(pane),
            cylinder(radius * 1.06, 0.09, segments=20).rotate("x", 90).move(0, 0, long * 0.72).paint(metal),
        ]
        pieces += [
            ellipsoid(0.085, 0.085, 0.09, 6, 12).move(radius * 0.8, -radius * 0.9, long * 0.62).paint(GLOW),
            cylinder(0.07, long * 0.9, rounding=0.03, segments=10)
            .rotate("x", 90)
            .move(radius * 0.8, -radius * 0.9, -long * 0.3)
            .paint(shade(p.main, 0.8)),
            box(0.24, 0.08, 0.2, 0.02).move(0.22, radius + tower * 0.4, z).paint(p.accent),
        ]
        ports = [(-0.3 * long, radius), (0.2 * long, radius)]
    else:
        parts += [
            ellipsoid(radius, radius, long, 14, 20).paint(p.main),
            ellipsoid(radius * 0.56, radius * 0.56, 0.1, 8, 16).move(0, 0, long * 0.85).paint(metal),
            ellipsoid(radius * 0.42, radius * 0.42, 0.11, 8, 16).move(0, 0, long * 0.89).paint(pane),
        ]
        ports = [(k, radius * float(np.sqrt(1 - (k / long) ** 2))) for k in (-0.34, 0.0, 0.34)]
    for k, x in ports:
        port = cylinder(0.11, 0.1, 0.095, segments=14).rotate("z", -90).move(x - 0.07, 0.04, k)
        pieces += [port.paint(metal), ellipsoid(0.05, 0.075, 0.075, 6, 12).move(x + 0.02, 0.04, k).paint(pane)]
    return parts + mirrored(pieces)


BUILDERS: dict[str, Builder] = {
    "train": train,
    "airplane": airplane,
    "helicopter": helicopter,
    "submarine": submarine,
}
