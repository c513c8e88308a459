"""The measurement of runs that are optimised together, with the smallest scene."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sds3d.cli.main import main
from sds3d.evaluation.together_speed import Gain


def test_the_gain_is_a_ratio_of_times() -> None:
    assert Gain("toybox", 4, alone=0.3, together=0.2).ratio == pytest.approx(1.5)


@pytest.mark.slow
def test_the_benchmark_writes_what_it_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sds3d.evaluation.together_speed.STEPS", 1)
    monkeypatch.setattr("sds3d.evaluation.together_speed.SECONDS", 0.0)
    small = ["--set", "representation.resolution=16", "--set", "representation.samples=16"]
    with pytest.raises(SystemExit) as end:
        main(["bench", "together", "--runs", "2", "--threads", "1", *small, "--out", str(tmp_path)])
    assert end.value.code == 0
    details = json.loads((tmp_path / "together.json").read_text())
    assert [gain["count"] for gain in details["gains"]] == [1, 2]
    assert all(gain["alone"] > 0 and gain["together"] > 0 for gain in details["gains"])
    assert (tmp_path / "together.md").read_text().count("\n") == 4
    assert "together.md" in capsys.readouterr().out
