"""The table of formats, and formats of other packages."""

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from sds3d.formats.base import FileFormat
from sds3d.formats.export import asset_files
from sds3d.formats.load import load_asset
from sds3d.formats.table import DEFAULT_FORMATS, EXPORT_FORMATS, EXTENSIONS, FORMATS, Format, export_format
from sds3d.geometry.mesh import Mesh
from sds3d.geometry.splats import Splats

HEAVY = ("torch", "scipy", "numba", "trimesh", "xatlas", "pxr", "imageio_ffmpeg")


def test_the_order_of_the_formats_stays():
    """The order is part of a run's settings, which determine the name of its folder."""
    assert list(FORMATS) == ["glb", "gltf", "obj", "ply", "stl", "3mf", "usdz", "splat-ply", "splat", "spz",
                             "splat-glb", "sog", "sog-folder"]  # fmt: skip
    read_only = ("gltf", "sog", "sog-folder")
    assert get_args(Format) == EXPORT_FORMATS == tuple(name for name in FORMATS if name not in read_only)
    assert tuple(name for name in EXPORT_FORMATS if name != "usdz") == DEFAULT_FORMATS
    assert EXTENSIONS == (".glb", ".gltf", ".obj", ".ply", ".stl", ".3mf", ".splat", ".spz", ".sog", ".json")


@pytest.mark.parametrize("name", [name for name in EXPORT_FORMATS if FORMATS[name].read is not None])
def test_a_written_file_is_recognised_as_its_format(name, textured_ball, splats, tmp_path):
    files = asset_files([name], "asset", textured_ball, splats)
    main = next(iter(files))
    assert main == f"asset{FORMATS[name].ending}"
    for file, data in files.items():
        (tmp_path / file).write_bytes(data)
    assert isinstance(load_asset(tmp_path / main), FORMATS[name].holds)
    recognised = [other for other, format_ in FORMATS.items() if format_.recognises and format_.recognises(files[main])]
    if FORMATS[name].recognises is not None:
        assert recognised[-1] == name  # the last one that recognises a file reads it


def test_an_unknown_format_names_the_nearest():
    assert export_format("spz") is FORMATS["spz"]
    with pytest.raises(ValueError, match=r'the format "splat-pyl" is unknown; did you mean "splat-ply"\?'):
        export_format("splat-pyl")
    with pytest.raises(ValueError, match=r'the format "fbx" is unknown; use one of: glb, obj'):
        export_format("fbx")
    with pytest.raises(ValueError, match=r"the format .* is unknown"):
        export_format({"name": "glb"})


def test_a_format_accepts_only_its_kind_of_asset(textured_ball, splats):
    with pytest.raises(ValueError, match="glb needs a mesh"):
        FORMATS["glb"].files(splats, "a")
    with pytest.raises(ValueError, match=r"spz needs splats: .*splats_from_mesh makes some"):
        FORMATS["spz"].files(textured_ball, "a")
    with pytest.raises(ValueError, match="stl needs a mesh"):
        asset_files(["stl"], "a", None, splats)
    with pytest.raises(ValueError, match="ksplat files can be read, but not written"):
        FileFormat("ksplat", ".ksplat", Splats).files(splats, "a")
    assert FileFormat("x", "-low.OFF", Mesh).extension == ".off"


ROOT = Path(__file__).parents[2]
OFF = (ROOT / "tests/plugin_package/sds3d_example/off.py").read_text()
AGAIN = 'AGAIN = FileFormat("glb", ".glb", Mesh, to_off)'

ENTRY_POINTS = """[sds3d.formats]
off = off_format:OFF
text = off_format:__doc__
broken = off_format.missing:FORMAT
"""

SCRIPT = f"""
import sys, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from sds3d.formats.table import DEFAULT_FORMATS, EXPORT_FORMATS, EXTENSIONS, FORMATS, export_format
print([name for name in {HEAVY} if name in sys.modules])
print([str(warning.message).split(":")[0] for warning in caught if "plug-in" in str(warning.message)])
print(EXPORT_FORMATS[-1], EXTENSIONS[-1], "geomview" in DEFAULT_FORMATS, FORMATS["glb"].write.__module__)

import numpy as np
from pathlib import Path
from sds3d.formats.export import asset_files
from sds3d.formats.load import load_asset
from sds3d.geometry.mesh import Mesh
mesh = Mesh(np.eye(3, dtype=np.float32), np.array([[0, 1, 2]], np.int32))
(file, data), = asset_files(["geomview"], "triangle", mesh).items()
for name in (file, "triangle.obj"):  # known by its ending, and by its content
    Path(name).write_bytes(data)
    print(name, load_asset(name).vertices.tolist() == mesh.vertices.tolist())
"""


def with_plug_ins(folder: Path, entry_points: str, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script where a package with these entry points is installed."""
    (folder / "off_format.py").write_text(f"{OFF}\n{AGAIN}\n")
    metadata = folder / "off_format-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: off-format\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(entry_points)
    script = f"import sys; sys.path[:0] = [{str(folder)!r}, {str(ROOT)!r}]\n{script}"
    return subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=False)


def test_a_second_format_of_one_name_is_refused(tmp_path):
    done = with_plug_ins(tmp_path, "[sds3d.formats]\nagain = off_format:AGAIN\n", "import sds3d.formats.table")
    assert done.returncode == 1
    expected = 'two of sds3d.formats are named "glb": the one of sds3d and that of the plug-in "again"'
    assert expected in done.stderr.splitlines()[-1]


def test_a_format_of_another_package_is_written_and_read(tmp_path):
    """A broken plug-in does not stop the others, and the table imports nothing heavy."""
    done = with_plug_ins(tmp_path, ENTRY_POINTS, SCRIPT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "[]",
        str(
            [
                'the plug-in "broken" of off-format cannot be loaded',
                'the plug-in "text" is not a FileFormat and is left out',
            ]
        ),
        "geomview .off False sds3d.formats.glb",
        "triangle.off True",
        "triangle.obj True",
    ]
