"""A generator from the command line: trained, drawn, described, and used without a step."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Cli = Callable[..., tuple[int, str, str]]

TINY = (
    "steps=1", "guidance=sds", "cameras.size=16", "generator.name=hyper",
    "generator.width=8", "generator.levels=2", "generator.log2_entries=8", "generator.finest=16", "generator.hidden=8",
)  # fmt: skip
EXPORT = ("export.resolution=24", "export.texture_size=64", "export.picture_size=32", "export.frames=4")


@pytest.fixture(autouse=True)
def coarse_occupancy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of a small step's time would go into the occupancy grid."""
    monkeypatch.setattr("sds3d.representations.field_nerf._CORNERS", 12)


def test_a_generator_is_trained_drawn_and_used(cli: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("two.txt").write_text("a red mug\na blue chair\n")
    Path("tiny.yaml").write_text("seed: 3\n")
    given = ("--preset", "tiny.yaml", "--file", "two.txt", f"prior.model={model}", *TINY)
    code, stdout, stderr = cli("generator", "train", "--out", "mine", *given)
    assert code == 0, stderr
    told = json.loads(Path("mine/training.json").read_text())
    assert (told["seed"], told["texts"]) == (3, ["a red mug", "a blue chair"])
    assert "trained: mine/generator" in stdout
    card = Path("mine/generator/CARD.md")
    before = card.read_text()
    card.unlink()
    assert cli("generator", "card", "mine")[0] == 0
    assert card.read_text() == before
    assert "mine/generator has no training.json: give the folder" in cli("generator", "card", "mine/generator")[2]

    Path("prompts.txt").write_text("a blue chair\n")
    given = ("a red mug", "--file", "prompts.txt", "--size", "16")
    code, stdout, stderr = cli("generator", "sample", "mine/generator", *given, "--out", "objects.png")
    assert (code, stdout) == (0, "objects.png\n"), stderr
    code, _, stderr = cli("generator", "sample", "mine/generator", "--between", "a red mug", "a blue chair")
    assert code == 0, stderr
    assert all(np.ptp(np.asarray(Image.open(name))) > 100 for name in ("objects.png", "samples.png"))
    for wrong in ([], ["a red mug", "--between", "a", "b"]):
        assert cli("generator", "sample", "mine/generator", *wrong)[0] == 2

    used = ("start_from=mine/generator", f"prior.model={model}", *EXPORT)
    code, stdout, stderr = cli("generate", "a red mug", "--preset", "instant", "--json", "--threads", "1", *used)
    assert code == 0, stderr
    told = json.loads(stdout)
    assert (told["status"], told["step"], told["total"]) == ("done", 0, 0)
    assert {Path(file).name for file in told["files"]} >= {"a-red-mug.glb", "contact_sheet.png"}
    code, stdout, _ = cli("generate", "a red mug", "--preset", "instant", "--drafts", "2", "--threads", "1", *used)
    assert code == 0
    assert "sds3d resume" not in stdout  # drafts without steps are done
    assert "already finished" in cli("resume", told["folder"])[1]
    code, _, stderr = cli("generate", "a red mug", "--steps", "0")
    assert code != 0
    assert stderr.splitlines()[-1].startswith("error: steps=0 needs start_from=...")
