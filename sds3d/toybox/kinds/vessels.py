"""Vessels: bucket, bottle, vase, candle, trophy, and the balloon with its basket."""

from __future__ import annotations

import numpy as np

from sds3d.toybox.facets import crate, striped
from sds3d.toybox.paint import CARROT, GLOW, GREY, INK, WHITE, Paint, contrast, shade
from sds3d.toybox.parts import Builder, mirrored
from sds3d.toybox.shapes import Array, Shape, arc, box, cylinder, disc, ellipsoid, lathe, prism, tube
from sds3d.toybox.world import COLORS

LEAF = (0.16, 0.50, 0.20)


def _star(outer: float, inner: float) -> Array:
    """Return the outline of a star with five points, one of them up."""
    turn = np.pi * np.arange(10) / 5
    return np.where(np.arange(10) % 2, outer, inner)[:, None] * np.stack([np.sin(turn), -np.cos(turn)], axis=1)


def bucket(p: Paint) -> list[Shape]:
    """Build a bucket with a handle in the accent colour: a pail with sand and a spade, or a wooden one with water."""
    low, top, tall = p.u(0.34, 0.39), p.u(0.48, 0.54), p.u(0.74, 0.88)
    rise, lean, wooden = p.u(0.92, 1.05), p.u(15, 50), p.rng.random() < 0.5
    base = 0.93 * top if wooden else low

    def at(y: float) -> float:
        """Return the outer radius at a height that is given as a share of the whole."""
        return base + (top - base) * y

    wall = [(0, 0), (base - 0.03, 0), (base, 0.03), (top, tall), (top - 0.08, tall), (at(0.5) - 0.08, tall * 0.5)]
    cup = lathe([*wall, (0, tall * 0.5)], 24)
    fill = tall * 0.66
    full = cylinder(at(0.5) - 0.1, fill - tall * 0.4, at(0.66) - 0.07, segments=20).move(0, tall * 0.4)
    parts = [full.paint((0.35, 0.65, 0.95) if wooden else (0.93, 0.82, 0.55))]
    if wooden:
        metal = contrast(p.main, GREY, INK)
        parts.append(striped(cup, 12, p.main, shade(p.main, 0.82)))
        for y in (0.16, 0.78):
            hoop = arc(at(y), 0.055, steps=24).scale(1, 1, 1.5).rotate("x", 90)
            parts.append(hoop.move(0, y * tall).paint(metal))
    else:
        parts += [
            cup.paint(p.main),
            arc(top - 0.02, 0.06, steps=26).rotate("x", 90).move(0, tall - 0.01).paint(shade(p.main, 0.8)),
            ellipsoid(top * 0.62, 0.16, top * 0.62, 8, 18).move(0, fill - 0.02).paint((0.93, 0.82, 0.55)),
            cylinder(base + 0.03, 0.1, base + 0.05, segments=24).move(0, 0.04).paint(shade(p.main, 0.8)),
        ]
        star = prism(_star(0.19, 0.095), 0.14).move(0, tall * 0.48, at(0.48) - 0.01)
        parts += [star.rotate("y", turn).paint(contrast(p.main, WHITE, INK)) for turn in (0, 90, 180, 270)]
    grip = arc(top + 0.03, 0.05, 0, 180, 18).scale(1, rise, 1)
    bar = cylinder(0.085, 0.4, rounding=0.03, segments=12).move(0, -0.2).rotate("z", 90).move(0, (top + 0.03) * rise)
    parts += [s.rotate("x", lean).move(0, tall - 0.1).paint(p.accent) for s in (grip, bar)]
    knob = cylinder(0.09, 0.12, segments=12).rotate("z", -90).move(top - 0.06, tall - 0.1)
    return parts + mirrored([knob.paint(p.accent)])


