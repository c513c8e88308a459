"""The plain reference loops of the benchmark compute the same steps as this project; and the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sds3d.cli.main import main
from sds3d.evaluation.playground2d import RATES
from sds3d.evaluation.prior_speed import (
    PROMPT,
    RATE,
    SCALES,
    Plain,
    Rule,
    Speed,
    our_steps,
    prior_of,
    random_networks,
)
from sds3d.guidance.base import draw_noise
from sds3d.guidance.schedules import UniformSchedule
from sds3d.guidance.sds import SDSConfig
from sds3d.guidance.vsd import VSDConfig
from sds3d.run.optimize import Step, random_streams
from tests.guidance.views import views_of

CPU = torch.device("cpu")


def test_the_architecture_is_stable_diffusion_2():
    """866 and 84 million parameters, as in the model's own files. The networks are built without memory."""
    with torch.device("meta"):
        networks = random_networks(torch.device("meta"), torch.float32)
    assert sum(p.numel() for p in networks.unet.parameters()) == 865_910_724
    assert sum(p.numel() for p in networks.vae.parameters()) == 83_653_863


@pytest.mark.parametrize("rule", ["sds", "vsd"])
def test_the_plain_loop_has_the_gradient_of_the_rule(rule):
    """The same timesteps and noise give the same gradient, also at the start of VSD's network."""
    networks = random_networks(CPU, torch.float32, smaller=8)
    prior = prior_of(networks, 64)
    config = {"sds": SDSConfig(scale=SCALES["sds"]), "vsd": VSDConfig(scale=SCALES["vsd"])}[rule]
    x = torch.randn(2, 4, 8, 8)
    views = views_of(prior, 2, PROMPT)
    guided = config.make(prior)(x, views, 0.0, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    t = config.schedule.sample(0.0, 2, 1, generator)
    noise = draw_noise(x, generator)
    plain = Plain(networks, rule).gradient(x, prior.timestep(t), noise)
    assert guided.gradient is not None
    torch.testing.assert_close(plain, guided.gradient, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rule", ["sds", "vsd"])
def test_both_loops_take_the_same_first_step(rule: Rule, monkeypatch: pytest.MonkeyPatch):
    """Adam's first step has the size of the learning rate, so only its sign is compared, at every value."""
    assert RATES["pixels"] == RATE
    networks = random_networks(CPU, torch.float32, smaller=16)
    ours, plain = our_steps(networks, rule, 1, 64), Plain(networks, rule)

    def same_draws(x: torch.Tensor, low: int, high: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = random_streams(0, "guidance")["guidance"]
        t = UniformSchedule().sample(0.0, len(x), 1, generator)
        return prior_of(networks, 64).timestep(t), draw_noise(x, generator)

    monkeypatch.setattr(plain, "draw", same_draws)
    moved = next(plain.steps(1, 64)).detach().permute(0, 2, 3, 1) - 0.5  # (1, 64, 64, 3)
    step = next(ours)
    assert isinstance(step, Step)
    pictures = step.rendering.rgb  # the parameters after the step
    assert ((pictures - 0.5).sign() == moved.sign()).float().mean() > 0.999
    if rule == "vsd":
        assert step.guided.metrics["variational_loss"] > 0
        ups = {name: p for name, p in plain.unet.named_parameters() if "lora_B" in name}
        assert len(ups) == 128  # 16 blocks with two attentions of four layers
        # They are zero at first. With one position (1 x 1), queries and keys get no gradient.
        assert all(p.abs().sum() > 0 for name, p in ups.items() if "attn2" in name)


def test_the_ratio_is_of_times():
    assert Speed("sds", 1, ours=0.2, plain=0.3, our_memory=None, plain_memory=None).ratio == pytest.approx(1.5)


@pytest.mark.slow
def test_the_benchmark_writes_what_it_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("sds3d.evaluation.prior_speed.SECONDS", 0.0)
    with pytest.raises(SystemExit) as end:
        main(
            [
                "bench",
                "priors",
                "--size",
                "64",
                "--batch",
                "1",
                "--smaller",
                "16",
                "--device",
                "cpu",
                "--out",
                str(tmp_path),
            ]
        )
    assert end.value.code == 0
    details = json.loads((tmp_path / "priors.json").read_text())
    assert [(row["rule"], row["batch"]) for row in details["rows"]] == [("sds", 1), ("vsd", 1)]
    assert all(row["ours"] > 0 and row["plain"] > 0 and row["our_memory"] is None for row in details["rows"])
    assert (tmp_path / "priors.md").read_text().count("\n") == 4
    assert "priors.md" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [["--size", "100"], ["--smaller", "3"]])
def test_invalid_sizes_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        main(["bench", "priors", *wrong])
    assert end.value.code != 0
    assert "--size must be a multiple of 64" in capsys.readouterr().err
