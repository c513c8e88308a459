"""Things to take on a trip: camera and backpack."""

from __future__ import annotations

import numpy as np

from sds3d.toybox.paint import DARK_GLASS, GLASS, GLOW, GREY, INK, PALE_WOOD, WHITE, WOOD, Paint, apart, contrast, shade
from sds3d.toybox.parts import Builder, mirrored
from sds3d.toybox.shapes import Shape, arc, box, cylinder, disc, ellipsoid, lathe, prism, tube
from sds3d.toybox.world import COLORS


def camera(p: Paint) -> list[Shape]:
    """Build a compact camera, or an old one with bellows, with a flash in the accent colour."""
    return _compact(p) if p.rng.random() < 0.6 else _bellows(p)


def _compact(p: Paint) -> list[Shape]:
    wide, tall, deep, lens = p.u(1.0, 1.15), p.u(0.64, 0.72), p.u(0.36, 0.44), p.u(0.26, 0.3)
    front, dark, metal = deep / 2, contrast(p.main, INK, GREY), contrast(p.main, GREY, WHITE)
    reach, flash = p.u(0.24, 0.34), apart(p.accent, p.main)
    parts = [
        box(wide, tall, deep, 0.07).paint(p.main),
        box(wide + 0.04, tall * 0.2, deep + 0.05, 0.03).move(0, -tall * 0.28).paint(dark),
        box(0.48, 0.26, deep * 0.9, 0.05).move(0, tall / 2 + 0.09).paint(flash),
        box(0.36, 0.15, 0.06, 0.03).move(0, tall / 2 + 0.1, front * 0.9 + 0.01).paint(contrast(flash, WHITE, GLOW)),
        box(0.2, 0.12, 0.06, 0.03)
        .move(0, tall / 2 + 0.1, -front * 0.9 - 0.01)
        .paint(contrast(flash, DARK_GLASS, GLASS)),
        cylinder(0.1, 0.16, segments=14)
        .move(wide * 0.34, tall / 2 - 0.04)
        .paint(contrast(p.main, COLORS["red"], GLOW)),
        cylinder(0.13, 0.13, segments=16).move(-wide * 0.34, tall / 2 - 0.03).paint(metal),
        cylinder(lens, reach, rounding=0.03, segments=24).rotate("x", 90).move(0, -0.04, front - 0.02).paint(dark),
        cylinder(lens * 1.14, 0.12, segments=24).rotate("x", 90).move(0, -0.04, front - 0.03).paint(metal),
        disc(lens * 0.8, 0.06, 20).move(0, -0.04, front + reach - 0.02).paint(metal),
        disc(lens * 0.62, 0.09, 20).move(0, -0.04, front + reach - 0.02).paint(DARK_GLASS),
        ellipsoid(0.07, 0.07, 0.04, 6, 10).move(-0.07, 0.04, front + reach + 0.025).paint(GLASS),
        box(wide * 0.6, tall * 0.62, 0.06, 0.04).move(-wide * 0.12, 0.03, -front - 0.024).paint(dark),
        box(wide * 0.48, tall * 0.44, 0.06, 0.03)
        .move(-wide * 0.12, 0.03, -front - 0.05)
        .paint(contrast(dark, GLASS, DARK_GLASS)),
        disc(0.1, 0.08, 14).move(wide * 0.34, 0.1, -front - 0.01).paint(metal),
        box(0.14, 0.08, 0.08, 0.02).move(wide * 0.34, -0.06, -front).paint(dark),
        box(0.18, 0.11, 0.06, 0.02).move(wide * 0.36, tall * 0.34, front).paint(DARK_GLASS),
    ]
    loop = arc(0.095, 0.04, steps=10).rotate("y", 90).move(wide / 2 + 0.03, tall * 0.34)
    return parts + mirrored([loop.paint(metal)])


