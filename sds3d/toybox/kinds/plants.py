"""How plants are built: cactus, flower and pumpkin."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sds3d.toybox.paint import GLOW, INK, WHITE, Paint, apart, contrast, shade
from sds3d.toybox.parts import Builder, bent, mirrored
from sds3d.toybox.shapes import Array, Shape, cylinder, ellipsoid, lathe, prism, tube
from sds3d.toybox.world import COLORS

SOIL, CREAM = (0.30, 0.19, 0.12), (0.98, 0.94, 0.82)


def _ribbed(shape: Shape, ribs: int, depth: float, dark: float) -> Shape:
    """Press upright grooves into a painted shape around the Y axis; a rib faces +Z.

    depth: of a groove, relative to the radius. dark: factor of the colour in a groove.
    """
    x, y, z = shape.vertices.T
    nx, ny, nz = shape.normals.T
    angle = np.arctan2(x, z)
    factor = 1 - depth / 2 + depth / 2 * np.cos(ribs * angle)
    slope = -depth / 2 * ribs * np.sin(ribs * angle) / factor
    out, side = nx * np.sin(angle) + nz * np.cos(angle), nx * np.cos(angle) - nz * np.sin(angle)
    side = side - out * slope
    normals = np.stack(
        [out * np.sin(angle) + side * np.cos(angle), ny * factor, out * np.cos(angle) - side * np.sin(angle)], axis=1
    )
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    blend = dark + (1 - dark) * (0.5 + 0.5 * np.cos(ribs * angle))
    return replace(
        shape,
        vertices=np.stack([x * factor, y, z * factor], axis=1),
        normals=normals,
        colors=shape.colors * blend[:, None],
    )


def cactus(p: Paint) -> list[Shape]:
    """Build a tall cactus with arms or a round one, in a pot in the accent colour."""
    round_one = p.rng.random() < 0.5
    pot_color, spine = apart(p.accent, p.main), contrast(p.main, CREAM, INK)
    bloom, pot = contrast(p.main, COLORS["pink"], COLORS["yellow"]), p.u(0.32, 0.36)
    parts = [
        cylinder(pot * 0.74, 0.36, pot, segments=22).paint(pot_color),
        cylinder(pot + 0.07, 0.14, rounding=0.03, segments=22).move(0, 0.32).paint(pot_color),
        cylinder(pot * 0.94, 0.06, segments=20).move(0, 0.42).paint(SOIL),
    ]
    thorn = cylinder(0.05, 0.13, 0.0, segments=5).rotate("x", 90).paint(spine)
    if round_one:
        radius, tall = p.u(0.44, 0.48), p.u(0.4, 0.46)
        polar = np.deg2rad(np.linspace(-90, 90, 13))
        ball = [(max(radius * np.cos(a), 0.0) if abs(a) < 1.57 else 0.0, tall * np.sin(a)) for a in polar]
        parts.append(_ribbed(lathe(ball, 48).paint(p.main), 8, 0.13, 0.72).move(0, 0.42 + tall * 0.86))
        top = 0.42 + tall * 1.86
        for i in range(8):
            for lean in (38, 66, 94):
                a = np.deg2rad(lean)
                at = thorn.rotate("x", lean - 90).move(0, tall * np.cos(a), radius * np.sin(a) - 0.02)
                parts.append(at.rotate("y", 45 * i).move(0, 0.42 + tall * 0.86))
    else:
        radius, tall = p.u(0.23, 0.26), p.u(0.86, 0.98)
        trunk = [(0, 0), (radius, 0.0), (radius, tall * 0.84)]
        trunk += [(radius * np.cos(a), tall * 0.84 + radius * np.sin(a)) for a in np.deg2rad([20, 40, 60, 78])]
        column = lathe([*trunk, (0, tall * 0.84 + radius)], 48)
        parts.append(_ribbed(column.paint(p.main), 8, 0.14, 0.74).move(0, 0.44))
        top = 0.42 + tall * 0.84 + radius
        for side, low, high in ((-1, p.u(0.3, 0.38), p.u(0.36, 0.44)), (1, p.u(0.46, 0.52), p.u(0.28, 0.34))):
            x = radius + 0.22
            elbow = [(0.06, 0), (x * 0.7, 0), (x * 0.92, 0.04), (x, 0.14), (x, high)]
            arm = tube(elbow, 0.125, 12).rotate("y", 0 if side > 0 else 180)
            parts.append(arm.move(0, 0.42 + low * tall).paint(p.main))
            end = ellipsoid(0.127, 0.13, 0.127, 8, 12).rotate("y", 15)
            parts.append(end.move(side * x, 0.42 + low * tall + high).paint(p.main))
            for turn in (0, 90 * side, 180):
                out = thorn.move(0, 0, 0.1).rotate("y", turn)
                parts += [out.move(side * x, 0.42 + low * tall + high * up) for up in (0.55, 1.0)]
        for i in range(8):
            for k in range(3):
                y = 0.56 + tall * (0.25 * k + 0.12 * (i % 2))
                parts.append(thorn.move(0, y, radius - 0.02).rotate("y", 45 * i))
    parts.append(ellipsoid(0.1, 0.08, 0.1, 6, 10).move(0, top + 0.03).paint(contrast(bloom, GLOW, WHITE)))
    for i in range(6):
        petal = ellipsoid(0.1, 0.055, 0.15, 6, 10).rotate("x", -30).move(0, 0, 0.15).rotate("y", 60 * i)
        parts.append(petal.move(0, top + 0.01).paint(bloom))
    return parts


def flower(p: Paint) -> list[Shape]:
    """Build a flower with broad petals, or with two rings of slim ones, with leaves in the accent colour."""
    double = p.rng.random() < 0.5
    tall, lean, leaves = p.u(0.8, 0.92), p.u(-26, -14), apart(p.accent, p.main)
    heart = contrast(p.main, COLORS["yellow"], COLORS["brown"])
    bloom = []
    if double:
        core, size = 0.25, p.u(0.1, 0.12)
        for ring, (count, far, at, color) in enumerate(
            ((12, 0.43, -0.03, shade(p.main, 0.76)), (12, 0.35, 0.03, p.main))
        ):
            for i in range(count):
                petal = ellipsoid(size, 0.23, 0.05, 6, 12).rotate("x", 12).move(0, far, at)
                bloom.append(petal.rotate("z", 360 * (i + 0.5 * ring) / count).paint(color))
    else:
        core, size = 0.22, p.u(0.2, 0.22)
        for i in range(6):
            petal = ellipsoid(size, 0.27, 0.07, 8, 14).rotate("x", 14).move(0, 0.4, 0.02 * (i % 2))
            bloom.append(petal.rotate("z", 60 * i).paint(p.main if i % 2 else shade(p.main, 0.86)))
    bloom.append(ellipsoid(core, core, 0.13, 8, 18).move(0, 0, 0.05).paint(heart))
    for i in range(7):
        dot = ellipsoid(0.05, 0.05, 0.04, 6, 8).move(0, 0.0 if i == 6 else core * 0.58, 0.19 if i == 6 else 0.155)
        bloom.append(dot.rotate("z", 60 * i).paint(shade(heart, 0.66)))
    bloom.append(cylinder(0.06, 0.2, 0.24, segments=12).rotate("x", 90).move(0, 0, -0.24).paint(leaves))
    for i in range(5):
        sepal = ellipsoid(0.1, 0.2, 0.045, 6, 10).rotate("x", 8).move(0, 0.24, -0.1).rotate("z", 72 * i + 36)
        bloom.append(sepal.paint(leaves))
    bend = tube([(0, 0), (0.05, tall * 0.4), (0.03, tall * 0.75), (-0.08, tall)], 0.065, 10)
    parts = [
        bend.rotate("y", 90).paint(leaves),
        ellipsoid(0.36, 0.14, 0.36, 8, 18).paint(SOIL),
        *(s.rotate("x", lean).move(0, tall + 0.12, 0.22) for s in bloom),
    ]
    for side, y in ((-1, 0.2), (1, 0.36)):
        leaf = ellipsoid(0.36, 0.065, 0.18, 8, 14).move(0.34).rotate("z", 32)
        vein = ellipsoid(0.28, 0.03, 0.035, 6, 8).move(0.34, 0.05).rotate("z", 32)
        for piece, color in ((leaf, leaves), (vein, shade(leaves, 0.7))):
            parts.append(piece.rotate("y", 0 if side > 0 else 180).move(0, y * tall, -0.04).paint(color))
    return parts


def _on_body(shape: Shape, radius: float, tall: float) -> Shape:
    """Lay a plate of the plane z = 0 on the front of an ellipsoid with these radii."""
    x, y, z = shape.vertices.T
    out = radius * np.sqrt(1 - (y / tall) ** 2) + z
    angle = x / radius
    return bent(shape, np.stack([out * np.sin(angle), y, out * np.cos(angle)], axis=1))


def _plate(outline: list[tuple[float, float]], x: float, y: float) -> Shape:
    """Build a plate of an outline, with more points along its edges, so that it can be bent."""
    points = np.array(outline)
    steps = np.linspace(0, 1, 3, endpoint=False)[:, None]
    dense: Array = np.concatenate(
        [a + steps * (b - a) for a, b in zip(points, np.roll(points, -1, axis=0), strict=True)]
    )
    return prism(dense, 0.12).move(x, y, -0.03)


def pumpkin(p: Paint) -> list[Shape]:
    """Build a pumpkin with a carved face, pointed or round, and a stem in the accent colour."""
    friendly = p.rng.random() < 0.5
    radius, tall = (p.u(0.5, 0.54), p.u(0.46, 0.5)) if friendly else (p.u(0.54, 0.58), p.u(0.4, 0.44))
    dark, stem_color = contrast(p.main, (0.16, 0.09, 0.03), GLOW), apart(p.accent, p.main)
    polar = np.deg2rad(np.linspace(-90, 90, 15))
    round_body = [(radius * np.cos(a), tall * np.sin(a)) for a in polar[1:-1]]
    body = lathe([(0, -tall * 0.94), *round_body, (0, tall * 0.94)], 60).paint(p.main)
    parts = [_ribbed(body, 10, 0.1, 0.66)]
    stem = tube([(0, 0), (0, 0.14), (0.05, 0.26), (0.16, 0.34)], [0.15, 0.115, 0.1, 0.11], 8).rotate("y", p.u(0, 360))
    parts.append(stem.move(0, tall * 0.88).paint(stem_color))
    turn = p.u(110, 160)
    leaf = ellipsoid(0.26, 0.045, 0.19, 6, 12).move(0.3).rotate("z", -8).rotate("y", turn)
    curl = tube([(0, 0), (0.16, 0.1), (0.3, 0.06), (0.38, -0.06)], 0.035, 8).rotate("y", turn + 75)
    parts += [s.move(0, tall * 0.96).paint(stem_color) for s in (leaf, curl)]
    if friendly:
        ring = np.deg2rad(np.arange(0, 360, 36))
        sight = [(0.1 * np.cos(a), 0.13 * np.sin(a)) for a in ring]
        mouth = [(-0.3, 0.05), (-0.22, -0.06), (-0.1, -0.13), (0.1, -0.13), (0.22, -0.06), (0.3, 0.05)]
        nose = [(0.055 * np.cos(a), 0.045 * np.sin(a)) for a in ring]
    else:
        sight = [(-0.13, -0.08), (0.12, -0.08), (0.04, 0.13)]
        mouth = [(-0.34, 0.05), (-0.2, -0.09), (-0.06, -0.14), (0.06, -0.14), (0.2, -0.09), (0.34, 0.05)]
        nose = [(-0.075, -0.05), (0.075, -0.05), (0, 0.08)]
    lips = [(0.17, 0.045), (0.0, 0.03), (-0.17, 0.045)]
    face = [_plate([*mouth, *lips], 0, -0.15), _plate(nose, 0, 0.02), *mirrored([_plate(sight, 0.22, 0.16)])]
    parts += [_on_body(s, radius, tall).paint(dark) for s in face]
    if not friendly:
        tooth = [(-0.045, -0.05), (0.045, -0.05), (0.045, 0.05), (-0.045, 0.05)]
        teeth = [_plate(tooth, 0, -0.255), *mirrored([_plate(tooth, 0.13, -0.155)])]
        parts += [_on_body(s.move(0, 0, 0.015), radius, tall).paint(p.main) for s in teeth]
    return parts


BUILDERS: dict[str, Builder] = {"cactus": cactus, "flower": flower, "pumpkin": pumpkin}
