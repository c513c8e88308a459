"""Things of a house and its garden: clock, television, chest, barrel and umbrella."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sds3d.toybox.facets import crate, striped
from sds3d.toybox.paint import GLASS, GLOW, GREY, INK, WHITE, WOOD, Paint, contrast, shade
from sds3d.toybox.parts import Builder, corners, mirrored, side_profile
from sds3d.toybox.shapes import Shape, arc, box, cylinder, disc, ellipsoid, lathe, prism, rectangle, tube
from sds3d.toybox.world import COLORS

GOLD = (0.99, 0.8, 0.15)


def clock(p: Paint) -> list[Shape]:
    """Build an alarm clock with bells in the accent colour, round or square."""
    radius, depth, square = p.u(0.5, 0.56), p.u(0.3, 0.38), p.rng.random() < 0.5
    front = depth / 2
    dial, metal = contrast(p.main, WHITE, (0.98, 0.92, 0.7)), contrast(p.main, GREY, INK)
    red = COLORS["red"]
    if square:
        parts = [
            box(2 * radius, 2 * radius, depth, 0.16).paint(p.main),
            disc(radius * 0.86, 0.07, 28).move(0, 0, front).paint(shade(p.main, 0.75)),
            box(radius * 1.3, radius * 1.2, 0.08, 0.06).move(0, 0, -front).paint(metal),
            arc(radius * 0.72, 0.05, 0, 180, 16).move(0, radius).paint(metal),
        ]
    else:
        parts = [
            cylinder(radius, depth, rounding=0.06, segments=28).rotate("x", 90).move(0, 0, -front).paint(p.main),
            disc(radius * 0.62, 0.08, 22).move(0, 0, -front).paint(metal),
            cylinder(0.05, 0.28, segments=10).move(0, radius - 0.06).paint(metal),
            box(0.22, 0.11, 0.12, 0.03).move(0, radius + 0.24).paint(metal),
        ]
    parts.append(disc(radius * 0.78, 0.09, 26).move(0, 0, front).paint(dial))
    key = contrast(metal, GLOW, INK)
    parts += [
        box(0.26, 0.1, 0.1, 0.03).move(0, 0.12, -front - 0.09).paint(key),
        cylinder(0.04, 0.1, segments=8).rotate("x", 90).move(0, 0.12, -front - 0.12).paint(key),
        cylinder(0.07, 0.12, segments=12).rotate("x", 90).move(-0.14, -0.14, -front - 0.12).paint(key),
        cylinder(0.07, 0.12, segments=12).rotate("x", 90).move(0.14, -0.14, -front - 0.12).paint(key),
    ]
    for i in range(12):
        large = i % 3 == 0
        if large or not square:
            mark = box(0.07 if large else 0.05, 0.13 if large else 0.06, 0.06).move(0, radius * 0.64, front + 0.035)
            parts.append(mark.rotate("z", 30 * i).paint(INK))
    hour, minute = 30 * p.rng.integers(12), 30 * p.rng.integers(12) + 12
    for i, (turn, reach) in enumerate(((hour, 0.38), (minute, 0.58))):
        hand = box(0.085 - 0.02 * i, radius * reach, 0.05).move(0, radius * reach * 0.42, front + 0.06 + 0.02 * i)
        parts.append(hand.rotate("z", float(turn)).paint(INK))
    parts.append(ellipsoid(0.075, 0.075, 0.05, 6, 12).move(0, 0, front + 0.1).paint(red))
    bell = ellipsoid(0.21, 0.17, 0.19, 8, 16).move(0, radius + 0.13).rotate("z", -36)
    foot = cylinder(0.07, 0.26, 0.055, segments=10).move(0, -radius - 0.2).rotate("z", 34)
    if square:
        dome = [(0, 0), (0.2, 0), (0.19, 0.09), (0.13, 0.17), (0, 0.2)]
        bell = lathe(dome, 18).move(radius * 0.5, radius + 0.03)
        foot = ellipsoid(0.12, 0.09, 0.13, 6, 12).move(radius * 0.66, -radius - 0.03)
    return parts + mirrored([bell.paint(p.accent), foot.paint(metal)])


def television(p: Paint) -> list[Shape]:
    """Build a television with a screen in the accent colour, an old one with knobs or a flat one on a stand."""
    if p.rng.random() < 0.5:
        return _flat_television(p)
    wide, tall, deep = p.u(1.05, 1.25), p.u(0.78, 0.9), p.u(0.42, 0.52)
    front, y, lean = deep / 2, 0.24 + p.u(0.4, 0.44), p.u(24, 36)
    metal, frame, dark = contrast(p.main, GREY, INK), contrast(p.main, WHITE, GREY), shade(p.main, 0.72)
    screen = -wide * 0.1
    parts = [
        box(wide, tall, deep, 0.1).move(0, y).paint(p.main),
        prism(rectangle(wide * 0.74, tall * 0.74, 0.1), 0.24, 0.0, 0.7).move(0, y, -front - 0.1).paint(dark),
        box(wide * 0.72, tall * 0.82, 0.08, 0.08).move(screen, y, front + 0.01).paint(frame),
        prism(rectangle(wide * 0.62, tall * 0.69, 0.12), 0.09, 0.02).move(screen, y, front + 0.04).paint(p.accent),
        _gleam(p, tall * 0.3).move(screen - wide * 0.16, y + tall * 0.1, front + 0.07),
        ellipsoid(0.13, 0.08, 0.13, 8, 12).move(0, y + tall / 2, -0.04).paint(metal),
    ]
    for k in (0.24, 0.02):
        knob = cylinder(0.08, 0.09, 0.065, segments=14).rotate("x", 90).move(wide * 0.38, y + tall * k, front - 0.01)
        parts.append(knob.paint(contrast(p.main, GLOW, INK)))
    for k in (-0.2, -0.32):
        parts.append(box(wide * 0.14, 0.06, 0.07).move(wide * 0.38, y + tall * k, front).paint(metal))
    for k in (0.1, -0.04, -0.18):
        parts.append(box(wide * 0.36, 0.065, 0.07).move(0, y + tall * k, -front - 0.21).paint(metal))
    rod = cylinder(0.035, 0.5, segments=8).rotate("z", -lean).move(0.03, y + tall / 2, -0.04)
    tip = ellipsoid(0.06, rings=6, segments=10).move(0, 0.5).rotate("z", -lean).move(0.03, y + tall / 2, -0.04)
    leg = cylinder(0.05, 0.3, 0.075, segments=10).paint(contrast(p.main, WOOD, INK))
    return parts + corners(leg, wide * 0.38, front * 0.6) + mirrored([rod.paint(metal), tip.paint(metal)])


def _gleam(p: Paint, long: float) -> Shape:
    """Return a light stripe that lies aslant on a screen at the origin."""
    return box(0.08, long, 0.06, 0.02).rotate("z", -30).paint(contrast(p.accent, WHITE, GLASS))


def _flat_television(p: Paint) -> list[Shape]:
    wide, tall, foot = p.u(1.4, 1.55), p.u(0.82, 0.92), p.u(0.5, 0.7)
    y, dark, metal = 0.22 + tall / 2, shade(p.main, 0.72), contrast(p.main, GREY, INK)
    parts = [
        box(wide, tall, 0.16, 0.05).move(0, y).paint(p.main),
        box(wide - 0.1, tall - 0.12, 0.08, 0.03).move(0, y + 0.01, 0.055).paint(contrast(p.main, INK, GREY)),
        box(wide - 0.2, tall - 0.22, 0.08, 0.02).move(0, y + 0.02, 0.075).paint(p.accent),
        _gleam(p, tall * 0.42).move(-wide * 0.3, y + tall * 0.1, 0.1),
        _gleam(p, tall * 0.26).move(-wide * 0.2, y + tall * 0.16, 0.1),
        box(wide * 0.66, tall * 0.62, 0.16, 0.08).move(0, y - 0.06, -0.12).paint(dark),
        box(0.2, 0.3, 0.1, 0.02).move(0, 0.18, -0.045).paint(metal),
        cylinder(foot, 0.08, rounding=0.03, segments=24).scale(1, 1, 0.42).paint(metal),
    ]
    for k in (0.16, 0.04, -0.08):
        parts.append(box(wide * 0.42, 0.06, 0.06).move(0, y + tall * k, -0.19).paint(metal))
    light = ellipsoid(0.04, 0.035, 0.04, 6, 10).move(wide * 0.4, y - tall / 2 + 0.05, 0.08)
    return [*parts, light.paint(contrast(p.main, COLORS["red"], GLOW))]


def chest(p: Paint) -> list[Shape]:
    """Build a treasure chest with a lid in the accent colour, vaulted and open over gold, or flat and shut."""
    wide, deep, tall, vaulted = p.u(1.05, 1.2), p.u(0.64, 0.74), p.u(0.44, 0.52), p.rng.random() < 0.5
    front, gold, metal = deep / 2, contrast(p.main, GLOW, GREY), contrast(p.accent, GLOW, GREY)
    gap = p.u(42, 62) if vaulted else 0.0
    plate, dark = contrast(gold, (0.45, 0.42, 0.4), GREY), shade(p.main, 0.7)
    parts = [
        crate(wide, deep, tall, 0.08).paint(p.main),
        box(wide + 0.05, 0.11, deep + 0.05).move(0, 0.05).paint(gold),
        box(wide + 0.03, 0.06, deep + 0.03).move(0, tall * 0.55).paint(dark),
    ]
    for x in (-0.36, 0.36):
        for z in (front, -front):
            parts.append(box(0.13, tall - 0.02, 0.08).move(x * wide, tall / 2, z).paint(gold))
    lock = tall - 0.11 if vaulted else tall - 0.03
    parts += [
        box(0.26, 0.25, 0.12, 0.03).move(0, lock, front + 0.02).paint(plate),
        disc(0.055, 0.1, 12).move(0, lock + 0.02, front + 0.06).paint(INK),
        box(0.05, 0.1, 0.09).move(0, lock - 0.05, front + 0.06).paint(INK),
    ]
    if vaulted:
        parts.append(ellipsoid(wide * 0.41, 0.24, front * 0.8, 8, 18).move(0, tall - 0.08).paint(GOLD))
        for i in range(5):
            coin = cylinder(0.09, 0.05, segments=12).rotate("x", p.u(25, 60)).rotate("y", p.u(-40, 40))
            parts.append(coin.move((i - 2) * 0.17, tall + 0.09 - 0.02 * abs(i - 2), 0.12).paint((0.93, 0.66, 0.08)))
        parts += [
            ellipsoid(0.1, 0.09, 0.1, 5, 8).move(-0.26, tall + 0.12, -0.02).paint(COLORS["red"]),
            ellipsoid(0.1, 0.09, 0.1, 5, 8).move(0.2, tall + 0.15, -0.04).paint(GLASS),
        ]
        lid = _vault(wide, front, p, metal)
    else:
        slope = [(-0.03, 0), (deep + 0.03, 0), (deep + 0.03, 0.12), (deep - 0.1, 0.26), (0.1, 0.26), (-0.03, 0.12)]
        lid = [side_profile(slope, wide + 0.06, 0.02).paint(p.accent)]
        outer = [(deep / 2 + 1.06 * (z - deep / 2), 1.1 * y - 0.01) for z, y in slope]
        lid += [side_profile(outer, 0.13).move(x * wide).paint(metal) for x in (-0.36, 0.36)]
        lid.append(arc(0.16, 0.05, 0, 180, 10).scale(1.2, 0.8, 1).move(0, 0.25, front).paint(metal))
    parts += [s.rotate("x", -gap).move(0, tall + 0.01, -front) for s in lid]
    grip = arc(0.13, 0.05, -180, 0, 10).rotate("y", 90).move(wide / 2 + 0.05, tall * 0.74)
    return parts + mirrored([grip.paint(contrast(p.main, INK, GREY))])


def _vault(wide: float, front: float, p: Paint, metal: tuple[float, float, float]) -> list[Shape]:
    """Build a hollow vaulted lid of planks whose hinge is the X axis."""
    count, rise = 7, 0.8
    turn = np.deg2rad(np.linspace(0, 180, count + 1))
    rim = np.stack([front * np.cos(turn) + front, rise * front * np.sin(turn)], axis=1)
    parts = []
    for i in range(count):
        (z0, y0), (z1, y1) = rim[i], rim[i + 1]
        tilt, long = np.rad2deg(np.arctan2(y0 - y1, z1 - z0)), float(np.hypot(z1 - z0, y1 - y0))
        at = (0.0, (y0 + y1) / 2, (z0 + z1) / 2)
        plank = box(wide - 0.03 * (i % 2), 0.07, long + 0.035).rotate("x", float(tilt)).move(*at)
        parts.append(plank.paint(p.accent if i % 2 else shade(p.accent, 0.9)))
        hoop = box(0.12, 0.13, long + 0.06).rotate("x", float(tilt)).move(*at).paint(metal)
        parts += [hoop.move(x * wide) for x in (-0.36, 0.0, 0.36)]
    end = [(float(z), float(y)) for z, y in 0.97 * (rim - [front, 0]) + [front, 0]]
    side = side_profile(end, 0.07).move(wide / 2 - 0.06).paint(shade(p.accent, 0.8))
    return parts + mirrored([side])


def barrel(p: Paint) -> list[Shape]:
    """Build a barrel with hoops in the accent colour and a tap: upright, or lying on a cradle."""
    radius, bulge, tall = p.u(0.36, 0.42), p.u(0.07, 0.11), p.u(0.95, 1.12)
    near = float(np.linalg.norm(np.subtract(p.main, p.accent))) < 0.3
    # Staves of two shades. Hoops of the barrel's own colour take the second shade, and the staves the first.
    dark = shade(p.main, 0.87)
    stave, metal = (p.main, shade(p.accent, 0.72)) if near else (dark, p.accent)
    brass = contrast(p.main, GLOW, GREY)

    def at(y: float) -> float:
        """Return the radius at a height that is given as a share of the whole."""
        return radius + bulge * np.sin(np.pi * y)

    wall = [(at(y), y * tall) for y in np.linspace(0, 1, 9)]
    inner = radius - 0.07
    profile = [(0, 0.06), (inner, 0.06), (inner, 0), *wall, (inner, tall), (inner, tall - 0.06), (0, tall - 0.06)]
    parts = [
        striped(lathe(profile, 24), 12, p.main, stave),
        cylinder(inner - 0.03, 0.08, segments=20).move(0, tall - 0.11).paint(dark),
        cylinder(inner - 0.03, 0.08, segments=20).move(0, 0.03).paint(dark),
    ]
    for low, high in ((0.05, 0.15), (0.3, 0.4), (0.6, 0.7), (0.85, 0.95)):
        hoop = cylinder(at(low) + 0.03, (high - low) * tall, at(high) + 0.03, segments=24)
        parts.append(hoop.move(0, low * tall).paint(metal))
    tap = [
        disc(0.13, 0.09, 16).paint(contrast(p.main, GREY, INK)),
        cylinder(0.07, 0.26, segments=12).rotate("x", 90).paint(brass),
        cylinder(0.055, 0.17, segments=10).move(0, -0.16, 0.2).paint(brass),
        box(0.24, 0.08, 0.08, 0.02).move(0, 0.1, 0.18).paint(contrast(p.main, COLORS["red"], COLORS["blue"])),
    ]
    if p.rng.random() < 0.5:
        cork = cylinder(0.09, 0.1, segments=12).move(radius * 0.4, tall - 0.06, 0.08)
        return [*parts, cork.paint(WOOD), *(s.move(0, tall * 0.21, at(0.21) + 0.02) for s in tap)]
    high, foot = at(0.5) + 0.1, contrast(p.main, WOOD, (0.82, 0.66, 0.42))
    parts = [s.rotate("x", 90).move(0, high, -tall / 2) for s in parts]
    parts.append(cylinder(0.1, 0.1, segments=12).move(0, high + at(0.5) - 0.04).paint(brass))
    saddle = [(-0.5, 0), (0.5, 0), (0.44, high * 0.62), (-0.44, high * 0.62)]
    parts += [prism(saddle, 0.13).move(0, 0, z * tall).paint(foot) for z in (-0.265, 0.265)]
    parts += mirrored([box(0.1, 0.09, tall * 0.8).move(0.36, 0.07).paint(foot)])
    return parts + [s.move(0, high - 0.17, tall / 2 - 0.05) for s in tap]


def umbrella(p: Paint) -> list[Shape]:
    """Build an umbrella with a handle in the accent colour: wide with a hook, or deep with a knob."""
    deep = p.rng.random() < 0.5
    reach, rise = (p.u(0.62, 0.7), p.u(0.52, 0.6)) if deep else (p.u(0.78, 0.9), p.u(0.34, 0.42))
    shaft, line, panels = p.u(0.8, 0.95), contrast(p.main, WHITE, GREY), 8
    polar = np.deg2rad(np.linspace(0, 90, 7))
    outer = [(reach * np.cos(a), rise * np.sin(a)) for a in polar[:-1]]
    inner = [(0.93 * reach * np.cos(a), 0.9 * rise * np.sin(a) - 0.02) for a in polar[-2:0:-1]]
    dome = lathe([(0, 0.88 * rise), *inner, (reach * 0.95, -0.05), *outer, (0, rise)], 4 * panels)
    # The edge of the cloth is drawn in between the ribs.
    x, y, z = dome.vertices.T
    out = np.hypot(x, z) / reach
    pull = out**3 * np.sin(panels / 2 * np.arctan2(x, z)) ** 2
    cloth = np.stack([x * (1 - 0.06 * pull), y + 0.09 * pull, z * (1 - 0.06 * pull)], axis=1)
    parts = [
        striped(replace(dome, vertices=cloth), panels, p.main, shade(p.main, 0.8)),
        cylinder(0.045, shaft + rise - 0.4, segments=10).move(0, 0.4 - shaft).paint(contrast(p.main, GREY, WHITE)),
        cylinder(0.05, 0.18, 0.03, segments=10).move(0, rise - 0.03).paint(p.accent),
        ellipsoid(0.1, 0.05, 0.1, 6, 12).move(0, rise).paint(p.accent),
    ]
    if deep:
        parts += [
            cylinder(0.07, 0.3, 0.06, rounding=0.02, segments=14).move(0, 0.12 - shaft).paint(p.accent),
            ellipsoid(0.13, 0.12, 0.13, 8, 14).move(0, 0.1 - shaft).paint(p.accent),
        ]
    else:
        hook = [(0, 0.62), (0, 0.2), (0.05, 0.08), (0.15, 0.03), (0.26, 0.08), (0.3, 0.22)]
        parts.append(tube(np.array(hook) - [0, shaft], 0.07).rotate("y", -90).paint(p.accent))
    rib = tube([(1.01 * reach * np.cos(a), 1.01 * rise * np.sin(a)) for a in polar], 0.034, 6)
    for i in range(panels):
        turn = 360 / panels * i
        parts.append(rib.rotate("y", turn).paint(line))
        parts.append(ellipsoid(0.05, rings=6, segments=8).move(reach * 1.01, -0.01).rotate("y", turn).paint(line))
    return parts


BUILDERS: dict[str, Builder] = {
    "clock": clock,
    "television": television,
    "chest": chest,
    "barrel": barrel,
    "umbrella": umbrella,
}
