"""Wild animals."""

from __future__ import annotations

import numpy as np

from sds3d.toybox.paint import CARROT, GLOW, GREY, INK, WHITE, Paint, contrast, shade
from sds3d.toybox.parts import Builder, corners, eye, mirrored, side_profile
from sds3d.toybox.shapes import Shape, arc, box, cap, cylinder, ellipsoid, lathe, prism, tube
from sds3d.toybox.world import COLORS

PALE = (0.72, 0.72, 0.74)


def bear(p: Paint) -> list[Shape]:
    """Build a bear with a shirt in the accent colour."""
    wide, tall, head = p.u(0.4, 0.46), p.u(0.46, 0.52), p.u(0.4, 0.45)
    y = tall * 1.72 + head * 0.6
    light = contrast(p.main, (0.93, 0.78, 0.55), PALE)
    shirt = [(0, 0.1), (wide * 0.86, 0.12), (wide * 1.06, tall * 0.6), (wide * 0.9, tall * 1.3)]
    parts = [
        ellipsoid(wide, tall, wide * 0.92, 10, 18).move(0, tall).paint(p.main),
        lathe([*shirt, (wide * 0.62, tall * 1.72), (0, tall * 1.75)], 20).scale(1, 1, 0.93).paint(p.accent),
        ellipsoid(head * 1.08, head * 0.95, head * 0.92, 10, 18).move(0, y).paint(p.main),
        ellipsoid(0.22, 0.17, 0.16).move(0, y - head * 0.24, head * 0.8).paint(light),
        ellipsoid(0.095, 0.07, 0.06, 6, 12).move(0, y - head * 0.12, head * 0.8 + 0.14).paint(INK),
        ellipsoid(0.13, 0.12, 0.12, 8, 12).move(0, 0.24, -wide * 0.98).paint(p.main),
    ]
    arm = ellipsoid(0.14, 0.34, 0.15).rotate("x", -p.u(20, 50)).rotate("z", p.u(20, 34))
    cuff = ellipsoid(0.17, 0.16, 0.17, 8, 12).move(wide * 0.78, tall * 1.42, 0.03)
    leg = ellipsoid(0.18, 0.17, 0.36).rotate("y", 16).move(wide * 0.62, 0.17, wide * 0.75)
    pad = ellipsoid(0.125, 0.125, 0.06, 6, 12).rotate("y", 16).move(wide * 0.62 + 0.09, 0.17, wide * 0.75 + 0.32)
    ear = ellipsoid(0.17, 0.17, 0.09, 8, 14).move(head * 0.8, y + head * 0.74, -0.02)
    lining = ellipsoid(0.1, 0.1, 0.06, 6, 12).move(head * 0.8, y + head * 0.74, 0.05)
    sight = [s.rotate("y", 20).move(head * 0.4, y + head * 0.2, head * 0.8) for s in eye(0.085)]
    pieces = [arm.move(wide * 1.0, tall * 1.2, 0.14), leg, ear]
    pieces = [*(s.paint(p.main) for s in pieces), cuff.paint(p.accent), pad.paint(light), lining.paint(light)]
    return parts + mirrored([*pieces, *sight])


