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
