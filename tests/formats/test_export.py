"""Folders of exports."""

import threading
from dataclasses import replace

import imageio.v3 as iio
import numpy as np
import pytest
import torch
import trimesh
from export_shapes import position_color, torus_mesh
from PIL import Image

from sds3d.cameras import turntable
from sds3d.formats.export import BACKDROP, draw_pictures, portraits, prepare, write_exports
from sds3d.formats.load import load_asset
from sds3d.formats.table import DEFAULT_FORMATS, EXPORT_FORMATS, FORMATS, export_format
from sds3d.formats.usdz import load_usd
from sds3d.geometry.sampling import splats_from_mesh
from sds3d.rendering.mesh_zbuffer import rasterize


def render_torus(cameras):
    mesh = torus_mesh(500)
    seen = rasterize(mesh.vertices, mesh.faces, mesh.colors, cameras)
    return np.where(seen.face[..., None] >= 0, seen.attributes, 1)


def test_everything_is_written_to_the_folder(tmp_path):
    folder = tmp_path / "exports"
    mesh = torus_mesh(500)
    paths = write_exports(
        folder, mesh, draw_pictures(render_torus, "torus", 64, 6), "torus", color_fn=position_color, texture_size=128
    )
    expected = {f"torus.{ending}" for ending in ("glb", "ply", "stl", "3mf", "obj", "mtl", "png")}
    expected |= {"contact_sheet.png", "turntable.mp4"}
    assert set(paths) == expected
    assert {path.name for path in folder.iterdir()} == expected  # no temporary file is left
    assert all(paths[name] == folder / name for name in expected)
    assert len(iio.imread(paths["turntable.mp4"], plugin="FFMPEG")) == 6
    for suffix in ("glb", "obj", "ply"):
        loaded = trimesh.load(paths[f"torus.{suffix}"], force="mesh", process=False)
        np.testing.assert_allclose(loaded.vertices[loaded.faces], mesh.vertices[mesh.faces], atol=1e-6)
    printed = trimesh.load(paths["torus.stl"], force="mesh")
    np.testing.assert_allclose(printed.extents.max(), 100, rtol=1e-6)  # millimetres
    assert paths["torus.3mf"].read_bytes()[:2] == b"PK"
    first = np.asarray(Image.open(paths["contact_sheet.png"]))
    assert first.shape[1] > 8 * 64
    np.testing.assert_allclose(render_torus(turntable(1, size=64)).mean(), first.mean() / 255, atol=0.2)


def test_libraries_are_loaded_before_threads_start(tmp_path, monkeypatch):
    """OpenUSD's, while it loads, and a thread that needs the system's loader would wait for each other."""
    order = []
    stl = replace(export_format("stl"), prepare=lambda: order.append("prepared"))
    monkeypatch.setattr(
        "sds3d.formats.export.export_format", lambda name: stl if name == "stl" else export_format(name)
    )

    class Noted(threading.Thread):
        def start(self):
            order.append(self.name)
            super().start()

    monkeypatch.setattr(threading, "Thread", Noted)
    options = {"formats": ["glb", "stl"], "texture_size": 64, "size": 32, "frames": 2}
    write_exports(tmp_path, torus_mesh(300), None, "torus", **options)
    assert order[0] == "prepared"
    assert order.count("sds3d-export") == 2
    assert export_format("usdz").prepare is load_usd


def test_the_parts_of_an_export_are_reported(tmp_path):
    told = []
    mesh = torus_mesh(300)
    options = {"formats": ["glb"], "texture_size": 64, "size": 32, "frames": 4}
    write_exports(tmp_path, mesh, None, "torus", **options, report=lambda *given: told.append(given))
    assert [part for _, part in told] == ["texture", "files", "pictures"]
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert 0 <= shares[0] < shares[-1] < 1


def test_an_error_while_pictures_are_drawn_is_raised(tmp_path):
    def fails(cameras):
        raise FloatingPointError("the scene has diverged")

    drawn = draw_pictures(fails, "torus", 32, 4)
    with pytest.raises(FloatingPointError, match="diverged"):
        write_exports(tmp_path / "none", torus_mesh(300), drawn, "torus", formats=["glb"], texture_size=64)
    assert not (tmp_path / "none").exists()


def test_only_the_requested_formats_are_written(tmp_path):
    mesh = torus_mesh(300)
    splats = splats_from_mesh(mesh, 50, torch.Generator().manual_seed(0))
    files = {
        "glb": {"torus.glb"},
        "obj": {"torus.obj", "torus.mtl", "torus.png"},
        "ply": {"torus.ply"},
        "stl": {"torus.stl"},
        "3mf": {"torus.3mf"},
        "splat-ply": {"torus-splats.ply"},
        "splat": {"torus.splat"},
        "spz": {"torus.spz"},
        "splat-glb": {"torus-splats.glb"},
    }
    drawn = draw_pictures(render_torus, "torus", 32, 4)
    small = {"texture_size": 64, "splats": splats}
    pictures = {"contact_sheet.png", "turntable.mp4"}
    for name in DEFAULT_FORMATS:
        paths = write_exports(tmp_path / name, mesh, drawn, "torus", formats=[name], **small)
        assert set(paths) == files[name] | pictures
        if FORMATS[name].read is not None:
            loaded = load_asset(paths[min(files[name])] if name != "obj" else paths["torus.obj"])
            assert isinstance(loaded, FORMATS[name].holds)
    everything = write_exports(tmp_path / "all", mesh, drawn, "torus", **small)
    assert set(everything) == set().union(*files.values(), pictures)
    assert set(EXPORT_FORMATS) == {*files, "usdz"}
    with pytest.raises(ValueError, match="spz needs splats"):
        write_exports(tmp_path / "none", mesh, drawn, "torus", formats=["glb", "spz"], texture_size=64)
    assert not (tmp_path / "none").exists()


def test_usdz_is_written_on_request(tmp_path):
    pytest.importorskip("pxr", reason='usd-core is missing: pip install ".[usd]"')
    prepare(["usdz"])
    mesh = torus_mesh(300)
    drawn = draw_pictures(render_torus, "torus", 32, 4)
    paths = write_exports(tmp_path, mesh, drawn, "torus", formats=["usdz"], texture_size=64)
    assert set(paths) == {"torus.usdz", "contact_sheet.png", "turntable.mp4"}


def test_pictures_show_the_mesh_that_is_handed_over(tmp_path):
    """A white ball fills the pictures of its turn, and is lit from above over light grey."""
    torus = torus_mesh(2000)
    mesh = replace(torus, colors=np.ones_like(torus.vertices))
    cameras = turntable(4, size=64)
    shown = portraits(mesh, cameras)
    assert shown.shape == (4, 64, 64, 3)
    np.testing.assert_allclose(shown[:, 0, 0], np.tile(BACKDROP, (4, 1)), atol=1e-6)
    covered = np.abs(shown - BACKDROP).max(axis=-1) > 0.01
    assert covered.any(axis=1).sum(axis=1).max() > 50  # columns
    assert not covered[:, :, [0, -1]].any()
    with pytest.raises(ValueError, match="an asset without a mesh needs `drawn`"):
        write_exports(tmp_path, None, None, "nothing", formats=[])
    paths = write_exports(tmp_path, mesh, None, "torus", formats=["glb"], texture_size=64, size=64, frames=4)
    sheet = np.asarray(Image.open(paths["contact_sheet.png"]).convert("RGB"), np.float32) / 255
    assert (np.abs(sheet - BACKDROP).max(axis=-1) < 0.01).mean() > 0.1
