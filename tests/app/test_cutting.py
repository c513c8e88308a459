"""Pictures in the form: what the page may send, and masks with a person's corrections."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sds3d.app import cutting
from sds3d.app.cutting import OwnPicture, OwnPictures, Stroke, corrected, cut, normalised, read_pictures, seen
from sds3d.config import ConfigError
from sds3d.formats.masks import PictureError, read_picture


@pytest.fixture
def square(tmp_path: Path) -> Path:
    """A red square, 40 x 40 pixels, in the middle of a white picture of 100 x 80."""
    pixels = np.full((80, 100, 3), 255, np.uint8)
    pixels[20:60, 30:70] = 200, 30, 30
    Image.fromarray(pixels).save(tmp_path / "square.png")
    return tmp_path / "square.png"


def test_the_mask_is_found_and_corrected_in_the_order_of_the_strokes(square: Path):
    found = cut(square, None)
    assert found.how == "border"
    truth = np.zeros((80, 100))
    truth[20:60, 30:70] = 1
    np.testing.assert_array_equal(found.mask, truth)
    erase = Stroke(keep=False, width=0.2, points=((0.3, 0.5), (0.7, 0.5)))  # 20 pixels wide, along the row 40
    kept = Stroke(keep=True, width=0.1, points=((0.9, 0.5),))  # a dot of 10 pixels
    mask = cut(square, None, strokes=[erase, kept]).mask
    assert mask[31:49, 31:69].max() == 0
    assert mask[22:28, 32:68].min() == mask[52:58, 32:68].min() == 1
    rows, columns = np.nonzero(mask[:, 75:])
    assert (rows.mean(), columns.mean() + 75) == pytest.approx((40, 90), abs=0.6)
    assert len(rows) == pytest.approx(np.pi * 5**2, rel=0.15)
    again = corrected(mask, [erase.model_copy(update={"keep": True})])
    np.testing.assert_array_equal(again[20:60, 30:70], 1)
    np.testing.assert_array_equal(cut(square, None).mask, truth)  # the first one is as it was


def test_soft_edges_stay_where_no_stroke_is():
    mask = np.linspace(0, 1, 64, dtype=np.float32)[None].repeat(64, 0) * np.float32(0.777)
    stroke = Stroke(keep=True, width=0.1, points=((0.5, 0.1), (0.5, 0.2)))
    after = corrected(mask, [stroke])
    np.testing.assert_array_equal(after[32:], mask[32:])
    assert after[10, 32] == 1


def test_a_background_that_cannot_be_told_apart_is_left_to_the_person(tmp_path: Path, square: Path, monkeypatch):
    monkeypatch.setattr("sds3d.formats.masks.find_spec", lambda name: None)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)).save(tmp_path / "noise.png")
    found = cut(tmp_path / "noise.png", None)
    assert found.how == "nothing"
    assert found.mask.min() == 1
    Image.fromarray(np.uint8(255) * np.eye(30, dtype=np.uint8)[:20]).save(tmp_path / "mask.png")
    found = cut(tmp_path / "noise.png", tmp_path / "mask.png")
    assert found.how == "file"
    np.testing.assert_array_equal(found.mask, np.eye(20, 30))


def test_a_picture_is_kept_small_and_without_what_a_camera_adds(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(cutting, "SIDE", 50)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    Image.fromarray(np.full((80, 100, 3), 77, np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    kept = Image.open(io.BytesIO(normalised(tmp_path / "a.jpg")))
    assert (kept.format, kept.size, kept.mode) == ("PNG", (40, 50), "RGB")
    assert not kept.info
    assert not kept.getexif()
    Image.fromarray(np.full((80, 100, 4), 77, np.uint8)).save(tmp_path / "a.png")
    assert Image.open(io.BytesIO(normalised(tmp_path / "a.png"))).mode == "RGBA"


def test_a_picture_that_is_small_as_a_file_but_large_in_memory_is_refused(tmp_path: Path):
    Image.new("1", (5200, 5000)).save(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size < 10_000
    with pytest.raises(PictureError, match=r"a\.png: it has more than 25 million pixels: make it smaller"):
        normalised(tmp_path / "a.png")


def test_masks_that_are_kept_have_a_byte_per_value(tmp_path: Path):
    soft = np.pad(np.linspace(0, 1, 40, dtype=np.float32)[None].repeat(20, 0), 10)
    color = np.full((40, 60, 3), 0.3, np.float32)
    edge = soft[..., None] * color + 1 - soft[..., None]  # fades into white
    Image.fromarray(np.rint(edge * 255).astype(np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.rint(255 * np.dstack([color, soft])).astype(np.uint8)).save(tmp_path / "b.png")
    for name in ("a.png", "b.png"):
        kept, how = cutting._cut(tmp_path / name, None, 0, 0.06)
        assert (kept.dtype, kept.nbytes) == (np.uint8, 4 * 40 * 60)
        rgb, mask = read_picture(tmp_path / name)
        found = cut(tmp_path / name, None)
        assert (found.rgb.dtype, found.mask.dtype, found.how) == (np.float32, np.float32, how)
        np.testing.assert_allclose(found.rgb, rgb, atol=0.5 / 255 + 1e-6)
        np.testing.assert_allclose(found.mask, mask, atol=0.5 / 255 + 1e-6)
    np.testing.assert_allclose(found.mask, np.rint(soft * 255) / 255, atol=1e-6)


def test_the_page_shows_the_object_and_a_faint_background(square: Path):
    shown = Image.open(io.BytesIO(base64.b64decode(seen(cut(square, None)).partition(",")[2])))
    pixels = np.asarray(shown, np.float32)
    assert shown.size == (100, 80)
    np.testing.assert_allclose(pixels[30:50, 40:60].mean(axis=(0, 1)), [200, 30, 30], atol=4)
    tiles = pixels[:16, :, 0].mean(axis=0)
    assert np.ptp(tiles) < 30
    levels = np.unique(np.rint(pixels[:9, :90, 0].reshape(9, 9, 10)[2:7, :, 2:8].mean(axis=(0, 2))))
    assert len(levels) >= 2  # chequers
    assert levels.max() < 250


def test_the_page_can_send_only_what_the_form_has():
    one = OwnPicture(file="a" * 32, azimuth=90, strokes=(Stroke(keep=True, width=0.1, points=((0.5, 0.5),)),))
    held = OwnPictures(pictures=(one, OwnPicture(file="b" * 32)), chosen=1)
    assert read_pictures(held.model_dump_json()) == held
    assert read_pictures("") == OwnPictures()
    assert held.shown == held.pictures[1]
    assert held.without_shown() == OwnPictures(pictures=(one,), chosen=0)
    assert held.with_shown(one).pictures == (one, one)
    assert OwnPictures().shown is None
    given = json.loads(held.model_dump_json())
    for wrong, why in [
        ({"pictures": [{"file": "a", "depth": "/etc/passwd"}]}, "depth"),
        ({"pictures": [{"file": "a", "azimuth": 1e9}]}, "azimuth"),
        ({"pictures": [{"file": "a", "azimuth": "NaN"}]}, "azimuth"),
        ({"pictures": [given["pictures"][0]] * (cutting.MOST + 1)}, "pictures"),
        ({"pictures": [{"file": "a", "strokes": [{"keep": True, "width": 3, "points": [[0, 0]]}]}]}, "width"),
        ({"pictures": [{"file": "a", "strokes": [{"keep": True, "width": 1, "points": []}]}]}, "points"),
        ({"pictures": [{"file": "a", "strokes": [{"keep": True, "width": 1, "points": [[0, 1e300]]}]}]}, "points"),
    ]:
        with pytest.raises(ConfigError, match=f"^pictures: .*{why}"):
            read_pictures(json.dumps(wrong))
    with pytest.raises(ConfigError, match=r"^pictures: "):
        read_pictures("{")
    long = Stroke(keep=True, width=0.1, points=((0.5, 0.5),) * (cutting.MOST_POINTS + 1))
    with pytest.raises(ConfigError, match="too many strokes"):
        read_pictures(OwnPictures(pictures=(one.model_copy(update={"strokes": (long,)}),)).model_dump_json())
