"""The trained score phi of the renders, against closed forms on the exact Gaussian prior."""

from pathlib import Path
from typing import cast

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from sds3d.files import PriorError
from sds3d.guidance.base import draw_noise
from sds3d.guidance.schedules import draw
from sds3d.guidance.variational import (
    Learner,
    TrainedScore,
    TrainingConfig,
    VariationalConfig,
    model_of_phi,
    target_error,
)
from sds3d.priors.base import Prediction, add_noise, expand
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.priors.gaussian import Gaussian, GaussianPrior
from sds3d.priors.network import DiffusionPrior
from tests.guidance.exact import seeded
from tests.guidance.scores import KnownTrainable, normal
from tests.guidance.views import views_of
from tests.priors.tiny import tiny_pipeline

MEAN, STD = 1.2, 0.3  # of the renders; the prior's are 0.2 and 0.6


def prior_of(dtype: torch.dtype = torch.float32) -> GaussianPrior:
    prompts = {"y": Gaussian(0.2, 0.6), "": Gaussian(0.0, 1.0), "bad": Gaussian(0.4, 0.8)}
    return GaussianPrior(prompts, (3, 4, 4), dtype=dtype)


def renders(count: int) -> Tensor:
    return MEAN + STD * torch.randn(count, 3, 4, 4, generator=seeded(5))


def test_phi_learns_the_score_of_the_renders() -> None:
    prior, x = prior_of(), renders(64)
    views = views_of(prior, 64)
    phi = TrainedScore(VariationalConfig(lr=0.02, camera_dropout=0.5), prior)
    t, eps = draw((0.02, 0.98), 64, 1, seeded(1)), draw_noise(x, seeded(2))
    x_t = add_noise(prior, x, eps, t)

    def error(prediction) -> float:
        return target_error(prior, prediction, x, eps, t).item()

    before = error(phi.predict(x_t, t, views))
    generator = seeded()
    for _ in range(250):
        phi.train(x, views, generator)
    best = error(normal(prior, MEAN, STD, x_t, t))
    assert best < before - 0.1
    # phi was trained on these samples, so it may be slightly better on them than the true distribution.
    assert error(phi.predict(x_t, t, views)) < best + 0.01
    assert error(phi.predict(x_t, t, views, camera=False)) < best + 0.01
    off = phi.predict(x_t, t, views).eps - normal(prior, MEAN, STD, x_t, t).eps
    assert off.square().mean().sqrt() < 0.15


def test_phi_distinguishes_cameras_unless_queried_without() -> None:
    prior = prior_of()
    views = views_of(prior, 4)
    x = torch.tensor([0.0, 0.5, 1.0, 0.5]).reshape(4, 1, 1, 1).expand(4, 3, 4, 4).contiguous()
    phi = TrainedScore(VariationalConfig(lr=0.04, camera_dropout=0.3), prior)
    generator = seeded()
    for _ in range(250):
        phi.train(x, views, generator)
    t = torch.full((4,), 0.9)
    x_t = draw_noise(x, seeded(3))[:1].expand(4, 3, 4, 4)
    with_camera = phi.predict(x_t, t, views).x0.mean(dim=(1, 2, 3))
    torch.testing.assert_close(with_camera, x.mean(dim=(1, 2, 3)), atol=0.12, rtol=0)
    without = phi.predict(x_t, t, views, camera=False).x0.mean(dim=(1, 2, 3))
    torch.testing.assert_close(without, torch.full((4,), 0.5), atol=0.12, rtol=0)


def test_camera_and_text_are_dropped_as_often_as_configured() -> None:
    prior, calls = prior_of(), []

    def record(x_t, t, cond, cameras):
        calls.append((cameras is None, bool(cond.hidden[0, 0, 1] == 1.0)))  # only the empty text has this spread
        return normal(prior, 0.0, 1.0, x_t, t)

    phi = TrainedScore(
        VariationalConfig(camera_dropout=0.3, text_dropout=0.1, updates=2), prior, KnownTrainable(record)
    )
    generator = seeded()
    for _ in range(300):
        phi.train(torch.zeros(2, 3, 4, 4), views_of(prior, 2, negative="bad"), generator)
    assert len(calls) == 600
    no_camera, no_text = torch.tensor(calls).float().mean(dim=0).tolist()
    neither = torch.tensor(calls).all(dim=1).float().mean().item()
    assert neither == pytest.approx(0.3 * 0.1, abs=0.03)  # the two draws are independent; a shared draw would give 0.1
    assert no_camera == pytest.approx(0.3, abs=0.06)
    assert no_text == pytest.approx(0.1, abs=0.04)


