"""Commands that list presets and settings, and `sds3d doctor`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from numba.core.event import install_recorder

from sds3d.run.config import RunConfig, make_config, stage_config, stage_count
from sds3d.run.doctor import can_generate, examine

Cli = Callable[..., tuple[int, str, str]]


def test_presets_are_listed(cli: Cli):
    code, stdout, _ = cli("presets")
    assert code == 0
    code, listed, _ = cli("presets", "--json")
    assert code == 0
    assert {"toybox", "dreamfusion", "texture"} <= {preset["name"] for preset in json.loads(listed)}
    for preset in json.loads(listed):
        assert preset["name"] in stdout
        assert preset.keys() >= {"description", "made_for", "status", "seconds", "needs_asset"}
    assert next(preset for preset in json.loads(listed) if preset["name"] == "texture")["needs_asset"]


def stages_of(config: RunConfig) -> list[RunConfig]:
    return [stage_config(config, i) for i in range(stage_count(config))]


@pytest.mark.parametrize("chosen", [(), ("guidance=vsd", "representation=gaussians", "gradient=[{name: clamp}]")])
def test_listed_settings_can_be_given_as_arguments(chosen: tuple[str, ...], cli: Cli):
    code, stdout, _ = cli("settings", *chosen)
    assert code == 0
    lines = [line.split(" = ", 1) for line in stdout.splitlines() if not line.startswith(" ") and " = " in line]
    assert len(lines) > 50
    given = [f"{key}={value}" for key, value in lines]
    again, config = make_config("a red mug", overrides=given), make_config("a red mug", overrides=chosen)
    assert stages_of(again) == stages_of(config)
    code, stdout, _ = cli("settings", *chosen, "--json")
    assert code == 0
    assert [[s["key"], json.dumps(s["value"], ensure_ascii=False)] for s in json.loads(stdout)] == lines
    assert "sds" in next(s for s in json.loads(stdout) if s["key"] == "guidance")["options"]


def test_settings_of_an_unknown_section(cli: Cli):
    code, stdout, stderr = cli("settings", "cameras", "giudance")
    assert (code, stdout) == (1, "")
    assert 'no setting begins with "giudance"; did you mean "guidance"?' in stderr
    code, stdout, _ = cli("settings", "cameras", "--preset", "texture")
    assert code == 0
    assert all(line.startswith(("cameras.", " ")) for line in stdout.splitlines())


def test_doctor_reports_what_works(cli: Cli, tmp_path: Path):
    findings = {finding.name: finding for finding in examine(tmp_path)}
    assert findings["torch"].detail == torch.__version__
    assert findings["CUDA"].ok == torch.cuda.is_available()
    assert findings["ffmpeg"].ok
    code, stdout, _ = cli("doctor")
    assert code == (0 if can_generate(list(findings.values())) else 1)
    assert "gsplat" in stdout
    again, stdout, _ = cli("doctor", "--json")
    assert again == code
    found = json.loads(stdout)
    assert found["can_generate"] == (code == 0)
    assert {finding["name"]: finding["ok"] for finding in found["findings"]}["torch"]


def test_doctor_fails_without_the_embedded_prior(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sds3d.run.doctor.assets_dir", lambda: tmp_path)
    findings = examine(tmp_path)
    prior = next(finding for finding in findings if finding.name == "embedded prior")
    assert not prior.ok
    assert "reinstall" in prior.detail
    assert not can_generate(findings)


def test_another_examination_compiles_nothing(tmp_path: Path):
    examine(tmp_path)
    with install_recorder("numba:compile") as recorder:
        examine(tmp_path)
    assert recorder.buffer == []
