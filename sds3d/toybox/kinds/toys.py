"""Things to play and to give: guitar, drum, book and gift."""

from __future__ import annotations

import numpy as np

from sds3d.toybox.paint import GLOW, GREY, INK, WHITE, WOOD, Paint, apart, contrast, shade
from sds3d.toybox.parts import Builder, mirrored
from sds3d.toybox.shapes import Shape, arc, box, cylinder, disc, ellipsoid, lathe, prism, tube
from sds3d.toybox.world import COLORS

CREAM = (0.97, 0.95, 0.87)


def guitar(p: Paint) -> list[Shape]:
    """Build an acoustic or an electric guitar with a neck in the accent colour."""
    return _acoustic(p) if p.rng.random() < 0.6 else _electric(p)


def _neck(p: Paint, low: float, bridge: float, top: float, front: float) -> list[Shape]:
    """Build a neck from `low` to `top` with frets, and two strings that run on to the bridge."""
    neck = apart(p.accent, p.main)
    fret, string = shade(neck, 0.55), contrast(neck, WHITE, GREY)
    parts = [box(0.2, top - low, 0.15, 0.03).move(0, (low + top) / 2, front).paint(neck)]
    for k in (0.16, 0.38, 0.6, 0.82):
        parts.append(box(0.21, 0.05, 0.05).move(0, 0.62 + (top - 0.62) * k, front + 0.065).paint(fret))
    for x in (-0.05, 0.05):
        parts.append(box(0.045, top - bridge, 0.05).move(x, (bridge + top) / 2, front + 0.09).paint(string))
    return parts


def _acoustic(p: Paint) -> list[Shape]:
    low, high, waist, deep = p.u(0.44, 0.5), p.u(0.32, 0.37), p.u(0.26, 0.3), p.u(0.22, 0.28)
    top, front = 0.56 + p.u(0.56, 0.7), deep / 2
    right = [(0, -0.46), (0.53 * low, -0.44), (0.86 * low, -0.36), (low, -0.22), (0.95 * low, -0.08)]
    right += [(0.74 * low, 0.06), (waist, 0.16), (high * 0.96, 0.3), (high, 0.42), (high * 0.84, 0.54)]
    right += [(high * 0.5, 0.61), (0, 0.62)]
    outline = np.array(right + [(-x, y) for x, y in right[-2:0:-1]])
    light = contrast(p.main, (0.96, 0.84, 0.56), WOOD)
    peg = contrast(p.accent, GLOW, GREY)
    parts = [
        prism(outline, deep, 0.03).paint(p.main),
        prism(outline * 0.86 + [0, 0.01], 0.06).move(0, 0, front).paint(light),
        disc(0.17, 0.05, 20).move(0, 0.18, front + 0.02).paint(contrast(light, INK, WOOD)),
        box(0.38, 0.1, 0.1, 0.02).move(0, -0.22, front + 0.025).paint(contrast(light, WOOD, INK)),
        prism(outline * 0.84 + [0, 0.01], 0.05).move(0, 0, -front).paint(shade(p.main, 0.78)),
        box(0.08, 0.8, 0.05).move(0, 0.06, -front - 0.02).paint(light),
        box(0.18, 0.18, deep * 0.8, 0.03).move(0, 0.66, -0.01).paint(apart(p.accent, p.main)),
        ellipsoid(0.06, 0.06, 0.06, 6, 10).move(0, -0.48).paint(peg),
        prism([(-0.1, 0), (0.1, 0), (0.16, 0.34), (0.07, 0.38), (-0.07, 0.38), (-0.16, 0.34)], 0.11)
        .move(0, top - 0.02, front - 0.01)
        .paint(apart(p.accent, p.main)),
        *_neck(p, 0.38, -0.22, top, front),
    ]
    pegs = [
        ellipsoid(0.07, 0.05, 0.055, 6, 10).move(0.165 + 0.018 * k, top + 0.07 + 0.11 * k, front - 0.02)
        for k in range(3)
    ]
    return parts + mirrored([s.paint(peg) for s in pegs])


