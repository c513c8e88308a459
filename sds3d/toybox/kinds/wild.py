"""How wild animals are built: turtle, owl, frog, snail, bee and dinosaur."""

from __future__ import annotations

import numpy as np

from sds3d.toybox.paint import CARROT, GLOW, GREY, INK, WHITE, Paint, apart, contrast, shade
from sds3d.toybox.parts import Builder, bent, eye, mirrored, side_profile
from sds3d.toybox.shapes import Shape, arc, box, cap, cylinder, ellipsoid, lathe, tube
from sds3d.toybox.world import COLORS

PALE, CREAM = (0.72, 0.72, 0.74), (0.97, 0.93, 0.75)


def turtle(p: Paint) -> list[Shape]:
    """Build a tortoise on four feet or a sea turtle with flippers, with a shell in the accent colour."""
    swims = p.rng.random() < 0.5
    wide, tall, long, head = p.u(0.5, 0.55), p.u(0.42, 0.48), p.u(0.58, 0.64), p.u(0.26, 0.29)
    if swims:
        tall *= 0.72
    shell = apart(p.accent, p.main)
    y, z, top = (0.16, long + 0.2, 0.3) if swims else (0.3, long + 0.12, p.u(0.54, 0.62))
    spot = contrast(shell, GLOW, shade(shell, 0.6))
    polar = np.deg2rad(np.linspace(0, 90, 7))
    dome = [(0, 0), *((np.cos(a), np.sin(a)) for a in polar[:-1]), (0, 1)]
    neck = tube([(0, 0), (0.2, 0.06), (0.34, top - y)], [0.17, 0.16, 0.15]).rotate("y", -90)
    parts = [
        lathe(dome, 22).scale(wide, tall, long).move(0, y).paint(shell),
        cylinder(1.07, 0.14, rounding=0.05, segments=22).scale(wide, 1, long).move(0, y - 0.07)
        .paint(shade(shell, 0.7)),
        ellipsoid(wide * 0.9, 0.16, long * 0.92).move(0, y - 0.05).paint(p.main),
        neck.move(0, y, z - 0.36).paint(p.main),
        ellipsoid(head, head * 0.92, head * 1.05).move(0, top, z).paint(p.main),
        arc(head * 0.62, 0.04, -150, -30, 8).rotate("x", 10).move(0, top + 0.06, z + head * 0.9)
        .paint(contrast(p.main, INK, WHITE)),
        cylinder(0.12, 0.34, 0.03, segments=10).rotate("x", -100).move(0, y, -long * 0.95).paint(p.main),
    ]  # fmt: skip
    for lean, around, size in [(0, 0, 18), *((50, 60 * i, 14) for i in range(6))]:
        plate = cap(1.035, size, 6).rotate("x", lean).rotate("y", around)
        parts.append(plate.scale(wide, tall, long).move(0, y).paint(spot))
    if swims:
        fore = (
            ellipsoid(0.4, 0.07, 0.17).move(0.36).rotate("y", 32).rotate("z", -12).move(wide * 0.7, 0.12, long * 0.42)
        )
        hind = (
            ellipsoid(0.24, 0.07, 0.14).move(0.2).rotate("y", 52).rotate("z", -8).move(wide * 0.55, 0.1, -long * 0.62)
        )
        pieces = [fore.paint(p.main), hind.paint(p.main)]
    else:
        leg = cylinder(0.15, 0.34, 0.16, rounding=0.05, segments=12).paint(p.main)
        toe = ellipsoid(0.05, 0.06, 0.05, 6, 8).paint(contrast(p.main, WHITE, INK))
        feet = [(wide * 0.72, long * 0.6), (wide * 0.72, -long * 0.56)]
        pieces = [leg.move(x, 0, z0) for x, z0 in feet]
        pieces += [toe.move(x + k, 0.06, z0 + 0.14) for x, z0 in feet for k in (-0.07, 0.07)]
    sight = [s.rotate("y", 28).move(head * 0.52, top + head * 0.34, z + head * 0.78) for s in eye(0.105)]
    return parts + mirrored([*pieces, *sight])


