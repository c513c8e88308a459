"""Vessels and other round things."""

from __future__ import annotations

import numpy as np

from sds3d.toybox.paint import CARROT, GLOW, GREY, INK, WHITE, Paint, contrast, shade
from sds3d.toybox.parts import Builder, corners, mirrored
from sds3d.toybox.shapes import Shape, arc, box, cylinder, disc, ellipsoid, lathe, prism, tube
from sds3d.toybox.world import COLORS


def bucket(p: Paint) -> list[Shape]:
    """Build a bucket with a handle in the accent colour."""
    low, top, tall = p.u(0.34, 0.39), p.u(0.48, 0.54), p.u(0.74, 0.88)
    rise, lean = p.u(0.9, 1.05), p.u(15, 50)
    cup = [
        (0, 0),
        (low - 0.03, 0),
        (low, 0.03),
        (top, tall - 0.02),
        (top - 0.07, tall - 0.02),
        (low - 0.04, 0.1),
        (0, 0.1),
    ]
    sand = [
        (0, tall * 0.6),
        (top * 0.87, tall * 0.6),
        (top * 0.88, tall * 0.7),
        (top * 0.4, tall * 0.9),
        (0, tall * 0.94),
    ]
    mark = contrast(p.main, WHITE, INK)
    star = [
        ((0.19 if i % 2 else 0.09) * np.sin(np.pi * i / 5), -(0.19 if i % 2 else 0.09) * np.cos(np.pi * i / 5))
        for i in range(10)
    ]
    grip = arc(top + 0.03, 0.045, 0, 180, 18).scale(1, rise, 1).rotate("x", lean)
    parts = [
        lathe(cup, 26).paint(p.main),
        lathe(sand, 22).paint((0.93, 0.82, 0.55)),
        arc(top - 0.03, 0.06, steps=26).rotate("x", 90).move(0, tall - 0.02).paint(shade(p.main, 0.8)),
        prism(star, 0.12).move(0, tall * 0.46, (low + top) / 2 - 0.01).paint(mark),
        grip.move(0, tall - 0.1).paint(p.accent),
        cylinder(0.085, 0.4, rounding=0.03, segments=12)
        .move(0, -0.2)
        .rotate("z", 90)
        .move(0, (top + 0.03) * rise)
        .rotate("x", lean)
        .move(0, tall - 0.1)
        .paint(p.accent),
    ]
    knob = cylinder(0.09, 0.1, segments=12).rotate("z", -90).move(top - 0.06, tall - 0.1)
    return parts + mirrored([knob.paint(p.accent)])


def bottle(p: Paint) -> list[Shape]:
    """Build a bottle with a cap in the accent colour."""
    radius, neck, tall = p.u(0.3, 0.36), p.u(0.11, 0.14), p.u(1.0, 1.2)
    shoulder = p.u(0.52, 0.62) * tall
    glass = [(0, 0), (radius * 0.9, 0), (radius, 0.06), (radius, shoulder * 0.5), (radius, shoulder)]
    glass += [
        (radius * 0.9, shoulder + 0.1),
        (radius * 0.55, shoulder + 0.22),
        (neck, shoulder + 0.34),
        (neck, tall + 0.1),
    ]
    label = contrast(p.main, WHITE, (0.98, 0.88, 0.6))
    y = shoulder * 0.52
    sign = contrast(label, COLORS["red"], COLORS["blue"])
    return [
        lathe([*glass, (0, tall + 0.1)], 24).paint(p.main),
        cylinder(neck + 0.06, 0.2, neck + 0.05, rounding=0.03, segments=18).move(0, tall + 0.02).paint(p.accent),
        cylinder(neck + 0.045, 0.08, segments=18).move(0, shoulder + 0.36).paint(p.accent),
        cylinder(radius + 0.012, shoulder * 0.56, segments=24).move(0, y - shoulder * 0.28).paint(label),
        cylinder(radius + 0.02, 0.06, segments=24).move(0, y - shoulder * 0.3).paint(p.accent),
        cylinder(radius + 0.02, 0.06, segments=24).move(0, y + shoulder * 0.3 - 0.06).paint(p.accent),
        disc(0.15, 0.07, 18).wrap(radius + 0.01).move(0, y).paint(sign),
        disc(0.08, 0.1, 14).wrap(radius + 0.01).move(0, y).paint(contrast(sign, GLOW, WHITE)),
    ]


