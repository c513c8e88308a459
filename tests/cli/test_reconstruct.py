"""`sds3d reconstruct`, with a tiny untrained diffusers folder as the prior."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from sds3d.run.config import read_config
from sds3d.run.folder import list_runs
from tests.cli.test_one_run import SMALL, Cli


def test_a_folder_becomes_a_run(cli: Cli, model: Path, tmp_path: Path):
    folder = tmp_path / "red-mug"
    folder.mkdir()
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[8:24, 10:20] = 255
    names = ("front.png", "side.png")
    for name in names:
        Image.fromarray(pixels).save(folder / name)
    cameras = [{"image": name, "azimuth": 90 * i, "elevation": 0} for i, name in enumerate(names)]
    (folder / "cameras.yaml").write_text(yaml.safe_dump({"pictures": cameras}))
    out = tmp_path / "runs"
    command = [f"prior.model={model}", "steps=2", "--out", str(out), *SMALL]
    code, stdout, stderr = cli("reconstruct", str(folder), *command)
    assert code == 0, stderr
    assert "2 pictures" in stderr
    assert "a-red-mug.glb" in stdout
    run = list_runs(out)[0]
    assert (read_config(run).prompt, [each.azimuth for each in read_config(run).reference]) == ("a red mug", [0, 90])
    assert run.events()[-1]["losses"]["reference_color"] > 0
    code, _, stderr = cli("reconstruct", str(folder), *command, "reference=[]")
    assert code != 0
    assert "give either FOLDER or reference=" in " ".join(stderr.split())
    code, _, stderr = cli("reconstruct", str(tmp_path), "a red mug", *command)
    assert code == 1
    assert "no file with cameras" in " ".join(stderr.split())
