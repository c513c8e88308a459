"""Furniture: sofa, bed, bench, piano and ladder."""

from __future__ import annotations

import numpy as np

from sds3d.toybox.paint import GLOW, GREY, INK, WHITE, WOOD, Paint, contrast, shade
from sds3d.toybox.parts import Builder, corners, mirrored
from sds3d.toybox.shapes import Array, Shape, box, cylinder, disc, ellipsoid, prism
from sds3d.toybox.world import COLORS

PINE = (0.82, 0.66, 0.42)


def _arched(wide: float, tall: float, shoulder: float) -> Array:
    """Return the outline of a board on y = 0 whose top rises from `shoulder` times its height to its middle."""
    half, rise = wide / 2, tall * (1 - shoulder)
    low = tall * shoulder
    right = [(half, 0), (half, low), (0.82 * half, low + 0.4 * rise), (0.45 * half, low + 0.85 * rise), (0, tall)]
    return np.array(right + [(-x, y) for x, y in right[-2::-1]])


def sofa(p: Paint) -> list[Shape]:
    """Build a sofa with cushions in the accent colour, with square arms on legs or with rolled arms."""
    wide, deep, seat, back = p.u(1.3, 1.5), p.u(0.66, 0.76), p.u(0.26, 0.32), p.u(0.42, 0.52)
    arm, low, rolled = p.u(0.18, 0.22), 0.14, p.rng.random() < 0.5
    wood, dark = contrast(p.main, WOOD, PINE), shade(p.main, 0.72)
    top, tall, side = low + seat, seat + back, wide / 2
    crest = prism(_arched(wide - 0.04, tall, 0.76), 0.2, 0.04)
    rest = [(crest if rolled else box(wide - 0.04, tall, 0.2, 0.09).move(0, tall / 2)).paint(p.main)]
    count = 3 if rolled else 2
    span = (wide - 0.1) / count
    for i in range(count):
        panel = box(span - 0.07, tall * 0.6, 0.1, 0.05).move((i - (count - 1) / 2) * span, tall * 0.44, -0.08)
        rest.append(panel.paint(dark))
    parts = [s.rotate("x", -6).move(0, low + 0.01, 0.08 - deep / 2) for s in rest]
    parts.append(box(wide - arm, seat, deep - 0.04, 0.03).move(0, low + seat / 2).paint(dark))
    room = wide - 2 * arm
    for i in range(count):
        pad, x = room / count, (i - (count - 1) / 2) * room / count
        pillow = box(pad - 0.03, back * 0.8, 0.18, 0.07).rotate("x", -9).move(x, top + 0.06 + back / 2, 0.24 - deep / 2)
        parts.append(pillow.paint(p.accent))
    for i in range(2):
        cushion = box(room / 2 - 0.03, 0.18, deep - 0.1, 0.06).move((i - 0.5) * room / 2, top + 0.06, 0.08)
        parts.append(cushion.paint(p.accent))
    throw = box(0.3, 0.3, 0.14, 0.06).rotate("z", 14).rotate("x", -22)
    throw = throw.move(arm + 0.18 - side, top + 0.31, 0.41 - deep / 2)
    parts.append(throw.paint(contrast(p.accent, GLOW, COLORS["blue"])))
    if rolled:
        roll = cylinder(arm * 0.62, deep + 0.04, rounding=0.03, segments=18).rotate("x", 90)
        scroll = disc(arm * 0.36, 0.07, 14).move(side - arm * 0.42, top + 0.15, deep / 2 + 0.03)
        pieces = [
            box(arm * 0.8, seat + 0.14, deep - 0.01, 0.03)
            .move(side - arm / 2 - 0.02, low + seat / 2 + 0.09)
            .paint(p.main),
            roll.move(side - arm * 0.42, top + 0.15, -deep / 2 + 0.01).paint(p.main),
            scroll.paint(dark),
        ]
        foot = ellipsoid(0.09, 0.1, 0.09, 6, 12).move(0, 0.09)
    else:
        block = box(arm, seat + 0.22, deep + 0.05, 0.07).move(side - arm / 2 + 0.03, low + seat / 2 + 0.09, 0.02)
        pieces = [block.paint(p.main)]
        foot = cylinder(0.045, 0.2, 0.075, segments=10)
    return parts + corners(foot.paint(wood), side - 0.12, deep / 2 - 0.1) + mirrored(pieces)


