"""How buildings and what stands before one are built: castle, lighthouse, windmill, tent and mailbox."""

from __future__ import annotations

import numpy as np

from sds3d.toybox.paint import BRICK, DARK_GLASS, GLASS, GLOW, GREY, INK, WHITE, WOOD, Paint, apart, contrast, shade
from sds3d.toybox.parts import Builder, arch, corners, mirrored
from sds3d.toybox.shapes import Shape, arc, box, cylinder, disc, ellipsoid, lathe, prism, rectangle
from sds3d.toybox.world import COLORS

PALE_WOOD, STONE, SAND = (0.85, 0.68, 0.42), (0.5, 0.48, 0.46), (0.78, 0.74, 0.66)


def _turned(shapes: list[Shape]) -> list[Shape]:
    """Return the shapes four times, turned around the Y axis by quarters."""
    return [s.rotate("y", turn) for turn in (0, 90, 180, 270) for s in shapes]


def _roof(width: float, rise: float, depth: float) -> Shape:
    """Build a gable roof whose ridge runs along Z, its eaves on y = 0."""
    return prism([(-width / 2, 0), (width / 2, 0), (0, rise)], depth)


def castle(p: Paint) -> list[Shape]:
    """Build a castle with a gate, a keep with a flag, and round or square towers in the accent colour."""
    round_towers = p.rng.random() < 0.5
    wide, wall, tower, keep = p.u(0.47, 0.53), p.u(0.5, 0.57), p.u(0.16, 0.19), p.u(0.94, 1.05)
    high, spire = wall + p.u(0.2, 0.28), contrast(p.accent, COLORS["red"], COLORS["blue"])
    dark, light = contrast(p.main, INK, GREY), contrast(p.main, WHITE, GREY)
    slit, towers = contrast(p.accent, INK, GLOW), apart(p.accent, p.main)
    parts = [
        box(2 * wide, wall, 2 * wide).move(0, wall / 2).paint(p.main),
        box(0.56, keep - 0.2, 0.46).move(0, keep / 2 + 0.1, -0.06).paint(p.main),
        # The gate with its frame and drawbridge; a small door and a banner at the back.
        prism(arch(0.42, 0.44), 0.1).move(0, 0.01, wide + 0.02).paint(light),
        prism(arch(0.28, 0.35), 0.12).move(0, 0.02, wide + 0.05).paint(contrast(light, WOOD, INK)),
        box(0.06, 0.3, 0.1).move(0, 0.18, wide + 0.085).paint(INK),
        box(0.3, 0.06, 0.3).move(0, 0.02, wide + 0.23).paint(WOOD),
        box(0.24, 0.3, 0.08).move(0, wall * 0.6, -wide).paint(contrast(p.main, spire, WHITE, COLORS["blue"])),
        cylinder(0.035, 0.4, segments=8).move(0, keep - 0.03, -0.06).paint(dark),
        prism([(0, -0.11), (0.3, 0), (0, 0.11)], 0.06).rotate("y", 30).move(0, keep + 0.3, -0.06).paint(spire),
    ]
    tooth = box(0.13, 0.2, 0.1).paint(p.main)
    parts += _turned([tooth.move(x, wall + 0.05, wide - 0.045) for x in (-0.2, 0, 0.2)])
    parts += [tooth.move(x, keep + 0.04, z) for x in (-0.21, 0, 0.21) for z in (-0.245, 0.125)]
    window = box(0.12, 0.17, 0.08).paint(dark)
    for x in (-0.105, 0.105):
        parts += [window.move(x, keep - 0.18, 0.17), window.move(x, keep - 0.18, -0.29)]
    arrow = box(0.08, 0.18, 0.08).paint(dark)
    parts += [arrow.rotate("y", 90).move(x * wide, wall * 0.55, z) for x in (-1, 1) for z in (-0.14, 0.14)]
    if round_towers:
        pieces = [
            cylinder(tower, high, segments=16).move(0, -0.02).paint(towers),
            cylinder(tower * 1.32, p.u(0.38, 0.48), 0.0, segments=16).move(0, high - 0.04).paint(spire),
        ]
        out = tower
    else:
        out = tower * 0.92
        crown = 2 * out + 0.1
        pieces = [
            box(2 * out, high, 2 * out).move(0, high / 2 - 0.02).paint(towers),
            box(crown, 0.15, crown).move(0, high + 0.03).paint(shade(towers, 0.85)),
        ]
        corner = box(0.15, 0.15, 0.15).paint(towers)
        pieces += corners(corner.move(0, high + 0.13), crown / 2 - 0.07, crown / 2 - 0.07)
    for piece in pieces:
        parts += corners(piece, wide, wide)
    narrow = box(0.08, 0.18, 0.08).paint(slit)
    sides = mirrored([narrow.rotate("y", 90).move(wide + out, high * 0.72, z) for z in (-wide, wide)])
    return parts + sides + corners(narrow.move(0, high * 0.72), wide, wide + out)