def elephant(p: Paint) -> list[Shape]:
    """Build an elephant with a blanket in the accent colour."""
    wide, long, leg = p.u(0.42, 0.48), p.u(0.56, 0.64), p.u(0.34, 0.42)
    head, y = p.u(0.36, 0.41), leg + wide * 0.72
    z, top = long * 0.92, leg + wide * 0.72 + 0.24
    curl = [(0, 0), (0.14, -0.1), (0.2, -0.28), (0.22, -0.46), (0.28, -0.58), (0.4, -0.62), (0.5, -0.54)]
    trunk = tube(curl, [0.17, 0.15, 0.125, 0.11, 0.1, 0.095, 0.09], 12).rotate("y", -90)
    cloth = cap(1.05, p.u(46, 54), 20).scale(wide * 1.0, wide * 0.96, long)
    trim = cap(1.035, 60, 20).scale(wide * 1.0, wide * 0.96, long)
    parts = [
        ellipsoid(wide, wide * 0.96, long, 10, 18).move(0, y).paint(p.main),
        ellipsoid(head, head * 1.02, head * 0.9, 10, 18).move(0, top, z).paint(p.main),
        trunk.move(0, top - 0.08, z + head * 0.72).paint(p.main),
        trim.move(0, y).paint(contrast(p.accent, GLOW, WHITE)),
        cloth.move(0, y).paint(p.accent),
        cylinder(0.05, 0.36, 0.04, segments=8).rotate("x", -160).move(0, y + 0.16, -long * 0.95).paint(p.main),
    ]
    parts += corners(cylinder(0.17, leg + 0.2, 0.16, segments=14).paint(p.main), wide * 0.52, long * 0.52)
    parts += corners(
        cylinder(0.185, 0.09, segments=14).move(0, -0.015).paint(contrast(p.main, WHITE, GREY)),
        wide * 0.52,
        long * 0.52,
    )
    ear = ellipsoid(p.u(0.3, 0.36), 0.36, 0.07).rotate("y", 28).move(head * 1.3, top + 0.05, z - 0.12)
    lining = ellipsoid(0.21, 0.25, 0.07).rotate("y", 28).move(head * 1.3 + 0.02, top + 0.03, z - 0.085)
    tusk = (
        cylinder(0.065, 0.3, 0.03, rounding=0.02, segments=10).rotate("x", 115).move(0.19, top - 0.24, z + head * 0.7)
    )
    sight = [s.rotate("y", 22).move(head * 0.46, top + head * 0.2, z + head * 0.76) for s in eye(0.08)]
    inner = contrast(p.main, COLORS["pink"], PALE)
    return parts + mirrored([ear.paint(p.main), lining.paint(inner), tusk.paint(contrast(p.main, WHITE, GLOW)), *sight])


def owl(p: Paint) -> list[Shape]:
    """Build an owl with wings in the accent colour."""
    wide, tall, eyes = p.u(0.44, 0.5), p.u(0.62, 0.7), p.u(0.19, 0.22)
    light = contrast(p.main, (0.97, 0.92, 0.8), PALE)
    gold = contrast(p.main, CARROT, GLOW)
    y, z = tall * 1.42, wide * 0.76
    parts = [
        ellipsoid(wide, tall, wide * 0.9, 12, 20).move(0, tall).paint(p.main),
        ellipsoid(wide * 0.98, tall * 0.48, wide * 0.86, 10, 20).move(0, tall * 1.46).paint(p.main),
        ellipsoid(wide * 0.66, tall * 0.62, 0.16).move(0, tall * 0.72, wide * 0.76).paint(light),
        cylinder(0.1, 0.24, 0.015, segments=8).rotate("x", 125).move(0, y - 0.06, z + 0.1).paint(gold),
        box(wide * 0.7, 0.07, 0.36, 0.03).rotate("x", -24).move(0, 0.16, -wide * 0.86).paint(p.accent),
    ]
    for row, count in enumerate((3, 2)):
        for i in range(count):
            mark = ellipsoid(0.06, 0.085, 0.05, 6, 8).move((i - (count - 1) / 2) * 0.18, tall * (0.9 - 0.28 * row))
            parts.append(mark.move(0, 0, wide * 0.9 + 0.01).paint(p.main))
    wing = (
        ellipsoid(0.11, tall * 0.66, wide * 0.62).rotate("x", 14).rotate("z", 8).move(wide * 0.98, tall * 0.86, -0.08)
    )
    tuft = cylinder(0.13, 0.34, 0.015, segments=8).rotate("z", -28).move(wide * 0.6, tall * 1.72, 0.02)
    ring = ellipsoid(eyes * 1.3, eyes * 1.3, 0.1, 8, 16).rotate("y", 16).move(wide * 0.4, y + 0.06, z - 0.02)
    sight = [s.rotate("y", 16).move(wide * 0.42, y + 0.06, z + 0.07) for s in eye(eyes * 0.85)]
    foot = ellipsoid(0.13, 0.07, 0.17, 6, 12).move(wide * 0.4, 0.05, wide * 0.6)
    pieces = [wing.paint(p.accent), tuft.paint(p.main), ring.paint(light), foot.paint(gold)]
    return parts + mirrored([*pieces, *sight])


