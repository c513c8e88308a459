"""Things to wear and to carry."""

from __future__ import annotations

import numpy as np

from sds3d.toybox.paint import DARK_GLASS, GLASS, GLOW, GREY, INK, WHITE, WOOD, Paint, contrast, shade
from sds3d.toybox.parts import Builder, mirrored
from sds3d.toybox.shapes import Shape, arc, box, cylinder, disc, ellipsoid, lathe, prism, tube
from sds3d.toybox.world import COLORS


def camera(p: Paint) -> list[Shape]:
    """Build a camera with a flash in the accent colour."""
    wide, tall, deep, lens = p.u(1.0, 1.15), p.u(0.62, 0.7), p.u(0.32, 0.4), p.u(0.26, 0.3)
    front, dark, metal = deep / 2, contrast(p.main, INK, GREY), contrast(p.main, GREY, WHITE)
    reach, pane = p.u(0.24, 0.34), contrast(INK, GLASS)
    parts = [
        box(wide, tall, deep, 0.07).paint(p.main),
        box(wide + 0.02, tall * 0.18, deep + 0.03, 0.03).move(0, -tall * 0.28).paint(dark),
        box(0.44, 0.22, deep * 0.9, 0.05).move(0, tall / 2 + 0.07).paint(p.accent),
        box(0.34, 0.14, 0.06, 0.03).move(0, tall / 2 + 0.08, front * 0.9 + 0.01).paint(contrast(p.accent, WHITE, GLOW)),
        cylinder(0.09, 0.14, segments=14)
        .move(wide * 0.34, tall / 2 - 0.04)
        .paint(contrast(p.main, COLORS["red"], GLOW)),
        cylinder(0.11, 0.1, segments=14).move(-wide * 0.34, tall / 2 - 0.03).paint(metal),
        cylinder(lens, reach, rounding=0.03, segments=24).rotate("x", 90).move(0, -0.04, front - 0.02).paint(dark),
        cylinder(lens * 1.1, 0.1, segments=24).rotate("x", 90).move(0, -0.04, front - 0.02).paint(p.accent),
        disc(lens * 0.78, 0.06, 20).move(0, -0.04, front + reach - 0.02).paint(metal),
        disc(lens * 0.6, 0.09, 20).move(0, -0.04, front + reach - 0.02).paint(DARK_GLASS),
        ellipsoid(0.06, 0.06, 0.04, 6, 10).move(-0.07, 0.04, front + reach + 0.025).paint(pane),
        box(wide * 0.5, tall * 0.58, 0.06, 0.04).move(-wide * 0.12, 0, -front - 0.005).paint(dark),
        box(wide * 0.42, tall * 0.46, 0.06, 0.03)
        .move(-wide * 0.12, 0, -front - 0.025)
        .paint(contrast(dark, GLASS, DARK_GLASS)),
        disc(0.09, 0.08, 14).move(wide * 0.34, 0.03, -front).paint(metal),
        box(0.16, 0.1, 0.06, 0.02).move(wide * 0.34, tall * 0.34, front).paint(DARK_GLASS),
    ]
    loop = arc(0.085, 0.035, steps=10).rotate("y", 90).move(wide / 2 + 0.03, tall * 0.34)
    return parts + mirrored([loop.paint(metal)])


def backpack(p: Paint) -> list[Shape]:
    """Build a backpack with a pocket in the accent colour."""
    wide, tall, deep = p.u(0.72, 0.82), p.u(0.92, 1.05), p.u(0.38, 0.46)
    front, dark, zip_ = deep / 2, shade(p.main, 0.7), contrast(p.accent, GLOW, INK)
    turn = np.deg2rad(np.linspace(0, 180, 9))
    arch = [(-wide / 2, -tall * 0.4), (-wide * 0.4, -tall / 2), (wide * 0.4, -tall / 2), (wide / 2, -tall * 0.4)]
    arch += [(wide / 2 * np.cos(a), tall * 0.14 + tall * 0.36 * np.sin(a)) for a in turn]
    parts = [
        prism(arch, deep, 0.06).paint(p.main),
        box(wide * 0.74, tall * 0.42, 0.22, 0.08).move(0, -tall * 0.22, front + 0.05).paint(p.accent),
        box(wide * 0.6, 0.06, 0.07).move(0, -tall * 0.1, front + 0.15).paint(zip_),
        box(0.06, 0.15, 0.06, 0.02).move(wide * 0.2, -tall * 0.16, front + 0.17).paint(zip_),
        arc(wide * 0.37, 0.045, 8, 172, 14)
        .scale(1, 0.8, 1)
        .move(0, tall * 0.1, front)
        .paint(contrast(p.main, INK, WHITE)),
        disc(0.1, 0.08, 16).move(0, tall * 0.2, front + 0.01).paint(contrast(p.main, WHITE, GLOW)),
        arc(0.13, 0.045, 0, 180, 10).move(0, tall / 2 - 0.03, -front * 0.4).paint(dark),
        box(wide * 0.7, tall * 0.66, 0.1, 0.05).move(0, -tall * 0.06, -front - 0.01).paint(dark),
    ]
    path = [(0, 0.38), (0.13, 0.36), (0.2, 0.2), (0.2, 0), (0.15, -0.2), (0.0, -0.38)]
    strap = tube([(x, y * tall) for x, y in path], 0.07, 10).scale(1, 1, 1.3).rotate("y", 90)
    pouch = box(0.16, tall * 0.36, deep * 0.7, 0.06).move(wide / 2 + 0.03, -tall * 0.26)
    pieces = [strap.move(wide * 0.26, 0.02, -front).paint(contrast(p.main, INK, GREY)), pouch.paint(p.accent)]
    return parts + mirrored(pieces)


