"""Pets and farm animals."""

from __future__ import annotations

import numpy as np

from sds3d.toybox.paint import CARROT, GLOW, GREY, INK, WHITE, Paint, contrast, shade
from sds3d.toybox.parts import Builder, corners, eye, mirrored, side_profile
from sds3d.toybox.shapes import Shape, arc, box, cap, cylinder, ellipsoid, lathe, tube
from sds3d.toybox.world import COLORS

PALE = (0.72, 0.72, 0.74)


def dog(p: Paint) -> list[Shape]:
    """Build a dog with ears in the accent colour."""
    wide, long, leg, head = p.u(0.28, 0.34), p.u(0.48, 0.58), p.u(0.3, 0.4), p.u(0.34, 0.38)
    y, z = leg + wide * 0.75, long * 0.86
    top = y + p.u(0.4, 0.48)
    light = contrast(p.main, WHITE, PALE)
    tail = tube([(0, 0), (0.16, 0.08), (0.25, 0.24), (0.26, 0.44)], [0.09, 0.085, 0.075, 0.055]).rotate("y", 90)
    parts = [
        ellipsoid(wide, wide, long, 10, 18).move(0, y).paint(p.main),
        ellipsoid(wide * 0.7, 0.36, wide * 0.7).rotate("x", 28).move(0, y + 0.2, z * 0.8).paint(p.main),
        ellipsoid(head, head * 0.95, head * 0.92, 10, 18).move(0, top, z).paint(p.main),
        ellipsoid(head * 0.55, head * 0.4, head * 0.6).move(0, top - head * 0.3, z + head * 0.78).paint(light),
        ellipsoid(0.105, 0.08, 0.07, 6, 12).move(0, top - head * 0.12, z + head * 1.3).paint(INK),
        ellipsoid(0.085, 0.15, 0.05, 6, 12).move(0, top - head * 0.68, z + head * 1.1).paint(COLORS["red"]),
        tail.move(0, y + wide * 0.4, -long * 0.88).paint(p.main),
    ]
    parts += corners(cylinder(0.12, leg + 0.1, rounding=0.05, segments=12).paint(p.main), wide * 0.6, long * 0.58)
    parts += corners(ellipsoid(0.145, 0.1, 0.18, 6, 12).move(0, 0.08, 0.04).paint(light), wide * 0.6, long * 0.58)
    ear = ellipsoid(0.1, p.u(0.28, 0.36), 0.19).rotate("z", 14)
    sight = [s.rotate("y", 20).move(head * 0.4, top + head * 0.22, z + head * 0.8) for s in eye(0.1)]
    return parts + mirrored([ear.move(head * 0.98, top - 0.04, z - 0.06).paint(p.accent), *sight])


def rabbit(p: Paint) -> list[Shape]:
    """Build a rabbit with a scarf in the accent colour."""
    wide, tall, head, ear = p.u(0.36, 0.42), p.u(0.46, 0.52), p.u(0.36, 0.4), p.u(0.36, 0.44)
    y, lean = tall * 1.75 + head * 0.5, p.u(6, 16)
    light, inner = contrast(p.main, WHITE, PALE), contrast(p.main, COLORS["pink"], WHITE)
    parts = [
        ellipsoid(wide, tall, wide * 0.95, 10, 18).move(0, tall * 0.95).paint(p.main),
        ellipsoid(wide * 0.68, tall * 0.66, 0.14).move(0, tall * 0.85, wide * 0.84).paint(light),
        ellipsoid(head * 1.05, head * 0.95, head, 10, 18).move(0, y, 0.06).paint(p.main),
        ellipsoid(0.2, 0.13, 0.1).move(0, y - 0.12, 0.06 + head * 0.9).paint(light),
        ellipsoid(0.07, 0.055, 0.06, 6, 10).move(0, y - 0.05, 0.06 + head * 1.06).paint(contrast(light, inner, INK)),
        box(0.13, 0.14, 0.06, 0.02).move(0, y - 0.26, 0.06 + head * 0.9).paint(contrast(light, WHITE, GLOW)),
        ellipsoid(0.18, 0.17, 0.17, 8, 12).move(0, 0.3, -wide).paint(light),
        arc(wide * 0.66, 0.1, steps=18).rotate("x", 90).move(0, tall * 1.72, 0.02).paint(p.accent),
        box(0.17, 0.4, 0.08, 0.03).rotate("z", 12).move(0.17, tall * 1.42, wide * 0.86).paint(p.accent),
    ]
    long = ellipsoid(0.13, ear, 0.08).rotate("z", -lean).move(head * 0.5, y + head * 0.7 + ear * 0.72, 0)
    lining = ellipsoid(0.075, ear * 0.78, 0.05).rotate("z", -lean).move(head * 0.5, y + head * 0.7 + ear * 0.72, 0.05)
    foot = ellipsoid(0.16, 0.11, 0.28).move(wide * 0.55, 0.1, wide * 0.75)
    arm = ellipsoid(0.1, 0.24, 0.12).rotate("x", -35).move(wide * 0.82, tall * 1.15, wide * 0.5)
    sight = [s.rotate("y", 22).move(head * 0.46, y + 0.08, 0.06 + head * 0.84) for s in eye(0.105)]
    pieces = [long.paint(p.main), lining.paint(inner), foot.paint(light), arm.paint(p.main), *sight]
    return parts + mirrored(pieces)


