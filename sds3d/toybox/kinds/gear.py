"""Things of knights and walkers: crown, boot, sword and shield."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sds3d.toybox.paint import GLASS, GLOW, GREY, INK, PALE_WOOD, WHITE, WOOD, Paint, apart, contrast, shade
from sds3d.toybox.parts import Builder, mirrored
from sds3d.toybox.shapes import Array, Color, Shape, arc, box, cylinder, ellipsoid, lathe, prism, tube
from sds3d.toybox.world import COLORS


def crown(p: Paint) -> list[Shape]:
    """Build a crown of points, or one with arches over a cap, with jewels in the accent colour."""
    radius, band = p.u(0.5, 0.56), p.u(0.25, 0.31)
    wide = radius * 1.04
    ring = [(0, 0), (radius, 0), (wide, band), (wide - 0.09, band), (radius - 0.09, 0.07), (0, 0.07)]
    trim, gem = shade(p.main, 0.74), apart(p.accent, p.main)
    arches = p.rng.random() < 0.45
    lining = contrast(p.main, COLORS["red"], COLORS["purple"])
    parts = [
        lathe(ring, 28).paint(p.main),
        arc(radius + 0.015, 0.05, steps=28).rotate("x", 90).move(0, 0.04).paint(trim),
        arc(wide - 0.01, 0.05, steps=28).rotate("x", 90).move(0, band).paint(trim),
    ]
    for i in range(8):
        size = 0.085 if i else 0.14
        parts.append(
            ellipsoid(size, size * 1.1, 0.08, 8, 12).move(0, band * 0.52, wide - 0.01).rotate("y", 45 * i).paint(gem)
        )
    if arches:
        return parts + _arches(p, wide, band, gem, lining)
    parts.append(cylinder(radius - 0.05, 0.06, segments=24).move(0, 0.05).paint(lining))
    point = p.u(0.32, 0.4)
    for i in range(8):
        tall = point * (1.0 if i else 1.45)
        spike = prism([(-0.2, 0), (0.2, 0), (0.04, tall), (-0.04, tall)], 0.09).rotate("x", 8)
        pearl = ellipsoid(0.085 if i else 0.12, rings=8, segments=12).move(
            0, band + tall + 0.02, wide + tall * 0.14 - 0.05
        )
        pieces = [spike.move(0, band - 0.04, wide - 0.05).paint(p.main), pearl.paint(gem)]
        parts += [s.rotate("y", 45 * i) for s in pieces]
    return parts


def _arches(p: Paint, wide: float, band: float, gem: Color, lining: Color) -> list[Shape]:
    """Build a cap, two arches with an orb where they cross, and four leaves between their feet."""
    rise, inner = p.u(0.46, 0.56), wide - 0.1
    cap = lathe([(0, 0.08), (inner, 0.08), (inner, band), (inner * 0.86, band + rise * 0.5),
                 (inner * 0.45, band + rise * 0.72), (0, band + rise * 0.76)], 20)  # fmt: skip
    turn = np.deg2rad(np.linspace(0, 180, 15))
    path = np.stack([(wide - 0.04) * np.cos(turn), band + rise * np.sin(turn) ** 0.8], axis=1)
    parts = [cap.paint(lining), ellipsoid(0.13).move(0, band + rise + 0.1).paint(gem)]
    parts += [box(0.09, 0.3, 0.09).move(0, band + rise + 0.33).paint(p.main)]
    parts += [box(0.24, 0.09, 0.08).move(0, band + rise + 0.35).paint(p.main)]
    for turned in (45, -45):
        parts.append(tube(path, 0.07, 8).rotate("y", turned).paint(p.main))
        for k in (3, 5, 9, 11):
            x, y = 1.04 * path[k]
            parts.append(ellipsoid(0.075, rings=6, segments=10).move(x, y).rotate("y", turned).paint(gem))
    leaf = [(-0.06, 0), (0.06, 0), (0.16, 0.16), (0.1, 0.24), (0, 0.36), (-0.1, 0.24), (-0.16, 0.16)]
    for i in range(4):
        size = 1.0 if i else 1.3
        fleur = prism(np.array(leaf) * size, 0.09, 0.02).move(0, band - 0.03, wide - 0.04)
        parts.append(fleur.rotate("y", 90 * i).paint(p.main))
        if i == 0:
            parts.append(ellipsoid(0.08, 0.08, 0.06, 6, 10).move(0, band + 0.22, wide + 0.01).paint(gem))
    return parts


def boot(p: Paint) -> list[Shape]:
    """Build a laced ankle boot or a tall one with a buckle, hollow, with a sole in the accent colour."""
    laced = p.rng.random() < 0.5
    wide, long = p.u(0.25, 0.29), p.u(0.52, 0.6)
    tall = p.u(0.82, 0.94) if laced else p.u(1.0, 1.16)
    heel, top, wall = -0.2, wide * 1.14, 0.07
    trim, sole = contrast(p.main, (0.93, 0.82, 0.62), GREY), apart(p.accent, p.main)
    edge = [(wide * 0.55, -0.6), (wide * 1.05, -0.42), (wide * 1.16, -0.1), (wide * 1.1, 0.3), (wide * 0.66, 0.46)]
    edge = [(x, y * long / 0.58) for x, y in edge]
    edge = [*edge, *((-x, y) for x, y in edge[::-1])]
    shaft = [(0, 0.2), (wide, 0.2), (wide, tall * 0.6), (top, tall), (top - wall, tall), (wide - wall, tall * 0.6)]
    leg = lathe([*shaft, (wide - wall, 0.4), (0, 0.4)], 22).scale(1, 1, 1.15).paint(p.main)
    (x, y, z), (nx, ny, nz) = leg.vertices.T, leg.normals.T
    inside = (x * nx + z * nz < -1e-6) | ((ny > 0.9) & (y < 0.5))
    dark = (0.22, 0.17, 0.15) if max(p.main) > 0.3 else (0.42, 0.38, 0.36)
    leg = replace(leg, colors=np.where(inside[:, None], dark, leg.colors))
    toe = 0.12 + long * 0.78
    parts = [
        leg.move(0, 0, heel),
        ellipsoid(wide * 1.04, 0.31, long * 0.78, 10, 18).move(0, 0.24, 0.12).paint(p.main),
        ellipsoid(wide * 1.03, 0.26, 0.3).move(0, 0.28, heel - 0.06).paint(shade(p.main, 0.8)),
        prism(edge, 0.15, 0.02).rotate("x", -90).move(0, 0.11).paint(sole),
        box(wide * 1.8, 0.16, 0.34, 0.03).move(0, -0.01, heel - 0.06).paint(sole),
        box(wide * 1.8, 0.1, 0.44, 0.03).move(0, 0.02, 0.26).paint(sole),
        arc(top - wall / 2, 0.07, steps=22).rotate("x", 90).scale(1, 1, 1.15).move(0, tall, heel).paint(trim),
        box(0.1, tall * 0.58, 0.07, 0.02).move(0, tall * 0.62, heel - wide * 1.2).paint(trim),
    ]
    if laced:
        lace = contrast(p.main, WHITE, INK)
        parts.append(ellipsoid(wide * 0.96, 0.24, 0.28, 8, 16).move(0, 0.24, toe - 0.25).paint(shade(p.main, 0.8)))
        tongue = box(wide * 0.95, tall * 0.62, 0.09, 0.04).rotate("x", 5)
        parts.append(tongue.move(0, tall * 0.82, heel + wide * 1.17).paint(shade(p.main, 0.72)))
        for k in range(3):
            y, z = 0.5 + 0.15 * k * tall / 0.8, heel + wide * (1.28 + 0.05 * k)
            parts.append(box(wide * 1.1, 0.07, 0.1, 0.02).move(0, y, z).paint(lace))
        bow = ellipsoid(0.13, 0.06, 0.06, 6, 10).rotate("z", 24).move(0.12, tall * 0.99, heel + wide * 1.45)
        return parts + mirrored([bow.paint(lace)])
    strap = shade(p.main, 0.62)
    metal = contrast(strap, GLOW, WHITE)
    belt = cylinder(wide + 0.035, 0.14, segments=22).scale(1, 1, 1.15)
    parts += [
        belt.move(0, 0.52, heel).paint(strap),
        box(0.2, 0.2, 0.07, 0.03).move(0, 0.59, heel + wide * 1.15 + 0.05).paint(metal),
        box(0.09, 0.09, 0.07).move(0, 0.59, heel + wide * 1.15 + 0.07).paint(strap),
    ]
    loop = arc(0.12, 0.045, 0, 180, 10).scale(1, 1.1, 1).rotate("y", 90).move(top + 0.02, tall - 0.02, heel)
    return parts + mirrored([loop.paint(trim)])


def sword(p: Paint) -> list[Shape]:
    """Build a straight sword or a curved sabre with a hilt in the accent colour."""
    straight, grip, hilt = p.rng.random() < 0.6, p.u(0.32, 0.38), apart(p.accent, p.main)
    leather, gem = contrast(hilt, INK, WOOD), contrast(hilt, COLORS["red"], GLASS)
    parts = [
        cylinder(0.1, grip + 0.08, segments=14).move(0, -grip - 0.1).paint(leather),
        *(cylinder(0.115, 0.07, segments=14).move(0, -0.12 - grip * k).paint(hilt) for k in (0.25, 0.6)),
    ]
    if straight:
        long, wide, guard = p.u(0.98, 1.12), p.u(0.18, 0.23), p.u(0.42, 0.5)
        point = long + p.u(0.2, 0.28)
        edge = [(-wide, -0.05), (wide, -0.05), (wide * 0.92, long), (0, point), (-wide * 0.92, long)]
        fuller = [(-0.06, 0), (0.06, 0), (0.055, long * 0.84), (0, long * 0.92), (-0.055, long * 0.84)]
        end = ellipsoid(0.13, 0.13, 0.15, 8, 12).move(guard, 0.0)
        return [
            *parts,
            prism(edge, 0.22, 0.095).paint(p.main),
            prism(fuller, 0.245).paint(shade(p.main, 0.72)),
            box(2 * guard, 0.17, 0.26, 0.05).move(0, -0.04).paint(hilt),
            ellipsoid(0.17, 0.17, 0.16).move(0, -grip - 0.2).paint(hilt),
            ellipsoid(0.1, 0.1, 0.19, 8, 12).move(0, -0.04).paint(gem),
            ellipsoid(0.08, 0.08, 0.19, 8, 12).move(0, -grip - 0.2).paint(gem),
            *mirrored([end.paint(hilt)]),
        ]
    long, wide, bend = p.u(1.12, 1.26), p.u(0.17, 0.21), p.u(0.3, 0.4)
    t = np.linspace(0, 1, 15)
    path = np.stack([bend * (t**2 - 0.35 * t), long * t - 0.06], axis=1)
    swell = wide * np.interp(t, [0, 0.6, 0.78, 0.92, 1], [0.8, 1, 1.06, 0.6, 0.12])
    spine = np.stack([path[:, 0] - 0.45 * swell, path[:, 1]], axis=1)
    bow = [(0.0, -grip - 0.16), (0.2, -grip - 0.12), (0.3, -grip * 0.75), (0.3, -0.14), (0.27, -0.02)]
    return [
        *parts,
        tube(path, swell, 10).scale(1, 1, 0.6).paint(p.main),
        tube(spine[:12], 0.32 * swell[:12], 8).scale(1, 1, 2.1).paint(shade(p.main, 0.72)),
        box(0.66, 0.15, 0.3, 0.05).move(0.02, -0.05).paint(hilt),
        tube(bow, 0.06, 8).paint(hilt),
        ellipsoid(0.13, 0.13, 0.16, 8, 12).move(-0.3, -0.01).paint(hilt),
        ellipsoid(0.15, 0.15, 0.15).move(0, -grip - 0.16).paint(hilt),
        ellipsoid(0.09, 0.09, 0.2, 8, 12).move(0, -0.05).paint(gem),
    ]


def shield(p: Paint) -> list[Shape]:
    """Build a heater shield or a round one with a cross in the accent colour, and straps on its back."""
    return _heater(p) if p.rng.random() < 0.6 else _round_shield(p)


def _straps(p: Paint, high: float, low: float, reach: float, z: float) -> list[Shape]:
    """Build a bar of wood down the back with two loops for the arm."""
    wood, leather = contrast(p.main, WOOD, PALE_WOOD), contrast(p.main, INK, (0.93, 0.82, 0.62))
    loop = arc(0.2, 0.055, -90, 90, 10).scale(0.9, 1.2, 1.5).rotate("y", 90)
    parts = [
        box(reach, 0.15, 0.1, 0.03).move(0, high, z).paint(wood),
        box(reach * 0.7, 0.15, 0.1, 0.03).move(0, low, z).paint(wood),
        box(0.15, high - low, 0.09).move(0, (high + low) / 2, z + 0.01).paint(wood),
    ]
    strap = loop.move(reach * 0.27, (high + low) / 2, z + 0.02).paint(leather)
    return parts + mirrored([strap])


def _heater(p: Paint) -> list[Shape]:
    wide, tall, bar = p.u(0.52, 0.58), p.u(1.15, 1.3), p.u(0.17, 0.21)
    edge = [(0, -0.62), (0.4, -0.4), (0.72, -0.08), (0.92, 0.2), (1, 0.5), (0.98, 0.9), (0.5, 0.93), (0, 1)]
    right = [(x * wide, (y - 0.2) * tall * 0.62) for x, y in edge]
    outline = np.array(right + [(-x, y) for x, y in right[-2:0:-1]])
    metal, cross = contrast(p.main, GREY, WHITE), apart(p.accent, p.main)
    top, low = outline[:, 1].max(), outline[:, 1].min()
    parts = [
        prism(outline * 1.06, 0.16, 0.03).paint(metal),
        prism(outline * 0.93, 0.12, 0.02).move(0, 0, 0.06).paint(p.main),
        prism(outline * 0.9, 0.06).move(0, 0, -0.07).paint(p.main),
        box(bar, (top - low) * 0.74, 0.1).move(0, low * 0.1, 0.12).paint(cross),
        box(wide * 1.66, bar, 0.11).move(0, top * 0.36, 0.12).paint(cross),
        ellipsoid(0.17, 0.17, 0.13).move(0, top * 0.36, 0.16).paint(contrast(cross, metal, GLOW)),
        *_straps(p, top * 0.56, low * 0.5, wide * 1.3, -0.12),
    ]
    for x, y in outline[::2] * 0.99:
        parts.append(ellipsoid(0.065, 0.065, 0.06, 6, 10).move(x, y, 0.08).paint(contrast(metal, GLOW, INK)))
    return parts


def _round_shield(p: Paint) -> list[Shape]:
    radius, dome, bar = p.u(0.58, 0.66), p.u(0.2, 0.26), p.u(0.17, 0.21)
    metal, cross = contrast(p.main, GREY, WHITE), apart(p.accent, p.main)

    def bend(r: Array, down: float) -> Array:
        """Return points on the dome, (N, 2): radius, and height lowered by `down`."""
        return np.stack([r, dome * (1 - (r / radius) ** 2) - down], axis=1)

    inner, outer = np.linspace(0, 0.88 * radius, 6), np.linspace(radius, 0, 7)
    body = lathe(np.concatenate([bend(inner, 0.08), bend(outer, 0.0)]), 28).rotate("x", 90).paint(p.main)
    along = np.linspace(-0.92, 0.92, 11) * radius
    strip = tube(bend(along, 0.005), 0.05, 8).scale(1, 1, bar / 0.1).rotate("x", 90)
    parts = [
        body,
        arc(radius - 0.01, 0.06, steps=28).paint(metal),
        strip.paint(cross),
        strip.rotate("z", 90).paint(cross),
        ellipsoid(0.18, 0.18, 0.09, 8, 16).move(0, 0, dome + 0.02).paint(contrast(cross, metal, GLOW)),
        *_straps(p, radius * 0.44, -radius * 0.44, radius * 1.0, -0.02),
    ]
    for i in range(8):
        stud = ellipsoid(0.06, 0.06, 0.06, 6, 10).move(0, radius - 0.01, 0.06).rotate("z", 45 * i + 22.5)
        parts.append(stud.paint(contrast(metal, GLOW, INK)))
    return parts


BUILDERS: dict[str, Builder] = {"crown": crown, "boot": boot, "sword": sword, "shield": shield}
