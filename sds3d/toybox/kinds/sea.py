"""How animals of the sea are built: fish, penguin and whale."""

from __future__ import annotations

import numpy as np

from sds3d.toybox.paint import CARROT, GLOW, INK, WHITE, Paint, apart, contrast, shade
from sds3d.toybox.parts import Builder, eye, mirrored, side_profile
from sds3d.toybox.shapes import Shape, arc, cap, cylinder, ellipsoid, prism, tube


def fish(p: Paint) -> list[Shape]:
    """Build a striped fish with a forked tail or a scaly one with a round tail, with fins in the accent colour."""
    scaly = p.rng.random() < 0.5
    wide, tall, long = p.u(0.28, 0.33), p.u(0.42, 0.48), p.u(0.6, 0.68)
    fins = apart(p.accent, p.main)
    stripe = contrast(p.main, WHITE, INK)
    spread = p.u(0.38, 0.44)
    tail = [(0.06, -0.1), (0.06, 0.1), (-0.36, spread), (-0.26, 0), (-0.36, -spread)]
    back = [(0.3, 0), (0.16, 0.26), (-0.12, 0.34), (-0.36, 0.22), (-0.34, 0)]
    if scaly:
        wide, tall = wide * 1.16, tall * 1.08
        tail = [(0.06, -0.1), (0.06, 0.1), (-0.18, 0.36), (-0.36, 0.3), (-0.44, 0), (-0.36, -0.3), (-0.18, -0.36)]
        back = [(0.34, 0), (0.32, 0.14), (0.18, 0.28), (-0.04, 0.32), (-0.26, 0.24), (-0.38, 0.08), (-0.36, 0)]
    parts = [
        ellipsoid(wide, tall, long, 12, 20).paint(p.main),
        side_profile(tail, 0.14, 0.03).move(0, 0, -long * 0.94).paint(fins),
        side_profile(back, 0.14, 0.03).move(0, tall * 0.84, 0).paint(fins),
        side_profile([(0.16, 0), (-0.24, 0.02), (-0.22, -0.22)], 0.12).move(0, -tall * 0.88, -0.05).paint(fins),
        arc(0.1, 0.055, steps=14).scale(1.15, 1, 1).move(0, -0.06, long * 0.975).paint(contrast(p.main, CARROT, GLOW)),
    ]
    pieces = []
    if scaly:
        scale = shade(p.main, 0.7)
        for z, rows in ((0.12, (-0.36, 0.0, 0.36)), (-0.12, (-0.5, -0.18, 0.18, 0.5)), (-0.36, (-0.34, 0.0, 0.34))):
            for y in rows:
                depth = np.sqrt(max(0.0, 1 - (z / long) ** 2 - y**2))
                dot = ellipsoid(0.045, 0.085, 0.095, 6, 10).rotate("z", 40 * y)
                pieces.append(dot.move(wide * depth * 0.97, y * tall, z).paint(scale))
    else:
        for z, thick in ((p.u(0.08, 0.12), 0.18), (-0.26, 0.18)):
            here = 1.05 * np.sqrt(1 - (z / long) ** 2)
            parts.append(ellipsoid(wide * here, tall * here, thick, 10, 20).move(0, 0, z).paint(stripe))
    fin = ellipsoid(0.07, 0.13, 0.26, 8, 12).rotate("y", -40).rotate("x", -20).move(wide * 1.05, -0.12, 0.04)
    sight = [s.rotate("y", 52).move(wide * 0.74, tall * 0.26, long * 0.58) for s in eye(0.155)]
    return parts + mirrored([*pieces, fin.paint(fins), *sight])


