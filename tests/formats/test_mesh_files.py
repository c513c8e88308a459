"""GLB, OBJ and PLY, each read back by programs that are not ours."""

import io
import json
import struct
from dataclasses import replace

import numpy as np
import pytest
import trimesh
from export_shapes import position_color, torus_mesh
from PIL import Image
from plyfile import PlyData

from sds3d.formats.glb import srgb_to_linear, to_glb
from sds3d.formats.obj import to_obj
from sds3d.formats.ply import to_ply
from sds3d.geometry.mesh import Mesh
from sds3d.geometry.texture import bake


@pytest.fixture(scope="module")
def colored() -> Mesh:
    return replace(torus_mesh(1500), roughness=0.6, metallic=0.1)


@pytest.fixture(scope="module")
def textured(colored) -> Mesh:
    return bake(colored, position_color, 128)


@pytest.fixture(scope="module")
def metal(textured) -> Mesh:
    """With a metallic-roughness texture of another size than the base colour's."""
    return replace(textured, metallic_roughness=np.random.default_rng(0).integers(0, 256, (32, 16, 3)).astype("u1"))


def read_json(glb: bytes) -> dict:
    length = struct.unpack_from("<I", glb, 12)[0]
    return json.loads(glb[20 : 20 + length])


def load_glb(glb: bytes) -> trimesh.Trimesh:
    (geometry,) = trimesh.load(io.BytesIO(glb), file_type="glb", process=False).geometry.values()
    return geometry


def same_triangles(loaded: trimesh.Trimesh, mesh: Mesh, **tolerance: float) -> None:
    """The triangles agree in order, winding and place, however a reader numbers its vertices."""
    np.testing.assert_allclose(loaded.vertices[loaded.faces], mesh.vertices[mesh.faces], **tolerance)


@pytest.mark.parametrize("kind", ["textured", "metal", "colored", "plain", "large"])
def test_the_khronos_validator_finds_nothing(kind, textured, metal, colored, validate):
    if kind == "large":  # more vertices than 16-bit indices can name
        copies = 70_000 // len(colored.vertices) + 1
        offsets = np.arange(copies)[:, None, None] * len(colored.vertices)
        mesh = Mesh(np.tile(colored.vertices, (copies, 1)), (colored.faces + offsets).reshape(-1, 3).astype(np.int32))
    else:
        plain = Mesh(colored.vertices, colored.faces)
        mesh = {"textured": textured, "metal": metal, "colored": colored, "plain": plain}[kind]
    issues = validate(to_glb(mesh))["issues"]
    assert issues["numErrors"] == 0, issues
    assert issues["numWarnings"] == 0, issues
    assert issues["messages"] == []


def test_the_validator_would_find_something(colored, validate):
    broken = replace(colored, normals=colored.normals * 2)
    assert validate(to_glb(broken))["issues"]["numErrors"] > 0


def test_a_textured_glb_reads_back_in_trimesh(textured):
    loaded = load_glb(to_glb(textured))
    np.testing.assert_array_equal(loaded.vertices, textured.vertices)
    np.testing.assert_array_equal(loaded.faces, textured.faces)
    np.testing.assert_allclose(loaded.vertex_normals, textured.normals, atol=1e-6)
    # trimesh's uv run up from the bottom row.
    np.testing.assert_allclose(loaded.visual.uv, textured.uv * [1, -1] + [0, 1], atol=1e-6)
    material = loaded.visual.material
    np.testing.assert_array_equal(np.asarray(material.baseColorTexture.convert("RGB")), textured.texture)
    assert material.roughnessFactor == pytest.approx(0.6)
    assert material.metallicFactor == pytest.approx(0.1)


def test_a_metallic_roughness_texture_reads_back_in_trimesh(metal, tmp_path):
    material = load_glb(to_glb(metal)).visual.material
    np.testing.assert_array_equal(np.asarray(material.metallicRoughnessTexture), metal.metallic_roughness)
    np.testing.assert_array_equal(np.asarray(material.baseColorTexture), metal.texture)
    assert (material.metallicFactor, material.roughnessFactor) == (1, 1)  # they would multiply the texture
    only = load_glb(to_glb(replace(metal, texture=None))).visual
    np.testing.assert_array_equal(np.asarray(only.material.metallicRoughnessTexture), metal.metallic_roughness)
    assert only.vertex_attributes["color"].shape == metal.vertices.shape

    files = to_obj(metal, "mug")
    assert set(files) == {"mug.obj", "mug.mtl", "mug.png", "mug_roughness.png", "mug_metallic.png"}
    for file, data in files.items():
        (tmp_path / file).write_bytes(data)
    material = trimesh.load(tmp_path / "mug.obj", force="mesh", process=False).visual.material
    assert material.kwargs["map_pr"] == ["mug_roughness.png"]
    assert material.kwargs["map_pm"] == ["mug_metallic.png"]
    assert material.kwargs["pr"] == material.kwargs["pm"] == ["1"]
    for word, channel in (("roughness", 1), ("metallic", 2)):
        picture = np.asarray(Image.open(tmp_path / f"mug_{word}.png"))
        np.testing.assert_array_equal(picture, metal.metallic_roughness[..., channel])


