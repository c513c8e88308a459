"""glTF of other programs: every feature of the core, the extensions that are read, and what is refused or left out."""

import base64
import io
import json
import math
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from loading import MESHES, corners, load, load_mesh
from PIL import Image

from sds3d.formats.glb_chunks import Binary, one_mesh_glb
from sds3d.formats.load import AssetError, load_asset
from sds3d.formats.pictures import png
from sds3d.geometry.mesh import Mesh
from sds3d.representations.mesh_fixed import FixedTrianglesConfig

SQUARE = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)
TWO = np.array([[0, 1, 2], [0, 2, 3]], np.int32)


def read(name: str, *told: str) -> Mesh:
    """The mesh of a file, and whether loading it says exactly what is expected."""
    with silence() as caught:
        mesh = load_asset(MESHES / name)
    assert [str(warning.message) for warning in caught] == list(told)
    assert isinstance(mesh, Mesh)
    return mesh


@contextmanager
def silence() -> Iterator[list[warnings.WarningMessage]]:
    """Collect the warnings instead of showing them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught


def box_of(mesh: Mesh) -> list[float]:
    return np.concatenate([mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)]).astype(float).round(5).tolist()


def outwards(mesh: Mesh) -> bool:
    """Whether the normals of a convex mesh round the origin look outwards."""
    assert mesh.normals is not None
    return bool((np.einsum("vi,vi->v", mesh.normals, mesh.vertices) > 0).all())


def glb(attributes: dict[str, np.ndarray], faces: np.ndarray | None = TWO, mode: int = 4, **extra: Any) -> bytes:
    """A GLB of one primitive. Accessors get what `accessors` says; the rest goes into the document."""
    binary = Binary()
    kinds = extra.pop("accessors", {})
    named = {}
    for name, values in attributes.items():
        named[name] = len(binary.accessors)
        rows = np.ascontiguousarray(values)
        types = {"i1": 5120, "u1": 5121, "i2": 5122, "u2": 5123, "u4": 5125, "f4": 5126}
        padded = np.zeros((len(rows), -(-rows.shape[1] * rows.itemsize // 4) * 4), np.uint8)
        padded[:, : rows.shape[1] * rows.itemsize] = rows.view(np.uint8).reshape(len(rows), -1)
        view = binary.view(padded.tobytes())
        binary.views[view]["byteStride"] = padded.shape[1]
        kind = {2: "VEC2", 3: "VEC3", 4: "VEC4"}[rows.shape[1]]
        accessor = {"bufferView": view, "componentType": types[rows.dtype.str[1:]], "count": len(rows), "type": kind}
        binary.accessors.append(accessor | kinds.get(name, {}))
    primitive: dict[str, Any] = {"attributes": named, "mode": mode}
    if faces is not None:
        primitive["indices"] = binary.indices(faces)
    primitive |= extra.pop("primitive", {})
    for data in extra.pop("views", []):
        binary.view(data)
    return one_mesh_glb(primitive, binary, "", extra)


def test_uvs_without_a_picture_stay_vertex_for_vertex(tmp_path):
    """Also when the mesh becomes one that is painted."""
    data = (MESHES / "uv_no_texture.glb").read_bytes()
    document = json.loads(data[20 : 20 + int.from_bytes(data[12:16], "little")])
    accessor = document["accessors"][document["meshes"][0]["primitives"][0]["attributes"]["TEXCOORD_0"]]
    start = 28 + int.from_bytes(data[12:16], "little")
    start += document["bufferViews"][accessor["bufferView"]].get("byteOffset", 0)
    stored = np.frombuffer(data, "<f4", 2 * accessor["count"], start).reshape(-1, 2)
    assert np.unique(stored, axis=0).shape[0] > 4
    mesh = read("uv_no_texture.glb")
    np.testing.assert_array_equal(mesh.uv, stored)
    assert mesh.texture is None
    shape = FixedTrianglesConfig().make(torch.device("cpu"))
    shape.start_from(mesh)
    np.testing.assert_array_equal(shape.layout(64).uv.numpy(), stored)
    np.testing.assert_array_equal(shape.layout(64).faces.numpy(), mesh.faces)


def test_two_pictures_become_one_atlas():
    """At any point of a face, the atlas shows the colour of the face's own picture."""
    mesh = read(
        "twotex.glb", "2 materials have UVs of their own: they become one atlas, and the UVs are scaled into it"
    )
    assert mesh.texture is not None
    assert mesh.uv is not None
    data = (MESHES / "twotex.glb").read_bytes()
    document = json.loads(data[20 : 20 + int.from_bytes(data[12:16], "little")])
    body = data[28 + int.from_bytes(data[12:16], "little") :]

    def view(number: int) -> bytes:
        entry = document["bufferViews"][number]
        return body[entry.get("byteOffset", 0) :][: entry["byteLength"]]

    pictures = [
        np.asarray(Image.open(io.BytesIO(view(image["bufferView"]))).convert("RGB")) for image in document["images"]
    ]
    own = np.frombuffer(view(document["accessors"][2]["bufferView"]), "<f4").reshape(-1, 2)
    rng = np.random.default_rng(0)
    uv = corners(mesh, mesh.uv)
    for part in range(2):
        faces = np.frombuffer(view(document["accessors"][3 + part]["bufferView"]), "<u2").reshape(-1, 3)
        weights = rng.dirichlet([1, 1, 1], (len(faces), 50))  # (6, 50, 3)
        mine = np.einsum("fpk,fkc->fpc", weights, uv[6 * part : 6 * part + 6]).reshape(-1, 2)
        theirs = np.einsum("fpk,fkc->fpc", weights, own[faces]).reshape(-1, 2)
        # Away from the borders of texels, where rounding decides.
        height, width = pictures[part].shape[:2]
        inside = (np.abs(theirs * [width, height] % 1 - 0.5) < 0.3).all(axis=1)
        column, row = (theirs[inside] * [width, height]).astype(int).T
        size = mesh.texture.shape[0]
        x, y = (mine[inside] * size).astype(int).T
        assert inside.any()
        error = np.abs(mesh.texture[y, x].astype(int) - pictures[part][row, column]).max(axis=1)
        assert (error <= 1).mean() > 0.98


