"""Splats in GLB: checked by the Khronos validator; and files of other programs."""

import base64
import io
import json
import struct

import numpy as np
import pytest
import trimesh
from loading import load_splats
from splat_clouds import FLOAT, assert_same, cloud

from sds3d.formats.glb_chunks import Binary, one_mesh_glb, read_chunks
from sds3d.formats.load import AssetError
from sds3d.formats.splat_glb import from_splat_glb, to_splat_glb
from sds3d.geometry.colors import srgb_to_linear


@pytest.mark.parametrize("degree", [0, 3])
def test_the_khronos_validator_finds_only_the_names_of_the_extension(degree, validate):
    glb = to_splat_glb(cloud(50, degree))
    messages = validate(glb)["issues"]["messages"]
    harmonics = (degree + 1) ** 2
    errors = [message for message in messages if message["severity"] == 0]
    assert {message["code"] for message in errors} == {"MESH_PRIMITIVE_INVALID_ATTRIBUTE"}
    assert all("KHR_gaussian_splatting:" in message["pointer"] for message in errors)
    assert len(errors) == 3 + harmonics
    assert {message["code"] for message in messages if message["severity"] > 0} == {"UNSUPPORTED_EXTENSION"}
    # With the names of application-specific attributes, the same accessors are valid.
    own = glb.replace(b'"KHR_gaussian_splatting:', b'"_HR_gaussian_splatting_')
    assert len(own) == len(glb)
    assert validate(own)["issues"]["numErrors"] == 0


def test_readers_without_the_extension_show_coloured_points():
    splats = cloud(50)
    (points,) = trimesh.load(io.BytesIO(to_splat_glb(splats)), file_type="glb").geometry.values()  # type: ignore
    assert isinstance(points, trimesh.PointCloud)
    np.testing.assert_array_equal(points.vertices, splats.means)
    colors = np.concatenate([srgb_to_linear(splats.colors()), splats.opacities[:, None]], axis=1)
    np.testing.assert_allclose(points.colors / 255, colors, atol=1 / 255)


def test_the_glb_has_what_the_extension_requires():
    splats = cloud(7, 1)
    glb = to_splat_glb(splats, "mug")
    document, binary = read_chunks(glb)
    assert document["extensionsUsed"] == ["KHR_gaussian_splatting"]
    assert document["nodes"] == [{"mesh": 0, "name": "mug"}]
    (primitive,) = document["meshes"][0]["primitives"]
    assert primitive["mode"] == 0
    assert primitive["extensions"]["KHR_gaussian_splatting"] == {
        "kernel": "ellipse",
        "colorSpace": "srgb_rec709_display",
        "projection": "perspective",
        "sortingMethod": "cameraDistance",
    }

    def stored(attribute: str) -> np.ndarray:
        accessor = document["accessors"][primitive["attributes"][attribute]]
        view = document["bufferViews"][accessor["bufferView"]]
        assert view["target"] == 34962
        assert accessor["componentType"] == 5126
        width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[accessor["type"]]
        return np.frombuffer(binary, "<f4", 7 * width, view["byteOffset"]).reshape(7, width)

    np.testing.assert_array_equal(stored("KHR_gaussian_splatting:ROTATION"), splats.quats[:, [1, 2, 3, 0]])
    np.testing.assert_array_equal(stored("KHR_gaussian_splatting:SCALE"), splats.scales)
    np.testing.assert_array_equal(stored("KHR_gaussian_splatting:OPACITY")[:, 0], splats.opacities)
    for degree, first in ((0, 0), (1, 1)):
        for n in range(2 * degree + 1):
            name = f"KHR_gaussian_splatting:SH_DEGREE_{degree}_COEF_{n}"
            np.testing.assert_array_equal(stored(name), splats.sh[:, first + n])
    color = stored("COLOR_0").astype(np.float64)
    encoded = np.where(color <= 0.0031308, color * 12.92, 1.055 * color ** (1 / 2.4) - 0.055)[:, :3]
    np.testing.assert_allclose(encoded, np.clip(0.5 + 0.28209479177387814 * splats.sh[:, 0], 0, 1), atol=1e-5)
    np.testing.assert_array_equal(color[:, 3], splats.opacities)


