"""How food is built: apple, carrot, cake, burger and donut."""

from __future__ import annotations

import numpy as np

from sds3d.toybox.paint import GLOW, WHITE, WOOD, Paint, apart, contrast, shade
from sds3d.toybox.parts import Builder, bent
from sds3d.toybox.shapes import Shape, arc, box, cylinder, ellipsoid, lathe, prism, tube
from sds3d.toybox.world import COLORS

CREAM, SPONGE = (0.98, 0.94, 0.82), (0.93, 0.78, 0.48)


def apple(p: Paint) -> list[Shape]:
    """Build a round apple with one large leaf or a tall one with two, with the leaves in the accent colour."""
    tall_one = p.rng.random() < 0.5
    radius, tall = (p.u(0.48, 0.52), p.u(0.94, 1.0)) if tall_one else (p.u(0.5, 0.55), p.u(0.82, 0.9))
    skin = [(0, 0.08), (0.2, 0.0), (0.48, 0.04), (0.78, 0.24), (0.97, 0.5), (1, 0.68), (0.9, 0.86), (0.66, 0.98)]
    if tall_one:
        skin = [(0, 0.06), (0.2, 0.0), (0.46, 0.02), (0.7, 0.16), (0.9, 0.42), (1, 0.7), (0.93, 0.88), (0.66, 0.99)]
    skin += [(0.4, 1.0), (0.2, 0.95), (0, 0.86)]
    wood, leaves = contrast(p.main, WOOD, (0.75, 0.6, 0.4)), apart(p.accent, p.main)
    stem = tube([(0, 0), (0.01, 0.16), (p.u(0.08, 0.14), 0.36)], [0.05, 0.055, 0.07], 8)
    shine = ellipsoid(0.07, 0.15, 0.04, 6, 12).rotate("x", -20).rotate("y", -32)
    x, z = radius * 0.935 * np.sin(np.deg2rad(-32)), radius * 0.935 * np.cos(np.deg2rad(-32))
    parts = [
        lathe([(r * radius, y * tall) for r, y in skin], 26).paint(p.main),
        stem.move(0, tall * 0.86).paint(wood),
        shine.move(x, tall * 0.79, z).paint(contrast(p.main, WHITE, (0.6, 0.6, 0.64))),
        cylinder(0.11, 0.06, 0.07, segments=6).move(0, -0.02).paint(wood),
    ]
    turn = p.u(-25, 25)
    for around, long in ((70, 0.3), (235, 0.26)) if tall_one else ((65, 0.4),):
        leaf = ellipsoid(long * 0.55, 0.05, long, 8, 14).move(0, 0, long * 0.95).rotate("x", -26)
        vein = ellipsoid(0.03, 0.03, long * 0.8, 6, 8).move(0, 0.045, long * 0.95).rotate("x", -26)
        for piece, color in ((leaf, leaves), (vein, shade(leaves, 0.7))):
            parts.append(piece.rotate("y", around + turn).move(0, tall * 0.97).paint(color))
    return parts


def carrot(p: Paint) -> list[Shape]:
    """Build a slim carrot with upright leaves or a stout one with spreading leaves, in the accent colour."""
    stout = p.rng.random() < 0.5
    radius, tall = (p.u(0.37, 0.41), p.u(0.84, 0.92)) if stout else (p.u(0.27, 0.3), p.u(1.05, 1.15))
    leaves = apart(p.accent, p.main)
    root = [(0, 0), (0.12, 0.01), (0.3, 0.14), (0.56, 0.38), (0.8, 0.64), (0.97, 0.86), (0.98, 0.95), (0.7, 1.02)]
    parts = [lathe([(r * radius, y * tall) for r, y in [*root, (0, 1.0)]], 22).paint(p.main)]
    turn = p.u(0, 90)
    for i, (y, r) in enumerate(((0.3, 0.45), (0.46, 0.62), (0.62, 0.775), (0.77, 0.89), (0.89, 0.97))):
        for k in range(2):
            groove = arc(r * radius * 0.985, 0.035, 0, 80, 6).rotate("x", 90).rotate("y", 180 * k + 75 * i + turn)
            parts.append(groove.move(0, y * tall).paint(shade(p.main, 0.62)))
    for i in range(7):
        if stout:
            lean, long = (46, 0.25) if i else (0, 0.24)
        else:
            lean, long = (17 if i % 2 else 24, p.u(0.26, 0.3)) if i else (0, 0.34)
        stalk = cylinder(0.05, long * 1.2, segments=8).paint(shade(leaves, 0.8))
        frond = ellipsoid(0.15 if stout else 0.1, long, 0.09, 8, 12).move(0, long * 1.6).paint(leaves)
        pieces = [s.rotate("x", lean).rotate("y", 60 * i + turn).move(0, tall * 0.96) for s in (stalk, frond)]
        parts += pieces
    return parts


