"""How figures and plants are built: snowman, duck, robot, cat, mushroom and tree."""

from __future__ import annotations

import numpy as np

from sds3d.toybox.paint import CARROT, GLASS, GLOW, GREY, INK, WHITE, WOOD, Paint, contrast, shade
from sds3d.toybox.parts import eye
from sds3d.toybox.shapes import Shape, arc, box, cap, cylinder, disc, ellipsoid, lathe, tube
from sds3d.toybox.world import COLORS


def snowman(p: Paint) -> list[Shape]:
    """Build a snowman of three balls with a carrot nose, stick arms and a hat in the accent colour."""
    low, mid, head = p.u(0.54, 0.62), p.u(0.42, 0.47), p.u(0.35, 0.39)
    y_low, y_mid = low * 0.92, low * 1.6 + mid * 0.55
    y_head = y_mid + mid * 0.62 + head * 0.68
    dark = contrast(p.main, INK, WHITE)
    stick = contrast(p.main, WOOD, (0.80, 0.62, 0.40))
    parts = [
        ellipsoid(low, low * 0.92, low).move(0, y_low).paint(p.main),
        ellipsoid(mid).move(0, y_mid).paint(p.main),
        ellipsoid(head).move(0, y_head).paint(p.main),
    ]
    nose = cylinder(0.105, p.u(0.36, 0.46), 0.015, segments=10).rotate("x", 90)
    parts.append(nose.move(0, y_head - 0.03, head * 0.88).paint(contrast(p.main, CARROT, GLOW)))
    for x in (-1, 1):
        eye = ellipsoid(0.075, 0.085, 0.05, 6, 10)
        parts.append(eye.move(x * 0.145, y_head + 0.11, head * 0.87).paint(dark))
        arm = cylinder(0.05, p.u(0.5, 0.6), 0.035, segments=8).rotate("z", -x * p.u(55, 75))
        parts.append(arm.move(x * mid * 0.8, y_mid + 0.05).paint(stick))
    for y in (0.2, -0.1):
        parts.append(ellipsoid(0.075, 0.075, 0.05, 6, 10).move(0, y_mid + y, np.sqrt(mid**2 - y**2)).paint(dark))
    brim, crown, tall = head * p.u(1.1, 1.25), head * p.u(0.72, 0.82), p.u(0.36, 0.46)
    y_hat = y_head + head * 0.66
    parts.append(cylinder(brim, 0.08, rounding=0.03).move(0, y_hat).paint(p.accent))
    parts.append(cylinder(crown, tall, crown * 0.92, rounding=0.04).move(0, y_hat + 0.02).paint(p.accent))
    return parts


def duck(p: Paint) -> list[Shape]:
    """Build a duck with a beak in the accent colour."""
    wide, tall, long = p.u(0.42, 0.5), p.u(0.34, 0.4), p.u(0.56, 0.66)
    head = p.u(0.3, 0.35)
    y, z = tall + head * 0.95, long * 0.52
    wing_color = shade(p.main, 0.82)
    parts = [
        ellipsoid(wide, tall, long, 10, 18).paint(p.main),
        cylinder(0.25, 0.4, 0.03, segments=12)
        .rotate("x", -52)
        .scale(1.2, 1, 1)
        .move(0, 0.1, -long * 0.72)
        .paint(p.main),
        ellipsoid(head * 0.8, head, head * 0.8).move(0, tall * 0.8, z * 0.85).paint(p.main),
        ellipsoid(head).move(0, y, z).paint(p.main),
        ellipsoid(0.19, 0.07, 0.27, 8, 14).move(0, y - 0.01, z + head * 1.0).paint(p.accent),
        ellipsoid(0.15, 0.06, 0.2, 8, 14).rotate("x", 14).move(0, y - 0.1, z + head * 0.98).paint(p.accent),
    ]
    for x in (-1, 1):
        wing = ellipsoid(0.09, tall * 0.55, long * 0.5, 8, 12).rotate("x", 12)
        parts.append(wing.move(x * wide * 0.93, 0.04, -long * 0.12).paint(wing_color))
        parts += [s.rotate("y", x * 38).move(x * head * 0.58, y + 0.1, z + head * 0.72) for s in eye(0.1)]
    return parts


