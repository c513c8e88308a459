"""Files to assets: what we write comes back, what trimesh writes is understood, and damage is told in one line."""

import json
import struct
import tracemalloc
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial, SimpleMaterial

from sds3d.formats.glb import linear_to_srgb, srgb_to_linear, to_glb
from sds3d.formats.glb_chunks import Binary, one_mesh_glb
from sds3d.formats.importers import AssetError, fit_to_cube, load_asset
from sds3d.formats.obj import to_obj
from sds3d.formats.ply import to_ply
from sds3d.formats.splat import to_splat
from sds3d.formats.splat_glb import to_splat_glb
from sds3d.formats.splat_ply import to_splat_ply
from sds3d.formats.spz import to_spz
from sds3d.formats.stl import to_stl
from sds3d.geometry.mesh import Mesh
from sds3d.geometry.splats import Splats
from sds3d.geometry.texture import bake


def ball(radius: float = 0.45) -> Mesh:
    """A coloured ball with normals; the colour names the place."""
    shape = trimesh.creation.icosphere(subdivisions=2, radius=radius)
    vertices = shape.vertices.astype(np.float32)
    return Mesh(
        vertices,
        shape.faces.astype(np.int32),
        colors=np.clip(vertices + 0.5, 0, 1),
        normals=(vertices / np.linalg.norm(vertices, axis=1, keepdims=True)).astype(np.float32),
        metallic=0.25,
        roughness=0.5,
    )


@pytest.fixture(scope="module")
def colored() -> Mesh:
    return ball()


@pytest.fixture(scope="module")
def textured(colored) -> Mesh:
    picture = np.random.default_rng(0).integers(0, 256, (32, 16, 3)).astype(np.uint8)
    return replace(bake(colored, size=128), metallic_roughness=picture)


@pytest.fixture(scope="module")
def splats() -> Splats:
    rng = np.random.default_rng(0)
    arrays = (
        rng.uniform(-0.5, 0.5, (200, 3)),
        rng.normal(size=(200, 4)),
        np.exp(rng.uniform(-6, -2.5, (200, 3))),
        rng.uniform(0.02, 1, 200),
        rng.uniform(-0.5, 0.5, (200, 4, 3)),
    )
    return Splats(*(array.astype(np.float32) for array in arrays)).checked()


def load(folder: Path, files: dict[str, bytes] | bytes, name: str) -> Mesh | Splats:
    for file, data in ({name: files} if isinstance(files, bytes) else files).items():
        (folder / file).write_bytes(data)
    return load_asset(folder / name)


def load_mesh(folder: Path, files: dict[str, bytes] | bytes, name: str) -> Mesh:
    mesh = load(folder, files, name)
    assert isinstance(mesh, Mesh)
    # What every asset keeps, whatever it came from.
    assert mesh.vertices.dtype == np.float32
    assert mesh.faces.dtype == np.int32
    assert np.isfinite(mesh.vertices).all()
    assert mesh.faces.min() >= 0
    assert mesh.faces.max() < len(mesh.vertices)
    for array, width in ((mesh.colors, 3), (mesh.normals, 3), (mesh.uv, 2)):
        if array is not None:
            assert array.shape == (len(mesh.vertices), width)
            assert array.dtype == np.float32
    for array in (mesh.colors, mesh.uv):
        if array is not None:
            assert array.min() >= 0
            assert array.max() <= 1
    return mesh


def load_splats(folder: Path, data: bytes, name: str) -> Splats:
    asset = load(folder, data, name)
    assert isinstance(asset, Splats)
    return asset


def corners(mesh: Mesh, values: np.ndarray | None) -> np.ndarray:
    """Values at the faces' corners: the same however vertices are numbered."""
    assert values is not None
    return values[mesh.faces]


def same(read: Mesh, mesh: Mesh, *keys: str, atol: float = 1e-6) -> None:
    for key in ("vertices", *keys):
        np.testing.assert_allclose(corners(read, getattr(read, key)), corners(mesh, getattr(mesh, key)), atol=atol)


# What we write comes back.