def bed(p: Paint) -> list[Shape]:
    """Build a bed with a blanket in the accent colour, between two boards or four tall posts."""
    wide, long, head, posts = p.u(0.85, 1.0), p.u(1.35, 1.5), p.u(0.62, 0.76), p.rng.random() < 0.5
    low, frame, front = 0.16, 0.2, long / 2
    top, dark = low + frame, shade(p.main, 0.72)
    sheet, knob = contrast(p.accent, WHITE, (0.6, 0.8, 0.95)), contrast(p.main, GLOW, WHITE)
    cover = contrast(p.accent, WHITE, (0.6, 0.8, 0.95), INK)
    parts = [
        box(wide, frame, long - 0.02, 0.03).move(0, low + frame / 2).paint(p.main),
        box(wide * 0.92, 0.22, long - 0.16, 0.05).move(0, top + 0.06).paint(sheet),
        box(wide + 0.05, 0.32, long * 0.58, 0.06).move(0, top + 0.04, long * 0.16).paint(p.accent),
        box(wide + 0.07, 0.31, 0.16, 0.06).move(0, top + 0.06, -long * 0.12).paint(shade(sheet, 0.9)),
        box(wide + 0.08, 0.33, 0.1, 0.08).move(0, top + 0.055, long * 0.3).paint(cover),
    ]
    pillow = box(wide * 0.4, 0.16, 0.3, 0.06).rotate("x", -18).move(wide * 0.22, top + 0.21, 0.27 - front)
    pieces = [pillow.paint(contrast(sheet, WHITE, (0.6, 0.8, 0.95)) if min(sheet) < 0.9 else (0.86, 0.9, 0.98))]
    if posts:
        tall = head + p.u(0.5, 0.62)
        for z, high in ((-front, head + 0.14), (front, top + 0.16)):
            parts.append(box(wide + 0.04, 0.11, 0.09, 0.02).move(0, high, z).paint(p.main))
            slat = box(0.09, high - low, 0.06, 0.01)
            parts += [slat.move(x * wide, (high + low) / 2, z).paint(dark) for x in (-0.3, -0.1, 0.1, 0.3)]
            parts.append(box(wide, 0.08, 0.08).move(0, tall, z).paint(p.main))
            pieces.append(cylinder(0.07, tall + 0.09, 0.06, segments=12).move(wide / 2, 0, z).paint(p.main))
            pieces.append(ellipsoid(0.09, rings=8, segments=12).move(wide / 2, tall + 0.15, z).paint(knob))
        pieces.append(box(0.07, 0.07, long).move(wide / 2, tall).paint(p.main))
        return parts + mirrored(pieces)
    for z, high, panel in ((-front, head + 0.14, 0.46), (front, 0.38, 0.4)):
        parts.append(prism(_arched(wide + 0.1, high, 0.74), 0.12, 0.03).move(0, 0.1, z).paint(p.main))
        inset = box(wide * 0.42, high * panel, 0.19, 0.04).move(wide * 0.24, 0.1 + high * 0.44, z)
        pieces.append(inset.paint(dark))
    pieces.append(ellipsoid(0.1, rings=8, segments=12).move(wide / 2, 0.14 + (head + 0.14) * 0.78, -front).paint(knob))
    foot = cylinder(0.06, 0.24, 0.08, segments=12).paint(dark)
    return parts + corners(foot, wide / 2 - 0.06, front - 0.02) + mirrored(pieces)


def bench(p: Paint) -> list[Shape]:
    """Build a park bench with legs in the accent colour, with boards along its back or upright slats."""
    wide, deep, seat, back = p.u(1.3, 1.5), p.u(0.46, 0.54), p.u(0.4, 0.48), p.u(0.46, 0.56)
    x, rear, upright = wide / 2 - 0.14, -deep / 2 - 0.07, p.rng.random() < 0.5
    parts = []
    for i in range(3):
        board = box(wide, 0.08, deep / 3 - 0.045, 0.02).move(0, seat, (i - 1) * deep / 3)
        parts.append(board.paint(shade(p.main, 0.88) if i == 1 else p.main))
    if upright:
        rest = [
            prism(_arched(wide - 0.06, 0.26, 0.5), 0.1, 0.02).move(0, back - 0.16).paint(p.main),
            box(wide - 0.1, 0.1, 0.09, 0.02).move(0, 0.1).paint(p.main),
        ]
        slat = box(0.1, back - 0.14, 0.06).move(0, back / 2).paint(shade(p.main, 0.85))
        rest += [slat.move((i - 3) * (wide - 0.2) / 7) for i in range(7)]
    else:
        rest = [box(wide, back * 0.25, 0.08, 0.02).move(0, back * k).paint(p.main) for k in (0.3, 0.64, 0.98)]
    parts += [s.rotate("x", -12).move(0, seat, rear) for s in rest]
    post = box(0.1, back + 0.16, 0.09).move(x, back / 2 - 0.04, -0.09).rotate("x", -12).move(0, seat, rear)
    pieces = [post, box(0.13, 0.08, deep + 0.14, 0.03).move(x + 0.09, seat + 0.27, -0.01)]
    if upright:
        # Each side is a frame: two legs, a rail near the ground, and a post for the arm.
        pieces += [
            box(0.14, seat + 0.26, 0.11, 0.02).move(x + 0.09, seat / 2 + 0.13, deep / 2 - 0.04),
            box(0.11, seat + 0.3, 0.1, 0.02).move(x + 0.09, seat / 2 + 0.15, rear),
            box(0.08, 0.1, deep).move(x + 0.09, 0.14, -0.02),
        ]
    else:
        pieces += [
            box(0.1, seat - 0.02, 0.1).move(x, seat / 2 - 0.02, deep / 2 - 0.08),
            box(0.11, seat + 0.08, 0.1).rotate("x", 10).move(x, seat / 2, rear),
            box(0.085, 0.26, 0.08).move(x + 0.09, seat + 0.12, deep / 2 - 0.06),
        ]
    pieces.append(box(0.09, 0.09, deep + 0.06).move(x, seat - 0.08, -0.03))
    return parts + mirrored([s.paint(p.accent) for s in pieces])


