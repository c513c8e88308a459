"""The z-buffer against ray casting in float64, closed forms and the camera conventions."""

from functools import partial

import numpy as np
import pytest
import torch
import trimesh

from sds3d.cameras import Cameras, orbit
from sds3d.geometry.mesh import Mesh
from sds3d.rendering.mesh_differentiable import interpolate_reference, rasterize_mesh_reference
from sds3d.rendering.mesh_zbuffer import antialiased, box_filter, rasterize
from sds3d.rendering.mesh_zbuffer_numba import nearest_faces
from sds3d.rendering.shading import Light, headlight, sample_texture, shade_mesh
from tests.rendering.bounds import assert_within_rounding, rounding

RED, BLUE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)


def sphere(subdivisions: int = 4, radius: float = 0.5, center: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Mesh:
    ball = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    normals = (ball.vertices / radius).astype(np.float32)
    return Mesh((ball.vertices + center).astype(np.float32), ball.faces.astype(np.int32), normals=normals)


def soup(n_faces: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return triangles that intersect and share vertices, in a cube of side 0.9."""
    rng = np.random.default_rng(seed)
    vertices = rng.uniform(-0.45, 0.45, (n_faces, 3)).astype(np.float32)
    faces = np.stack([rng.permutation(n_faces) for _ in range(3)], axis=1).astype(np.int32)
    return vertices, faces


def cast(vertices: np.ndarray, faces: np.ndarray, cameras: Cameras) -> tuple[np.ndarray, np.ndarray]:
    """Brute-force Moller-Trumbore in float64: distances (B, H, W, F), inf for misses, and barycentrics (..., F, 3)."""
    origins, directions = (x.double().numpy() for x in cameras.rays())
    a, b, c = (vertices[faces[:, i]].astype(np.float64) for i in range(3))
    d, o = directions[..., None, :], origins[..., None, :]
    p = np.cross(d, c - a)
    determinant = np.einsum("...i,...i->...", np.broadcast_to(b - a, p.shape), p)
    t = o - a
    q = np.cross(t, b - a)
    determinant[determinant == 0] = np.nan  # triangles without area are missed
    v = (t * p).sum(-1) / determinant
    w = (d * q).sum(-1) / determinant
    distance = ((c - a) * q).sum(-1) / determinant
    inside = (v >= 0) & (w >= 0) & (v + w <= 1) & (distance > 0)
    return np.where(inside, distance, np.inf), np.stack([1 - v - w, v, w], axis=-1)


def reference(faces: np.ndarray, cameras: Cameras, vertices: torch.Tensor) -> list[torch.Tensor]:
    """Return face, barycentrics, depth and interpolated positions, in plain torch."""
    raster = rasterize_mesh_reference(vertices, torch.from_numpy(faces), cameras)
    return [*raster, interpolate_reference(vertices, torch.from_numpy(faces), raster)]


class TestAgainstRayCasting:
    cameras = orbit([10.0, 130.0, 250.0], torch.tensor([-20.0, 15.0, 80.0]), size=32)

    def test_the_reference_casts_the_same_rays(self):
        """The plain-torch reference equals ray casting in float64 at every pixel."""
        vertices, faces = soup(60)
        distance, barycentric = cast(vertices, faces, self.cameras)
        nearest = np.where(np.isfinite(distance.min(-1)), distance.argmin(-1), -1)
        face, weights, depth, points = (
            x.numpy() for x in reference(faces, self.cameras, torch.tensor(vertices).double())
        )
        np.testing.assert_array_equal(face, nearest)
        hit = nearest >= 0
        assert 0.3 < hit.mean() < 0.9
        # The cameras are float32.
        np.testing.assert_allclose(depth[hit][:, 0], distance.min(-1)[hit], atol=1e-6)
        origins, directions = (x.double().numpy() for x in self.cameras.rays())
        np.testing.assert_allclose(points[hit], (origins + depth * directions)[hit], atol=1e-6)
        expected = np.take_along_axis(barycentric, nearest[..., None, None].clip(0), axis=-2)[..., 0, :]
        np.testing.assert_allclose(weights[hit], expected[hit], atol=1e-4)  # includes faces seen edge-on

    @pytest.mark.parametrize("seed", [0, 1])
    def test_faces_depth_and_barycentrics(self, seed):
        vertices, faces = soup(60, seed)
        hits = rasterize(vertices, faces, vertices, self.cameras)
        results = hits.face, hits.barycentric, hits.depth[..., None], hits.attributes
        of_vertices = partial(reference, faces, self.cameras)
        assert_within_rounding([torch.from_numpy(x) for x in results], of_vertices, torch.from_numpy(vertices))

    def test_steep_perspective(self):
        """On a floor from the near plane to the horizon, screen-linear interpolation would be far off."""
        floor = np.array([[-9, -0.3, 2], [9, -0.3, 2], [9, -0.3, -9], [-9, -0.3, -9]], np.float32)
        faces, cameras = np.array([[0, 1, 2], [0, 2, 3]], np.int32), orbit([0.0], 0.0, 2.1, 60.0, size=32)
        expected = -0.3 / cameras.rays()[1].double()[..., 1]
        exact = reference(faces, cameras, torch.tensor(floor).double())
        hit = exact[0] >= 0
        assert hit[:, 20:].all()
        torch.testing.assert_close(exact[2][hit][:, 0], expected[hit], atol=0, rtol=1e-6)
        hits = rasterize(floor, faces, floor, cameras)
        results = hits.face, hits.barycentric, hits.depth[..., None], hits.attributes
        of_vertices = partial(reference, faces, cameras)
        assert_within_rounding([torch.from_numpy(x) for x in results], of_vertices, torch.from_numpy(floor))

    def test_barycentrics_sum_to_one_and_empty_pixels_are_zero(self):
        vertices, faces = soup(40, seed=2)
        hits = rasterize(vertices, faces, vertices, self.cameras)
        hit = hits.face >= 0
        # Three products are divided by their sum.
        np.testing.assert_allclose(hits.barycentric.sum(-1), hit.astype(np.float32), atol=rounding(8))
        assert np.array_equal(hits.depth > 0, hit)
        assert not hits.attributes[~hit].any()

    def test_closed_mesh_has_no_cracks(self):
        """Every pixel well inside the silhouette is covered by the side that faces the camera."""
        ball = sphere(5)
        cameras = orbit([0.0, 37.0, 205.0], 21.0, size=256)
        hits = rasterize(ball.vertices, ball.faces, ball.vertices, cameras)
        origins, directions = (x.numpy() for x in cameras.rays())
        closest = np.linalg.norm(np.cross(origins, directions), axis=-1)  # distance of the ray from the centre
        hit = hits.face >= 0
        assert hit[closest < 0.495].all()
        assert not hit[closest > 0.5001].any()
        expected = np.sqrt(2.1**2 - closest**2) - np.sqrt((0.25 - closest**2).clip(0))
        np.testing.assert_allclose(hits.depth[closest < 0.45], expected[closest < 0.45], atol=1e-3)


def test_edges_through_pixel_centres_leave_no_gap():
    """Two triangles share an edge that passes through a pixel's centre except for rounding: one must cover it."""
    rng = np.random.default_rng(0)
    faces = np.array([[0, 1, 2], [1, 0, 3]], np.int32)
    for _ in range(500):
        pixel = rng.integers(4, 12, 2)
        along = rng.normal(size=2)
        along /= np.linalg.norm(along)
        across = np.array([-along[1], along[0]])
        before, behind = rng.uniform(3, 60, 2)
        center = pixel + 0.5
        corners = [center - before * along, center + behind * along, center + 40 * across, center - 40 * across]
        screen = np.concatenate([corners, np.ones((4, 1))], axis=1).astype(np.float32)
        face = np.full((16, 16), -1, np.int32)
        nearest_faces(screen, faces, face)
        assert face[pixel[1], pixel[0]] >= 0


def test_silhouette_area_of_a_sphere():
    """A centred sphere of radius r at distance d is a disc of radius f r / sqrt(d^2 - r^2) pixels."""
    cameras = orbit([0.0, 50.0], 30.0, size=128)
    _, alpha = shade_mesh(sphere(5), cameras, supersampling=4)
    focal = 64 / np.tan(np.radians(15.0))
    expected = np.pi * (focal * 0.5) ** 2 / (2.1**2 - 0.25)
    np.testing.assert_allclose(alpha.sum((1, 2, 3)), expected, rtol=3e-3)


class TestConventions:
    def seen(self, center: tuple[float, float, float], azimuth: float, elevation: float = 0.0) -> np.ndarray:
        """Return row and column of a small sphere's centroid in the picture, in [0, 1]."""
        ball = sphere(2, 0.05, center)
        hits = rasterize(ball.vertices, ball.faces, ball.vertices, orbit([azimuth], elevation, size=65))
        rows, columns = np.nonzero(hits.face[0] >= 0)
        return np.array([rows.mean() + 0.5, columns.mean() + 0.5]) / 65

    @pytest.mark.parametrize(
        ("center", "azimuth"), [((0, 0, 0.4), 0), ((0.4, 0, 0), 90), ((0, 0, -0.4), 180), ((-0.4, 0, 0), 270)]
    )
    def test_the_camera_is_at_its_azimuth(self, center, azimuth):
        ball = sphere(2, 0.05, center)
        cameras = orbit([azimuth], 0.0, size=65)
        hits = rasterize(ball.vertices, ball.faces, ball.vertices, cameras)
        assert abs(hits.depth[0, 32, 32] - (2.1 - 0.4 - 0.05)) < 2e-3

    def test_up_is_up_and_right_is_right(self):
        row, column = self.seen((0.0, 0.3, 0.0), 0)
        assert row < 0.3
        assert abs(column - 0.5) < 0.02
        row, column = self.seen((0.3, 0.0, 0.0), 0)  # +X is on the right of the front view
        assert column > 0.7
        assert abs(row - 0.5) < 0.02
        row, column = self.seen((0.0, 0.0, 0.3), 90)  # and from +X the front is on the left
        assert column < 0.3

    def test_from_above_the_front_points_down(self):
        row, column = self.seen((0.0, 0.0, 0.3), 0, elevation=90)
        assert row > 0.7
        assert abs(column - 0.5) < 0.02

    def test_a_patch_at_plus_x_is_visible_at_azimuth_90(self):
        ball = sphere(4)
        red = ball.vertices[:, :1] > 0.45
        colors = np.where(red, RED, BLUE).astype(np.float32)
        mesh = Mesh(ball.vertices, ball.faces, colors, ball.normals)
        pictures, _ = shade_mesh(mesh, orbit([0.0, 90.0, 180.0, 270.0], 0.0), light=Light(np.array([0, 1, 0]), 1, 0))
        # Means of four samples, each interpolated from three equal colours and lit by 1.
        np.testing.assert_allclose(pictures[:, 32, 32], [BLUE, RED, BLUE, BLUE], atol=rounding(16))


class TestHardTriangles:
    cameras = orbit([0.0], 0.0, size=32)

    def test_triangles_behind_or_across_the_near_plane_are_ignored(self):
        ball = sphere(2)
        clean = rasterize(ball.vertices, ball.faces, ball.vertices, self.cameras)
        behind = [[-1, -1, 3], [1, -1, 3], [0, 1, 4]]
        across = [[-1, 0, 0], [1, 0, 0], [0, 0.2, 5]]
        at_the_camera = [[0, 0, 2.1], [0.1, 0, 2.1], [0, 0.1, 2.1]]
        vertices = np.concatenate([ball.vertices, behind, across, at_the_camera]).astype(np.float32)
        n = len(ball.vertices)
        extra = np.arange(n, n + 9, dtype=np.int32).reshape(3, 3)
        hits = rasterize(vertices, np.concatenate([ball.faces, extra]), vertices, self.cameras)
        assert np.array_equal(hits.face, clean.face)
        assert np.array_equal(hits.depth, clean.depth)

    def test_a_vertex_before_the_near_plane_removes_its_faces(self):
        triangle = np.array([[-0.3, -0.3, 1.8], [0.3, -0.3, 0], [0, 0.3, 0]], np.float32)  # the camera is at z = 2.1
        for near, covered in ((0.2, True), (0.4, False)):
            hits = rasterize(triangle, np.array([[0, 1, 2]], np.int32), triangle, self.cameras, near=near)
            assert (hits.face == 0).any() == covered

    def test_the_first_of_equal_faces_is_shown(self):
        ball = sphere(1)
        once = rasterize(ball.vertices, ball.faces, ball.vertices, self.cameras)
        twice = rasterize(ball.vertices, np.concatenate([ball.faces, ball.faces]), ball.vertices, self.cameras)
        assert np.array_equal(twice.face, once.face)

    def test_degenerate_and_broken_triangles_are_skipped(self):
        ball = sphere(2)
        clean = rasterize(ball.vertices, ball.faces, ball.vertices, self.cameras)
        broken = [[np.nan, 0, 1], [np.inf, 0, 1], [1e38, 1e38, 0], [0, 0.1, 1], [0, 0.2, 1]]
        vertices = np.concatenate([ball.vertices, broken]).astype(np.float32)
        n = len(ball.vertices)
        # A point, a line, and triangles with a NaN, an infinite and an overflowing vertex.
        point_and_line = [[n + 3, n + 3, n + 3], [n + 3, n + 4, n + 3]]
        extra = np.array([*point_and_line, [n, n + 3, n + 4], [n + 1, n + 3, n + 4], [n + 2, n + 3, n + 4]], np.int32)
        hits = rasterize(vertices, np.concatenate([ball.faces, extra]), vertices, self.cameras)
        assert np.array_equal(hits.face, clean.face)
        assert np.isfinite(hits.attributes).all()

    def test_both_sides_are_visible(self):
        triangle = np.array([[-0.3, -0.3, 0], [0.3, -0.3, 0], [0, 0.3, 0]], np.float32)
        cameras = orbit([0.0, 180.0], 0.0, size=33)
        hits = rasterize(triangle, np.array([[0, 1, 2]], np.int32), triangle, cameras)
        assert hits.face[0, 16, 16] == hits.face[1, 16, 16] == 0
        assert np.array_equal(hits.face[0], hits.face[1][:, ::-1])

    def test_no_faces_give_empty_pictures(self):
        hits = rasterize(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32), np.zeros((0, 2)), self.cameras)
        assert (hits.face == -1).all()
        assert hits.attributes.shape == (1, 32, 32, 2)

    def test_triangle_larger_than_the_picture_covers_all(self):
        triangle = np.array([[-90, -90, 0], [90, -90, 0], [0, 90, 0]], np.float32)
        hits = rasterize(triangle, np.array([[0, 1, 2]], np.int32), triangle, self.cameras)
        assert (hits.face == 0).all()

    def test_bad_input_is_refused(self):
        ball = sphere(1)
        with pytest.raises(ValueError, match="faces must index"):
            rasterize(ball.vertices, ball.faces + 1000, ball.vertices, self.cameras)
        with pytest.raises(ValueError, match="one row per vertex"):
            rasterize(ball.vertices, ball.faces, ball.vertices[:5], self.cameras)
        with pytest.raises(ValueError, match="vertices must have shape"):
            rasterize(ball.vertices[:, :2], ball.faces, ball.vertices, self.cameras)
        with pytest.raises(ValueError, match="faces must have shape"):
            rasterize(ball.vertices, ball.faces.ravel(), ball.vertices, self.cameras)


class TestAntialiasing:
    def test_box_filter_is_the_mean_of_blocks(self):
        pictures = np.random.default_rng(0).random((2, 6, 9, 3), np.float32)
        expected = pictures.reshape(2, 2, 3, 3, 3, 3).mean((2, 4))
        np.testing.assert_allclose(
            box_filter(pictures, 3), expected, rtol=rounding(2 * 9 + 2)
        )  # a sum of nine, and its part
        with pytest.raises(ValueError, match="blocks of 2"):
            box_filter(pictures, 2)

    def test_alpha_converges_to_the_covered_area(self):
        """The coverage of a slanted half-plane, against exact polygon areas."""
        edge = np.array([[-9, -9, 0], [9, -9, 0], [9, 1.8, 0], [-9, -1.8, 0]], np.float32)  # y < 0.2 x
        faces = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
        cameras = orbit([0.0], 0.0, size=16)

        def alpha(large: Cameras) -> np.ndarray:
            return (rasterize(edge, faces, edge, large).face >= 0)[..., None].astype(np.float32)

        coverage = antialiased(alpha, cameras, 16)[0, ..., 0]
        x = np.arange(17.0) - 8
        rows = 8 - np.arange(16.0)[:, None]  # top edges of the pixel rows, y up, in pixels
        # Mean height of the line above each pixel's bottom edge. Exact where the line leaves through the pixel's sides.
        middle = 0.2 * (x[:-1] + x[1:]) / 2
        low, high = middle - 0.1, middle + 0.1
        exact = np.clip(middle - (rows - 1), 0, 1)
        whole = ((low >= rows - 1) & (high <= rows)) | (low >= rows) | (high <= rows - 1)
        np.testing.assert_allclose(coverage[whole], exact[whole], atol=0.05)
        assert ((coverage > 0) & (coverage < 1)).sum() >= 16


class TestShading:
    def test_lambert_on_a_sphere(self):
        """The central pixel sees a normal that points at the camera: colour * (a + d n.l)."""
        ball = sphere(4)
        colors = np.tile(np.array([0.8, 0.4, 0.2], np.float32), (len(ball.vertices), 1))
        mesh = Mesh(ball.vertices, ball.faces, colors, ball.normals)
        cameras = orbit([0.0, 60.0, 180.0], 0.0, size=65)
        light = Light(np.array([0.0, 0.0, 1.0], np.float32), 0.6, 0.4)
        pictures, _ = shade_mesh(mesh, cameras, light=light, supersampling=1)
        factors = 0.6 + 0.4 * np.array([1.0, 0.5, 0.0])
        np.testing.assert_allclose(pictures[:, 32, 32], factors[:, None] * colors[0], atol=2e-3)

    def test_headlight_turns_with_the_camera(self):
        """A sphere of one colour looks the same from all sides."""
        ball = sphere(5)
        cameras = orbit([0.0, 77.0, 180.0, 300.0], torch.tensor([0.0, 30.0, -10.0, 70.0]), size=32)
        pictures, _ = shade_mesh(ball, cameras, supersampling=4)
        np.testing.assert_allclose(pictures, np.broadcast_to(pictures[:1], pictures.shape), atol=0.03)
        assert pictures[0, 12, 12].mean() > pictures[0, 20, 20].mean() + 0.05  # the light comes from the upper left

    def test_inside_is_lit_by_the_flipped_normal(self):
        ball = sphere(3)
        turned = Mesh(ball.vertices, ball.faces[:, ::-1].copy(), normals=-ball.normals)
        cameras = orbit([25.0], 10.0)
        outside, _ = shade_mesh(ball, cameras)
        inside, _ = shade_mesh(turned, cameras)
        np.testing.assert_allclose(inside, outside, atol=rounding(16))  # the vertices are summed in another order

    def test_flat_shading_without_normals(self):
        cube = trimesh.creation.box((0.5, 0.5, 0.5))
        mesh = Mesh(cube.vertices.astype(np.float32), cube.faces.astype(np.int32))
        light = Light(np.array([0.0, 0.0, 1.0], np.float32), 0.5, 0.5)
        pictures, alpha = shade_mesh(mesh, orbit([40.0], 0.0), light=light, supersampling=1)
        shades = np.unique(pictures[alpha[..., 0] > 0].round(4))
        np.testing.assert_allclose(shades, [0.8 * (0.5 + 0.5 * np.cos(np.radians(x))) for x in (90, 0)], atol=1e-4)

    def test_background_and_coverage(self):
        background = (0.3, 0.5, 0.7)
        pictures, alpha = shade_mesh(sphere(3), orbit([0.0]), background)
        np.testing.assert_allclose(
            pictures[alpha[..., 0] == 0], np.tile(background, ((alpha == 0).sum(), 1)), atol=rounding(16)
        )
        assert ((alpha > 0) & (alpha < 1)).any()
        assert pictures.min() >= 0
        assert pictures.max() <= 1

    def test_textured_quad_shows_the_texture_upright(self):
        """glTF: v = 0 is the top row of the image."""
        texture = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
        quad = np.array([[-0.4, -0.4, 0], [0.4, -0.4, 0], [0.4, 0.4, 0], [-0.4, 0.4, 0]], np.float32)
        uv = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], np.float32)
        mesh = Mesh(quad, np.array([[0, 1, 2], [0, 2, 3]], np.int32), uv=uv, texture=texture)
        fovy = float(2 * np.degrees(np.arctan(0.4 / 2.1)))  # the quad fills the picture
        light = Light(np.array([0.0, 0.0, 1.0], np.float32), 1.0, 0.0)
        pictures, _ = shade_mesh(mesh, orbit([0.0], 0.0, fovy=fovy, size=8), light=light, supersampling=1)
        np.testing.assert_allclose(pictures[0], texture / 255.0, atol=1e-3)

    def test_bilinear_look_up_matches_torch(self):
        rng = np.random.default_rng(1)
        texture = rng.integers(0, 256, (5, 7, 3)).astype(np.uint8)
        uv = rng.uniform(-0.1, 1.1, (50, 2)).astype(np.float32)
        expected = torch.nn.functional.grid_sample(
            torch.from_numpy(texture / 255.0).float().permute(2, 0, 1)[None],
            torch.from_numpy(uv)[None, None] * 2 - 1,
            padding_mode="border",
            align_corners=False,
        )[0, :, 0].T
        # Positions are up to 7.7 texels, and neighbours differ by up to 1. Both sides round.
        np.testing.assert_allclose(sample_texture(texture, uv), expected.numpy(), atol=2 * rounding(2 * 8 + 8))

    def test_headlight_direction_in_the_world(self):
        cameras = orbit([0.0, 90.0], 0.0)
        light = headlight(cameras, (0.0, 0.0, 2.0))
        np.testing.assert_allclose(light.direction, [[0, 0, 1], [1, 0, 0]], atol=rounding(16))