def crown(p: Paint) -> list[Shape]:
    """Build a crown with jewels in the accent colour."""
    radius, band, point = p.u(0.5, 0.56), p.u(0.24, 0.3), p.u(0.3, 0.38)
    ring = [(0, 0), (radius, 0), (radius * 1.04, band), (radius * 1.04 - 0.09, band), (radius - 0.09, 0.06), (0, 0.06)]
    lining = contrast(p.main, COLORS["red"], COLORS["purple"])
    trim = shade(p.main, 0.78)
    parts = [
        lathe(ring, 28).paint(p.main),
        cylinder(radius - 0.06, band * 0.5, segments=24).move(0, 0.03).paint(lining),
        arc(radius + 0.015, 0.045, steps=28).rotate("x", 90).move(0, 0.03).paint(trim),
        arc(radius * 1.04, 0.045, steps=28).rotate("x", 90).move(0, band).paint(trim),
    ]
    for i in range(8):
        tall = point * (1.5 if i == 0 else 1.0)
        spike = prism([(-0.19, 0), (0.19, 0), (0, tall)], 0.08).rotate("x", 8).move(0, band - 0.02, radius * 1.0)
        pearl = ellipsoid(0.075 if i else 0.11, rings=8, segments=12).move(0, band + tall + 0.02, radius + tall * 0.14)
        size = 0.075 if i else 0.14
        gem = ellipsoid(size, size * 1.1, 0.07, 8, 12).move(0, band * 0.52, radius * 1.03)
        parts += [s.rotate("y", 45 * i) for s in (spike.paint(p.main), pearl.paint(p.accent), gem.paint(p.accent))]
    return parts


def boot(p: Paint) -> list[Shape]:
    """Build a boot with a sole in the accent colour."""
    wide, tall, long = p.u(0.24, 0.28), p.u(0.72, 0.9), p.u(0.5, 0.58)
    heel, lace, trim = -0.2, contrast(p.main, WHITE, GLOW), contrast(p.main, (0.93, 0.82, 0.62), GREY)
    edge = [(wide * 1.0, -0.42), (wide * 1.12, -0.1), (wide * 1.02, 0.3), (wide * 0.6, 0.43), (-wide * 0.6, 0.43)]
    edge += [(-wide * 1.02, 0.3), (-wide * 1.12, -0.1), (-wide * 1.0, -0.42), (-wide * 0.5, -0.6), (wide * 0.5, -0.6)]
    sole = [(x, y * long / 0.58) for x, y in edge]
    sole = [*sole[-1:], *sole[:-1]]
    parts = [
        cylinder(wide, tall, wide * 1.12, rounding=0.04, segments=20)
        .scale(1, 1, 1.15)
        .move(0, 0.2, heel)
        .paint(p.main),
        ellipsoid(wide * 1.02, 0.3, long * 0.78, 10, 18).move(0, 0.24, 0.12).paint(p.main),
        ellipsoid(wide, 0.24, 0.26).move(0, 0.26, heel - 0.05).paint(p.main),
        prism(sole, 0.14, 0.02).rotate("x", -90).move(0, 0.11).paint(p.accent),
        box(wide * 1.7, 0.14, 0.3, 0.03).move(0, 0.0, heel - 0.02).paint(p.accent),
        box(wide * 1.7, 0.08, 0.4, 0.03).move(0, 0.03, 0.28).paint(p.accent),
        cylinder(wide * 1.24, 0.16, rounding=0.05, segments=20)
        .scale(1, 1, 1.15)
        .move(0, tall + 0.08, heel)
        .paint(trim),
        disc(wide * 0.95, 0.06, 18)
        .scale(1, 1.15, 1)
        .rotate("x", 90)
        .move(0, tall + 0.22, heel)
        .paint((0.2, 0.16, 0.14)),
        arc(0.09, 0.04, 0, 180, 10).rotate("y", 90).move(0, tall + 0.2, heel - wide * 1.2).paint(p.accent),
    ]
    for k in range(3):
        z = heel + wide * 1.15 * (1 + 0.12 * (0.3 + 0.22 * k))
        parts.append(box(wide * 1.0, 0.06, 0.09, 0.02).move(0, 0.44 + 0.2 * k * tall / 0.8, z).paint(lace))
    for x in (-1, 1):
        parts.append(
            ellipsoid(0.1, 0.05, 0.05, 6, 10)
            .rotate("z", x * 24)
            .move(x * 0.1, 0.57, heel + wide * 1.2 + 0.05)
            .paint(lace)
        )
    return parts