def test_vertex_colours_of_a_glb_are_linear(colored):
    glb = to_glb(colored)
    document = read_json(glb)
    accessor = document["accessors"][document["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"]]
    view = document["bufferViews"][accessor["bufferView"]]
    start = 20 + struct.unpack_from("<I", glb, 12)[0] + 8 + view["byteOffset"]
    stored = np.frombuffer(glb, "<f4", accessor["count"] * 3, start).reshape(-1, 3)
    # Back to sRGB by the inverse formula.
    encoded = np.where(stored <= 0.0031308, stored * 12.92, 1.055 * stored ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(encoded, colored.colors, atol=1e-5)
    read = load_glb(glb).visual.vertex_attributes["color"]
    np.testing.assert_array_equal(read, stored)
    np.testing.assert_allclose(
        srgb_to_linear(np.array([0.0, 0.02, 0.5, 1.0])), [0, 0.00154799, 0.21404114, 1], atol=1e-7
    )


def test_the_glb_names_its_material_and_its_buffers(textured):
    document = read_json(to_glb(textured, "mug"))
    assert document["asset"] == {"version": "2.0", "generator": "sds3d"}
    material = document["materials"][0]
    assert material["doubleSided"] is False
    assert material["pbrMetallicRoughness"].keys() == {"metallicFactor", "roughnessFactor", "baseColorTexture"}
    primitive = document["meshes"][0]["primitives"][0]
    assert "COLOR_0" not in primitive["attributes"]  # it would multiply the texture
    position = document["accessors"][primitive["attributes"]["POSITION"]]
    np.testing.assert_array_equal(position["min"], textured.vertices.min(axis=0).astype(float))
    np.testing.assert_array_equal(position["max"], textured.vertices.max(axis=0).astype(float))
    targets = [view.get("target") for view in document["bufferViews"]]
    assert sorted(target for target in targets if target) == [34962, 34962, 34962, 34963]
    assert document["nodes"][0]["name"] == "mug"


def test_the_exported_asset_fits_the_cube_and_faces_the_front():
    """The colour names the place, so the bluest vertex of the file is the one furthest along +Z."""
    loaded = load_glb(to_glb(torus_mesh(1000)))
    assert np.abs(loaded.bounds).max() <= 0.5
    assert loaded.is_watertight
    assert loaded.volume > 0
    assert loaded.visual.vertex_attributes["color"][:, 2].argmax() == loaded.vertices[:, 2].argmax()


def test_an_obj_reads_back_in_trimesh(textured, tmp_path):
    for file, data in to_obj(textured, "mug").items():
        (tmp_path / file).write_bytes(data)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mug.mtl", "mug.obj", "mug.png"]
    loaded = trimesh.load(tmp_path / "mug.obj", force="mesh", process=False)
    same_triangles(loaded, textured, atol=1e-6)
    np.testing.assert_allclose(
        loaded.visual.uv[loaded.faces], (textured.uv * [1, -1] + [0, 1])[textured.faces], atol=1e-6
    )
    np.testing.assert_array_equal(np.asarray(loaded.visual.material.image.convert("RGB")), textured.texture)


def test_obj_texture_coordinates_run_up_from_the_bottom_row():
    """The top row of the picture, v = 0 in glTF, is vt = 1 in OBJ."""
    square = Mesh(
        np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32),
        np.array([[0, 1, 2], [0, 2, 3]], np.int32),
        uv=np.array([[0, 1], [1, 1], [1, 0], [0, 0]], np.float32),
        texture=np.zeros((2, 2, 3), np.uint8),
    )
    lines = to_obj(square)["asset.obj"].decode().splitlines()
    assert [line for line in lines if line.startswith("vt")] == ["vt 0 0", "vt 1 0", "vt 1 1", "vt 0 1"]
    assert [line for line in lines if line.startswith("f ")] == ["f 1/1 2/2 3/3", "f 1/1 3/3 4/4"]


def test_an_obj_without_texture_carries_vertex_colours(colored):
    files = to_obj(colored)
    assert sorted(files) == ["asset.mtl", "asset.obj"]
    loaded = trimesh.load(io.BytesIO(files["asset.obj"]), file_type="obj", force="mesh", process=False)
    same_triangles(loaded, colored, atol=1e-6)
    np.testing.assert_allclose(
        loaded.visual.vertex_colors[loaded.faces][..., :3] / 255, colored.colors[colored.faces], atol=1 / 255
    )


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


def test_the_texture_of_every_format_is_the_same_picture(textured):
    picture = np.asarray(Image.open(io.BytesIO(to_obj(textured)["asset.png"])))
    np.testing.assert_array_equal(picture, textured.texture)


def test_files_are_deterministic(textured):
    assert to_glb(textured) == to_glb(textured)
    assert to_obj(textured) == to_obj(textured)
    assert to_ply(textured) == to_ply(textured)


def test_bad_input_is_refused(textured):
    empty = Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))
    for write in (to_glb, to_obj, to_ply):
        with pytest.raises(ValueError, match="without faces"):
            write(empty)
    with pytest.raises(ValueError, match="uv"):
        to_glb(replace(textured, uv=None))
    with pytest.raises(ValueError, match="uv"):
        to_obj(replace(textured, uv=None))
    with pytest.raises(ValueError, match="spaces"):
        to_obj(textured, "red mug")