def bottle(p: Paint) -> list[Shape]:
    """Build a bottle with a cap in the accent colour: tall with a shoulder, or a round flask. Its label is in front."""
    round_, tall, neck = p.rng.random() < 0.5, p.u(1.05, 1.2), p.u(0.11, 0.14)
    if round_:
        radius, y = p.u(0.42, 0.48), 0.46
        turn = np.deg2rad(np.linspace(-62, 68, 9))
        glass = [(0, 0), (radius * 0.5, 0), *((radius * np.cos(a), y + radius * np.sin(a)) for a in turn)]
        glass += [(neck, y + radius + 0.06), (neck, tall + 0.04)]
        collar, base = y + radius + 0.1, radius
    else:
        radius, shoulder = p.u(0.29, 0.34), p.u(0.54, 0.62) * tall
        glass = [(0, 0), (radius * 0.9, 0), (radius, 0.06), (radius, shoulder * 0.5), (radius, shoulder)]
        glass += [(radius * 0.9, shoulder + 0.1), (radius * 0.55, shoulder + 0.22), (neck, shoulder + 0.34)]
        glass.append((neck, tall + 0.1))
        y, collar, base = shoulder * 0.52, shoulder + 0.36, radius
    top = glass[-1][1]
    label = contrast(p.main, WHITE, (0.98, 0.88, 0.6))
    sign = contrast(label, COLORS["red"], COLORS["blue"])
    parts = [
        lathe([*glass, (0, top)], 24).paint(p.main),
        cylinder(neck + 0.05, 0.09, segments=18).move(0, collar).paint(p.accent),
    ]
    if round_:
        stopper = [(0, 0), (neck + 0.05, 0), (neck + 0.06, 0.07), (neck * 0.8, 0.11), (neck + 0.05, 0.2), (0, 0.32)]
        parts.append(lathe(stopper, 18).move(0, top - 0.01).paint(p.accent))
        parts.append(disc(0.24, 0.12, 20).move(0, y, base - 0.05).paint(label))
        face = base + 0.02
        parts.append(prism(_star(0.17, 0.085), 0.1).move(0, y, face).paint(sign))
    else:
        around = [label] * 5 + [p.main] * 14 + [label] * 5
        parts += [
            cylinder(neck + 0.06, 0.22, neck + 0.05, rounding=0.03, segments=18).move(0, top - 0.08).paint(p.accent),
            cylinder(radius + 0.015, 0.07, segments=24).move(0, 0.1).paint(shade(p.main, 0.75)),
            striped(cylinder(radius + 0.03, y * 1.06, segments=24).move(0, y * 0.47), 24, *around),
            disc(0.15, 0.08, 18).wrap(radius + 0.03).move(0, y).paint(sign),
            disc(0.075, 0.12, 14).wrap(radius + 0.03).move(0, y).paint(contrast(sign, GLOW, WHITE)),
        ]
    shine = contrast(p.main, WHITE, (0.5, 0.52, 0.56))
    gleam = ellipsoid(0.05, 0.17, 0.04, 6, 10).move(0, 0, base * 0.99)
    return [*parts, gleam.rotate("y", 145).move(0, y + 0.02).paint(shine)]


