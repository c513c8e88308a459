"""How animals of the house and the farm are built: dog, rabbit, bear, pig and elephant."""

from __future__ import annotations

from sds3d.toybox.paint import GLOW, GREY, INK, WHITE, Paint, apart, contrast, shade
from sds3d.toybox.parts import Builder, corners, eye, mirrored
from sds3d.toybox.shapes import Shape, arc, box, cap, cylinder, ellipsoid, lathe, tube
from sds3d.toybox.world import COLORS

PALE = (0.72, 0.72, 0.74)


def dog(p: Paint) -> list[Shape]:
    """Build a dog that sits or stands, with hanging ears in the accent colour."""
    sits = p.rng.random() < 0.5
    wide, long, leg, head = p.u(0.29, 0.34), p.u(0.48, 0.56), p.u(0.32, 0.38), p.u(0.35, 0.39)
    light, patch = contrast(p.main, WHITE, PALE), shade(p.main, 0.7)
    leg_shape = cylinder(0.12, leg + 0.1, rounding=0.05, segments=12).paint(p.main)
    paw = ellipsoid(0.145, 0.1, 0.19, 6, 12).move(0, 0.085, 0.05).paint(light)
    if sits:
        top, z, tail_at = 1.16, 0.2, (0.1, -0.4)
        parts = [
            ellipsoid(wide * 1.15, 0.52, wide * 1.05, 10, 18).rotate("x", 20).move(0, 0.5, -0.12).paint(p.main),
            ellipsoid(wide * 0.68, 0.36, 0.12).rotate("x", -8).move(0, 0.6, wide * 0.72 + 0.02).paint(light),
            cap(1.04, 42, 16)
            .rotate("x", -80)
            .scale(wide * 1.15, 0.52, wide * 1.05)
            .rotate("x", 20)
            .move(0, 0.5, -0.12)
            .paint(patch),
        ]
        limb = cylinder(0.11, 0.58, rounding=0.05, segments=12).rotate("x", -6).move(0.16, 0, 0.3).paint(p.main)
        thigh = ellipsoid(0.17, 0.25, 0.29).move(wide * 0.98, 0.26, -0.12).paint(p.main)
        pieces = [limb, paw.move(0.16, 0, 0.33), thigh, paw.rotate("y", 18).move(wide * 1.05, 0, 0.12)]
    else:
        y, z = leg + wide * 0.75, long * 0.86
        top, tail_at = y + p.u(0.4, 0.48), (y + wide * 0.4, -long * 0.88)
        parts = [
            ellipsoid(wide, wide, long, 10, 18).move(0, y).paint(p.main),
            cap(1.04, 48, 18).scale(wide, wide, long * 0.8).move(0, y, -long * 0.14).paint(patch),
            ellipsoid(wide * 0.7, 0.36, wide * 0.7).rotate("x", 28).move(0, y + 0.2, z * 0.8).paint(p.main),
        ]
        parts += corners(leg_shape, wide * 0.6, long * 0.58) + corners(paw, wide * 0.6, long * 0.58)
        pieces = []
    bend = [(0, 0), (0.16, 0.08), (0.25, 0.24), (0.26, 0.46)]
    parts += [
        tube(bend, [0.1, 0.095, 0.09, 0.08]).rotate("y", 90).move(0, *tail_at).paint(p.main),
        ellipsoid(0.11, 0.15, 0.11, 8, 12).move(0, tail_at[0] + 0.48, tail_at[1] - 0.26).paint(light),
        ellipsoid(head, head * 0.95, head * 0.92, 10, 18).move(0, top, z).paint(p.main),
        ellipsoid(head * 0.56, head * 0.42, head * 0.6).move(0, top - head * 0.3, z + head * 0.78).paint(light),
        ellipsoid(0.12, 0.09, 0.08, 6, 12).move(0, top - head * 0.1, z + head * 1.3).paint(INK),
        ellipsoid(0.09, 0.16, 0.06, 6, 12).move(0, top - head * 0.7, z + head * 1.1).paint(COLORS["red"]),
    ]
    ear = ellipsoid(0.1, p.u(0.3, 0.36), 0.2).rotate("z", 14).move(head * 0.98, top - 0.04, z - 0.06)
    sight = [s.rotate("y", 20).move(head * 0.4, top + head * 0.24, z + head * 0.8) for s in eye(0.115)]
    return parts + mirrored([*pieces, ear.paint(apart(p.accent, p.main)), *sight])


