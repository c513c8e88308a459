"""PLY of meshes and points: read by plyfile and trimesh; and files of other programs."""

import io

import numpy as np
import pytest
import trimesh
from loading import MESHES, load, load_splats
from plyfile import PlyData, PlyElement

from sds3d.formats.load import AssetError
from sds3d.formats.ply import to_ply
from sds3d.geometry.mesh import Mesh


def test_a_ply_reads_back_in_plyfile_and_trimesh(colored):
    data = to_ply(colored)
    read = PlyData.read(io.BytesIO(data))
    vertex = read["vertex"]
    assert not read.text
    assert read.byte_order == "<"
    np.testing.assert_array_equal(np.stack([vertex[axis] for axis in "xyz"], axis=1), colored.vertices)
    np.testing.assert_array_equal(np.stack([vertex[f"n{axis}"] for axis in "xyz"], axis=1), colored.normals)
    colors = np.stack([vertex[channel] for channel in ("red", "green", "blue")], axis=1)
    assert colors.dtype == np.uint8
    np.testing.assert_allclose(colors / 255, colored.colors, atol=0.51 / 255)
    np.testing.assert_array_equal(np.stack(read["face"]["vertex_indices"]), colored.faces)
    assert any("+Y up" in comment for comment in read.comments)

    loaded = trimesh.load(io.BytesIO(data), file_type="ply", process=False)
    np.testing.assert_array_equal(loaded.vertices, colored.vertices)
    np.testing.assert_array_equal(loaded.faces, colored.faces)
    np.testing.assert_array_equal(loaded.visual.vertex_colors[:, :3], colors)


def test_points_without_faces_become_gaussians(tmp_path):
    points = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    colors = np.random.default_rng(1).integers(0, 256, (50, 4)).astype(np.uint8)
    cloud = trimesh.PointCloud(points, colors)
    for encoding in ("binary", "ascii"):
        data = trimesh.exchange.ply.export_ply(cloud, encoding=encoding)
        read = load_splats(tmp_path, data, "a.ply")
        np.testing.assert_allclose(read.means, points, atol=1e-6)
        np.testing.assert_allclose(read.colors(), colors[:, :3] / 255, atol=1e-6)
    bare = (
        b"ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
    )
    with pytest.warns(UserWarning, match="1 of 3 points"):
        read = load_splats(tmp_path, bare + b"0 0 0\n1 0 0\nnan 0 0\n", "a.ply")
    np.testing.assert_array_equal(read.means, [[0, 0, 0], [1, 0, 0]])
    np.testing.assert_allclose(read.colors(), 0.5)
    with pytest.raises(AssetError, match="fewer than two of its"):
        load(tmp_path, bare + b"0 0 0\nnan 0 0\nnan 0 0\n", "a.ply")


def ply_with(vertices: np.ndarray, *others: PlyElement, text: bool) -> bytes:
    file = io.BytesIO()
    PlyData([PlyElement.describe(vertices, "vertex"), *others], text=text).write(file)
    return file.getvalue()


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize(("kind", "most"), [("u1", 255), ("u2", 65535), ("u2", 255), ("f4", 1), ("f8", 255)])
def test_colours_of_points_have_their_type(kind, most, text, tmp_path):
    rng = np.random.default_rng(0)
    rows = np.zeros(50, [*((axis, "f4") for axis in "xyz"), *((color, kind) for color in ("red", "green", "blue"))])
    colors = rng.uniform(0, 1, (50, 3)).astype("f4")
    colors[0] = 1
    for axis in "xyz":
        rows[axis] = rng.normal(size=50)
    for i, color in enumerate(("red", "green", "blue")):
        rows[color] = colors[:, i] * most if kind[0] == "f" else np.rint(colors[:, i] * most)
    read = load_splats(tmp_path, ply_with(rows, text=text), "a.ply")
    np.testing.assert_allclose(read.colors(), colors, atol=1e-6 if kind[0] == "f" else 0.501 / most)