def mushroom(p: Paint) -> list[Shape]:
    """Build a mushroom with a dotted cap and a stem in the accent colour."""
    cap_radius, cap_height, stem, tall = p.u(0.58, 0.68), p.u(0.42, 0.52), p.u(0.2, 0.25), p.u(0.5, 0.62)
    polar = np.deg2rad(np.linspace(0, 90, 7))
    dome = [(0, 0.06), (cap_radius * 0.8, 0.0), (cap_radius * 0.96, -0.03)]
    dome += [(cap_radius * np.cos(a), cap_height * np.sin(a)) for a in polar[:-1]] + [(0, cap_height)]
    foot = [
        (0, 0),
        (stem * 1.25, 0.0),
        (stem * 1.35, 0.1),
        (stem, tall * 0.6),
        (stem * 0.92, tall + 0.1),
        (0, tall + 0.1),
    ]
    parts = [lathe(foot, 18).paint(p.accent), lathe(dome, 24).move(0, tall).paint(p.main)]
    dots = contrast(p.main, WHITE, INK)
    turn = p.u(0, 72)
    rings = [(52, 72 * i, 14) for i in range(5)] + [(77, 72 * i + 36, 9) for i in range(5)]
    for lean, around, size in [(0, 0, 17), *rings]:
        dot = cap(1.025, size, 10).rotate("x", lean).rotate("y", around + turn)
        parts.append(dot.scale(cap_radius, cap_height, cap_radius).move(0, tall).paint(dots))
    return parts


def robot(p: Paint) -> list[Shape]:
    """Build a robot with a panel on its chest and a head in the accent colour."""
    width, tall, depth = p.u(0.7, 0.8), p.u(0.6, 0.7), p.u(0.44, 0.52)
    head_w, head_h, head_d = p.u(0.54, 0.62), p.u(0.42, 0.48), p.u(0.42, 0.48)
    leg = p.u(0.26, 0.32)
    joint = contrast(p.main, GREY, WHITE)
    body_y = leg + tall / 2
    head_y = leg + tall + 0.05 + head_h / 2
    parts = [
        box(width, tall, depth, 0.08).move(0, body_y).paint(p.main),
        cylinder(0.12, 0.12, segments=12).move(0, leg + tall - 0.03).paint(joint),
        box(head_w, head_h, head_d, 0.07).move(0, head_y).paint(p.accent),
        cylinder(0.035, 0.2, segments=8).move(0, head_y + head_h / 2 - 0.01).paint(joint),
        ellipsoid(0.085, rings=8, segments=12)
        .move(0, head_y + head_h / 2 + 0.22)
        .paint(contrast(p.accent, COLORS["red"], GLOW)),
    ]
    panel = contrast(p.main, WHITE, INK)
    parts.append(box(width * 0.66, tall * 0.52, 0.05, 0.04).move(0, body_y + 0.03, depth / 2 + 0.01).paint(panel))
    for x, light in ((-1, COLORS["red"]), (0, GLOW), (1, COLORS["green"])):
        parts.append(disc(0.062, 0.05, 12).move(x * 0.15, body_y + 0.08, depth / 2 + 0.04).paint(light))
    bar = box(width * 0.48, 0.07, 0.04).move(0, body_y - 0.07, depth / 2 + 0.035)
    parts.append(bar.paint(contrast(panel, GREY, GLASS)))
    for x in (-1, 1):
        parts += [s.move(x * 0.135, head_y + 0.06, head_d / 2) for s in eye(0.105)]
        ear = cylinder(0.09, 0.1, segments=12).rotate("z", -x * 90).move(x * (head_w / 2 - 0.02), head_y, 0)
        parts.append(ear.paint(joint))
        arm = cylinder(0.085, tall * 0.72, rounding=0.04, segments=12).move(0, -tall * 0.72).rotate("z", x * 12)
        parts.append(arm.move(x * (width / 2 + 0.07), leg + tall - 0.06).paint(p.main))
        hand = ellipsoid(0.115, rings=8, segments=12)
        parts.append(hand.move(x * (width / 2 + 0.07 + tall * 0.15), leg + tall * 0.22).paint(joint))
        parts.append(cylinder(0.1, leg + 0.03, segments=12).move(x * width * 0.25, 0).paint(joint))
        parts.append(box(0.26, 0.12, 0.36, 0.04).move(x * width * 0.26, 0.06, 0.05).paint(p.main))
    mouth = box(head_w * 0.5, 0.075, 0.05).move(0, head_y - 0.13, head_d / 2)
    parts.append(mouth.paint(contrast(p.accent, INK, WHITE)))
    return parts


