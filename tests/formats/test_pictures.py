import io

import imageio.v3 as iio
import numpy as np
import pytest
import torch
import trimesh
from export_shapes import position_color, torus_mesh
from PIL import Image

from sds3d.cameras import turntable
from sds3d.formats.export import DEFAULT_FORMATS, FORMATS, SPLAT_FORMATS, write_exports
from sds3d.formats.importers import load_asset
from sds3d.formats.pictures import contact_sheet, sheet_png, to_png
from sds3d.formats.video import turntable_mp4
from sds3d.geometry.mesh import Mesh
from sds3d.geometry.sampling import splats_from_mesh
from sds3d.geometry.splats import Splats
from sds3d.rendering.rasterize import rasterize


def solid(colors, size=8):
    return np.broadcast_to(np.asarray(colors, np.float32)[:, None, None, :], (len(colors), size, size, 3))


def render_torus(cameras):
    mesh = torus_mesh(500)
    seen = rasterize(mesh.vertices, mesh.faces, mesh.colors, cameras)
    return np.where(seen.face[..., None] >= 0, seen.attributes, 1)


def test_png_is_lossless_and_lays_batches_side_by_side():
    picture = np.random.default_rng(0).random((5, 7, 3)).astype(np.float32)
    decoded = np.asarray(Image.open(io.BytesIO(to_png(picture))))
    np.testing.assert_allclose(decoded / 255, picture, atol=0.51 / 255)
    wide = np.asarray(Image.open(io.BytesIO(to_png(np.stack([picture, 1 - picture])))))
    assert wide.shape == (5, 14, 3)
    np.testing.assert_array_equal(wide[:, :7], decoded)
    with pytest.raises(ValueError, match="shape"):
        to_png(np.zeros((5, 7)))


def test_a_contact_sheet_holds_every_picture_in_order():
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
    # Labels stand to the left of the pictures, headings above them.
    first = np.argwhere((sheet == [255, 0, 0]).all(axis=2)).min(axis=0)
    assert (sheet[first[0] :, : first[1]] < 128).any()
    assert (sheet[: first[0], first[1] :] < 200).any()
    assert Image.open(io.BytesIO(sheet_png(contact_sheet(rows)))).format == "PNG"


def test_a_contact_sheet_refuses_what_it_cannot_lay_out():
    with pytest.raises(ValueError, match="at least one row"):
        contact_sheet([])
    with pytest.raises(ValueError, match="mug"):
        contact_sheet([("mug", np.zeros((8, 8, 3)))])


@pytest.mark.parametrize(("height", "width"), [(64, 64), (33, 47)])
def test_a_video_decodes_to_the_frames_that_went_in(height, width, tmp_path):
    ramp = np.linspace(0.1, 0.9, 12)
    frames = np.broadcast_to(ramp[:, None, None, None], (12, height, width, 3)).copy()
    frames[..., 2] = 0.5
    path = tmp_path / "turntable.mp4"
    path.write_bytes(turntable_mp4(frames, fps=24))
    decoded = iio.imread(path, plugin="FFMPEG")
    assert decoded.shape == (12, height + height % 2, width + width % 2, 3)
    assert iio.immeta(path, plugin="FFMPEG")["fps"] == 24
    assert iio.immeta(path, plugin="FFMPEG")["codec"] == "h264"
    assert iio.immeta(path, plugin="FFMPEG")["pix_fmt"].startswith("yuv420p")
    np.testing.assert_allclose(decoded[:, 4, 4] / 255, frames[:, 4, 4], atol=0.03)


def test_a_video_starts_with_its_index():
    """Browsers play a file as it arrives only when `moov` comes before `mdat`."""
    data = turntable_mp4(solid([[0, 0, 0], [1, 1, 1]], 32))
    assert 0 < data.index(b"moov") < data.index(b"mdat")
    assert data == turntable_mp4(solid([[0, 0, 0], [1, 1, 1]], 32))


def test_a_video_refuses_other_shapes():
    with pytest.raises(ValueError, match="shape"):
        turntable_mp4(np.zeros((4, 8, 8)))
    with pytest.raises(ValueError, match="shape"):
        turntable_mp4(np.zeros((0, 8, 8, 3)))


def test_everything_is_written_to_the_folder(tmp_path):
    folder = tmp_path / "exports"
    mesh = torus_mesh(500)
    paths = write_exports(
        folder, mesh, render_torus, "torus", color_fn=position_color, texture_size=128, size=64, frames=6
    )
    expected = {f"torus.{ending}" for ending in ("glb", "ply", "stl", "obj", "mtl", "png")}
    expected |= {"contact_sheet.png", "turntable.mp4"}
    assert set(paths) == expected
    assert {path.name for path in folder.iterdir()} == expected  # no temporary file is left
    assert all(paths[name] == folder / name for name in expected)
    assert len(iio.imread(paths["turntable.mp4"], plugin="FFMPEG")) == 6
    for suffix in ("glb", "obj", "ply", "stl"):
        loaded = trimesh.load(paths[f"torus.{suffix}"], force="mesh", process=False)
        np.testing.assert_allclose(loaded.vertices[loaded.faces], mesh.vertices[mesh.faces], atol=1e-6)
    first = np.asarray(Image.open(paths["contact_sheet.png"]))
    assert first.shape[1] > 8 * 64
    np.testing.assert_allclose(render_torus(turntable(1, size=64)).mean(), first.mean() / 255, atol=0.2)


def test_only_the_formats_that_are_asked_for_are_written(tmp_path):
    mesh = torus_mesh(300)
    splats = splats_from_mesh(mesh, 50, torch.Generator().manual_seed(0))
    files = {
        "glb": {"torus.glb"},
        "obj": {"torus.obj", "torus.mtl", "torus.png"},
        "ply": {"torus.ply"},
        "stl": {"torus.stl"},
        "splat-ply": {"torus-splats.ply"},
        "splat": {"torus.splat"},
        "spz": {"torus.spz"},
        "splat-glb": {"torus-splats.glb"},
    }
    small = {"texture_size": 64, "size": 32, "frames": 4}
    pictures = {"contact_sheet.png", "turntable.mp4"}
    for name in DEFAULT_FORMATS:
        paths = write_exports(tmp_path / name, mesh, render_torus, "torus", formats=[name], splats=splats, **small)
        assert set(paths) == files[name] | pictures
        loaded = load_asset(paths[min(files[name])] if name != "obj" else paths["torus.obj"])
        assert isinstance(loaded, Splats if name in SPLAT_FORMATS else Mesh)
    everything = write_exports(tmp_path / "all", mesh, render_torus, "torus", splats=splats, **small)
    assert set(everything) == set().union(*files.values(), pictures)
    assert set(FORMATS) == {*files, "usdz"}
    with pytest.raises(ValueError, match="spz holds splats, and there are none"):
        write_exports(tmp_path / "none", mesh, render_torus, "torus", formats=["glb", "spz"], **small)
    assert not (tmp_path / "none").exists()


def test_usdz_is_written_when_it_is_asked_for(tmp_path):
    pytest.importorskip("pxr", reason='usd-core is missing: pip install "sds3d[usd]"')
    mesh = torus_mesh(300)
    paths = write_exports(tmp_path, mesh, render_torus, "torus", formats=["usdz"], texture_size=64, size=32, frames=4)
    assert set(paths) == {"torus.usdz", "contact_sheet.png", "turntable.mp4"}
