"""Splats as other programs store them: 2DGS, Mip-Splatting, nerfstudio, every .spz, compressed PLY and SOG."""

import gzip
import io
import json
import struct
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zstandard
from loading import load_splats
from plyfile import PlyData, PlyElement
from scipy.special import logit
from splat_clouds import FLOAT, SPZ, Y_DOWN, Bounds, assert_same, cloud, one_line, read_table

from sds3d.formats.load import AssetError, load_asset
from sds3d.formats.sog import from_sog
from sds3d.formats.splat_ply import from_splat_ply, to_splat_ply
from sds3d.formats.spz import from_spz
from sds3d.geometry.splats import SMALLEST_SCALE, Splats, turned

DATA = Path(__file__).parents[1] / "data/splats"


def ply_of(columns: dict[str, np.ndarray], *, text: bool = False, comments: tuple[str, ...] = ()) -> bytes:
    rows = np.zeros(len(columns["x"]), [(name, column.dtype) for name, column in columns.items()])
    for name, column in columns.items():
        rows[name] = column
    file = io.BytesIO()
    PlyData([PlyElement.describe(rows, "vertex")], text=text, comments=list(comments)).write(file)
    return file.getvalue()


def columns_of(splats: Splats, rest: int = 0) -> dict[str, np.ndarray]:
    """The columns of the reference code's layout, by its formulas. rest: harmonics of a channel beside the constant."""
    down = turned(splats)
    columns = {axis: down.means[:, i] for i, axis in enumerate("xyz")}
    columns |= {f"f_dc_{c}": down.sh[:, 0, c] for c in range(3)}
    for i in range(rest):
        known = i + 1 < down.sh.shape[1]
        columns |= {f"f_rest_{rest * c + i}": down.sh[:, 1 + i, c] if known else np.full(len(down), 0.25, "f4")
                    for c in range(3)}  # fmt: skip
    columns |= {f"scale_{i}": np.log(down.scales[:, i]) for i in range(3)}
    return columns | {f"rot_{i}": down.quats[:, i] for i in range(4)} | {"opacity": logit(splats.opacities)}


def without(columns: dict[str, np.ndarray], *names: str) -> dict[str, np.ndarray]:
    return {name: column for name, column in columns.items() if not name.startswith(names)}


@pytest.mark.parametrize("text", [False, True])
def test_two_scales_are_flat_gaussians(text):
    splats = cloud(30, 0)
    read = from_splat_ply(ply_of(without(columns_of(splats), "scale_2"), text=text))
    flat = splats.scales * [1, 1, 0]
    assert_same(read, replace(splats, scales=np.maximum(flat, SMALLEST_SCALE).astype("f4")), FLOAT)


def test_the_filter_of_mip_splatting_is_folded_in():
    """The convolution of a Gaussian of covariance S with one of covariance f^2 I, each with its integral kept."""
    splats = cloud(30, 1)
    width = np.random.default_rng(1).uniform(0.001, 0.1, 30).astype("f4")
    read = from_splat_ply(ply_of({**columns_of(splats, 3), "filter_3D": width}))
    for i in range(len(splats)):
        before = np.diag(splats.scales[i].astype(float) ** 2)
        after = before + width[i] ** 2 * np.eye(3)
        np.testing.assert_allclose(read.scales[i] ** 2, np.diag(after), rtol=1e-5)
        mass = splats.opacities[i] * np.sqrt(np.linalg.det(before) / np.linalg.det(after))
        np.testing.assert_allclose(read.opacities[i], mass, rtol=1e-4)
    assert_same(replace(read, scales=splats.scales, opacities=splats.opacities), splats, FLOAT)


def test_files_of_2dgs_and_mip_splatting_load_as_splats():
    ordinary = load_asset(DATA / "3dgs.ply")
    flat, mip = load_asset(DATA / "2dgs.ply"), load_asset(DATA / "mip.ply")
    for read in (ordinary, flat, mip):
        assert isinstance(read, Splats)
        assert len(read) == 300
        np.testing.assert_array_equal(read.means, ordinary.means)
        np.testing.assert_array_equal(read.sh, ordinary.sh)
    np.testing.assert_array_equal(flat.scales[:, 2], np.float32(SMALLEST_SCALE))
    np.testing.assert_array_equal(flat.scales[:, :2], ordinary.scales[:, :2])
    assert (mip.scales > ordinary.scales).all()
    assert (mip.opacities < ordinary.opacities).all()