def picture_glb(picture: np.ndarray, uv: np.ndarray, sampler: dict[str, Any] | None = None, **texture: Any) -> bytes:
    material = {"pbrMetallicRoughness": {"baseColorTexture": {"index": 0, **texture}}}
    attributes = {"POSITION": SQUARE, "TEXCOORD_0": uv.astype(np.float32)}
    return glb(
        attributes,
        primitive={"material": 0},
        views=[png(picture)],
        materials=[material],
        textures=[{"source": 0, "sampler": 0}],
        samplers=[sampler or {}],
        images=[{"bufferView": 3, "mimeType": "image/png"}],
    )


UNIT = np.array([[0, 1], [1, 1], [1, 0], [0, 0]])


@pytest.mark.parametrize("wrap", ["repeat", "mirror", "clamp"])
def test_a_picture_that_repeats_is_drawn_as_often(wrap, tmp_path):
    """The texture at a point is the picture where the sampler says: 3 x 2 tiles."""
    picture = np.random.default_rng(0).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    code = {"repeat": 10497, "mirror": 33648, "clamp": 33071}[wrap]
    uv = UNIT * [3, 2] - [1, 0]  # u from -1 to 2, v from 0 to 2
    with pytest.warns(UserWarning, match="UVs cover 3 x 2 tiles"):
        mesh = load_mesh(tmp_path, picture_glb(picture, uv, {"wrapS": code, "wrapT": code}), "a.glb")
    assert mesh.texture is not None
    assert mesh.uv is not None
    np.testing.assert_allclose(mesh.uv, UNIT, atol=1e-6)  # vertex for vertex, scaled
    t = (np.arange(24) + 0.5) / 24
    u, v = np.meshgrid(3 * t - 1, 2 * t)

    def index(x):
        inside = {"repeat": x % 1, "mirror": 1 - abs(x % 2 - 1), "clamp": x.clip(0, 1 - 1e-9)}[wrap]
        return (inside * 4).astype(int)

    size = mesh.texture.shape[0]
    shown = mesh.texture[(t * size).astype(int)[:, None], (t * size).astype(int)]
    np.testing.assert_array_equal(shown, picture[index(v), index(u)])


def test_islands_in_different_tiles_share_a_picture_that_repeats(tmp_path):
    """Mirrored halves moved out by a tile: common, and no reason to change the texture."""
    picture = np.random.default_rng(0).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    attributes = {
        "POSITION": np.concatenate([SQUARE, SQUARE + np.array([2, 0, 0])]).astype(np.float32),
        "TEXCOORD_0": np.concatenate([UNIT, UNIT + np.array([1, -3])]).astype(np.float32),
    }
    data = glb(
        attributes,
        np.concatenate([TWO, TWO + 4]).astype(np.int32),
        primitive={"material": 0},
        views=[png(picture)],
        materials=[{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}],
        textures=[{"source": 0}],
        images=[{"bufferView": 3, "mimeType": "image/png"}],
    )
    mesh = load_mesh(tmp_path, data, "a.glb")
    np.testing.assert_array_equal(mesh.texture, picture)
    np.testing.assert_allclose(mesh.uv, np.tile(UNIT, (2, 1)), atol=1e-6)


