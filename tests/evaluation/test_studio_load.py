"""The load of visitors on a studio: what counts as a problem, and a short load on a real studio."""

from __future__ import annotations

import json
import subprocess
import sys
import traceback
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from sds3d.evaluation import studio_load
from sds3d.evaluation.studio_load import GROWTH, Load, Sample
from sds3d.evaluation.studio_visitor import Diary
from sds3d.formats.stl import from_stl


def sample(**more: float) -> Sample:
    return Sample(0.0, dict.fromkeys(GROWTH, 10.0) | more)


def load() -> Load:
    return Load(2, 60.0, sample(), [sample(threads=30.0)], sample(), Diary(visits=4), traceback="")


@pytest.mark.parametrize(("name", "limit"), GROWTH.items())
def test_what_grows_beyond_its_limit_is_a_problem(name: str, limit: float):
    assert load().problems == []
    assert replace(load(), after=sample(**{name: 10.0 + limit})).problems == []
    grown = replace(load(), after=sample(**{name: 11.0 + limit})).problems
    assert grown == [f"{name}: 10 before, {11 + limit:.0f} after"]


def test_errors_and_tracebacks_are_problems():
    assert replace(load(), diary=Diary(errors=["HTTPError: 500"])).problems == ["HTTPError: 500"]
    try:
        np.linalg.inv(np.zeros((2, 2)))
    except np.linalg.LinAlgError:
        told = traceback.format_exc()
    found = studio_load.first_traceback(f"INFO: started\n{told}INFO: GET /\n{told}")
    assert found == told.rstrip()
    assert replace(load(), traceback=found).problems == [f"the studio's log has a traceback:\n{found}"]
    assert studio_load.first_traceback("INFO: started\n") == ""


def test_the_peak_is_that_of_the_load():
    assert load().peak("threads") == 30
    assert studio_load.rows(load())[1] == ["threads", "10", "30", "10", "2"]


def test_95_percent_are_not_slower():
    assert studio_load.percentile([float(i) for i in range(100, 0, -1)]) == 95
    assert studio_load.percentile([3.0]) == 3
    assert studio_load.percentile([1.0, 2.0]) == 2


def test_a_process_is_measured():
    here = studio_load.sample_of(psutil.Process(), 0.0).figures
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    assert here["threads"] == int(status["Threads"])
    assert here["memory, MB"] == pytest.approx(int(status["VmRSS"].split()[0]) * 1024 / 1e6, rel=0.05)
    with Path("/dev/null").open() as _:
        assert studio_load.sample_of(psutil.Process(), 0.0).figures["files"] == here["files"] + 1


def test_visitors_bring_a_closed_mesh():
    mesh = from_stl(studio_load._tetrahedron(), Path())  # pyright: ignore[reportPrivateUsage]
    assert len(mesh.faces) == 4
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    volume = np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6  # positive: the faces look outwards
    size = np.ptp(mesh.vertices, axis=0).max()
    assert volume == pytest.approx(size**3 / 6)


SHORT = """
import sys
from sds3d.cli.main import main
from sds3d.evaluation import studio_load
studio_load.WARM_UP, studio_load.SETTLE = 3, 12.0
main(["bench", "studio", "--visitors", "3", "--minutes", "0.15", "--out", sys.argv[1]])
"""


@pytest.mark.slow
def test_memory_threads_files_and_processes_come_back_after_a_short_load(tmp_path: Path):
    # In a process of its own: playwright leaves an event loop that runs in the one of the browser's tests.
    done = subprocess.run([sys.executable, "-c", SHORT, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (tmp_path / "studio.json").exists(), done.stderr
    found = json.loads((tmp_path / "studio.json").read_text())
    assert done.returncode == int(bool(found["problems"])), done.stderr
    # The limit of memory allows for the forms of these few visitors, 1 MB each, which the short warm-up does not fill.
    assert found["problems"] == []
    assert found["diary"]["visits"] >= 3
    asked = {"page", "viewer", "upload", "start", "live view", "cancel", "file of a run"}
    assert asked <= found["diary"]["seconds"].keys()
    assert (tmp_path / "studio.md").read_text().count("\n") > 10