def _electric(p: Paint) -> list[Shape]:
    deep, wide, horn = p.u(0.17, 0.21), p.u(0.98, 1.1), p.u(0.5, 0.58)
    top, front = 0.56 + p.u(0.56, 0.7), deep / 2
    outline = [(0, -0.46), (0.24, -0.44), (0.4, -0.32), (0.45, -0.15), (0.38, 0.02), (0.32, 0.16), (0.37, 0.34)]
    outline += [(0.36, 0.48), (0.26, 0.46), (0.15, 0.36), (0.09, 0.32), (-0.09, 0.32), (-0.15, 0.38), (-0.28, horn)]
    outline += [(-0.36, horn + 0.02), (-0.4, 0.4), (-0.33, 0.16), (-0.39, 0.02), (-0.45, -0.15), (-0.4, -0.32)]
    body = np.array([*outline, (-0.24, -0.44)]) * [wide, 1.0]
    guard = [(0.0, -0.2), (0.22, -0.2), (0.3, -0.06), (0.24, 0.1), (0.29, 0.33), (0.16, 0.3), (-0.16, 0.3)]
    guard += [(-0.28, 0.36), (-0.24, 0.1), (-0.2, -0.08)]
    plate, metal = contrast(p.main, WHITE, INK), contrast(p.main, GREY, WHITE)
    dark, peg = contrast(plate, INK, WHITE), contrast(p.accent, GLOW, GREY)
    head = [(-0.1, 0), (0.1, 0), (0.2, 0.14), (0.21, 0.28), (0.12, 0.42), (-0.02, 0.42), (-0.12, 0.3)]
    parts = [
        prism(body, deep, 0.04).paint(p.main),
        prism(guard, 0.05).move(0, 0, front).paint(plate),
        box(0.3, 0.09, 0.08, 0.02).move(0, 0.16, front + 0.02).paint(dark),
        box(0.3, 0.09, 0.08, 0.02).move(0, -0.03, front + 0.02).paint(dark),
        box(0.32, 0.1, 0.1, 0.02).move(0, -0.28, front + 0.02).paint(metal),
        prism(head, 0.11).move(0, top - 0.02, front - 0.01).paint(apart(p.accent, p.main)),
        box(0.22, 0.26, 0.05, 0.03).move(0, 0.2, -front - 0.01).paint(metal),
        box(0.4, 0.24, 0.05, 0.08).move(0.02, -0.16, -front - 0.01).paint(shade(p.main, 0.6)),
        ellipsoid(0.06, 0.06, 0.06, 6, 10).move(0, -0.47).paint(metal),
        *_neck(p, 0.27, -0.28, top, front),
    ]
    for x, y in ((0.24, -0.32), (0.34, -0.2)):
        parts.append(cylinder(0.06, 0.1, 0.05, segments=12).rotate("x", 90).move(x, y, front - 0.02).paint(dark))
    for k in range(4):
        knob = ellipsoid(0.06, 0.045, 0.055, 6, 10).move(-0.14 - 0.005 * k, top + 0.05 + 0.1 * k, front - 0.02)
        parts.append(knob.paint(peg))
    return parts


def drum(p: Paint) -> list[Shape]:
    """Build a drum with two sticks or a goblet drum for the hands, with rims in the accent colour."""
    return _stick_drum(p) if p.rng.random() < 0.6 else _goblet_drum(p)


def _stick_drum(p: Paint) -> list[Shape]:
    radius, tall, count = p.u(0.5, 0.58), p.u(0.58, 0.72), 6
    cord, skin = contrast(p.main, WHITE, GREY), contrast(p.accent, CREAM, (0.86, 0.74, 0.55))
    wood, rim = contrast(skin, WOOD), apart(p.accent, p.main)
    step = 2 * np.pi * radius / count / 2
    reach = float(np.hypot(step, tall - 0.2))
    slant = float(np.rad2deg(np.arctan2(step, tall - 0.2)))
    parts = [
        cylinder(radius, tall, segments=26).paint(p.main),
        cylinder(radius - 0.05, 0.07, segments=26).move(0, tall - 0.02).paint(skin),
        cylinder(radius + 0.04, 0.13, rounding=0.02, segments=26).move(0, -0.03).paint(rim),
    ]
    ring = [(0, 0), (radius + 0.02, 0), (radius + 0.04, 0.02), (radius + 0.04, 0.13), (radius + 0.02, 0.15)]
    ring += [(radius - 0.05, 0.15), (radius - 0.06, 0.02), (0, 0.02)]
    parts.append(lathe(ring, 26).move(0, tall - 0.07).paint(rim))
    for i in range(2 * count):
        rod = cylinder(0.032, reach, segments=6).move(0, -reach / 2).rotate("z", slant if i % 2 else -slant)
        parts.append(rod.move(0, tall / 2, radius).rotate("y", 360 * (i + 0.5) / (2 * count)).paint(cord))
    for i, turn in enumerate((p.u(20, 45), p.u(125, 150))):
        stick = cylinder(0.05, radius * 1.6, 0.035, segments=10).move(0, -radius * 0.8).rotate("z", 84)
        knob = ellipsoid(0.09, rings=8, segments=12).move(0, radius * 0.8).rotate("z", 84)
        y = tall + 0.16 + 0.08 * i
        parts += [s.rotate("y", turn).move(0, y).paint(wood) for s in (stick, knob)]
    return parts