def owl(p: Paint) -> list[Shape]:
    """Build an owl with folded or spread wings in the accent colour."""
    spread = p.rng.random() < 0.5
    wide, tall, eyes = p.u(0.44, 0.5), p.u(0.62, 0.68), p.u(0.2, 0.22)
    light, gold = contrast(p.main, (0.97, 0.92, 0.8), PALE), contrast(p.main, CARROT, GLOW)
    wings, mark = apart(p.accent, p.main), shade(p.main, 0.66)
    y, z = tall * 1.42, wide * 0.76
    parts = [
        ellipsoid(wide, tall, wide * 0.9, 12, 20).move(0, tall).paint(p.main),
        ellipsoid(wide * 0.98, tall * 0.48, wide * 0.86, 10, 20).move(0, tall * 1.46).paint(p.main),
        ellipsoid(wide * 0.66, tall * 0.62, 0.16).move(0, tall * 0.72, wide * 0.76).paint(light),
        cylinder(0.11, 0.26, 0.02, segments=8).rotate("x", 125).move(0, y - 0.06, z + 0.1).paint(gold),
        box(wide * 0.8, 0.09, 0.4, 0.03).rotate("x", -24).move(0, 0.16, -wide * 0.86).paint(wings),
    ]
    for row, count in enumerate((3, 2)):
        for i in range(count):
            x = (i - (count - 1) / 2) * 0.19
            dash = ellipsoid(0.07, 0.09, 0.05, 6, 8).paint(p.main)
            parts.append(dash.move(x, tall * (0.9 - 0.28 * row), wide * 0.9 + 0.01))
            y_back, size = tall * (1.12 - 0.3 * row), 0.08
            depth = wide * 0.9 * np.sqrt(1 - (x / wide) ** 2 - (y_back / tall - 1) ** 2)
            parts.append(ellipsoid(size, size * 1.3, 0.05, 6, 8).move(x, y_back, -depth).paint(mark))
    if spread:
        feathers = [(20, 0.34), (0, 0.38), (-20, 0.34)]
        pieces = [
            ellipsoid(long, 0.15, 0.085, 8, 14).move(long * 0.9).rotate("z", lean).rotate("y", 12)
            .move(wide * 0.8, tall * 1.0 - 0.11 * (1 - lean / 20), -0.06 - 0.03 * (lean == 0)).paint(c)
            for (lean, long), c in zip(feathers, (wings, shade(wings, 0.8), wings), strict=True)
        ]  # fmt: skip
    else:
        wing = ellipsoid(0.12, tall * 0.66, wide * 0.62).rotate("x", 14).rotate("z", 8)
        tip = ellipsoid(0.1, tall * 0.36, wide * 0.36).rotate("x", 14).rotate("z", 8)
        pieces = [
            wing.move(wide * 0.97, tall * 0.86, -0.1).paint(wings),
            tip.move(wide * 1.05, tall * 0.62, -0.16).paint(shade(wings, 0.74)),
        ]
    tuft = cylinder(0.14, 0.36, 0.025, segments=8).rotate("z", -28).move(wide * 0.58, tall * 1.7, 0.02)
    ring = ellipsoid(eyes * 1.3, eyes * 1.3, 0.1, 8, 16).rotate("y", 16).move(wide * 0.41, y + 0.06, z - 0.02)
    sight = [s.rotate("y", 16).move(wide * 0.42, y + 0.06, z + 0.07) for s in eye(eyes * 0.88)]
    foot = ellipsoid(0.14, 0.075, 0.18, 6, 12).move(wide * 0.4, 0.05, wide * 0.6)
    return parts + mirrored([*pieces, tuft.paint(p.main), ring.paint(light), foot.paint(gold), *sight])


