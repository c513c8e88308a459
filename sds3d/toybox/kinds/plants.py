"""Plants."""

from __future__ import annotations

from sds3d.toybox.paint import GLOW, INK, WHITE, Paint, contrast, shade
from sds3d.toybox.parts import Builder, mirrored
from sds3d.toybox.shapes import Shape, cylinder, ellipsoid, prism, tube
from sds3d.toybox.world import COLORS

CREAM = (0.98, 0.94, 0.82)
SOIL = (0.30, 0.19, 0.12)


def cactus(p: Paint) -> list[Shape]:
    """Build a cactus with a pot in the accent colour."""
    radius, tall, pot = p.u(0.22, 0.26), p.u(0.85, 1.0), p.u(0.3, 0.35)
    rim, spine = pot + 0.07, contrast(p.main, CREAM, INK)
    bloom = contrast(p.main, COLORS["pink"], COLORS["yellow"])
    parts = [
        cylinder(pot * 0.74, 0.36, pot, segments=22).paint(p.accent),
        cylinder(rim, 0.13, rounding=0.03, segments=22).move(0, 0.32).paint(p.accent),
        cylinder(pot * 0.94, 0.06, segments=20).move(0, 0.41).paint(SOIL),
        cylinder(radius, tall * 0.86, rounding=0.06, segments=18).move(0, 0.42).paint(p.main),
        ellipsoid(radius, radius * 0.9, radius, 8, 18).move(0, 0.42 + tall * 0.84).paint(p.main),
        ellipsoid(0.09, 0.06, 0.09, 6, 10)
        .move(0, 0.42 + tall * 0.84 + radius * 0.92)
        .paint(contrast(bloom, GLOW, WHITE)),
    ]
    for i in range(5):
        petal = ellipsoid(0.085, 0.05, 0.13, 6, 10).rotate("x", -30).move(0, 0, 0.12).rotate("y", 72 * i)
        parts.append(petal.move(0, 0.42 + tall * 0.84 + radius * 0.86).paint(bloom))
    for side, low, high in ((-1, p.u(0.3, 0.4), p.u(0.34, 0.44)), (1, p.u(0.46, 0.54), p.u(0.26, 0.34))):
        x = radius + 0.2
        elbow = [(0.06, 0), (x * 0.7, 0), (x * 0.92, 0.04), (x, 0.14), (x, high)]
        arm = tube(elbow, 0.115, 12).rotate("y", 0 if side > 0 else 180)
        parts.append(arm.move(0, 0.42 + low * tall).paint(p.main))
        parts.append(ellipsoid(0.12, 0.13, 0.12, 8, 12).move(side * x, 0.42 + low * tall + high).paint(p.main))
    thorn = cylinder(0.035, 0.11, 0.0, segments=5).rotate("x", 90).paint(spine)
    for i in range(8):
        for k in range(4):
            y = 0.52 + tall * (0.2 * k + 0.1 * (i % 2))
            parts.append(thorn.move(0, y, radius - 0.03).rotate("y", 45 * i + 22))
    return parts


def flower(p: Paint) -> list[Shape]:
    """Build a flower with leaves in the accent colour."""
    size, tall, count = p.u(0.17, 0.21), p.u(0.8, 0.95), int(p.rng.integers(7, 10))
    heart = contrast(p.main, COLORS["yellow"], COLORS["brown"])
    bend = tube([(0, 0), (0.05, tall * 0.4), (0.03, tall * 0.75), (-0.08, tall)], 0.055, 10)
    lean, bloom = p.u(-28, -14), []
    for i in range(count):
        petal = ellipsoid(size, size * 1.5, 0.055, 8, 12).rotate("x", 14).move(0, size * 2.1, 0.0)
        bloom.append(petal.rotate("z", 360 * i / count).paint(p.main if i % 2 or count % 2 else shade(p.main, 0.88)))
    bloom.append(ellipsoid(size * 1.25, size * 1.25, 0.13, 8, 18).move(0, 0, 0.03).paint(heart))
    for i in range(6):
        dot = ellipsoid(0.045, 0.045, 0.04, 6, 8).move(0, size * 0.7, 0.13).rotate("z", 60 * i)
        bloom.append(dot.paint(shade(heart, 0.72)))
    bloom.append(cylinder(0.06, 0.16, size * 1.1, segments=12).rotate("x", 90).move(0, 0, -0.2).paint(p.accent))
    parts = [
        bend.rotate("y", 90).paint(p.accent),
        ellipsoid(0.34, 0.13, 0.34, 8, 18).paint(SOIL),
        *(s.rotate("x", lean).move(0, tall + size * 0.5, 0.2) for s in bloom),
    ]
    for side, y in ((-1, 0.22), (1, 0.38)):
        leaf = ellipsoid(0.34, 0.06, 0.16, 8, 14).move(0.32).rotate("z", 32).rotate("y", 0 if side > 0 else 180)
        parts.append(leaf.move(0, y * tall, -0.04).paint(p.accent))
    return parts


def pumpkin(p: Paint) -> list[Shape]:
    """Build a pumpkin with a stem in the accent colour."""
    radius, tall, count = p.u(0.5, 0.56), p.u(0.38, 0.44), 10
    dark = contrast(p.main, (0.16, 0.09, 0.03), GLOW)
    parts = []
    for i in range(count):
        lobe = ellipsoid(0.22, tall, 0.3, 10, 12).move(0, 0, radius - 0.29)
        parts.append(lobe.rotate("y", 360 * i / count).paint(p.main if i % 2 else shade(p.main, 0.9)))
    stem = tube([(0, 0), (0, 0.14), (0.05, 0.26), (0.16, 0.34)], [0.13, 0.1, 0.09, 0.1], 8).rotate("y", p.u(0, 360))
    leaf = ellipsoid(0.2, 0.035, 0.16, 6, 12).move(0.26).rotate("z", 10).rotate("y", p.u(20, 60))
    parts += [stem.move(0, tall * 0.84).paint(p.accent), leaf.move(0, tall * 0.94).paint(p.accent)]
    mouth = [
        (-0.3, 0.06),
        (-0.2, -0.09),
        (-0.06, -0.14),
        (0.06, -0.14),
        (0.2, -0.09),
        (0.3, 0.06),
        (0.14, 0.02),
        (0, 0.035),
        (-0.14, 0.02),
    ]
    nose = prism([(-0.07, -0.05), (0.07, -0.05), (0, 0.07)], 0.16)
    parts.append(prism(mouth, 0.16).wrap(radius - 0.06).move(0, -0.12).paint(dark))
    parts.append(nose.move(0, 0.02, radius - 0.04).paint(dark))
    sight = prism([(-0.11, -0.08), (0.11, -0.08), (0.02, 0.12)], 0.16).move(0.23).wrap(radius - 0.07)
    return parts + mirrored([sight.move(0, 0.13).paint(dark)])


BUILDERS: dict[str, Builder] = {
    "cactus": cactus,
    "flower": flower,
    "pumpkin": pumpkin,
}
