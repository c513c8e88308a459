"""Runs with several teachers from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from sds3d.run.folder import list_runs
from tests.priors.tiny import tiny_mvdream, tiny_pipeline

Cli = Callable[..., tuple[int, str, str]]


def test_mvdream_and_stable_diffusion_from_the_command_line(cli: Cli, tmp_path: Path):
    """Both have their own picture size: 32 px for 8 x 8 latents here, and 16 px for the 2D model."""
    several = tiny_mvdream(tmp_path / "mvdream")
    tiny_pipeline("sd").save_pretrained(tmp_path / "sd")
    prior = {"model": str(tmp_path / "sd"), "image_size": 8}
    teachers = [{"prior": prior, "guidance": {"name": "vsd"}, "weight": 0.5, "views": 1}]
    code, _, stderr = cli(
        "generate", "a red mug", "--preset", "dreamfusion", "--steps", "3", "--threads", "1", "--out", str(tmp_path),
        f"prior.model={several}", f"teachers={json.dumps(teachers)}", "cameras.size=16", "representation.resolution=12",
        "representation.samples=16", "export.formats=[ply]", "export.resolution=24", "export.texture_size=64",
        "export.picture_size=32", "export.frames=4",
    )  # fmt: skip
    assert code == 0, stderr
    (run,) = list_runs(tmp_path)
    assert run.state.status == "done"
    assert [event["metrics"].keys() for event in run.events()] == [
        {"t", "gradient_rms", "t_2", "gradient_rms_2", "variational_loss_2"}
    ] * 3