def lighthouse(p: Paint) -> list[Shape]:
    """Build a lighthouse, alone or with a hut behind, with stripes in the accent colour."""
    hut = p.rng.random() < 0.5
    low, top, tall = p.u(0.34, 0.4), p.u(0.21, 0.25), p.u(1.15, 1.35)
    dark, cone = contrast(p.main, INK, GREY), contrast(p.accent, COLORS["red"], COLORS["blue"])
    door, pane = contrast(p.main, WOOD, PALE_WOOD), contrast(p.main, DARK_GLASS, GLASS)
    bands = [0.1, 0.42, 0.74] if hut else [0.34, 0.68]

    def radius(y: float) -> float:
        """Return the tower's radius at a height."""
        return low + (top - low) * y / tall

    parts = [
        cylinder(low * 1.5, 0.16, low * 1.3, rounding=0.05, segments=14).move(0, -0.14).paint(STONE),
        cylinder(low, tall, top, segments=22).paint(p.main),
        cylinder(top * 1.5, 0.1, segments=22).move(0, tall - 0.02).paint(dark),
        cylinder(top * 0.86, 0.34, segments=16).move(0, tall + 0.03).paint(GLOW),
        cylinder(top * 1.25, 0.27, 0.0, segments=18).move(0, tall + 0.31).paint(cone),
        ellipsoid(0.065, rings=6, segments=10).move(0, tall + 0.57).paint(dark),
    ]
    post = cylinder(0.04, 0.32, segments=6).move(0, tall + 0.045, top * 0.92).paint(dark)
    rail = cylinder(0.04, 0.17, segments=6).move(0, tall + 0.05, top * 1.38).paint(dark)
    for i in range(6):
        parts += [post.rotate("y", 60 * i + 30), rail.rotate("y", 60 * i)]
    hoop = arc(top * 1.38, 0.04, steps=20).rotate("x", 90).move(0, tall + 0.22)
    parts.append(hoop.paint(dark))
    for y in bands:
        a, b = y * tall, (y + 0.17) * tall
        band = cylinder(radius(a) + 0.02, b - a, radius(b) + 0.02, segments=22)
        parts.append(band.move(0, a).paint(apart(p.accent, p.main)))
    # The door with its frame and step, and windows above it.
    parts += [
        prism(arch(0.34, 0.43), 0.16).move(0, 0.01, low - 0.05).paint(contrast(door, WHITE, INK)),
        prism(arch(0.24, 0.36), 0.16).move(0, 0.015, low - 0.02).paint(door),
        ellipsoid(0.045, rings=6, segments=8).move(0.06, 0.17, low + 0.07).paint(contrast(door, GLOW, INK)),
        box(0.36, 0.1, 0.26).move(0, -0.01, low + 0.12).paint(shade(STONE, 1.35)),
    ]
    window = box(0.14, 0.17, 0.12).paint(pane)
    frame = box(0.22, 0.25, 0.1).paint(contrast(pane, WHITE, INK))
    for y in (0.505, 0.79) if hut else (0.425, 0.8):
        parts += [s.move(0, y * tall, radius(y * tall)) for s in (frame, window)]
    if not hut:
        parts += [s.rotate("y", 180).move(0, 0.595 * tall, -radius(0.595 * tall)) for s in (frame, window)]
        return parts
    z = -low - 0.12
    parts += [
        box(0.54, 0.36, 0.46).move(0, 0.17, z).paint(p.main),
        _roof(0.7, 0.26, 0.54).move(0, 0.34, z).paint(cone),
        box(0.18, 0.17, 0.1).move(0, 0.2, z - 0.22).paint(pane),
        box(0.58, 0.13, 0.16).move(0, 0.2, z).paint(pane),
    ]
    return parts


