import numpy as np
import pytest
import trimesh
from scipy import integrate, ndimage, optimize

from sds3d.cameras import turntable
from sds3d.geometry.mesh import EmptySurfaceError, Mesh
from sds3d.geometry.triangles import vertex_normals
from sds3d.rendering.mesh_zbuffer import rasterize
from sds3d.representations import density_surface
from sds3d.representations.density_surface import extract_surface, grid_points
from tests.formats.export_shapes import grid, position_color, sphere_alpha, sphere_density, torus_density, torus_mesh


def as_trimesh(mesh: Mesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)


def assert_clean(mesh: Mesh) -> None:
    solid = as_trimesh(mesh)
    assert solid.is_watertight
    assert solid.is_winding_consistent
    assert solid.is_volume
    assert mesh.volume() > 0
    assert mesh.vertices.dtype == np.float32
    assert mesh.faces.dtype == np.int32
    assert mesh.normals is not None
    assert mesh.colors is not None
    assert np.isfinite(mesh.vertices).all()
    assert np.abs(mesh.vertices).max() <= 0.5
    assert (solid.area_faces > 0).all()
    assert len(np.unique(np.sort(mesh.faces, axis=1), axis=0)) == len(mesh.faces)
    assert len(np.unique(mesh.faces)) == len(mesh.vertices)
    np.testing.assert_allclose(np.linalg.norm(mesh.normals, axis=1), 1, atol=1e-5)


def test_grid_points_run_x_slowest_between_the_bounds():
    points = grid_points(3, (-1, 3)).reshape(3, 3, 3, 3)
    np.testing.assert_array_equal(points[2, 1, 0], [3, 1, -1])


@pytest.mark.parametrize("resolution", [32, 65])
def test_a_sphere_has_its_radius_normals_and_colours(resolution):
    def ball(points):  # log-linear in the radius, 1 at 0.3 m
        return np.exp(np.clip(40 * (0.3 - np.linalg.norm(points, axis=-1)), -6, 6)).astype(np.float32)

    # Two plateaus of equal weight in log density: Otsu's threshold lies between them.
    mesh = extract_surface(ball(grid(resolution)), position_color)
    assert_clean(mesh)
    radii = np.linalg.norm(mesh.vertices, axis=1)
    assert np.ptp(radii) < 0.2 / resolution
    assert abs(radii.mean() - 0.3) < 2 / resolution
    outward = mesh.vertices / radii[:, None]
    assert (outward * mesh.normals).sum(axis=1).min() > 0.99
    np.testing.assert_allclose(mesh.colors, mesh.vertices + 0.5, atol=1e-6)


def test_a_torus_keeps_its_hole_and_its_volume():
    mesh = torus_mesh(max_faces=20_000)
    assert_clean(mesh)
    assert as_trimesh(mesh).euler_number == 0
    assert len(mesh.faces) <= 20_000


def test_decimation_keeps_the_shape():
    full, small = torus_mesh(20_000), torus_mesh(1_000)
    assert_clean(small)
    assert len(small.faces) <= 1_000
    assert small.volume() == pytest.approx(full.volume(), rel=0.02)


def test_the_isovalue_is_the_one_whose_silhouettes_match_the_render():
    # The ball is opaque only deep inside the ramp, so a fixed low threshold would be 10 % too wide.
    sphere = {"radius": 0.45, "width": 0.4, "peak": 30.0}
    mesh = extract_surface(
        sphere_density(grid(64), **sphere), position_color, alpha_of=lambda c: sphere_alpha(c, **sphere)
    )
    assert_clean(mesh)
    cameras = turntable(5, elevation=20, size=128)
    expected = sphere_alpha(cameras, **sphere) > 0.5
    mask = rasterize(mesh.vertices, mesh.faces, mesh.colors, cameras).face >= 0
    iou = (mask & expected).sum() / (mask | expected).sum()
    assert iou > 0.97
    fixed = extract_surface(sphere_density(grid(64), **sphere), position_color)
    mask = rasterize(fixed.vertices, fixed.faces, fixed.colors, cameras).face >= 0
    assert (mask & expected).sum() / (mask | expected).sum() < iou