def cake(p: Paint) -> list[Shape]:
    """Build a cake without one slice, with dripping icing and candles or with a second tier, icing in the accent."""
    tiered = p.rng.random() < 0.5
    radius, layer, cut = p.u(0.54, 0.6), p.u(0.25, 0.29), p.u(25, 30)
    angle = np.deg2rad(np.linspace(cut - 90, 270 - cut, 22))
    rim = np.array([(0.0, 0.0), *zip(np.cos(angle).tolist(), np.sin(angle).tolist(), strict=True)])

    def slab(size: float, low: float, high: float) -> Shape:
        """A round slab with the slice in front cut out."""
        return prism(rim * size, high - low).rotate("x", -90).move(0, (low + high) / 2)

    top, icing = 2 * layer + 0.06, apart(p.accent, p.main)
    sponge = contrast(p.main, SPONGE, (0.72, 0.5, 0.28), WHITE)
    berry = contrast(icing, COLORS["red"], COLORS["purple"])
    plate = contrast(p.main, WHITE, (0.6, 0.8, 0.95))
    parts = [
        cylinder(radius + 0.18, 0.09, radius + 0.2, segments=24).move(0, -0.085).paint(plate),
        slab(radius, 0, top).paint(p.main),
        slab(radius * 0.93, 0.03, layer).move(0, 0, 0.03).paint(sponge),
        slab(radius * 0.93, layer + 0.06, top - 0.03).move(0, 0, 0.03).paint(sponge),
        slab(radius * 1.05, top - 0.02, top + 0.09).move(0, 0, 0.015).paint(icing),
        arc(radius, 0.06, cut + 90, 450 - cut, 24).rotate("x", 90).move(0, 0.035).paint(icing),
    ]
    around = np.linspace(cut - 80, 260 - cut, 12)
    wax = contrast(icing, (0.3, 0.6, 0.9), GLOW)
    if tiered:
        parts += [
            slab(radius * 0.6, top + 0.05, top + 0.42).move(0, 0, -0.02).paint(p.main),
            slab(radius * 0.55, top + 0.1, top + 0.36).move(0, 0, 0.0).paint(sponge),
            slab(radius * 0.65, top + 0.4, top + 0.5).move(0, 0, -0.005).paint(icing),
            ellipsoid(0.13, rings=8, segments=14).move(0, top + 0.57, -0.16).paint(berry),
        ]
        for a in around:
            puff = ellipsoid(0.095, 0.085, 0.095, 8, 10).move(0, top + 0.08, radius * 0.9)
            parts.append(puff.rotate("y", a + 90).paint(icing))
        for a in np.linspace(cut - 72, 252 - cut, 8):
            puff = ellipsoid(0.08, 0.075, 0.08, 8, 10).move(0, top + 0.1, radius * 0.6)
            parts.append(puff.rotate("y", a + 90).move(0, 0, -0.02).paint(shade(icing, 0.8)))
    else:
        for i, a in enumerate(around):
            drop = (0.13, 0.08, 0.18)[i % 3]
            drip = ellipsoid(0.09, drop, 0.06, 8, 10).move(0, top + 0.02 - drop * 0.7, radius)
            parts.append(drip.rotate("y", a + 90).paint(icing))
        for a in np.deg2rad(np.linspace(cut - 72, 252 - cut, 7)):
            cherry = ellipsoid(0.095, rings=8, segments=12)
            parts.append(cherry.move(radius * 0.76 * np.cos(a), top + 0.15, -radius * 0.76 * np.sin(a)).paint(berry))
        for x, z in ((0.0, -0.24), (-0.2, -0.06), (0.2, -0.06)):
            parts.append(cylinder(0.05, 0.3, segments=8).move(x, top + 0.07, z).paint(wax))
            parts.append(ellipsoid(0.065, 0.11, 0.065, 8, 10).move(x, top + 0.45, z).paint(GLOW))
    return parts


