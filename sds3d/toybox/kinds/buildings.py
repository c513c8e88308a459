"""Buildings, and a mailbox."""

from __future__ import annotations

from sds3d.toybox.paint import BRICK, DARK_GLASS, GLASS, GLOW, GREY, INK, WHITE, WOOD, Paint, contrast, shade
from sds3d.toybox.parts import Builder, arch, corners, mirrored
from sds3d.toybox.shapes import Shape, box, cylinder, disc, ellipsoid, prism
from sds3d.toybox.world import COLORS

PALE_MAT = (0.78, 0.74, 0.66)


def castle(p: Paint) -> list[Shape]:
    """Build a castle with towers in the accent colour."""
    wide, wall, tower, keep = p.u(0.42, 0.48), p.u(0.46, 0.54), p.u(0.18, 0.21), p.u(0.85, 1.0)
    high, spire = wall + p.u(0.2, 0.28), contrast(p.accent, COLORS["red"], COLORS["blue"])
    dark = contrast(p.main, INK, GREY)
    parts = [
        box(2 * wide, wall, 2 * wide).move(0, wall / 2).paint(p.main),
        box(0.44, keep - 0.2, 0.4).move(0, keep / 2 + 0.1, -0.06).paint(p.main),
        prism(arch(0.4, 0.42), 0.1).move(0, 0.01, wide + 0.02).paint(contrast(p.main, WHITE, GREY)),
        prism(arch(0.28, 0.34), 0.1).move(0, 0.02, wide + 0.05).paint(contrast(p.main, WOOD, INK)),
        cylinder(0.04, 0.34, segments=8).move(0, keep, -0.06).paint(dark),
        prism([(0, -0.1), (0.28, 0), (0, 0.1)], 0.06).rotate("y", 30).move(0, keep + 0.26, -0.06).paint(spire),
    ]
    tooth = box(0.13, 0.2, 0.1).paint(p.main)
    for x in (-0.2, 0, 0.2):
        row = tooth.move(x, wall + 0.05, wide - 0.05)
        parts += [row.rotate("y", turn) for turn in (0, 90, 180, 270)]
        parts += [tooth.move(0.8 * x, keep + 0.04, z) for z in (-0.21, 0.09)]
    parts += corners(cylinder(tower, high + 0.02, segments=16).move(0, -0.02).paint(p.accent), wide, wide)
    parts += corners(cylinder(tower * 1.3, p.u(0.36, 0.46), 0.0, segments=16).move(0, high).paint(spire), wide, wide)
    slit = contrast(p.accent, INK, GLOW)
    for z in (wide + tower, -wide - tower):
        parts += mirrored([box(0.07, 0.16, 0.06).move(wide, high * 0.72, z).paint(slit)])
    window = box(0.1, 0.16, 0.06).move(0.1, keep - 0.16, 0.15)
    return parts + mirrored(
        [window.paint(dark), box(0.06, 0.16, 0.07).move(wide + tower, high * 0.72, wide).paint(slit)]
    )


