"""Furniture and other large things of a home."""

from __future__ import annotations

import numpy as np

from sds3d.toybox.paint import GLASS, GLOW, GREY, INK, WHITE, WOOD, Paint, contrast, shade
from sds3d.toybox.parts import Builder, corners, mirrored, side_profile
from sds3d.toybox.shapes import Shape, arc, box, cylinder, disc, ellipsoid, lathe, prism, rectangle, tube
from sds3d.toybox.world import COLORS


def sofa(p: Paint) -> list[Shape]:
    """Build a sofa with cushions in the accent colour."""
    wide, deep, seat, back = p.u(1.3, 1.5), p.u(0.62, 0.72), p.u(0.28, 0.34), p.u(0.42, 0.52)
    arm, wood = p.u(0.18, 0.24), contrast(p.main, WOOD, (0.82, 0.66, 0.42))
    pad = (wide - 2 * arm) / 2
    pillow = contrast(p.accent, GLOW, COLORS["blue"])
    parts = [
        box(wide, seat, deep, 0.05).move(0, 0.1 + seat / 2).paint(p.main),
        box(wide, back + seat, 0.22, 0.09).rotate("x", -6).move(0, 0.1 + (back + seat) / 2, -deep / 2).paint(p.main),
        box(0.3, 0.3, 0.14, 0.06)
        .rotate("z", 14)
        .rotate("x", -20)
        .move(-wide / 2 + arm + 0.2, 0.1 + seat + 0.3, -deep / 2 + 0.32)
        .paint(pillow),
    ]
    side = box(arm, seat + 0.2, deep + 0.08, 0.08).move(wide / 2 - arm / 2 + 0.03, 0.1 + (seat + 0.2) / 2, 0.02)
    cushion = box(pad - 0.02, 0.16, deep - 0.1, 0.06).move(pad / 2, 0.1 + seat + 0.07, 0.07)
    rest = (
        box(pad - 0.02, back * 0.78, 0.16, 0.06).rotate("x", -8).move(pad / 2, 0.14 + seat + back / 2, -deep / 2 + 0.16)
    )
    parts += corners(cylinder(0.06, 0.14, segments=10).paint(wood), wide / 2 - 0.1, deep / 2 - 0.08)
    return parts + mirrored([side.paint(p.main), cushion.paint(p.accent), rest.paint(p.accent)])


def bed(p: Paint) -> list[Shape]:
    """Build a bed with a blanket in the accent colour."""
    wide, long, frame, head = p.u(0.85, 1.0), p.u(1.35, 1.5), 0.22, p.u(0.6, 0.75)
    front = long / 2
    sheet, low = contrast(p.accent, WHITE, (0.6, 0.8, 0.95)), 0.14
    parts = [
        box(wide, frame, long, 0.03).move(0, low + frame / 2).paint(p.main),
        box(wide + 0.1, head + 0.14, 0.12, 0.08).move(0, (head + 0.14) / 2 + 0.1, -front).paint(p.main),
        box(wide + 0.1, 0.4, 0.12, 0.06).move(0, 0.3, front).paint(p.main),
        box(wide * 0.92, 0.2, long - 0.16, 0.05).move(0, low + frame + 0.06).paint(sheet),
        box(wide * 0.99, 0.24, long * 0.58, 0.05).move(0, low + frame + 0.09, long * 0.15).paint(p.accent),
        box(wide * 1.0, 0.25, 0.16, 0.05).move(0, low + frame + 0.09, -long * 0.13).paint(shade(sheet, 0.9)),
    ]
    pillow = box(wide * 0.4, 0.16, 0.28, 0.06).rotate("x", -18).move(wide * 0.22, low + frame + 0.22, -front + 0.24)
    knob = ellipsoid(0.09, rings=8, segments=12).move(wide / 2, head + 0.26, -front)
    parts += corners(cylinder(0.075, 0.24, segments=12).paint(shade(p.main, 0.75)), wide / 2 - 0.04, front - 0.02)
    return parts + mirrored([pillow.paint(WHITE), knob.paint(contrast(p.main, GLOW, WHITE))])