def windmill(p: Paint) -> list[Shape]:
    """Build a windmill, a tower with a round cap or a house with a gable roof, its blades in the accent colour."""
    house = p.rng.random() < 0.5
    low, top, tall = p.u(0.38, 0.44), p.u(0.24, 0.28), p.u(0.95, 1.1)
    reach, turn = p.u(0.62, 0.72), p.u(25, 60)
    roof, beam = contrast(p.main, BRICK, DARK_GLASS), contrast(p.accent, WOOD, PALE_WOOD)
    frame, door = contrast(p.main, WHITE, WOOD), contrast(p.main, WOOD, PALE_WOOD)
    if house:
        outline, foot = rectangle(1.7 * low, 1.7 * low), 0.85 * low
    else:
        angle = np.deg2rad(np.arange(8) * 45 + 22.5)
        outline, foot = low * np.stack([np.cos(angle), np.sin(angle)], axis=1), low * np.cos(np.pi / 8)
    head = foot * top / low
    hub, z = tall + (0.1 if house else 0.04), head + 0.24
    stone = contrast(p.main, GREY, WHITE)
    parts = [
        prism(outline, tall, taper=top / low).rotate("x", 90).move(0, tall / 2).paint(p.main),
        prism(outline * 1.1, 0.12).rotate("x", 90).move(0, 0.03).paint(stone),
        cylinder(0.06, z + 0.12, segments=10).rotate("x", 90).move(0, hub, -0.1).paint(beam),
        ellipsoid(0.11, 0.11, 0.1, 8, 12).move(0, hub, z + 0.05).paint(beam),
        prism(arch(0.36, 0.46), 0.14).move(0, 0.005, foot - 0.04).paint(frame),
        prism(arch(0.26, 0.4), 0.16).move(0, 0.01, foot - 0.02).paint(door),
        ellipsoid(0.045, rings=6, segments=8).move(0.07, 0.19, foot + 0.06).paint(contrast(door, GLOW, INK)),
        # The pole at the back that turns the mill into the wind.
        cylinder(0.045, tall * 0.95, segments=8)
        .rotate("x", 24)
        .move(0, tall * 0.1, -head - 0.2 - tall * 0.38)
        .paint(beam),
    ]
    if house:
        parts.append(_roof(2.9 * head, 0.36, 2.7 * head).move(0, tall - 0.03).paint(roof))
        parts.append(box(0.14, 0.14, 0.08).move(0, tall + 0.1, -1.33 * head).paint(contrast(roof, WHITE, INK)))
    else:
        parts.append(cylinder(top * 1.25, 0.34, 0.05, rounding=0.04, segments=16).move(0, tall - 0.02).paint(roof))
        gallery = arc(foot * 0.95, 0.05, steps=16).rotate("x", 90).move(0, tall * 0.4)
        parts.append(gallery.paint(beam))
    middle = tall * 0.62
    out = foot + (head - foot) * middle / tall
    ring, pane = box(0.25, 0.27, 0.08).paint(frame), box(0.15, 0.17, 0.11).paint(contrast(frame, DARK_GLASS, GLASS))
    parts += _turned([s.move(0, middle, out) for s in (ring, pane)])
    spar = box(0.06, reach - 0.05, 0.085).move(0, reach / 2 + 0.025).paint(beam)
    sail = box(0.36, reach * 0.76, 0.06).move(0.11, reach * 0.635).paint(p.accent)
    slat = box(0.38, 0.05, 0.1).paint(beam)
    blade = [spar, sail, *(slat.move(0.11, reach * k) for k in (0.5, 0.77))]
    parts += [s.rotate("z", turn + side).move(0, hub, z) for side in (0, 90, 180, 270) for s in blade]
    return parts