def penguin(p: Paint) -> list[Shape]:
    """Build a penguin with a belly in the accent colour."""
    wide, tall, head = p.u(0.4, 0.46), p.u(0.58, 0.66), p.u(0.32, 0.37)
    y = tall * 1.72 + head * 0.35
    gold = contrast(p.main, CARROT, GLOW)
    parts = [
        ellipsoid(wide, tall, wide * 0.9, 12, 20).move(0, tall).paint(p.main),
        ellipsoid(wide * 0.8, tall * 0.82, wide * 0.5, 10, 18).move(0, tall * 0.92, wide * 0.52).paint(p.accent),
        ellipsoid(head, head * 0.95, head * 0.95, 10, 18).move(0, y).paint(p.main),
        cylinder(0.12, 0.3, 0.02, segments=12).scale(1.1, 1, 0.75).rotate("x", 95).move(0, y - 0.05, head * 0.82),
        cylinder(0.16, 0.26, 0.03, segments=10).scale(1.2, 1, 0.5).rotate("x", -115).move(0, 0.18, -wide * 0.72),
    ]
    parts[3:] = [parts[3].paint(gold), parts[4].paint(p.main)]
    wing = ellipsoid(0.075, tall * 0.58, 0.2).move(0, -tall * 0.5).rotate("z", p.u(16, 40)).rotate("x", 8)
    foot = ellipsoid(0.19, 0.08, 0.26, 8, 12).rotate("y", 18).move(wide * 0.5, 0.05, wide * 0.6)
    cheek = ellipsoid(head * 0.46, head * 0.52, 0.1).rotate("y", 26).move(head * 0.44, y - 0.02, head * 0.76)
    sight = [s.rotate("y", 24).move(head * 0.46, y + 0.08, head * 0.78 + 0.085) for s in eye(0.1)]
    pieces = [wing.move(wide * 0.92, tall * 1.42).paint(p.main), foot.paint(gold), cheek.paint(p.accent), *sight]
    return parts + mirrored(pieces)


def snail(p: Paint) -> list[Shape]:
    """Build a snail with a shell in the accent colour."""
    size, long, tall = p.u(0.4, 0.46), p.u(0.62, 0.72), p.u(0.46, 0.54)
    turn = np.linspace(0, 2 * np.pi * 1.9, 24)
    coil = np.stack([np.cos(turn), np.sin(turn)], axis=1) * (size * (1 - 0.8 * turn / turn[-1]))[:, None]
    light = contrast(p.accent, (0.97, 0.9, 0.72), shade(p.accent, 0.55))
    y, z, head = size + 0.1, -0.16, long * 0.92
    body = tube(
        [(-long - 0.1, 0.05), (-long * 0.6, 0.1), (0, 0.14), (long * 0.6, 0.15), (head, 0.3), (head + 0.06, tall)],
        [0.05, 0.13, 0.17, 0.17, 0.16, 0.14], 12,
    )  # fmt: skip
    parts = [
        body.rotate("y", -90).scale(1.15, 1, 1).paint(p.main),
        ellipsoid(size * 0.62, size * 1.12, size * 1.12, 12, 22).move(0, y, z).paint(p.accent),
        ellipsoid(0.2, 0.19, 0.2).move(0, tall + 0.06, head + 0.08).paint(p.main),
        arc(0.1, 0.035, -150, -30, 8)
        .rotate("x", 8)
        .move(0, tall + 0.06, head + 0.25)
        .paint(contrast(p.main, INK, WHITE)),
    ]
    swirl = tube(coil, np.linspace(0.075, 0.055, 24), 8).rotate("y", -90)
    stalk = cylinder(0.045, 0.3, 0.04, segments=8).rotate("z", -20).rotate("x", 10)
    sight = [s.rotate("y", 10).move(0.19, tall + 0.46, head + 0.2) for s in eye(0.1)]
    lump = ellipsoid(0.1, rings=8, segments=12).move(0.19, tall + 0.46, head + 0.16).paint(p.main)
    parts += [swirl.move(x * size * 0.5, y, z).paint(light) for x in (-1, 1)]
    return parts + mirrored([stalk.move(0.08, tall + 0.16, head + 0.1).paint(p.main), lump, *sight])


