"""A U-Net that denoises maps together: it starts as the prior's own, and its updates are those of each map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sds3d.files import PriorError
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.priors.network import DiffusionPrior
from tests.priors.tiny import tiny_mvdream, tiny_pipeline

MAPS = 3
ROWS = torch.zeros(MAPS, dtype=torch.long)


def load(family: str, folder: Path) -> DiffusionPrior:
    if family == "mvdream":
        tiny_mvdream(folder)
    else:
        tiny_pipeline(family).save_pretrained(folder)
    return DiffusersConfig(model=str(folder)).load()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("family", ["sd v", "sdxl", "mvdream"])
def test_it_starts_as_the_priors_own_network(family: str, tmp_path: Path):
    prior = load(family, tmp_path)
    score, text = prior.joint_score(seeded(), 2, MAPS), prior.encode_text(["a red mug"])
    x, t = torch.randn(1, 4, 8, 8, generator=seeded()), torch.tensor([0.7])
    # Attention to three equal maps is attention to one of them.
    alone, together = prior.predict(x, t, text, None), score.predict(x[ROWS], t[ROWS], text[ROWS], None)
    torch.testing.assert_close(together.eps, alone.eps[ROWS])
    maps = torch.randn(MAPS, 4, 8, 8, generator=seeded(1))
    together = score.predict(maps, t[ROWS], text[ROWS], None)
    apart = prior.predict(maps, t[ROWS], text[ROWS], None)
    assert not torch.allclose(together.eps, apart.eps, atol=1e-4)
    if family == "mvdream":  # a network that joins views joins maps in the same way
        joined = prior.predict_by(prior.denoiser, maps, t[ROWS], text[ROWS], None, together=MAPS)
        torch.testing.assert_close(together.eps, joined.eps)


def test_each_map_has_updates_of_its_own(tmp_path: Path):
    prior = load("sd", tmp_path)
    score, plain = prior.joint_score(seeded(), 2, MAPS), prior.trainable_score(seeded(), 2)
    x, t = torch.randn(1, 4, 8, 8, generator=seeded()), torch.tensor([0.3])
    text = prior.encode_text(["a red mug"])
    updates = {name: 0.2 * torch.randn(value.shape, generator=seeded()) for name, value in plain.state_dict().items()}
    updates |= {name: value for name, value in plain.state_dict().items() if name.startswith("camera")}
    plain.load_state_dict(updates)
    own = {name: updates[name.replace(f"map{name.split('.map')[1][0]}", "default")] for name in score.state_dict()}
    score.load_state_dict(own)
    expected, found = plain.predict(x, t, text, None), score.predict(x[ROWS], t[ROWS], text[ROWS], None)
    torch.testing.assert_close(found.eps, expected.eps[ROWS])
    # Without the update of the last map, the first layer of attention has other outputs for that map alone.
    outputs: list[torch.Tensor] = []
    network: Any = score.denoiser.network
    layer = next(module for name, module in network.named_modules() if name.endswith("to_q"))
    layer.register_forward_hook(lambda module, values, output: outputs.append(output))
    score.load_state_dict({name: 0 * value if ".map2." in name else value for name, value in own.items()})
    score.predict(x[ROWS], t[ROWS], text[ROWS], None)
    torch.testing.assert_close(outputs[0][0], outputs[0][1])
    assert not torch.allclose(outputs[0][0], outputs[0][2], atol=1e-3)


def test_gradients_reach_the_updates_alone(tmp_path: Path):
    prior = load("sd", tmp_path)
    score, text = prior.joint_score(seeded(), 2, MAPS), prior.encode_text(["a red mug"])
    x, t = torch.randn(MAPS, 4, 8, 8, generator=seeded()), torch.full((MAPS,), 0.5)
    score.predict(x, t, text[ROWS], None).x0.square().sum().backward()
    trained = dict(zip(score.state_dict(), score.parameters(), strict=True))
    assert all(p.grad is not None for p in trained.values())
    assert all(p.grad.abs().sum() > 0 for name, p in trained.items() if "lora_B" in name and p.grad is not None)
    assert all(p.grad is None for p in prior.network.parameters())
    assert score.state_dict().keys() == prior.joint_score(seeded(1), 2, MAPS).state_dict().keys()


def test_networks_without_such_layers_are_refused(tmp_path: Path):
    with pytest.raises(
        PriorError, match="SD3Transformer2DModel can't denoise planes together: use a model with a U-Net"
    ):
        load("sd3", tmp_path / "sd3").joint_score(seeded(), 2, MAPS)
    with pytest.raises(PriorError, match="AttnAddedKVProcessor2_0 can't denoise planes"):
        load("if", tmp_path / "if").joint_score(seeded(), 2, MAPS)
