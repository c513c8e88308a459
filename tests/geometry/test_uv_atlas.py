import signal
import subprocess
import time

import numpy as np
import pytest
import trimesh
from scipy import ndimage

from sds3d.geometry import uv_atlas
from sds3d.geometry.mesh import Mesh
from sds3d.geometry.unwrapping import PIECE, pieces, unwrapped, unwrapped_apart
from sds3d.geometry.uv_atlas import bake, rasterize_uv, unwrap
from tests.formats.export_shapes import position_color, torus_mesh

SIZE = 256


@pytest.fixture(scope="module")
def torus() -> Mesh:
    return torus_mesh(2000)


@pytest.fixture(scope="module")
def baked(torus) -> Mesh:
    return bake(torus, position_color, SIZE)


def bilinear(texture, uv):
    """Independent texture lookup in the glTF convention: (0, 0) is the outer corner of the first texel."""
    height, width, _ = texture.shape
    rows, columns = uv[:, 1] * height - 0.5, uv[:, 0] * width - 0.5
    return np.stack(
        [ndimage.map_coordinates(texture[..., i] / 255.0, [rows, columns], order=1, mode="nearest") for i in range(3)],
        axis=1,
    )


def surface_samples(mesh, count=20_000):
    rng = np.random.default_rng(0)
    areas = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False).area_faces
    faces = mesh.faces[rng.choice(len(mesh.faces), count, p=areas / areas.sum())]
    weights = rng.dirichlet([1, 1, 1], count)[:, :, None]
    return (mesh.vertices[faces] * weights).sum(axis=1), (mesh.uv[faces] * weights).sum(axis=1)


def test_the_surface_is_the_same_and_uv_are_in_range(torus, baked):
    assert baked.faces.shape == torus.faces.shape
    np.testing.assert_array_equal(baked.vertices[baked.faces], torus.vertices[torus.faces])
    np.testing.assert_array_equal(baked.normals[baked.faces], torus.normals[torus.faces])
    np.testing.assert_array_equal(baked.colors[baked.faces], torus.colors[torus.faces])
    assert baked.uv.dtype == np.float32
    assert baked.uv.min() >= 0
    assert baked.uv.max() <= 1
    assert baked.texture.shape == (SIZE, SIZE, 3)
    assert baked.texture.dtype == np.uint8
    assert baked.texture.std() > 20


def test_the_texture_looked_up_at_surface_points_is_the_colour_there(baked):
    points, uv = surface_samples(baked)
    error = np.abs(bilinear(baked.texture, uv) - position_color(points)).max(axis=1)
    texel = np.sqrt(trimesh.Trimesh(baked.vertices, baked.faces).area / (SIZE * SIZE * 0.4))
    # Half a quantisation step, and about one texel that filtering reaches beyond an island's edge.
    assert np.quantile(error, 0.9) < 0.5 / 255 + 0.5 * texel
    assert error.max() < 2.5 * texel


def test_vertex_colours_are_interpolated_without_a_color_fn(torus, baked):
    # position_color is linear in space, so interpolation on a face is exact.
    difference = bake(torus, size=SIZE).texture.astype(int) - baked.texture
    assert np.abs(difference).max() <= 1


def test_islands_do_not_overlap(baked):
    """The texels covered by single faces add up to all covered texels."""
    face, _ = rasterize_uv(baked.uv, baked.faces, 1024)
    corners = baked.uv[baked.faces].astype(np.float64)
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    total = np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum() / 2
    assert (face >= 0).mean() == pytest.approx(total, rel=0.01)


def test_mipmaps_show_no_seam(torus):
    """One colour everywhere stays that colour at every level: nothing leaks in from outside the islands."""
    plain = bake(torus, lambda points: np.full_like(points, 0.25), 128)
    assert (plain.texture == 64).all()


def test_rasterised_texels_are_those_whose_centre_lies_in_the_triangle():
    uv = np.array([[0.1, 0.1], [0.9, 0.2], [0.3, 0.8]], np.float32)
    face, weights = rasterize_uv(uv, np.array([[0, 1, 2]], np.int32), 32)
    centers = (np.stack(np.meshgrid(np.arange(32), np.arange(32)), axis=-1) + 0.5) / 32
    np.testing.assert_allclose((weights @ uv)[face >= 0], centers[face >= 0], atol=1e-6)
    half_planes = []
    for i in range(3):
        p, q = uv[i], uv[(i + 1) % 3]
        half_planes.append((q[0] - p[0]) * (centers[..., 1] - p[1]) - (q[1] - p[1]) * (centers[..., 0] - p[0]) > 0)
    np.testing.assert_array_equal(face >= 0, np.logical_and.reduce(half_planes))


def test_a_face_without_a_texels_centre_gets_the_texel_at_its_middle():
    """Unless another face has it. Coordinates are in texels, with the centres at integers."""
    needle = np.array([[2.1, 3.2], [2.1, 3.4], [5.2, 3.3]])
    across = needle[:, ::-1] + [8, 0]
    large, small = np.array([[-2.0, 9.0], [20.0, 9.0], [9.0, 20.0]]), np.array([[9.1, 10.1], [9.3, 10.1], [9.1, 10.3]])
    uv = (np.concatenate([needle, across, large, small]) + 0.5) / 16
    face, weights = rasterize_uv(uv.astype(np.float32), np.arange(12, dtype=np.int32).reshape(4, 3), 16)
    expected = np.full((16, 16), -1)
    expected[3, 3], expected[3, 11] = 0, 1
    np.testing.assert_array_equal(face[:9], expected[:9])
    np.testing.assert_array_equal(weights[[3, 3], [3, 11]], np.float32(1 / 3))
    assert face[10, 9] == 2
    assert not (face == 3).any()