def bee(p: Paint) -> list[Shape]:
    """Build a bee with stripes in the accent colour."""
    wide, long, head = p.u(0.36, 0.42), p.u(0.5, 0.58), p.u(0.3, 0.34)
    z, dark = long * 0.85, contrast(p.main, INK, GREY)
    parts = [
        ellipsoid(wide, wide, long, 12, 20).paint(p.main),
        ellipsoid(head * 1.05, head, head * 0.95, 10, 18).move(0, 0.1, z).paint(p.main),
        cylinder(0.09, 0.26, 0.01, segments=10).rotate("x", -90).move(0, 0, -long * 0.95).paint(dark),
        arc(0.13, 0.035, -150, -30, 8).rotate("x", 14).move(0, 0.08, z + head * 0.9).paint(dark),
    ]
    for spot in (0.26, -0.08, -0.36):
        round_here = 1.035 * np.sqrt(1 - (spot / long) ** 2) * wide
        parts.append(ellipsoid(round_here, round_here, 0.11, 10, 20).move(0, 0, spot).paint(p.accent))
    blade = ellipsoid(0.4, 0.045, 0.22, 8, 16).move(0.36).rotate("y", p.u(10, 24)).rotate("z", p.u(28, 44))
    small = ellipsoid(0.27, 0.045, 0.16, 8, 14).move(0.25).rotate("y", 44).rotate("z", 24)
    feeler = tube([(0, 0), (0.05, 0.14), (0.13, 0.24)], 0.032, 8).rotate("y", -30)
    knob = ellipsoid(0.065, rings=6, segments=10).move(0.24, 0.1 + head * 1.62, z + 0.16)
    wing = contrast(p.main, (0.8, 0.92, 0.99), (0.55, 0.72, 0.86))
    pieces = [s.move(0.08, wide * 0.82, 0).paint(wing) for s in (blade.move(0, 0, 0.1), small.move(0, 0, -0.12))]
    pieces += [feeler.move(0.12, 0.1 + head * 0.88, z + 0.1).paint(dark), knob.paint(dark)]
    sight = [s.rotate("y", 24).move(head * 0.48, 0.1 + head * 0.2, z + head * 0.76) for s in eye(0.11)]
    cheek = ellipsoid(0.06, 0.05, 0.04, 6, 10).rotate("y", 36).move(head * 0.62, -0.02, z + head * 0.72)
    foot = ellipsoid(0.06, 0.13, 0.06, 6, 10)
    pieces += [foot.move(wide * 0.45, -wide * 0.94, k).paint(dark) for k in (0.2, -0.12)]
    return parts + mirrored([*pieces, *sight, cheek.paint(contrast(p.main, COLORS["pink"], COLORS["red"]))])


