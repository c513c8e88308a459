"""Rays against triangles: closed forms and trimesh's own answers."""

from __future__ import annotations

import math

import numpy as np
import trimesh

from sds3d.geometry.rays import nearest_hits, open_share, tree


def cast(shape: trimesh.Trimesh, origins: np.ndarray, directions: np.ndarray, reach: float = 10.0, side: int = 0):
    n = len(origins)
    face, distance, weights = np.empty(n, np.int32), np.empty(n), np.empty((n, 3))
    boxes = tree(np.asarray(shape.vertices, np.float32), np.asarray(shape.faces, np.int32))
    nearest_hits(boxes, origins, directions, reach, side, face, distance, weights)
    return face, distance, weights


def test_rays_meet_what_brute_force_finds() -> None:
    shape = trimesh.creation.torus(0.3, 0.12, 24, 16)
    rng = np.random.default_rng(0)
    origins, directions = rng.normal(size=(300, 3)) * 0.5, rng.normal(size=(300, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    face, distance, weights = cast(shape, origins, directions)
    corners = np.asarray(shape.vertices, np.float32).astype(np.float64)[shape.faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    for i in range(300):
        t = ((corners[:, 0] - origins[i]) * normal).sum(1) / (normal @ directions[i])
        points = origins[i] + t[:, None] * directions[i]
        inside = np.ones(len(t), bool)
        for k in range(3):
            side = np.cross(corners[:, (k + 1) % 3] - corners[:, k], points - corners[:, k])
            inside &= (side * normal).sum(1) >= 0
        hits = np.where(inside & (t > 0), t, np.inf)
        if not np.isfinite(hits.min()):
            assert face[i] == -1
            continue
        assert face[i] == hits.argmin()
        np.testing.assert_allclose(distance[i], hits.min(), atol=1e-9)
        np.testing.assert_allclose(weights[i] @ corners[face[i]], origins[i] + hits.min() * directions[i], atol=1e-9)


def test_rays_end_at_their_reach() -> None:
    box = trimesh.creation.box((1, 1, 1))
    origins, directions = np.array([[0.01, 0.02, 2.0]]), np.array([[0.0, 0.0, -1.0]])
    assert cast(box, origins, directions, 1.6)[1][0] == 1.5
    assert cast(box, origins, directions, 1.4)[0][0] == -1


def test_rays_meet_only_the_side_that_is_asked_for() -> None:
    box = trimesh.creation.box((1, 1, 1))
    origins, directions = np.array([[0.01, 0.02, 2.0], [0.01, 0.02, 0.0]]), np.array([[0.0, 0.0, -1.0]] * 2)
    for side, expected in ((0, [1.5, 0.5]), (1, [2.5, 0.5]), (-1, [1.5, None])):
        face, distance, _ = cast(box, origins, directions, side=side)
        for f, t, right in zip(face, distance, expected, strict=True):
            assert (f >= 0) == (right is not None)
            assert right is None or t == right


def shares(shape: trimesh.Trimesh, points: list[list[float]], normal: list[float], reach: float = 10.0) -> np.ndarray:
    rng = np.random.default_rng(1)
    sphere = rng.normal(size=(20_000, 3))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    out = np.empty(len(points), np.float32)
    boxes = tree(np.asarray(shape.vertices, np.float32), np.asarray(shape.faces, np.int32))
    open_share(boxes, np.array(points), np.tile(normal, (len(points), 1)), sphere, 1e-5, reach, out)
    return out


def test_the_open_share_below_a_disc_is_its_form_factor() -> None:
    # A disc of radius r at height h hides r^2 / (r^2 + h^2) of the light on a surface that is parallel to it.
    disc = trimesh.creation.annulus(0.0001, 1.0, 0.001, sections=256).apply_translation((0, 0, 0.5005))
    (share,) = shares(disc, [[0.0, 0.0, 0.0]], [0.0, 0.0, 1.0])
    assert math.isclose(float(share), 1 - 1 / 1.25, abs_tol=0.01)
    assert float(shares(disc, [[0.0, 0.0, 0.0]], [0.0, 0.0, -1.0])[0]) == 1.0
    assert float(shares(disc, [[0.0, 0.0, 0.0]], [0.0, 0.0, 1.0], reach=0.4)[0]) == 1.0  # too far to count


def test_in_a_right_angle_half_of_the_light_arrives_at_the_edge() -> None:
    wall = trimesh.creation.box((0.001, 20, 20)).apply_translation((0.0005, 0, 10))
    near, far = shares(wall, [[-1e-3, 0, 0], [-10.0, 0, 0]], [0.0, 0.0, 1.0], reach=100)
    assert math.isclose(float(near), 0.5, abs_tol=0.01)
    assert float(far) > 0.7
