"""Simplified meshes."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from sds3d.geometry.mesh import Mesh
from sds3d.geometry.triangles import simplify


def test_a_smaller_mesh_keeps_its_shape_and_colours():
    ball = trimesh.creation.icosphere(subdivisions=4, radius=0.4)
    vertices = ball.vertices.astype(np.float32)
    mesh = Mesh(vertices, ball.faces.astype(np.int32), colors=vertices + np.float32(0.5))
    small = simplify(mesh, 500)
    assert 400 <= len(small.faces) <= 500
    assert small.colors is not None
    assert np.abs(small.colors - (small.vertices + 0.5)).max() < 0.05
    assert small.volume() == pytest.approx(mesh.volume(), rel=0.02)
    assert simplify(mesh, len(mesh.faces)) is mesh


@pytest.mark.parametrize("size", [(1, 1, 0.01), (1, 0.01, 0.01), (1, 0.3, 0.003), (1, 1, 0.1), (1, 1, 1)])
@pytest.mark.parametrize("turned", [False, True])
def test_thin_boxes_are_reduced_to_the_given_number_of_faces(size: tuple[float, float, float], turned: bool):
    box = trimesh.creation.box(size)
    for _ in range(3):
        box = box.subdivide()
    if turned:
        box.apply_transform(trimesh.transformations.rotation_matrix(0.7, (1, 2, 3)))
    mesh = Mesh(box.vertices.astype(np.float32), box.faces.astype(np.int32))
    for most in (20, 300):
        small = simplify(mesh, most)
        assert len(small.faces) <= most
        assert small.volume() == pytest.approx(mesh.volume(), rel=0.01)
