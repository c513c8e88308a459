import hashlib

import numpy as np
import pytest
import trimesh

from sds3d.cameras import orbit
from sds3d.geometry.mesh import Mesh
from sds3d.rendering.mesh_zbuffer import rasterize
from sds3d.rendering.shading import headlight, shade_mesh
from sds3d.toybox.objects import BUILDERS, build
from sds3d.toybox.render import FOVY
from sds3d.toybox.shapes import Shape, arc, box, cap, cylinder, disc, ellipsoid, lathe, merge, prism, rectangle, tube
from sds3d.toybox.world import ACCENT_PART, CATEGORIES, COLORS, DEFAULT_ACCENT, HAS_FRONT, Spec

SHAPES: dict[str, Shape] = {
    "ellipsoid": ellipsoid(0.3, 0.5, 0.7),
    "cap": cap(1.0, 40.0),
    "cylinder": cylinder(0.4, 1.0),
    "cone": cylinder(0.4, 1.0, 0.0),
    "rounded frustum": cylinder(0.4, 1.0, 0.3, rounding=0.1),
    "rounded cone": cylinder(0.4, 1.0, 0.0, rounding=0.05),
    "hollow lathe": lathe([(0, 0), (0.5, 0), (0.5, 1), (0.4, 1), (0.4, 0.1), (0, 0.1)]),
    "torus": arc(1.0, 0.2),
    "arc": arc(1.0, 0.2, -100, 80),
    "tapering tube": tube([(0, 0), (0.5, 0.2), (0.7, 0.8)], [0.2, 0.15, 0.05]),
    "box": box(0.3, 0.5, 0.7),
    "rounded box": box(0.3, 0.5, 0.7, 0.05),
    "hull": prism(rectangle(1.0, 0.5), 0.3, taper=0.6),
    "roof": prism([(-1, 0), (1, 0), (0, 0.7)], 2.0),
    "wrapped disc": disc(0.2, 0.05).wrap(0.5),
    "turned and scaled": box(0.3, 0.5, 0.7, 0.05).rotate("x", 30).scale(1, 2, 0.5).rotate("y", 50).move(1, 2, 3),
}

FIRST_WORLD = {
    "mug": "eb4bd4c42bcf665a",
    "chair": "b99e4a879e447e63",
    "snowman": "ed049259b90f618b",
    "car": "eb5fc55a8f57a8b3",
    "house": "58db5a0aa087dafd",
    "duck": "5c29203f300b8d60",
    "lamp": "db9b87c380f4e705",
    "mushroom": "b9f819d78c697dac",
    "rocket": "1ff55294a8593da8",
    "robot": "fb6adba6960d21a7",
    "teapot": "5ce82639474447f0",
    "tree": "78323aec17c87e7f",
    "cat": "6562cab7cca4a40e",
    "boat": "fd881dc7ae10bd7b",
    "table": "d67cd20088df30df",
    "hat": "0d508f9653223f3f",
}
"""Start of the SHA-256 of three objects of each kind of the first world, as they were when its prior was trained."""


def welded(shape: Shape | Mesh) -> trimesh.Trimesh:
    mesh = trimesh.Trimesh(np.asarray(shape.vertices, dtype=np.float64), shape.faces, process=False)
    mesh.merge_vertices(merge_norm=True, merge_tex=True, digits_vertex=6)
    return mesh


def face_normals(shape: Shape | Mesh) -> np.ndarray:
    a, b, c = (np.asarray(shape.vertices, dtype=np.float64)[shape.faces[:, i]] for i in range(3))
    return np.cross(b - a, c - a)


def volume(shape: Shape) -> float:
    return merge([shape]).volume()


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_are_closed_and_look_outwards(name: str) -> None:
    shape = SHAPES[name]
    mesh = welded(shape)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert volume(shape) > 0
    assert volume(shape) == pytest.approx(mesh.volume, rel=1e-5)
    assert np.linalg.norm(face_normals(shape), axis=1).min() > 1e-8
    np.testing.assert_allclose(np.linalg.norm(shape.normals, axis=1), 1.0, atol=1e-9)
    # Shading normals stay on the outer side of every face that uses them.
    assert (face_normals(shape)[:, None] * shape.normals[shape.faces]).sum(axis=-1).min() > 0