def frog(p: Paint) -> list[Shape]:
    """Build a frog that crouches or sits up, with spots in the accent colour."""
    sits = p.rng.random() < 0.5
    wide, tall, long, head = p.u(0.48, 0.53), p.u(0.36, 0.4), p.u(0.52, 0.58), p.u(0.42, 0.46)
    light, spots = contrast(p.main, (0.97, 0.95, 0.75), PALE), apart(p.accent, p.main)
    lean, y, top, z = (-46, 0.52, 0.98, 0.24) if sits else (-18, tall * 0.95, tall * 1.5, long * 0.55)
    mouth = contrast(p.main, INK, WHITE)
    parts = [
        ellipsoid(wide, tall, long, 10, 18).rotate("x", lean).move(0, y).paint(p.main),
        ellipsoid(head * 1.12, head * 0.74, head * 0.86, 10, 18).move(0, top, z).paint(p.main),
        ellipsoid(head * 0.84, tall * (1.0 if sits else 0.72), 0.24)
        .move(0, 0.44 if sits else tall * 0.8, 0.24 if sits else z + 0.1)
        .paint(light),
        arc(head * 0.78, 0.05, -158, -22, 14).scale(1, 0.42, 0.6).rotate("x", -6).move(0, top + 0.0, z + head * 0.72)
        .paint(mouth),
    ]  # fmt: skip
    turn = p.u(-8, 8)
    for tilt, around, size in [(14, 180, 16), (48, 148, 13), (48, 212, 13), (50, 97, 13), (50, -97, 13), (80, 180, 13)]:
        spot = cap(1.035, size, 12).rotate("x", tilt).rotate("y", around + turn)
        parts.append(spot.scale(wide, tall, long).rotate("x", lean).move(0, y).paint(spots))
    for around in (-40, 40):
        spot = cap(1.035, 17, 12).rotate("x", 34).rotate("y", 180 + around)
        parts.append(spot.scale(head * 1.12, head * 0.74, head * 0.86).move(0, top, z).paint(spots))
    bulge = ellipsoid(0.17, 0.18, 0.17, 8, 14).move(head * 0.62, top + head * 0.58, z + 0.04)
    white = contrast(p.main, WHITE, GLOW)
    sight = [s.rotate("y", 14).move(head * 0.65, top + head * 0.62, z + 0.17) for s in eye(0.14, white)]
    thigh = ellipsoid(0.2, 0.22, 0.36).rotate("x", -28).rotate("y", 24).move(wide * 0.98, 0.25, -long * 0.2)
    sole = ellipsoid(0.17, 0.065, 0.28, 6, 12).rotate("y", 30).move(wide * 1.1, 0.06, long * 0.28)
    reach, shoulder = (0.62, z + 0.24) if sits else (0.42, z + 0.22)
    arm = cylinder(0.1, reach, 0.08, rounding=0.03, segments=12).rotate("x", -12).rotate("z", -10 if not sits else 6)
    arm = arm.move(head * (0.6 if sits else 0.72), 0.04, shoulder)
    hand = (
        ellipsoid(0.15, 0.06, 0.18, 6, 12).rotate("y", 16).move(head * (0.64 if sits else 0.78), 0.055, shoulder + 0.08)
    )
    limbs = [bulge.paint(p.main), *(s.paint(shade(p.main, 0.86)) for s in (thigh, sole, arm, hand))]
    return parts + mirrored([*limbs, *sight])


