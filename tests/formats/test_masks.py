"""Pictures of an object, and their masks."""

import importlib.util
import io
import struct
import sys
import types
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from sds3d.extras import install_command
from sds3d.formats import masks
from sds3d.formats.masks import PictureError, masked_by_border, open_picture, read_picture
from sds3d.geometry.colors import linear_to_srgb

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (6, 9, 3), np.uint8)


def file_of(pixels, kind="PNG", mode=None, **options):
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels, mode)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def disc(size=64, radius=20.0, color=(0.9, 0.1, 0.2), behind=(1.0, 1.0, 1.0), samples=8):
    """A disc, each pixel the average of samples x samples points: its picture (H, W, 3) and its coverage (H, W)."""
    at = (np.arange(size * samples) + 0.5) / samples - size / 2
    inside = (at[:, None] ** 2 + at**2 < radius**2).astype(np.float32)
    cover = inside.reshape(size, samples, size, samples).mean(axis=(1, 3))[..., None]
    return (cover * np.float32(color) + (1 - cover) * np.float32(behind)).astype(np.float32), cover[..., 0]


def as_bytes(rgb):
    return np.rint(rgb * 255).astype(np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_alpha_is_the_mask_and_colors_are_not_multiplied_by_it(kind):
    alpha = RNG.integers(0, 256, (6, 9, 1), np.uint8)
    alpha[0, 0], alpha[0, 1] = 255, 0
    rgb, mask = read_picture(file_of(np.concatenate([NOISE, alpha], axis=-1), kind, lossless=True, exact=True))
    np.testing.assert_allclose(rgb, NOISE / 255, atol=1e-6)
    np.testing.assert_allclose(mask, alpha[..., 0] / 255, atol=1e-6)
    assert rgb.dtype == mask.dtype == np.float32


def test_every_kind_of_png_has_its_colors_and_alpha():
    grey = RNG.integers(0, 256, (6, 9), np.uint8)
    deep = RNG.integers(0, 65536, (6, 9), np.uint16)
    for file, expected in [
        (file_of(grey), grey / 255),
        (file_of(deep), deep / 65535),
        (file_of(grey > 99), (grey > 99) * 1.0),
    ]:
        rgb, alpha = open_picture(file)
        np.testing.assert_allclose(rgb, np.repeat(expected[..., None], 3, axis=-1), atol=1e-6)
        assert alpha is None
    rgb, alpha = open_picture(file_of(np.stack([grey, 255 - grey], axis=-1), mode="LA"))
    np.testing.assert_allclose(rgb[..., 1], grey / 255, atol=1e-6)
    np.testing.assert_allclose(alpha, 1 - grey / 255, atol=1e-6)
    palette = Image.fromarray(np.uint8([[0, 1], [2, 1]]), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    rgb, alpha = open_picture(file_of(palette, transparency=bytes([255, 0, 128])))
    np.testing.assert_allclose(rgb[1, 0] * 255, [70, 80, 90], atol=1e-4)
    np.testing.assert_allclose(alpha * 255, [[255, 0], [128, 0]], atol=1e-4)
    rgb, alpha = open_picture(file_of(NOISE, transparency=tuple(int(value) for value in NOISE[2, 3])))
    assert alpha is not None
    assert (alpha == 0).sum() == 1
    assert alpha[2, 3] == 0


def png_of_bits(bits, kind, pixels, clear):
    """A PNG of one row with these bytes, and a transparent colour, a tuple of levels."""
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", 4, 1, bits, kind, 0, 0, 0)),
        (b"tRNS", struct.pack(f">{len(clear)}H", *clear)),
        (b"IDAT", zlib.compress(b"\0" + pixels)),
        (b"IEND", b""),
    ]
    chunks = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize(
    ("bits", "pixels", "clear", "levels"),
    [
        (1, b"\x60", 1, [0, 1, 1, 0]),
        (2, b"\x1b", 2, [0, 1, 2, 3]),
        (4, b"\x0f\x5a", 5, [0, 15, 5, 10]),
        (8, bytes([0, 255, 5, 10]), 5, [0, 255, 5, 10]),
        (16, struct.pack(">4H", 0xAB04, 0xAB05, 0, 0xFFFF), 0xAB05, [0xAB04, 0xAB05, 0, 0xFFFF]),
    ],
    ids=["1", "2", "4", "8", "16"],
)
def test_one_grey_of_a_png_may_be_transparent(bits, pixels, clear, levels):
    rgb, alpha = open_picture(png_of_bits(bits, 0, pixels, (clear,)))
    np.testing.assert_array_equal(alpha[0], np.not_equal(levels, clear))
    np.testing.assert_allclose(rgb[0, :, 1], np.divide(levels, 2**bits - 1), atol=0.5 / 255)


def test_a_transparent_color_of_16_bits_is_warned_of():
    colors = [0xAB05, 0xAB05, 0xAB05, 0x0505, 0x0505, 0x0505, 0, 0, 0, 0xFFFF, 0xFFFF, 0xFFFF]
    with pytest.warns(UserWarning, match="its transparent colour of 16 bits is not read"):
        rgb, alpha = open_picture(png_of_bits(16, 2, struct.pack(">12H", *colors), (0xAB05,) * 3))
    assert alpha is None
    np.testing.assert_allclose(rgb[0, :, 0], np.divide([0xAB05, 0x0505, 0, 0xFFFF], 65535), atol=1 / 255)


def test_a_limit_of_pixels_counts_those_that_are_decoded(monkeypatch):
    monkeypatch.setattr(masks, "SIDE", 40)
    wide, _ = disc(160)
    pixels = as_bytes(wide)
    for file in (file_of(pixels), file_of(pixels, "WEBP"), file_of(pixels, "JPEG", progressive=True)):
        with pytest.raises(PictureError, match="million pixels: make it smaller"):
            open_picture(file, 160 * 160 - 1)
        assert open_picture(file, 160 * 160)[0].shape == (40, 40, 3)
    file = file_of(pixels, "JPEG")  # decoded at a quarter of its size
    assert open_picture(file, 40 * 40)[0].shape == (40, 40, 3)
    with pytest.raises(PictureError, match="million pixels: make it smaller"):
        open_picture(file, 40 * 40 - 1)


def test_jpegs_of_four_inks_and_large_ones(monkeypatch):
    flat = np.empty((16, 16, 3), np.uint8)
    flat[:] = 200, 100, 50
    image = Image.fromarray(flat)
    for made in (image, image.convert("CMYK")):
        rgb, alpha = open_picture(file_of(made, "JPEG", quality=95))
        np.testing.assert_allclose(rgb, flat / 255, atol=4 / 255)
        assert alpha is None
    monkeypatch.setattr(masks, "SIDE", 40)
    wide, _ = disc(160)
    rgb, _ = open_picture(file_of(as_bytes(np.concatenate([wide, wide], axis=1)), "JPEG", quality=95))
    assert rgb.shape == (20, 40, 3)
    small, _ = disc(20, 2.5)
    np.testing.assert_allclose(rgb[:, :20], small, atol=0.12)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize(("orientation", "turned"), [(3, 2), (6, -1), (8, 1)])
def test_pictures_are_turned_as_the_camera_was(kind, orientation, turned):
    smooth = as_bytes(np.dstack(np.broadcast_arrays(*np.ogrid[0:1:48j, 0:1:32j], 0.5)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    rgb, _ = open_picture(file_of(smooth, kind, exif=exif))
    np.testing.assert_allclose(rgb, np.rot90(smooth / 255, turned), atol=0.05)


def test_colors_are_converted_from_the_profile_to_srgb():
    swapped = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for old, new in ((b"rXYZ", b"????"), (b"gXYZ", b"rXYZ"), (b"????", b"gXYZ")):  # its red is our green
        swapped = swapped.replace(old, new)
    colors = RNG.integers(30, 226, (6, 9, 3), np.uint8)
    alpha = np.full((6, 9, 1), 128, np.uint8)
    for pixels in (colors, np.concatenate([colors, alpha], axis=-1)):
        rgb, _ = open_picture(file_of(pixels, icc_profile=swapped))
        np.testing.assert_allclose(rgb, colors[..., [1, 0, 2]] / 255, atol=2 / 255)
    with pytest.warns(UserWarning, match="its colour profile cannot be used"):
        rgb, _ = open_picture(file_of(colors, icc_profile=b"no profile"))
    np.testing.assert_allclose(rgb, colors / 255, atol=1e-6)


def test_a_png_of_linear_light_becomes_srgb():
    chunks = PngImagePlugin.PngInfo()
    chunks.add(b"gAMA", struct.pack(">I", 100_000))
    deep = RNG.integers(0, 65536, (6, 9), np.uint16)
    rgb, _ = open_picture(file_of(deep, pnginfo=chunks))
    np.testing.assert_allclose(rgb[..., 0], linear_to_srgb(deep / 65535), atol=1e-5)


@pytest.mark.parametrize("behind", [(1, 1, 1), (0, 0, 0), (0.2, 0.7, 0.3)])
def test_a_border_of_one_color_is_the_background_and_edges_are_unmixed(behind):
    picture, cover = disc(behind=behind)
    rgb, mask = read_picture(file_of(as_bytes(picture)))
    seen = (cover > 0.15) | (cover == 0)  # less of the disc lies within the tolerance
    np.testing.assert_allclose(mask[seen], cover[seen], atol=0.02)
    assert mask[cover == 0].max() == 0
    np.testing.assert_allclose(
        rgb[cover > 0.3], np.broadcast_to([0.9, 0.1, 0.2], (int((cover > 0.3).sum()), 3)), atol=0.03
    )
    np.testing.assert_allclose(mask.sum(), np.pi * 20**2, rtol=0.005)


def test_what_the_border_does_not_reach_belongs_to_the_object():
    picture, cover = disc()
    picture[30:34, 30:34] = 1.0  # a white eye before a white background
    _, mask = read_picture(file_of(as_bytes(picture)))
    assert mask[30:34, 30:34].min() == 1
    picture[28:36, :32] = 1.0  # an opening to the border
    _, mask = read_picture(file_of(as_bytes(picture)))
    assert mask[28:36, :32].max() == 0
    assert mask[32, 45] == cover[32, 45] == 1


def test_the_tolerance_decides_what_still_is_background():
    picture, _ = disc()
    picture[2:6, 10:50] = 0.9  # a faint shadow
    for tolerance, is_object in ((0.05, 1.0), (0.12, 0.0)):
        _, mask = read_picture(file_of(as_bytes(picture)), tolerance=tolerance)
        assert mask[3, 30] == is_object
    noisy = picture + RNG.normal(0, 0.01, picture.shape).astype(np.float32)
    _, mask = masked_by_border(noisy.clip(0, 1), 0.12)
    np.testing.assert_allclose(mask.sum(), np.pi * 20**2, rtol=0.02)


def test_a_mask_of_its_own_comes_first():
    picture, _ = disc()
    mask = np.zeros((128, 128), np.uint8)
    mask[:, 64:] = 255
    _, taken = read_picture(file_of(as_bytes(picture)), file_of(mask))
    np.testing.assert_allclose(taken[:, [0, 31, 32, 63]], np.broadcast_to([0, 0, 1, 1], (64, 4)), atol=0.3)
    _, taken = read_picture(file_of(as_bytes(picture)), file_of(np.dstack([as_bytes(picture), mask[::2, ::2]])))
    assert (taken[:, 40] == 1).all()
    assert (taken[:, 10] == 0).all()
    with pytest.raises(PictureError, match=r"not of the same shape \(64 x 32 and 64 x 64 pixels\)"):
        read_picture(file_of(as_bytes(picture)), file_of(mask[:32, :64]))
    with pytest.raises(PictureError, match="shows no object"):
        read_picture(file_of(as_bytes(picture)), file_of(0 * mask))


def test_what_cannot_be_read_is_refused_in_one_line(tmp_path, monkeypatch):
    picture, _ = disc()
    whole = file_of(as_bytes(picture))
    clear = np.concatenate([NOISE, np.zeros((6, 9, 1), np.uint8)], axis=-1)
    cases = {
        "a.png": (b"", "no PNG, JPEG or WebP"),
        "b.png": (b"<svg/>", "no PNG, JPEG or WebP"),
        "c.png": (file_of(NOISE, "TIFF"), "no PNG, JPEG or WebP"),
        "d.png": (whole[: len(whole) // 2], "cannot be decoded"),
        "e.png": (file_of(clear), "it shows no object"),
        "f.png": (file_of(np.full((8, 8, 3), 77, np.uint8)), "it shows no object"),
    }
    for name, (data, why) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(PictureError, match=f"{name}: .*{why}") as refused:
            read_picture(tmp_path / name)
        assert "\n" not in str(refused.value)
        assert str(tmp_path) not in str(refused.value)
    with pytest.raises(PictureError, match=r"gone\.png: there is no such file"):
        read_picture(tmp_path / "gone.png")
    (tmp_path / "folder").mkdir()
    with pytest.raises(PictureError, match="folder: it is a folder, not a file"):
        read_picture(tmp_path / "folder")
    monkeypatch.setattr(masks, "PIXELS", 4000)
    with pytest.raises(PictureError, match="million pixels: make it smaller"):
        read_picture(whole)
    monkeypatch.setattr(masks, "BYTES", 10)
    with pytest.raises(PictureError, match=r"d\.png: it has 0 MB; 0 MB are the limit"):
        read_picture(tmp_path / "d.png")


def test_of_several_frames_the_first_is_used():
    picture, cover = disc()
    frames = [Image.fromarray(as_bytes(picture)), Image.fromarray(as_bytes(1 - picture))]
    with pytest.warns(UserWarning, match="of its 2 frames, the first is used"):
        _, mask = read_picture(file_of(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True))
    np.testing.assert_allclose(mask.sum(), cover.sum(), rtol=0.01)
    smaller = Image.fromarray(as_bytes(picture)).resize((16, 16))  # as telephones append one: no warning
    _, mask = read_picture(file_of(frames[0], "MPO", save_all=True, append_images=[smaller], quality=95))
    np.testing.assert_allclose(mask.sum(), cover.sum(), rtol=0.02)


def test_without_a_mask_the_message_says_what_to_do(monkeypatch):
    monkeypatch.setattr(masks, "find_spec", lambda name: None)
    with pytest.raises(PictureError) as refused:
        read_picture(file_of(RNG.integers(0, 256, (20, 20, 3), np.uint8)))
    message = str(refused.value)
    assert "neither transparent nor of one colour" in message
    assert "mask=FILE" in message
    assert message.endswith(install_command("background"))


def field(number, value):
    """A field of a protobuf message: a number, or bytes."""
    if isinstance(value, int):
        return bytes([number << 3, value])
    return bytes([number << 3 | 2, len(value)]) + value


def brightness_network(input_rank=0):
    """An ONNX file of the network that returns the mean of its input's channels. input_rank: 0 for any."""
    shape = field(2, field(1, field(1, 1)) * input_rank) if input_rank else b""
    floats = field(2, field(1, field(1, 1) + shape))
    axes = field(5, field(1, b"axes") + field(8, 1) + bytes([160, 1, 7]))
    node = field(1, b"x") + field(2, b"y") + field(4, b"ReduceMean") + axes
    graph = field(1, node) + field(2, b"g") + field(11, field(1, b"x") + floats) + field(12, field(1, b"y") + floats)
    return field(1, 8) + field(7, graph) + field(8, field(2, 13))


def test_without_networks_rembg_is_not_imported_since_that_compiles_for_a_minute(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    if importlib.util.find_spec("rembg") is None:
        pytest.skip("rembg is not installed")
    for variable in ("HOME", "REMBG_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.delenv("U2NET_HOME", raising=False)
    monkeypatch.setitem(sys.modules, "rembg.sessions", None)  # an import of it raises
    assert masks.model_found() == ""
    assert "download a network" in masks.remedy()


@pytest.fixture
def home_of_rembg(tmp_path, monkeypatch):
    """The folder of rembg's networks, without any."""
    pytest.importorskip("onnxruntime")
    if importlib.util.find_spec("rembg") is None:
        pytest.skip("rembg is not installed")
    if "rembg" not in sys.modules:  # its mattings, which are not used, would be compiled for a minute
        for name in ("alpha.estimate_alpha_cf", "foreground.estimate_foreground_ml", "util.util"):
            module = types.ModuleType(f"pymatting.{name}")
            setattr(module, "stack_images" if name == "util.util" else name.split(".")[1], None)
            monkeypatch.setitem(sys.modules, f"pymatting.{name}", module)
        for name in ("pymatting", "pymatting.alpha", "pymatting.foreground", "pymatting.util"):
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setenv("REMBG_HOME", str(tmp_path))
    monkeypatch.delenv("U2NET_HOME", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    masks._session.cache_clear()
    yield tmp_path
    masks._session.cache_clear()


def test_a_network_of_rembg_makes_the_mask_where_there_is_no_other(home_of_rembg):
    picture, cover = disc(color=(1, 1, 1), behind=(0, 0, 0))
    picture[:, 0] = picture[0] = np.linspace(0, 0.4, 64)[:, None]  # the border has many colours
    file = file_of(as_bytes(picture))
    with pytest.raises(PictureError, match="download a network: python -c"):
        read_picture(file)
    place = home_of_rembg / "models" / "isnet-general-use"
    place.mkdir(parents=True)
    (place / "isnet-general-use.onnx").write_bytes(brightness_network())
    assert masks.model_found() == "isnet-general-use"
    rgb, mask = read_picture(file)
    np.testing.assert_allclose(mask[2:-2, 2:-2], cover[2:-2, 2:-2], atol=0.15)
    np.testing.assert_allclose(rgb, as_bytes(picture) / 255, atol=1e-6)


@pytest.mark.parametrize(
    "data",
    [b"<html>not found</html>", brightness_network()[:60], brightness_network(input_rank=2)],
    ids=["page", "broken", "foreign"],
)
def test_a_file_that_is_no_such_network_is_refused_in_one_line(home_of_rembg, data):
    place = home_of_rembg / "models" / "u2net"
    place.mkdir(parents=True)
    (place / "u2net.onnx").write_bytes(data)
    noise = file_of(RNG.integers(0, 256, (20, 20, 3), np.uint8))
    with pytest.raises(PictureError) as refused:
        read_picture(noise)
    assert str(refused.value).startswith("the network u2net.onnx cannot be used (")
    assert str(refused.value).endswith("rembg.new_session('u2net')\"")
    assert "\n" not in str(refused.value)