def bench(p: Paint) -> list[Shape]:
    """Build a bench with legs in the accent colour."""
    wide, deep, seat, back = p.u(1.3, 1.5), p.u(0.46, 0.54), p.u(0.4, 0.48), p.u(0.46, 0.56)
    parts = []
    for i in range(3):
        parts.append(box(wide, 0.08, deep / 3 - 0.04, 0.02).move(0, seat, (i - 1) * deep / 3).paint(p.main))
    for k in (0.34, 0.66, 0.98):
        slat = box(wide, back * 0.24, 0.08, 0.02).rotate("x", -12).move(0, seat + back * k, -deep / 2 - 0.05 - 0.11 * k)
        parts.append(slat.paint(p.main))
    x = wide / 2 - 0.16
    post = box(0.1, back + 0.12, 0.09).rotate("x", -12).move(x, seat + back / 2, -deep / 2 - 0.17)
    leg = box(0.1, seat + 0.02, 0.1).move(x, seat / 2 - 0.02, deep / 2 - 0.08)
    hind = box(0.1, seat + 0.08, 0.1).rotate("x", 10).move(x, seat / 2, -deep / 2 - 0.03)
    rail = box(0.1, 0.09, deep + 0.1).move(x, seat - 0.08)
    rest = box(0.12, 0.08, deep + 0.12, 0.03).move(x + 0.08, seat + 0.26)
    prop = box(0.08, 0.26, 0.08).move(x + 0.08, seat + 0.12, deep / 2 - 0.07)
    return parts + mirrored([s.paint(p.accent) for s in (post, leg, hind, rail, rest, prop)])


def piano(p: Paint) -> list[Shape]:
    """Build a piano with a stool in the accent colour."""
    wide, tall, deep = p.u(1.15, 1.3), p.u(0.9, 1.02), p.u(0.34, 0.4)
    front, shelf, seat = deep / 2, 0.44, p.u(0.27, 0.31)
    metal = contrast(p.main, GLOW, GREY)
    parts = [
        box(wide, tall, deep, 0.02).move(0, tall / 2).paint(p.main),
        box(wide + 0.08, 0.09, deep + 0.08, 0.03).move(0, tall).paint(shade(p.main, 0.8)),
        box(wide, 0.1, 0.34, 0.02).move(0, shelf - 0.04, front + 0.12).paint(p.main),
        box(wide - 0.16, 0.07, 0.26)
        .move(0, shelf + 0.03, front + 0.13)
        .paint(contrast(p.main, WHITE, (0.9, 0.88, 0.8))),
        box(wide * 0.52, 0.3, 0.06, 0.02).rotate("x", -14).move(0, tall - 0.24, front + 0.06).paint(shade(p.main, 0.8)),
        box(wide * 0.4, 0.24, 0.06).rotate("x", -14).move(0, tall - 0.22, front + 0.095).paint(WHITE),
        box(wide * 0.28, 0.05, 0.05).rotate("x", -14).move(0, tall - 0.2, front + 0.12).paint(GREY),
        box(wide * 0.8, tall * 0.7, 0.06, 0.02).move(0, tall * 0.48, -front).paint(shade(p.main, 0.72)),
        cylinder(0.23, 0.13, rounding=0.04, segments=18).move(0, seat, front + 0.62).paint(p.accent),
        cylinder(0.055, seat, segments=10).move(0, 0.02, front + 0.62).paint(metal),
        cylinder(0.18, 0.07, 0.12, segments=14).move(0, 0, front + 0.62).paint(p.accent),
    ]
    for i in range(10):
        if i not in (2, 6, 9):
            key = box(0.06, 0.06, 0.15).move((i - 4.4) * (wide - 0.2) / 10, shelf + 0.07, front + 0.09)
            parts.append(key.paint(INK))
    for x in (-0.1, 0.1):
        parts.append(box(0.07, 0.05, 0.14).move(x, 0.08, front + 0.05).paint(metal))
    cheek = box(0.08, 0.17, 0.36, 0.02).move(wide / 2 - 0.04, shelf + 0.01, front + 0.13)
    leg = cylinder(0.055, shelf - 0.04, segments=10).move(wide / 2 - 0.06, 0, front + 0.22)
    return parts + mirrored([cheek.paint(p.main), leg.paint(p.main)])


