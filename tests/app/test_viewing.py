"""The program of the viewer: what is served, what is installed, and that it is built from its source."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from sds3d.app import viewing

FOLDER = Path(viewing.__file__).with_name("viewer")
PROGRAM = FOLDER / "viewer.min.js"
PACKAGE = json.loads((FOLDER / "package.json").read_text())


def test_the_program_is_served_alone_and_may_be_kept():
    route = viewing.program()
    client = TestClient(Starlette(routes=[route]))
    answer = client.get(route.path)
    assert answer.content == PROGRAM.read_bytes()
    assert answer.headers["content-type"].startswith("text/javascript")
    assert "immutable" in answer.headers["cache-control"]
    for other in ("/viewer/viewer.js", "/viewer/package.json", "/viewer/..%2Fserver.py"):
        assert client.get(other).status_code == 404


def test_the_program_is_small_and_has_its_licence_beside_it():
    assert PROGRAM.stat().st_size < 1_000_000
    version = PACKAGE["devDependencies"]["three"]
    licences = (FOLDER / "LICENSES.txt").read_text()
    assert f"three.js (https://threejs.org), version {version}," in licences
    assert "Permission is hereby granted, free of charge" in licences
    assert version.split(".")[1] in PROGRAM.read_text()


@pytest.mark.skipif(not (FOLDER / "node_modules").exists(), reason=f"run `npm install` in {FOLDER}")
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is missing")
def test_the_program_is_built_from_the_source_beside_it(tmp_path: Path):
    built = tmp_path / "viewer.min.js"
    command = ["npm", "run", "--silent", "build", "--", f"--outfile={built}"]
    subprocess.run(command, cwd=FOLDER, check=True, capture_output=True)
    assert built.read_bytes() == PROGRAM.read_bytes()