@pytest.mark.parametrize(
    ("kind", "whole", "names"),
    [("u1", 255, "red green blue"), ("u2", 65535, "red green blue"), ("f4", 1, "r g b"),
     ("f4", 255, "diffuse_red diffuse_green diffuse_blue"), ("i4", 255, "red green blue")],
)  # fmt: skip
@pytest.mark.parametrize("text", [False, True])
def test_colours_of_any_name_and_type(kind, whole, names, text):
    splats = cloud(50, 0)
    colors = splats.colors().astype(float)
    colors[0] = 1  # the largest value that there is
    stored = colors * whole if kind == "f4" else np.rint(colors * whole)
    columns = without(columns_of(splats), "f_dc") | {
        name: stored[:, c].astype(kind) for c, name in enumerate(names.split())
    }
    read = from_splat_ply(ply_of(columns, text=text))
    np.testing.assert_allclose(read.colors(), colors, atol=1e-6 if kind == "f4" else 0.501 / whole)
    np.testing.assert_allclose(read.scales, splats.scales, rtol=1e-5)


def test_gaussians_without_colours_are_grey_and_it_is_told(tmp_path):
    data = ply_of(without(columns_of(cloud(5, 0)), "f_dc"))
    with pytest.warns(UserWarning, match="no colours that are known"):
        read = load_splats(tmp_path, data, "a.ply")
    np.testing.assert_allclose(read.colors(), 0.5)
    np.testing.assert_allclose(read.means, cloud(5, 0).means)


def test_harmonics_above_degree_3_are_left_out_and_it_is_told():
    splats = cloud(20, 3)
    with pytest.warns(UserWarning, match="above degree 3"):
        read = from_splat_ply(ply_of(columns_of(splats, 24)))
    assert_same(read, splats, FLOAT)


def test_files_for_antialiased_rendering_are_told():
    with pytest.warns(UserWarning, match="antialiased rendering"):
        from_splat_ply(ply_of(columns_of(cloud(5, 0)), comments=("SplatRenderMode: mip",)))


def test_gaussians_far_away_keep_their_digits(tmp_path):
    splats = cloud(40, 1)
    columns = columns_of(splats, 3)
    origin = np.array([500_000.0, 4_100_000.0, 120.0])  # metres, as on a map
    columns |= {axis: columns[axis].astype(float) + origin[i] for i, axis in enumerate("xyz")}
    with pytest.warns(UserWarning, match=r"\(500000, 4100000, 120\) is the new origin"):
        read = load_splats(tmp_path, ply_of(columns), "a.ply")
    assert_same(read, splats, FLOAT._replace(means=1e-6))


# .spz, encoded by the words of its README


def spz_of(
    splats: Splats, version: int, *, flags: int = 0, extensions: bytes = b"", degree: int | None = None
) -> bytes:
    degree = splats.degree if degree is None else degree
    rest = (degree + 1) ** 2 - 1
    n, arrays = len(splats), []
    if version == 1:
        arrays.append(splats.means.astype("<f2").tobytes())
    else:
        fixed = np.rint(splats.means * 4096.0).astype(int)
        arrays.append(b"".join(int(value).to_bytes(3, "little", signed=True) for value in fixed.ravel()))
    arrays.append(np.rint(splats.opacities * 255).astype("u1").tobytes())
    arrays.append(np.clip(np.rint((splats.sh[:, 0] * 0.15 + 0.5) * 255), 0, 255).astype("u1").tobytes())
    arrays.append(np.rint((np.log(splats.scales) + 10) * 16).astype("u1").tobytes())
    rotations = b""
    for quat in splats.quats:
        xyzw = np.roll(quat, -1).astype(float)
        if version < 3:
            xyzw *= np.sign(xyzw[3])
            rotations += np.rint(xyzw[:3] * 127.5 + 127.5).astype("u1").tobytes()
            continue
        largest = int(np.abs(xyzw).argmax())
        xyzw *= np.sign(xyzw[largest])
        code = largest
        for i in range(4):
            if i != largest:
                code = code << 10 | (xyzw[i] < 0) << 9 | round(abs(xyzw[i]) * 2**0.5 * 511)
        rotations += struct.pack("<I", int(code))
    arrays.append(rotations)
    sh = np.full((n, rest, 3), 160, "u1")
    known = min(rest, splats.sh.shape[1] - 1)
    sh[:, :known] = np.rint(splats.sh[:, 1 : 1 + known] * 128 + 128)
    arrays.append(sh.tobytes())
    fields = (version, n, degree, 12, flags | (2 if extensions else 0))
    if version < 4:
        return gzip.compress(struct.pack("<4sIIBBBB", b"NGSP", *fields, 0) + b"".join(arrays) + extensions, mtime=0)
    streams = [(len(array), zstandard.compress(array)) for array in arrays if array]
    header = struct.pack("<4sIIBBBBI12x", b"NGSP", *fields, len(streams), 32 + len(extensions))
    table = b"".join(struct.pack("<QQ", len(packed), size) for size, packed in streams)
    return header + extensions + table + b"".join(packed for _, packed in streams)


