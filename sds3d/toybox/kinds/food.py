"""Food."""

from __future__ import annotations

import numpy as np

from sds3d.toybox.paint import GLOW, WHITE, WOOD, Paint, contrast, shade
from sds3d.toybox.parts import Builder
from sds3d.toybox.shapes import Shape, arc, box, cylinder, ellipsoid, lathe, prism, tube
from sds3d.toybox.world import COLORS

CREAM = (0.98, 0.94, 0.82)


def apple(p: Paint) -> list[Shape]:
    """Build an apple with leaves in the accent colour."""
    radius, tall = p.u(0.48, 0.54), p.u(0.84, 0.96)
    skin = [(0, 0.08), (0.2, 0.0), (0.48, 0.04), (0.78, 0.24), (0.97, 0.5), (1, 0.68), (0.9, 0.86), (0.66, 0.98)]
    skin += [(0.4, 1.0), (0.2, 0.95), (0, 0.86)]
    body = lathe([(r * radius, y * tall) for r, y in skin], 26)
    bend = p.u(0.06, 0.14)
    stem = tube([(0, 0), (0.01, 0.14), (bend, 0.3)], [0.045, 0.045, 0.055], 8)
    parts = [body.paint(p.main), stem.move(0, tall * 0.86).paint(contrast(p.main, WOOD, (0.75, 0.6, 0.4)))]
    shine = ellipsoid(0.06, 0.13, 0.04, 6, 12).rotate("x", -24).rotate("y", -32)
    x, z = radius * 0.93 * np.sin(np.deg2rad(-32)), radius * 0.93 * np.cos(np.deg2rad(-32))
    parts.append(shine.move(x, tall * 0.78, z).paint(contrast(p.main, WHITE, (0.6, 0.6, 0.64))))
    turn = p.u(-30, 30)
    for around, long in ((25, 0.3), (205, 0.22)):
        leaf = ellipsoid(0.17, 0.045, long, 8, 14).move(0, 0, long * 0.92).rotate("x", -34)
        parts.append(leaf.rotate("y", around + turn).move(0, tall * 0.9).paint(p.accent))
    return parts


def carrot(p: Paint) -> list[Shape]:
    """Build a carrot with leaves in the accent colour."""
    radius, tall = p.u(0.28, 0.34), p.u(0.95, 1.1)
    root = [
        (0, 0),
        (0.1, 0.01),
        (0.3, 0.14),
        (0.56, 0.38),
        (0.8, 0.64),
        (0.97, 0.86),
        (0.98, 0.95),
        (0.7, 1.02),
        (0, 1.0),
    ]
    parts = [lathe([(r * radius, y * tall) for r, y in root], 22).paint(p.main)]
    turn = p.u(0, 90)
    for i, (y, r) in enumerate(((0.3, 0.44), (0.48, 0.63), (0.62, 0.77), (0.76, 0.88), (0.88, 0.965))):
        for k in range(2):
            groove = arc(r * radius * 0.985, 0.03, 0, 70, 6).rotate("x", 90).rotate("y", 180 * k + 75 * i + turn)
            parts.append(groove.move(0, y * tall).paint(shade(p.main, 0.62)))
    for i in range(6):
        lean, long = (24, p.u(0.2, 0.26)) if i else (0, 0.3)
        stalk = cylinder(0.04, long * 1.2, segments=8)
        frond = ellipsoid(0.11, long, 0.09, 8, 12).move(0, long * 1.7)
        pieces = [s.rotate("x", lean).rotate("y", 72 * i + turn).move(0, tall * 0.97) for s in (stalk, frond)]
        parts += [s.paint(p.accent) for s in pieces]
    return parts


def cake(p: Paint) -> list[Shape]:
    """Build a cake with icing in the accent colour."""
    radius, layer, cut = p.u(0.54, 0.6), p.u(0.25, 0.3), p.u(24, 29)
    angle = np.deg2rad(np.linspace(cut - 90, 270 - cut, 22))
    rim = [(0.0, 0.0), *zip(np.cos(angle).tolist(), np.sin(angle).tolist(), strict=True)]

    def slab(size: float, low: float, high: float) -> Shape:
        """A round slab with the slice in front cut out."""
        return prism(np.array(rim) * size, high - low).rotate("x", -90).move(0, (low + high) / 2)

    top, sponge = 2 * layer + 0.06, (0.93, 0.78, 0.48)
    berry = contrast(p.accent, COLORS["red"], COLORS["purple"])
    parts = [
        cylinder(radius + 0.18, 0.08, radius + 0.2, segments=24)
        .move(0, -0.08)
        .paint(contrast(p.main, WHITE, (0.6, 0.8, 0.95))),
        slab(radius, 0, top).paint(p.main),
        slab(radius * 0.93, 0.03, layer).move(0, 0, 0.03).paint(sponge),
        slab(radius * 0.93, layer + 0.06, top - 0.02).move(0, 0, 0.03).paint(sponge),
        slab(radius * 1.03, top - 0.01, top + 0.09).paint(p.accent),
        arc(radius, 0.055, cut + 90, 450 - cut, 24).rotate("x", 90).move(0, 0.03).paint(p.accent),
    ]
    for i, a in enumerate(np.deg2rad(np.linspace(cut - 80, 260 - cut, 12))):
        drop = (0.12, 0.07, 0.16)[i % 3]
        drip = ellipsoid(0.085, drop, 0.05, 8, 10).move(0, top + 0.02 - drop * 0.7, radius)
        parts.append(drip.rotate("y", np.rad2deg(a) + 90).paint(p.accent))
    for i in range(7):
        a = np.deg2rad(cut - 72 + (324 - 2 * cut) * i / 6)
        cherry = ellipsoid(0.085, rings=8, segments=12).move(
            radius * 0.76 * np.cos(a), top + 0.15, -radius * 0.76 * np.sin(a)
        )
        parts.append(cherry.paint(berry))
    wax, fire = contrast(p.accent, (0.3, 0.6, 0.9), GLOW), ellipsoid(0.05, 0.09, 0.05, 8, 10).move(0, top + 0.42)
    for x, z in ((0.0, -0.24), (-0.2, -0.06), (0.2, -0.06)):
        parts.append(cylinder(0.04, 0.28, segments=8).move(x, top + 0.07, z).paint(wax))
        parts.append(fire.move(x, 0, z).paint(GLOW))
    return parts


