"""Measures of polished surfaces, in closed form."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sds3d.evaluation.polish_scores import displacement, measure, sharp_points, smoothed, table, uneven
from sds3d.geometry.mesh import Mesh
from sds3d.representations.isosurface import dmtet, grid_points
from sds3d.toybox.shapes import box, merge

CUBE = merge([box(0.6, 0.6, 0.6)])


def ball(radius: float) -> Mesh:
    surface = dmtet(grid_points(32).norm(dim=-1) - radius)
    return Mesh(surface.vertices.numpy(), surface.faces.int().numpy())


def test_an_object_has_its_own_normals_and_edges():
    same = measure(CUBE, CUBE, CUBE)
    assert (same.degrees, same.kept) == pytest.approx((0, 1), abs=1e-3)
    assert same.moved < 0.05  # mm; near edges, the nearest point may be on the other face
    points = np.abs(sharp_points(CUBE))
    centre = (CUBE.vertices.min(axis=0) + CUBE.vertices.max(axis=0)) / 2
    sides = np.isclose(np.abs(sharp_points(CUBE) - centre), 0.3, atol=1e-4).sum(axis=1)
    assert len(points) > 700  # 12 edges of 60 points
    assert (sides >= 2).all()


def test_a_larger_ball_is_moved_by_the_difference_of_the_radii():
    small = ball(0.3)
    large = replace(small, vertices=(small.vertices * 1.05).astype(np.float32))
    assert displacement(large, small) == pytest.approx(0.015, rel=0.03)
    assert measure(large, small, small).degrees < 3


def test_smoothing_moves_as_far_as_it_is_told_and_rounds_edges():
    cube = uneven(CUBE, 0)
    before, moved = measure(cube, CUBE, cube), 0.008
    made = smoothed(cube, moved)
    after = measure(made, CUBE, cube)
    assert moved <= after.moved / 1000 < 1.3 * moved
    assert before.kept > 0.95
    assert after.kept < 0.9 * before.kept
    assert before.degrees > 5
    (row,) = table({"uneven": [before, after]})
    middle = (before.degrees + after.degrees) / 2
    assert row[:3] == ["uneven", "2", f"{middle:.1f}"]
