"""PLY of meshes and points: read by plyfile and trimesh; and files of other programs."""

import io

import numpy as np
import pytest
import trimesh
from loading import load, load_splats
from plyfile import PlyData

from sds3d.formats.load import AssetError
from sds3d.formats.ply import to_ply


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
