"""Splats in PLY, .splat, .spz and GLB: read back by programs that are not ours, by ours, and rendered."""

import gzip
import io
import json
import struct
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from plyfile import PlyData, PlyElement
from scipy.spatial.transform import Rotation

from sds3d.cameras import turntable
from sds3d.formats.glb import srgb_to_linear
from sds3d.formats.glb_chunks import Binary, one_mesh_glb, read_chunks
from sds3d.formats.splat import from_splat, to_splat
from sds3d.formats.splat_glb import from_splat_glb, to_splat_glb
from sds3d.formats.splat_ply import from_splat_ply, to_splat_ply
from sds3d.formats.spz import from_spz, to_spz
from sds3d.geometry.splats import SH_C0, SMALLEST_SCALE, Splats, turned
from sds3d.rendering.splatting import rasterization, spherical_harmonics

UPRIGHT = Rotation.identity()
Y_DOWN = Rotation.from_euler("z", 180, degrees=True)  # from the world frame to that of PLY and .splat
RDF = Rotation.from_euler("x", 180, degrees=True)  # from x right, y up, z back to x right, y down, z forward


class Bounds(NamedTuple):
    """The largest errors of a format: metres, degrees, fraction of the scale, opacity, harmonics (constant, others)."""

    means: float
    angle: float
    scales: float
    opacities: float
    constant: float
    others: float


# Half a step of each quantisation; an angle is twice the error of the quaternion, which the derived component enlarges.
FLOAT = Bounds(0, 1e-4, 3e-6, 1e-6, 1e-6, 1e-6)
SPLAT = Bounds(0, 1.0, 0, 0.501 / 255, 0.501 / 255 / SH_C0, 0)
THEIR_SPLAT = SPLAT._replace(angle=1.9, scales=1e-6)  # splat-transform takes 127.5 for a quaternion's zero, not 128
SPZ = Bounds(0.501 / 2**16, 0.29, np.exp(0.501 / 16) - 1, 0.501 / 255, 0.501 / 255 / 0.15, 0.501 / 128)


class Format(NamedTuple):
    write: Callable[[Splats], bytes]
    read: Callable[[bytes], Splats]
    bounds: Bounds


FORMATS = {
    "ply": Format(to_splat_ply, from_splat_ply, FLOAT),
    "compact.ply": Format(lambda splats: to_splat_ply(splats, compact=True), from_splat_ply, FLOAT),
    "splat": Format(to_splat, from_splat, SPLAT),
    "spz": Format(to_spz, from_spz, SPZ),
    "glb": Format(to_splat_glb, from_splat_glb, FLOAT),
}
every_format = pytest.mark.parametrize("name", FORMATS)


def cloud(n: int = 100, degree: int = 3, seed: int = 0) -> Splats:
    """Needles and plates in all directions, with colours in [0, 1] from straight ahead."""
    rng = np.random.default_rng(seed)
    sh = rng.uniform(-0.5, 0.5, (n, (degree + 1) ** 2, 3))
    sh[:, 0] = rng.uniform(-1.7, 1.7, (n, 3))
    arrays = (
        rng.uniform(-0.5, 0.5, (n, 3)),
        rng.normal(size=(n, 4)),
        np.exp(rng.uniform(-6, -2.5, (n, 3))),
        rng.uniform(0.02, 1, n),
        sh,
    )
    return Splats(*(array.astype(np.float32) for array in arrays)).checked()


def by_importance(splats: Splats) -> Splats:
    """The order of .splat files."""
    volume = splats.scales.prod(axis=1, dtype=np.float64)
    return splats[np.argsort(-splats.opacities.astype(np.float64) * volume, kind="stable")]


def expected_of(name: str, splats: Splats) -> Splats:
    """What a format promises to keep: .splat sorts, and has no harmonics above the constant one."""
    splats = splats.checked()
    return by_importance(replace(splats, sh=splats.sh[:, :1])) if name == "splat" else splats