def dinosaur(p: Paint) -> list[Shape]:
    """Build a dinosaur with spikes in the accent colour."""
    wide, tall, head = p.u(0.32, 0.37), p.u(0.46, 0.52), p.u(0.3, 0.34)
    y, z = 0.56, 0.12
    top, snout = y + tall + 0.34, p.u(0.28, 0.36)
    light = contrast(p.main, (0.97, 0.93, 0.7), PALE)
    spine = [(-1.0, 0.16), (-0.78, 0.2), (-0.52, 0.34), (-0.2, y), (0.02, y + 0.3), (0.12, y + 0.62), (0.2, top)]
    parts = [
        tube(spine, [0.06, 0.12, 0.2, 0.3, 0.28, 0.22, 0.2], 14).rotate("y", -90).paint(p.main),
        ellipsoid(wide, tall * 0.95, wide * 0.95, 10, 18).rotate("x", 12).move(0, y, 0.0).paint(p.main),
        ellipsoid(wide * 0.66, tall * 0.74, 0.16).rotate("x", 2).move(0, y - 0.02, wide * 0.8).paint(light),
        ellipsoid(head, head * 0.86, head, 10, 18).move(0, top + 0.04, z + 0.14).paint(p.main),
        box(head * 1.5, head * 0.95, snout * 1.7, 0.12).move(0, top - 0.04, z + 0.2 + snout * 0.8).paint(p.main),
        box(head * 1.2, 0.06, snout * 1.1, 0.02)
        .move(0, top - 0.12, z + 0.24 + snout * 1.17)
        .paint(contrast(p.main, INK, WHITE)),
    ]
    for i, (a, b) in enumerate(
        ((-0.86, 0.22), (-0.64, 0.4), (-0.46, 0.62), (-0.3, 0.86), (-0.18, 1.1), (-0.12, 1.34), (0.0, 1.52))
    ):
        size = (0.13, 0.16, 0.2, 0.22, 0.2, 0.17, 0.14)[i]
        plate = side_profile([(-size, 0), (size * 0.75, -size * 0.9), (-size * 1.1, size * 1.25)], 0.1, 0.02)
        parts.append(plate.rotate("x", (18, 14, 4, -4, -8, -4, 22)[i]).move(0, b + 0.03, a).paint(p.accent))
    thigh = ellipsoid(0.18, 0.28, 0.25).move(wide * 0.8, 0.4, -0.02)
    shin = cylinder(0.13, 0.34, segments=12).move(wide * 0.85, 0.02, -0.02)
    foot = ellipsoid(0.17, 0.1, 0.26, 8, 12).move(wide * 0.86, 0.08, 0.1)
    arm = (
        cylinder(0.075, 0.3, 0.06, rounding=0.03, segments=10).rotate("x", 105).move(wide * 0.72, y + 0.3, wide * 0.55)
    )
    claws = [ellipsoid(0.045, 0.045, 0.06, 6, 8).move(wide * 0.86 + k, 0.05, 0.34) for k in (-0.09, 0, 0.09)]
    sight = [
        s.rotate("y", 34).move(head * 0.72, top + head * 0.5, z + 0.26) for s in eye(0.1, contrast(p.main, WHITE, GLOW))
    ]
    hole = (
        ellipsoid(0.04, 0.045, 0.04, 6, 8)
        .move(0.09, top + 0.08, z + 0.2 + snout * 1.62)
        .paint(contrast(p.main, INK, WHITE))
    )
    pieces = [*(s.paint(p.main) for s in (thigh, shin, foot, arm)), *(s.paint(light) for s in claws)]
    return parts + mirrored([*pieces, *sight, hole])


def whale(p: Paint) -> list[Shape]:
    """Build a whale with a belly in the accent colour."""
    wide, tall, long = p.u(0.46, 0.52), p.u(0.42, 0.48), p.u(0.66, 0.76)
    water = (0.45, 0.78, 0.97)
    tail = tube(
        [(-long - 0.3, 0.44), (-long - 0.16, 0.26), (-long * 0.8, 0.1), (-long * 0.4, 0.02)],
        [0.09, 0.14, 0.24, 0.36],
        14,
    )
    parts = [
        ellipsoid(wide, tall, long, 12, 22).paint(p.main),
        ellipsoid(wide * 0.94, tall * 0.8, long * 0.88, 10, 20).move(0, -tall * 0.27, long * 0.12).paint(p.accent),
        tail.rotate("y", -90).paint(p.main),
        arc(wide * 0.82, 0.035, -160, -20, 14)
        .rotate("x", 90)
        .scale(1, 1, 0.62)
        .move(0, -0.03, long * 0.5)
        .paint(p.main),
    ]
    fluke = prism([(0.02, -0.1), (0.3, -0.26), (0.44, -0.2), (0.3, 0.06), (0.02, 0.16)], 0.1, 0.02)
    fin = ellipsoid(0.3, 0.06, 0.15, 8, 12).move(0.22).rotate("y", 30).rotate("z", -24).move(wide * 0.82, -0.14, 0.1)
    sight = [s.rotate("y", 50).move(wide * 0.74, 0.06, long * 0.6) for s in eye(0.1)]
    jet = tube([(0, 0), (0.02, 0.2), (0.1, 0.34), (0.22, 0.36), (0.3, 0.26)], [0.055, 0.06, 0.065, 0.065, 0.06], 8)
    drop = ellipsoid(0.075, 0.09, 0.075, 6, 10).move(0.31, tall + 0.16, 0.12)
    pieces = [fluke.rotate("x", 58).move(0, 0.44, -long - 0.32).paint(p.main), fin.paint(p.main)]
    pieces += [jet.move(0.03, tall - 0.04, 0.12).paint(water), drop.paint(water)]
    return parts + mirrored([*pieces, *sight])


BUILDERS: dict[str, Builder] = {
    "bear": bear,
    "elephant": elephant,
    "owl": owl,
    "penguin": penguin,
    "snail": snail,
    "bee": bee,
    "dinosaur": dinosaur,
    "whale": whale,
}