def test_vertex_colours_multiply_the_texture(tmp_path):
    """A white picture shows the colours, which are linear light, between the vertices too."""
    colors = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)
    data = glb(
        {"POSITION": SQUARE, "TEXCOORD_0": UNIT.astype(np.float32), "COLOR_0": colors},
        primitive={"material": 0},
        views=[png(np.full((4, 4, 3), 255, np.uint8))],
        materials=[{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}],
        textures=[{"source": 0}],
        images=[{"bufferView": 4, "mimeType": "image/png"}],
    )
    mesh = load_mesh(tmp_path, data, "a.glb")
    assert mesh.texture is not None
    size = mesh.texture.shape[0]
    light = (np.array([[0.25, 0.75]]) * size // 1 + 0.5) / size
    expected = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055) * 255
    row, column = int(0.25 * size), int(0.75 * size)  # v = 0.25: y = 0.75
    np.testing.assert_allclose(mesh.texture[row, column, :2], [expected[0, 1], expected[0, 1]], atol=3)
    np.testing.assert_allclose(mesh.colors, colors, atol=1e-5)  # 0 and 1 are the same in both


def test_textures_are_transformed():
    """The file has (0.25, 0.25) everywhere and moves it by (0.5, 0): from the red quarter to the green one."""
    mesh = read("texture_transform.glb")
    np.testing.assert_allclose(mesh.uv, np.tile([0.75, 0.25], (24, 1)))
    np.testing.assert_allclose(mesh.colors, np.tile([0, 1, 0], (24, 1)), atol=1e-6)


def test_the_example_of_the_extension_is_obeyed(tmp_path):
    """KHR_texture_transform's own example: the lower left quarter of the picture, turned clockwise by 90 degrees."""
    moved = {"offset": [0, 1], "rotation": math.pi / 2, "scale": [0.5, 0.5]}
    picture = np.random.default_rng(0).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    data = picture_glb(picture, UNIT, extensions={"KHR_texture_transform": moved})
    mesh = load_mesh(tmp_path, data, "a.glb")
    np.testing.assert_array_equal(mesh.texture, picture)
    np.testing.assert_allclose(mesh.uv.min(axis=0), [0, 0.5], atol=1e-6)
    np.testing.assert_allclose(mesh.uv.max(axis=0), [0.5, 1], atol=1e-6)


def test_the_set_of_coordinates_that_a_texture_names_is_taken(tmp_path):
    picture = np.zeros((2, 2, 3), np.uint8)
    for own in ({"texCoord": 1}, {"extensions": {"KHR_texture_transform": {"texCoord": 1}}}):
        data = picture_glb(picture, UNIT / 2, **own).replace(b'"TEXCOORD_0"', b'"TEXCOORD_1"')
        np.testing.assert_allclose(load_mesh(tmp_path, data, "a.glb").uv, UNIT / 2)


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


@pytest.mark.parametrize(("kind", "whole"), [("u1", 255), ("u2", 65535)])
def test_vertex_colours_of_integers_are_linear_light(kind, whole, tmp_path):
    colors = np.tile(np.array([[0.2140411 * whole, 0, whole, whole]]), (4, 1)).round().astype(kind)
    data = glb({"POSITION": SQUARE, "COLOR_0": colors}, accessors={"COLOR_0": {"normalized": True}})
    mesh = load_mesh(tmp_path, data, "a.glb")
    np.testing.assert_allclose(mesh.colors, np.tile([0.5, 0, 1], (4, 1)), atol=0.003)  # sRGB 0.5 is 0.214 of the light
    np.testing.assert_allclose(read("color_u16.glb").colors, np.tile([1, 0, 0], (24, 1)))


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


def test_greys_of_16_bits_keep_their_values():
    mesh = read("grey16.glb")
    data = (MESHES / "grey16.glb").read_bytes()
    stored = np.asarray(Image.open(io.BytesIO(data[data.index(b"\x89PNG") :]))).astype(np.int64)
    assert stored.max() > 255
    assert mesh.texture is not None
    np.testing.assert_array_equal(mesh.texture[..., 0], np.rint(stored / 257))


def test_webp_and_specular_glossiness_are_read():
    np.testing.assert_allclose(read("webp.glb").colors, np.tile([1, 0, 0], (24, 1)), atol=0.02)
    mesh = read("specgloss.glb")
    assert (mesh.metallic, mesh.roughness) == (0, pytest.approx(0.7))
    np.testing.assert_allclose(mesh.colors, np.tile([1, 0, 0], (24, 1)))


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
