"""How made things are built: mug, chair, car, house, lamp, rocket, teapot, boat, table and hat."""

from __future__ import annotations

import numpy as np

from sds3d.toybox.paint import BRICK, DARK_GLASS, GLASS, GLOW, GREY, INK, WHITE, WOOD, Paint, contrast, shade
from sds3d.toybox.parts import side_profile
from sds3d.toybox.shapes import Shape, arc, box, cap, cylinder, disc, ellipsoid, lathe, prism, rectangle, tube
from sds3d.toybox.world import COLORS


def mug(p: Paint) -> list[Shape]:
    """Build a mug with a round badge on its front and a handle in the accent colour."""
    radius, height, taper = p.u(0.42, 0.52), p.u(0.92, 1.1), p.u(0.88, 1.0)
    wall, foot, rim = 0.07, 0.05, radius
    base = radius * taper
    inner = shade(p.main, 0.72)
    cup = [
        (0, 0),
        (base - foot, 0),
        (base, foot),
        (rim, height - 0.03),
        (rim - 0.03, height),
        (rim - wall, height - 0.03),
    ]
    cup += [(base - wall, foot + 0.04), (0, foot + 0.04)]
    well = [
        (0, height * 0.55),
        (rim - wall - 0.005, height * 0.55),
        (rim - wall - 0.005, height * 0.56),
        (0, height * 0.56),
    ]
    grip, size = p.u(0.075, 0.095), p.u(0.24, 0.29)
    handle = arc(size, grip, -105, 105, 14).scale(1.0, p.u(1.0, 1.2), 1.0)
    badge = disc(p.u(0.17, 0.21), 0.05).wrap((base + rim) / 2 + 0.012)
    return [
        lathe(cup, 28).paint(p.main),
        lathe(well, 28).paint(inner),
        handle.move(rim * (1 + taper) / 2 - 0.015, height * 0.52).paint(p.accent),
        badge.move(0, height * 0.52).paint(contrast(p.main, WHITE, INK)),
    ]


def chair(p: Paint) -> list[Shape]:
    """Build a chair, with a slab or slats as its back and legs in the accent colour."""
    width, depth, leg = p.u(0.68, 0.82), p.u(0.66, 0.78), p.u(0.5, 0.62)
    thick, back, post = p.u(0.10, 0.13), p.u(0.68, 0.85), p.u(0.11, 0.14)
    parts = [box(width, thick, depth, 0.04).move(0, leg + thick / 2).paint(p.main)]
    for x in (-1, 1):
        for z in (-1, 1):
            pillar = cylinder(post / 2 * 0.85, leg + 0.02, post / 2 * 1.15, segments=12)
            parts.append(pillar.move(x * (width / 2 - 0.09), 0, z * (depth / 2 - 0.09)).paint(p.accent))
    rest = leg + thick + back / 2 - 0.03
    tilt = p.u(0, 7)
    if p.rng.random() < 0.5:
        slab = box(width * 0.98, back, 0.11, 0.1)
        parts.append(slab.rotate("x", -tilt).move(0, rest, -depth / 2 + 0.05).paint(p.main))
        return parts
    for x in (-1, 1):
        parts.append(box(0.11, back, 0.11).move(x * (width / 2 - 0.06), 0, 0).paint(p.main))
    for y, tall in ((0.34, 0.26), (-0.08, 0.2)):
        parts.append(box(width * 0.98, back * tall, 0.1, 0.04).move(0, y * back, 0.005).paint(p.main))
    return parts[:5] + [s.rotate("x", -tilt).move(0, rest, -depth / 2 + 0.06) for s in parts[5:]]