def vase(p: Paint) -> list[Shape]:
    """Build a vase with tulips in the accent colour."""
    belly, tall, neck = p.u(0.34, 0.4), p.u(0.66, 0.8), p.u(0.16, 0.2)
    mouth = neck + 0.08
    body = [(0, 0), (belly * 0.55, 0), (belly * 0.85, tall * 0.16), (belly, tall * 0.38), (belly * 0.88, tall * 0.6)]
    body += [(neck * 1.2, tall * 0.82), (neck, tall * 0.92), (mouth, tall + 0.04), (neck, tall), (0, tall - 0.02)]
    leaf, trim = (0.16, 0.50, 0.20), contrast(p.main, WHITE, GLOW)
    parts = [lathe(body, 24).paint(p.main)]
    for y, r in ((0.3, 0.97), (0.5, 0.97)):
        parts.append(arc(belly * r, 0.035, steps=24).rotate("x", 90).move(0, tall * y).paint(trim))
    turn = p.u(0, 70)
    for i in range(5):
        stem, lean = p.u(0.36, 0.5) if i else 0.56, 26 if i else 0
        bud = [(0, 0), (0.1, 0.02), (0.155, 0.11), (0.15, 0.2), (0.19, 0.31), (0.07, 0.25), (0, 0.22)]
        pieces = [
            cylinder(0.035, stem + 0.1, segments=8).paint(leaf),
            lathe(bud, 10).move(0, stem + 0.06).paint(p.accent),
        ]
        if i:
            blade = ellipsoid(0.09, 0.2, 0.035, 6, 10).rotate("x", 30).move(0, 0.24, 0.09)
            pieces.append(blade.paint(leaf))
        parts += [s.rotate("x", lean).rotate("y", 90 * i + turn).move(0, tall - 0.06) for s in pieces]
    return parts


def candle(p: Paint) -> list[Shape]:
    """Build a candle with a holder in the accent colour."""
    radius, tall, dish = p.u(0.17, 0.22), p.u(0.75, 0.95), p.u(0.42, 0.5)
    plate = [(0, 0), (dish * 0.7, 0), (dish, 0.1), (dish, 0.15), (dish * 0.9, 0.15), (dish * 0.66, 0.06), (0, 0.06)]
    flame = [(0, 0), (0.08, 0.03), (0.125, 0.12), (0.1, 0.22), (0.04, 0.34), (0, 0.42)]
    parts = [
        lathe(plate, 26).paint(p.accent),
        cylinder(radius + 0.06, 0.16, segments=20).move(0, 0.03).paint(p.accent),
        arc(0.15, 0.05, steps=14).move(dish + 0.1, 0.17).paint(p.accent),
        cylinder(radius, tall, rounding=0.04, segments=20).move(0, 0.06).paint(p.main),
        ellipsoid(radius * 1.08, 0.06, radius * 1.08, 8, 20).move(0, tall + 0.04).paint(shade(p.main, 0.85)),
        cylinder(0.03, 0.14, segments=8).move(0, tall + 0.06).paint(INK),
        lathe(flame, 14).move(0, tall + 0.12).paint(CARROT),
        lathe(flame, 14).scale(0.72, 0.7, 0.72).move(0, tall + 0.12, 0.065).paint(GLOW),
        lathe(flame, 14).scale(0.72, 0.7, 0.72).move(0, tall + 0.12, -0.065).paint(GLOW),
    ]
    turn = p.u(0, 90)
    for i, drop in enumerate((0.3, 0.16, 0.24, 0.12)):
        drip = ellipsoid(0.06, drop, 0.05, 8, 10).move(0, tall + 0.02 - drop, radius).rotate("y", 90 * i + turn)
        parts.append(drip.paint(shade(p.main, 0.85)))
    return parts


def trophy(p: Paint) -> list[Shape]:
    """Build a trophy with a base in the accent colour."""
    mouth, cup, stem = p.u(0.38, 0.44), p.u(0.56, 0.66), p.u(0.2, 0.28)
    foot, mark = 0.3, contrast(p.main, WHITE, GLOW)
    y = foot + stem
    bowl = [(0, 0), (0.08, 0), (0.24, 0.06), (mouth * 0.86, cup * 0.4), (mouth, cup), (mouth + 0.03, cup + 0.03)]
    bowl += [(mouth - 0.05, cup + 0.03), (mouth * 0.8, cup * 0.6), (0, cup * 0.55)]
    column = [
        (0, 0),
        (0.26, 0),
        (0.24, 0.06),
        (0.08, 0.1),
        (0.07, stem * 0.6),
        (0.12, stem * 0.8),
        (0.1, stem + 0.04),
        (0, stem + 0.04),
    ]
    star = [
        ((0.18 if i % 2 else 0.085) * np.sin(np.pi * i / 5), -(0.18 if i % 2 else 0.085) * np.cos(np.pi * i / 5))
        for i in range(10)
    ]
    parts = [
        box(0.66, 0.16, 0.56, 0.02).move(0, 0.08).paint(p.accent),
        box(0.52, 0.18, 0.44, 0.02).move(0, 0.23).paint(p.accent),
        box(0.36, 0.11, 0.06, 0.01).move(0, 0.23, 0.22).paint(contrast(p.accent, GLOW, GREY)),
        lathe(column, 18).move(0, foot).paint(p.main),
        lathe(bowl, 26).move(0, y).paint(p.main),
        arc(mouth, 0.05, steps=26).rotate("x", 90).move(0, y + cup + 0.02).paint(shade(p.main, 0.82)),
        prism(star, 0.14).move(0, y + cup * 0.62, mouth * 0.9).paint(mark),
    ]
    handle = arc(0.2, 0.055, -115, 115, 14).scale(1, p.u(1.1, 1.35), 1)
    return parts + mirrored([handle.move(mouth * 0.98, y + cup * 0.56).paint(p.main)])