def _goblet_drum(p: Paint) -> list[Shape]:
    radius, waist, foot, tall = p.u(0.46, 0.52), p.u(0.2, 0.24), p.u(0.32, 0.37), p.u(1.2, 1.36)
    cord, skin = contrast(p.main, WHITE, GREY), contrast(p.accent, CREAM, (0.86, 0.74, 0.55))
    rim, neck = apart(p.accent, p.main), tall * 0.42
    bowl = [(waist, neck), (waist * 1.3, tall * 0.5), (radius * 0.8, tall * 0.62), (radius * 0.96, tall * 0.76)]
    wall = [(0, 0.03), (foot, 0.03), (foot * 0.86, tall * 0.14), (waist * 1.1, tall * 0.32), *bowl, (radius, tall)]
    ring = [(0, 0), (radius + 0.02, 0), (radius + 0.05, 0.03), (radius + 0.05, 0.13), (radius + 0.02, 0.16)]
    ring += [(radius - 0.05, 0.16), (radius - 0.06, 0.02), (0, 0.02)]
    parts = [
        lathe([*wall, (0, tall)], 26).paint(p.main),
        cylinder(radius - 0.04, 0.08, segments=26).move(0, tall - 0.01).paint(skin),
        lathe(ring, 26).move(0, tall - 0.06).paint(rim),
        cylinder(waist + 0.06, 0.12, rounding=0.03, segments=20).move(0, neck - 0.06).paint(rim),
        cylinder(foot + 0.03, 0.12, foot + 0.01, rounding=0.02, segments=22).paint(rim),
    ]
    rod = tube([(r + 0.015, y) for r, y in [*bowl[1:], (radius, tall - 0.03)]], 0.035, 6)
    parts += [rod.rotate("y", 36 * i).paint(cord) for i in range(10)]
    for i in range(3):
        mark = disc(0.09, 0.06, 12).move(0, tall * 0.2, waist * 1.1 + 0.055)
        parts.append(mark.rotate("y", 120 * i).paint(cord))
    return parts


def book(p: Paint) -> list[Shape]:
    """Build a closed book, or an open one that faces the reader, with a spine in the accent colour."""
    return _closed_book(p) if p.rng.random() < 0.55 else _open_book(p)


def _closed_book(p: Paint) -> list[Shape]:
    wide, tall, thick = p.u(0.74, 0.86), p.u(0.98, 1.1), p.u(0.28, 0.36)
    front, mark, spine = thick / 2, contrast(p.main, WHITE, GLOW), apart(p.accent, p.main)
    cover = box(wide, tall, 0.08, 0.02)
    strip = box(wide * 0.22, tall + 0.02, 0.1, 0.02).move(-wide * 0.4)
    band = contrast(spine, GLOW, INK)
    rounded = cylinder(front + 0.035, tall + 0.04, segments=16).move(0, -tall / 2 - 0.02).scale(0.7, 1, 1)
    parts = [
        cover.move(0, 0, front).paint(p.main),
        cover.move(0, 0, -front).paint(p.main),
        box(wide - 0.12, tall - 0.12, thick - 0.045).move(-0.02).paint(contrast(p.main, CREAM, (0.84, 0.76, 0.6))),
        rounded.move(-wide / 2 + 0.02).paint(spine),
        strip.move(0, 0, front).paint(spine),
        strip.move(0, 0, -front).paint(spine),
        box(wide * 0.54, 0.13, 0.06).move(wide * 0.1, tall * 0.32, front + 0.03).paint(mark),
        disc(0.2, 0.06, 20).move(wide * 0.1, -tall * 0.08, front + 0.03).paint(mark),
        disc(0.12, 0.09, 16).move(wide * 0.1, -tall * 0.08, front + 0.03).paint(contrast(mark, COLORS["red"], INK)),
        box(wide * 0.54, tall * 0.5, 0.06, 0.04).move(wide * 0.1, tall * 0.1, -front - 0.02).paint(shade(p.main, 0.72)),
        box(wide * 0.3, 0.14, 0.06).move(wide * 0.2, -tall * 0.32, -front - 0.02).paint(mark),
        box(0.12, 0.26, 0.1).move(wide * 0.22, -tall / 2 - 0.05).paint(contrast(p.main, COLORS["red"], COLORS["blue"])),
    ]
    for y in (-0.34, 0.34):
        rib = cylinder(front + 0.05, 0.08, segments=16).move(0, tall * y - 0.04).scale(0.76, 1, 1)
        parts.append(rib.move(-wide / 2 + 0.02).paint(band))
    return parts