def lighthouse(p: Paint) -> list[Shape]:
    """Build a lighthouse with stripes in the accent colour."""
    low, top, tall = p.u(0.34, 0.4), p.u(0.21, 0.25), p.u(1.15, 1.35)
    dark, cone = contrast(p.main, INK, GREY), contrast(p.accent, COLORS["red"], COLORS["blue"])

    def radius(y: float) -> float:
        """The tower's radius at a height."""
        return low + (top - low) * y / tall

    parts = [
        cylinder(low * 1.5, 0.16, low * 1.3, rounding=0.05, segments=14).move(0, -0.14).paint((0.5, 0.48, 0.46)),
        cylinder(low, tall, top, segments=22).paint(p.main),
        cylinder(top * 1.5, 0.09, segments=22).move(0, tall - 0.02).paint(dark),
        cylinder(top * 0.86, 0.3, segments=16).move(0, tall).paint(GLOW),
        cylinder(top * 1.2, 0.24, 0.0, segments=18).move(0, tall + 0.29).paint(cone),
        ellipsoid(0.06, rings=6, segments=10).move(0, tall + 0.53).paint(dark),
    ]
    for i in range(6):
        post = cylinder(0.04, 0.32, segments=6).move(0, tall, top * 0.92).rotate("y", 60 * i + 30)
        rail = cylinder(0.04, 0.16, segments=6).move(0, tall + 0.05, top * 1.4).rotate("y", 60 * i)
        parts += [post.paint(dark), rail.paint(dark)]
    for y in (0.36, 0.72):
        a, b = y * tall, (y + 0.17) * tall
        parts.append(cylinder(radius(a) + 0.015, b - a, radius(b) + 0.015, segments=22).move(0, a).paint(p.accent))
    door, pane = contrast(p.main, WOOD, (0.9, 0.75, 0.45)), contrast(p.accent, DARK_GLASS, GLASS)
    parts.append(prism(arch(0.24, 0.36), 0.16).move(0, 0, low - 0.06).paint(door))
    parts.append(ellipsoid(0.04, rings=6, segments=8).move(0.06, 0.16, low + 0.03).paint(contrast(door, GLOW, INK)))
    for y in (0.44, 0.8):
        parts.append(box(0.12, 0.16, 0.1).move(0, y * tall, radius(y * tall)).paint(pane))
    return parts


def windmill(p: Paint) -> list[Shape]:
    """Build a windmill with blades in the accent colour."""
    low, top, tall = p.u(0.38, 0.44), p.u(0.24, 0.28), p.u(0.95, 1.1)
    reach, turn = p.u(0.62, 0.72), p.u(25, 60)
    roof, beam = contrast(p.main, BRICK, DARK_GLASS), contrast(p.accent, WOOD, (0.82, 0.66, 0.42))
    frame, door = contrast(p.main, WHITE, WOOD), contrast(p.main, WOOD, (0.9, 0.75, 0.45))
    hub, z = tall + 0.02, top + 0.2
    parts = [
        cylinder(low, tall, top, segments=8).rotate("y", 22.5).paint(p.main),
        cylinder(low * 1.08, 0.1, segments=8).rotate("y", 22.5).move(0, -0.02).paint(contrast(p.main, GREY, WHITE)),
        cylinder(top * 1.25, 0.34, 0.05, rounding=0.04, segments=14).move(0, tall - 0.02).paint(roof),
        cylinder(0.06, z + 0.14, segments=10).rotate("x", 90).move(0, hub, -0.1).paint(beam),
        ellipsoid(0.11, 0.11, 0.1, 8, 12).move(0, hub, z + 0.03).paint(beam),
        prism(arch(0.26, 0.38), 0.16).move(0, 0, low * 0.92 - 0.06).paint(door),
        ellipsoid(0.04, rings=6, segments=8).move(0.07, 0.18, low * 0.92 + 0.03).paint(contrast(door, GLOW, INK)),
    ]
    for side in (0, 90, 180, 270):
        pane = disc(0.1, 0.1, 12).move(0, tall * 0.6, low * 0.4 + top * 0.56).rotate("y", side)
        ring = disc(0.14, 0.07, 12).move(0, tall * 0.6, low * 0.4 + top * 0.56).rotate("y", side)
        parts += [ring.paint(frame), pane.paint(contrast(frame, DARK_GLASS, GLASS))]
        spar = box(0.07, reach - 0.05, 0.07).move(0, reach / 2 + 0.025)
        sail = box(0.22, reach * 0.72, 0.06).move(0.1, reach * 0.62)
        slats = [box(0.23, 0.05, 0.075).move(0.1, reach * k) for k in (0.46, 0.64, 0.82)]
        pieces = [spar.paint(beam), sail.paint(p.accent), *(s.paint(beam) for s in slats)]
        parts += [s.rotate("z", turn + side).move(0, hub, z) for s in pieces]
    return parts