def test_volumes_match_closed_forms() -> None:
    n = 64
    polygon = n / 2 * np.sin(2 * np.pi / n)  # area of a regular polygon in the unit circle
    assert volume(box(0.3, 0.5, 0.7)) == pytest.approx(0.3 * 0.5 * 0.7)
    assert volume(cylinder(0.4, 1.5, segments=n)) == pytest.approx(polygon * 0.16 * 1.5)
    assert volume(cylinder(0.4, 1.5, 0.0, segments=n)) == pytest.approx(polygon * 0.16 * 1.5 / 3)
    frustum = polygon * 1.5 / 3 * (0.4**2 + 0.4 * 0.2 + 0.2**2)
    assert volume(cylinder(0.4, 1.5, 0.2, segments=n)) == pytest.approx(frustum)
    assert volume(prism([(-1, 0), (1, 0), (0, 0.7)], 2.0)) == pytest.approx(1.4)
    assert volume(prism(rectangle(1, 1), 1.0, taper=0.5)) == pytest.approx((1 + 0.5 + 0.25) / 3)
    assert volume(ellipsoid(0.3, 0.5, 0.7, 48, 64)) == pytest.approx(4 / 3 * np.pi * 0.105, rel=0.005)
    assert volume(arc(1.0, 0.2, steps=96)) == pytest.approx(2 * np.pi * 5 * np.sin(2 * np.pi / 10) * 0.04, rel=0.005)


def test_ellipsoid_normals_are_gradients() -> None:
    radii = np.array([0.3, 0.5, 0.7])
    shape = ellipsoid(*radii, rings=32, segments=48)
    gradient = shape.vertices / radii**2
    gradient /= np.linalg.norm(gradient, axis=1, keepdims=True)
    assert (gradient * shape.normals).sum(axis=1).min() > np.cos(np.deg2rad(1.0))


def test_rotation_is_right_handed() -> None:
    x = box(1, 1, 1).move(1, 0, 0)
    assert x.rotate("z", 90).vertices.mean(axis=0) == pytest.approx([0, 1, 0], abs=1e-9)
    assert x.rotate("y", 90).vertices.mean(axis=0) == pytest.approx([0, 0, -1], abs=1e-9)
    y = box(1, 1, 1).move(0, 1, 0)
    assert y.rotate("x", 90).vertices.mean(axis=0) == pytest.approx([0, 0, 1], abs=1e-9)


def test_merge_keeps_parts_and_colors() -> None:
    red, blue = box(1, 1, 1).paint((1, 0, 0)), ellipsoid(0.2).move(2).paint((0, 0, 1))
    mesh = merge([red, blue])
    assert mesh.volume() == pytest.approx(volume(red) + volume(blue), rel=1e-5)
    assert mesh.colors is not None
    left = mesh.vertices[:, 0] < 1
    np.testing.assert_array_equal(mesh.colors[left], np.tile([1, 0, 0], (left.sum(), 1)))
    np.testing.assert_array_equal(mesh.colors[~left], np.tile([0, 0, 1], ((~left).sum(), 1)))


@pytest.mark.parametrize("category", CATEGORIES)
def test_objects_are_sound(category: str) -> None:
    rng = np.random.default_rng(CATEGORIES.index(category))
    for color, accent in [("red", None), ("black", "white"), ("pink", "green")]:
        mesh = build(Spec(category, color, accent), rng)
        assert mesh.colors is not None
        assert mesh.normals is not None
        for values in (mesh.vertices, mesh.colors, mesh.normals):
            assert values.dtype == np.float32
            assert values.shape == mesh.vertices.shape
            assert np.isfinite(values).all()
        assert mesh.faces.dtype == np.int32
        assert 100 <= len(mesh.faces) <= 6000
        assert mesh.colors.min() >= 0
        assert mesh.colors.max() <= 1
        radius = np.linalg.norm(mesh.vertices.astype(np.float64), axis=1).max()
        assert 0.4599 < radius <= 0.5
        np.testing.assert_allclose(mesh.vertices.min(axis=0), -mesh.vertices.max(axis=0), atol=1e-5)
        normals = face_normals(mesh)
        assert np.linalg.norm(normals, axis=1).min() > 1e-8
        assert (normals[:, None] * mesh.normals[mesh.faces]).sum(axis=-1).min() > 0
        for part in welded(mesh).split(only_watertight=False):
            assert part.is_watertight
            assert part.volume > 0


@pytest.mark.parametrize("category", CATEGORIES)
def test_objects_are_random_but_reproducible(category: str) -> None:
    spec = Spec(category, "blue", "yellow")
    first, again, other = (build(spec, np.random.default_rng(seed)) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.vertices, again.vertices)
    np.testing.assert_array_equal(first.faces, again.faces)
    np.testing.assert_array_equal(first.colors, again.colors)
    assert not np.array_equal(first.vertices, other.vertices)
    assert not np.array_equal(first.colors, other.colors)