def car(p: Paint) -> list[Shape]:
    """Build a car with lamps and wheels and a roof in the accent colour."""
    length, width, low, high = p.u(1.5, 1.75), p.u(0.82, 0.92), p.u(0.34, 0.4), p.u(0.34, 0.42)
    ride = 0.16
    z1, z0 = length / 2, -length / 2
    body = [
        (z0, 0),
        (z1, 0),
        (z1 + 0.02, low * 0.6),
        (z1 - 0.06, low * 0.88),
        (0.1, low),
        (z0 + 0.04, low),
        (z0 - 0.02, low * 0.6),
    ]
    glass = contrast(p.main, GLASS, DARK_GLASS)
    rear, front = z0 + p.u(0.1, 0.2), z1 - p.u(0.5, 0.6)
    slope, inset = p.u(0.16, 0.22), 0.12
    cabin = [(rear, 0), (front, 0), (front - slope, high), (rear + inset, high)]
    top = ride + low
    roof = rectangle(front - slope - rear - inset + 0.14, width * 0.9, 0.1)
    middle = (front - slope + rear + inset) / 2
    seam = (rear + front) / 2 - 0.05
    parts = [
        side_profile(body, width, 0.06).move(0, ride).paint(p.main),
        side_profile(cabin, width * 0.82, 0.03).move(0, top - 0.01).paint(glass),
        prism(roof, 0.12, 0.03).rotate("x", -90).rotate("y", -90).move(0, top + high, middle).paint(p.accent),
        box(width * 0.85, high, 0.11).move(0, top + high / 2 - 0.01, seam).paint(p.main),
        box(width * 0.5, low * 0.3, 0.06).move(0, ride + low * 0.28, z1).paint(contrast(p.main, INK, GREY)),
    ]
    for x in (-1, 1):
        lamp = ellipsoid(0.115, 0.105, 0.07, 6, 12)
        parts.append(lamp.move(x * width * 0.33, ride + low * 0.62, z1).paint(contrast(p.main, GLOW, WHITE, GLOW)))
        tail = box(0.2, 0.14, 0.07, 0.03).move(x * width * 0.32, ride + low * 0.62, z0 - 0.01)
        parts.append(tail.paint(contrast(p.main, COLORS["red"], (0.45, 0.0, 0.03))))
    tyre = (0.36, 0.36, 0.39) if max(p.main) < 0.3 else INK
    size = p.u(0.21, 0.25)
    for x in (-1, 1):
        for z in (z0 + length * 0.21, z1 - length * 0.21):
            wheel = cylinder(size, 0.2, rounding=0.04, segments=18).move(0, -0.1).rotate("z", -90)
            parts.append(wheel.move(x * (width / 2 - 0.04), size, z).paint(tyre))
            hub = cylinder(size * 0.52, 0.24, segments=12).move(0, -0.12).rotate("z", -90)
            parts.append(hub.move(x * (width / 2 - 0.04), size, z).paint((0.84, 0.85, 0.88)))
    return parts


def house(p: Paint) -> list[Shape]:
    """Build a house with a door, windows and a chimney and a roof in the accent colour."""
    width, depth, wall, rise = p.u(0.95, 1.1), p.u(0.95, 1.2), p.u(0.55, 0.7), p.u(0.42, 0.55)
    half = width / 2
    gable = [(-half, 0), (half, 0), (half, wall), (0, wall + rise), (-half, wall)]
    parts = [prism(gable, depth).paint(p.main)]
    pitch = np.rad2deg(np.arctan2(rise, half))
    slope, thick, over = np.hypot(rise, half), 0.13, 0.14
    for x in (-1, 1):
        slab = box(slope + over, thick, depth + 0.2).move(x * (slope + over) / 2, thick / 2 - 0.02)
        parts.append(slab.rotate("z", -x * pitch).move(0, wall + rise).paint(p.accent))
    ridge = cylinder(thick * 0.8, depth + 0.2, segments=10).rotate("x", 90)
    parts.append(ridge.move(0, wall + rise + 0.03, -(depth + 0.2) / 2).paint(p.accent))
    chimney = box(0.18, 0.42, 0.18).move(half * 0.5, wall + rise * 0.85, -depth * 0.22)
    parts.append(chimney.paint(contrast(p.accent, BRICK, GREY, (0.8, 0.75, 0.7))))
    frame = contrast(p.main, WHITE, WOOD)
    pane = contrast(frame, DARK_GLASS, GLASS)
    door_x = p.u(-0.22, -0.14)
    front = depth / 2
    parts.append(box(0.3, 0.46, 0.06).move(door_x, 0.23, front + 0.01).paint(contrast(p.main, WOOD, (0.9, 0.75, 0.45))))
    parts.append(ellipsoid(0.035, rings=6, segments=8).move(door_x + 0.09, 0.22, front + 0.05).paint(GLOW))

    def window(size: float) -> list[Shape]:
        """Build a framed window that faces +Z."""
        return [
            box(size, size, 0.05).paint(frame),
            box(size * 0.68, size * 0.68, 0.05).move(0, 0, 0.012).paint(pane),
        ]

    parts += [s.move(0.22, wall * 0.52, front + 0.01) for s in window(0.27)]
    parts += [disc(0.12, 0.05).move(0, wall + rise * 0.32, front + 0.01).paint(pane)]
    for x in (-1, 1):
        parts += [s.rotate("y", x * 90).move(x * (half + 0.01), wall * 0.5, 0) for s in window(0.3)]
    return parts