def test_phi_is_trained_at_all_timesteps_with_independent_noise() -> None:
    prior, x, calls = prior_of(), renders(256), []

    def record(x_t, t, cond, cameras):
        calls.append((x_t, t))
        return normal(prior, 0.0, 1.0, x_t, t)

    phi = TrainedScore(VariationalConfig(), prior, KnownTrainable(record))
    phi.train(x, views_of(prior, 256), seeded())
    ((x_t, t),) = calls
    torch.testing.assert_close(t.sort().values, torch.linspace(0.0, 1.0, 256), atol=0.08, rtol=0)
    assert t.min() < 0.02
    assert t.max() > 0.98
    noisy = t > 0.1  # at less noise, rounding dominates x_t - alpha x
    eps = ((x_t - expand(prior.alpha(t), x) * x) / expand(prior.sigma(t), x))[noisy].flatten(1)  # (B, 48)
    # Products of independent rows are 0 +- 1 / sqrt(48); if all renders shared one noise they would be 1.
    products = eps @ eps.T / 48
    off = products[~torch.eye(len(eps), dtype=torch.bool)]
    assert off.mean().abs() < 0.02
    assert off.std().item() == pytest.approx(48**-0.5, rel=0.1)
    assert products.diagonal().mean().item() == pytest.approx(1.0, abs=0.03)


def test_the_optimiser_is_adamw_with_the_given_settings() -> None:
    """In the first step the corrected moments equal the slope and its square: w' = w (1 - lr decay) - lr.

    If the slope is 0 in the second step, the shares b1 / (1 + b1) and b2 / (1 + b2) of them remain.
    """
    parameter = torch.nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    learner = Learner([parameter], TrainingConfig(lr=0.1, betas=(0.6, 0.7), weight_decay=0.3))
    learner.step(5.0 * parameter.sum())
    first = 2.0 * (1 - 0.03) - 0.1
    assert parameter.item() == pytest.approx(first, abs=1e-8)
    learner.step(0.0 * parameter.sum())
    left = 0.6 / 1.6 / (0.7 / 1.7) ** 0.5
    assert parameter.item() == pytest.approx(first * (1 - 0.03) - 0.1 * left, abs=1e-8)


def test_no_gradient_reaches_the_renders_and_no_other_randomness_is_used() -> None:
    prior = prior_of()
    views, x = views_of(prior, 4), torch.zeros(4, 3, 4, 4, requires_grad=True)
    torch.manual_seed(0)
    outside = torch.get_rng_state()
    losses = []
    for _ in range(2):
        phi, generator = TrainedScore(VariationalConfig(), prior), seeded(3)
        losses.append([phi.train(x, views, generator) for _ in range(5)])
    assert losses[0] == losses[1]
    assert x.grad is None
    assert torch.equal(torch.get_rng_state(), outside)
    assert phi.predict(x, torch.full((4,), 0.5), views).eps.requires_grad is False


def test_without_updates_nothing_is_learned() -> None:
    prior, x = prior_of(), renders(4)
    phi = TrainedScore(VariationalConfig(updates=0), prior)
    assert phi.train(x, views_of(prior, 4), seeded()) == 0.0
    assert all(torch.equal(value, torch.zeros_like(value)) for value in phi.state_dict().values())


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "flow"])
def test_the_error_is_measured_in_the_networks_output(kind: str) -> None:
    class Schedule(GaussianPrior):
        def __init__(self, *args, **kwargs) -> None:
            super().__init__(*args, **kwargs)
            self.prediction_type = kind

        def alpha(self, t: Tensor) -> Tensor:
            return 1 - t if kind == "flow" else super().alpha(t)

        def sigma(self, t: Tensor) -> Tensor:
            return t if kind == "flow" else super().sigma(t)

    prior = Schedule({}, dtype=torch.float64)
    x, eps, given = (torch.randn(4, 3, 8, 8, generator=seeded(i), dtype=torch.float64) for i in range(3))
    t = torch.tensor([0.1, 0.4, 0.7, 0.9], dtype=torch.float64)
    alpha, sigma = expand(prior.alpha(t), x), expand(prior.sigma(t), x)
    x_t = alpha * x + sigma * eps
    match kind:
        case "epsilon":
            prediction, target = Prediction(given, (x_t - sigma * given) / alpha), eps
        case "v_prediction":
            target = alpha * eps - sigma * x
            prediction = Prediction(alpha * given + sigma * x_t, alpha * x_t - sigma * given)
        case _:
            prediction, target = Prediction(x_t + alpha * given, x_t - sigma * given), eps - x
    error = target_error(prior, prediction, x, eps, t)
    torch.testing.assert_close(error, (given - target).square().mean(), rtol=1e-9, atol=1e-9)