def tent(p: Paint) -> list[Shape]:
    """Build a ridge tent or a dome tent with stripes in the accent colour."""
    pole = contrast(p.main, WOOD, PALE_WOOD)
    dark, mat = contrast(p.main, DARK_GLASS, (0.75, 0.7, 0.6)), contrast(p.main, (0.45, 0.42, 0.36), SAND)
    peg = cylinder(0.05, 0.2, segments=8).rotate("z", 22).paint(pole)
    if p.rng.random() < 0.5:
        radius, tall = p.u(0.62, 0.7), p.u(0.54, 0.62)
        polar = np.deg2rad(np.linspace(0, 90, 9))
        dome = [(0.0, 0.0), *((float(np.cos(a)), float(np.sin(a))) for a in polar[:-1]), (0.0, 1.0)]
        parts = [
            lathe(dome, 28).scale(radius, tall, radius).paint(p.main),
            cylinder(radius * 1.14, 0.07, segments=24).move(0, -0.05).paint(mat),
            ellipsoid(0.07, rings=6, segments=10).move(0, tall + 0.05).paint(pole),
        ]
        strap = arc(radius, 0.05, 0, 180, 18).scale(1, 1, 2.2)
        for turn in (-36, 0, 36):
            lift = strap.rotate("x", turn).scale(1, tall / radius, 1)
            parts.append(lift.paint(apart(p.accent, p.main)))
        # The open entrance with rolled-up flaps, and a window at the back.
        hood = prism(arch(0.66, 0.5), 0.3).move(0, 0.01, radius * 0.86)
        parts += [hood.paint(p.main), prism(arch(0.46, 0.4), 0.1).move(0, 0.03, radius * 0.86 + 0.13).paint(dark)]
        parts.append(
            cylinder(0.07, 0.36, rounding=0.03, segments=10)
            .rotate("z", 90)
            .move(0.18, 0.46, radius * 0.86 + 0.16)
            .paint(shade(p.main, 0.8))
        )
        pane = disc(0.15, 0.12, 14).rotate("x", 52).move(0, tall * 0.6, -radius * 0.8)
        parts.append(pane.paint(dark))
        return parts + corners(peg, radius * 0.86, radius * 0.86)
    half, tall, long = p.u(0.55, 0.65), p.u(0.8, 0.95), p.u(1.1, 1.3)
    front = long / 2

    def ridge(scale: float, depth: float) -> Shape:
        """Build a triangular slice of the tent."""
        return prism([(-half * scale, 0), (half * scale, 0), (0, tall * scale)], depth)

    parts = [
        ridge(1.0, long).paint(p.main),
        box(2 * half + 0.16, 0.07, long + 0.16).move(0, -0.02).paint(mat),
        ridge(0.66, 0.08).move(0, 0.02, front).paint(dark),
        cylinder(0.045, long + 0.24, segments=10).rotate("x", 90).move(0, tall + 0.01, -front - 0.12).paint(pole),
        # The back: a seam and a window.
        box(0.06, tall * 0.5, 0.06).move(0, tall * 0.26, -front).paint(shade(p.main, 0.72)),
        prism([(-0.15, 0), (0.15, 0), (0, 0.24)], 0.08).move(0, tall * 0.5, -front).paint(dark),
    ]
    for z in (-0.74, 0.0, 0.74):
        parts.append(ridge(1.045, long * 0.16).move(0, -0.005, z * front).paint(apart(p.accent, p.main)))
    flap = prism([(0, 0.02), (0.16, 0.04), (0.05, tall * 0.64)], 0.06).rotate("z", 22).rotate("y", -24)
    pieces = [flap.move(half * 0.56, 0.02, front + 0.07).paint(shade(p.main, 0.8))]
    pieces += [peg.move(half + 0.14, -0.02, z) for z in (-front * 0.8, front * 0.8)]
    return parts + mirrored(pieces)


