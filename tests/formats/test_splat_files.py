"""Properties of all formats of splats: files are read by splat-transform and by our readers, and rendered."""

import gzip
import struct
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from loading import document_of
from scipy.spatial.transform import Rotation
from splat_clouds import (
    FORMATS,
    RDF,
    SPZ,
    THEIR_SPLAT,
    Y_DOWN,
    assert_same,
    cloud,
    every_format,
    expected_of,
    one_line,
    read_table,
    spoilt,
)

from sds3d.cameras import turntable
from sds3d.formats.glb_chunks import Binary, one_mesh_glb
from sds3d.formats.splat import from_splat, to_splat
from sds3d.formats.splat_glb import from_splat_glb, to_splat_glb
from sds3d.formats.splat_ply import from_splat_ply, to_splat_ply
from sds3d.formats.spz import from_spz, to_spz
from sds3d.geometry.splats import SMALLEST_SCALE, Splats, turned
from sds3d.rendering.splatting import rasterization, spherical_harmonics


@pytest.mark.parametrize("degree", [0, 3])
@pytest.mark.parametrize(
    ("name", "frame"),
    [("ply", Y_DOWN), ("compact.ply", Y_DOWN), ("splat", Y_DOWN), ("spz", RDF)],
    ids=["ply", "compact.ply", "splat", "spz"],
)
def test_splat_transform_reads_the_same_values(name, frame, degree, splat_transform):
    """It prints PLY and .splat as stored, and turns .spz from right-up-back to right-down-forward."""
    splats = cloud(degree=degree)
    format = FORMATS[name]
    read = read_table(splat_transform(format.write(splats), name.split(".")[-1], "csv"))
    bounds = THEIR_SPLAT if name == "splat" else format.bounds
    assert_same(read, expected_of(name, splats), bounds, frame)
    if degree:
        behind = Rotation.from_euler("y", 180, degrees=True) * frame  # also upright, but from behind
        with pytest.raises(AssertionError):
            assert_same(read, expected_of(name, splats), bounds, behind)
        reordered = replace(read, quats=np.roll(read.quats, 1, axis=1))
        with pytest.raises(AssertionError):
            assert_same(reordered, expected_of(name, splats), bounds, frame)


@pytest.mark.parametrize("name", ["ply", "compact.ply", "splat"])
def test_glbs_converted_by_splat_transform_are_upright_and_face_the_front(name, splat_transform):
    """It converts PLY and .splat to glTF's frame as viewers do, harmonics included. We read its GLB."""
    splats = cloud()
    format = FORMATS[name]
    glb = splat_transform(format.write(splats), name.split(".")[-1], "glb")
    read = from_splat_glb(glb)
    bounds = THEIR_SPLAT if name == "splat" else format.bounds
    assert_same(read, expected_of(name, splats), bounds._replace(means=1e-6, scales=3e-6, others=1e-5))
    ours = document_of(to_splat_glb(expected_of(name, splats)))["meshes"][0]["primitives"][0]
    theirs = document_of(glb)["meshes"][0]["primitives"][0]
    assert ours["attributes"].keys() == theirs["attributes"].keys()
    assert ours["extensions"].items() >= theirs["extensions"].items()
    assert ours["mode"] == theirs["mode"]


@pytest.mark.parametrize("version", ["3", "4"])
def test_the_spz_of_splat_transform_reads(version, splat_transform):
    splats = cloud()
    theirs = from_spz(splat_transform(to_splat_ply(splats), "ply", "spz", "--spz-version", version))
    # Twelve fraction bits, and the harmonics in steps of 8/128 and 16/128.
    bounds = SPZ._replace(means=0.51 / 2**12, others=8.1 / 128)
    # It assumes that a PLY is right-down-forward when it writes .spz, but turned about Z when it writes GLB.
    assert_same(theirs, splats, bounds, RDF * Y_DOWN)


@st.composite
def clouds(draw) -> Splats:
    """Clouds within the ranges that every format holds, with quaternions of any length, zero included."""
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
def test_written_files_read_back(name, splats):
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


def test_splat_files_start_with_the_most_important_gaussians():
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
    """Nothing loops over Gaussians, and memory stays below four times the cloud, for writing and reading."""
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
def test_a_file_renders_like_the_scene(name, degree):
    splats = cloud(200, degree)
    if name == "splat":
        splats = replace(splats, sh=splats.sh[:, :1])
    format = FORMATS[name]
    truth = pictures(splats)
    errors = np.abs(pictures(format.read(format.write(splats))) - truth)
    # Float files only have rounding errors, but these may make a Gaussian of just 1/255 appear or vanish in a pixel.
    worst, mean = {"splat": (0.02, 0.001), "spz": (0.04, 0.003)}.get(name, (5e-3, 1e-6))
    assert errors.max() < worst
    assert errors.mean() < mean
    # The bounds detect an upside-down cloud, and quaternions in another order.
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
    """The same bytes at every call: without mtime, gzip writes the current time."""
    return gzip.compress(header + body, mtime=0)