def pig(p: Paint) -> list[Shape]:
    """Build a pig with a snout in the accent colour."""
    wide, long, leg = p.u(0.42, 0.48), p.u(0.56, 0.66), p.u(0.22, 0.28)
    head, y = p.u(0.38, 0.43), leg + wide * 0.8
    z, top = long * 0.85, leg + wide * 0.8 + 0.14
    snout = cylinder(0.22, 0.24, 0.2, rounding=0.04, segments=16).rotate("x", 90)
    parts = [
        ellipsoid(wide, wide * 0.94, long, 10, 18).move(0, y).paint(p.main),
        ellipsoid(head, head * 0.95, head * 0.9, 10, 18).move(0, top, z).paint(p.main),
        snout.scale(1.1, 0.9, 1).move(0, top - 0.07, z + head * 0.72).paint(p.accent),
        arc(0.1, 0.05, -60, 240, 12).rotate("y", 70).move(0, y + 0.18, -long * 1.0 - 0.05).paint(shade(p.main, 0.8)),
    ]
    parts += corners(cylinder(0.13, leg + 0.16, segments=14).paint(p.main), wide * 0.55, long * 0.5)
    parts += corners(
        cylinder(0.145, 0.12, segments=14).move(0, -0.015).paint(contrast(p.main, INK, GREY)), wide * 0.55, long * 0.5
    )
    ear = cylinder(0.17, 0.3, 0.02, segments=10).scale(1, 1, 0.45).rotate("x", 38).rotate("z", -24)
    nostril = ellipsoid(0.055, 0.075, 0.05, 6, 8).move(0.095, top - 0.07, z + head * 0.72 + 0.235)
    sight = [s.rotate("y", 20).move(head * 0.42, top + head * 0.3, z + head * 0.75) for s in eye(0.085)]
    pieces = [ear.move(head * 0.62, top + head * 0.66, z).paint(shade(p.main, 0.8))]
    return parts + mirrored([*pieces, nostril.paint(contrast(p.accent, INK, WHITE)), *sight])


def fish(p: Paint) -> list[Shape]:
    """Build a fish with fins in the accent colour."""
    wide, tall, long = p.u(0.25, 0.31), p.u(0.4, 0.48), p.u(0.6, 0.7)
    stripe = contrast(p.main, WHITE, INK)
    tail = [(0.06, -0.1), (0.06, 0.1), (-0.36, p.u(0.36, 0.44)), (-0.26, 0), (-0.36, -p.u(0.36, 0.44))]
    if p.rng.random() < 0.4:
        tail = [(0.06, -0.1), (0.06, 0.1), (-0.2, 0.34), (-0.38, 0.26), (-0.42, 0), (-0.38, -0.26), (-0.2, -0.34)]
    back = [(0.3, 0), (0.16, 0.26), (-0.12, 0.34), (-0.36, 0.22), (-0.34, 0)]
    parts = [
        ellipsoid(wide, tall, long, 12, 20).paint(p.main),
        side_profile(tail, 0.1, 0.02).move(0, 0, -long * 0.92).paint(p.accent),
        side_profile(back, 0.1, 0.02).move(0, tall * 0.84, 0).paint(p.accent),
        side_profile([(0.14, 0), (-0.24, 0), (-0.22, -0.2)], 0.1).move(0, -tall * 0.88, -0.05).paint(p.accent),
        arc(0.085, 0.05, steps=14).scale(1.15, 1, 1).move(0, -0.06, long * 0.985).paint(contrast(p.main, CARROT, GLOW)),
    ]
    for z in (p.u(0.08, 0.14), -0.26):
        round_here = 1.035 * np.sqrt(1 - (z / long) ** 2)
        parts.append(ellipsoid(wide * round_here, tall * round_here, 0.08, 10, 20).move(0, 0, z).paint(stripe))
    fin = ellipsoid(0.06, 0.12, 0.24, 8, 12).rotate("y", -35).rotate("x", -20).move(wide * 1.02, -0.1, 0.02)
    sight = [s.rotate("y", 58).move(wide * 0.72, tall * 0.26, long * 0.58) for s in eye(0.14)]
    return parts + mirrored([fin.paint(p.accent), *sight])


