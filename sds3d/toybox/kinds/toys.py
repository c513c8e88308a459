"""Things to play and to give."""

from __future__ import annotations

import numpy as np

from sds3d.toybox.paint import GLOW, GREY, INK, WHITE, WOOD, Paint, contrast, shade
from sds3d.toybox.parts import Builder, mirrored
from sds3d.toybox.shapes import Shape, arc, box, cylinder, disc, ellipsoid, prism
from sds3d.toybox.world import COLORS


def guitar(p: Paint) -> list[Shape]:
    """Build a guitar with a neck in the accent colour."""
    low, high, waist, deep = p.u(0.4, 0.46), p.u(0.3, 0.35), p.u(0.24, 0.28), p.u(0.18, 0.24)
    neck, front = p.u(0.85, 1.0), deep / 2
    edge = [(0, -0.46), (0.22, -0.44), (0.36, -0.36), (0.42, -0.22), (0.4, -0.08), (0.31, 0.06), (waist, 0.16)]
    edge = [(x * low / 0.42 if y < 0.1 else x, y) for x, y in edge]
    edge += [(high * 0.96, 0.3), (high, 0.42), (high * 0.84, 0.54), (high * 0.5, 0.61), (0, 0.62)]
    outline = edge + [(-x, y) for x, y in edge[-2:0:-1]]
    wood = contrast(p.accent, (0.82, 0.66, 0.42), INK)
    light, dark = contrast(p.main, (0.95, 0.85, 0.6), WOOD), contrast(p.main, INK, WHITE)
    top = 0.58 + neck
    parts = [
        prism(outline, deep, 0.03).paint(p.main),
        prism(np.array(outline) * 0.88 + [0, 0.01], 0.06).move(0, 0, front).paint(light),
        disc(0.15, 0.05, 18).move(0, 0.16, front + 0.03).paint(contrast(light, INK, WOOD)),
        box(0.34, 0.09, 0.1, 0.02).move(0, -0.2, front + 0.03).paint(contrast(light, WOOD, INK)),
        box(0.14, neck + 0.3, 0.12, 0.02).move(0, 0.28 + (neck + 0.3) / 2, front).paint(p.accent),
        prism([(-0.09, 0), (0.09, 0), (0.14, 0.32), (-0.14, 0.32)], 0.1)
        .move(0, top - 0.03, front - 0.02)
        .paint(p.accent),
        box(0.06, neck + 0.4, 0.05)
        .move(0, 0.14 + (neck + 0.4) / 2 - 0.32, front + 0.07)
        .paint(contrast(p.accent, WHITE, GREY)),
        disc(0.06, 0.09, 10).move(0, -0.4, -front).paint(dark),
        box(waist * 1.1, 0.1, 0.06, 0.03).move(0, 0.42, -front).paint(dark),
    ]
    for k in (0.36, 0.56, 0.76, 0.96):
        parts.append(box(0.155, 0.05, 0.1).move(0, 0.55 + neck * k, front + 0.03).paint(wood))
    pegs = [
        ellipsoid(0.06, 0.045, 0.05, 6, 10).move(0.16 + 0.015 * k, top + 0.06 + 0.1 * k, front - 0.02) for k in range(3)
    ]
    return parts + mirrored([s.paint(contrast(p.accent, GLOW, GREY)) for s in pegs])


def drum(p: Paint) -> list[Shape]:
    """Build a drum with rims in the accent colour."""
    radius, tall, count = p.u(0.5, 0.58), p.u(0.6, 0.74), 8
    cord, skin = contrast(p.main, WHITE, GREY), (0.97, 0.95, 0.88)
    wood = contrast(skin, WOOD)
    step = 2 * np.pi * radius / count / 2
    slant = np.rad2deg(np.arctan2(step, tall - 0.2))
    parts = [
        cylinder(radius, tall, segments=26).paint(p.main),
        cylinder(radius - 0.03, 0.06, segments=26).move(0, tall - 0.01).paint(skin),
        *(
            cylinder(radius + 0.04, 0.11, rounding=0.02, segments=26).move(0, y).paint(p.accent)
            for y in (-0.03, tall - 0.09)
        ),
    ]
    for i in range(2 * count):
        rod = cylinder(0.028, np.hypot(step, tall - 0.2), segments=6).move(0, -np.hypot(step, tall - 0.2) / 2)
        rod = rod.rotate("z", slant if i % 2 else -slant).move(0, tall / 2, radius)
        parts.append(rod.rotate("y", 360 * (i + 0.5) / (2 * count)).paint(cord))
    for i, turn in enumerate((p.u(20, 45), p.u(125, 150))):
        stick = cylinder(0.045, radius * 1.7, 0.03, segments=10).move(0, -radius * 0.85).rotate("z", 84)
        knob = ellipsoid(0.08, rings=8, segments=12).move(0, radius * 0.85).rotate("z", 84)
        y = tall + 0.15 + 0.07 * i
        parts += [stick.rotate("y", turn).move(0, y).paint(wood), knob.rotate("y", turn).move(0, y).paint(wood)]
    return parts