def vase(p: Paint) -> list[Shape]:
    """Build a vase of tulips in the accent colour: a round vase, or a tall one with two handles."""
    belly, tall, neck, handles = p.u(0.34, 0.4), p.u(0.66, 0.8), p.u(0.17, 0.21), p.rng.random() < 0.5
    trim, dark = contrast(p.main, WHITE, GLOW), shade(p.main, 0.7)
    if handles:
        belly, tall = belly * 0.9, tall * 1.12
        body = [(0, 0), (belly * 0.62, 0), (belly * 0.6, 0.06), (belly * 0.4, 0.14), (belly * 0.8, tall * 0.4)]
        body += [(belly, tall * 0.6), (belly * 0.86, tall * 0.76), (neck, tall * 0.88)]
        bands = ((0.52, 0.93), (0.68, 0.95))
    else:
        body = [
            (0, 0),
            (belly * 0.55, 0),
            (belly * 0.85, tall * 0.16),
            (belly, tall * 0.38),
            (belly * 0.88, tall * 0.6),
        ]
        body += [(neck * 1.2, tall * 0.82), (neck, tall * 0.92)]
        bands = ((0.27, 0.955), (0.5, 0.96))
    mouth = [(neck + 0.1, tall + 0.04), (neck + 0.05, tall + 0.06), (neck - 0.06, tall * 0.92)]
    hole = [(neck - 0.06, tall * 0.7), (0, tall * 0.7)]
    parts = [lathe([*body, *mouth, *hole], 24).paint(p.main)]
    parts.append(cylinder(neck - 0.05, 0.06, segments=16).move(0, tall * 0.69).paint(dark))
    for y, r in bands:
        parts.append(arc(belly * r, 0.045, steps=24).rotate("x", 90).move(0, tall * y).paint(trim))
    turn = p.u(0, 70)
    for i in range(5):
        stem, lean = p.u(0.38, 0.5) if i else 0.56, 28 if i else 0
        bud = [(0, 0), (0.1, 0.02), (0.16, 0.11), (0.155, 0.2), (0.19, 0.31), (0.07, 0.25), (0, 0.22)]
        pieces = [
            cylinder(0.035, stem + 0.2, segments=8).move(0, -0.1).paint(LEAF),
            lathe(bud, 12).move(0, stem + 0.06).paint(p.accent),
            ellipsoid(0.09, 0.06, 0.09, 5, 10).move(0, stem + 0.31).paint(contrast(p.accent, GLOW, CARROT)),
        ]
        if i:
            blade = ellipsoid(0.09, 0.2, 0.04, 6, 10).rotate("x", 30).move(0, 0.26, 0.09)
            pieces.append(blade.paint(shade(LEAF, 0.85)))
        parts += [s.rotate("x", lean).rotate("y", 90 * i + turn).move(0, tall - 0.06) for s in pieces]
    if not handles:
        return parts
    grip = [
        (neck - 0.02, tall * 0.95),
        (neck + 0.15, tall * 0.96),
        (belly + 0.08, tall * 0.86),
        (belly * 0.92, tall * 0.66),
    ]
    return parts + mirrored([tube(grip, 0.05, 8).paint(p.main)])


def candle(p: Paint) -> list[Shape]:
    """Build a burning candle on a holder in the accent colour: a dish with a ring, or a tall turned stick."""
    radius, tall, dish, high = p.u(0.17, 0.22), p.u(0.75, 0.95), p.u(0.42, 0.5), p.rng.random() < 0.5
    wax = shade(p.main, 0.85)
    if high:
        tall, y = tall * 0.72, 0.62
        stick = [
            (0, 0),
            (dish * 0.9, 0),
            (dish * 0.9, 0.06),
            (dish * 0.7, 0.12),
            (0.12, 0.18),
            (0.08, 0.26),
            (0.16, 0.32),
        ]
        stick += [(0.16, 0.37), (0.08, 0.43), (0.09, 0.5), (radius + 0.12, 0.58), (radius + 0.14, 0.72)]
        parts = [lathe([*stick, (radius + 0.06, 0.72), (radius + 0.02, y), (0, y)], 24).paint(p.accent)]
        parts.append(arc(0.13, 0.05, steps=18).rotate("x", 90).move(0, 0.345).paint(shade(p.accent, 0.75)))
    else:
        y = 0.06
        plate = [
            (0, 0),
            (dish * 0.7, 0),
            (dish, 0.1),
            (dish, 0.16),
            (dish * 0.88, 0.16),
            (dish * 0.66, 0.07),
            (0, 0.07),
        ]
        parts = [
            lathe(plate, 26).paint(p.accent),
            cylinder(radius + 0.07, 0.15, segments=20).move(0, 0.03).paint(shade(p.accent, 0.75)),
            arc(0.15, 0.055, steps=14).move(dish + 0.1, 0.17).paint(p.accent),
        ]
    flame = [(0, 0), (0.09, 0.03), (0.135, 0.12), (0.11, 0.22), (0.045, 0.34), (0, 0.42)]
    top = y + tall
    parts += [
        cylinder(radius, tall, rounding=0.04, segments=20).move(0, y - 0.02).paint(p.main),
        ellipsoid(radius * 1.08, 0.06, radius * 1.08, 8, 20).move(0, top - 0.02).paint(wax),
        cylinder(0.03, 0.14, segments=8).move(0, top).paint(INK),
        lathe(flame, 14).move(0, top + 0.06).paint(CARROT),
    ]
    parts += [lathe(flame, 12).scale(0.72, 0.7, 0.6).move(0, top + 0.07, z).paint(GLOW) for z in (-0.075, 0.075)]
    turn = p.u(0, 90)
    for i, drop in enumerate((0.26, 0.15, 0.21, 0.12)):
        drip = ellipsoid(0.07, drop, 0.055, 8, 10).move(0, top - 0.04 - drop, radius).rotate("y", 90 * i + turn)
        parts.append(drip.paint(wax))
    return parts