def piano(p: Paint) -> list[Shape]:
    """Build an upright or a grand piano with a stool in the accent colour before it."""
    metal, ivory, dark = contrast(p.main, GLOW, GREY), contrast(p.main, WHITE, (0.9, 0.88, 0.8)), shade(p.main, 0.72)
    grand = p.rng.random() < 0.5
    wide, shelf, seat = p.u(1.15, 1.3), 0.46, p.u(0.27, 0.31)
    parts = _grand(p, wide, shelf) if grand else _upright(p, wide, shelf)
    front = 0.2
    parts += [
        box(wide - 0.02, 0.1, 0.36, 0.02).move(0, shelf - 0.04, front + 0.13).paint(dark),
        box(wide - 0.16, 0.07, 0.27).move(0, shelf + 0.03, front + 0.14).paint(ivory),
    ]
    for i in range(9):
        if i not in (2, 6):
            key = box(0.065, 0.07, 0.15).move((i - 4) * (wide - 0.22) / 9, shelf + 0.07, front + 0.09)
            parts.append(key.paint(INK))
    cheek = box(0.08, 0.2, 0.38, 0.02).move(wide / 2 - 0.035, shelf, front + 0.135)
    stool = front + 0.66
    parts += [
        cylinder(0.24, 0.13, rounding=0.04, segments=18).move(0, seat, stool).paint(p.accent),
        cylinder(0.055, seat, segments=10).move(0, 0.03, stool).paint(metal),
        cylinder(0.19, 0.08, 0.12, segments=14).move(0, 0, stool).paint(p.accent),
    ]
    return parts + mirrored([cheek.paint(p.main)])


def _upright(p: Paint, wide: float, shelf: float) -> list[Shape]:
    """Build the body of an upright piano. Its back shows a sound board between posts."""
    tall, deep = p.u(0.92, 1.04), 0.38
    front, dark, metal = 0.2, shade(p.main, 0.72), contrast(p.main, GLOW, GREY)
    rear = front - deep
    parts = [
        box(wide, tall, deep, 0.02).move(0, tall / 2, front - deep / 2).paint(p.main),
        box(wide + 0.1, 0.09, deep + 0.1, 0.03).move(0, tall, front - deep / 2).paint(dark),
        box(wide * 0.84, tall * 0.28, 0.06, 0.02).move(0, 0.24, front).paint(dark),
        box(wide * 0.56, 0.3, 0.06, 0.02).rotate("x", -14).move(0, tall - 0.23, front + 0.05).paint(dark),
        box(wide * 0.42, 0.24, 0.06).rotate("x", -14).move(0, tall - 0.21, front + 0.085).paint(WHITE),
        box(wide * 0.3, 0.05, 0.06).rotate("x", -14).move(0, tall - 0.19, front + 0.105).paint(GREY),
        box(wide * 0.9, tall * 0.78, 0.06).move(0, tall * 0.5, rear).paint(contrast(p.main, PINE, WOOD)),
    ]
    for x in (-0.42, -0.14, 0.14, 0.42):
        parts.append(box(0.09, tall * 0.84, 0.1, 0.01).move(x * wide, tall * 0.5, rear - 0.035).paint(dark))
    parts += [box(0.08, 0.05, 0.16).move(x, 0.07, front + 0.06).paint(metal) for x in (-0.11, 0.11)]
    leg = cylinder(0.05, shelf - 0.06, 0.06, segments=10).move(wide / 2 - 0.07, 0, front + 0.23)
    return parts + mirrored([leg.paint(p.main)])