def ladder(p: Paint) -> list[Shape]:
    """Build a ladder with rungs in the accent colour."""
    wide, tall, spread, count = p.u(0.3, 0.36), p.u(1.3, 1.5), p.u(14, 19), 5
    reach = tall / np.cos(np.deg2rad(spread))
    lean = np.tan(np.deg2rad(spread))
    metal = contrast(p.main, GREY, INK)
    parts = [
        box(2 * wide + 0.02, 0.1, 0.3, 0.03).move(0, tall + 0.01).paint(p.accent),
        box(2 * wide, 0.08, 0.08).move(0, tall * 0.3, -tall * 0.7 * lean).paint(metal),
        box(2 * wide, 0.08, 0.08).move(0, tall * 0.68, -tall * 0.32 * lean).paint(metal),
    ]
    for i in range(count):
        y = tall * (i + 0.7) / (count + 0.6)
        parts.append(box(2 * wide + 0.06, 0.08, 0.2, 0.02).move(0, y, (tall - y) * lean + 0.03).paint(p.accent))
    rail = box(0.1, reach, 0.12, 0.02).move(0, -reach / 2)
    out = wide + 0.1 - 0.05
    pieces = [rail.rotate("x", -spread).rotate("z", 3).move(out - 0.03, tall).paint(p.main)]
    pieces += [
        rail.scale(0.8, 1, 0.7).rotate("x", spread).rotate("z", 3).move(out - 0.04, tall - 0.02, -0.03).paint(metal)
    ]
    pieces += [box(0.05, 0.06, tall * lean * 1.1).move(out + 0.03, tall * 0.45).paint(metal)]
    return parts + mirrored(pieces)


def clock(p: Paint) -> list[Shape]:
    """Build a clock with bells in the accent colour."""
    radius, depth, front = p.u(0.5, 0.56), p.u(0.28, 0.36), 0.0
    front = depth / 2
    dial = contrast(p.main, WHITE, (0.98, 0.92, 0.7))
    metal = contrast(p.main, GREY, INK)
    parts = [
        cylinder(radius, depth, rounding=0.06, segments=26).rotate("x", 90).move(0, 0, -front).paint(p.main),
        disc(radius * 0.82, 0.06, 26).move(0, 0, front).paint(dial),
        disc(radius * 0.5, 0.08, 20).move(0, 0, -front).paint(metal),
        box(0.09, 0.22, 0.07, 0.02).move(0, 0, -front - 0.08).paint(contrast(metal, GLOW, INK)),
        ellipsoid(0.07, 0.07, 0.05, 6, 12).move(0, 0, front + 0.09).paint(COLORS["red"]),
        cylinder(0.05, 0.26, segments=10).move(0, radius - 0.04).paint(metal),
        box(0.2, 0.1, 0.1, 0.03).move(0, radius + 0.22).paint(metal),
    ]
    for i in range(12):
        mark = box(0.055, 0.13 if i % 3 == 0 else 0.06, 0.05).move(0, radius * 0.68, front + 0.03)
        parts.append(mark.rotate("z", 30 * i).paint(INK))
    hour, minute = 30 * p.rng.integers(12), 30 * p.rng.integers(12) + 12
    for i, (turn, reach) in enumerate(((hour, 0.38), (minute, 0.58))):
        hand = box(0.075 - 0.015 * i, radius * reach, 0.05).move(0, radius * reach * 0.42, front + 0.04 + 0.02 * i)
        parts.append(hand.rotate("z", float(turn)).paint(INK))
    bell = ellipsoid(0.21, 0.17, 0.19, 8, 16).move(0, radius + 0.13).rotate("z", -36)
    foot = cylinder(0.07, 0.26, 0.05, segments=10).move(0, -radius - 0.2).rotate("z", 34)
    return parts + mirrored([bell.paint(p.accent), foot.paint(metal)])