def burger(p: Paint) -> list[Shape]:
    """Build a burger with one patty or two, with cheese in the accent colour."""
    double = p.rng.random() < 0.5
    radius, rise = p.u(0.54, 0.58), p.u(0.34, 0.4)
    polar = np.deg2rad(np.linspace(0, 90, 7))
    dome = [(0, -0.02), (0.88, -0.02), *((np.cos(a), np.sin(a) * rise / radius + 0.06) for a in polar[:-1])]
    bun = lathe([*((r * radius, y * radius) for r, y in dome), (0, rise + 0.06 * radius)], 26)
    cheese, turn = apart(p.accent, p.main), p.u(-12, 12)
    meat = contrast(p.main, (0.36, 0.19, 0.10), (0.6, 0.38, 0.22))
    tomato = contrast(p.main, COLORS["red"], (0.98, 0.45, 0.3))
    patty = cylinder(radius * 1.05, 0.19, rounding=0.07, segments=26).paint(meat)
    slice_side = radius * 1.0
    cloth = box(2 * slice_side, 0.08, 2 * slice_side).paint(cheese)
    flap = prism([(-0.34, 0.0), (0.0, -0.24), (0.34, 0.0), (0.0, 0.05)], 0.08).rotate("x", 8).paint(cheese)
    parts = [cylinder(radius, 0.22, radius * 1.02, rounding=0.08, segments=26).paint(p.main)]
    level = 0.19
    for i in range(2 if double else 1):
        parts.append(patty.move(0, level))
        parts.append(cloth.rotate("y", turn + 45 * i).move(0, level + 0.21))
        for k in range(4):
            # A corner of the slice melts down over the rim.
            corner = flap.move(0, 0, slice_side + 0.01).rotate("y", 90 * k + turn + 45 * i)
            parts.append(corner.move(0, level + 0.2))
        level += 0.22
    if not double:
        parts.append(cylinder(radius * 0.99, 0.11, rounding=0.04, segments=24).move(0, level + 0.02).paint(tomato))
        level += 0.1
    salad = contrast(p.main, (0.35, 0.68, 0.18), (0.6, 0.85, 0.4))
    for i in range(14):
        wave = ellipsoid(0.17, 0.065, 0.14, 6, 10).rotate("x", 14 * (-1) ** i).move(0, level + 0.06, radius * 0.97)
        parts.append(wave.rotate("y", 360 * i / 14).paint(salad))
    parts.append(bun.move(0, level + 0.09).paint(p.main))
    seed = ellipsoid(0.055, 0.035, 0.08, 6, 8).paint(contrast(p.main, CREAM, (0.5, 0.4, 0.25)))
    rows = [(4, 0), *((34, 72 * i) for i in range(5)), *((60, 45 * i + 20) for i in range(8))]
    for lean, around in rows:
        y, z = np.cos(np.deg2rad(lean)) * rise, np.sin(np.deg2rad(lean)) * radius
        parts.append(seed.rotate("x", lean * 0.8).move(0, y + level + 0.09 + 0.06 * radius, z).rotate("y", around))
    return parts


def donut(p: Paint) -> list[Shape]:
    """Build a donut with sprinkles or with zigzag lines on icing in the accent colour."""
    drizzled = p.rng.random() < 0.5
    radius, thick, lean = p.u(0.38, 0.42), p.u(0.2, 0.23), p.u(4, 12)
    icing = apart(p.accent, p.main)
    crust = arc(radius + thick * 0.72, thick * 0.34, steps=28).scale(1, 1, 1.1).move(0, 0, -thick * 0.34)
    parts = [
        arc(radius, thick, steps=28).paint(p.main),
        crust.paint(shade(p.main, 0.88)),
        arc(radius, thick * 1.02, steps=28).scale(1, 1, 0.9).move(0, 0, thick * 0.36).paint(icing),
    ]
    count = 9
    for i in range(count):
        a = 2 * np.pi * (i + p.u(-0.2, 0.2)) / count
        far = radius + thick * 0.86
        drip = ellipsoid(0.085, 0.085, thick * 0.55, 8, 12).move(far * np.sin(a), far * np.cos(a), thick * 0.06)
        parts.append(drip.paint(icing))
    if drizzled:
        angle = 2 * np.pi * np.arange(56) / 56
        wave = radius + thick * 0.42 * np.sin(7 * angle)
        line = tube(np.stack([wave * np.cos(angle), wave * np.sin(angle)], axis=1), 0.034, 6, closed=True)
        height = thick * 0.36 + 0.9 * np.sqrt((1.02 * thick) ** 2 - (wave - radius) ** 2)
        line = bent(line, line.vertices + np.repeat(height, 6)[:, None] * np.array([0.0, 0.0, 1.0]))
        parts.append(line.paint(contrast(icing, WHITE, (0.36, 0.2, 0.12))))
    else:
        hues = [COLORS[c] for c in ("red", "yellow", "blue", "green", "white")]
        hues = [h for h in hues if np.linalg.norm(np.subtract(h, icing)) > 0.5]
        for i in range(20):
            a, off = 2 * np.pi * i / 20, (-0.5, 0.1, 0.55)[i % 3] * thick
            sprinkle = cylinder(0.036, 0.14, segments=6).move(0, -0.07).rotate("z", p.u(0, 180))
            z = thick * 0.36 + 0.93 * np.sqrt(thick**2 - off**2)
            sprinkle = sprinkle.move((radius + off) * np.sin(a), (radius + off) * np.cos(a), z)
            parts.append(sprinkle.paint(hues[i % len(hues)]))
    return [s.rotate("x", -lean) for s in parts]


BUILDERS: dict[str, Builder] = {"apple": apple, "carrot": carrot, "cake": cake, "burger": burger, "donut": donut}