def _grand(p: Paint, wide: float, shelf: float) -> list[Shape]:
    """Build the body of a grand piano with its lid open."""
    half, tail, tilt = wide / 2, p.u(0.62, 0.74), p.u(34, 44)
    front, dark, metal = 0.2, shade(p.main, 0.72), contrast(p.main, GLOW, GREY)
    bend = [(1, 0), (1, 0.2), (0.84, 0.42), (0.5, 0.6), (0.3, 0.78), (0.05, 0.94), (-0.4, 1), (-0.84, 0.95), (-1, 0.7)]
    # The outline is in (x, -z); it is turned down onto the ground plane.
    plan = np.array([(-half, -front), *((x * half, y * (tail + front) - front) for x, y in bend)])
    mean = plan.mean(axis=0)
    wall = shelf + 0.07
    lid = prism(plan, 0.06, 0.01).rotate("x", -90).move(half).rotate("z", tilt).move(-half, wall + 0.17)
    parts = [
        prism(plan, 0.26, 0.02).rotate("x", -90).move(0, wall).paint(p.main),
        prism(mean + 0.88 * (plan - mean), 0.1).rotate("x", -90).move(0, wall + 0.1).paint((0.9, 0.68, 0.25)),
        lid.paint(p.main),
        box(0.6, 0.26, 0.06, 0.02).rotate("x", -18).move(0, wall + 0.26, front - 0.1).paint(dark),
        box(0.44, 0.2, 0.06).rotate("x", -18).move(0, wall + 0.28, front - 0.065).paint(WHITE),
    ]
    for x in (-0.45, -0.15, 0.15):
        parts.append(box(0.05, 0.06, tail * 0.8).move(x * half, wall + 0.14, -0.2).paint(dark))
    reach = 1.45 * half
    stick = cylinder(0.03, reach * np.sin(np.deg2rad(tilt)) + 0.06, segments=8)
    parts.append(stick.move(reach * np.cos(np.deg2rad(tilt)) - half, wall + 0.1, 0.06).paint(metal))
    for x, z in ((-0.86, front + 0.16), (0.86, front + 0.16), (-0.35, -tail + 0.2)):
        parts.append(cylinder(0.05, shelf, 0.075, segments=10).move(x * half, 0, z).paint(p.main))
    return [*parts, box(0.2, shelf, 0.07, 0.01).move(0, shelf / 2 + 0.06, 0.1).paint(dark)]


def ladder(p: Paint) -> list[Shape]:
    """Build a ladder with rungs in the accent colour: a stepladder, or a narrow one on a single pole."""
    wide, tall, spread = p.u(0.3, 0.36), p.u(1.3, 1.5), p.u(15, 20)
    reach, lean = tall / np.cos(np.deg2rad(spread)), np.tan(np.deg2rad(spread))
    support = contrast(p.main, GREY, INK)
    rail = box(0.1, reach, 0.13, 0.02).move(0, -reach / 2)
    parts: list[Shape] = []
    if p.rng.random() < 0.5:
        pole = cylinder(0.065, reach + 0.02, segments=12).rotate("x", spread).move(0, 0, -tall * lean)
        parts += [
            pole.paint(support),
            box(0.4, 0.13, 0.2, 0.04).move(0, tall + 0.01, -0.01).paint(p.main),
            ellipsoid(0.09, 0.06, 0.09, 6, 12).move(0, 0.03, -tall * lean).paint(INK),
        ]
        slope = 9.0
        for i in range(6):
            y = tall * (i + 0.7) / 6.5
            half = 0.12 + (tall - y) * np.tan(np.deg2rad(slope)) + 0.08
            rung = cylinder(0.06, 2 * half, segments=12).move(0, -half).rotate("z", 90)
            parts.append(rung.move(0, y, (tall - y) * lean).paint(p.accent))
        return parts + mirrored([rail.rotate("x", -spread).rotate("z", slope).move(0.13, tall).paint(p.main)])
    parts.append(box(2 * wide + 0.1, 0.11, 0.34, 0.03).move(0, tall + 0.02).paint(p.accent))
    for k in (0.3, 0.68):
        parts.append(box(2 * wide, 0.09, 0.08).move(0, tall * k, -tall * (1 - k) * lean).paint(support))
    for i in range(5):
        y = tall * (i + 0.7) / 5.6
        parts.append(box(2 * wide + 0.06, 0.09, 0.22, 0.02).move(0, y, (tall - y) * lean + 0.03).paint(p.accent))
    prop = box(0.08, reach, 0.09, 0.02).move(0, -reach / 2).rotate("x", spread).rotate("z", 3)
    pieces = [
        rail.rotate("x", -spread).rotate("z", 3).move(wide + 0.02, tall).paint(p.main),
        prop.move(wide - 0.01, tall - 0.02, -0.04).paint(support),
        box(0.05, 0.06, tall * lean * 1.1).move(wide + 0.09, tall * 0.45).paint(support),
    ]
    return parts + mirrored(pieces)


BUILDERS: dict[str, Builder] = {"sofa": sofa, "bed": bed, "bench": bench, "piano": piano, "ladder": ladder}
