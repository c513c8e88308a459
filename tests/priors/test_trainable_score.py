"""Trainable copies of every kind of model: they start equal to it, learn another score, and do not change it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from sds3d.cameras import Cameras, turntable
from sds3d.priors.base import Prior, add_noise
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.priors.gaussian import Gaussian, GaussianPrior
from sds3d.priors.multiview import CameraEncoder
from tests.priors.tiny import tiny_pipeline

T = torch.tensor([0.2, 0.2, 0.9, 0.9])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module", params=["views together", "gaussian", "sd", "sd v", "sdxl", "sd3", "flux dev", "if"])
def prior(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Prior:
    match request.param:
        case "gaussian":
            return GaussianPrior({"a red mug": Gaussian(0.3, 0.5), "": Gaussian(0.0, 1.0)}, (3, 16, 16))
        case "views together":
            folder = tmp_path_factory.mktemp("views")
            tiny_pipeline("sd v").save_pretrained(folder)
            torch.manual_seed(3)
            CameraEncoder(64).save(folder / "camera_encoder")
            return DiffusersConfig(model=str(folder)).load()
        case family:
            folder = tmp_path_factory.mktemp("model")
            tiny_pipeline(family).save_pretrained(folder)
            return DiffusersConfig(model=str(folder), image_size=0 if family == "if" else 16).load()


def noised(prior: Prior) -> torch.Tensor:
    like = prior.encode_image(torch.zeros(4, prior.image_size, prior.image_size, 3))
    return torch.randn(like.shape, generator=seeded(1))


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("cameras", [None, turntable(4)], ids=["no camera", "cameras"])
def test_starts_as_the_model(prior: Prior, rank: int, cameras) -> None:
    x_t, cond = noised(prior), prior.encode_text(["a red mug"] * 4)
    score = prior.trainable_score(seeded(), rank)
    ours, theirs = score.predict(x_t, T, cond, cameras), prior.predict(x_t, T, cond, cameras)
    assert torch.equal(ours.eps, theirs.eps)
    assert torch.equal(ours.x0, theirs.x0)
    assert ours.eps.requires_grad
    assert not theirs.eps.requires_grad


@pytest.mark.parametrize("rank", [0, 4])
def test_learns_without_changing_the_model(prior: Prior, rank: int) -> None:
    x_t, cond, cameras = noised(prior), prior.encode_text(["a red mug"] * 4), turntable(4)
    before = prior.predict(x_t, T, cond, cameras).eps
    score = prior.trainable_score(seeded(), rank)
    picture = prior.encode_image(torch.full((4, prior.image_size, prior.image_size, 3), 0.2))
    optimizer = torch.optim.AdamW(score.parameters(), lr=1e-2 if rank else 1e-4)

    def loss_of(seed: int, given: Cameras | None) -> torch.Tensor:
        eps = torch.randn(picture.shape, generator=seeded(seed))
        return F.mse_loss(score.predict(add_noise(prior, picture, eps, T), T, cond, given).eps, eps)

    first = loss_of(99, cameras).item()
    for step in range(12):
        optimizer.zero_grad()
        loss_of(step, cameras if step % 3 else None).backward()  # trained without cameras too
        optimizer.step()
    assert loss_of(99, cameras).item() < first
    assert torch.equal(prior.predict(x_t, T, cond, cameras).eps, before)
    learned = score.predict(x_t, T, cond, cameras).eps
    assert not torch.equal(learned, before)
    assert not torch.equal(learned, score.predict(x_t, T, cond, turntable(4)[torch.tensor([2, 3, 0, 1])]).eps)
    again = prior.trainable_score(seeded(7), rank)  # another initial copy, which the state overwrites
    again.load_state_dict(score.state_dict())
    assert torch.equal(again.predict(x_t, T, cond, cameras).eps, learned)


def test_low_rank_updates_are_few(tmp_path: Path) -> None:
    prior = DiffusersConfig().load()
    low, full = (prior.trainable_score(seeded(), rank) for rank in (4, 0))
    sizes = [sum(p.numel() for p in score.parameters()) for score in (low, full)]
    assert sizes[0] < 0.05 * sizes[1]
    assert all(p.dtype == torch.float32 for p in low.parameters())


def test_one_seed_one_start() -> None:
    prior = DiffusersConfig().load()
    states = [prior.trainable_score(seeded(seed)).state_dict() for seed in (0, 0, 1)]
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())
    assert any(not torch.equal(states[0][name], value) for name, value in states[2].items())
