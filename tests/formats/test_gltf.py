"""glTF of other programs: every feature of the core, the extensions that are read, and what is refused or left out."""

import base64
import json
import math
import sys

import numpy as np
import pytest
from gltf_files import SQUARE, TWO, box_of, glb, outwards, read, silence
from loading import MESHES, corners, load, load_mesh

from sds3d.formats.glb_chunks import Binary, one_mesh_glb
from sds3d.formats.load import AssetError, load_asset
from sds3d.geometry.mesh import Mesh


def test_a_skinned_mesh_stands_where_its_joints_do():
    """A bar of 2 x 0.4 x 0.4 along X hangs on a joint that is turned by 90 degrees about Z; its node does not count."""
    mesh = read("skinned.glb")
    assert box_of(mesh) == [-0.2, -1, -0.2, 0.2, 1, 0.2]
    assert mesh.volume() == pytest.approx(2 * 0.4 * 0.4)


def test_vertices_hang_on_several_joints(tmp_path):
    """Joints at x = 4 and x = 8 with weights 1/4 and 3/4; the sum of the weights may differ from 1."""
    joints = np.tile(np.array([[0, 1, 0, 0]], np.uint8), (4, 1))
    weights = np.tile(np.array([[64, 192, 0, 0]], np.uint8), (4, 1))
    nodes = [{"mesh": 0, "skin": 0}, {"translation": [4, 0, 0], "children": [2]}, {"translation": [4, 0, 0]}]
    data = glb(
        {"POSITION": SQUARE, "JOINTS_0": joints, "WEIGHTS_0": weights},
        accessors={"WEIGHTS_0": {"normalized": True}},
        nodes=nodes,
        scenes=[{"nodes": [0, 1]}],
        skins=[{"joints": [1, 2]}],
    )
    mesh = load_mesh(tmp_path, data, "a.glb")
    np.testing.assert_allclose(mesh.vertices, SQUARE + np.array([7, 0, 0]), rtol=1e-6)


def test_morph_targets_have_their_weights():
    mesh = read("morph.glb")
    assert box_of(mesh) == [-0.5, -0.5, -0.5, 0.5, 1.5, 0.5]
    assert mesh.volume() == pytest.approx(2)


def test_instances_are_placed(tmp_path):
    mesh = read("instancing.glb")
    assert mesh.volume() == pytest.approx(3 * 0.2**3)
    middles = mesh.vertices[mesh.faces].reshape(3, -1, 3).mean(axis=1)
    np.testing.assert_allclose(middles, [[-0.4, 0, 0], [0, 0, 0], [0.4, 0, 0]], atol=1e-6)


def test_an_instance_may_be_turned_and_scaled(tmp_path):
    """By the closed form: 90 degrees about Z takes (1, 0) to (0, 1); then the node moves all by 10."""
    half = math.sqrt(0.5)
    attributes = {
        "POSITION": SQUARE,
        "_T": np.array([[5, 0, 0]], np.float32),
        "_R": np.array([[0, 0, half, half]], np.float32),
        "_S": np.array([[2, 2, 2]], np.float32),
    }
    nodes = [
        {
            "mesh": 0,
            "translation": [10, 0, 0],
            "extensions": {
                "EXT_mesh_gpu_instancing": {"attributes": {"TRANSLATION": 1, "ROTATION": 2, "SCALE": 3, "_ID": 1}}
            },
        }
    ]
    mesh = load_mesh(tmp_path, glb(attributes, nodes=nodes), "a.glb")
    x, y, z = SQUARE.T
    np.testing.assert_allclose(mesh.vertices, np.stack([15 - 2 * y, 2 * x, z], axis=1), atol=1e-5)


def test_quantised_positions_are_read():
    mesh = read("quant_norm.glb")
    assert box_of(mesh) == [-0.4, -0.1, -0.1, 0.4, 0.1, 0.1]
    assert mesh.volume() == pytest.approx(2 * 0.2**3, rel=1e-3)


