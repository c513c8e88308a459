"""Materials of glTF files: UVs, textures and their transforms, atlases, vertex colours."""

import io
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from gltf_files import SQUARE, TWO, glb, read
from loading import MESHES, corners, load_mesh
from PIL import Image

from sds3d.formats.pictures import png
from sds3d.representations.mesh_fixed import FixedTrianglesConfig

UNIT = np.array([[0, 1], [1, 1], [1, 0], [0, 0]])


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


@pytest.mark.parametrize(("kind", "whole"), [("u1", 255), ("u2", 65535)])
def test_vertex_colours_of_integers_are_linear_light(kind, whole, tmp_path):
    colors = np.tile(np.array([[0.2140411 * whole, 0, whole, whole]]), (4, 1)).round().astype(kind)
    data = glb({"POSITION": SQUARE, "COLOR_0": colors}, accessors={"COLOR_0": {"normalized": True}})
    mesh = load_mesh(tmp_path, data, "a.glb")
    np.testing.assert_allclose(mesh.colors, np.tile([0.5, 0, 1], (4, 1)), atol=0.003)  # sRGB 0.5 is 0.214 of the light
    np.testing.assert_allclose(read("color_u16.glb").colors, np.tile([1, 0, 0], (24, 1)))


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
