"""Overlap and distance of meshes, in closed form and between true objects."""

from __future__ import annotations

import math

import numpy as np
import pytest
import trimesh

from sds3d.evaluation.likeness import chamfer, likeness, true_objects, volume_iou
from sds3d.geometry.mesh import Mesh
from sds3d.toybox.captions import parse


def ball(radius: float, shift: float = 0.0) -> Mesh:
    sphere = trimesh.creation.icosphere(4, radius)
    center = np.array([shift, 0.0, 0.0])
    return Mesh((np.asarray(sphere.vertices) + center).astype(np.float32), np.asarray(sphere.faces, np.int32))


def test_a_ball_inside_another() -> None:
    assert volume_iou(ball(0.2), ball(0.4)) == pytest.approx(1 / 8, rel=0.03)
    assert chamfer(ball(0.2), ball(0.4)) == pytest.approx(0.2, rel=0.01)


def test_balls_side_by_side() -> None:
    radius, shift = 0.3, 0.2
    lens = math.pi * (4 * radius + shift) * (2 * radius - shift) ** 2 / 12  # the common volume
    union = 2 * 4 / 3 * math.pi * radius**3 - lens
    assert volume_iou(ball(radius), ball(radius, shift)) == pytest.approx(lens / union, rel=0.03)
    assert volume_iou(ball(0.1, -0.3), ball(0.1, 0.3)) == 0


def test_an_object_is_like_itself() -> None:
    assert volume_iou(ball(0.3), ball(0.3)) == 1
    assert chamfer(ball(0.3), ball(0.3)) == 0


@pytest.mark.parametrize(("prompt", "other"), [("a red mug", "a red chair"), ("a green car", "a green snowman")])
def test_true_objects_are_more_like_their_own_kind(prompt: str, other: str) -> None:
    spec, wrong = parse(prompt), parse(other)
    assert spec is not None
    assert wrong is not None
    mesh = true_objects(spec, 1, seed=2)[0]
    right, mistaken = likeness(mesh, spec), likeness(mesh, wrong)
    assert right.iou > mistaken.iou + 0.2
    assert right.chamfer < 0.5 * mistaken.chamfer