def penguin(p: Paint) -> list[Shape]:
    """Build a penguin with hanging wings, or a crested one with lifted wings, and a belly in the accent colour."""
    crested = p.rng.random() < 0.5
    wide, tall, head = p.u(0.4, 0.46), p.u(0.58, 0.64), p.u(0.33, 0.37)
    belly, gold, wing_color = apart(p.accent, p.main), contrast(p.main, CARROT, GLOW), shade(p.main, 0.82)
    y = tall * 1.72 + head * 0.35
    parts = [
        ellipsoid(wide, tall, wide * 0.9, 12, 20).move(0, tall).paint(p.main),
        ellipsoid(wide * 0.8, tall * 0.82, wide * 0.5, 10, 18).move(0, tall * 0.92, wide * 0.52).paint(belly),
        ellipsoid(head, head * 0.95, head * 0.95, 10, 18).move(0, y).paint(p.main),
        cylinder(0.13, 0.32, 0.03, segments=12).scale(1.1, 1, 0.75).rotate("x", 95).move(0, y - 0.06, head * 0.82)
        .paint(gold),
        cylinder(0.2, 0.34, 0.05, segments=10).scale(1.2, 1, 0.5).rotate("x", -115).move(0, 0.24, -wide * 0.68)
        .paint(wing_color),
        cap(1.035, 48, 18).rotate("x", -90).scale(wide, tall, wide * 0.9).move(0, tall).paint(wing_color),
    ]  # fmt: skip
    wing = ellipsoid(0.085, tall * 0.58, 0.21).move(0, -tall * 0.5)
    wing = wing.rotate("z", p.u(70, 88) if crested else p.u(16, 30)).rotate("x", 8)
    foot = ellipsoid(0.2, 0.09, 0.27, 8, 12).rotate("y", 18).move(wide * 0.5, 0.06, wide * 0.6)
    cheek = ellipsoid(head * 0.46, head * 0.52, 0.1).rotate("y", 26).move(head * 0.44, y - 0.02, head * 0.76)
    sight = [s.rotate("y", 24).move(head * 0.46, y + 0.08, head * 0.78 + 0.085) for s in eye(0.12)]
    pieces = [wing.move(wide * 0.86, tall * 1.42).paint(wing_color), foot.paint(gold), cheek.paint(belly), *sight]
    if crested:
        for lean, long in ((48, 0.24), (74, 0.22)):
            plume = cylinder(0.075, long * 1.5, 0.025, segments=8).rotate("z", -lean).rotate("y", 20)
            pieces.append(plume.move(head * 0.46, y + head * 0.66, head * 0.3).paint(gold))
    return parts + mirrored(pieces)


def whale(p: Paint) -> list[Shape]:
    """Build a round whale with a raised tail or a long one with a back fin, with a belly in the accent colour."""
    finned = p.rng.random() < 0.5
    belly, water = apart(p.accent, p.main), contrast(p.main, (0.45, 0.78, 0.97), WHITE)
    if finned:
        wide, tall, long = p.u(0.4, 0.44), p.u(0.4, 0.44), p.u(0.82, 0.9)
        path, girth = (
            [(-long - 0.34, 0.02), (-long - 0.1, 0.02), (-long * 0.8, 0.02), (-long * 0.4, 0.0)],
            [0.1, 0.13, 0.23, 0.34],
        )
        tip = (0.02, -long - 0.38)
    else:
        wide, tall, long = p.u(0.48, 0.53), p.u(0.44, 0.48), p.u(0.66, 0.74)
        path = [(-long - 0.3, 0.46), (-long - 0.16, 0.26), (-long * 0.8, 0.1), (-long * 0.4, 0.02)]
        girth, tip = [0.11, 0.15, 0.25, 0.37], (0.46, -long - 0.32)
    mouth = contrast(belly, p.main, INK, WHITE)
    parts = [
        ellipsoid(wide, tall, long, 12, 22).paint(p.main),
        ellipsoid(wide * 1.0, tall * 0.78, long * 0.94, 10, 20).move(0, -tall * 0.33, long * 0.08).paint(belly),
        tube(path, girth, 14).rotate("y", -90).paint(p.main),
        arc(wide * 0.84, 0.045, -160, -20, 14).rotate("x", 90).scale(1, 1, 0.62 * long / 0.7).move(0, -0.04, long * 0.5)
        .paint(mouth),
    ]  # fmt: skip
    fluke = prism([(-0.03, -0.12), (0.34, -0.3), (0.5, -0.22), (0.34, 0.08), (-0.03, 0.18)], 0.12, 0.03)
    fin = ellipsoid(0.34, 0.07, 0.17, 8, 12).move(0.24).rotate("y", 30).rotate("z", -24).move(wide * 0.82, -0.14, 0.1)
    sight = [s.rotate("y", 46).move(wide * 0.76, 0.1, long * 0.58) for s in eye(0.125)]
    jet = tube([(0, 0), (0.02, 0.2), (0.1, 0.34), (0.22, 0.36), (0.3, 0.26)], [0.065, 0.07, 0.075, 0.075, 0.07], 8)
    drop = ellipsoid(0.09, 0.11, 0.09, 6, 10).move(0.31, tall + 0.15, 0.12)
    pieces = [fluke.rotate("x", 84 if finned else 140).move(0, *tip).paint(p.main), fin.paint(p.main)]
    pieces += [jet.move(0.03, tall - 0.04, 0.12).paint(water), drop.paint(water)]
    if finned:
        sail = side_profile([(0.2, -0.06), (-0.26, 0.36), (-0.3, 0.3), (-0.22, -0.06)], 0.12, 0.02)
        parts.append(sail.move(0, tall * 0.9, -0.28).paint(shade(p.main, 0.82)))
    return parts + mirrored([*pieces, *sight])


BUILDERS: dict[str, Builder] = {"fish": fish, "penguin": penguin, "whale": whale}