def _bellows(p: Paint) -> list[Shape]:
    wide, tall, deep, reach = p.u(0.8, 0.92), p.u(0.76, 0.86), p.u(0.24, 0.3), p.u(0.44, 0.54)
    front, metal, flash = deep / 2, contrast(p.main, GREY, WHITE), apart(p.accent, p.main)
    fold, rail = contrast(p.main, INK, (0.50, 0.30, 0.18)), contrast(p.main, WOOD, PALE_WOOD)
    end = front + reach
    parts = [
        box(wide, tall, deep, 0.06).paint(p.main),
        box(wide * 0.72, 0.1, reach + 0.14, 0.03).move(0, -tall / 2 + 0.07, front + reach / 2).paint(rail),
        box(wide * 0.6, tall * 0.7, 0.08, 0.05).move(0, 0.0, end).paint(p.main),
        cylinder(0.25, 0.2, rounding=0.02, segments=20).rotate("x", 90).move(0, 0, end).paint(metal),
        disc(0.18, 0.07, 18).move(0, 0, end + 0.19).paint(DARK_GLASS),
        ellipsoid(0.06, 0.06, 0.04, 6, 10).move(-0.06, 0.06, end + 0.22).paint(GLASS),
        box(wide * 0.78, tall * 0.68, 0.07, 0.04).move(0, -0.02, -front - 0.01).paint(shade(p.main, 0.72)),
        box(wide * 0.6, tall * 0.48, 0.06, 0.03)
        .move(0, -0.02, -front - 0.04)
        .paint(contrast(p.main, DARK_GLASS, GLASS)),
        box(0.26, 0.14, deep * 0.7, 0.03).move(-wide * 0.2, tall / 2 + 0.04).paint(metal),
        box(0.14, 0.07, 0.06).move(-wide * 0.2, tall / 2 + 0.05, front * 0.7).paint(DARK_GLASS),
        arc(wide * 0.22, 0.05, 0, 180, 10).rotate("y", 90).move(-wide / 2 - 0.01, -0.06).paint(fold),
    ]
    for i in range(4):
        k = (i + 0.5) / 4
        size = 1.0 - 0.26 * k
        ridge = prism(np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)]) * [wide * 0.7, tall * 0.7] * size,
                      reach / 4 + 0.01, 0.045)  # fmt: skip
        parts.append(ridge.move(0, 0, front + reach * k).paint(fold))
    dish = lathe([(0, 0), (0.1, 0), (0.26, 0.14), (0.24, 0.17), (0.1, 0.06), (0, 0.06)], 20).rotate("x", 90)
    x, y = wide * 0.26, tall / 2 + 0.3
    parts += [
        cylinder(0.07, 0.3, segments=12).move(x, tall / 2 - 0.05).paint(flash),
        dish.move(x, y, -0.02).paint(flash),
        ellipsoid(0.11, rings=8, segments=14).move(x, y, 0.1).paint(contrast(flash, WHITE, GLOW)),
        ellipsoid(0.13, 0.13, 0.09, 8, 12).move(x, y, -0.02).paint(flash),
    ]
    return parts