def tree(p: Paint) -> list[Shape]:
    """Build a fir of three cones with a trunk in the accent colour."""
    trunk, tall, width = p.u(0.13, 0.17), p.u(0.4, 0.5), p.u(0.56, 0.66)
    parts = [cylinder(trunk * 1.25, tall + 0.15, trunk, segments=14).paint(p.accent)]
    y, step = tall, p.u(0.36, 0.42)
    for i, size in enumerate((1.0, 0.78, 0.55)):
        cone = cylinder(width * size, 0.62 - 0.04 * i, 0.0, rounding=0.04, segments=20)
        parts.append(cone.move(0, y + step * i).paint(shade(p.main, 0.88) if i == 1 else p.main))
    return parts


def cat(p: Paint) -> list[Shape]:
    """Build a sitting cat with a collar in the accent colour."""
    wide, tall, head = p.u(0.36, 0.42), p.u(0.5, 0.56), p.u(0.38, 0.43)
    y, z = tall * 1.55 + head * 0.42, 0.14
    light = contrast(p.main, WHITE, (0.72, 0.72, 0.74))
    inner = contrast(p.main, COLORS["pink"], WHITE)
    body = [
        (0, 0),
        (wide * 0.9, 0.0),
        (wide * 1.05, tall * 0.3),
        (wide * 0.92, tall * 0.9),
        (wide * 0.62, tall * 1.45),
        (0, tall * 1.6),
    ]
    parts = [
        lathe(body, 20).scale(1, 1, 1.1).paint(p.main),
        ellipsoid(wide * 0.62, tall * 0.62, 0.14).move(0, tall * 0.68, wide * 0.9).paint(light),
        ellipsoid(head * 1.12, head * 0.92, head * 0.95, 10, 18).move(0, y, z).paint(p.main),
        ellipsoid(0.17, 0.115, 0.1, 8, 12).move(0, y - 0.13, z + head * 0.84).paint(light),
        ellipsoid(0.065, 0.05, 0.05, 6, 10)
        .move(0, y - 0.06, z + head * 0.97)
        .paint(contrast(light, COLORS["pink"], INK)),
        arc(wide * 0.74, 0.085, steps=20).rotate("x", 90).move(0, y - head * 0.82, 0.07).paint(p.accent),
    ]
    for x in (-1, 1):
        ear = cylinder(0.19, 0.36, 0.015, segments=10).scale(1, 1, 0.6)
        parts.append(ear.rotate("z", -x * 22).move(x * head * 0.58, y + head * 0.6, z).paint(p.main))
        lining = cylinder(0.11, 0.24, 0.01, segments=8).scale(1, 1, 0.5)
        parts.append(lining.rotate("z", -x * 22).move(x * head * 0.6, y + head * 0.66, z + 0.08).paint(inner))
        parts += [s.rotate("y", x * 20).move(x * head * 0.44, y + 0.06, z + head * 0.82) for s in eye(0.115)]
        paw = ellipsoid(0.14, 0.1, 0.2, 8, 12)
        parts.append(paw.move(x * wide * 0.5, 0.09, wide * 1.05).paint(light))
    bend = np.deg2rad(np.linspace(-100, 60, 9))
    reach = p.u(0.3, 0.38)
    path = np.stack([reach * np.cos(bend), reach * 1.15 * np.sin(bend)], axis=1)
    tail = tube(path, np.linspace(0.1, 0.08, 9)).rotate("y", 90)
    parts.append(tail.move(0, reach * 1.15 + 0.09, -wide * 1.0).paint(p.main))
    tip = ellipsoid(0.1, rings=8, segments=10).move(
        0, reach * 1.15 * (1 + np.sin(bend[-1])) + 0.09, -wide - reach * np.cos(bend[-1])
    )
    parts.append(tip.paint(light))
    return parts
