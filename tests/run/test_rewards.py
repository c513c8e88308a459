"""Rewards by CLIP against transformers' own model, on a tiny random one saved and loaded offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTextConfig, CLIPVisionConfig

from sds3d.config import ConfigError, assets_dir
from sds3d.files import PriorError
from sds3d.priors.clip import load_clip
from sds3d.run.config import new_run, read_config
from sds3d.run.drive import drive
from sds3d.run.folder import Run, read_checkpoint
from sds3d.run.inputs import check_inputs
from sds3d.run.rewards import RewardConfig, load_rewards
from sds3d.toybox.diffusion import make_tokenizer
from tests.priors.tiny import WORDS
from tests.run.tiny_runs import SIZE, disc, finish, tiny

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("reward") / "clip")


def save_clip(path: Path) -> Path:
    """Write a tiny CLIPModel for pictures of 16 pixels, with its tokenizer and processor. Returns its folder."""
    torch.manual_seed(0)
    tokenizer: Any = make_tokenizer(WORDS)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=24, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4, image_size=16, patch_size=4
    )
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=24)
    CLIPModel(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    CLIPImageProcessor(size=16, crop_size=16).save_pretrained(path)
    return path


def pictures(size: int = 16, count: int = 3) -> np.ndarray:
    smooth = np.random.default_rng(2).integers(0, 256, (count, 4, 4, 3), np.uint8)
    return np.stack([np.asarray(Image.fromarray(one).resize((size, size), Image.Resampling.BICUBIC)) for one in smooth])


def cosines(folder: Path, shown: np.ndarray, texts: list[str]) -> Tensor:
    """Return the cosines of pictures and texts, (B, n), by transformers alone."""
    model = CLIPModel.from_pretrained(folder).eval()
    tokens = make_tokenizer(WORDS)(texts, padding=True, return_tensors="pt")
    pixels = CLIPImageProcessor.from_pretrained(folder)(images=list(shown), return_tensors="pt").pixel_values
    with torch.no_grad():
        return model(**tokens, pixel_values=pixels).logits_per_image / model.logit_scale.exp()


@pytest.mark.parametrize(("size", "tolerance"), [(16, 1e-5), (40, 5e-3)], ids=["its own size", "resized"])
def test_similarities_equal_those_of_transformers(folder: Path, size: int, tolerance: float) -> None:
    shown, texts = pictures(size), ["a red mug", "a blue chair"]
    clip = load_clip(str(folder), texts, CPU)
    ours = clip.features(torch.from_numpy(shown) / 255) @ clip.texts.T
    torch.testing.assert_close(ours, cosines(folder, shown, texts), atol=tolerance, rtol=0)


def test_losses_are_weighted_means_of_one_minus_the_cosine(folder: Path, tmp_path: Path) -> None:
    shown = pictures()
    Image.fromarray(shown[0]).save(tmp_path / "like.png")
    config = RewardConfig.model_validate(
        {"model": str(folder), "text_weight": [[0, 2], [1, 4]], "image": str(tmp_path / "like.png"), "every": 2}
    )
    (reward,) = load_rewards([config], "a red mug", CPU)
    rgb = (torch.from_numpy(shown) / 255).requires_grad_()
    losses = reward.losses(rgb, 4, 0.5)
    expected = 3 * (1 - cosines(folder, shown, ["a red mug"])).mean()
    torch.testing.assert_close(losses["reward_text"], expected, atol=1e-5, rtol=1e-5)
    features = reward.clip.features(rgb)
    torch.testing.assert_close(losses["reward_image"], 100 * (1 - features @ features[0]).mean())
    assert reward.losses(rgb, 5, 0.5) == {}
    only = config.model_copy(update={"text": "a blue chair", "image": ""})
    (other,) = load_rewards([only], "a red mug", CPU)
    torch.testing.assert_close(
        other.losses(rgb, 0, 1.0)["reward_text"], 4 * (1 - cosines(folder, shown, ["a blue chair"])).mean()
    )
    torch.stack(list(losses.values())).sum().backward()
    assert rgb.grad is not None
    direction = torch.randn(rgb.shape, generator=torch.Generator().manual_seed(1))
    step = 1e-2 * direction / direction.norm()
    with torch.no_grad():
        up, down = (sum(reward.losses(rgb + sign * step, 4, 0.5).values()) for sign in (1, -1))
    torch.testing.assert_close((rgb.grad * 2 * step).sum(), up - down, rtol=0.05, atol=1e-4)


def scene_of(run: Run) -> Tensor:
    state = read_checkpoint(run.checkpoints[0])
    return torch.cat([value.float().flatten() for key, value in state.items() if key.startswith("scene/")])


def test_a_run_follows_its_reward_and_resumes_alike(folder: Path, tmp_path: Path) -> None:
    Image.fromarray(pictures()[0]).save(tmp_path / "like.png")
    rewards = [{"model": str(folder), "text": "a mug", "image": str(tmp_path / "like.png")}]
    export = {"formats": ["ply"]}
    plain = new_run(tmp_path / "runs", tiny(steps=8, export=export))
    straight = new_run(tmp_path / "runs", tiny(steps=8, export=export, rewards=rewards))
    stopped = new_run(tmp_path / "other", tiny(steps=8, export=export, rewards=rewards))
    (tmp_path / "like.png").unlink()
    assert Path(read_config(straight).rewards[0].image).is_relative_to(straight.folder)
    losses = [step.losses for step in drive(straight, threads=1, prior=disc())]
    assert {"reward_text", "reward_image"} <= losses[0].keys()
    finish(plain)
    finish(stopped, stop=4)
    finish(stopped)
    assert torch.equal(scene_of(straight), scene_of(stopped))
    assert not torch.equal(scene_of(straight), scene_of(plain))
    assert SIZE == 16


def test_other_folders_are_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "bert"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"model_type": "bert"}))
    scorer = assets_dir() / "toybox" / "scorer"
    for place, words in (
        (tmp_path / "none", "no CLIPModel's folder"),
        (other, "its model_type is bert; supported is clip"),
        (scorer, "no CLIPModel's folder"),  # the benchmark's judge must not be what a run learns from
    ):
        with pytest.raises(PriorError) as caught:
            load_clip(str(place), ["a"], CPU)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
    nowhere = str(tmp_path / "none.png")
    changes = {r"rewards\.0\.model": {"model": nowhere}, r"rewards\.0\.image": {"model": str(folder), "image": nowhere}}
    for key, change in changes.items():
        with pytest.raises(ConfigError, match=key):
            check_inputs(tiny(rewards=[change]))
