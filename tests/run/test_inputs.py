"""What a run reads is checked before it is queued."""

from __future__ import annotations

from pathlib import Path

import pytest
import trimesh

from sds3d.config import ConfigError, assets_dir
from sds3d.run.config import make_config, new_run
from sds3d.run.inputs import check_inputs


def test_files_and_models_that_can_be_read_are_accepted(tmp_path: Path):
    mesh = tmp_path / "ball.glb"
    trimesh.creation.icosphere().export(mesh)
    for override in (
        f"start_from={mesh}",
        f"prior.model={assets_dir() / 'toybox' / 'prior'}",
        "prior.model=sd21",  # may have to be downloaded, which takes too long for a check
    ):
        check_inputs(make_config("a red mug", overrides=[override]))


def test_what_cannot_be_read_is_refused_in_a_line(tmp_path: Path):
    (tmp_path / "damaged.glb").write_bytes(b"glTF")
    (tmp_path / "empty").mkdir()
    run = new_run(tmp_path, make_config("a red mug"))
    for override, message in (
        (f"start_from={tmp_path}/none.glb", r"^start_from: .*none\.glb does not exist"),
        (f"start_from={tmp_path}/damaged.glb", r"^start_from: .*damaged\.glb"),
        (f"start_from={tmp_path}/empty", "^start_from: .*is not a run folder"),
        (f"start_from={run.folder}", "^start_from: .*no checkpoint"),
        (f"prior.model={tmp_path}/empty", "^prior.model: .*model_index.json is missing"),
        ("prior.model=tobox", '^prior.model: .*did you mean "toybox"'),
        (f"teachers=[{{prior: {{model: {tmp_path}/empty}}}}]", r"^teachers\.0\.prior\.model: .*model_index.json"),
        (
            f"teachers=[{{guidance: {{name: vsd, variational: {{model: {tmp_path}/empty}}}}}}]",
            r"^teachers\.0\.guidance\.variational\.model: .*model_index.json",
        ),
    ):
        with pytest.raises(ConfigError, match=message) as error:
            check_inputs(make_config("a red mug", overrides=[override]))
        assert "\n" not in str(error.value)