@pytest.mark.parametrize("text", [False, True])
def test_points_far_away_keep_their_digits(text, tmp_path):
    rng = np.random.default_rng(0)
    points = rng.uniform(-0.5, 0.5, (300, 3))
    origin = np.array([500_000.0, 4_100_000.0, 120.0])  # metres, as on a map
    points[:2] = [[-0.5, -0.5, -0.5], [0.5, 0.5, 0.5]]
    rows = np.zeros(300, [(axis, "f8") for axis in "xyz"])
    for i, axis in enumerate("xyz"):
        rows[axis] = points[:, i] + origin[i]
    with pytest.warns(UserWarning, match=r"\(500000, 4100000, 120\) is the new origin"):
        read = load_splats(tmp_path, ply_with(rows, text=text), "a.ply")
    np.testing.assert_allclose(read.means, points, atol=1e-8 if not text else 1e-6)


# Four triangles of two strips, by hand: every second one of a strip is reversed, -1 and repeated vertices end a strip.
STRIPS = [[0, 1, 2, 3, -1, 2, 3, 4], [4, 5, 5, 0, 1]]
TRIANGLES = [[0, 1, 2], [2, 1, 3], [2, 3, 4], [5, 0, 1]]


@pytest.mark.parametrize("kind", ["text", "little", "big"])
def test_strips_of_triangles_are_read(kind, tmp_path):
    rng = np.random.default_rng(0)
    rows = np.zeros(6, [*((name, "f4") for name in ("x", "y", "z", "nx", "ny", "nz")), ("red", "u1"), ("green", "u1"),
                        ("blue", "u1")])  # fmt: skip
    for name in rows.dtype.names:
        rows[name] = rng.integers(0, 256, 6) if rows[name].dtype == np.uint8 else rng.normal(size=6)
    strips = np.empty(2, [("vertex_indices", object)])
    strips["vertex_indices"] = [np.array(strip, "i4") for strip in STRIPS]
    element = PlyElement.describe(strips, "tristrips", len_types={"vertex_indices": "i4"})
    file = io.BytesIO()
    PlyData([PlyElement.describe(rows, "vertex"), element], kind == "text", ">" if kind == "big" else "<").write(file)
    mesh = load(tmp_path, file.getvalue(), "a.ply")
    assert isinstance(mesh, Mesh)
    np.testing.assert_array_equal(mesh.faces, TRIANGLES)
    np.testing.assert_allclose(mesh.vertices, np.stack([rows[axis] for axis in "xyz"], axis=1), rtol=1e-6)
    assert mesh.normals is not None
    assert mesh.colors is not None
    np.testing.assert_allclose(mesh.normals, np.stack([rows[f"n{axis}"] for axis in "xyz"], axis=1), rtol=1e-6)
    np.testing.assert_allclose(
        mesh.colors * 255, np.stack([rows["red"], rows["green"], rows["blue"]], axis=1), atol=1e-4
    )
    for end in (-1, -9) if kind != "text" else (-4, -9):
        with pytest.raises(AssetError) as error:
            load(tmp_path, file.getvalue()[:end], "a.ply")
        assert "\n" not in str(error.value)


def test_a_strip_faces_one_side(tmp_path):
    """A flat strip in the plane z = 0: all its triangles look the same way."""
    header = b"ply\nformat ascii 1.0\nelement vertex 4\nproperty float x\nproperty float y\nproperty float z\n"
    header += b"element tristrips 1\nproperty list int int vertex_indices\nend_header\n"
    mesh = load(tmp_path, header + b"0 0 0\n1 0 0\n0 1 0\n1 1 0\n4 0 1 2 3\n", "a.ply")
    assert isinstance(mesh, Mesh)
    corners = mesh.vertices[mesh.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    np.testing.assert_array_equal(normals, [[0, 0, 1], [0, 0, 1]])
    with pytest.raises(AssetError, match="vertex that does not exist"):
        load(tmp_path, header + b"0 0 0\n1 0 0\n0 1 0\n1 1 0\n4 0 1 2 4\n", "a.ply")


def test_a_missing_picture_is_told_in_one_line(tmp_path, caplog):
    data = (MESHES / "vertuv.ply").read_bytes()
    with pytest.warns(UserWarning, match=r"^red\.png is missing in the asset's folder and is left out$"):
        assert isinstance(load(tmp_path, data, "a.ply"), Mesh)
    assert not caplog.records  # no traceback of the library
