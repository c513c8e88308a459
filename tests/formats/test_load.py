"""Loading: what we write reads back, and a wrong or damaged file gives one clear line."""

import tracemalloc
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loading import MESHES, load, load_mesh, load_splats, same

from sds3d.formats.glb import to_glb
from sds3d.formats.load import AssetError, fit_to_cube, load_asset
from sds3d.formats.obj import to_obj
from sds3d.formats.ply import to_ply
from sds3d.formats.splat import to_splat
from sds3d.formats.splat_glb import to_splat_glb
from sds3d.formats.splat_ply import to_splat_ply
from sds3d.formats.spz import to_spz
from sds3d.formats.stl import to_stl
from sds3d.geometry.mesh import Mesh
from sds3d.geometry.splats import Splats


@pytest.mark.parametrize("kind", ["glb", "obj"])
def test_a_textured_mesh_comes_back(kind, textured_ball, tmp_path):
    files = to_obj(textured_ball, "a") if kind == "obj" else to_glb(textured_ball)
    read = load_mesh(tmp_path, files, f"a.{kind}")
    same(read, textured_ball, "normals", "uv")
    np.testing.assert_array_equal(read.texture, textured_ball.texture)
    assert read.metallic_roughness is not None
    np.testing.assert_array_equal(read.metallic_roughness[..., 1:], textured_ball.metallic_roughness[..., 1:])
    assert read.volume() > 0
    # The vertices have the texture's colours, up to a texel.
    np.testing.assert_allclose(read.colors, np.clip(read.vertices + 0.5, 0, 1), atol=0.06)
    again = load_mesh(tmp_path, to_glb(read), "again.glb")
    np.testing.assert_array_equal(again.texture, textured_ball.texture)


@pytest.mark.parametrize(("kind", "atol"), [("glb", 1e-6), ("obj", 0.51 / 255), ("ply", 0.51 / 255)])
def test_vertex_colours_come_back(kind, atol, colored_ball, tmp_path):
    files = {"glb": to_glb, "ply": to_ply, "obj": lambda mesh: to_obj(mesh, "a")}[kind](colored_ball)
    read = load_mesh(tmp_path, files, f"a.{kind}")
    same(read, colored_ball, "normals")
    same(read, colored_ball, "colors", atol=atol)
    assert read.texture is None
    assert read.uv is None
    if kind == "glb":
        assert (read.metallic, read.roughness) == (colored_ball.metallic, colored_ball.roughness)


SPLAT_FILES: dict[str, Callable[[Splats], bytes]] = {
    "ply": to_splat_ply,
    "compact.ply": lambda splats: to_splat_ply(splats, compact=True),
    "splat": to_splat,
    "spz": to_spz,
    "glb": to_splat_glb,
}


@pytest.mark.parametrize("name", SPLAT_FILES)
def test_splats_come_back(name, splats, tmp_path):
    read = load_splats(tmp_path, SPLAT_FILES[name](splats), f"a.{name}")
    assert len(read) == len(splats)
    order, expected = (np.lexsort(part.means.round(3).T) for part in (read, splats))  # .splat sorts
    np.testing.assert_allclose(read.means[order], splats.means[expected], atol=1e-5)
    np.testing.assert_allclose(read.colors()[order], splats.colors()[expected], atol=0.02)
    np.testing.assert_allclose(read.opacities[order], splats.opacities[expected], atol=0.01)
    assert read.degree == (0 if name == "splat" else 1)


def test_a_signature_counts_more_than_the_extension(colored_ball, splats, tmp_path):
    """A file of one format with the extension of another."""
    assert isinstance(load(tmp_path, to_splat_ply(splats), "a.splat"), Splats)
    assert isinstance(load(tmp_path, to_glb(colored_ball), "a.obj"), Mesh)
    assert isinstance(load(tmp_path, to_ply(colored_ball), "A.STL"), Mesh)