def rotations(splats: Splats) -> Rotation:
    return Rotation.from_quat(splats.quats[:, [1, 2, 3, 0]].astype(np.float64))


def shade(sh: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Colours (D, N, 3) of harmonics (N, K, 3) along unit directions (D, 3), by the renderer's own function."""
    degree = round(sh.shape[1] ** 0.5) - 1
    spread = torch.tensor(directions)[:, None].expand(-1, len(sh), -1)
    return spherical_harmonics(degree, spread, torch.tensor(sh.astype(np.float64))).numpy()


def assert_same(read: Splats, splats: Splats, bounds: Bounds, frame: Rotation = UPRIGHT) -> None:
    """`read`, in a frame that `frame` leads to, is `splats`, in the world frame, within the bounds."""
    assert len(read) == len(splats)
    np.testing.assert_allclose(read.means, frame.apply(splats.means), rtol=1e-6, atol=bounds.means)
    # A half turn about an axis of its own leaves a Gaussian the same, and some programs do make it.
    difference = rotations(read).inv() * (frame * rotations(splats))
    angles = np.rad2deg([(difference * half_turn).magnitude() for half_turn in Rotation.from_quat(np.eye(4))])
    assert angles.min(axis=0).max() <= bounds.angle
    np.testing.assert_allclose(read.scales, splats.scales, rtol=bounds.scales, atol=0)
    np.testing.assert_allclose(read.opacities, splats.opacities, rtol=0, atol=bounds.opacities)
    np.testing.assert_allclose(read.sh[:, 0], splats.sh[:, 0], rtol=1e-6, atol=bounds.constant)
    if frame is UPRIGHT:  # bands that are zero may be left out
        sh = np.zeros((len(splats), max(read.sh.shape[1], splats.sh.shape[1]), 3))
        padded = sh.copy()
        padded[:, : read.sh.shape[1]], sh[:, : splats.sh.shape[1]] = read.sh, splats.sh
        np.testing.assert_allclose(padded[:, 1:], sh[:, 1:], rtol=1e-6, atol=bounds.others)
    else:  # the colours of a turned cloud along turned directions; 15 harmonics add up to 15 / sqrt(4 pi) at most
        directions = np.random.default_rng(0).normal(size=(20, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        expected, got = shade(splats.sh, directions), shade(read.sh, frame.apply(directions))
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 + bounds.constant + 4.3 * bounds.others)


def read_table(csv: bytes) -> Splats:
    """The rows that splat-transform prints, in the frame that it prints them in, by the formulas of 3DGS."""
    table = np.genfromtxt(io.BytesIO(csv), delimiter=",", names=True)
    names = table.dtype.names or ()

    def columns(prefix: str, count: int) -> np.ndarray:
        return np.stack([table[f"{prefix}_{i}"] for i in range(count)], axis=-1)

    rest = sum(name.startswith("f_rest_") for name in names) // 3
    sh = np.concatenate(
        [columns("f_dc", 3)[:, None], columns("f_rest", 3 * rest).reshape(-1, 3, rest).transpose(0, 2, 1)]
        if rest
        else [columns("f_dc", 3)[:, None]],
        axis=1,
    )
    quats = columns("rot", 4)
    arrays = (
        np.stack([table["x"], table["y"], table["z"]], axis=-1),
        quats / np.linalg.norm(quats, axis=1, keepdims=True),
        np.exp(columns("scale", 3)),
        1 / (1 + np.exp(-table["opacity"])),
        sh,
    )
    return Splats(*(array.astype(np.float32) for array in arrays))


# ---- by splat-transform ----


@pytest.mark.parametrize("degree", [0, 3])
@pytest.mark.parametrize(
    ("name", "frame"),
    [("ply", Y_DOWN), ("compact.ply", Y_DOWN), ("splat", Y_DOWN), ("spz", RDF)],
    ids=["ply", "compact.ply", "splat", "spz"],
)
def test_splat_transform_reads_the_same_values(name, frame, degree, splat_transform):
    """It prints PLY and .splat as they stand in the file, and turns .spz, right-up-back, to right-down-forward."""
    splats = cloud(degree=degree)
    format = FORMATS[name]
    read = read_table(splat_transform(format.write(splats), name.split(".")[-1], "csv"))
    bounds = THEIR_SPLAT if name == "splat" else format.bounds
    assert_same(read, expected_of(name, splats), bounds, frame)
    if degree:
        behind = Rotation.from_euler("y", 180, degrees=True) * frame  # upright as well, but seen from behind
        with pytest.raises(AssertionError):
            assert_same(read, expected_of(name, splats), bounds, behind)
        reordered = replace(read, quats=np.roll(read.quats, 1, axis=1))
        with pytest.raises(AssertionError):
            assert_same(reordered, expected_of(name, splats), bounds, frame)


@pytest.mark.parametrize("name", ["ply", "compact.ply", "splat"])
def test_what_splat_transform_makes_glb_of_stands_upright_and_faces_the_front(name, splat_transform):
    """It turns PLY and .splat into glTF's frame as viewers do, with the harmonics; we read its GLB."""
    splats = cloud()
    format = FORMATS[name]
    glb = splat_transform(format.write(splats), name.split(".")[-1], "glb")
    read = from_splat_glb(glb)
    bounds = THEIR_SPLAT if name == "splat" else format.bounds
    assert_same(read, expected_of(name, splats), bounds._replace(means=1e-6, scales=3e-6, others=1e-5))
    ours = json_of(to_splat_glb(expected_of(name, splats)))["meshes"][0]["primitives"][0]
    theirs = json_of(glb)["meshes"][0]["primitives"][0]
    assert ours["attributes"].keys() == theirs["attributes"].keys()
    assert ours["extensions"].items() >= theirs["extensions"].items()
    assert ours["mode"] == theirs["mode"]


def test_the_spz_of_splat_transform_reads(splat_transform):
    splats = cloud()
    theirs = from_spz(splat_transform(to_splat_ply(splats), "ply", "spz"))
    # Twelve fraction bits, and the harmonics in steps of 8/128 and 16/128.
    bounds = SPZ._replace(means=0.51 / 2**12, others=8.1 / 128)
    # It takes a PLY for right-down-forward when it writes .spz, and for turned about Z when it writes GLB.
    assert_same(theirs, splats, bounds, RDF * Y_DOWN)


# ---- by plyfile ----


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_plyfile_reads_the_layout_of_the_reference_code(compact, degree):
    splats = cloud(50, degree)
    data = to_splat_ply(splats, compact=compact)
    read = PlyData.read(io.BytesIO(data))
    assert not read.text
    assert read.byte_order == "<"
    assert [element.name for element in read.elements] == ["vertex"]
    rest = (degree + 1) ** 2 - 1 if compact else 15
    names = ["x", "y", "z"] if compact else ["x", "y", "z", "nx", "ny", "nz"]
    names += ["f_dc_0", "f_dc_1", "f_dc_2", *(f"f_rest_{i}" for i in range(3 * rest))]
    names += ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    vertex = read["vertex"].data
    assert vertex.dtype == np.dtype([(name, "<f4") for name in names])
    assert vertex.itemsize == (4 * (14 + 3 * rest) if compact else 248)
    assert any("-Y up, front +Z" in comment for comment in read.comments)
    assert any("generator sds3d" in comment for comment in read.comments)

    down = turned(splats)
    np.testing.assert_array_equal(np.stack([vertex["x"], vertex["y"], vertex["z"]], axis=1), down.means)
    for channel in range(3):
        np.testing.assert_array_equal(vertex[f"f_dc_{channel}"], down.sh[:, 0, channel])
        for k in range(rest):
            stored = vertex[f"f_rest_{channel * rest + k}"]
            np.testing.assert_array_equal(stored, down.sh[:, 1 + k, channel] if k + 1 < (degree + 1) ** 2 else 0)
    np.testing.assert_allclose(1 / (1 + np.exp(-vertex["opacity"].astype(float))), splats.opacities, atol=1e-6)
    for axis in range(3):
        np.testing.assert_allclose(np.exp(vertex[f"scale_{axis}"]), splats.scales[:, axis], rtol=1e-5)
    for component in range(4):
        np.testing.assert_array_equal(vertex[f"rot_{component}"], down.quats[:, component])
    if not compact:
        assert not any(vertex[name].any() for name in ("nx", "ny", "nz"))


def test_places_rotations_and_colours_turn_together():
    """The frame of a PLY is the world's turned by 180 degrees about Z; and the comparison would see another turn."""
    splats = cloud()
    assert_same(turned(splats), splats, FLOAT, Y_DOWN)
    assert_same(turned(turned(splats)), splats, FLOAT)
    for frame in (UPRIGHT, RDF, Y_DOWN * RDF, Rotation.from_euler("z", 90, degrees=True)):
        with pytest.raises(AssertionError):
            assert_same(replace(turned(splats), means=frame.apply(splats.means)), splats, FLOAT, frame)


@pytest.mark.parametrize("kind", ["little", "big", "ascii"])
@pytest.mark.parametrize("number", ["f4", "f8"])
def test_plys_of_plyfile_read_in_any_order_and_number_type(kind, number):
    splats = cloud(20, 2)
    vertex = PlyData.read(io.BytesIO(to_splat_ply(splats, compact=True)))["vertex"].data
    names = list(np.random.default_rng(1).permutation(vertex.dtype.names))
    shuffled = np.zeros(len(vertex), [("label", "u1"), *((name, number) for name in names)])
    for name in names:
        shuffled[name] = vertex[name]
    shuffled["label"] = 7
    before = np.zeros(3, [("a", "i2"), ("b", "f8")])
    elements = [PlyElement.describe(before, "before"), PlyElement.describe(shuffled, "vertex")]
    file = io.BytesIO()
    order = ">" if kind == "big" else "<"
    PlyData(elements, kind == "ascii", order, comments=["of others"]).write(file)
    assert_same(from_splat_ply(file.getvalue()), splats, FLOAT)
    header, end, rows = file.getvalue().partition(b"end_header\n")  # some programs end lines as Windows does
    windows = (header + end).replace(b"\n", b"\r\n") + rows
    assert_same(from_splat_ply(windows), splats, FLOAT)


# ---- by the Khronos Group's validator, and trimesh ----


def json_of(glb: bytes) -> dict:
    length = struct.unpack_from("<I", glb, 12)[0]
    return json.loads(glb[20 : 20 + length])


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
    # Named as an application's own attributes, the same accessors are in order.
    own = glb.replace(b'"KHR_gaussian_splatting:', b'"_HR_gaussian_splatting_')
    assert len(own) == len(glb)
    assert validate(own)["issues"]["numErrors"] == 0


def test_a_reader_without_the_extension_sees_coloured_points():
    splats = cloud(50)
    (points,) = trimesh.load(io.BytesIO(to_splat_glb(splats)), file_type="glb").geometry.values()  # type: ignore
    assert isinstance(points, trimesh.PointCloud)
    np.testing.assert_array_equal(points.vertices, splats.means)
    colors = np.concatenate([srgb_to_linear(splats.colors()), splats.opacities[:, None]], axis=1)
    np.testing.assert_allclose(points.colors / 255, colors, atol=1 / 255)


def test_the_glb_says_what_the_extension_demands():
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


def test_a_glb_beyond_4_gib_is_refused():
    binary = Binary()
    binary.data = np.broadcast_to(np.uint8(0), (2**32,))  # type: ignore[assignment]  # takes one byte
    with pytest.raises(ValueError, match="4 GiB at most"):
        one_mesh_glb({}, binary, "", {})


# ---- by ourselves ----


@st.composite
def clouds(draw) -> Splats:
    """Clouds within the ranges that every format holds; quaternions of any length, zero too."""
    n = draw(st.integers(1, 12))
    k = draw(st.sampled_from([1, 4, 9, 16]))

    def array(shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
        elements = st.floats(np.float32(low).item(), np.float32(high).item(), width=32)
        return draw(hnp.arrays(np.float32, shape, elements=elements))

    sh = array((n, k, 3), -0.99, 0.99)
    sh[:, 0] = array((n, 3), -1.7, 1.7)
    scales = np.exp(array((n, 3), -9.9, 5.9))
    return Splats(array((n, 3), -120, 120), array((n, 4), -2, 2), scales, array((n,), 0, 1), sh)


@every_format
@given(splats=clouds())
@settings(max_examples=60, deadline=None)
def test_what_is_written_reads_back(name, splats):
    format = FORMATS[name]
    read = format.read(format.write(splats))
    for array in (read.means, read.quats, read.scales, read.opacities, read.sh):
        assert array.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(read.quats, axis=1), 1, atol=1e-6)
    assert_same(read, expected_of(name, splats), format.bounds)
    assert format.write(splats) == format.write(splats)


def test_each_format_has_its_size():
    splats = cloud(1000, 0)
    sizes = {name: len(format.write(splats)) / 1000 for name, format in FORMATS.items()}
    assert sizes["splat"] == 32
    assert 248 <= sizes["ply"] < 251
    assert 56 <= sizes["compact.ply"] < 57
    assert 72 <= sizes["glb"] < 74
    assert sizes["spz"] < 21


def test_splat_files_begin_with_what_matters_most():
    splats = cloud(500)
    read = from_splat(to_splat(splats))
    volume = read.scales.prod(axis=1, dtype=np.float64)
    importance = read.opacities * volume
    rounding = 0.51 / 255 * volume  # opacities are rounded
    assert (np.diff(importance) <= rounding[1:] + rounding[:-1]).all()
    assert importance[:50].mean() > 20 * importance[-50:].mean()


def test_spz_trades_precision_for_range():
    far = replace(cloud(3), means=np.array([[1000, 0, 0], [0, -7e6, 0], [0, 0, 1]], np.float32))
    np.testing.assert_allclose(from_spz(to_spz(far)).means, far.means, atol=0.5)
    near = replace(far, means=far.means * np.float32(1e-6))
    np.testing.assert_allclose(from_spz(to_spz(near)).means, near.means, atol=0.5 / 2**16)
    with pytest.raises(ValueError, match="9e\\+06 m from the origin"):
        to_spz(replace(far, means=np.full((3, 3), 9e6, np.float32)))
    edge = replace(far, means=np.full((3, 3), -128 + 1e-5, np.float32))
    np.testing.assert_allclose(from_spz(to_spz(edge)).means, edge.means, atol=1 / 2**16)


@pytest.mark.parametrize("name", ["compact.ply", "splat", "spz", "glb"])
def test_two_million_gaussians_take_little_memory(name):
    """Nothing is done a Gaussian at a time: memory stays a few times that of the cloud, on both ways."""
    n = 2_000_000
    rng = np.random.default_rng(0)
    means = rng.random((n, 3), np.float32)
    splats = Splats(means, rng.random((n, 4), np.float32), means * 0.01 + 0.001, means[:, 0], means[:, None])
    size = 14 * 4 * n
    format = FORMATS[name]
    tracemalloc.start()
    try:
        data = format.write(splats)
        assert tracemalloc.get_traced_memory()[1] < 4 * size
        tracemalloc.reset_peak()
        read = format.read(data)
        assert tracemalloc.get_traced_memory()[1] < 4 * size
    finally:
        tracemalloc.stop()
    assert len(read) == n
    some = rng.integers(0, n, 1000)
    expected = expected_of(name, splats)
    assert_same(read[some], expected[some], format.bounds)


# ---- rendered ----


def pictures(splats: Splats) -> np.ndarray:
    """(3, 64, 64, 3) views in front of grey."""
    cameras = turntable(3, size=64)
    rendered = rasterization(
        torch.tensor(splats.means),
        torch.tensor(splats.quats),
        torch.tensor(splats.scales),
        torch.tensor(splats.opacities),
        torch.tensor(splats.sh),
        cameras.opencv_viewmats(),
        cameras.intrinsics(),
        64,
        64,
        sh_degree=splats.degree,
        backgrounds=torch.full((3, 3), 0.5),
    )
    return rendered.colors.numpy()


@every_format
@pytest.mark.parametrize("degree", [0, 3])
def test_a_file_renders_as_the_scene_does(name, degree):
    splats = cloud(200, degree)
    if name == "splat":
        splats = replace(splats, sh=splats.sh[:, :1])
    format = FORMATS[name]
    truth = pictures(splats)
    errors = np.abs(pictures(format.read(format.write(splats))) - truth)
    # Float files err by rounding alone, but a Gaussian of just 1/255 may appear or vanish in a pixel by it.
    worst, mean = {"splat": (0.02, 0.001), "spz": (0.04, 0.003)}.get(name, (5e-3, 1e-6))
    assert errors.max() < worst
    assert errors.mean() < mean
    # The bounds would not hold for a cloud that is upside down, or whose quaternions are in another order.
    upside_down = np.abs(pictures(turned(splats)) - truth)
    reordered = np.abs(pictures(replace(splats, quats=np.roll(splats.quats, 1, axis=1))) - truth)
    for wrong in (upside_down, reordered):
        assert wrong.max() > 5 * worst
        assert wrong.mean() > 5 * mean


def test_colours_are_those_that_the_renderer_evaluates():
    splats = cloud(degree=0)
    directions = torch.tensor([0.0, 0.0, 1.0]).expand(len(splats), 3)
    evaluated = spherical_harmonics(0, directions, torch.tensor(splats.sh)).numpy()
    np.testing.assert_allclose(splats.colors(), np.clip(0.5 + evaluated, 0, 1), atol=1e-6)


# ---- what is refused ----


def one_line(error: pytest.ExceptionInfo[ValueError]) -> bool:
    return "\n" not in str(error.value) and len(str(error.value)) < 300


@every_format
def test_truncated_files_are_refused(name):
    data = FORMATS[name].write(cloud(3, 1))
    whole = len(FORMATS[name].read(data))
    assert whole == 3
    for end in range(len(data)):
        if name == "splat" and end and end % 32 == 0:
            assert len(from_splat(data[:end])) == end // 32
            continue
        with pytest.raises(ValueError) as error:  # noqa: PT011
            FORMATS[name].read(data[:end])
        assert one_line(error)


@pytest.mark.parametrize("end", [2, 20, -60, -400])
def test_a_truncated_ascii_ply_is_refused(end):
    file = io.BytesIO()
    vertex = PlyData.read(io.BytesIO(to_splat_ply(cloud(5, 0), compact=True)))["vertex"]
    PlyData([vertex], text=True).write(file)
    assert len(from_splat_ply(file.getvalue())) == 5
    with pytest.raises(ValueError) as error:  # noqa: PT011
        from_splat_ply(file.getvalue()[:end])
    assert one_line(error)


@every_format
@given(data=st.data())
@settings(max_examples=150, deadline=None)
@pytest.mark.filterwarnings("ignore:.*are left out")
def test_damaged_files_are_read_or_refused(name, data):
    file = bytearray(FORMATS[name].write(cloud(2, 1)))
    for _ in range(data.draw(st.integers(1, 3))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = FORMATS[name].read(bytes(file))
    except ValueError:
        return
    read.checked()


@every_format
@given(data=st.binary(max_size=200))
@settings(max_examples=50, deadline=None)
def test_other_files_are_refused(name, data):
    if name == "splat":
        data += b"\0" * (1 - len(data) % 32)
        data = data if len(data) % 32 else data + b"\0"
    with pytest.raises(ValueError) as error:  # noqa: PT011
        FORMATS[name].read(data)
    assert one_line(error)


def ply_with(old: bytes, new: bytes, count: int = -1) -> bytes:
    data = to_splat_ply(cloud(4, 1), compact=True)
    assert old in data
    return data.replace(old, new, count)


def gzipped(header: bytes, body: bytes = b"") -> bytes:
    """The same bytes at every call: gzip writes the time of its making, unless it is given."""
    return gzip.compress(header + body, mtime=0)


def spz_header(version: int, count: int, degree: int, flags: int) -> bytes:
    return b"NGSP" + struct.pack("<IIBBBB", version, count, degree, 12, flags, 0)


GLB_JSON = b"glTF" + struct.pack("<III4s", 2, 24, 4, b"JSON")
WRONG_FILES = {
    "ply-beginning": (ply_with(b"ply\n", b"PLY\n", 1), "must be 'ply'"),
    "ply-lacks-a-property": (ply_with(b"float rot_2", b"float rut_2"), "lack rot_2"),
    "ply-lacks-a-harmonic": (ply_with(b"float f_rest_8", b"float f_rust_8"), "8 f_rest properties"),
    "ply-misnumbers-a-harmonic": (ply_with(b"float f_rest_8", b"float f_rest_9"), "9 f_rest properties"),
    "ply-compressed": (ply_with(b"float f_dc_0", b"float packed_position"), "compressed"),
    "ply-repeated-property": (ply_with(b"float y\n", b"float x\n"), "two of one name"),
    "ply-list-in-vertices": (ply_with(b"float y\n", b"list uchar int y\n"), "list property"),
    "ply-empty": (ply_with(b"vertex 4", b"vertex 0"), "no Gaussians"),
    "ply-truncated": (ply_with(b"vertex 4", b"vertex 5"), "promises 5 vertices and has 4"),
    "ply-count-in-words": (ply_with(b"vertex 4", b"vertex four"), "makes no sense"),
    "ply-without-vertices": (ply_with(b"element vertex", b"element faces"), "no vertices"),
    "ply-unknown-byte-order": (ply_with(b"binary_little_endian", b"binary_middle_endian"), "no format"),
    "ply-list-before-vertices": (
        ply_with(b"element v", b"element a 1\nproperty list uchar int b\nelement v"),
        "lists before its vertices",
    ),
    "spz-version-4": (b"NGSP" + bytes(60), "version 4 or later"),
    "spz-not-gzip": (b"PK" + bytes(60), "not compressed by gzip"),
    "spz-beginning": (gzipped(b"NGSQ", bytes(60)), "NGSP is missing"),
    "spz-version-2": (gzipped(spz_header(2, 1, 0, 0), bytes(20)), "has version 2"),
    "spz-degree-4": (gzipped(spz_header(3, 1, 4, 0), bytes(99)), "degree 4"),
    "spz-extensions": (gzipped(spz_header(3, 1, 0, 2), bytes(20)), "flags 2"),
    "spz-empty": (gzipped(spz_header(3, 0, 0, 0)), "no Gaussians"),
    "glb-version-1": (b"glTF" + struct.pack("<II", 1, 40) + bytes(40), "version 1"),
    "glb-without-binary-chunk": (GLB_JSON + b"[]  ", "no binary chunk"),
    "glb-broken-json": (GLB_JSON + b"{{{{", "JSON cannot be read"),
    "glb-without-splats": (one_mesh_glb({"attributes": {}}, Binary(), "", {}), "this has 0"),
}


@pytest.mark.parametrize("wrong", WRONG_FILES)
def test_each_complaint_says_what_is_wrong(wrong):
    data, message = WRONG_FILES[wrong]
    read = {"ply": from_splat_ply, "spz": from_spz, "glb": from_splat_glb}[wrong[:3]]
    with pytest.raises(ValueError, match=message) as error:
        read(data)
    assert one_line(error)


def spoilt(row: int, **values: float) -> Splats:
    splats = replace(cloud(5), **{name: getattr(cloud(5), name).copy() for name in values})
    for name, value in values.items():
        getattr(splats, name)[row] = value
    return splats


@every_format
def test_gaussians_that_make_no_sense_are_not_written(name):
    write = FORMATS[name].write
    with pytest.raises(ValueError, match="1 of 5 Gaussians, first number 3, have NaN"):
        write(spoilt(3, means=np.nan))
    with pytest.raises(ValueError, match="1 of 5 Gaussians, first number 2, have NaN"):
        write(spoilt(2, sh=np.inf))
    with pytest.raises(ValueError, match="negative scales: scales are metres"):
        write(spoilt(0, scales=-4.0))
    with pytest.raises(ValueError, match="opacities are not logits"):
        write(spoilt(0, opacities=1.5))
    with pytest.raises(ValueError, match="no Gaussians"):
        write(cloud(5)[:0])


def test_shapes_are_checked():
    splats = cloud(5)
    wrong = {
        "means": splats.means[:, :2],
        "quats": splats.quats[:4],
        "scales": splats.scales[:, 0],
        "opacities": splats.opacities[:, None],
        "sh": splats.sh[:, :5],
    }
    for name, array in wrong.items():
        with pytest.raises(ValueError, match=f"^{name} must be"):
            replace(splats, **{name: array}).checked()
        with pytest.raises(ValueError, match=f"^{name} must be"):
            replace(splats, **{name: array}).without_invalid()


def test_without_invalid_keeps_the_rest():
    splats = spoilt(1, means=np.nan, opacities=2.0)
    splats.scales[4] = -1
    kept, dropped = splats.without_invalid()
    assert dropped == 2
    np.testing.assert_array_equal(kept.means, cloud(5).means[[0, 2, 3]])
    assert len(kept.checked()) == 3
    assert cloud(5).without_invalid()[1] == 0


def test_lengthless_quaternions_and_flat_gaussians_are_written():
    splats = spoilt(2, quats=0.0, scales=0.0)
    splats.quats[1] *= 1e15
    checked = splats.checked()
    np.testing.assert_array_equal(checked.quats[2], [1, 0, 0, 0])
    np.testing.assert_allclose(checked.quats[1], cloud(5).quats[1], atol=1e-6)
    np.testing.assert_array_equal(checked.scales[2], np.float32(SMALLEST_SCALE))
    for name, format in FORMATS.items():
        read = format.read(format.write(splats))
        assert_same(read, expected_of(name, splats), format.bounds._replace(scales=1e5 if name == "spz" else 1e-5))


def test_float64_and_lists_of_lists_are_taken():
    splats = cloud(5)
    arrays: list[Any] = [splats.means, splats.quats, splats.scales, splats.opacities, splats.sh]
    lists = Splats(*(array.tolist() for array in arrays))
    assert_same(lists.checked(), splats, FLOAT)
    wide = Splats(*(array.astype(np.float64) for array in arrays))
    assert_same(wide.checked(), splats, FLOAT)
    assert wide.checked().means.dtype == np.float32
    with pytest.raises(ValueError, match="NaN or infinite"):
        replace(wide, means=wide.means * 1e300).checked()


def test_a_file_with_a_few_nan_reads_without_them():
    read = PlyData.read(io.BytesIO(to_splat_ply(cloud(5))))
    read["vertex"]["f_rest_7"][2] = np.nan
    read["vertex"]["scale_1"][3] = 1000.0
    read["vertex"]["opacity"][0] = np.inf  # a sigmoid of one
    read["vertex"]["scale_0"][1] = -np.inf  # a scale of zero
    file = io.BytesIO()
    read.write(file)
    with pytest.warns(UserWarning, match="2 of 5 Gaussians"):
        splats = from_splat_ply(file.getvalue())
    np.testing.assert_array_equal(splats.means, cloud(5).means[[0, 1, 4]])
    assert splats.opacities[0] == 1
    assert splats.scales[1, 0] == np.float32(SMALLEST_SCALE)
    with pytest.raises(ValueError, match="all 2 Gaussians are invalid"):
        from_splat(np.full(16, np.nan, "<f4").tobytes())