def snail(p: Paint) -> list[Shape]:
    """Build a snail with a coiled or a pointed shell in the accent colour."""
    pointed = p.rng.random() < 0.5
    size, long, tall = p.u(0.42, 0.46), p.u(0.62, 0.7), p.u(0.46, 0.52)
    shell = apart(p.accent, p.main)
    light = contrast(shell, (0.97, 0.9, 0.72), shade(shell, 0.55))
    y, z, head = size + 0.1, -0.16, long * 0.92
    body = tube(
        [(-long - 0.1, 0.05), (-long * 0.6, 0.1), (0, 0.14), (long * 0.6, 0.15), (head, 0.3), (head + 0.06, tall)],
        [0.05, 0.13, 0.17, 0.17, 0.16, 0.14], 12,
    )  # fmt: skip
    parts = [
        body.rotate("y", -90).scale(1.25, 1, 1).paint(p.main),
        ellipsoid(0.22, 0.21, 0.21).move(0, tall + 0.06, head + 0.08).paint(p.main),
        arc(0.11, 0.04, -150, -30, 8).rotate("x", 8).move(0, tall + 0.05, head + 0.26)
        .paint(contrast(p.main, INK, WHITE)),
    ]  # fmt: skip
    if pointed:
        up, radius = 0.0, size * 0.98
        for i in range(4):
            whorl = ellipsoid(radius, radius * 0.56, radius, 8, 18).move(0, up + radius * 0.5)
            parts.append(whorl.rotate("x", -18).move(0, 0.16, z + 0.06).paint(shell))
            if i < 3:
                seam = arc(radius * 0.82, 0.045, steps=18).rotate("x", 90).move(0, up + radius * 0.88)
                parts.append(seam.rotate("x", -18).move(0, 0.16, z + 0.06).paint(light))
            up += radius * 0.7
            radius *= 0.74
    else:
        turn = np.linspace(0, 2 * np.pi * 1.9, 24)
        coil = np.stack([np.cos(turn), np.sin(turn)], axis=1) * (size * (1 - 0.8 * turn / turn[-1]))[:, None]
        swirl = tube(coil * 0.72, np.linspace(0.08, 0.06, 24), 8).paint(light)
        # The swirl lies on the shell's side, a half ellipsoid of the width 0.72.
        far = np.hypot(swirl.vertices[:, 0], swirl.vertices[:, 1]) / (1.12 * size)
        lift = size * 0.72 * np.sqrt(np.maximum(1 - far**2, 0.0))
        swirl = bent(swirl, swirl.vertices + lift[:, None] * np.array([0.0, 0.0, 1.0]))
        parts.append(ellipsoid(size * 0.72, size * 1.12, size * 1.12, 12, 22).move(0, y, z).paint(shell))
        parts += [swirl.rotate("y", side).move(0, y, z) for side in (-90, 90)]
    stalk = cylinder(0.05, 0.3, 0.045, segments=8).rotate("z", -20).rotate("x", 10)
    sight = [s.rotate("y", 10).move(0.19, tall + 0.46, head + 0.2) for s in eye(0.12)]
    lump = ellipsoid(0.12, rings=8, segments=12).move(0.19, tall + 0.46, head + 0.15).paint(p.main)
    return parts + mirrored([stalk.move(0.08, tall + 0.16, head + 0.1).paint(p.main), lump, *sight])


def bee(p: Paint) -> list[Shape]:
    """Build a long or a round bee with stripes in the accent colour."""
    plump = p.rng.random() < 0.5
    wide, long, head = p.u(0.36, 0.4), p.u(0.54, 0.6), p.u(0.31, 0.35)
    if plump:
        wide, long, head = wide * 1.2, long * 0.86, head * 1.02
    stripe, dark = apart(p.accent, p.main), contrast(p.main, INK, GREY)
    z = long * 0.85
    parts = [
        ellipsoid(wide, wide, long, 12, 20).paint(p.main),
        cap(1.05, 30, 16).rotate("x", -90).scale(wide, wide, long).paint(stripe),
        ellipsoid(head * 1.05, head, head * 0.95, 10, 18).move(0, 0.1, z).paint(p.main),
        cylinder(0.09, 0.28, 0.02, segments=10).rotate("x", 180 + 90).move(0, 0, -long * 0.95).paint(dark),
        arc(0.14, 0.04, -150, -30, 8).rotate("x", 14).move(0, 0.08, z + head * 0.9).paint(dark),
    ]
    for at in (0.26, -0.1, -0.46):
        size = 1.05 * np.sqrt(1 - at**2) * wide
        parts.append(ellipsoid(size, size, 0.19, 10, 20).move(0, 0, at * long).paint(stripe))
    wing = contrast(p.main, (0.8, 0.92, 0.99), (0.55, 0.72, 0.86))
    if plump:
        blade = ellipsoid(0.2, 0.34, 0.05, 8, 16).move(0, 0.32).rotate("z", -p.u(30, 42)).rotate("x", -24)
        small = ellipsoid(0.15, 0.24, 0.05, 8, 14).move(0, 0.22).rotate("z", -58).rotate("x", -46)
    else:
        blade = ellipsoid(0.4, 0.05, 0.22, 8, 16).move(0.36).rotate("y", p.u(10, 22)).rotate("z", p.u(24, 36))
        small = ellipsoid(0.28, 0.05, 0.17, 8, 14).move(0.25).rotate("y", 44).rotate("z", 20)
    pieces = [s.move(0.08, wide * 0.82, 0).paint(wing) for s in (blade.move(0, 0, 0.1), small.move(0, 0, -0.12))]
    feeler = tube([(0, 0), (0.05, 0.14), (0.13, 0.24)], 0.04, 8).rotate("y", -30)
    knob = ellipsoid(0.08, rings=6, segments=10).move(0.24, 0.1 + head * 1.62, z + 0.16)
    pieces += [feeler.move(0.12, 0.1 + head * 0.88, z + 0.1).paint(dark), knob.paint(dark)]
    sight = [s.rotate("y", 24).move(head * 0.48, 0.1 + head * 0.22, z + head * 0.76) for s in eye(0.125)]
    cheek = ellipsoid(0.07, 0.06, 0.04, 6, 10).rotate("y", 36).move(head * 0.66, 0.0, z + head * 0.7)
    foot = ellipsoid(0.065, 0.14, 0.065, 6, 10)
    pieces += [foot.move(wide * 0.45, -wide * 0.92, k).paint(dark) for k in (0.22, -0.02, -0.26)]
    return parts + mirrored([*pieces, *sight, cheek.paint(contrast(p.main, COLORS["pink"], COLORS["red"]))])