def television(p: Paint) -> list[Shape]:
    """Build a television with a screen in the accent colour."""
    wide, tall, deep = p.u(1.05, 1.25), p.u(0.78, 0.9), p.u(0.4, 0.5)
    front, y = deep / 2, 0.24 + p.u(0.4, 0.44)
    metal, frame = contrast(p.main, GREY, INK), contrast(p.main, WHITE, GREY)
    screen, lean = -wide * 0.1, p.u(24, 36)
    parts = [
        box(wide, tall, deep, 0.1).move(0, y).paint(p.main),
        prism(rectangle(wide * 0.74, tall * 0.74, 0.1), 0.24, 0.0, 0.7)
        .move(0, y, -front - 0.1)
        .paint(shade(p.main, 0.75)),
        box(wide * 0.72, tall * 0.8, 0.07, 0.08).move(screen, y, front + 0.01).paint(frame),
        prism(rectangle(wide * 0.62, tall * 0.68, 0.12), 0.09, 0.02).move(screen, y, front + 0.03).paint(p.accent),
        box(0.07, tall * 0.3, 0.05, 0.02)
        .rotate("z", -30)
        .move(screen - wide * 0.16, y + tall * 0.1, front + 0.06)
        .paint(contrast(p.accent, WHITE, GLASS)),
        ellipsoid(0.11, 0.07, 0.11, 8, 12).move(0, y + tall / 2, -0.04).paint(metal),
    ]
    for k in (0.22, 0.02):
        knob = cylinder(0.075, 0.08, 0.06, segments=14).rotate("x", 90).move(wide * 0.385, y + tall * k, front - 0.01)
        parts.append(knob.paint(contrast(p.main, GLOW, INK)))
    for k in (-0.16, -0.25, -0.34):
        parts.append(box(wide * 0.13, 0.05, 0.06).move(wide * 0.385, y + tall * k, front).paint(metal))
        parts.append(box(wide * 0.4, 0.05, 0.06).move(0, y + tall * k * 0.7 + 0.12, -front - 0.21).paint(metal))
    rod = cylinder(0.03, 0.5, segments=8).rotate("z", -lean).move(0.03, y + tall / 2, -0.04)
    tip = ellipsoid(0.055, rings=6, segments=10).move(0, 0.5).rotate("z", -lean).move(0.03, y + tall / 2, -0.04)
    parts += corners(
        cylinder(0.05, 0.3, 0.07, segments=10).paint(contrast(p.main, WOOD, INK)), wide * 0.38, front * 0.6
    )
    return parts + mirrored([rod.paint(metal), tip.paint(metal)])