OF_VERSION = {
    1: SPZ._replace(means=0.0003, angle=1.3),  # centres of 11 significant bits
    2: SPZ._replace(means=0.51 / 4096, angle=1.3),  # rotations of 8 bits
    3: SPZ._replace(means=0.51 / 4096),
    4: SPZ._replace(means=0.51 / 4096),
}


@pytest.mark.parametrize("version", OF_VERSION)
@pytest.mark.parametrize("degree", [0, 1, 3])
def test_every_version_of_spz_reads(version, degree, tmp_path):
    splats = cloud(60, degree)
    if version < 3:  # w is rebuilt from x, y and z, which is only exact for rotations that are not half turns
        splats.quats[:, 0] = np.sign(splats.quats[:, 0]) * (np.abs(splats.quats[:, 0]) + 1)
        splats = splats.checked()
    read = load_splats(tmp_path, spz_of(splats, version), "a.spz")
    assert_same(read, splats, OF_VERSION[version])


def test_the_spz_of_version_2_in_the_data_is_the_ply_beside_it():
    ply, spz = load_asset(DATA / "3dgs.ply"), load_asset(DATA / "v2.spz")
    assert isinstance(ply, Splats)
    assert isinstance(spz, Splats)
    np.testing.assert_allclose(np.sort(np.abs(spz.means), axis=0), np.sort(np.abs(ply.means), axis=0), atol=0.51 / 4096)
    np.testing.assert_allclose(np.sort(spz.scales, axis=0), np.sort(ply.scales, axis=0), rtol=np.exp(0.51 / 16) - 1)
    np.testing.assert_allclose(np.sort(spz.opacities), np.sort(ply.opacities), atol=0.501 / 255)


@pytest.mark.parametrize("version", [3, 4])
def test_what_of_spz_is_left_out_is_told(version):
    splats = cloud(10, 3)
    with pytest.warns(UserWarning, match="harmonics of degree 4"):
        assert_same(from_spz(spz_of(splats, version, degree=4)), splats, OF_VERSION[version])
    with pytest.warns(UserWarning, match="antialiased rendering"):
        from_spz(spz_of(splats, version, flags=1))
    with pytest.warns(UserWarning, match="extensions of the .spz are left out: 0xadbe0002"):
        read = from_spz(spz_of(splats, version, extensions=struct.pack("<IIfff", 0xADBE0002, 12, 0, 1, 2)))
    assert_same(read, splats, OF_VERSION[version])


@pytest.mark.parametrize("version", [3, 4])
def test_other_axes_of_spz_are_refused(version):
    def with_axes(number: int) -> bytes:
        return spz_of(cloud(10, 0), version, extensions=struct.pack("<III", 0xADBE0003, 4, number))

    assert len(from_spz(with_axes(4))) == 10  # right, up, back
    with pytest.raises(ValueError, match="other axes") as error:
        from_spz(with_axes(6))
    assert one_line(error)


def test_a_damaged_spz_of_version_4_is_refused():
    data = spz_of(cloud(10, 1), 4)
    bomb = zstandard.compress(bytes(10**8))
    streams = data[:32] + struct.pack("<QQ", len(bomb), 90) + data[48:128] + bomb  # its first array promises 90 bytes
    for wrong in (*(data[:end] for end in range(len(data))), streams, data[:128] + bytes(4) + data[132:]):
        with pytest.raises(ValueError) as error:  # noqa: PT011
            from_spz(wrong)
        assert one_line(error)