def backpack(p: Paint) -> list[Shape]:
    """Build a school bag, or a rucksack with a flap and a rolled mat, with a pocket in the accent colour."""
    school = p.rng.random() < 0.6
    wide, tall, deep = p.u(0.74, 0.84), p.u(0.94, 1.06), p.u(0.4, 0.48)
    front, dark, pocket = deep / 2, shade(p.main, 0.7), apart(p.accent, p.main)
    strap = contrast(p.main, INK, GREY)
    path = [(0, 0.38), (0.15, 0.36), (0.22, 0.2), (0.22, 0), (0.17, -0.2), (0.0, -0.38)]
    belt = tube([(x, y * tall) for x, y in path], 0.075, 10).scale(1, 1, 1.4).rotate("y", 90)
    pad = box(0.3, tall * 0.3, 0.14, 0.05).move(0, -tall * 0.26, -front - 0.03)
    pieces = [belt.move(wide * 0.27, 0.02, -front + 0.02).paint(strap)]
    parts = [
        box(wide * 0.74, tall * 0.7, 0.1, 0.05).move(0, -tall * 0.08, -front - 0.015).paint(dark),
        pad.paint(shade(dark, 0.75)),
        arc(0.14, 0.05, 0, 180, 10).move(0, tall / 2 - 0.03, -front * 0.5).paint(strap),
    ]
    if school:
        zip_ = contrast(pocket, GLOW, INK)
        turn = np.deg2rad(np.linspace(0, 180, 9))
        arch = [(-wide / 2, -tall * 0.4), (-wide * 0.4, -tall / 2), (wide * 0.4, -tall / 2), (wide / 2, -tall * 0.4)]
        arch += [(wide / 2 * np.cos(a), tall * 0.14 + tall * 0.36 * np.sin(a)) for a in turn]
        pouch = box(0.18, tall * 0.36, deep * 0.7, 0.06).move(wide / 2 + 0.03, -tall * 0.26)
        parts += [
            prism(arch, deep, 0.06).paint(p.main),
            box(wide * 0.76, tall * 0.42, 0.24, 0.08).move(0, -tall * 0.22, front + 0.06).paint(pocket),
            box(wide * 0.6, 0.07, 0.07).move(0, -tall * 0.1, front + 0.17).paint(zip_),
            box(0.08, 0.16, 0.06, 0.02).move(wide * 0.2, -tall * 0.16, front + 0.19).paint(zip_),
            arc(wide * 0.37, 0.05, 8, 172, 14).scale(1, 0.8, 1).move(0, tall * 0.1, front).paint(strap),
            disc(0.11, 0.08, 16).move(0, tall * 0.2, front + 0.01).paint(contrast(p.main, WHITE, GLOW)),
        ]
        return parts + mirrored([*pieces, pouch.paint(pocket)])
    leather, metal = contrast(p.main, WOOD, (0.93, 0.82, 0.62)), contrast(p.main, GLOW, GREY)
    mat = contrast(p.main, (0.45, 0.62, 0.78), (0.93, 0.82, 0.62))
    roll = cylinder(0.17, wide * 1.16, rounding=0.03, segments=18).move(0, -wide * 0.58).rotate("z", 90)
    core = cylinder(0.1, wide * 1.16 + 0.04, segments=14).move(0, -wide * 0.58 - 0.02).rotate("z", 90)
    flap = box(wide * 1.04, deep + 0.1, 0.12, 0.05).rotate("x", -90).move(0, tall * 0.44, 0.03)
    parts += [
        box(wide, tall * 0.92, deep, 0.1).move(0, -tall * 0.04).paint(p.main),
        flap.paint(shade(p.main, 0.86)),
        box(wide * 1.02, tall * 0.36, 0.12, 0.06).move(0, tall * 0.28, front + 0.03).paint(shade(p.main, 0.86)),
        box(wide * 0.7, tall * 0.36, 0.2, 0.07).move(0, -tall * 0.26, front + 0.05).paint(pocket),
        box(wide * 0.72, 0.1, 0.22, 0.04).move(0, -tall * 0.12, front + 0.055).paint(shade(pocket, 0.8)),
        roll.move(0, tall * 0.5 + 0.17).paint(mat),
        core.move(0, tall * 0.5 + 0.17).paint(shade(mat, 0.7)),
    ]
    band = arc(0.175, 0.04, steps=14).scale(1, 1, 1.4).rotate("y", 90).move(wide * 0.28, tall * 0.5 + 0.17)
    tab = box(0.1, tall * 0.3, 0.08, 0.02).move(wide * 0.26, tall * 0.16, front + 0.08)
    buckle = box(0.15, 0.13, 0.08, 0.03).move(wide * 0.26, tall * 0.06, front + 0.1)
    pouch = box(0.16, tall * 0.34, deep * 0.66, 0.06).move(wide / 2 + 0.03, -tall * 0.24)
    pieces += [band.paint(leather), tab.paint(leather), buckle.paint(metal), pouch.paint(pocket)]
    return parts + mirrored(pieces)


BUILDERS: dict[str, Builder] = {"camera": camera, "backpack": backpack}