def chest(p: Paint) -> list[Shape]:
    """Build a chest with a lid in the accent colour."""
    wide, deep, tall, gap = p.u(1.05, 1.2), p.u(0.62, 0.72), p.u(0.44, 0.52), p.u(14, 26)
    front, gold = deep / 2, contrast(p.main, GLOW, GREY)
    turn = np.deg2rad(np.linspace(0, 180, 11))
    vault = [(front * np.cos(a) + front, 0.06 + 0.74 * front * np.sin(a)) for a in turn]
    hoop = [(1.05 * front * np.cos(a) + front, 0.06 + 0.8 * front * np.sin(a)) for a in turn]
    lid = [side_profile([(0, 0), (deep, 0), *vault], wide).paint(p.accent)]
    metal = contrast(p.accent, GLOW, GREY)
    for x in (-0.38, 0.0, 0.38):
        strap = side_profile([(-0.02, -0.01), (deep + 0.02, -0.01), *hoop], 0.11).move(x * wide)
        lid.append(strap.paint(metal))
    parts = [
        box(wide, tall, deep, 0.02).move(0, tall / 2).paint(p.main),
        ellipsoid(wide * 0.44, 0.16, front * 0.86, 8, 16).move(0, tall + 0.01, 0.02).paint((0.99, 0.8, 0.15)),
        box(wide + 0.03, 0.09, deep + 0.03).move(0, 0.06).paint(gold),
        box(0.24, 0.26, 0.1, 0.03).move(0, tall - 0.08, front + 0.02).paint(contrast(gold, (0.45, 0.42, 0.4), GREY)),
        disc(0.06, 0.08, 12).move(0, tall - 0.08, front + 0.06).paint(INK),
        *(s.rotate("x", -gap).move(0, tall + 0.01, -front) for s in lid),
    ]
    for x in (-0.38, 0.38):
        parts.append(box(0.11, tall - 0.01, deep + 0.06).move(x * wide, tall / 2).paint(gold))
    for i in range(5):
        coin = cylinder(0.085, 0.05, segments=12).rotate("x", p.u(30, 70)).rotate("y", p.u(-40, 40))
        parts.append(coin.move((i - 2) * 0.18, tall + 0.08, front - 0.1).paint((0.95, 0.72, 0.1)))
    grip = arc(0.13, 0.045, -180, 0, 10).rotate("y", 90).move(wide / 2 + 0.03, tall * 0.62)
    return parts + mirrored([grip.paint(contrast(p.main, INK, GREY))])


def barrel(p: Paint) -> list[Shape]:
    """Build a barrel with hoops in the accent colour."""
    radius, bulge, tall = p.u(0.36, 0.42), p.u(0.07, 0.11), p.u(0.95, 1.12)
    dark, wood = shade(p.main, 0.72), contrast(p.main, WOOD, (0.86, 0.72, 0.5))

    def at(y: float) -> float:
        """The radius at a height, as a share of the whole height."""
        return radius + bulge * np.sin(np.pi * y)

    wall = [(at(y), y * tall) for y in np.linspace(0, 1, 9)]
    parts = [
        lathe([(0, 0), *wall, (radius - 0.07, tall), (radius - 0.07, tall - 0.07), (0, tall - 0.07)], 24).paint(p.main),
        cylinder(radius - 0.05, 0.06, segments=20).move(0, tall - 0.1).paint(dark),
        cylinder(0.075, 0.08, segments=12).move(radius * 0.4, tall - 0.06, 0.1).paint(wood),
        disc(0.13, 0.08, 14).move(0, tall * 0.22, at(0.22) + 0.01).paint(contrast(p.main, GREY, INK)),
        cylinder(0.065, 0.24, segments=12)
        .rotate("x", 90)
        .move(0, tall * 0.22, at(0.22))
        .paint(contrast(p.main, GLOW, GREY)),
        cylinder(0.05, 0.16, segments=10)
        .move(0, tall * 0.22 - 0.15, at(0.22) + 0.18)
        .paint(contrast(p.main, GLOW, GREY)),
        box(0.2, 0.07, 0.07, 0.02).move(0, tall * 0.22 + 0.09, at(0.22) + 0.16).paint(COLORS["red"]),
    ]
    for low, high in ((0.03, 0.12), (0.3, 0.39), (0.61, 0.7), (0.88, 0.97)):
        hoop = cylinder(at(low) + 0.025, (high - low) * tall, at(high) + 0.025, segments=24)
        parts.append(hoop.move(0, low * tall).paint(p.accent))
    for i in range(10):
        path = [(at(y) - 0.012, y * tall) for y in np.linspace(0.02, 0.98, 9)]
        seam = tube(path, 0.028, 5)
        parts.append(seam.rotate("y", 36 * i + 18).paint(dark))
    return parts


BUILDERS: dict[str, Builder] = {
    "sofa": sofa,
    "bed": bed,
    "bench": bench,
    "piano": piano,
    "ladder": ladder,
    "clock": clock,
    "television": television,
    "chest": chest,
    "barrel": barrel,
}
