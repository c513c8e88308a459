"""STL: read by trimesh, by the definition of the format, and by our reader."""

import io
from dataclasses import replace

import lib3mf
import numpy as np
import pytest
import trimesh
from export_shapes import torus_mesh
from loading import MESHES, load_mesh, same

from sds3d.formats.export import asset_files
from sds3d.formats.load import load_asset
from sds3d.formats.stl import to_stl
from sds3d.formats.three_mf import to_3mf
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
    assert b"+Z up" in data[:80]
    assert b"millimetres" in data[:80]
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


def test_an_stl_comes_back_with_its_corners_joined_and_standing(colored_ball, tmp_path):
    """Files of others have +Z up: (x, y, z) is (x, z, -y) in the world frame."""
    printed = replace(colored_ball, vertices=colored_ball.vertices * np.float32([1, 2, 3]))
    with pytest.warns(UserWarning, match=r"\+Z is up in files of this format, and becomes \+Y; up_axis=y if"):
        read = load_mesh(tmp_path, to_stl(printed), "a.stl")
    x, y, z = printed.vertices.T
    same(read, replace(printed, vertices=np.stack([x, z, -y], axis=1)), atol=0)
    assert len(read.vertices) == len(colored_ball.vertices)
    assert read.colors is None
    text = trimesh.exchange.stl.export_stl_ascii(trimesh.Trimesh(printed.vertices, printed.faces, process=False))
    for name, data in (("text.stl", text), ("upper.stl", text.upper()), ("bom.stl", "\ufeff" + text)):
        (tmp_path / name).write_text(data, encoding="utf-8")
        lying = load_asset(tmp_path / name, up_axis="y")
        assert isinstance(lying, Mesh)
        same(lying, printed)


def test_upper_case_text_of_another_program_is_read():
    mesh = load_asset(MESHES / "upper.stl", up_axis="z")
    assert isinstance(mesh, Mesh)
    assert mesh.volume() == pytest.approx(1)


def stood(mesh: Mesh) -> Mesh:
    """Another turn by 90 degrees about X, by trimesh's matrix, and 100 mm tall or wide."""
    turn = trimesh.transformations.rotation_matrix(np.pi / 2, [1, 0, 0])
    vertices = trimesh.transform_points(mesh.vertices, turn)
    vertices *= 100 / np.ptp(vertices, axis=0).max()
    middle = (vertices.min(axis=0) + vertices.max(axis=0)) / 2
    return replace(mesh, vertices=(vertices - [middle[0], middle[1], vertices[:, 2].min()]).astype(np.float32))


def test_files_for_printers_are_in_millimetres_with_z_up(torus):
    for size in (100.0, 42.5):
        data = asset_files(["stl"], "a", torus, print_size=size)["a.stl"]
        loaded = trimesh.load(io.BytesIO(data), file_type="stl")
        expected = stood(torus).vertices[torus.faces] * (size / 100)
        np.testing.assert_allclose(loaded.triangles, expected, atol=1e-4 * size)
        assert loaded.is_watertight
        assert loaded.extents.max() == pytest.approx(size, rel=1e-6)
        assert loaded.extents.argmin() == 2  # the ring lies on the plate, as it does on the plane y = 0
        assert loaded.bounds[0, 2] == pytest.approx(0, abs=1e-4)
        assert loaded.volume > 0


def test_a_3mf_is_read_by_the_library_of_its_consortium(textured, tmp_path):
    """In millimetres, standing, closed although the texture's seams double vertices; the same bytes every time."""
    files = asset_files(["3mf"], "a <mug>", textured)
    (tmp_path / "a.3mf").write_bytes(files["a <mug>.3mf"])
    assert files == asset_files(["3mf"], "a <mug>", textured)
    model = lib3mf.get_wrapper().CreateModel()
    reader = model.QueryReader("3mf")
    reader.SetStrictModeActive(True)
    reader.ReadFromFile(str(tmp_path / "a.3mf"))
    assert reader.GetWarningCount() == 0
    assert model.GetUnit() == lib3mf.ModelUnit.MilliMeter
    items = model.GetMeshObjects()
    assert items.MoveNext()
    shape = items.GetCurrentMeshObject()
    assert not items.MoveNext()
    assert shape.GetName() == "a <mug>"
    assert shape.IsManifoldAndOriented()
    builds = model.GetBuildItems()
    assert builds.MoveNext()
    vertices = np.array([list(vertex.Coordinates) for vertex in shape.GetVertices()])
    faces = np.array([list(triangle.Indices) for triangle in shape.GetTriangleIndices()])
    expected = stood(textured)
    np.testing.assert_allclose(vertices[faces], expected.vertices[expected.faces], atol=1e-3)
    assert len(vertices) < len(textured.vertices)
    solid = trimesh.Trimesh(vertices, faces, process=False)
    assert solid.is_watertight
    assert solid.extents.max() == pytest.approx(100, rel=1e-6)


def test_what_cannot_be_printed_is_refused():
    point = Mesh(np.zeros((3, 3), np.float32), np.array([[0, 1, 2]], np.int32))
    with pytest.raises(ValueError, match="without size"):
        asset_files(["3mf"], "a", point)
    with pytest.raises(ValueError, match="without faces"):
        to_3mf(replace(point, faces=np.zeros((0, 3), np.int32)))
    with pytest.raises(ValueError, match="no area"):
        to_3mf(point)