def rabbit(p: Paint) -> list[Shape]:
    """Build a rabbit that sits upright or crouches, with a scarf in the accent colour."""
    crouches = p.rng.random() < 0.5
    wide, head, ear, lean = p.u(0.36, 0.41), p.u(0.36, 0.4), p.u(0.38, 0.44), p.u(8, 16)
    light, inner = contrast(p.main, WHITE, PALE), contrast(p.main, COLORS["pink"], WHITE)
    scarf = apart(p.accent, p.main)
    paw = ellipsoid(0.15, 0.1, 0.24).paint(light)
    if crouches:
        y, z = 0.86, 0.4
        parts = [
            ellipsoid(wide * 1.05, wide, 0.62, 10, 18).rotate("x", -8).move(0, wide * 1.02, -0.12).paint(p.main),
            ellipsoid(0.21, 0.2, 0.2, 8, 12).move(0, 0.46, -0.78).paint(light),
            arc(wide * 0.72, 0.11, steps=18).rotate("x", 62).move(0, y - head * 0.72, z - 0.08).paint(scarf),
            box(0.18, 0.36, 0.09, 0.03).rotate("z", 10).move(0.15, y - head * 1.45, z + 0.3).paint(scarf),
        ]
        thigh = ellipsoid(0.2, 0.29, 0.32).move(wide * 0.86, 0.32, -0.3).paint(shade(p.main, 0.88))
        pieces = [thigh, paw.move(wide * 0.95, 0.09, -0.1), paw.move(0.19, 0.09, 0.48)]
    else:
        tall = p.u(0.46, 0.52)
        y, z = tall * 1.75 + head * 0.5, 0.06
        parts = [
            ellipsoid(wide, tall, wide * 0.95, 10, 18).move(0, tall * 0.95).paint(p.main),
            ellipsoid(wide * 0.68, tall * 0.66, 0.14).move(0, tall * 0.85, wide * 0.84).paint(light),
            ellipsoid(0.21, 0.2, 0.2, 8, 12).move(0, 0.34, -wide * 1.02).paint(light),
            arc(wide * 0.68, 0.11, steps=18).rotate("x", 90).move(0, tall * 1.72, 0.02).paint(scarf),
            box(0.18, 0.42, 0.09, 0.03).rotate("z", 12).move(0.17, tall * 1.4, wide * 0.88).paint(scarf),
        ]
        arm = ellipsoid(0.1, 0.24, 0.12).rotate("x", -35).move(wide * 0.82, tall * 1.15, wide * 0.5)
        pieces = [paw.move(wide * 0.55, 0.1, wide * 0.75), arm.paint(shade(p.main, 0.88))]
    parts += [
        ellipsoid(head * 1.05, head * 0.95, head, 10, 18).move(0, y, z).paint(p.main),
        ellipsoid(0.2, 0.14, 0.11).move(0, y - 0.12, z + head * 0.9).paint(light),
        ellipsoid(0.08, 0.06, 0.06, 6, 10).move(0, y - 0.05, z + head * 1.06).paint(contrast(light, inner, INK)),
        box(0.14, 0.14, 0.06, 0.02).move(0, y - 0.27, z + head * 0.88).paint(contrast(light, WHITE, GLOW)),
    ]
    back = -26 if crouches else 0
    for shape, at, color in (
        (ellipsoid(0.14, ear, 0.085), 0.0, p.main),
        (ellipsoid(0.08, ear * 0.78, 0.05), 0.055, inner),
    ):
        raised = shape.move(0, ear * 0.9, at).rotate("x", back).rotate("z", -lean)
        pieces.append(raised.move(head * 0.4, y + head * 0.55, z - 0.06).paint(color))
    sight = [s.rotate("y", 22).move(head * 0.46, y + 0.08, z + head * 0.84) for s in eye(0.115)]
    return parts + mirrored([*pieces, *sight])