@pytest.mark.parametrize(("kind", "whole"), [("u1", 255), ("u2", 65535), ("i1", 127), ("i2", 32767)])
def test_normalised_integers_are_fractions(kind, whole, tmp_path):
    signed = kind[0] == "i"
    uv = np.array([[0, 0], [whole, 0], [whole, whole // 2], [-whole - 1 if signed else 0, whole]]).astype(kind)
    data = glb({"POSITION": SQUARE, "TEXCOORD_0": uv}, accessors={"TEXCOORD_0": {"normalized": True}})
    expected = np.maximum(uv / whole, -1)
    if signed:  # a tile further left: both tiles become one texture
        with pytest.warns(UserWarning, match="2 x 1 tiles"):
            read_uv = load_mesh(tmp_path, data, "a.glb").uv
        expected = (expected + np.array([1, 0])) / [2, 1]
    else:
        read_uv = load_mesh(tmp_path, data, "a.glb").uv
    np.testing.assert_allclose(read_uv, expected, atol=1e-6)


def test_fans_and_strips_are_triangles_that_look_to_one_side():
    """Half a disc of six vertices, and a zigzag of five: their areas by the shoelace formula."""
    fan, strip = read("fan.glb"), read("strip.glb")
    for mesh, order in ((fan, [0, 1, 2, 3, 4, 5]), (strip, [0, 1, 3, 4, 2])):
        edges = corners(mesh, mesh.vertices)
        cross = np.cross(edges[:, 1] - edges[:, 0], edges[:, 2] - edges[:, 0])
        x, y = mesh.vertices[order, :2].astype(float).T
        area = abs((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) / 2
        assert len({math.copysign(1, z) for z in cross[:, 2]}) == 1
        assert abs(cross[:, 2].sum()) / 2 == pytest.approx(area, rel=1e-5)
    assert len(fan.faces) == 4
    assert len(strip.faces) == 3


def test_a_strip_with_repeated_vertices_has_no_triangles_without_area(tmp_path):
    order = np.array([[0, 1, 3, 2, 2, 0, 0, 1]], np.int32)
    mesh = load_mesh(tmp_path, glb({"POSITION": SQUARE}, order, mode=5), "a.glb")
    assert mesh.faces.tolist() == [[0, 1, 3], [1, 2, 3]]


def test_sparse_accessors_are_filled_in(tmp_path):
    """With values below, and with zeros below; the second vertex is moved."""
    for below in (True, False):
        binary = Binary()
        position = {"componentType": 5126, "count": 4, "type": "VEC3"}
        if below:
            position["bufferView"] = binary.view(SQUARE.tobytes())
        indices = binary.view(np.array([1, 3], "<u2").tobytes())
        values = binary.view(np.array([[5, 0, 0], [0, 7, 0]], "<f4").tobytes())
        position["sparse"] = {
            "count": 2,
            "indices": {"bufferView": indices, "componentType": 5123},
            "values": {"bufferView": values},
        }
        binary.accessors.append(position)
        data = one_mesh_glb({"attributes": {"POSITION": 0}, "indices": binary.indices(TWO)}, binary, "", {})
        expected = SQUARE.copy() if below else np.zeros((4, 3), np.float32)
        expected[[1, 3]] = [[5, 0, 0], [0, 7, 0]]
        np.testing.assert_array_equal(load_mesh(tmp_path, data, "a.glb").vertices, expected)


def test_a_mirrored_node_still_looks_outwards():
    mesh = read("negscale.glb")
    assert mesh.volume() == pytest.approx(1)
    assert outwards(mesh)


def test_the_matrix_of_a_node_is_stored_by_columns(tmp_path):
    matrix = [0, 2, 0, 0, -1, 0, 0, 0, 0, 0, 1, 0, 3, 4, 5, 1]  # x becomes 2 y, y becomes -x, then (3, 4, 5) is added
    nodes = [{"children": [1], "translation": [0, 0, 1]}, {"mesh": 0, "matrix": matrix}]
    mesh = load_mesh(tmp_path, glb({"POSITION": SQUARE}, nodes=nodes), "a.glb")
    x, y, z = SQUARE.T
    np.testing.assert_allclose(mesh.vertices, np.stack([3 - y, 4 + 2 * x, z + 6], axis=1))


def test_only_what_is_visible_in_the_scene_is_read(tmp_path):
    nodes = [
        {"mesh": 0},
        {"mesh": 0, "translation": [5, 0, 0]},
        {"mesh": 0, "translation": [9, 0, 0], "extensions": {"KHR_node_visibility": {"visible": False}}},
    ]
    data = glb({"POSITION": SQUARE}, nodes=nodes, scenes=[{"nodes": [1]}, {"nodes": [0, 2]}], scene=1)
    np.testing.assert_array_equal(load_mesh(tmp_path, data, "a.glb").vertices, SQUARE)


def test_what_is_left_out_is_told_in_one_line(tmp_path):
    assert read("emissive.glb", "left out of the mesh: emission").is_colored()
    assert read("alphamask.glb", "left out of the mesh: alpha cut-outs").texture is not None
    basisu = "textures in Basis Universal (KHR_texture_basisu; gltf-transform ktxdecompress IN OUT makes PNG of them)"
    assert read("basisu.glb", f"left out of the mesh: {basisu}").texture is None
    material = {
        "normalTexture": {"index": 0},
        "alphaMode": "BLEND",
        "pbrMetallicRoughness": {"baseColorFactor": [1, 1, 1, 0.5]},
        "extensions": {"KHR_materials_transmission": {}, "KHR_materials_clearcoat": {}, "KHR_materials_unlit": {}},
    }
    data = glb({"POSITION": SQUARE}, primitive={"material": 0}, materials=[material], animations=[{}])
    told = "normal maps, KHR_materials_clearcoat, KHR_materials_transmission, transparency, animations"
    with silence() as caught:
        load(tmp_path, data, "a.glb")
    assert [str(warning.message) for warning in caught] == [f"left out of the mesh: {told}"]


def test_an_unknown_extension_that_is_required_is_refused_by_its_name(tmp_path):
    for name in ("EXT_something_new", "KHR_texture_procedurals"):
        with pytest.raises(AssetError, match=f"requires the extension {name}, which cannot be read"):
            load(tmp_path, glb({"POSITION": SQUARE}, extensionsRequired=[name]), "a.glb")
    assert isinstance(load(tmp_path, glb({"POSITION": SQUARE}, extensionsUsed=["EXT_something_new"]), "a.glb"), Mesh)


@pytest.mark.parametrize(("name", "atol"), [("draco.glb", 2e-4), ("meshopt.glb", 2e-4)])
def test_compressed_files_are_unpacked(name, atol):
    """gltf-transform made them of `twotex.glb`, which has the same triangles, in another order."""
    told = "2 materials have UVs of their own: they become one atlas, and the UVs are scaled into it"
    plain, packed = read("twotex.glb", told), read(name, told)

    def triangles(mesh: Mesh) -> np.ndarray:
        places = corners(mesh, np.concatenate([mesh.vertices, mesh.uv, mesh.normals], axis=1))
        first = np.lexsort(np.moveaxis(places[..., :3].round(2), -1, 0))[:, :1]  # the corner that each begins with
        turned = np.take_along_axis(places, ((first + np.arange(3)) % 3)[..., None], axis=1).reshape(len(places), -1)
        return turned[np.lexsort(turned.round(2).T)]

    np.testing.assert_allclose(triangles(packed)[:, :5], triangles(plain)[:, :5], atol=atol * 10)
    np.testing.assert_allclose(triangles(packed)[:, 5:8], triangles(plain)[:, 5:8], atol=0.02)
    assert packed.volume() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(("name", "package", "how"), [
    ("draco.glb", "DracoPy", "Draco"), ("meshopt.glb", "meshopt", "meshoptimizer"),
])  # fmt: skip
def test_without_the_package_a_line_says_how_to_unpack(name, package, how, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(AssetError, match=rf'compressed by {how}: run pip install "\.\[compressed\]".*gltf-transform'):
        load_asset(MESHES / name)


def test_a_gltf_has_its_buffers_within_it_or_beside_it(tmp_path):
    mesh = read("embedded.gltf")
    assert box_of(mesh) == [-0.5, -0.5, -0.5, 0.5, 0.5, 0.5]
    assert mesh.volume() == pytest.approx(1)
    document = json.loads((MESHES / "embedded.gltf").read_text())
    data = base64.b64decode(document["buffers"][0]["uri"].partition(",")[2])
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/my buffer.bin").write_bytes(data)
    document["buffers"][0]["uri"] = "parts/my%20buffer.bin"
    beside = load_mesh(tmp_path, b"\xef\xbb\xbf" + json.dumps(document).encode(), "a.gltf")
    np.testing.assert_array_equal(beside.vertices, mesh.vertices)


def test_a_gltf_reads_nothing_outside_its_folder_and_downloads_nothing(tmp_path):
    document = json.loads((MESHES / "embedded.gltf").read_text())
    inside = tmp_path / "asset"
    inside.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(360))
    (inside / "link.bin").symlink_to(tmp_path / "secret.bin")
    cases = {
        "../secret.bin": "in its folder",
        "%2e%2e/secret.bin": "in its folder",
        str(tmp_path / "secret.bin"): "in its folder",
        "file://" + str(tmp_path / "secret.bin"): "nothing is downloaded",
        "https://example.org/a.bin": "nothing is downloaded",
        "link.bin": "in its folder",
        "gone.bin": "in its folder",
    }
    for uri, message in cases.items():
        document["buffers"][0]["uri"] = uri
        (inside / "a.gltf").write_text(json.dumps(document))
        with pytest.raises(AssetError, match=message), silence():
            load_asset(inside / "a.gltf")


def test_malformed_documents_are_refused_in_one_line(tmp_path):
    square = {"POSITION": SQUARE}
    loop = {"nodes": [{"children": [1]}, {"mesh": 0, "children": [0]}]}
    cases = {
        "two parents, or is its own ancestor": glb(square, **loop, scenes=[{"nodes": [0]}]),
        "does not exist": glb(square, TWO + 9),
        "differ in length": glb({"POSITION": SQUARE, "NORMAL": SQUARE[:3]}),
        "reaches beyond its buffer view": glb(square, accessors={"POSITION": {"count": 5}}),
        "without data": glb(square, accessors={"POSITION": {"bufferView": 0, "count": 10**12}}).replace(
            b'"accessors":[{"bufferView":0', b'"accessors":[{"bufferless":0'
        ),
        "malformed": glb(square, primitive={"material": 3}),
        "no triangles in the file, but points and lines": glb(square, mode=1),
        "vertices together": glb(
            {**square, "_T": np.zeros((4, 3), np.float32)},
            accessors={"_T": {"count": 20_000_000}},
            nodes=[{"mesh": 0, "extensions": {"EXT_mesh_gpu_instancing": {"attributes": {"TRANSLATION": 1}}}}],
        ).replace(b'{"bufferView":1', b'{"bufferless":1'),
    }
    for message, data in cases.items():
        with pytest.raises(AssetError, match=message) as caught, silence():
            load(tmp_path, data, "a.glb")
        assert "\n" not in str(caught.value)