def _open_book(p: Paint) -> list[Shape]:
    wide, tall, fold, lean = p.u(0.66, 0.76), p.u(0.92, 1.04), p.u(12, 20), p.u(-30, -20)
    paper, spine = contrast(p.main, CREAM, (0.84, 0.76, 0.6)), apart(p.accent, p.main)
    ink, sky = (0.36, 0.37, 0.42), contrast(paper, (0.40, 0.70, 0.92))
    leaf = [(0.02, -0.16), (wide - 0.06, -0.16), (wide - 0.06, -0.04), (wide * 0.62, 0.0), (wide * 0.3, 0.02)]
    pages = prism([*leaf, (wide * 0.1, -0.03), (0.02, -0.1)], tall - 0.12).rotate("x", 90)
    cover = box(wide, tall, 0.08, 0.02).move(wide / 2 + 0.03, 0, -0.18)
    label = box(wide * 0.6, tall * 0.62, 0.06, 0.04).move(wide * 0.58, 0, -0.21)
    right = [pages.paint(paper), cover.paint(p.main), label.paint(shade(p.main, 0.74))]
    left = right.copy()
    for i, reach in enumerate((0.58, 0.58, 0.58, 0.36)):
        line = box(wide * reach, 0.065, 0.05).move(wide * (0.24 + reach / 2), tall * (0.29 - 0.19 * i))
        right.append(line.paint(ink))
    left.append(box(wide * 0.56, tall * 0.36, 0.05).move(wide * 0.53, tall * 0.18).paint(sky))
    left.append(disc(0.11, 0.06, 14).move(wide * 0.53, tall * 0.2, 0.012).paint(GLOW))
    for y in (-0.13, -0.31):
        left.append(box(wide * 0.58, 0.065, 0.05).move(wide * 0.53, tall * y).paint(ink))
    sides = [s.rotate("y", -fold) for s in right] + mirrored([s.rotate("y", -fold) for s in left])[len(left) :]
    back = cylinder(0.13, tall + 0.06, rounding=0.02, segments=14).move(0, -tall / 2 - 0.03, -0.15)
    ribbon = box(0.09, tall * 0.98, 0.05).move(0, -0.08, -0.03)
    rib = [cylinder(0.145, 0.08, segments=14).move(0, tall * y - 0.04, -0.15) for y in (-0.34, 0.34)]
    sides += [back.paint(spine), ribbon.paint(spine), *(s.paint(contrast(spine, GLOW, INK)) for s in rib)]
    return [s.rotate("x", lean) for s in sides]


def gift(p: Paint) -> list[Shape]:
    """Build a square or a round gift box with a tag and a ribbon and bow in the accent colour."""
    wide, tall, lid, band = p.u(0.8, 0.94), p.u(0.6, 0.8), 0.2, p.u(0.17, 0.21)
    ribbon, tag = apart(p.accent, p.main), contrast(p.main, WHITE, (0.98, 0.86, 0.5))
    top, front, cover = tall + 0.14, wide / 2, apart(shade(p.main, 0.84), p.accent)
    if p.rng.random() < 0.65:
        parts = [
            box(wide, tall, wide, 0.02).move(0, tall / 2).paint(p.main),
            box(wide + 0.1, lid, wide + 0.1, 0.02).move(0, top - lid / 2).paint(cover),
        ]
    else:
        parts = [
            cylinder(front, tall, segments=28).paint(p.main),
            cylinder(front + 0.05, lid, rounding=0.02, segments=28).move(0, top - lid).paint(cover),
        ]
    parts += [
        box(band, tall - 0.03, wide + 0.05).move(0, tall / 2).paint(ribbon),
        box(wide + 0.05, tall - 0.05, band - 0.01).move(0, tall / 2).paint(ribbon),
        box(band + 0.02, lid + 0.04, wide + 0.15).move(0, top - lid / 2).paint(ribbon),
        box(wide + 0.15, lid + 0.06, band + 0.01).move(0, top - lid / 2).paint(ribbon),
        ellipsoid(0.12, 0.12, 0.13, 8, 12).move(0, top + 0.11).paint(shade(ribbon, 0.8)),
        box(0.32, 0.26, 0.07, 0.03).rotate("z", -14).move(wide * 0.28, tall * 0.42, front + 0.03).paint(tag),
        disc(0.07, 0.07, 12).move(wide * 0.28, tall * 0.42, front + 0.05).paint(contrast(tag, COLORS["red"], INK)),
    ]
    tail = prism([(0.075, 0), (-0.075, 0), (-0.075, -0.38), (0, -0.28), (0.075, -0.38)], 0.06).rotate("z", 16)
    tail = tail.move(0.08, top + 0.0, front + 0.1)
    loop = arc(0.18, 0.065, steps=14).scale(1.3, 0.9, 1.8).rotate("z", 26).move(0.26, top + 0.19)
    return parts + mirrored([loop.paint(ribbon), tail.paint(shade(ribbon, 0.88))])


BUILDERS: dict[str, Builder] = {"guitar": guitar, "drum": drum, "book": book, "gift": gift}