def test_twenty_thousand_faces_bake():
    mesh = bake(torus_mesh(20_000), position_color, 512)
    points, uv = surface_samples(mesh, 2000)
    assert np.abs(bilinear(mesh.texture, uv) - position_color(points)).max() < 0.03


def test_bad_meshes_are_refused(torus):
    with pytest.raises(ValueError, match="color_fn"):
        bake(Mesh(torus.vertices, torus.faces))
    with pytest.raises(ValueError, match="faces"):
        bake(Mesh(torus.vertices, np.zeros((0, 3), np.int32)), position_color)


def test_the_atlas_is_deterministic(torus, baked):
    again = bake(torus, position_color, SIZE)
    np.testing.assert_array_equal(again.uv, baked.uv)
    np.testing.assert_array_equal(again.texture, baked.texture)


def noisy_ball(subdivisions: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    shape = trimesh.creation.icosphere(subdivisions=subdivisions, radius=0.4)
    bumps = 1 + noise * np.random.default_rng(0).normal(size=(len(shape.vertices), 1))
    return (shape.vertices * bumps).astype(np.float32), shape.faces.astype(np.int32)


def overlap(uv: np.ndarray, faces: np.ndarray, size: int) -> float:
    """The share of covered texels whose centre lies on several faces, counted face by face."""
    count = np.zeros((size, size), np.int32)
    centres = (np.stack(np.meshgrid(np.arange(size), np.arange(size)), axis=-1) + 0.5) / size
    for a, b, c in uv[faces].astype(np.float64):
        low = np.floor(np.min([a, b, c], axis=0) * size).astype(int)
        high = np.ceil(np.max([a, b, c], axis=0) * size).astype(int)
        part = centres[low[1] : high[1], low[0] : high[0]]
        area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
        if area == 0:
            continue
        u = ((b[0] - part[..., 0]) * (c[1] - part[..., 1]) - (b[1] - part[..., 1]) * (c[0] - part[..., 0])) / area
        v = ((c[0] - part[..., 0]) * (a[1] - part[..., 1]) - (c[1] - part[..., 1]) * (a[0] - part[..., 0])) / area
        count[low[1] : high[1], low[0] : high[0]] += (u > 0.01) & (v > 0.01) & (u + v < 0.99)
    return float((count > 1).sum() / (count > 0).sum())


def test_a_large_mesh_is_unwrapped_in_pieces_without_overlaps():
    """20,480 faces: every face keeps its corners and has an area, and no two lie on each other."""
    vertices, faces = noisy_ball(5, 0.1)
    rows = pieces(vertices, faces)
    assert len(rows) > 1
    assert max(map(len, rows)) <= PIECE
    np.testing.assert_array_equal(np.sort(np.concatenate(rows)), np.arange(len(faces)))
    began = time.process_time()
    origin, corners, uv = unwrap(vertices, faces, 1024)
    assert time.process_time() - began < 8  # in one piece it takes 11 s and more
    np.testing.assert_array_equal(origin[corners], faces)
    assert 0 <= uv.min() <= uv.max() <= 1
    assert overlap(uv, corners, 1024) < 0.001
    again = unwrap(vertices, faces, 1024)
    for one, other in zip((origin, corners, uv), again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_another_process_gives_the_same_and_can_be_stopped(monkeypatch):
    popen = subprocess.Popen
    vertices, faces = noisy_ball(3, 0.02)
    here = unwrapped(vertices, faces, 0.1, 256)
    there = unwrapped_apart(vertices, faces, 0.1, 256, lambda seconds: None)
    for one, other in zip(here, there, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype

    def stop(seconds: float) -> None:
        raise KeyboardInterrupt

    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1])
    with pytest.raises(KeyboardInterrupt):
        unwrapped_apart(*noisy_ball(6, 0.1), 0.01, 1024, stop)
    assert [process.returncode for process in started] == [-signal.SIGKILL]


def test_a_process_that_starts_slowly_gets_all_of_a_large_mesh(monkeypatch):
    popen = subprocess.Popen
    slowly = ["sh", "-c", 'sleep 0.5; exec "$@"', "sh"]
    monkeypatch.setattr(subprocess, "Popen", lambda command, **options: popen([*slowly, *command], **options))
    vertices, faces = noisy_ball(4, 0.02)
    assert faces.nbytes + vertices.nbytes > 2**16  # more than a pipe holds
    there = unwrapped_apart(vertices, faces, 0.1, 256, lambda seconds: None)
    assert len(there[1]) == len(faces)


def test_the_caller_hears_that_unwrapping_goes_on(monkeypatch, capsys):
    monkeypatch.setattr(uv_atlas, "_ALONE", 100)
    monkeypatch.setattr(uv_atlas, "unwrapped_apart", lambda *given: given[-1](2.5) or given[-1](3.0) or given[-1](7.2))
    unwrap(*noisy_ball(3, 0.02), 256)
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "unwrapping 1280 faces for a texture, 2 s so far",
        "unwrapping 1280 faces for a texture, 7 s so far",
    ]


def test_more_faces_than_can_be_unwrapped_are_refused_in_a_line(monkeypatch):
    monkeypatch.setattr(uv_atlas, "MOST_FACES", 1000)
    with pytest.raises(ValueError, match="1280 faces are too many to unwrap, 1000 at most: simplify the mesh"):
        unwrap(*noisy_ball(3, 0.02), 256)