def mailbox(p: Paint) -> list[Shape]:
    """Build a mailbox with a round or a gable top, a flag and a letter, and a post in the accent colour."""
    gable = p.rng.random() < 0.5
    wide, tall, long, post = p.u(0.4, 0.48), p.u(0.5, 0.58), p.u(0.76, 0.9), p.u(0.6, 0.75)
    front, flag = long / 2, contrast(p.main, COLORS["red"], GLOW)
    slot, letter = contrast(p.main, INK, WHITE), contrast(p.main, WHITE, (0.98, 0.9, 0.6))
    rim, column = shade(p.main, 0.8), apart(p.accent, p.main)
    parts = [
        box(0.16, post + 0.1, 0.16, 0.02).move(0, post / 2).paint(column),
        box(wide * 0.8, 0.1, long * 0.7).move(0, post - 0.03).paint(column),
        box(0.12, 0.12, 0.5).rotate("x", -45).move(0, post - 0.2, 0.18).paint(column),
        cylinder(0.28, 0.1, 0.2, segments=14).move(0, -0.06).paint((0.36, 0.55, 0.24)),
    ]
    if gable:
        body = tall * 0.72
        parts += [
            box(wide, body, long, 0.03).move(0, post + body / 2).paint(p.main),
            _roof(wide * 1.36, tall * 0.42, long + 0.14).move(0, post + body - 0.02).paint(rim),
        ]
        middle, sheet = post + body * 0.72, post + body * 0.36
    else:
        parts += [
            prism(arch(wide, tall), long, 0.02).move(0, post).paint(p.main),
            prism(arch(wide * 1.1, tall * 1.05), 0.1).move(0, post - 0.01, front - 0.03).paint(rim),
            prism(arch(wide * 1.07, tall * 1.03), 0.1).move(0, post - 0.008, -front + 0.06).paint(rim),
        ]
        middle, sheet = post + tall * 0.62, post + tall * 0.4
    # The front: a slot with a letter in it, and a knob. The back: a plate in a frame.
    parts += [
        box(wide * 0.72, 0.1, 0.08).move(0, middle, front + 0.02).paint(slot),
        box(wide * 0.5, 0.18, 0.06).rotate("x", 14).move(0, middle + 0.08, front + 0.06).paint(letter),
        ellipsoid(0.065, 0.065, 0.07, 6, 12).move(0, middle - 0.22, front + 0.06).paint(contrast(p.main, GLOW, GREY)),
        box(wide * 0.62, tall * 0.3, 0.08, 0.02).move(0, sheet, -front).paint(contrast(p.main, GREY, WHITE)),
        box(wide * 0.42, 0.06, 0.08).move(0, sheet, -front - 0.035).paint(INK),
    ]
    x, y = wide / 2 + 0.035, post + tall * 0.42
    parts.append(box(0.08, 0.42, 0.07).move(x, y + 0.16, 0.12).paint(flag))
    parts.append(box(0.07, 0.17, 0.24).move(x + 0.02, y + 0.32, 0.03).paint(flag))
    return parts


BUILDERS: dict[str, Builder] = {
    "castle": castle,
    "lighthouse": lighthouse,
    "windmill": windmill,
    "tent": tent,
    "mailbox": mailbox,
}