def test_quantised_and_interleaved_glbs_of_others_read():
    """Every component type of the extension, two attributes in one view, and a document without names."""
    binary = Binary()
    rotation = np.array([[0, 0, 0, 127], [127, 0, 0, 0]], np.int8)
    mixed = np.zeros(2, [("means", "<f4", 3), ("sh", "<f4", 3)])
    mixed["means"], mixed["sh"] = [[1, 2, 3], [4, 5, 6]], [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]
    views = [
        binary.view(mixed.tobytes()),
        binary.view(rotation.tobytes()),
        binary.view(np.array([[1, 2, 3, 0], [4, 5, 6, 0]], np.uint8).tobytes()),
        binary.view(np.array([0, 65535], "<u2").tobytes()),
    ]
    binary.views[views[0]]["byteStride"] = 24
    binary.views[views[2]]["byteStride"] = 4
    binary.accessors = [
        {"bufferView": 0, "componentType": 5126, "count": 2, "type": "VEC3"},
        {"bufferView": 0, "componentType": 5126, "count": 2, "type": "VEC3", "byteOffset": 12},
        {"bufferView": 1, "componentType": 5120, "count": 2, "type": "VEC4", "normalized": True},
        {"bufferView": 2, "componentType": 5121, "count": 2, "type": "VEC3"},
        {"bufferView": 3, "componentType": 5123, "count": 2, "type": "SCALAR", "normalized": True},
    ]
    prefix = "KHR_gaussian_splatting:"
    attributes = {"POSITION": 0, f"{prefix}SH_DEGREE_0_COEF_0": 1, f"{prefix}ROTATION": 2}
    attributes |= {f"{prefix}SCALE": 3, f"{prefix}OPACITY": 4}
    extension = {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}
    primitive = {"attributes": attributes, "mode": 0, "extensions": {"KHR_gaussian_splatting": extension}}
    read = from_splat_glb(one_mesh_glb(primitive, binary, "", {}))
    np.testing.assert_array_equal(read.means, [[1, 2, 3], [4, 5, 6]])
    np.testing.assert_array_equal(read.quats, [[1, 0, 0, 0], [0, 1, 0, 0]])
    np.testing.assert_array_equal(read.scales, [[1, 2, 3], [4, 5, 6]])
    np.testing.assert_array_equal(read.opacities, [0, 1])
    np.testing.assert_allclose(read.sh, mixed["sh"][:, None])

    extension["colorSpace"] = "lin_rec709_display"
    with pytest.raises(ValueError, match="lin_rec709_display"):
        from_splat_glb(one_mesh_glb(primitive, binary, "", {}))
    extension["colorSpace"] = "srgb_rec709_display"
    with pytest.raises(ValueError, match="moves"):
        from_splat_glb(one_mesh_glb(primitive, binary, "", {"nodes": [{"mesh": 0, "scale": [1, 1, 2]}]}))
    del attributes["POSITION"]
    with pytest.raises(ValueError, match="malformed: KeyError 'POSITION'"):
        from_splat_glb(one_mesh_glb(primitive, binary, "", {}))


def test_a_cloud_that_would_be_misread_is_refused():
    data = to_splat_glb(cloud(3), "twelve-chars")
    assert len(from_splat_glb(data)) == 3
    moved = data.replace(b'"name":"twelve-chars"', b'"translation":[0,0,1]', 1)  # the node's name comes first
    with pytest.raises(ValueError, match="moves its Gaussian splats by a node"):
        from_splat_glb(moved)
    with pytest.raises(ValueError, match="not in lin__rec709_display"):
        from_splat_glb(data.replace(b"srgb_rec709_display", b"lin__rec709_display"))


def test_a_glb_beyond_4_gib_is_refused():
    binary = Binary()
    binary.data = np.broadcast_to(np.uint8(0), (2**32,))  # type: ignore[assignment]  # takes one byte
    with pytest.raises(ValueError, match="at most 4 GiB"):
        one_mesh_glb({}, binary, "", {})


def as_gltf(glb: bytes, uri: str) -> bytes:
    document, _ = read_chunks(glb)
    document["buffers"][0]["uri"] = uri
    return json.dumps(document).encode()


def test_a_gltf_with_splats_finds_its_buffer_within_it_or_beside_it(tmp_path):
    splats = cloud(20)
    glb = to_splat_glb(splats)
    binary = bytes(read_chunks(glb)[1])
    (tmp_path / "my buffer.bin").write_bytes(binary)
    for uri in ("my%20buffer.bin", "data:application/octet-stream;base64," + base64.b64encode(binary).decode()):
        assert_same(load_splats(tmp_path, as_gltf(glb, uri), "a.gltf"), splats, FLOAT)
    text = as_gltf(glb, uri).ljust(len(binary) * 2)
    text += b" " * (-len(text) % 4)
    whole = struct.pack("<4sII", b"glTF", 2, 20 + len(text)) + struct.pack("<I4s", len(text), b"JSON") + text
    assert_same(load_splats(tmp_path, whole, "a.glb"), splats, FLOAT)  # without a binary chunk
    with pytest.raises(AssetError, match=r"needs gone\.bin in its folder"), pytest.warns(UserWarning, match="missing"):
        load_splats(tmp_path, as_gltf(glb, "gone.bin"), "a.gltf")
    with pytest.raises(AssetError, match="in its folder"), pytest.warns(UserWarning, match="outside"):
        load_splats(tmp_path, as_gltf(glb, "../a.bin"), "a.gltf")


def test_what_is_beside_the_splats_is_told_and_other_kernels_are_refused(tmp_path):
    glb = to_splat_glb(cloud(20))
    document = json.loads(as_gltf(glb, "data:;base64," + base64.b64encode(read_chunks(glb)[1]).decode()))
    primitive = document["meshes"][0]["primitives"][0]
    document["meshes"].append({"primitives": [{"attributes": {"POSITION": 0}, "mode": 0}]})
    with pytest.warns(UserWarning, match="left out of the splats"):
        assert len(load_splats(tmp_path, json.dumps(document).encode(), "a.gltf")) == 20
    primitive["extensions"]["KHR_gaussian_splatting"]["kernel"] = "cone"
    with pytest.raises(AssetError, match="can be read, not cone"):
        load_splats(tmp_path, json.dumps(document).encode(), "a.gltf")
