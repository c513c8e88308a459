"""GLB of meshes: checked by the Khronos validator, read by trimesh; and scenes of other programs."""

import io
import json
import struct
from dataclasses import replace

import numpy as np
import pytest
import trimesh
from export_shapes import torus_mesh
from loading import box, document_of, load_mesh, scene_of
from PIL import Image

from sds3d.formats.glb import to_glb
from sds3d.formats.obj import to_obj
from sds3d.geometry.colors import linear_to_srgb, srgb_to_linear
from sds3d.geometry.mesh import Mesh


def load_glb(glb: bytes) -> trimesh.Trimesh:
    (geometry,) = trimesh.load(io.BytesIO(glb), file_type="glb", process=False).geometry.values()
    return geometry


@pytest.mark.parametrize("kind", ["textured", "metal", "colored", "plain", "large"])
def test_the_khronos_validator_finds_nothing(kind, textured, metal, colored, validate):
    if kind == "large":  # more vertices than 16-bit indices can address
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
    # In trimesh, v runs up from the bottom row.
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
    document = document_of(glb)
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
    document = document_of(to_glb(textured, "mug"))
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
    """The colour encodes the position, so the bluest vertex of the file is the farthest along +Z."""
    loaded = load_glb(to_glb(torus_mesh(1000)))
    assert np.abs(loaded.bounds).max() <= 0.5
    assert loaded.is_watertight
    assert loaded.volume > 0
    assert loaded.visual.vertex_attributes["color"][:, 2].argmax() == loaded.vertices[:, 2].argmax()


def test_the_parts_of_a_scene_are_in_their_places(tmp_path):
    aside = trimesh.transformations.compose_matrix(scale=[0.5, 1, 1], angles=[0, 0, np.pi / 2], translate=[3, 0, 0])
    mirrored = np.diag([-1.0, 1, 1, 1])
    mirrored[0, 3] = -3
    read = load_mesh(
        tmp_path, scene_of((box((255, 0, 0)), aside), (box((0, 0, 255)), mirrored), (box(), np.eye(4))), "a.glb"
    )
    assert len(read.faces) == 36
    assert read.volume() == pytest.approx(0.5 + 1 + 1)  # the faces of the mirrored box look outwards, too
    assert read.colors is not None
    sides = {side: read.colors[np.abs(read.vertices[:, 0] - side) < 1] for side in (3, -3, 0)}
    np.testing.assert_allclose(sides[3], np.tile([1, 0, 0], (len(sides[3]), 1)), atol=0.01)
    np.testing.assert_allclose(sides[-3], np.tile([0, 0, 1], (len(sides[-3]), 1)), atol=0.01)
    np.testing.assert_allclose(sides[0], 1)
    right = read.vertices[read.vertices[:, 0] > 2]
    np.testing.assert_allclose(
        [right.min(axis=0), right.max(axis=0)], [[2.5, -0.25, -0.5], [3.5, 0.25, 0.5]], atol=1e-6
    )


def test_normals_are_transformed_with_their_part(colored_ball, tmp_path):
    """Scaled differently along each axis, a ball's normals become those of an ellipsoid."""
    shape = trimesh.Trimesh(
        colored_ball.vertices, colored_ball.faces, vertex_normals=colored_ball.normals, process=False
    )
    assert shape.vertex_normals.shape == colored_ball.vertices.shape  # so that they are written
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


def test_a_texture_that_is_shifted_by_whole_tiles_stays(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    straight = load_mesh(tmp_path, scene_of((box(texture=picture), np.eye(4))), "a.glb")
    shifted = box(texture=picture)
    shifted.visual.uv = np.add(shifted.visual.uv, [3, -2])
    read = load_mesh(tmp_path, scene_of((shifted, np.eye(4))), "a.glb")
    np.testing.assert_allclose(read.uv, straight.uv, atol=1e-6)
    np.testing.assert_array_equal(read.texture, picture)


def test_factors_multiply_pictures_in_linear_light(textured_ball, tmp_path):
    shape = box(texture=np.full((2, 2, 3), 200, np.uint8))
    shape.visual.material.baseColorFactor = np.array([128, 255, 0, 255], np.uint8)
    shape.visual.material.metallicRoughnessTexture = Image.fromarray(np.full((2, 2, 3), 200, np.uint8))
    read = load_mesh(tmp_path, scene_of((shape, np.eye(4))), "a.glb")
    light = srgb_to_linear(np.array([200 / 255])) * [128 / 255, 1, 0]
    assert read.texture is not None
    np.testing.assert_allclose(read.texture[0, 0], linear_to_srgb(light) * 255, atol=0.51)
    assert read.metallic_roughness is not None
    assert read.metallic_roughness[0, 0].tolist() == [200, 200, 100]  # roughness factor 1, metallic factor 0.5


def test_a_glb_reads_nothing_outside_its_folder(textured_ball, tmp_path):
    glb = to_glb(textured_ball)
    length = struct.unpack_from("<I", glb, 12)[0]
    document = json.loads(glb[20 : 20 + length])
    document["images"][0] = {"uri": "../secret.png"}
    (tmp_path / "secret.png").write_bytes(to_obj(textured_ball, "a")["a.png"])
    header = json.dumps(document).encode()
    header += b" " * (-len(header) % 4)
    rest = glb[20 + length :]
    size = 20 + len(header) + len(rest)
    changed = struct.pack("<4sIII4s", b"glTF", 2, size, len(header), b"JSON") + header + rest
    (tmp_path / "asset").mkdir()
    with pytest.warns(UserWarning, match="outside"):
        assert load_mesh(tmp_path / "asset", changed, "a.glb").texture is None
