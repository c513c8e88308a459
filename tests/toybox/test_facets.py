import numpy as np
import pytest
import trimesh

from sds3d.toybox.facets import crate, striped
from sds3d.toybox.shapes import Shape, cylinder, merge


def corners(shape: Shape) -> np.ndarray:
    return shape.vertices[shape.faces]


def test_a_crate_is_a_closed_box_without_its_inside() -> None:
    shape = crate(2.0, 1.0, 0.5, 0.1)
    mesh = trimesh.Trimesh(shape.vertices, shape.faces)
    mesh.merge_vertices(merge_norm=True)
    assert mesh.is_watertight
    np.testing.assert_allclose(mesh.bounds, [[-1, 0, -0.5], [1, 0.5, 0.5]], atol=1e-12)
    # The inside: the width less two walls of 0.1, the depth less two of 0.05, the height less the floor.
    assert merge([shape]).volume() == pytest.approx(2.0 * 1.0 * 0.5 - 1.8 * 0.9 * 0.4, rel=1e-5)
    # Every side is flat: its normals are those of the faces, along one axis.
    flat = np.cross(corners(shape)[:, 1] - corners(shape)[:, 0], corners(shape)[:, 2] - corners(shape)[:, 0])
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    np.testing.assert_allclose(shape.normals[shape.faces], np.repeat(flat[:, None], 3, axis=1), atol=1e-12)
    np.testing.assert_allclose(np.abs(flat).max(axis=1), 1.0, atol=1e-12)


def test_stripes_are_sectors_with_sharp_edges() -> None:
    red, blue = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)
    plain = cylinder(0.5, 1.0, segments=24)
    shape = striped(plain, 6, red, blue)
    np.testing.assert_array_equal(corners(shape), corners(plain))
    colors = shape.colors[shape.faces]
    np.testing.assert_array_equal(colors, np.repeat(colors[:, :1], 3, axis=1))
    x, _, z = corners(shape).mean(axis=1).T
    turn = np.rad2deg(np.arctan2(x, z)) % 360
    # Six sectors of 60 degrees from +Z towards +X, red first.
    is_red = (turn // 60) % 2 == 0
    np.testing.assert_array_equal(colors[:, 0], np.where(is_red[:, None], red, blue))