@pytest.mark.parametrize("kind", ["glb", "obj"])
def test_a_textured_mesh_comes_back(kind, textured, tmp_path):
    files = to_obj(textured, "a") if kind == "obj" else to_glb(textured)
    read = load_mesh(tmp_path, files, f"a.{kind}")
    same(read, textured, "normals", "uv")
    np.testing.assert_array_equal(read.texture, textured.texture)
    assert read.metallic_roughness is not None
    np.testing.assert_array_equal(read.metallic_roughness[..., 1:], textured.metallic_roughness[..., 1:])
    assert read.volume() > 0
    # The vertices have the texture's colours, to a texel.
    np.testing.assert_allclose(read.colors, np.clip(read.vertices + 0.5, 0, 1), atol=0.06)
    again = load_mesh(tmp_path, to_glb(read), "again.glb")
    np.testing.assert_array_equal(again.texture, textured.texture)


@pytest.mark.parametrize(("kind", "atol"), [("glb", 1e-6), ("obj", 0.51 / 255), ("ply", 0.51 / 255)])
def test_vertex_colours_come_back(kind, atol, colored, tmp_path):
    files = {"glb": to_glb, "ply": to_ply, "obj": lambda mesh: to_obj(mesh, "a")}[kind](colored)
    read = load_mesh(tmp_path, files, f"a.{kind}")
    same(read, colored, "normals")
    same(read, colored, "colors", atol=atol)
    assert read.texture is None
    assert read.uv is None
    if kind == "glb":
        assert (read.metallic, read.roughness) == (colored.metallic, colored.roughness)


def test_an_stl_comes_back_with_its_corners_joined(colored, tmp_path):
    read = load_mesh(tmp_path, to_stl(colored), "a.stl")
    same(read, colored, atol=0)
    assert len(read.vertices) == len(colored.vertices)
    assert read.colors is None
    text = trimesh.exchange.stl.export_stl_ascii(trimesh.Trimesh(colored.vertices, colored.faces, process=False))
    same(load_mesh(tmp_path, text.encode(), "text.stl"), colored)


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


def test_the_content_counts_where_it_tells(colored, splats, tmp_path):
    """A file of one kind under another's name."""
    assert isinstance(load(tmp_path, to_splat_ply(splats), "a.splat"), Splats)
    assert isinstance(load(tmp_path, to_glb(colored), "a.obj"), Mesh)
    assert isinstance(load(tmp_path, to_ply(colored), "A.STL"), Mesh)


# What others write.


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
    with pytest.raises(AssetError, match="at least two points"):
        load(tmp_path, bare + b"0 0 0\nnan 0 0\nnan 0 0\n", "a.ply")


def box(color: tuple[int, int, int] | None = None, texture: np.ndarray | None = None) -> trimesh.Trimesh:
    shape = trimesh.creation.box()
    if texture is not None:
        material = PBRMaterial(baseColorTexture=Image.fromarray(texture), metallicFactor=0.5, roughnessFactor=1.0)
        shape.visual = TextureVisuals(uv=shape.vertices[:, :2] + 0.5, material=material)
    elif color is not None:
        factor = np.append(srgb_to_linear(np.array(color) / 255), 1)
        shape.visual = TextureVisuals(material=PBRMaterial(baseColorFactor=np.rint(factor * 255).astype(np.uint8)))
    return shape


def scene_of(*placed: tuple[trimesh.Trimesh, np.ndarray]) -> bytes:
    scene = trimesh.Scene()
    for i, (shape, transform) in enumerate(placed):
        scene.add_geometry(shape, node_name=f"n{i}", geom_name=f"g{i}", transform=transform)
    return scene.export(file_type="glb")


