"""Splats in PLY: read and written by plyfile, and damaged files."""

import io

import numpy as np
import pytest
from plyfile import PlyData, PlyElement
from splat_clouds import (
    FLOAT,
    assert_same,
    cloud,
    one_line,
)

from sds3d.formats.splat import from_splat
from sds3d.formats.splat_ply import from_splat_ply, to_splat_ply
from sds3d.geometry.splats import SMALLEST_SCALE, turned


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


@pytest.mark.parametrize("end", [2, 20, -60, -400])
def test_a_truncated_ascii_ply_is_refused(end):
    file = io.BytesIO()
    vertex = PlyData.read(io.BytesIO(to_splat_ply(cloud(5, 0), compact=True)))["vertex"]
    PlyData([vertex], text=True).write(file)
    assert len(from_splat_ply(file.getvalue())) == 5
    with pytest.raises(ValueError) as error:  # noqa: PT011
        from_splat_ply(file.getvalue()[:end])
    assert one_line(error)


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
