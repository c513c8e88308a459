"""Commands of the toy world."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

Cli = Callable[..., tuple[int, str, str]]


def test_toybox_render_draws_true_views(cli: Cli, tmp_path: Path):
    code, _, stderr = cli("toybox", "render", "a red mug", "--out", str(tmp_path / "mug.png"))
    assert code == 0, stderr
    assert (tmp_path / "mug.png").stat().st_size > 1000
    code, _, stderr = cli("toybox", "render", "--objects", "2", "--out", str(tmp_path / "set"))
    assert code == 0, stderr
    assert len(list((tmp_path / "set").glob("*.png"))) == 8


def test_toybox_sample_draws_four_views(cli: Cli, model: Path, tmp_path: Path):
    path = tmp_path / "sample.png"
    code, _, stderr = cli("toybox", "sample", "a red mug", "--model", str(model), "--steps", "2", "--out", str(path))
    assert code == 0, stderr
    assert path.exists()