def lamp(p: Paint) -> list[Shape]:
    """Build a table lamp with a base in the accent colour."""
    low, top, tall, pole = p.u(0.46, 0.54), p.u(0.26, 0.32), p.u(0.48, 0.58), p.u(0.62, 0.74)
    base = p.u(0.36, 0.42)
    wall = 0.04
    profile = [(low - wall, 0), (low, 0), (top, tall), (top - wall, tall)]
    outer = [
        (0, tall * 0.5),
        (low * 0.5 + top * 0.5 - wall, tall * 0.5),
        *profile[:3],
        (top - wall, tall - 0.02),
        (0, tall - 0.02),
    ]
    y = pole - tall * 0.12
    return [
        cylinder(base, 0.13, base * 0.85, rounding=0.05).paint(p.accent),
        ellipsoid(0.17, 0.15, 0.17).move(0, 0.2).paint(p.accent),
        cylinder(0.065, pole + 0.3, segments=12).move(0, 0.08).paint(p.accent),
        lathe(outer, 24).move(0, y).paint(p.main),
        ellipsoid(0.16, 0.18, 0.16).move(0, y + 0.08).paint(GLOW),
    ]


def rocket(p: Paint) -> list[Shape]:
    """Build a rocket with a porthole and fins in the accent colour."""
    radius, tall = p.u(0.34, 0.42), p.u(1.45, 1.65)
    hull = [(0, 0), (0.68, 0), (0.9, 0.14), (1, 0.32), (0.98, 0.5), (0.84, 0.68), (0.56, 0.85), (0.22, 0.965), (0, 1)]
    profile = [(r * radius, y * tall) for r, y in hull]
    reach, root = p.u(0.34, 0.42), p.u(0.5, 0.62)
    fin = [
        (radius * 0.6, 0.05),
        (radius + reach * 0.75, -0.28),
        (radius + reach, -0.2),
        (radius + reach * 0.9, 0.14),
        (radius * 0.7, root),
    ]
    parts = [lathe(profile, 22).paint(p.main)]
    parts += [prism(fin, 0.1).rotate("y", 45 + 90 * i).paint(p.accent) for i in range(4)]
    parts.append(
        cylinder(radius * 0.62, 0.16, radius * 0.45, segments=16).move(0, -0.14).paint(contrast(p.main, GREY, INK))
    )
    frame = contrast(p.main, WHITE, GREY)
    y, size = tall * 0.52, p.u(0.17, 0.2)
    parts.append(disc(size, 0.07, 18).wrap(radius).move(0, y).paint(frame))
    parts.append(disc(size * 0.68, 0.1, 18).wrap(radius).move(0, y).paint(contrast(frame, GLASS, DARK_GLASS)))
    return parts


def teapot(p: Paint) -> list[Shape]:
    """Build a teapot with a badge on its front and a lid in the accent colour."""
    radius, tall = p.u(0.52, 0.58), p.u(0.42, 0.5)
    body = ellipsoid(radius, tall, radius, 12, 24)
    spread = p.u(0.95, 1.1)
    spout = [
        (-radius * 0.75, -0.14),
        (-radius * 1.05, -0.06),
        (-radius * 1.3, 0.1),
        (-radius * 1.45, 0.28),
        (-radius * 1.68, 0.38),
    ]
    grip = arc(0.27 * spread, 0.07, -115, 115, 14)
    lid = cap(1.0, 46, 20).scale(radius * 1.04, tall * 1.08, radius * 1.04)
    badge = cap(1.02, p.u(19, 23), 16).rotate("x", 90).scale(radius, tall, radius)
    heart = cap(1.035, 9, 10).rotate("x", 90).scale(radius, tall, radius)
    mark = contrast(p.main, WHITE, INK)
    return [
        body.paint(p.main),
        cylinder(radius * 0.62, 0.14).move(0, -tall - 0.03).paint(p.main),
        tube(spout, [0.19, 0.15, 0.11, 0.09, 0.085], 12).paint(p.main),
        grip.scale(1, 1.05, 1).move(radius * 0.98, 0.02).paint(p.main),
        lid.paint(p.accent),
        ellipsoid(0.1, 0.09, 0.1, 8, 12).move(0, tall * 1.08 + 0.06).paint(p.accent),
        badge.paint(mark),
        heart.paint(contrast(mark, COLORS["red"], GLOW)),
    ]