def trophy(p: Paint) -> list[Shape]:
    """Build a trophy on a base in the accent colour: a cup with two handles, or one with a lid and a star on it."""
    mouth, cup, stem, lid = p.u(0.38, 0.44), p.u(0.56, 0.66), p.u(0.2, 0.28), p.rng.random() < 0.5
    mark, dark = contrast(p.main, WHITE, GLOW), shade(p.main, 0.75)
    foot = 0.32
    y = foot + stem
    bowl = [(0, 0), (0.08, 0), (0.24, 0.06), (mouth * 0.86, cup * 0.4), (mouth, cup), (mouth + 0.03, cup + 0.03)]
    bowl += [(mouth - 0.06, cup + 0.03), (mouth * 0.78, cup * 0.5), (0.12, 0.2), (0, 0.2)]
    column = [(0, 0), (0.25, 0), (0.24, 0.06), (0.08, 0.1), (0.07, stem * 0.6), (0.13, stem * 0.8), (0.1, stem + 0.04)]
    parts = [
        lathe([*column, (0, stem + 0.04)], 18).move(0, foot - 0.01).paint(p.main),
        lathe(bowl, 26).move(0, y).paint(p.main),
        arc(mouth, 0.055, steps=26).rotate("x", 90).move(0, y + cup + 0.02).paint(dark),
    ]
    if lid:
        dome = [
            (0, 0),
            (mouth + 0.01, 0),
            (mouth * 0.86, 0.12),
            (mouth * 0.5, 0.23),
            (0.08, 0.28),
            (0.06, 0.36),
            (0, 0.36),
        ]
        parts += [
            lathe(dome, 24).move(0, y + cup + 0.04).paint(p.main),
            prism(_star(0.25, 0.12), 0.14, 0.02).move(0, y + cup + 0.56).paint(contrast(p.main, GLOW, COLORS["red"])),
            cylinder(0.38, 0.18, 0.36, segments=24).paint(p.accent),
            cylinder(0.28, 0.2, 0.26, segments=24).move(0, 0.13).paint(p.accent),
        ]
        face, handle = 0.26, arc(0.17, 0.05, -100, 100, 12).scale(1.15, 1, 1)
    else:
        parts += [
            box(0.68, 0.17, 0.58, 0.02).move(0, 0.085).paint(p.accent),
            box(0.52, 0.19, 0.44, 0.02).move(0, 0.235).paint(p.accent),
        ]
        face, handle = 0.22, arc(0.2, 0.06, -115, 115, 14).scale(1, p.u(1.1, 1.35), 1)
    parts += [
        box(0.38, 0.12, 0.1, 0.02).move(0, 0.24, face - 0.01).paint(contrast(p.accent, GLOW, GREY)),
        disc(0.2, 0.12, 20).move(0, y + cup * 0.62, mouth * 0.9 - 0.02).paint(dark),
        prism(_star(0.17, 0.085), 0.1).move(0, y + cup * 0.62, mouth * 0.9 + 0.04).paint(mark),
    ]
    return parts + mirrored([handle.move(mouth * 0.98, y + cup * 0.56).paint(p.main)])


