"""STL: read by trimesh, by the definition of the format, and by our reader."""

import io
from dataclasses import replace

import numpy as np
import pytest
import trimesh
from export_shapes import torus_mesh
from loading import load_mesh, same

from sds3d.formats.stl import to_stl
from sds3d.geometry.mesh import Mesh


@pytest.fixture(scope="module")
def torus() -> Mesh:
    return torus_mesh(800)


def test_an_stl_reads_back_in_trimesh(torus):
    loaded = trimesh.load(io.BytesIO(to_stl(torus)), file_type="stl", process=False)
    np.testing.assert_array_equal(loaded.triangles.astype(np.float32), torus.vertices[torus.faces])
    loaded.merge_vertices()
    assert loaded.is_watertight
    assert loaded.is_winding_consistent
    assert loaded.volume == pytest.approx(torus.volume(), rel=1e-6)
    assert torus.volume() > 0
    assert np.abs(loaded.bounds).max() <= 0.5


def test_the_bytes_are_those_of_the_format(torus):
    data = to_stl(torus)
    assert len(data) == 84 + 50 * len(torus.faces)
    assert not data.startswith(b"solid")  # text files start with it
    assert b"+Y up" in data[:80]
    assert b"metres" in data[:80]
    assert int.from_bytes(data[80:84], "little") == len(torus.faces)
    rows = np.frombuffer(data, [("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")], offset=84)
    assert not rows["attribute"].any()
    np.testing.assert_allclose(np.linalg.norm(rows["normal"], axis=1), 1, atol=1e-6)
    # The normals of a ring's faces point away from the circle in its middle.
    centre = rows["corners"].mean(axis=1)
    ring = centre * [1, 0, 1]
    away = centre - 0.3 * ring / np.linalg.norm(ring, axis=1, keepdims=True)
    assert ((away * rows["normal"]).sum(axis=1) > 0).mean() > 0.99


def test_a_triangle_has_the_normal_of_its_winding():
    mesh = Mesh(
        np.array([[0, 0, 0], [0.5, 0, 0], [0, 0.5, 0], [1, 0, 0]], np.float32), np.array([[0, 1, 2], [0, 1, 3]])
    )
    rows = np.frombuffer(to_stl(mesh), [("values", "<f4", 12), ("attribute", "<u2")], offset=84)["values"]
    np.testing.assert_array_equal(rows[0], [0, 0, 1, 0, 0, 0, 0.5, 0, 0, 0, 0.5, 0])
    np.testing.assert_array_equal(rows[1, :3], 0)  # no area, and no NaN


def test_it_is_deterministic_and_refuses_a_mesh_without_faces(torus):
    assert to_stl(torus) == to_stl(replace(torus, colors=None))
    with pytest.raises(ValueError, match="without faces"):
        to_stl(Mesh(np.zeros((3, 3), np.float32), np.zeros((0, 3), np.int32)))


def test_an_stl_comes_back_with_its_corners_joined(colored_ball, tmp_path):
    read = load_mesh(tmp_path, to_stl(colored_ball), "a.stl")
    same(read, colored_ball, atol=0)
    assert len(read.vertices) == len(colored_ball.vertices)
    assert read.colors is None
    text = trimesh.exchange.stl.export_stl_ascii(
        trimesh.Trimesh(colored_ball.vertices, colored_ball.faces, process=False)
    )
    same(load_mesh(tmp_path, text.encode(), "text.stl"), colored_ball)
