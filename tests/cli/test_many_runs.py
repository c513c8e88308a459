"""Commands that list, pause and cancel runs. Batches and workers are tested in tests/jobs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from sds3d.run.config import make_config, new_run
from sds3d.run.folder import list_runs

Cli = Callable[..., tuple[int, str, str]]


def test_runs_are_listed_with_their_states(cli: Cli, tmp_path: Path):
    assert cli("runs", "--out", str(tmp_path), "--json") == (0, "[]\n", "")
    code, stdout, stderr = cli("runs", "--out", str(tmp_path))
    assert (code, stdout) == (0, "")
    assert "sds3d generate" in stderr
    failed, damaged = (new_run(tmp_path, make_config(prompt)) for prompt in ("a red mug", "a blue chair"))
    failed.update(status="failed", step=3, total=9, error="no [memory]")
    (damaged.folder / "state.json").write_text("{")
    code, stdout, _ = cli("runs", "--out", str(tmp_path))
    assert code == 0
    code, listed, stderr = cli("runs", "--out", str(tmp_path), "--json")
    assert (code, stderr) == (0, "")
    rows = {row["folder"]: row for row in json.loads(listed)}
    assert list(rows) == [str(run.folder) for run in list_runs(tmp_path)]
    assert rows[str(failed.folder)] == {
        "folder": str(failed.folder), "status": "failed", "step": 3, "total": 9, "seconds_per_step": 0.0,
        "seconds_left": 0.0, "error": "no [memory]", "exported": 0.0, "exporting": "",
    }  # fmt: skip
    assert rows[str(damaged.folder)]["status"] == "damaged"
    for words in (failed.folder.name, "failed", "3/9", "no [memory]", damaged.folder.name, "damaged"):
        assert words in stdout


def test_a_waiting_run_is_paused_and_cancelled(cli: Cli, tmp_path: Path):
    run = new_run(tmp_path, make_config("a red mug"))
    assert cli("pause", str(run.folder)) == (0, "", "")
    assert run.state.status == "paused"
    assert cli("cancel", str(run.folder)) == (0, "", "")
    assert run.state.status == "cancelled"