def sword(p: Paint) -> list[Shape]:
    """Build a sword with a hilt in the accent colour."""
    long, wide, guard, grip = p.u(1.0, 1.15), p.u(0.13, 0.17), p.u(0.3, 0.38), p.u(0.3, 0.36)
    point = long + p.u(0.16, 0.26)
    ridge = [(-wide, 0), (wide, 0), (wide * 0.9, long), (0, point), (-wide * 0.9, long)]
    gem = contrast(p.accent, COLORS["red"], GLASS)
    parts = [
        prism(ridge, 0.14, 0.05).paint(p.main),
        box(wide * 0.5, long * 0.86, 0.17, 0.02).move(0, long * 0.43).paint(shade(p.main, 0.78)),
        box(2 * guard, 0.15, 0.24, 0.05).move(0, -0.04).paint(p.accent),
        cylinder(0.085, grip + 0.06, segments=14).move(0, -grip - 0.1).paint(contrast(p.accent, INK, WOOD)),
        ellipsoid(0.14, 0.14, 0.12).move(0, -grip - 0.16).paint(p.accent),
        ellipsoid(0.1, 0.1, 0.16, 8, 12).move(0, -0.03).paint(gem),
    ]
    for k in (0.3, 0.65):
        parts.append(cylinder(0.1, 0.06, segments=14).move(0, -0.1 - grip * k).paint(p.accent))
    return parts + mirrored([ellipsoid(0.11, 0.12, 0.13, 8, 12).move(guard, -0.02).paint(p.accent)])


def shield(p: Paint) -> list[Shape]:
    """Build a shield with cross in the accent colour."""
    wide, tall, bar = p.u(0.5, 0.56), p.u(1.15, 1.3), p.u(0.15, 0.19)
    edge = [(0, -0.62), (0.4, -0.4), (0.72, -0.08), (0.92, 0.2), (1, 0.5), (0.98, 0.9), (0.5, 0.93), (0, 1)]
    right = [(x * wide, (y - 0.2) * tall * 0.62) for x, y in edge]
    outline = np.array(right + [(-x, y) for x, y in right[-2:0:-1]])
    metal, wood = contrast(p.main, GREY, WHITE), contrast(p.main, WOOD, (0.82, 0.66, 0.42))
    top, low = outline[:, 1].max(), outline[:, 1].min()
    strap = arc(0.16, 0.05, -90, 90, 10).rotate("y", 90)
    parts = [
        prism(outline * 1.05, 0.14, 0.03).paint(metal),
        prism(outline * 0.97, 0.12, 0.02).move(0, 0, 0.05).paint(p.main),
        prism(outline * 0.96, 0.08).move(0, 0, -0.06).paint(p.main),
        box(bar, (top - low) * 0.72, 0.08).move(0, low * 0.1, 0.1).paint(p.accent),
        box(wide * 1.66, bar, 0.09).move(0, top * 0.36, 0.1).paint(p.accent),
        ellipsoid(0.15, 0.15, 0.1).move(0, top * 0.36, 0.14).paint(metal),
        box(wide * 1.3, 0.12, 0.07).move(0, top * 0.5, -0.1).paint(wood),
        box(wide * 0.8, 0.12, 0.07).move(0, low * 0.5, -0.1).paint(wood),
        *(strap.move(0, y, -0.1).paint(contrast(wood, INK, GLOW)) for y in (top * 0.28, low * 0.22)),
    ]
    for x, y in outline[::2] * 0.86:
        parts.append(ellipsoid(0.055, 0.055, 0.05, 6, 10).move(x, y, 0.11).paint(contrast(p.main, GLOW, GREY)))
    return parts


BUILDERS: dict[str, Builder] = {
    "camera": camera,
    "backpack": backpack,
    "crown": crown,
    "boot": boot,
    "sword": sword,
    "shield": shield,
}