def test_the_parts_of_a_scene_stand_in_their_places(tmp_path):
    aside = trimesh.transformations.compose_matrix(scale=[0.5, 1, 1], angles=[0, 0, np.pi / 2], translate=[3, 0, 0])
    mirrored = np.diag([-1.0, 1, 1, 1])
    mirrored[0, 3] = -3
    read = load_mesh(
        tmp_path, scene_of((box((255, 0, 0)), aside), (box((0, 0, 255)), mirrored), (box(), np.eye(4))), "a.glb"
    )
    assert len(read.faces) == 36
    assert read.volume() == pytest.approx(0.5 + 1 + 1)  # the mirrored box looks outwards, too
    assert read.colors is not None
    sides = {side: read.colors[np.abs(read.vertices[:, 0] - side) < 1] for side in (3, -3, 0)}
    np.testing.assert_allclose(sides[3], np.tile([1, 0, 0], (len(sides[3]), 1)), atol=0.01)
    np.testing.assert_allclose(sides[-3], np.tile([0, 0, 1], (len(sides[-3]), 1)), atol=0.01)
    np.testing.assert_allclose(sides[0], 1)
    right = read.vertices[read.vertices[:, 0] > 2]
    np.testing.assert_allclose(
        [right.min(axis=0), right.max(axis=0)], [[2.5, -0.25, -0.5], [3.5, 0.25, 0.5]], atol=1e-6
    )


def test_normals_are_turned_with_their_part(colored, tmp_path):
    """Under a scale that differs by axis a ball's normals are those of the ellipsoid."""
    shape = trimesh.Trimesh(colored.vertices, colored.faces, vertex_normals=colored.normals, process=False)
    assert shape.vertex_normals.shape == colored.vertices.shape  # so that they are written
    stretch = np.array([1.0, 3.0, 0.5])
    read = load_mesh(tmp_path, scene_of((shape, np.diag([*stretch, 1]))), "a.glb")
    assert read.normals is not None
    expected = read.vertices / stretch**2
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(read.normals, expected, atol=2e-3)