# Formats of PlayCanvas, written by splat-transform


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_a_compressed_ply_reads(degree, splat_transform, tmp_path):
    splats = cloud(600, degree)
    data = splat_transform(to_splat_ply(splats), "ply", "compressed.ply", "-H", str(degree))
    read = load_splats(tmp_path, data, "a.compressed.ply")
    order = nearest(read, splats)
    # 11, 10 and 11 bits over a metre, over a range of 3.5 in logarithms, and 10 bits for each part of a rotation
    bounds = Bounds(0.51 / 1023, 0.25, 0.51 * 3.6 / 1023, 0.51 / 255, 1e-6 + 0.51 / 255 / 0.28 * 1.1, 0.51 * 8 / 256)
    assert_same(read, splats[order], bounds)


def nearest(read: Splats, splats: Splats) -> np.ndarray:
    """The Gaussians of `splats` at the places of those of `read`, which is in another order."""
    distance = np.linalg.norm(read.means[:, None] - splats.means[None], axis=2)
    order = distance.argmin(axis=1)
    assert len(set(order)) == len(splats)
    return order


def test_a_damaged_compressed_ply_is_refused(splat_transform):
    data = splat_transform(to_splat_ply(cloud(300, 1)), "ply", "compressed.ply")
    for old, new, message in (
        (b"float min_scale_x", b"float min_scale_w", "lacks min_scale_x"),
        (b"element chunk 2", b"element chunk 1", "too few chunks"),
        (b"uint packed_scale", b"uint unpack_scale", "lacks packed_scale"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            from_splat_ply(data.replace(old, new))
        assert one_line(error)


@pytest.fixture(scope="module")
def sog(splat_transform) -> dict[int, bytes]:
    """Files of splat-transform by the degree of their harmonics."""
    return {
        degree: splat_transform(to_splat_ply(cloud(400, degree), compact=True), "ply", "sog", "-g", "cpu")
        for degree in (0, 2)
    }


@pytest.mark.parametrize("degree", [0, 2])
def test_a_sog_reads(degree, sog, splat_transform, tmp_path):
    splats = cloud(400, degree)
    read = load_splats(tmp_path, sog[degree], "a.sog")
    order = nearest(read, splats)
    # 16 bits for centres, 8 for rotations and opacities, all rounded down. Tables of 256 for 1200 scales and colours.
    assert_same(read, splats[order], Bounds(2e-5, 2.3, 0.06, 1.01 / 255, 0.06, 1.0))
    theirs = read_table(splat_transform(sog[degree], "sog", "csv"))  # as stored, in the frame of PLY
    assert theirs.degree == read.degree == degree
    assert_same(theirs, read, FLOAT._replace(means=1e-6, opacities=1e-5, others=1e-5), Y_DOWN)


def test_a_sog_in_a_folder_reads_and_names_nothing_outside(sog, tmp_path):
    zipfile.ZipFile(io.BytesIO(sog[2])).extractall(tmp_path)
    read, zipped = load_asset(tmp_path / "meta.json"), from_sog(sog[2])
    assert isinstance(read, Splats)
    np.testing.assert_array_equal(read.means, zipped.means)
    np.testing.assert_array_equal(read.sh, zipped.sh)
    meta = json.loads((tmp_path / "meta.json").read_text())
    for change, message in (
        ({"quats": {"files": ["../quats.webp"]}}, "outside its folder"),
        ({"version": 3}, "this one is 3"),
        ({"count": 10**6}, "promises 1000000 Gaussians"),
        ({"sh0": {"codebook": [1.0], "files": meta["sh0"]["files"]}}, "damaged"),
        ({"shN": {**meta["shN"], "bands": 4}}, "degree 4"),
    ):
        (tmp_path / "meta.json").write_text(json.dumps(meta | change))
        with pytest.raises(AssetError, match=message) as error:
            load_asset(tmp_path / "meta.json")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("end", [3, 40, 1000, -30])
def test_a_truncated_sog_is_refused(end, sog, tmp_path):
    (tmp_path / "a.sog").write_bytes(sog[2][:end])
    with pytest.raises(AssetError) as error:
        load_asset(tmp_path / "a.sog")
    assert "\n" not in str(error.value)