def balloon(p: Paint) -> list[Shape]:
    """Build a balloon with a basket in the accent colour."""
    radius, drop = p.u(0.56, 0.64), p.u(0.3, 0.4)
    bag = [
        (0, -1.18),
        (0.2, -1.18),
        (0.3, -1.08),
        (0.62, -0.72),
        (0.88, -0.32),
        (1, 0.08),
        (0.95, 0.42),
        (0.72, 0.76),
        (0.38, 0.95),
        (0, 1.02),
    ]
    line = contrast(p.main, WHITE, GLOW)
    low, size = -1.18 * radius - drop, p.u(0.21, 0.25)
    star = [
        ((0.24 if i % 2 else 0.11) * np.sin(np.pi * i / 5), -(0.24 if i % 2 else 0.11) * np.cos(np.pi * i / 5))
        for i in range(10)
    ]
    parts = [
        lathe([(r * radius, y * radius) for r, y in bag], 24).paint(p.main),
        box(2 * size, 0.34, 2 * size, 0.04).move(0, low - 0.15).paint(p.accent),
        box(2 * size + 0.07, 0.08, 2 * size + 0.07, 0.03).move(0, low + 0.02).paint(shade(p.accent, 0.75)),
        cylinder(0.09, 0.12, segments=12).move(0, -1.18 * radius - 0.1).paint(GREY),
        prism(star, 0.12).move(0, 0.1 * radius, radius * 0.97).paint(line),
    ]
    for y, r in ((-0.5, 0.79), (0.62, 0.845)):
        parts.append(arc(r * radius, 0.05, steps=24).rotate("x", 90).move(0, y * radius).paint(line))
    parts += corners(
        cylinder(0.042, drop + 0.12, segments=6).move(0, low).paint(contrast(p.accent, INK, GREY)),
        size * 0.8,
        size * 0.8,
    )
    parts += corners(
        ellipsoid(0.06, 0.09, 0.06, 6, 10).move(0, low - 0.08).paint((0.8, 0.7, 0.5)), size + 0.04, size * 0.6
    )
    return parts


def umbrella(p: Paint) -> list[Shape]:
    """Build an umbrella with a handle in the accent colour."""
    reach, rise, shaft = p.u(0.75, 0.88), p.u(0.36, 0.46), p.u(0.8, 0.95)
    polar = np.deg2rad(np.linspace(0, 90, 7))
    outer = [(reach * np.cos(a), rise * np.sin(a)) for a in polar[:-1]]
    inner = [(0.92 * reach * np.cos(a), 0.9 * rise * np.sin(a) - 0.02) for a in polar[-2:0:-1]]
    dome = lathe([(0, 0.88 * rise), *inner, (reach * 0.95, -0.05), *outer, (0, rise)], 24)
    hook = tube(
        [
            (0, 0.62 - shaft),
            (0, 0.2 - shaft),
            (0.05, 0.08 - shaft),
            (0.15, 0.04 - shaft),
            (0.25, 0.09 - shaft),
            (0.29, 0.2 - shaft),
        ],
        0.065,
    )
    rib = tube([(1.01 * reach * np.cos(a), 1.01 * rise * np.sin(a)) for a in polar], 0.032, 6)
    parts = [
        dome.paint(p.main),
        cylinder(0.045, shaft + rise - 0.4, segments=10).move(0, 0.4 - shaft).paint(contrast(p.main, GREY, WHITE)),
        hook.rotate("y", -90).paint(p.accent),
        cylinder(0.05, 0.18, 0.03, segments=10).move(0, rise - 0.03).paint(p.accent),
        ellipsoid(0.1, 0.05, 0.1, 6, 12).move(0, rise).paint(p.accent),
    ]
    line = contrast(p.main, WHITE, GREY)
    for i in range(8):
        parts.append(rib.rotate("y", 45 * i).paint(line))
        tip = ellipsoid(0.05, rings=6, segments=8).move(reach * 1.01, 0).rotate("y", 45 * i)
        parts.append(tip.paint(line))
    return parts


BUILDERS: dict[str, Builder] = {
    "bucket": bucket,
    "bottle": bottle,
    "vase": vase,
    "candle": candle,
    "trophy": trophy,
    "balloon": balloon,
    "umbrella": umbrella,
}
