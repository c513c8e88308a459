"""PNG pictures and contact sheets."""

import io

import numpy as np
import pytest
from PIL import Image

from sds3d.formats.pictures import contact_sheet, png, to_png, to_uint8


def solid(colors, size=8):
    return np.broadcast_to(np.asarray(colors, np.float32)[:, None, None, :], (len(colors), size, size, 3))


def test_png_is_lossless_and_lays_batches_side_by_side():
    picture = np.random.default_rng(0).random((5, 7, 3)).astype(np.float32)
    decoded = np.asarray(Image.open(io.BytesIO(to_png(picture))))
    np.testing.assert_allclose(decoded / 255, picture, atol=0.51 / 255)
    wide = np.asarray(Image.open(io.BytesIO(to_png(np.stack([picture, 1 - picture])))))
    assert wide.shape == (5, 14, 3)
    np.testing.assert_array_equal(wide[:, :7], decoded)
    with pytest.raises(ValueError, match="shape"):
        to_png(np.zeros((5, 7)))


def test_bytes_are_rounded_and_clipped_and_nan_is_black():
    given = np.float32(
        [np.nan, -np.inf, -0.5, -0.0, 0, 0.4 / 255, 0.6 / 255, 1.5 / 255, 2.5 / 255, 0.999, 1, 7, np.inf]
    )
    expected = np.uint8([0, 0, 0, 0, 0, 0, 1, 2, 2, 255, 255, 255, 255])
    np.testing.assert_array_equal(to_uint8(given), expected)
    many = np.random.default_rng(0).normal(0.5, 1, 10_000)
    np.testing.assert_array_equal(to_uint8(many), np.rint(np.clip(np.float32(many), 0, 1) * 255))
    assert np.isnan(given[0])  # the input is left as it was


def test_a_texture_that_several_files_hold_is_encoded_once(monkeypatch):
    saved = []
    save = Image.Image.save
    monkeypatch.setattr(
        Image.Image, "save", lambda self, *args, **kw: saved.append(self.size) or save(self, *args, **kw)
    )
    texture = np.random.default_rng(1).integers(0, 255, (9, 11, 3), np.uint8)
    first, second = png(texture), png(texture.copy())
    assert first == second
    assert saved == [(11, 9)]
    texture[0, 0] += 1  # a changed array is another picture
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png(texture)))), texture)
    grey = texture.reshape(9, 33)  # the same bytes in another shape
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png(grey)))), grey)


def test_a_contact_sheet_shows_every_picture_in_order():
    rows = [
        ("a red mug", solid([[1, 0, 0], [0, 1, 0], [0, 0, 1]])),
        ("a snowman with a green hat and a very long description", solid([[0, 1, 1], [1, 0, 1]])),
    ]
    sheet = np.asarray(contact_sheet(rows, ["0°", "120°", "240°"], "two prompts", size=40))
    flat = sheet.reshape(-1, 3)
    for color in ([255, 0, 0], [0, 255, 0], [0, 0, 255], [0, 255, 255], [255, 0, 255]):
        assert (flat == color).all(axis=1).sum() == 40 * 40
    places = [np.argwhere((sheet == c).all(axis=2)).mean(axis=0) for c in ([255, 0, 0], [0, 255, 0], [0, 255, 255])]
    assert places[0][0] == places[1][0] < places[2][0]  # rows downwards
    assert places[0][1] == places[2][1] < places[1][1]  # columns rightwards
    # Labels are to the left of the pictures, headings above them.
    first = np.argwhere((sheet == [255, 0, 0]).all(axis=2)).min(axis=0)
    assert (sheet[first[0] :, : first[1]] < 128).any()
    assert (sheet[: first[0], first[1] :] < 200).any()
    assert Image.open(io.BytesIO(png(contact_sheet(rows)))).format == "PNG"


def test_a_contact_sheet_refuses_empty_rows_and_single_pictures():
    with pytest.raises(ValueError, match="at least one row"):
        contact_sheet([])
    with pytest.raises(ValueError, match="mug"):
        contact_sheet([("mug", np.zeros((8, 8, 3)))])