def test_the_silhouettes_match_for_other_bounds_too():
    points = grid_points(48, (-2, 2)).reshape(48, 48, 48, 3)
    sphere = {"radius": 1.5, "width": 1.0, "peak": 20.0}

    def alpha_of(cameras):
        origins, directions = (tensor.numpy() for tensor in cameras.rays())
        steps = np.linspace(5, 12, 200)
        depth = sum(sphere_density(origins + s * directions, **sphere) for s in steps) * (steps[1] - steps[0])
        return 1 - np.exp(-depth)

    mesh = extract_surface(sphere_density(points, **sphere), lambda p: p * 0 + 0.5, (-2, 2), alpha_of=alpha_of)
    assert as_trimesh(mesh).is_watertight

    def optical_depth(impact):  # of a ray at this distance from the centre
        half = np.sqrt(1.5**2 - impact**2)
        return 2 * integrate.quad(lambda s: 20 * (1.5 - np.hypot(impact, s)), 0, half)[0]

    edge = optimize.brentq(lambda impact: optical_depth(impact) - np.log(2), 0.6, 1.499)
    half_a_pixel = 0.5 * 2 * 8.4 * np.tan(np.radians(15)) / 96
    assert np.linalg.norm(mesh.vertices, axis=1).mean() == pytest.approx(edge, abs=half_a_pixel)


