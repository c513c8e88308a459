"""The program of the viewer: what is served, what is installed, and that it is built from its source."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from pathlib import Path

import numpy as np
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


# Prints the radiant power of the panorama in each file, and the mean of the directions it comes from.
SUM = """
import {readFileSync} from 'node:fs';
const {panoramaFile} = await import(process.argv[1]);
for (const path of process.argv.slice(2)) {
  const {width, height, colors} = await panoramaFile(new File([readFileSync(path)], path)), sums = [0, 0, 0, 0];
  for (let i = 0; i < width * height; i++) {
    if (!colors[3 * i]) continue;
    const low = Math.PI * (Math.floor(i / width) / height - 0.5), up = low + Math.PI / height / 2;
    const turn = 2 * Math.PI * ((i % width + 0.5) / width - 0.5);
    const power = colors[3 * i] * (Math.sin(low + Math.PI / height) - Math.sin(low)) * 2 * Math.PI / width;
    const at = [1, Math.cos(up) * Math.cos(turn), Math.sin(up), Math.cos(up) * Math.sin(turn)];
    at.forEach((value, k) => sums[k] += power * value);
  }
  console.log(JSON.stringify([height, ...sums]));
}
"""


@pytest.mark.skipif(not (FOLDER / "node_modules").exists(), reason=f"run `npm install` in {FOLDER}")
@pytest.mark.skipif(shutil.which("node") is None, reason="node is missing")
def test_a_sun_of_one_pixel_has_its_light_and_its_place(tmp_path: Path):
    suns = [(7, 3, 7), (7, 1, 0), (16, 3, 3), (750, 300, 1000), (750, 374, 749), (1025, 200, 1900)]  # rows, row, column
    files = []
    for rows, row, column in suns:
        pixels = np.zeros((rows, 2 * rows, 4), np.uint8)
        pixels[row, column] = (128, 128, 128, 129)  # radiance 1
        files.append(tmp_path / f"{rows}-{row}.hdr")
        size = b"-Y %d +X %d\n" % (rows, 2 * rows)
        files[-1].write_bytes(b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n" + size + pixels.tobytes())
    command = ["node", "--input-type=module", "--eval", SUM, str(FOLDER / "light.js"), *map(str, files)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for (rows, row, column), line in zip(suns, printed.splitlines(), strict=True):
        height, power, *toward = json.loads(line)
        down, aside = math.pi * (row + 0.5) / rows, math.pi * ((column + 0.5) / rows - 1)  # of the middle, which is +Z
        sun = np.array([-math.sin(down) * math.sin(aside), math.cos(down), math.sin(down) * math.cos(aside)])
        area = (math.cos(math.pi * row / rows) - math.cos(math.pi * (row + 1) / rows)) * math.pi / rows
        assert power == pytest.approx(area, rel=0.005)  # three.js divides mantissas by 255, not by 256
        assert sun @ toward / np.linalg.norm(toward) > math.cos(math.pi / height / 2)