def boat(p: Paint) -> list[Shape]:
    """Build a sailing boat with a flag and sails in the accent colour."""
    long, wide, deep = p.u(1.4, 1.6), p.u(0.66, 0.78), p.u(0.4, 0.48)
    half, w = long / 2, wide / 2
    # The deck's outline from below: the bow is on -Y before it is turned to +Z.
    deck = [(0, -half), (w * 0.55, -half * 0.62), (w, -half * 0.1), (w, half * 0.6), (w * 0.82, half)]
    deck += [(-w * 0.82, half), (-w, half * 0.6), (-w, -half * 0.1), (-w * 0.55, -half * 0.62)]
    deck = np.array(deck)
    plank = deck * [0.82, 0.88]
    mast, y = p.u(1.0, 1.15), deep
    foot, sail_h = p.u(0.85, 1.0), mast * 0.78
    swing = p.u(30, 42)
    sail = [(0, 0), (foot, 0.0), (foot * 0.55, sail_h * 0.55), (0, sail_h)]
    trim = contrast(p.main, WHITE, GREY)
    parts = [
        prism(deck, deep, taper=0.72).rotate("x", -90).move(0, deep / 2).paint(p.main),
        prism(deck * 1.03, 0.08).rotate("x", -90).move(0, deep).paint(trim),
        prism(plank, 0.05).rotate("x", -90).move(0, deep + 0.03).paint(contrast(trim, WOOD, (0.8, 0.62, 0.4))),
        cylinder(0.055, mast, segments=10).move(0, y, half * 0.25).paint(WOOD),
    ]
    # Mainsail and jib swing out to one side in two planes, so that no view sees both edge-on.
    jib = [(0, 0), (foot * 0.62, 0.0), (0, sail_h * 0.8)]
    for outline, angle in ((sail, 90 + swing), (jib, -90 - swing)):
        cloth = prism(outline, 0.09).rotate("y", angle)
        parts.append(cloth.move(0, y + 0.16, half * 0.25).paint(p.accent))
    flag = [(0, -0.11), (0.3, 0.0), (0, 0.11)]
    pennant = prism(flag, 0.05).rotate("y", 90 + swing).move(0, y + mast - 0.08, half * 0.25)
    parts.append(pennant.paint(contrast(p.accent, COLORS["red"], COLORS["blue"])))
    return parts


def table(p: Paint) -> list[Shape]:
    """Build a table with a drawer in front and legs in the accent colour."""
    width, depth, leg, thick = p.u(1.2, 1.4), p.u(0.75, 0.9), p.u(0.62, 0.75), p.u(0.1, 0.13)
    post, skirt = p.u(0.13, 0.17), p.u(0.24, 0.28)
    front = depth / 2 - 0.06
    face = contrast(p.main, WOOD, (0.86, 0.72, 0.5))
    parts = [
        box(width, thick, depth, 0.04).move(0, leg + thick / 2).paint(p.main),
        box(width - 0.2, skirt, depth - 0.12).move(0, leg - skirt / 2 + 0.01).paint(p.main),
        box(width * 0.5, skirt * 0.78, 0.06).move(0, leg - skirt / 2, front + 0.02).paint(face),
        ellipsoid(0.07, rings=8, segments=12).move(0, leg - skirt / 2, front + 0.09).paint(contrast(face, GLOW, INK)),
    ]
    for x in (-1, 1):
        for z in (-1, 1):
            pillar = box(post, leg, post).move(
                x * (width / 2 - post / 2 - 0.05), leg / 2, z * (depth / 2 - post / 2 - 0.04)
            )
            parts.append(pillar.paint(p.accent))
    return parts


def hat(p: Paint) -> list[Shape]:
    """Build a hat with a flower in front and a band in the accent colour."""
    brim, crown, tall = p.u(0.66, 0.76), p.u(0.4, 0.46), p.u(0.52, 0.66)
    top, band = crown * p.u(0.84, 0.95), p.u(0.15, 0.18)
    edge = [(0, 0), (brim * 0.9, -0.02), (brim, 0.04), (brim * 0.95, 0.1), (crown, 0.07), (0, 0.07)]
    parts = [
        lathe(edge, 28).paint(p.main),
        cylinder(crown, tall, top, rounding=0.12, segments=24).paint(p.main),
        cylinder(crown + 0.025, band, crown + 0.01, segments=24).move(0, 0.06).paint(p.accent),
    ]
    petal = contrast(p.main, COLORS["pink"], COLORS["yellow"], WHITE)
    y, z, size = 0.06 + band * 0.9, crown + 0.03, p.u(0.11, 0.13)
    for i in range(5):
        angle = np.deg2rad(90 + 72 * i)
        leaf = ellipsoid(size, size, 0.06, 6, 10).move(size * 1.15 * np.cos(angle), size * 1.15 * np.sin(angle))
        parts.append(leaf.move(0, y, z).paint(petal))
    parts.append(
        ellipsoid(size * 0.75, size * 0.75, 0.1, 6, 10).move(0, y, z + 0.02).paint(contrast(petal, GLOW, COLORS["red"]))
    )
    return parts