def book(p: Paint) -> list[Shape]:
    """Build a book with a spine in the accent colour."""
    wide, tall, thick = p.u(0.72, 0.84), p.u(0.98, 1.12), p.u(0.22, 0.32)
    front, mark = thick / 2, contrast(p.main, WHITE, GLOW)
    cover = box(wide, tall, 0.07, 0.02)
    spine = (
        cylinder(front + 0.04, tall + 0.02, segments=16)
        .move(0, -tall / 2 - 0.01)
        .scale(0.7, 1, 1)
        .move(-wide / 2 + 0.02)
    )
    strip = box(wide * 0.2, tall + 0.01, 0.09, 0.01).move(-wide * 0.4 - 0.01)
    parts = [
        cover.move(0, 0, front).paint(p.main),
        cover.move(0, 0, -front).paint(p.main),
        box(wide - 0.08, tall - 0.1, thick - 0.03).move(-0.01).paint((0.97, 0.95, 0.87)),
        spine.paint(p.accent),
        strip.move(0, 0, front).paint(p.accent),
        strip.move(0, 0, -front).paint(p.accent),
        box(wide * 0.5, 0.12, 0.06).move(wide * 0.1, tall * 0.3, front + 0.02).paint(mark),
        box(wide * 0.36, 0.06, 0.06).move(wide * 0.1, tall * 0.17, front + 0.02).paint(mark),
        disc(0.16, 0.06, 18).move(wide * 0.1, -tall * 0.16, front + 0.02).paint(mark),
        disc(0.09, 0.09, 14).move(wide * 0.1, -tall * 0.16, front + 0.02).paint(contrast(mark, COLORS["red"], INK)),
        box(0.12, 0.3, 0.05).move(wide * 0.24, -tall / 2 - 0.08).paint(contrast(p.main, COLORS["red"], COLORS["blue"])),
    ]
    for y in (-0.36, 0.36):
        rib = (
            cylinder(front + 0.055, 0.06, segments=16).move(0, tall * y - 0.03).scale(0.75, 1, 1).move(-wide / 2 + 0.02)
        )
        parts.append(rib.paint(contrast(p.accent, GLOW, INK)))
    parts.append(box(wide * 0.3, 0.14, 0.06).move(wide * 0.2, -tall * 0.34, -front - 0.02).paint(mark))
    return parts


def gift(p: Paint) -> list[Shape]:
    """Build a gift with a ribbon in the accent colour."""
    wide, tall, lid, band = p.u(0.78, 0.92), p.u(0.6, 0.85), 0.17, p.u(0.15, 0.19)
    top = tall + lid - 0.06
    tag = contrast(p.main, WHITE, (0.98, 0.9, 0.6))
    parts = [
        box(wide, tall, wide, 0.01).move(0, tall / 2).paint(p.main),
        box(wide + 0.09, lid, wide + 0.09, 0.02).move(0, tall + lid / 2 - 0.06).paint(shade(p.main, 0.88)),
        box(band, tall - 0.02, wide + 0.04).move(0, tall / 2).paint(p.accent),
        box(wide + 0.04, tall - 0.04, band).move(0, tall / 2).paint(p.accent),
        box(band, lid + 0.02, wide + 0.13).move(0, tall + lid / 2 - 0.06).paint(p.accent),
        box(wide + 0.13, lid + 0.03, band).move(0, tall + lid / 2 - 0.06).paint(p.accent),
        ellipsoid(0.11, 0.1, 0.11, 8, 12).move(0, top + 0.09).paint(p.accent),
        box(0.3, 0.2, 0.06, 0.03).rotate("z", -16).move(wide * 0.28, tall * 0.58, wide / 2 + 0.02).paint(tag),
        box(0.18, 0.06, 0.05)
        .rotate("z", -16)
        .move(wide * 0.28, tall * 0.58, wide / 2 + 0.04)
        .paint(contrast(tag, INK, WHITE)),
    ]
    loop = arc(0.17, 0.06, steps=14).scale(1.25, 0.85, 1.6).rotate("z", 26).move(0.24, top + 0.17)
    end = box(0.34, 0.06, 0.14, 0.01).rotate("z", -14).rotate("y", -38).move(0.2, top + 0.03, 0.16)
    return parts + mirrored([loop.paint(p.accent), end.paint(p.accent)])


BUILDERS: dict[str, Builder] = {
    "guitar": guitar,
    "drum": drum,
    "book": book,
    "gift": gift,
}
