"""Progress of long jobs in logs."""

from __future__ import annotations

import pytest

from sds3d import console


def test_a_log_gets_a_line_a_minute_with_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    with console.bars_by_stage() as report:
        for done in range(100, 1001, 100):  # resumed after 99, and 25 s for each 100
            now += 25.0
            report("unet", done, 1000, {"loss": 0.125})
    assert capsys.readouterr().err.splitlines() == [
        "unet 300 of 1000  loss 0.125  3 min left",
        "unet 600 of 1000  loss 0.125  2 min left",
        "unet 900 of 1000  loss 0.125  25 s left",
    ]