def spz_header(version: int, count: int, degree: int, flags: int) -> bytes:
    return b"NGSP" + struct.pack("<IIBBBB", version, count, degree, 12, flags, 0)


GLB_JSON = b"glTF" + struct.pack("<III4s", 2, 24, 4, b"JSON")
WRONG_FILES = {
    "ply-beginning": (ply_with(b"ply\n", b"PLY\n", 1), "must begin with a line 'ply'"),
    "ply-lacks-a-property": (ply_with(b"float rot_2", b"float rut_2"), "lack rot_2"),
    "ply-lacks-a-harmonic": (ply_with(b"float f_rest_8", b"float f_rust_8"), "8 f_rest properties"),
    "ply-misnumbers-a-harmonic": (ply_with(b"float f_rest_8", b"float f_rest_9"), "9 f_rest properties"),
    "ply-compressed": (ply_with(b"float f_dc_0", b"float packed_position"), "no rows of chunk"),
    "ply-repeated-property": (ply_with(b"float y\n", b"float x\n"), "two of one name"),
    "ply-list-in-vertices": (ply_with(b"float y\n", b"list uchar int y\n"), "list property"),
    "ply-empty": (ply_with(b"vertex 4", b"vertex 0"), "no Gaussians"),
    "ply-truncated": (ply_with(b"vertex 4", b"vertex 5"), "promises 5 vertices and has 4"),
    "ply-count-in-words": (ply_with(b"vertex 4", b"vertex four"), "makes no sense"),
    "ply-without-vertices": (ply_with(b"element vertex", b"element faces"), "no vertices"),
    "ply-unknown-byte-order": (ply_with(b"binary_little_endian", b"binary_middle_endian"), "no known format"),
    "ply-list-before-vertices": (
        ply_with(b"element v", b"element a 1\nproperty list uchar int b\nelement v"),
        "lists before its vertices",
    ),
    "spz-version-4": (b"NGSP" + struct.pack("<I", 4) + bytes(60), "table of arrays does not fit"),
    "spz-version-5": (b"NGSP" + struct.pack("<I", 5) + bytes(60), "version 5, but versions 1 to 4"),
    "spz-not-gzip": (b"PK" + bytes(60), "must begin with gzip"),
    "spz-beginning": (gzipped(b"NGSQ", bytes(60)), "NGSP is missing"),
    "spz-gzipped-version-4": (gzipped(spz_header(4, 1, 0, 0), bytes(20)), "version 4"),
    "spz-degree-5": (gzipped(spz_header(3, 1, 5, 0), bytes(99)), "degree 5"),
    "spz-empty": (gzipped(spz_header(3, 0, 0, 0)), "no Gaussians"),
    "glb-version-1": (b"glTF" + struct.pack("<II", 1, 40) + bytes(40), "version 1"),
    "glb-without-binary-chunk": (GLB_JSON + b"[]  ", "no binary chunk"),
    "glb-broken-json": (GLB_JSON + b"{{{{", "JSON cannot be read"),
    "glb-without-splats": (one_mesh_glb({"attributes": {}}, Binary(), "", {}), "this one has 0"),
}


@pytest.mark.parametrize("wrong", WRONG_FILES)
def test_each_error_names_its_cause(wrong):
    data, message = WRONG_FILES[wrong]
    read = {"ply": from_splat_ply, "spz": from_spz, "glb": from_splat_glb}[wrong[:3]]
    with pytest.raises(ValueError, match=message) as error:
        read(data)
    assert one_line(error)


@every_format
def test_invalid_gaussians_are_not_written(name):
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


def test_zero_quaternions_and_flat_gaussians_are_written():
    splats = spoilt(2, quats=0.0, scales=0.0)
    splats.quats[1] *= 1e15
    checked = splats.checked()
    np.testing.assert_array_equal(checked.quats[2], [1, 0, 0, 0])
    np.testing.assert_allclose(checked.quats[1], cloud(5).quats[1], atol=1e-6)
    np.testing.assert_array_equal(checked.scales[2], np.float32(SMALLEST_SCALE))
    for name, format in FORMATS.items():
        read = format.read(format.write(splats))
        assert_same(read, expected_of(name, splats), format.bounds._replace(scales=1e5 if name == "spz" else 1e-5))
