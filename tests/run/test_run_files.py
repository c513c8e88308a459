"""The files of finished runs: equal for equal runs, and written again."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sds3d.files import RunError
from sds3d.formats.table import EXPORT_FORMATS
from sds3d.run.config import ExportConfig, new_run
from sds3d.run.folder import Run, open_run
from sds3d.run.outputs import export_run
from tests.run.tiny_runs import spawn, tiny


def test_equal_runs_have_equal_files(straight: Run, tmp_path: Path):
    """Byte for byte: checkpoints, exports and pictures, of a second process, too."""
    process = spawn(tmp_path)
    process.communicate()
    other = new_run(tmp_path, tiny())
    assert other.state.status == "done"
    ours, theirs = (
        {
            str(path.relative_to(run.folder)): path.read_bytes()
            for folder in ("checkpoints", "exports", "previews")
            for path in sorted((run.folder / folder).rglob("*"))
            if path.is_file()
        }
        for run in (straight, other)
    )
    assert len(ours) > 8
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


ALL_FORMATS = """
import sys
from pathlib import Path
from sds3d.formats.table import EXPORT_FORMATS
from sds3d.run.config import make_config, new_run
from sds3d.run.drive import drive

quick = ["steps=3", "cameras.size=32", "export.resolution=32", "export.faces=500", "export.texture_size=64"]
settings = [*quick, "export.frames=4", "export.picture_size=32", f"export.formats=[{','.join(EXPORT_FORMATS)}]"]
for preset in sys.argv[2:]:
    for _ in drive(new_run(Path(sys.argv[1], preset), make_config("a red mug", preset, settings)), threads=1):
        pass
"""

ALL_KINDS = ("toybox", "mesh", "splats")  # presets of three kinds of scenes


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two folders with a run of each kind, made by two processes with different orders of sets, one after the other."""
    folders = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    for i, folder in enumerate(folders):
        subprocess.run(
            [sys.executable, "-c", ALL_FORMATS, str(folder), *ALL_KINDS],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": str(i)},
            cwd=Path(__file__).parents[2],
            check=True,
        )
    return folders


@pytest.mark.slow
@pytest.mark.parametrize("preset", ALL_KINDS)
def test_equal_runs_have_equal_exports_in_every_format(preset: str, twice: tuple[Path, Path]):
    written = [{path.name: path for path in folder.glob(f"{preset}/*/exports/*")} for folder in twice]
    times = [min(path.stat().st_mtime for path in files.values()) for files in written]
    assert times[1] - times[0] > 2  # the time of writing, which archives have in steps of 2 s, is not in them
    first, second = ({name: path.read_bytes() for name, path in files.items()} for files in written)
    assert len(first) > len(EXPORT_FORMATS)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def test_exports_can_be_written_again_without_the_prior(straight: Run, tmp_path: Path):
    run = new_run(tmp_path, tiny())
    with pytest.raises(RunError, match="no checkpoint yet"):
        export_run(run)
    before = (straight.exports / "a-ball.glb").read_bytes()
    (straight.exports / "a-ball.glb").unlink()
    files = export_run(straight)
    assert files["a-ball.glb"].read_bytes() == before
    run.update(status="done")
    with pytest.raises(RunError, match="its checkpoint is missing or damaged"):
        export_run(run)


def test_an_export_does_each_expensive_part_once(straight: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = open_run(Path(shutil.copytree(straight.folder, tmp_path / straight.folder.name)))
    counts: Counter[str] = Counter()
    for place in (
        "sds3d.representations.voxel_grid.grid_mesh",
        "sds3d.geometry.uv_atlas.unwrap",
        "sds3d.run.outputs.splats_from_mesh",
        "sds3d.formats.export.turntable_mp4",
    ):
        module, _, name = place.rpartition(".")
        original = getattr(importlib.import_module(module), name)

        def counted(*given: Any, name: str = name, original: Callable[..., Any] = original, **options: Any) -> Any:
            counts[name] += 1
            return original(*given, **options)

        monkeypatch.setattr(place, counted)
    files = export_run(run, ExportConfig(texture_size=64, picture_size=32, frames=4))
    assert counts == {"grid_mesh": 1, "unwrap": 1, "splats_from_mesh": 1, "turntable_mp4": 1}
    assert {path.suffix for path in files.values()} >= {
        ".glb",
        ".obj",
        ".ply",
        ".stl",
        ".3mf",
        ".splat",
        ".spz",
        ".mp4",
    }