def turtle(p: Paint) -> list[Shape]:
    """Build a turtle with a shell in the accent colour."""
    wide, tall, long, head = p.u(0.5, 0.56), p.u(0.36, 0.44), p.u(0.58, 0.66), p.u(0.24, 0.28)
    y, z, top = 0.2, long + p.u(0.12, 0.18), p.u(0.36, 0.48)
    spot = contrast(p.accent, GLOW, shade(p.accent, 0.6))
    polar = np.deg2rad(np.linspace(0, 90, 7))
    dome = [(0, 0), *((np.cos(a), np.sin(a)) for a in polar[:-1]), (0, 1)]
    neck = tube([(0, 0), (0.2, 0.1), (0.32, top - y)], [0.15, 0.14, 0.14]).rotate("y", -90)
    parts = [
        lathe(dome, 22).scale(wide, tall, long).move(0, y).paint(p.accent),
        cylinder(1.06, 0.13, rounding=0.05, segments=22).scale(wide, 1, long).move(0, y - 0.05).paint(p.main),
        neck.move(0, y, z - 0.34).paint(p.main),
        ellipsoid(head, head * 0.92, head * 1.05).move(0, top, z).paint(p.main),
        box(head * 1.1, 0.05, 0.08, 0.02)
        .move(0, top - head * 0.32, z + head * 0.94)
        .paint(contrast(p.main, INK, WHITE)),
        cylinder(0.1, 0.3, 0.02, segments=10).rotate("x", -100).move(0, y, -long * 0.98).paint(p.main),
    ]
    for lean, around, size in [(0, 0, 17), *((48, 60 * i, 13) for i in range(6))]:
        plate = cap(1.03, size, 6).rotate("x", lean).rotate("y", around)
        parts.append(plate.scale(wide, tall, long).move(0, y).paint(spot))
    flipper = ellipsoid(0.26, 0.1, 0.16).rotate("z", -22)
    pieces = [flipper.rotate("y", -35 * k).move(wide * 0.98, 0.08, k * long * 0.6).paint(p.main) for k in (-1, 1)]
    sight = [s.rotate("y", 28).move(head * 0.5, top + head * 0.3, z + head * 0.8) for s in eye(0.085)]
    return parts + mirrored([*pieces, *sight])


def frog(p: Paint) -> list[Shape]:
    """Build a frog with spots in the accent colour."""
    wide, tall, long = p.u(0.48, 0.54), p.u(0.34, 0.4), p.u(0.52, 0.6)
    head, y = p.u(0.42, 0.47), tall * 0.95
    top, z = tall * 1.5, long * 0.55
    light = contrast(p.main, (0.97, 0.95, 0.75), PALE)
    grin = arc(head * 0.78, 0.045, -155, -25, 12).rotate("x", 62)
    parts = [
        ellipsoid(wide, tall, long, 10, 18).rotate("x", -18).move(0, y).paint(p.main),
        ellipsoid(head * 1.1, head * 0.72, head * 0.85, 10, 18).move(0, top, z).paint(p.main),
        ellipsoid(head * 0.86, tall * 0.72, 0.24).move(0, tall * 0.8, z + 0.1).paint(light),
        grin.rotate("x", -58)
        .scale(1, 0.5, 0.6)
        .move(0, top + 0.02, z + head * 0.74)
        .paint(contrast(p.main, INK, WHITE)),
    ]
    turn = p.u(-8, 8)
    for lean, around, size in [(14, 180, 15), (46, 150, 12), (46, 210, 12), (46, 95, 14), (46, -95, 14), (76, 180, 12)]:
        spot = cap(1.03, size, 12).rotate("x", lean).rotate("y", around + turn)
        parts.append(spot.scale(wide, tall, long).rotate("x", -18).move(0, y).paint(p.accent))
    bulge = ellipsoid(0.16, 0.17, 0.16, 8, 14).move(head * 0.62, top + head * 0.58, z + 0.04)
    sight = [
        s.rotate("y", 14).move(head * 0.65, top + head * 0.62, z + 0.16)
        for s in eye(0.125, contrast(p.main, WHITE, GLOW))
    ]
    thigh = ellipsoid(0.19, 0.2, 0.36).rotate("x", -28).rotate("y", 24).move(wide * 0.98, 0.24, -long * 0.2)
    sole = ellipsoid(0.16, 0.06, 0.27, 6, 12).rotate("y", 30).move(wide * 1.1, 0.05, long * 0.28)
    arm = cylinder(0.1, 0.42, 0.08, rounding=0.03, segments=12).rotate("x", -12).rotate("z", -10)
    hand = ellipsoid(0.14, 0.055, 0.17, 6, 12).rotate("y", 16).move(head * 0.78, 0.05, z + 0.3)
    pieces = [bulge, thigh, sole, arm.move(head * 0.72, 0.04, z + 0.22), hand]
    return parts + mirrored([*(s.paint(p.main) for s in pieces), *sight])


BUILDERS: dict[str, Builder] = {
    "dog": dog,
    "rabbit": rabbit,
    "pig": pig,
    "fish": fish,
    "turtle": turtle,
    "frog": frog,
}