def bear(p: Paint) -> list[Shape]:
    """Build a teddy bear that sits or stands, with a shirt in the accent colour."""
    stands = p.rng.random() < 0.5
    wide, tall, head = p.u(0.4, 0.46), p.u(0.46, 0.52), p.u(0.4, 0.45)
    lift = 0.2 if stands else 0.0
    y = lift + tall * 1.72 + head * 0.6
    light, shirt = contrast(p.main, (0.93, 0.78, 0.55), PALE), apart(p.accent, p.main)
    cut = [
        (0, 0.14),
        (wide * 0.9, 0.16),
        (wide * 1.06, tall * 0.5),
        (wide * 1.1, tall * 0.9),
        (wide * 1.04, tall * 1.3),
    ]
    hem = [(wide * 1.02, 0.26), (wide * 1.1, 0.3), (wide * 1.12, 0.4), (wide * 1.04, 0.44)]
    button = ellipsoid(0.065, 0.065, 0.045, 6, 10).paint(contrast(shirt, WHITE, GLOW, INK))
    parts = [
        ellipsoid(wide, tall, wide * 0.92, 10, 18).move(0, lift + tall).paint(p.main),
        lathe([*cut, (wide * 0.9, tall * 1.56), (0, tall * 1.62)], 20)
        .scale(1, 1, 0.93)
        .move(0, lift).paint(shirt),
        lathe([(0, 0.27), *hem, (0, 0.43)], 20).scale(1, 1, 0.93).move(0, lift).paint(shade(shirt, 0.7)),
        button.move(0, lift + tall * 1.38, wide * 0.92),
        button.move(0, lift + tall * 1.06, wide * 0.99),
        ellipsoid(head * 1.08, head * 0.95, head * 0.92, 10, 18).move(0, y).paint(p.main),
        ellipsoid(0.23, 0.18, 0.17).move(0, y - head * 0.24, head * 0.8).paint(light),
        ellipsoid(0.105, 0.075, 0.06, 6, 12).move(0, y - head * 0.1, head * 0.8 + 0.15).paint(INK),
        ellipsoid(0.16, 0.15, 0.14, 8, 12).move(0, lift + 0.2, -wide * 0.98).paint(light),
    ]  # fmt: skip
    if stands:
        leg = cylinder(0.19, 0.46, 0.17, rounding=0.05, segments=14).move(wide * 0.5, 0).paint(p.main)
        foot = ellipsoid(0.2, 0.12, 0.26).move(wide * 0.52, 0.11, 0.1).paint(p.main)
        pieces = [leg, foot]
        arm = ellipsoid(0.14, 0.34, 0.15).rotate("x", -12).rotate("z", p.u(20, 34))
        parts_y = tall * 1.1
    else:
        leg = ellipsoid(0.18, 0.17, 0.36).rotate("y", 16).move(wide * 0.62, 0.17, wide * 0.75).paint(p.main)
        pad = ellipsoid(0.13, 0.13, 0.06, 6, 12).rotate("y", 16).move(wide * 0.62 + 0.09, 0.17, wide * 0.75 + 0.32)
        pieces = [leg, pad.paint(light)]
        arm = ellipsoid(0.14, 0.34, 0.15).rotate("x", -p.u(20, 50)).rotate("z", p.u(20, 34))
        parts_y = tall * 1.2
    pieces += [
        arm.move(wide, lift + parts_y, 0.14).paint(p.main),
        ellipsoid(0.175, 0.17, 0.18, 8, 12).move(wide * 0.8, lift + tall * 1.42, 0.03).paint(shirt),
        ellipsoid(0.18, 0.18, 0.1, 8, 14).move(head * 0.8, y + head * 0.74, -0.02).paint(p.main),
        ellipsoid(0.11, 0.11, 0.06, 6, 12).move(head * 0.8, y + head * 0.74, 0.06).paint(light),
    ]
    sight = [s.rotate("y", 20).move(head * 0.4, y + head * 0.2, head * 0.8) for s in eye(0.1)]
    return parts + mirrored([*pieces, *sight])


def pig(p: Paint) -> list[Shape]:
    """Build a pig that stands or sits, with a snout in the accent colour."""
    sits = p.rng.random() < 0.5
    wide, long, leg, head = p.u(0.42, 0.48), p.u(0.56, 0.64), p.u(0.22, 0.28), p.u(0.39, 0.43)
    dusk, hoof = shade(p.main, 0.76), contrast(p.main, INK, GREY)
    curl = arc(0.12, 0.06, -60, 250, 12).rotate("y", 60).paint(dusk)
    foot = cylinder(0.15, 0.13, segments=14).paint(hoof)
    if sits:
        top, z, y = 1.02, 0.12, 0.46
        parts = [
            ellipsoid(wide * 1.04, 0.5, wide, 10, 18).rotate("x", 14).move(0, y, -0.06).paint(p.main),
            ellipsoid(wide * 0.62, 0.34, 0.12).move(0, y - 0.02, wide * 0.84).paint(shade(p.main, 0.88)),
            curl.move(0, 0.28, -wide - 0.16),
        ]
        limb = cylinder(0.12, 0.44, 0.13, rounding=0.04, segments=12).rotate("x", -14).rotate("z", -6)
        pieces = [limb.move(0.26, 0.1, 0.42).paint(p.main), foot.move(0.26, 0, 0.44)]
        pieces += [ellipsoid(0.18, 0.16, 0.3).rotate("y", 22).move(wide * 0.9, 0.16, 0.16).paint(p.main)]
        pieces += [ellipsoid(0.13, 0.12, 0.1).rotate("y", 22).move(wide * 0.9 + 0.1, 0.16, 0.41).paint(hoof)]
    else:
        y, z = leg + wide * 0.8, long * 0.85
        top = y + 0.14
        parts = [
            ellipsoid(wide, wide * 0.94, long, 10, 18).move(0, y).paint(p.main),
            curl.move(0, y + 0.18, -long - 0.07),
        ]
        parts += corners(cylinder(0.13, leg + 0.1, segments=14).move(0, 0.06).paint(p.main), wide * 0.55, long * 0.52)
        parts += corners(foot, wide * 0.55, long * 0.52)
        pieces = []
    nose = apart(p.accent, p.main)
    snout = cylinder(0.23, 0.26, 0.21, rounding=0.04, segments=16).rotate("x", 90).scale(1.1, 0.92, 1)
    parts += [
        ellipsoid(head, head * 0.95, head * 0.9, 10, 18).move(0, top, z).paint(p.main),
        snout.move(0, top - 0.07, z + head * 0.72).paint(nose),
    ]
    ear = cylinder(0.19, 0.32, 0.03, segments=10).scale(1, 1, 0.45).rotate("x", 38).rotate("z", -24)
    nostril = ellipsoid(0.06, 0.085, 0.05, 6, 8).move(0.1, top - 0.07, z + head * 0.72 + 0.255)
    sight = [s.rotate("y", 20).move(head * 0.44, top + head * 0.34, z + head * 0.76) for s in eye(0.1)]
    pieces.append(ear.move(head * 0.62, top + head * 0.62, z).paint(dusk))
    return parts + mirrored([*pieces, nostril.paint(contrast(nose, INK, WHITE)), *sight])