def test_parts_that_share_a_texture_keep_it(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    far = trimesh.transformations.translation_matrix([2, 0, 0])
    data = scene_of((box(texture=picture), np.eye(4)), (box(texture=picture), far))
    read = load_mesh(tmp_path, data, "a.glb")
    np.testing.assert_array_equal(read.texture, picture)
    np.testing.assert_allclose(read.uv, (read.vertices[:, :2] - [2, 0] * (read.vertices[:, :1] > 1)) * [1, -1] + 0.5)
    assert read.metallic == pytest.approx(0.5)


def test_where_textures_differ_their_colours_become_vertex_colours(tmp_path):
    red, blue = (np.tile(np.array(color, np.uint8), (4, 4, 1)) for color in ([200, 10, 10], [10, 10, 200]))
    far = trimesh.transformations.translation_matrix([2, 0, 0])
    read = load_mesh(tmp_path, scene_of((box(texture=red), np.eye(4)), (box(texture=blue), far)), "a.glb")
    assert read.texture is None
    assert read.uv is None
    assert read.colors is not None
    right = read.vertices[:, 0] > 1
    np.testing.assert_allclose(read.colors[right] * 255, np.tile([10, 10, 200], (right.sum(), 1)), atol=1e-3)
    np.testing.assert_allclose(read.colors[~right] * 255, np.tile([200, 10, 10], ((~right).sum(), 1)), atol=1e-3)


def test_a_texture_that_repeats_becomes_vertex_colours_and_one_that_is_shifted_stays(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    straight = load_mesh(tmp_path, scene_of((box(texture=picture), np.eye(4))), "a.glb")
    shifted, repeated = box(texture=picture), box(texture=picture)
    shifted.visual.uv = np.add(shifted.visual.uv, [3, -2])
    repeated.visual.uv = repeated.visual.uv * 4
    read = load_mesh(tmp_path, scene_of((shifted, np.eye(4))), "a.glb")
    np.testing.assert_allclose(read.uv, straight.uv, atol=1e-6)
    np.testing.assert_array_equal(read.texture, picture)
    read = load_mesh(tmp_path, scene_of((repeated, np.eye(4))), "a.glb")
    assert read.texture is None
    assert read.colors is not None
    assert set(map(tuple, np.rint(read.colors * 255).astype(int))) <= set(map(tuple, picture.reshape(-1, 3)))


def test_factors_multiply_pictures_in_linear_light(textured, tmp_path):
    shape = box(texture=np.full((2, 2, 3), 200, np.uint8))
    shape.visual.material.baseColorFactor = np.array([128, 255, 0, 255], np.uint8)
    shape.visual.material.metallicRoughnessTexture = Image.fromarray(np.full((2, 2, 3), 200, np.uint8))
    read = load_mesh(tmp_path, scene_of((shape, np.eye(4))), "a.glb")
    light = srgb_to_linear(np.array([200 / 255])) * [128 / 255, 1, 0]
    assert read.texture is not None
    np.testing.assert_allclose(read.texture[0, 0], linear_to_srgb(light) * 255, atol=0.51)
    assert read.metallic_roughness is not None
    assert read.metallic_roughness[0, 0].tolist() == [200, 200, 100]  # roughness factor 1, metallic factor 0.5


def test_an_obj_with_two_materials(tmp_path):
    """Kd is a part's colour; quads become triangles; a file with Windows' line ends is the same."""
    obj = "mtllib a.mtl\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nv 0 0 1\nusemtl red\nf 1 2 3 4\nusemtl blue\nf 1 3 5\n"
    mtl = "newmtl red\nKd 1 0 0\nPr 0.25\nPm 1\nnewmtl blue\nKd 0 0 1\nPr 0.25\n"
    for end in ("\n", "\r\n"):
        files = {"a.obj": obj.replace("\n", end).encode(), "a.mtl": mtl.replace("\n", end).encode()}
        read = load_mesh(tmp_path, files, "a.obj")
        assert len(read.faces) == 3
        by_face = corners(read, read.colors).mean(axis=1)
        assert sorted(map(tuple, by_face.tolist())) == [(0, 0, 1), (1, 0, 0), (1, 0, 0)]
        assert read.roughness == pytest.approx(0.25)
        assert read.metallic == pytest.approx(2 / 3)


# Files that refer to others.


@pytest.mark.parametrize("way", ["../secret", "{folder}/secret", "link"])
def test_nothing_outside_of_the_folder_is_read(way, textured, tmp_path):
    inside = tmp_path / "asset"
    inside.mkdir()
    files = to_obj(textured, "secret")
    for ending in ("mtl", "png"):
        (tmp_path / f"secret.{ending}").write_bytes(files[f"secret.{ending}"])
        (inside / f"link.{ending}").symlink_to(tmp_path / f"secret.{ending}")
    (inside / "own.mtl").write_text(f"newmtl secret\nKd 1 1 1\nmap_Kd {way.format(folder=tmp_path)}.png\n")
    for library in (f"{way.format(folder=tmp_path)}.mtl", "own.mtl"):
        obj = files["secret.obj"].replace(b"mtllib secret.mtl", f"mtllib {library}".encode())
        with pytest.warns(UserWarning, match=r"outside of the asset's folder"):
            read = load_mesh(inside, obj, "a.obj")
        same(read, textured)
        assert read.texture is None
        assert read.metallic_roughness is None


def test_textures_in_folders_below_are_read_and_missing_ones_told(textured, tmp_path):
    files = to_obj(textured, "a")
    (tmp_path / "maps").mkdir()
    for name in ("a.png", "a_roughness.png", "a_metallic.png"):
        (tmp_path / "maps" / name).write_bytes(files.pop(name))
    mtl = files["a.mtl"]
    for word in (b"map_Kd ", b"map_Pr ", b"map_Pm "):
        files["a.mtl"] = files["a.mtl"].replace(word, word + b"maps\\")
    read = load_mesh(tmp_path, files, "a.obj")
    np.testing.assert_array_equal(read.texture, textured.texture)
    with pytest.warns(UserWarning, match="is missing beside the asset") as told:
        assert load_mesh(tmp_path, {**files, "a.mtl": mtl}, "a.obj").texture is None
    assert [str(warning.message).split()[0] for warning in told] == ["a.png", "a_roughness.png", "a_metallic.png"]


def test_a_glb_does_not_reach_outside_either(textured, tmp_path):
    glb = to_glb(textured)
    length = struct.unpack_from("<I", glb, 12)[0]
    document = json.loads(glb[20 : 20 + length])
    document["images"][0] = {"uri": "../secret.png"}
    (tmp_path / "secret.png").write_bytes(to_obj(textured, "a")["a.png"])
    header = json.dumps(document).encode()
    header += b" " * (-len(header) % 4)
    rest = glb[20 + length :]
    size = 20 + len(header) + len(rest)
    changed = struct.pack("<4sIII4s", b"glTF", 2, size, len(header), b"JSON") + header + rest
    (tmp_path / "asset").mkdir()
    with pytest.warns(UserWarning, match="outside"), suppress(AssetError):  # trimesh 4 refuses the file
        assert load_mesh(tmp_path / "asset", changed, "a.glb").texture is None


# Errors: one line that says what is wrong.


def test_bad_files_are_refused_in_one_line(colored, splats, tmp_path):
    nan = replace(colored, vertices=np.where(np.arange(len(colored.vertices))[:, None] == 3, np.nan, colored.vertices))
    flat = b"ply\nformat ascii 1.0\nelement vertex 0\nproperty float x\nelement face 0\n"
    flat += b"property list uchar int vertex_indices\nend_header\n"
    lines = b"v 0 0 0\nv 1 0 0\nl 1 2\n"
    cases = {
        "gone.glb": (None, r"is not there"),
        "a.fbx": (b"x", r'"\.fbx" cannot be read; files that can be read: \.glb'),
        "a.gltf": (b"{}", r'did you mean "\.glb"\?'),
        "empty.ply": (b"", r"the file is empty"),
        "nan.glb": (to_glb(nan), r"1 of 162 vertices are NaN or infinite"),
        "nan.stl": (to_stl(nan), r"vertices are NaN or infinite"),
        "nan.ply": (to_ply(nan), r"1 of 162 vertices are NaN or infinite"),
        "no.glb": (b"{}", r"must begin with 'glTF'"),
        "no.ply": (b"solid", r"must begin with a line 'ply'"),
        "no.spz": (b"solid", r"must begin with gzip"),
        "no.stl": (b"hello, this is nothing", r"truncated, or no STL"),
        "no.obj": (b"\0\1\2", r"not text"),
        "no.splat": (b"12345", r"multiple of 32"),
        "flat.ply": (flat, r"neither faces nor points"),
        "lines.obj": (lines, r"no triangles"),
        "words.obj": (b"hello\n", r"damaged|no triangles"),
        "far.obj": (b"v 0 0 0\nv 1 0 0\nf 1 2 9\n", r"damaged"),
        "cut.glb": (to_glb(colored)[:-100], r"truncated: it promises"),
        "cut.ply": (to_splat_ply(splats)[:-100], r"truncated: it promises 200 vertices"),
        "faces.ply": (to_ply(colored)[:-100], r"truncated|damaged"),
        "cut.spz": (to_spz(splats)[:-100], r"truncated or damaged"),
        "cut.stl": (to_stl(colored)[:-100], r"truncated, or no STL"),
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


def test_a_glb_that_would_be_misread_is_refused(tmp_path):
    def triangle(uv: str = "f4", **extra) -> bytes:
        binary = Binary()
        attributes = {"POSITION": binary.attribute(np.eye(3, dtype=np.float32), bounded=True)}
        attributes["TEXCOORD_0"] = binary.attribute(np.eye(3, dtype=np.float32)[:, :2])
        if uv != "f4":
            binary.accessors[-1]["componentType"] = 5123
        if extra.pop("sparse", False):
            binary.accessors[-1]["sparse"] = {"count": 1}
        primitive = {"attributes": attributes, "indices": binary.indices(np.array([[0, 1, 2]], np.int32))}
        return one_mesh_glb(primitive, binary, "", extra)

    assert len(load_mesh(tmp_path, triangle(), "a.glb").faces) == 1
    for data, message in (
        (triangle(uv="u2"), "texture coordinates in integers"),
        (triangle(sparse=True), "sparse"),
        (triangle(extensionsUsed=["KHR_draco_mesh_compression"]), "compressed by KHR_draco"),
    ):
        with pytest.raises(AssetError, match=message):
            load(tmp_path, data, "a.glb")
    loop = {"nodes": [{"children": [1]}, {"mesh": 0, "children": [0]}]}
    with pytest.raises(AssetError):
        load(tmp_path, triangle(**loop), "a.glb")


@pytest.fixture(scope="module")
def originals(colored, textured, splats) -> dict[str, bytes]:
    small = trimesh.creation.box()
    mesh = Mesh(small.vertices.astype(np.float32), small.faces.astype(np.int32), colors=np.full((8, 3), 0.5, "f4"))
    few = splats[:20]
    cloud = trimesh.PointCloud(few.means)
    return {
        "mesh.glb": to_glb(mesh),
        "textured.glb": to_glb(replace(textured, metallic_roughness=None)),
        "mesh.obj": to_obj(mesh)["asset.obj"],
        "mesh.ply": to_ply(mesh),
        "ascii.ply": trimesh.exchange.ply.export_ply(small, encoding="ascii"),
        "points.ply": trimesh.exchange.ply.export_ply(cloud),
        "mesh.stl": to_stl(mesh),
        "ascii.stl": trimesh.exchange.stl.export_stl_ascii(small).encode(),
        **{f"splats.{name}": write(few) for name, write in SPLAT_FILES.items()},
    }


KINDS = ["mesh.glb", "textured.glb", "mesh.obj", "mesh.ply", "ascii.ply", "points.ply", "mesh.stl", "ascii.stl"]
KINDS += [f"splats.{name}" for name in SPLAT_FILES]


def survives(folder: Path, name: str, data: bytes) -> None:
    """An asset, or one line; nothing else may come out of a file."""
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


# Size.


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


# Into the toy world's size.


def test_a_large_asset_is_centred_and_scaled(colored, splats):
    moved = replace(colored, vertices=colored.vertices * np.float32(40) + np.float32([100, -3, 7]))
    fitted, changed = fit_to_cube(moved)
    assert changed
    assert isinstance(fitted, Mesh)
    np.testing.assert_allclose(fitted.vertices, colored.vertices / 0.45 * 0.5, atol=1e-5)
    assert fitted.colors is colored.colors
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
def test_what_is_fitted_fits_and_stays(scale, offset):
    vertices = (np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]) * scale + offset).astype(np.float32)
    if len(np.unique(vertices, axis=0)) < 4:  # too small for its place: float32 holds one point
        return
    fitted, _ = fit_to_cube(Mesh(vertices, np.array([[0, 1, 2], [0, 3, 1]], np.int32)))
    assert isinstance(fitted, Mesh)
    reach = np.linalg.norm(fitted.vertices, axis=1).max()
    assert 0.25 <= reach <= 0.506
    assert fit_to_cube(fitted) == (fitted, False)


def test_what_no_triangle_uses_does_not_count_and_one_point_is_centred(colored):
    stray = replace(colored, vertices=np.concatenate([colored.vertices, np.float32([[50, 0, 0]])]))
    assert fit_to_cube(stray) == (stray, False)
    point = Splats(*(np.ones(shape, np.float32) for shape in ((1, 3), (1, 4), (1, 3), (1,), (1, 1, 3)))).checked()
    fitted, changed = fit_to_cube(point)
    assert changed
    assert isinstance(fitted, Splats)
    np.testing.assert_array_equal(fitted.means, 0)
    np.testing.assert_array_equal(fitted.scales, point.scales)


def test_simple_materials_of_trimesh_are_understood(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    shape = box()
    shape.visual = TextureVisuals(shape.vertices[:, :2] + 0.5, SimpleMaterial(image=Image.fromarray(picture)))
    obj, files = trimesh.exchange.obj.export_obj(shape, return_texture=True)
    read = load_mesh(tmp_path, {"a.obj": obj.encode(), **files}, "a.obj")
    np.testing.assert_array_equal(read.texture, picture)
    same(read, Mesh(shape.vertices.astype(np.float32), shape.faces.astype(np.int32)), atol=1e-5)