def test_bad_files_are_refused_in_one_line(colored_ball, splats, tmp_path):
    nan = replace(
        colored_ball,
        vertices=np.where(np.arange(len(colored_ball.vertices))[:, None] == 3, np.nan, colored_ball.vertices),
    )
    flat = b"ply\nformat ascii 1.0\nelement vertex 0\nproperty float x\nelement face 0\n"
    flat += b"property list uchar int vertex_indices\nend_header\n"
    lines = b"v 0 0 0\nv 1 0 0\nl 1 2\n"
    cases = {
        "gone.glb": (None, r"does not exist"),
        "a.fbx": (b"x", r'"\.fbx" cannot be read; files that can be read: \.glb'),
        "a.gltf": (b"{}", r"not a glTF file: it has no asset\.version"),
        "a.glft": (b"{}", r'did you mean "\.glb"|did you mean "\.gltf"'),
        "empty.ply": (b"", r"the file is empty"),
        "nan.glb": (to_glb(nan), r"1 of 162 vertices are NaN or infinite"),
        "nan.stl": (to_stl(nan), r"vertices are NaN or infinite"),
        "nan.ply": (to_ply(nan), r"1 of 162 vertices are NaN or infinite"),
        "no.glb": (b"{}", r"not a glTF file"),
        "no.ply": (b"solid", r"must begin with a line 'ply'"),
        "no.spz": (b"solid", r"must begin with gzip"),
        "no.stl": (b"hello, this is nothing", r"truncated, or this is not STL"),
        "no.obj": (b"\0\1\2", r"not text"),
        "no.splat": (b"12345", r"multiple of 32"),
        "flat.ply": (flat, r"neither faces nor points"),
        "lines.obj": (lines, r"no triangles"),
        "words.obj": (b"hello\n", r"damaged|no triangles"),
        "far.obj": (b"v 0 0 0\nv 1 0 0\nf 1 2 9\n", r"damaged"),
        "cut.glb": (to_glb(colored_ball)[:-100], r"truncated: it promises"),
        "cut.ply": (to_splat_ply(splats)[:-100], r"truncated: it promises 200 vertices"),
        "faces.ply": (to_ply(colored_ball)[:-100], r"truncated|damaged"),
        "cut.spz": (to_spz(splats)[:-100], r"truncated or damaged"),
        "cut.stl": (to_stl(colored_ball)[:-100], r"truncated, or this is not STL"),
        "solid.stl": (b"solid a\nfacet normal 0 0 1\n", r"endsolid is missing"),
        "points.ply": (b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n0\n", r"no x, y and z"),
    }
    for name, (data, message) in cases.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(AssetError, match=message) as caught:
            load_asset(tmp_path / name)
        assert str(caught.value).count("\n") == 0
        assert name in str(caught.value)
    with pytest.raises(AssetError, match="is a folder"):
        load_asset(tmp_path / "..")
    (tmp_path / "folder.glb").mkdir()
    with pytest.raises(AssetError, match="is a folder"):
        load_asset(tmp_path / "folder.glb")


@pytest.fixture(scope="module")
def originals(colored_ball, textured_ball, splats) -> dict[str, bytes]:
    small = trimesh.creation.box()
    mesh = Mesh(small.vertices.astype(np.float32), small.faces.astype(np.int32), colors=np.full((8, 3), 0.5, "f4"))
    few = splats[:20]
    cloud = trimesh.PointCloud(few.means)
    return {
        "mesh.glb": to_glb(mesh),
        "embedded.gltf": (MESHES / "embedded.gltf").read_bytes(),
        "draco.glb": (MESHES / "draco.glb").read_bytes(),
        "meshopt.glb": (MESHES / "meshopt.glb").read_bytes(),
        "skinned.glb": (MESHES / "skinned.glb").read_bytes(),
        "textured.glb": to_glb(replace(textured_ball, metallic_roughness=None)),
        "mesh.obj": to_obj(mesh)["asset.obj"],
        "mesh.ply": to_ply(mesh),
        "ascii.ply": trimesh.exchange.ply.export_ply(small, encoding="ascii"),
        "points.ply": trimesh.exchange.ply.export_ply(cloud),
        "mesh.stl": to_stl(mesh),
        "ascii.stl": trimesh.exchange.stl.export_stl_ascii(small).encode(),
        **{f"splats.{name}": write(few) for name, write in SPLAT_FILES.items()},
    }


KINDS = [
    "mesh.glb",
    "embedded.gltf",
    "draco.glb",
    "meshopt.glb",
    "skinned.glb",
    "textured.glb",
    "mesh.obj",
    "mesh.ply",
    "ascii.ply",
    "points.ply",
    "mesh.stl",
    "ascii.stl",
]
KINDS += [f"splats.{name}" for name in SPLAT_FILES]


def survives(folder: Path, name: str, data: bytes) -> None:
    """Loading any bytes gives an asset or an error of one line, nothing else."""
    (folder / name).write_bytes(data)
    message = ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            asset = load_asset(folder / name)
            assert np.isfinite(asset.means if isinstance(asset, Splats) else asset.vertices).all()
        except AssetError as error:
            message = str(error)
    assert "\n" not in message


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_file_cut_anywhere_is_an_asset_or_one_line(name, originals, tmp_path, data):
    whole = originals[name]
    survives(tmp_path, name, whole[: data.draw(st.integers(0, len(whole)))])


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_file_with_wrong_bytes_is_an_asset_or_one_line(name, originals, tmp_path, data):
    changed = bytearray(originals[name])
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    survives(tmp_path, name, bytes(changed))


def test_two_million_gaussians_load_in_little_more_than_the_file(tmp_path):
    n = 2_000_000
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {n}"]
    names = ["x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", *(f"scale_{i}" for i in range(3))]
    names += [f"rot_{i}" for i in range(4)]
    rows = np.zeros((n, len(names)), "<f4")
    rows[:, 0] = np.linspace(-0.5, 0.5, n)
    rows[:, 7:10], rows[:, 10] = -5, 1
    path = tmp_path / "a.ply"
    with path.open("wb") as file:
        file.write("\n".join([*header, *(f"property float {name}" for name in names), "end_header\n"]).encode())
        file.write(rows.data)
    del rows
    size = path.stat().st_size
    tracemalloc.start()
    try:
        splats = load_asset(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(splats, Splats)
    assert len(splats) == n
    assert peak < 4.5 * size


def test_a_large_asset_is_centred_and_scaled(colored_ball, splats):
    moved = replace(colored_ball, vertices=colored_ball.vertices * np.float32(40) + np.float32([100, -3, 7]))
    fitted, changed = fit_to_cube(moved)
    assert changed
    assert isinstance(fitted, Mesh)
    np.testing.assert_allclose(fitted.vertices, colored_ball.vertices / 0.45 * 0.5, atol=1e-5)
    assert fitted.colors is colored_ball.colors
    again, changed = fit_to_cube(fitted)
    assert not changed
    assert again is fitted

    factor = np.float32(20)
    large = replace(splats, means=splats.means * factor, scales=splats.scales * factor)
    fitted, changed = fit_to_cube(large)
    assert changed
    assert isinstance(fitted, Splats)
    np.testing.assert_allclose(np.linalg.norm(fitted.means, axis=1).max(), 0.5, rtol=1e-5)
    ratio = fitted.scales / large.scales
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-5)
    distance = np.linalg.norm(np.diff(fitted.means[:2], axis=0)) / np.linalg.norm(np.diff(large.means[:2], axis=0))
    assert ratio[0, 0] == pytest.approx(distance, rel=1e-4)
    np.testing.assert_array_equal(fitted.quats, large.quats)


@settings(max_examples=50, deadline=None)
@given(
    scale=st.floats(1e-3, 1e3),
    offset=st.tuples(*[st.floats(-100, 100)] * 3),
)
def test_fitted_assets_fit_and_do_not_change_again(scale, offset):
    vertices = (np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]) * scale + offset).astype(np.float32)
    if len(np.unique(vertices, axis=0)) < 4:  # too small for its position: in float32 the points coincide
        return
    fitted, _ = fit_to_cube(Mesh(vertices, np.array([[0, 1, 2], [0, 3, 1]], np.int32)))
    assert isinstance(fitted, Mesh)
    reach = np.linalg.norm(fitted.vertices, axis=1).max()
    assert 0.25 <= reach <= 0.506
    assert fit_to_cube(fitted) == (fitted, False)


def test_unused_vertices_do_not_count_and_one_point_is_centred(colored_ball):
    stray = replace(colored_ball, vertices=np.concatenate([colored_ball.vertices, np.float32([[50, 0, 0]])]))
    assert fit_to_cube(stray) == (stray, False)
    point = Splats(*(np.ones(shape, np.float32) for shape in ((1, 3), (1, 4), (1, 3), (1,), (1, 1, 3)))).checked()
    fitted, changed = fit_to_cube(point)
    assert changed
    assert isinstance(fitted, Splats)
    np.testing.assert_array_equal(fitted.means, 0)
    np.testing.assert_array_equal(fitted.scales, point.scales)