def burger(p: Paint) -> list[Shape]:
    """Build a burger with cheese in the accent colour."""
    radius, rise = p.u(0.52, 0.58), p.u(0.34, 0.42)
    polar = np.deg2rad(np.linspace(0, 90, 7))
    dome = [(0, -0.02), (0.88, -0.02), *((np.cos(a), np.sin(a) * rise / radius + 0.06) for a in polar[:-1])]
    bun = lathe([*((r * radius, y * radius) for r, y in dome), (0, rise + 0.06 * radius)], 26)
    meat, salad = (0.36, 0.19, 0.10), (0.35, 0.68, 0.18)
    half, spread = radius * 0.98, p.u(0, 90)
    sheet = box(2 * half, 0.09, 2 * half).rotate("y", spread)
    parts = [
        cylinder(radius, 0.22, radius * 1.02, rounding=0.08, segments=26).paint(p.main),
        cylinder(radius * 1.06, 0.17, rounding=0.07, segments=26)
        .move(0, 0.2)
        .paint(contrast(p.main, meat, (0.6, 0.38, 0.22))),
        sheet.move(0, 0.4).paint(p.accent),
        cylinder(radius * 0.98, 0.09, rounding=0.03, segments=24)
        .move(0, 0.44)
        .paint(contrast(p.main, COLORS["red"], (0.98, 0.45, 0.3))),
        bun.move(0, 0.6).paint(p.main),
    ]
    for i in range(4):
        flap = box(0.42, 0.24, 0.06).rotate("x", 12).move(0, 0.32, half + 0.01)
        parts.append(flap.rotate("y", 90 * i + spread).paint(p.accent))
    for i in range(14):
        wave = ellipsoid(0.17, 0.055, 0.13, 6, 10).rotate("x", 14 * (-1) ** i).move(0, 0.56, radius * 0.96)
        parts.append(wave.rotate("y", 360 * i / 14).paint(contrast(p.main, salad, (0.6, 0.85, 0.4))))
    seed = ellipsoid(0.05, 0.03, 0.07, 6, 8)
    for lean, around in [(4, 0), *((32, 72 * i) for i in range(5)), *((58, 45 * i + 20) for i in range(8))]:
        y, z = np.cos(np.deg2rad(lean)) * rise, np.sin(np.deg2rad(lean)) * radius
        grain = seed.rotate("x", lean * 0.8).move(0, y + 0.6 + 0.06 * radius, z).rotate("y", around)
        parts.append(grain.paint(contrast(p.main, CREAM, (0.5, 0.4, 0.25))))
    return parts


def donut(p: Paint) -> list[Shape]:
    """Build a donut with icing in the accent colour."""
    radius, thick, lean = p.u(0.38, 0.43), p.u(0.19, 0.23), p.u(4, 12)
    icing = arc(radius, thick * 1.02, steps=28).scale(1, 1, 0.9)
    parts = [arc(radius, thick, steps=28).paint(p.main), icing.move(0, 0, thick * 0.3).paint(p.accent)]
    for i in range(9):
        a = 2 * np.pi * (i + p.u(-0.2, 0.2)) / 9
        far = radius + thick * 0.84
        drip = ellipsoid(0.075, 0.075, thick * 0.5, 8, 12).move(far * np.sin(a), far * np.cos(a), -thick * 0.05)
        parts.append(drip.paint(p.accent))
    hues = [COLORS[c] for c in ("red", "yellow", "blue", "green", "white")]
    hues = [h for h in hues if np.linalg.norm(np.subtract(h, p.accent)) > 0.5]
    for i in range(22):
        a, off = 2 * np.pi * i / 22, (-0.45, 0.1, 0.5)[i % 3] * thick
        sprinkle = cylinder(0.03, 0.12, segments=6).move(0, -0.06).rotate("z", p.u(0, 180))
        z = thick * 0.3 + 0.92 * np.sqrt(thick**2 - off**2)
        sprinkle = sprinkle.move((radius + off) * np.sin(a), (radius + off) * np.cos(a), z)
        parts.append(sprinkle.paint(hues[i % len(hues)]))
    return [s.rotate("x", -lean) for s in parts]


BUILDERS: dict[str, Builder] = {
    "apple": apple,
    "carrot": carrot,
    "cake": cake,
    "burger": burger,
    "donut": donut,
}