@pytest.mark.parametrize("category", FIRST_WORLD)
def test_objects_of_the_first_world_never_change(category: str) -> None:
    digest = hashlib.sha256()
    for seed, (color, accent) in enumerate([("red", None), ("white", "green"), ("black", "black")]):
        mesh = build(Spec(category, color, accent), np.random.default_rng(seed))
        for values in (mesh.vertices, mesh.faces, mesh.colors, mesh.normals):
            assert values is not None
            digest.update(np.ascontiguousarray(values).tobytes())
    assert digest.hexdigest()[:16] == FIRST_WORLD[category]


def pictures(mesh: Mesh, azimuths: list[float], elevation: float = 10.0) -> tuple[np.ndarray, np.ndarray]:
    """Unlit colours (B, 64, 64, 3) and coverage (B, 64, 64)."""
    assert mesh.colors is not None
    views = rasterize(mesh.vertices, mesh.faces, mesh.colors, orbit(azimuths, elevation, size=64))
    return views.attributes, views.face >= 0


VISIBLE = 0.02
"""Mean difference of sRGB values over an object. Without a front it is below 0.002; a crown's jewel gives 0.026."""


def front_back_difference(category: str, color: str, seed: int) -> float:
    """Mean difference between the true front and the mirrored back over the object, at 64 pixels.

    The light shines from the middle, so that an object with two equal sides gives 0.
    """
    cameras = orbit([0.0, 180.0], 15.0, fovy=FOVY, size=64)
    light = headlight(cameras, (0.0, 0.6, 0.7))
    mesh = build(Spec(category, color), np.random.default_rng(seed))
    rgb, coverage = shade_mesh(mesh, cameras, (0.5, 0.5, 0.5), light)
    covered = np.maximum(coverage[0], coverage[1, :, ::-1])
    return float(np.abs(rgb[0] - rgb[1, :, ::-1]).mean(axis=-1).sum() / covered.sum())


@pytest.mark.parametrize("category", sorted(HAS_FRONT))
def test_fronts_differ_from_backs(category: str) -> None:
    assert (
        min(front_back_difference(category, color, seed) for color in ("red", "black") for seed in range(3)) > VISIBLE
    )


@pytest.mark.parametrize("category", ["lamp", "tree"])
def test_symmetric_objects_look_the_same_from_behind(category: str) -> None:
    assert front_back_difference(category, "red", 0) < VISIBLE / 10


def test_the_handle_of_a_mug_is_on_the_right_in_the_front_view() -> None:
    colors, covered = pictures(build(Spec("mug", "red", "blue"), np.random.default_rng(0)), [0.0])
    columns = np.nonzero(covered[0] & (colors[0, ..., 2] > 0.6) & (colors[0, ..., 0] < 0.4))[1]
    assert columns.min() > 32


@pytest.mark.parametrize("category", CATEGORIES)
def test_both_colors_are_visible(category: str) -> None:
    main, accent = ("purple", "green") if category != "snowman" else ("white", "green")
    colors, covered = pictures(build(Spec(category, main, accent), np.random.default_rng(1)), [0.0, 90.0, 180.0, 270.0])

    def share(color: str) -> np.ndarray:
        close = np.linalg.norm(colors - np.array(COLORS[color]), axis=-1) < 0.15
        return (close & covered).sum(axis=(1, 2)) / covered.sum(axis=(1, 2))

    assert share(main).mean() > 0.25
    assert share(accent).mean() > 0.04


def test_named_colors_are_well_apart() -> None:
    values = np.array(list(COLORS.values()))
    distance = np.linalg.norm(values[:, None] - values[None], axis=-1) + 10 * np.eye(len(values))
    assert distance.min() > 0.35


def test_tables_agree() -> None:
    assert len(CATEGORIES) == 76
    assert set(BUILDERS) == set(CATEGORIES)
    # The sixteen of the first world keep their places: scorers number their outputs by them.
    assert CATEGORIES[:16] == tuple(FIRST_WORLD)
    assert set(ACCENT_PART) == set(DEFAULT_ACCENT) == set(CATEGORIES)
    assert all(accent is None or accent in COLORS for accent in DEFAULT_ACCENT.values())
    assert len(HAS_FRONT) >= 60
    # A part that is a kind too would make a prompt name two objects.
    assert {name for name, part in ACCENT_PART.items() if part in CATEGORIES} == {"snowman"}
    assert not {*CATEGORIES, *ACCENT_PART.values()} & set(COLORS)


def test_unknown_names_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="unknown category 'dragon'; known: mug"):
        build(Spec("dragon", "red"), rng)
    with pytest.raises(ValueError, match="unknown colour 'beige'; known: red"):
        build(Spec("mug", "red", "beige"), rng)