def noisy_density(seed: int) -> np.ndarray:
    """A ball with specks around it and holes in it."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(64, 64, 64)), 1) * 20
    return np.exp(np.clip(12 * (0.35 - np.linalg.norm(grid(64), axis=-1)) + noise, -15, 8)).astype(np.float32)


@pytest.mark.parametrize(
    ("density", "most"),
    [
        (sphere_density(grid(64), 0.45, 0.4, 30.0), 22),
        (sphere_density(grid(64), 0.35, 0.01, 500.0), 33),  # hard edges: nearly all candidates are equally good
        (torus_density(grid(64)), 22),
        (noisy_density(0), 26),
        (noisy_density(1), 26),
    ],
    ids=["ramp", "hard", "torus", "noisy", "noisier"],
)
def test_the_isovalue_is_the_best_of_all_candidates_though_few_are_drawn(density, most, monkeypatch):
    search, drawn = density_surface._plateau, []

    def checked(logs, outlines, target):
        def counted(log):
            drawn.append(log)
            return outlines(log)

        best = search(logs, counted, target)
        masks = [outlines(log) for log in logs]
        scores = np.array([(mask & target).sum() / (mask | target).sum() for mask in masks])
        assert best == logs[scores >= scores.max() - 1e-3].mean()
        return best

    monkeypatch.setattr(density_surface, "_plateau", checked)
    extract_surface(density, position_color, alpha_of=lambda c: sphere_alpha(c, radius=0.4, width=0.2, peak=30.0))
    assert len(set(drawn)) <= most


def plainly_cleaned(field):
    """Like `_without_dust_and_cavities`, on the whole grid."""
    solid = field > 0.5
    labels, count = ndimage.label(solid, np.ones((3, 3, 3)))
    shell = solid & ~ndimage.binary_erosion(solid)
    areas = np.bincount(labels[shell], minlength=count + 1)
    dust = areas < 0.01 * areas.sum()
    dust[0] = False
    field = np.where(dust[labels], np.float32(0), field)
    hollows, _ = ndimage.label(~(field > 0.5))
    return np.where((hollows > 0) & (hollows != hollows[0, 0, 0]), np.float32(1), field)


@pytest.mark.parametrize("seed", range(4))
def test_skipping_empty_space_changes_no_bit_of_the_surface(seed, monkeypatch):
    density = noisy_density(seed)
    density = np.roll(density, 16, axis=seed % 3) if seed else density  # the object is cut by the border
    field = density / (density + np.float32(1))
    for axis in range(3):
        np.moveaxis(field, axis, 0)[[0, -1]] = 0
    cleaned = plainly_cleaned(field)
    assert (cleaned != field).any()
    np.testing.assert_array_equal(density_surface._without_dust_and_cavities(field.copy()), cleaned)
    mesh = extract_surface(density, position_color)
    monkeypatch.setattr(density_surface, "_crossed", np.ones_like)  # no cell is skipped
    monkeypatch.setattr(density_surface, "_without_dust_and_cavities", plainly_cleaned)
    whole = extract_surface(density, position_color)
    np.testing.assert_array_equal(mesh.vertices, whole.vertices)
    np.testing.assert_array_equal(mesh.faces, whole.faces)


def test_separate_parts_are_kept_and_specks_removed():
    points = grid(64)
    density = sphere_density(points - [-0.15, 0, 0], radius=0.25, width=0.05)
    density += sphere_density(points - [0.3, 0, 0], radius=0.1, width=0.05)
    for corner in ([0.4, 0.4, 0.4], [-0.4, 0.4, -0.4], [0.4, -0.4, -0.4]):
        density += sphere_density(points - corner, radius=0.03, width=0.02)
    mesh = extract_surface(density, position_color)
    assert_clean(mesh)
    parts = as_trimesh(mesh).split()
    assert len(parts) == 2
    assert sorted(np.sign(part.centroid[0]) for part in parts) == [-1, 1]


def test_hidden_cavities_are_filled():
    points = grid(48)
    shell = sphere_density(points, radius=0.4, width=0.05) * (np.linalg.norm(points, axis=-1) > 0.25)
    mesh = extract_surface(shell.astype(np.float32), position_color)
    assert_clean(mesh)
    assert as_trimesh(mesh).body_count == 1


def test_a_solid_block_is_closed_inside_its_bounds():
    assert_clean(extract_surface(np.full((24, 24, 24), 50, np.float32), position_color))


@pytest.mark.parametrize("seed", [0, 1])
def test_a_noisy_field_still_gives_a_closed_manifold(seed):
    mesh = extract_surface(noisy_density(seed), position_color, max_faces=3000)
    assert_clean(mesh)
    assert len(mesh.faces) <= 3000


def test_axes_keep_their_order():
    points = grid(48)
    density = sphere_density(points - [0.1, 0.2, 0.3], radius=0.15, width=0.05)
    mesh = extract_surface(density, position_color)
    np.testing.assert_allclose(mesh.vertices.mean(axis=0), [0.1, 0.2, 0.3], atol=0.01)


def test_the_front_faces_plus_z_in_a_render():
    """A red cap on +Z is visible from azimuth 0 and hidden from azimuth 180."""

    def color(points):
        return np.where(points[:, 2:] > 0.1, [[1.0, 0, 0]], [[0, 0, 1.0]]).astype(np.float32)

    mesh = extract_surface(sphere_density(grid(40)), color)
    pictures = rasterize(mesh.vertices, mesh.faces, mesh.colors, turntable(2, elevation=0, size=33)).attributes
    np.testing.assert_allclose(pictures[:, 16, 16], [[1, 0, 0], [0, 0, 1]], atol=1e-3)


def test_the_result_is_deterministic():
    first, second = torus_mesh(500), torus_mesh(500)
    np.testing.assert_array_equal(first.vertices, second.vertices)
    np.testing.assert_array_equal(first.faces, second.faces)


def test_the_error_for_an_empty_scene_names_the_cure():
    with pytest.raises(EmptySurfaceError, match="train longer"):
        extract_surface(np.zeros((16, 16, 16), np.float32), position_color)
    fog = np.full((16, 16, 16), 1e-3, np.float32)
    with pytest.raises(EmptySurfaceError, match="train longer"):
        extract_surface(fog, position_color, alpha_of=lambda c: np.full((len(c), c.height, c.width), 1e-3))


@pytest.mark.parametrize(
    ("density", "message"),
    [
        (np.zeros((4, 5, 6)), "cube"),
        (np.full((8, 8, 8), np.nan), "diverged"),
    ],
    ids=["no cube", "NaN"],
)
def test_bad_grids_are_refused(density, message):
    with pytest.raises(ValueError, match=message):
        extract_surface(density, position_color)


def test_bad_callbacks_are_refused():
    density = sphere_density(grid(16))
    with pytest.raises(ValueError, match="alpha_of"):
        extract_surface(density, position_color, alpha_of=lambda c: np.ones((1, 2, 2)))
    with pytest.raises(ValueError, match="color_fn"):
        extract_surface(density, lambda points: np.ones(len(points)))


def test_vertex_normals_of_a_tetrahedron_point_outwards():
    vertices = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], np.float32)
    faces = np.array([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]], np.int32)
    assert Mesh(vertices, faces).volume() > 0
    np.testing.assert_allclose(vertex_normals(vertices, faces), vertices / np.sqrt(3), atol=1e-6)