def elephant(p: Paint) -> list[Shape]:
    """Build an elephant with a hanging or a raised trunk and a blanket in the accent colour."""
    raised = p.rng.random() < 0.5
    wide, long, leg, head = p.u(0.42, 0.48), p.u(0.56, 0.62), p.u(0.36, 0.42), p.u(0.37, 0.41)
    y = leg + wide * 0.72
    z, top = long * 0.92, y + 0.26
    curl = [(0, 0), (0.14, -0.1), (0.2, -0.28), (0.22, -0.46), (0.28, -0.58), (0.4, -0.62), (0.5, -0.54)]
    if raised:
        curl = [(0, 0), (0.16, -0.14), (0.34, -0.16), (0.5, -0.04), (0.56, 0.16), (0.54, 0.36), (0.62, 0.5)]
    trunk = tube(curl, [0.18, 0.16, 0.14, 0.125, 0.115, 0.11, 0.11], 12).rotate("y", -90)
    cloth, blanket = p.u(48, 54), apart(p.accent, p.main)
    parts = [
        ellipsoid(wide, wide * 0.96, long, 10, 18).move(0, y).paint(p.main),
        ellipsoid(head, head * 1.02, head * 0.9, 10, 18).move(0, top, z).paint(p.main),
        trunk.move(0, top - 0.08, z + head * 0.72).paint(p.main),
        cap(1.035, cloth + 10, 20).scale(wide, wide * 0.96, long).move(0, y).paint(contrast(blanket, GLOW, WHITE)),
        cap(1.06, cloth, 20).scale(wide, wide * 0.96, long).move(0, y).paint(blanket),
        cylinder(0.055, 0.4, 0.05, segments=8).rotate("x", -160).move(0, y + 0.14, -long * 0.97).paint(p.main),
        ellipsoid(0.085, 0.13, 0.085, 6, 10).move(0, y - 0.26, -long * 0.97 - 0.14).paint(contrast(p.main, INK, GREY)),
    ]
    parts += corners(
        cylinder(0.17, leg + 0.14, 0.16, segments=14).move(0, 0.06).paint(p.main), wide * 0.52, long * 0.52
    )
    parts += corners(cylinder(0.19, 0.1, segments=14).paint(contrast(p.main, WHITE, GREY)), wide * 0.52, long * 0.52)
    ear = ellipsoid(p.u(0.32, 0.37), 0.38, 0.07).rotate("y", 28).move(head * 1.32, top + 0.05, z - 0.12)
    lining = ellipsoid(0.22, 0.26, 0.07).rotate("y", 28).move(head * 1.32 + 0.02, top + 0.03, z - 0.08)
    tusk = (
        cylinder(0.07, 0.32, 0.035, rounding=0.02, segments=10).rotate("x", 112).move(0.2, top - 0.22, z + head * 0.7)
    )
    sight = [s.rotate("y", 22).move(head * 0.48, top + head * 0.24, z + head * 0.76) for s in eye(0.095)]
    inner = contrast(p.main, COLORS["pink"], PALE)
    return parts + mirrored([ear.paint(p.main), lining.paint(inner), tusk.paint(contrast(p.main, WHITE, GLOW)), *sight])


BUILDERS: dict[str, Builder] = {"dog": dog, "rabbit": rabbit, "bear": bear, "pig": pig, "elephant": elephant}