def balloon(p: Paint) -> list[Shape]:
    """Build a hot-air balloon with a basket in the accent colour: with upright stripes or with a belt of stars."""
    radius, drop, size, belt = p.u(0.56, 0.64), p.u(0.3, 0.4), p.u(0.22, 0.26), p.rng.random() < 0.5
    bag = [(0, -1.1), (0.17, -1.1), (0.19, -1.18), (0.22, -1.18), (0.3, -1.08), (0.62, -0.72), (0.88, -0.32), (1, 0.08)]
    bag += [(0.95, 0.42), (0.72, 0.76), (0.38, 0.95), (0, 1.02)]
    line, low = contrast(p.main, WHITE, GLOW), -1.18 * radius - drop
    skin = lathe([(r * radius, y * radius) for r, y in bag], 24)
    rope = contrast(p.accent, INK, GREY)
    if belt:
        parts = [skin.paint(p.main)]
        ring = [(0, -0.14), (0.97, -0.14), (1.035, 0.08), (1.015, 0.28), (0, 0.28)]
        parts.append(lathe([(r * radius, y * radius) for r, y in ring], 24).paint(line))
        star = prism(_star(0.14, 0.07), 0.08).move(0, 0.06 * radius, 1.02 * radius)
        stars = contrast(line, COLORS["red"], COLORS["blue"]) if p.main == line else p.main
        parts += [star.rotate("y", 60 * i).paint(stars) for i in range(6)]
    else:
        parts = [striped(skin, 12, p.main, p.main, line)]
    top = [(0.34, 0.94), (0.36, 1.0), (0.2, 1.05)]
    parts += [
        lathe([(0, 0.94 * radius), *((r * radius, y * radius) for r, y in top), (0, 1.07 * radius)], 18).paint(line),
        crate(2 * size, 2 * size, 0.36, 0.07).move(0, low - 0.32).paint(p.accent),
        cylinder(0.09, 0.14, segments=12).move(0, -1.18 * radius - 0.14).paint(GREY),
        cylinder(0.05, 0.12, 0.0, segments=10).move(0, -1.18 * radius - 0.02).paint(CARROT),
    ]
    rim = shade(p.accent, 0.7)
    for z in (size - 0.03, 0.03 - size):
        parts += [
            box(2 * size + 0.06, 0.08, 0.1, 0.02).move(0, low + 0.03, z).paint(rim),
            box(0.1, 0.08, 2 * size + 0.04, 0.02).move(z, low + 0.035).paint(rim),
        ]
    parts.append(box(2 * size + 0.03, 0.07, 2 * size + 0.03, 0.01).move(0, low - 0.2).paint(rim))
    lean = np.rad2deg(np.arctan2(0.2 * radius - 0.9 * size, drop))
    long = drop / np.cos(np.deg2rad(lean)) + 0.05
    for turn in (45, 135, 225, 315):
        cord = cylinder(0.035, long, segments=6).rotate("x", float(lean) * 1.2).move(0, low + 0.02, 1.3 * size)
        parts.append(cord.rotate("y", turn).paint(rope))
        bag_ = ellipsoid(0.075, 0.1, 0.06, 6, 10).move(0, low - 0.1, size + 0.03)
        parts.append(bag_.rotate("y", turn + 45).paint((0.8, 0.7, 0.5)))
    return parts


BUILDERS: dict[str, Builder] = {
    "bucket": bucket,
    "bottle": bottle,
    "vase": vase,
    "candle": candle,
    "trophy": trophy,
    "balloon": balloon,
}