def _spike(size: float, lean: float, z: float, y: float) -> Shape:
    """Build a thick triangular plate that stands on a back at (z, y), leaning by degrees around X."""
    plate = side_profile([(-size, -0.06), (size, -0.06), (-size * 0.1, size * 1.5)], 0.12, 0.03)
    return plate.rotate("x", lean).move(0, y, z)


def dinosaur(p: Paint) -> list[Shape]:
    """Build a dinosaur on two legs or a long-necked one on four, with spikes in the accent colour."""
    long_neck = p.rng.random() < 0.5
    light, dark = contrast(p.main, CREAM, PALE), contrast(p.main, INK, WHITE)
    spikes, white = apart(p.accent, p.main), contrast(p.main, WHITE, GLOW)
    if long_neck:
        wide, neck, y = p.u(0.38, 0.43), p.u(1.4, 1.5), 0.6
        spine = [(-1.02, 0.3), (-0.8, 0.36), (-0.56, 0.52), (-0.2, y + 0.04), (0.16, y + 0.06), (0.4, y + 0.16)]
        spine += [(0.55, y + 0.42), (0.62, y + 0.66), (0.7, neck)]
        girth = [0.07, 0.12, 0.2, 0.34, 0.35, 0.28, 0.21, 0.18, 0.17]
        parts = [
            tube(spine, girth, 14).rotate("y", -90).paint(p.main),
            ellipsoid(wide, 0.37, 0.52, 10, 18).move(0, y, 0).paint(p.main),
            ellipsoid(wide * 0.86, 0.32, 0.46, 10, 16).move(0, y - 0.13, 0.08).paint(light),
            ellipsoid(0.29, 0.25, 0.3, 10, 16).move(0, neck + 0.06, 0.78).paint(p.main),
            ellipsoid(0.25, 0.17, 0.24, 8, 14).move(0, neck - 0.02, 1.0).paint(p.main),
            arc(0.19, 0.045, -150, -30, 8).scale(1, 0.8, 1).rotate("x", 8).move(0, neck + 0.02, 1.2).paint(dark),
        ]
        for size, lean, at, up in (
            (0.14, 18, -0.84, 0.42), (0.18, 26, -0.6, 0.64), (0.23, 16, -0.3, 0.9), (0.24, 0, 0.06, 0.95),
            (0.19, 40, 0.27, 1.06), (0.17, 66, 0.38, 1.24), (0.14, 44, 0.52, neck + 0.16),
        ):  # fmt: skip
            parts.append(_spike(size, -lean, at, up).paint(spikes))
        leg = cylinder(0.18, 0.54, 0.17, rounding=0.04, segments=12).paint(p.main)
        toe = ellipsoid(0.06, 0.07, 0.06, 6, 8).paint(light)
        pieces = [leg.move(wide * 0.66, 0, k) for k in (0.34, -0.36)]
        pieces += [toe.move(wide * 0.66 + i, 0.07, k + 0.16) for k in (0.34, -0.36) for i in (-0.09, 0.07)]
        sight = [s.rotate("y", 40).move(0.21, neck + 0.17, 0.94) for s in eye(0.125, white)]
        hole = ellipsoid(0.04, 0.04, 0.04, 6, 8).move(0.09, neck + 0.07, 1.2).paint(dark)
        return parts + mirrored([*pieces, *sight, hole])
    wide, tall, head, snout = p.u(0.33, 0.37), p.u(0.46, 0.52), p.u(0.32, 0.35), p.u(0.28, 0.33)
    y, z = 0.56, 0.12
    top = y + tall + 0.34
    spine = [(-1.0, 0.16), (-0.78, 0.2), (-0.52, 0.34), (-0.2, y), (0.02, y + 0.3), (0.12, y + 0.62), (0.2, top)]
    teeth = contrast(p.main, WHITE, GLOW)
    parts = [
        tube(spine, [0.06, 0.12, 0.2, 0.3, 0.28, 0.22, 0.2], 14).rotate("y", -90).paint(p.main),
        ellipsoid(wide, tall * 0.95, wide * 0.95, 10, 18).rotate("x", 12).move(0, y, 0.0).paint(p.main),
        ellipsoid(wide * 0.66, tall * 0.74, 0.16).rotate("x", 2).move(0, y - 0.02, wide * 0.8).paint(light),
        ellipsoid(head, head * 0.86, head, 10, 18).move(0, top + 0.04, z + 0.14).paint(p.main),
        box(head * 1.5, head * 0.6, snout * 1.7, 0.09).move(0, top + 0.04, z + 0.2 + snout * 0.8).paint(p.main),
        box(head * 1.34, 0.12, snout * 1.5, 0.03).move(0, top - 0.1, z + 0.2 + snout * 0.8).paint(dark),
        box(head * 1.42, 0.11, snout * 1.56, 0.04).move(0, top - 0.2, z + 0.2 + snout * 0.78).paint(p.main),
    ]
    for i in (-1.5, -0.5, 0.5, 1.5):
        fang = cylinder(0.055, 0.12, 0.02, segments=8).rotate("x", 180).move(i * head * 0.34, top - 0.04, 0)
        parts.append(fang.move(0, 0, z + 0.2 + snout * 1.56).paint(teeth))
    for size, lean, at, up in (
        (0.13, 14, -0.86, 0.27), (0.16, 24, -0.62, 0.45), (0.19, 40, -0.42, 0.72), (0.2, 56, -0.26, 0.98),
        (0.18, 66, -0.15, 1.24), (0.16, 40, -0.06, 1.47), (0.14, 6, 0.16, 1.62),
    ):  # fmt: skip
        parts.append(_spike(size, -lean, at, up).paint(spikes))
    thigh = ellipsoid(0.19, 0.28, 0.26).move(wide * 0.8, 0.4, -0.02)
    shin = cylinder(0.13, 0.34, segments=12).move(wide * 0.85, 0.02, -0.02)
    foot = ellipsoid(0.18, 0.1, 0.27, 8, 12).move(wide * 0.88, 0.09, 0.1)
    arm = cylinder(0.08, 0.32, 0.065, rounding=0.03, segments=10).rotate("x", 105)
    claws = [ellipsoid(0.055, 0.055, 0.07, 6, 8).move(wide * 0.88 + k, 0.06, 0.35) for k in (-0.1, 0, 0.1)]
    sight = [s.rotate("y", 34).move(head * 0.7, top + head * 0.52, z + 0.3) for s in eye(0.115, white)]
    hole = ellipsoid(0.04, 0.045, 0.04, 6, 8).move(0.1, top + 0.1, z + 0.2 + snout * 1.65).paint(dark)
    limbs = [thigh, shin, foot, arm.move(wide * 0.72, y + 0.3, wide * 0.55)]
    return parts + mirrored([*(s.paint(p.main) for s in limbs), *(s.paint(light) for s in claws), *sight, hole])


BUILDERS: dict[str, Builder] = {
    "turtle": turtle,
    "owl": owl,
    "frog": frog,
    "snail": snail,
    "bee": bee,
    "dinosaur": dinosaur,
}