def test_a_restored_optimiser_continues_bit_for_bit() -> None:
    def fresh() -> tuple[list[torch.nn.Parameter], Learner]:
        parameters = [torch.nn.Parameter(start) for start in (torch.ones(3), torch.zeros(2, 2), torch.ones(1))]
        return parameters, Learner(parameters, TrainingConfig(lr=0.1))

    def loss(parameters: list[torch.nn.Parameter], step: int) -> Tensor:  # the last parameter is never used
        return (parameters[0] * step).square().sum() + (parameters[1] - step).abs().sum()

    ours, learner = fresh()
    for step in range(3):
        learner.step(loss(ours, step))
    theirs, again = fresh()
    with torch.no_grad():
        for mine, other in zip(theirs, ours, strict=True):
            mine.copy_(other)
    again.load_state_dict(learner.state_dict())
    for step in range(3, 6):
        assert learner.step(loss(ours, step)) == again.step(loss(theirs, step))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_low_rank_updates_are_restored_from_a_file_bit_for_bit(tmp_path: Path) -> None:
    prior = DiffusersConfig(multiview=False).load()
    x, views, generator = (
        prior.encode_image(torch.rand(2, 64, 64, 3)).detach(),
        views_of(prior, 2, "a red mug"),
        seeded(),
    )
    config = VariationalConfig(lr=1e-3, camera_dropout=0.5)
    ours = TrainedScore(config, prior)
    before = sum(ours.train(x, views, generator) for _ in range(3))
    assert before > 0
    save_file(ours.state_dict(), tmp_path / "state.safetensors")
    stream = generator.get_state()
    theirs, again = TrainedScore(config, prior), seeded()
    theirs.load_state_dict(load_file(tmp_path / "state.safetensors"))
    again.set_state(stream)
    for _ in range(2):
        assert ours.train(x, views, generator) == theirs.train(x, views, again)
    states = ours.state_dict(), theirs.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of a model that predicts noise, one that predicts v, and others that do not fit."""
    root = tmp_path_factory.mktemp("models")
    folders = {name: root / name.replace(" ", "-") for name in ("sd", "sd v", "sdxl", "levels")}
    for name in ("sd", "sd v", "sdxl"):
        tiny_pipeline(name).save_pretrained(folders[name])
    other = tiny_pipeline("sd v")
    other.scheduler = DDIMScheduler.from_config(other.scheduler.config, beta_end=0.03)
    other.save_pretrained(folders["levels"])
    torch.manual_seed(1)
    changed = UNet2DConditionModel.from_pretrained(folders["sd v"] / "unet")
    for parameter in changed.parameters():  # other weights than those of the model that predicts noise
        parameter.data += 0.02 * torch.randn_like(parameter)
    changed.save_pretrained(folders["sd v"] / "unet")
    return folders


def test_phi_may_be_a_model_that_predicts_v(models: dict[str, Path]):
    """Stable Diffusion 2.1 beside 2.1-base: eps = alpha v + sigma x_t, and phi learns v = alpha eps - sigma x."""
    prior = DiffusersConfig(model=str(models["sd"])).load()
    config = VariationalConfig(model=str(models["sd v"]), camera_dropout=0.0)
    phi = TrainedScore(config, prior)
    views = views_of(prior, 2, "a red mug")
    x = torch.randn(2, 4, 4, 4, generator=seeded())
    t, eps = torch.tensor([0.3, 0.8]), torch.randn(2, 4, 4, 4, generator=seeded(1))
    x_t = add_noise(prior, x, eps, t)
    network = UNet2DConditionModel.from_pretrained(models["sd v"] / "unet").eval()
    text = prior.encode_text(["a red mug"] * 2).hidden

    def velocity(x_t: Tensor, t: Tensor) -> Tensor:
        with torch.no_grad():
            return network(x_t, (t * 999).round().long(), encoder_hidden_states=text).sample

    v, alpha, sigma = velocity(x_t, t), expand(prior.alpha(t), x), expand(prior.sigma(t), x)
    predicted = phi.predict(x_t, t, views)
    torch.testing.assert_close(predicted.eps, alpha * v + sigma * x_t, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(predicted.x0, alpha * x_t - sigma * v, atol=1e-5, rtol=1e-5)
    assert (predicted.eps - prior.predict(x_t, t, views.positive, None).eps).abs().max() > 0.01

    generator = seeded(5)
    loss = phi.update(x, views.cameras, views.prompt.plain.repeat(2), views.prompt.null, seeded(5))
    torch.rand(2, generator=generator)
    drawn = torch.rand(2, generator=generator)
    noise = torch.randn(x.shape, generator=generator)
    x_t, alpha, sigma = add_noise(prior, x, noise, drawn), expand(prior.alpha(drawn), x), expand(prior.sigma(drawn), x)
    expected = (velocity(x_t, drawn) - (alpha * noise - sigma * x)).square().mean()
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    again = TrainedScore(config, prior)
    again.load_state_dict(phi.state_dict())
    assert torch.equal(again.predict(x_t, t, views).eps, phi.predict(x_t, t, views).eps)


def test_another_model_of_phi_computes_in_the_priors_type(models: dict[str, Path]):
    prior = DiffusersConfig(model=str(models["sd"]), dtype="bfloat16").load()
    model = model_of_phi(VariationalConfig(model=str(models["sd v"])), prior)
    assert cast(DiffusionPrior, model).denoiser.dtype == torch.bfloat16


@pytest.mark.parametrize(("model", "reason"), [("sdxl", "text width"), ("levels", "other noise levels")])
def test_a_model_that_does_not_fit_is_refused(models: dict[str, Path], model: str, reason: str):
    prior = DiffusersConfig(model=str(models["sd"])).load()
    with pytest.raises(PriorError, match=reason):
        TrainedScore(VariationalConfig(model=str(models[model])), prior)