def tent(p: Paint) -> list[Shape]:
    """Build a tent with stripes in the accent colour."""
    half, tall, long = p.u(0.55, 0.65), p.u(0.8, 0.95), p.u(1.1, 1.3)
    front, pole = long / 2, contrast(p.main, WOOD, (0.82, 0.66, 0.42))

    def ridge(scale: float, depth: float) -> Shape:
        """A triangular slice of the tent."""
        return prism([(-half * scale, 0), (half * scale, 0), (0, tall * scale)], depth)

    dark = contrast(p.main, DARK_GLASS, (0.75, 0.7, 0.6))
    parts = [
        ridge(1.0, long).paint(p.main),
        box(2 * half + 0.16, 0.06, long + 0.16).move(0, -0.02).paint(contrast(p.main, (0.45, 0.42, 0.36), PALE_MAT)),
        ridge(0.62, 0.06).move(0, 0.02, front).paint(dark),
        cylinder(0.045, long + 0.24, segments=10).rotate("x", 90).move(0, tall + 0.01, -front - 0.12).paint(pole),
    ]
    for z in (-0.74, 0.0, 0.74):
        parts.append(ridge(1.045, long * 0.16).move(0, -0.005, z * front).paint(p.accent))
    flap = prism([(0, 0.02), (0.14, 0.04), (0.05, tall * 0.62)], 0.06).rotate("z", 22).rotate("y", -24)
    peg = cylinder(0.05, 0.2, segments=8).rotate("z", 22)
    pieces = [flap.move(half * 0.54, 0.02, front + 0.06).paint(shade(p.main, 0.85))]
    pieces += [peg.move(half + 0.14, -0.02, z).paint(pole) for z in (-front * 0.8, front * 0.8)]
    return parts + mirrored(pieces)


def mailbox(p: Paint) -> list[Shape]:
    """Build a mailbox with a post in the accent colour."""
    wide, tall, long, post = p.u(0.4, 0.48), p.u(0.5, 0.58), p.u(0.8, 0.95), p.u(0.6, 0.75)
    front, flag = long / 2, contrast(p.main, COLORS["red"], GLOW)
    slot, letter = contrast(p.main, INK, WHITE), contrast(p.main, WHITE, (0.98, 0.9, 0.6))
    parts = [
        prism(arch(wide, tall), long, 0.02).move(0, post).paint(p.main),
        prism(arch(wide * 1.1, tall * 1.05), 0.08).move(0, post - 0.01, front - 0.02).paint(shade(p.main, 0.82)),
        prism(arch(wide * 1.06, tall * 1.03), 0.08).move(0, post - 0.008, -front + 0.06).paint(shade(p.main, 0.82)),
        box(wide * 0.66, 0.08, 0.06).move(0, post + tall * 0.64, front + 0.02).paint(slot),
        box(wide * 0.5, 0.16, 0.05).rotate("x", 12).move(0, post + tall * 0.74, front + 0.04).paint(letter),
        ellipsoid(0.06, 0.06, 0.07, 6, 12)
        .move(0, post + tall * 0.24, front + 0.06)
        .paint(contrast(p.main, GLOW, GREY)),
        box(0.16, post + 0.1, 0.16, 0.02).move(0, post / 2).paint(p.accent),
        box(wide * 0.8, 0.1, long * 0.7).move(0, post - 0.02).paint(p.accent),
        box(0.12, 0.12, 0.5).rotate("x", -45).move(0, post - 0.2, 0.18).paint(p.accent),
        cylinder(0.26, 0.1, 0.2, segments=14).move(0, -0.06).paint((0.36, 0.55, 0.24)),
    ]
    x, y = wide / 2 + 0.04, post + tall * 0.5
    parts.append(box(0.06, 0.42, 0.07).move(x, y + 0.16, 0.12).paint(flag))
    parts.append(box(0.06, 0.16, 0.24).move(x, y + 0.32, 0.04).paint(flag))
    return parts


BUILDERS: dict[str, Builder] = {
    "castle": castle,
    "lighthouse": lighthouse,
    "windmill": windmill,
    "tent": tent,
    "mailbox": mailbox,
}
