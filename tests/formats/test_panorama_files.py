"""Panoramas of light are read as their formats say, or refused in a line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import OpenEXR
import pytest

from sds3d.formats import panoramas
from sds3d.formats.panoramas import from_hdr, read_panorama

DATA = Path(__file__).parent.parent / "data" / "panoramas"
HEADER = b"#?RADIANCE\n# made by hand\nFORMAT=32-bit_rle_rgbe\n"


def radiance() -> np.ndarray:
    """Return the picture (8, 16, 3) that OpenCV wrote into opencv.hdr."""
    picture = np.full((8, 16, 3), 0.5, np.float32)
    picture[2, 3] = [100, 2, 0.01]
    picture[4] = np.random.default_rng(0).random((16, 3)) * 3
    picture[6, 8:12] = 7
    return picture


def test_a_radiance_file_of_another_program_is_read() -> None:
    expected = radiance()
    step = 2.0 ** (np.floor(np.log2(expected.max(-1, keepdims=True))) - 7)  # one unit of the shared exponent
    assert (np.abs(read_panorama(DATA / "opencv.hdr")[:, ::-1] - expected) <= step).all()


def test_all_three_ways_to_store_a_row() -> None:
    pixels = np.array([[[128, 64, 0, 129]] * 8, [[10, 20, 30, 128]] * 8], np.uint8)
    expected = pixels[..., :3] * np.array([2.0, 1.0])[:, None, None] / 256
    size = b"\n-Y 2 +X 8\n"
    flat = pixels.tobytes()
    packed = b"".join(
        bytes([2, 2, 0, 8]) + b"".join(bytes([3, *row[:3, c], 133, row[3, c]]) for c in range(4)) for row in pixels
    )
    repeated = b"".join(bytes(row[0]) + bytes([1, 1, 1, 7]) for row in pixels)
    for data in (flat, packed, repeated):
        np.testing.assert_allclose(from_hdr(HEADER + size + data), expected, rtol=1e-6)
    exposed = from_hdr(HEADER + b"EXPOSURE=4\n" + size + flat)
    np.testing.assert_allclose(exposed, expected / 4, rtol=1e-6)
    exposed = from_hdr(HEADER + b"EXPOSURE=4\nEXPOSURE= 0.5\n" + size + flat)  # each program that scales adds a line
    np.testing.assert_allclose(exposed, expected / 2, rtol=1e-6)
    assert not from_hdr(HEADER + b"\n-Y 1 +X 2\n" + bytes([5, 5, 5, 0] * 2)).any()  # an exponent of 0 is black


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x89PNG", "no Radiance picture"),
        (HEADER + b"\n+X 8 -Y 2\n" + bytes(64), "-Y HEIGHT"),
        (HEADER.replace(b"rgbe", b"xyze") + b"\n-Y 2 +X 8\n" + bytes(64), "32-bit_rle_xyze"),
        (HEADER + b"\n-Y 99999 +X 99999\n", "the limit"),
        (HEADER + b"EXPOSURE=0\n\n-Y 2 +X 8\n" + bytes(64), "EXPOSURE=0 is no factor above 0"),
        (HEADER + b"EXPOSURE=-1\nEXPOSURE=-1\n\n-Y 2 +X 8\n" + bytes(64), "EXPOSURE=-1 is no factor above 0"),
        (HEADER + b"EXPOSURE=1e300\nEXPOSURE=1e300\n\n-Y 2 +X 8\n" + bytes(64), "EXPOSURE=1e300 is no factor"),
        (HEADER + b"EXPOSURE=nan\n\n-Y 2 +X 8\n" + bytes(64), "EXPOSURE=nan is no factor above 0"),
        (HEADER + b"EXPOSURE=bright\n\n-Y 2 +X 8\n" + bytes(64), "EXPOSURE=bright is no factor above 0"),
        (HEADER + b"\n-Y 2 +X 8\n" + bytes(60), "truncated"),
        (HEADER + b"\n-Y 2 +X 8\n" + bytes([2, 2, 0, 9]) + bytes(60), "another width"),
        (HEADER + b"\n-Y 2 +X 8\n" + bytes([2, 2, 0, 8, 137, 0]) + bytes(60), "damaged"),
        (HEADER + b"\n-Y 2 +X 8\n" + bytes([1, 1, 1, 3] * 16), "damaged"),
    ],
    ids=[
        "png",
        "from-below",
        "xyze",
        "huge",
        "dark",
        "minus",
        "too-bright",
        "nan",
        "words",
        "cut",
        "width",
        "run",
        "repeat-of-nothing",
    ],
)
def test_damaged_radiance_files_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "bad.hdr").write_bytes(data)
    with pytest.raises(ValueError, match=message) as error:
        read_panorama(tmp_path / "bad.hdr")
    assert str(error.value).startswith("bad.hdr: ")
    assert "\n" not in str(error.value)


def write_exr(path: Path, channels: dict[str, np.ndarray]) -> Path:
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    OpenEXR.File(header, channels).write(str(path))
    return path


def test_open_exr(tmp_path: Path) -> None:
    picture = radiance()
    whole = write_exr(tmp_path / "whole.exr", {"RGB": picture})
    np.testing.assert_array_equal(read_panorama(whole)[:, ::-1], picture)
    planes = {name: picture[..., i].astype(np.float16) for i, name in enumerate("RGB")}
    half = write_exr(tmp_path / "half.exr", {**planes, "Z": picture[..., 0].copy()})
    np.testing.assert_allclose(read_panorama(half)[:, ::-1], picture, rtol=1e-3)
    grey = write_exr(tmp_path / "grey.exr", {"Y": picture[..., 0].copy()})
    with pytest.raises(ValueError, match="no channel R: save it as RGB"):
        read_panorama(grey)
    (tmp_path / "cut.exr").write_bytes(whole.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"cut\.exr: it cannot be read"):
        read_panorama(tmp_path / "cut.exr")


def test_other_shapes_kinds_and_values_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    square = write_exr(tmp_path / "square.exr", {"RGB": radiance()[:, :8].copy()})
    with pytest.raises(ValueError, match="8 x 8 pixels, but a panorama is twice as wide"):
        read_panorama(square)
    broken = radiance()
    broken[0, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        read_panorama(write_exr(tmp_path / "nan.exr", {"RGB": broken}))
    (tmp_path / "bright.hdr").write_bytes(HEADER + b"EXPOSURE=1e-44\n\n-Y 2 +X 4\n" + bytes([1, 2, 3, 129] * 8))
    with pytest.raises(ValueError, match="not finite"):
        read_panorama(tmp_path / "bright.hdr")
    assert read_panorama(write_exr(tmp_path / "minus.exr", {"RGB": -radiance()})).max() == 0
    with pytest.raises(ValueError, match=r"give a \.hdr or \.exr file"):
        read_panorama(tmp_path / "sky.jpg")
    monkeypatch.setattr(panoramas, "MOST_BYTES", 100)
    with pytest.raises(ValueError, match="is larger than"):
        read_panorama(square)
