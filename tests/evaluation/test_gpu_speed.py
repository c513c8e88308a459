"""The code of the benchmark of a GPU, on a CPU at a tiny size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sds3d.cli.main import main
from sds3d.evaluation.gpu_speed import TINY, Row, bench, cells
from sds3d.evaluation.prior_speed import random_networks
from sds3d.run.config import RunConfig, make_config


def smaller(prompt: str, preset: str, overrides: list[str]) -> RunConfig:
    return make_config(prompt, preset, [*overrides, "representation.resolution=16", "representation.samples=16"])


@pytest.mark.slow
def test_every_part_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sds3d.evaluation.gpu_speed.SMOOTH", 1)
    monkeypatch.setattr("sds3d.evaluation.together_speed.STEPS", 1)
    monkeypatch.setattr("sds3d.evaluation.gpu_speed.make_config", smaller)
    rows = bench(tmp_path, device="cpu", sizes=TINY)
    assert [row.what for row in rows] == [
        "SDS, 1 of 64 px",
        "VSD, 1 of 64 px",
        "U-Net, 2 rows of 8 x 8 latents",
        "render voxel_grid, 1 of 8 px, with gradients",
        "render gaussians, 1 of 8 px, with gradients",
        "step of toybox, voxel_grid",
        "step of VSD, voxel_grid, 1 of 8 px",
        "2 toybox runs together",
    ]
    assert all(row.ours > 0 for row in rows)
    assert [row.what for row in rows if row.plain] == [rows[i].what for i in (0, 1, 2, 7)]
    written = json.loads((tmp_path / "gpu.json").read_text())
    assert [row["ours"] for row in written["rows"]] == [row.ours for row in rows]
    assert len((tmp_path / "gpu.md").read_text().splitlines()) == len(rows) + 2


def test_the_arithmetic_of_the_u_net_is_counted() -> None:
    """A row of 64 x 64 latents takes 0.8 TFLOP, as others measure for Stable Diffusion 2. Nothing is computed here."""
    from torch.utils.flop_counter import FlopCounterMode

    meta = torch.device("meta")
    networks = random_networks(meta, torch.float32)
    with FlopCounterMode(display=False) as counter:
        networks.unet(
            torch.empty(1, 4, 64, 64, device=meta),
            torch.empty(1, device=meta),
            encoder_hidden_states=torch.empty(1, 77, 1024, device=meta),
        )
    assert counter.get_total_flops() / 1e12 == pytest.approx(0.8, rel=0.05)


def test_a_row_tells_how_many_times_as_fast() -> None:
    assert cells(Row("a", 0.02, 0.05, 3_210_000_000, "n")) == ["a", "20", "50", "2.50", "3.21", "n"]
    assert cells(Row("b", 0.0015)) == ["b", "1.5", "-", "-", "-", ""]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, which takes minutes to measure")
def test_without_a_gpu_a_line_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="1"):
        main(["bench", "gpu", "--out", str(tmp_path)])
    assert "this measures a GPU, and torch finds none" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
