"""Every family of models against its diffusers pipeline, on tiny random models saved to and loaded from disk."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, EulerDiscreteScheduler
from torch import Tensor

from sds3d.cameras import turntable
from sds3d.guidance.sampling import Conditions, sample, sampling_times
from sds3d.priors import flow
from sds3d.priors.base import add_noise
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.priors.network import DiffusionPrior
from sds3d.priors.pixels import Latents
from tests.priors.tiny import FAMILIES, tiny_pipeline

FLOWS = ("sd3", "flux dev", "flux schnell")
ATOL = 2e-5


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise_like(prior: DiffusionPrior, batch: int = 1) -> Tensor:
    size = prior.image_size
    return torch.randn(prior.encode_image(torch.zeros(batch, size, size, 3)).shape, generator=seeded())


class Case:
    """A pipeline, and the prior that was loaded from its folder."""

    def __init__(self, family: str, folder: Path, **config: Any) -> None:
        self.family = family
        if not folder.exists():
            tiny_pipeline(family).save_pretrained(folder)
        self.pipeline: Any = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
        self.pipeline.set_progress_bar_config(disable=True)
        size = 16 if family.startswith("flux") else 0  # a FLUX folder does not store the picture size
        self.prior = DiffusersConfig(model=str(folder), image_size=size, **config).load()

    def drawn(self, scale: float, times: list[float]) -> np.ndarray:
        """Return our sampler's picture from the noise of `noise_like`, (1, H, W, 3)."""
        positive, negative = self.prior.encode_text(["a red mug"]), self.prior.encode_text([""])
        x = sample(
            self.prior, noise_like(self.prior), Conditions(turntable(1), positive, negative, scale), torch.tensor(times)
        )
        return self.prior.decode(x).numpy()

    def theirs(self, **options: Any) -> np.ndarray:
        return self.pipeline("a red mug", output_type="np", **options).images


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Case]:
    """Cases by family and settings, each loaded once."""
    folder = tmp_path_factory.mktemp("families")
    return functools.cache(lambda family, **config: Case(family, folder / family, **config))


@pytest.fixture(params=FAMILIES)
def case(request: pytest.FixtureRequest, cases: Callable[..., Case]) -> Case:
    return cases(request.param)


@pytest.mark.parametrize("family", ["sd", "sd v", "sdxl"])
def test_latent_u_nets_draw_the_pipelines_picture(family: str, cases: Callable[..., Case]) -> None:
    case = cases(family)
    timesteps = [999, 799, 599, 399, 199]
    case.pipeline.scheduler.set_timesteps(5)
    assert case.pipeline.scheduler.timesteps.tolist() == timesteps
    theirs = case.theirs(num_inference_steps=5, guidance_scale=7.5, latents=noise_like(case.prior))
    ours = case.drawn(7.5, [*(t / 999 for t in timesteps), 0.0])
    np.testing.assert_allclose(ours, theirs, atol=ATOL)


def test_sd3_draws_the_pipelines_picture(cases: Callable[..., Case]) -> None:
    case = cases("sd3")
    case.pipeline.scheduler.set_timesteps(4)
    sigmas = case.pipeline.scheduler.sigmas.tolist()  # shifted towards noise, 0 at the end
    theirs = case.theirs(num_inference_steps=4, guidance_scale=5.0, latents=noise_like(case.prior))
    np.testing.assert_allclose(case.drawn(5.0, sigmas), theirs, atol=ATOL)
    assert case.prior.shift == 3
    # Before the shift, our timesteps are even from 1 to 0. Those of diffusers end at 0.001, followed by 0.
    np.testing.assert_allclose(sampling_times(case.prior, 3), [1, 6 / 7, 3 / 5, 0], atol=1e-6)


@pytest.mark.parametrize(("family", "length"), [("flux dev", 24), ("flux schnell", 16)])
def test_flux_draws_the_pipelines_picture(family: str, length: int, cases: Callable[..., Case]) -> None:
    """With true classifier-free guidance, which calls the model twice, and with embedded guidance alone."""
    case = cases(family, embedded_guidance=2.0)
    packed = case.pipeline._pack_latents(noise_like(case.prior), 1, 16, 8, 8)
    options = {"height": 16, "width": 16, "latents": packed, "max_sequence_length": length, "guidance_scale": 2.0}
    theirs = case.theirs(num_inference_steps=3, true_cfg_scale=3.0, negative_prompt="", **options)
    sigmas = case.pipeline.scheduler.sigmas.tolist()
    assert (case.prior.shift == 1) == (family == "flux schnell")  # the shift of dev depends on the picture's size
    np.testing.assert_allclose(sampling_times(case.prior, 3), sigmas, atol=1e-6)
    np.testing.assert_allclose(case.drawn(3.0, sigmas), theirs, atol=ATOL)
    theirs = case.theirs(num_inference_steps=3, **options)
    np.testing.assert_allclose(case.drawn(1.0, sigmas), theirs, atol=ATOL)
    other = cases(family, embedded_guidance=7.0).drawn(1.0, sigmas)
    assert np.array_equal(other, case.drawn(1.0, sigmas)) == (family == "flux schnell")  # schnell has no guidance input


def test_lcm_draws_the_pipelines_picture(cases: Callable[..., Case]) -> None:
    """Consistency steps: x0 by the boundary condition, then new noise."""
    case = cases("lcm", embedded_guidance=6.0)
    noise, steps = noise_like(case.prior), [999, 759, 499, 259]
    theirs = case.theirs(num_inference_steps=4, guidance_scale=6.0, latents=noise, generator=seeded(3))
    assert case.pipeline.scheduler.timesteps.tolist() == steps
    x, generator, cond = noise, seeded(3), case.prior.encode_text(["a red mug"])
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        t = torch.tensor([step / 999])
        near = 0.25 / ((10 * step) ** 2 + 0.25)  # weight of x_t itself: 1 at t = 0
        with torch.no_grad():
            x0 = case.prior.predict(x, t, cond, None).x0
        x = (1 - near) ** 0.5 * x0 + near * x  # c_out^2 = 1 - c_skip for a data deviation of 0.5
        if following is not None:
            x = add_noise(case.prior, x, torch.randn(x.shape, generator=generator), torch.tensor([following / 999]))
    np.testing.assert_allclose(case.prior.decode(x).numpy(), theirs, atol=ATOL)


def test_turbo_draws_the_pipelines_picture(cases: Callable[..., Case]) -> None:
    """Four steps of the scheduler that Turbo's folders have, without classifier-free guidance."""
    case = cases("sd", few_steps=4)
    config = case.pipeline.scheduler.config
    case.pipeline.scheduler = EulerDiscreteScheduler.from_config(config, timestep_spacing="trailing")
    noise, steps = noise_like(case.prior), [999, 749, 499, 249]
    theirs = case.theirs(num_inference_steps=4, guidance_scale=0.0, latents=noise)
    assert case.pipeline.scheduler.timesteps.tolist() == steps
    texts = case.prior.encode_text(["a red mug"]), case.prior.encode_text([""])
    noise = case.prior.sigma(torch.tensor(1.0)) * noise  # the pipeline starts without any signal
    x = sample(
        case.prior, noise, Conditions(turntable(1), *texts, 1.0), torch.tensor([*(step / 999 for step in steps), 0.0])
    )
    np.testing.assert_allclose(case.prior.decode(x).numpy(), theirs, atol=ATOL)


def test_deepfloyd_draws_the_pipelines_picture(cases: Callable[..., Case]) -> None:
    """Ancestral steps with the fixed variance, since the learned one is dropped."""
    case = cases("if")
    scheduler = case.pipeline.scheduler
    case.pipeline.scheduler = type(scheduler).from_config(scheduler.config, variance_type="fixed_small")
    theirs = case.theirs(num_inference_steps=4, guidance_scale=4.0, generator=seeded())
    prior, generator = case.prior, seeded()
    x = torch.randn(1, 3, 16, 16, generator=generator)
    cond = [prior.encode_text([text]) for text in ("a red mug", "")]
    for step in (750, 500, 250, 0):
        t = torch.tensor([step / 999])
        with torch.no_grad():
            positive, null = (prior.predict(x, t, c, None) for c in cond)
        x0 = null.x0 + 4.0 * (positive.x0 - null.x0)
        a = prior.alpha(t).double() ** 2
        a_next = prior.alpha(torch.tensor([(step - 250) / 999])).double() ** 2 if step else torch.ones(1).double()
        beta = 1 - a / a_next
        x = (a_next.sqrt() * beta * x0 + (a / a_next).sqrt() * (1 - a_next) * x) / (1 - a)
        x = x.float()
        if step:
            x = x + (beta * (1 - a_next) / (1 - a)).sqrt().float() * torch.randn(x.shape, generator=generator)
    np.testing.assert_allclose(prior.decode(x).numpy(), theirs, atol=ATOL)


def test_pictures_round_trip_as_through_the_vae(case: Case) -> None:
    size = case.prior.image_size
    rgb = torch.rand(2, size, size, 3, generator=seeded(), requires_grad=True)
    x = case.prior.encode_image(rgb)
    if isinstance(case.prior.family.codec, Latents):
        vae, config = case.pipeline.vae, case.pipeline.vae.config
        with torch.no_grad():
            mode = vae.encode(2 * rgb.permute(0, 3, 1, 2) - 1).latent_dist.mode()
            back = vae.decode(mode).sample.permute(0, 2, 3, 1)
        torch.testing.assert_close(x.detach(), (mode - (config.shift_factor or 0)) * config.scaling_factor)
        torch.testing.assert_close(case.prior.decode(x), (back / 2 + 0.5).clamp(0, 1), atol=ATOL, rtol=0)
    else:
        torch.testing.assert_close(case.prior.decode(x), rgb.detach())
    assert torch.equal(x, case.prior.encode_image(rgb))
    x.sum().backward()
    assert rgb.grad is not None
    assert rgb.grad.abs().sum() > 0


def test_predictions_invert_the_noising(case: Case) -> None:
    prior = case.prior
    t = torch.tensor([0.04, 0.3, 0.8])
    x_t, cond = noise_like(prior, 3), prior.encode_text(["a red mug", "", "a blue chair"])
    with torch.no_grad():
        out = prior.predict(x_t, t, cond, None)
    torch.testing.assert_close(add_noise(prior, out.x0, out.eps, t), x_t, atol=1e-4, rtol=1e-4)
    square = prior.alpha(t) ** 2 + prior.sigma(t) ** 2 if case.family not in FLOWS else prior.alpha(t) + prior.sigma(t)
    torch.testing.assert_close(square, torch.ones(3))
    assert (prior.sigma(torch.linspace(0, 1, 40)).diff() >= 0).all()
    # Rows are independent, and the text matters.
    with torch.no_grad():
        alone = prior.predict(x_t[1:2], t[1:2], cond[1:2], turntable(1))
        other = prior.predict(x_t[1:2], t[1:2], cond[2:3], None)
    torch.testing.assert_close(alone.eps, out.eps[1:2], atol=1e-4, rtol=1e-4)
    assert (other.eps - alone.eps).abs().max() > 1e-5
    wanted = torch.randn(x_t.shape, generator=seeded(2)).requires_grad_()
    (grad,) = torch.autograd.grad(prior.predict(wanted, t, cond, None).eps.square().sum(), wanted)
    assert grad.abs().sum() > 0


@pytest.mark.parametrize("family", FLOWS)
def test_flow_identities(family: str, cases: Callable[..., Case]) -> None:
    """v = eps - x gives eps' - eps = (1 - t)(v' - v) and x - x0' = t (v' - v), for every output of the network."""
    noising = cases(family).prior.family.noising
    t = torch.rand(5, generator=seeded()).double().clamp(0.02, 0.98)
    x, eps, off = (torch.randn(5, 2, 3, 3, generator=seeded(s), dtype=torch.float64) for s in (1, 2, 3))
    shaped = t.reshape(5, 1, 1, 1)
    x_t = (1 - shaped) * x + shaped * eps
    out = noising.prediction(eps - x + off, x_t, t)
    torch.testing.assert_close(out.eps - eps, (1 - shaped) * off, rtol=0, atol=1e-14)
    torch.testing.assert_close(x - out.x0, shaped * off, rtol=0, atol=1e-14)
    torch.testing.assert_close(noising.timestep(t), 1000 * t, rtol=0, atol=0)
    assert torch.equal(noising.alpha(t), 1 - t)
    assert torch.equal(noising.sigma(t), t)


@pytest.mark.parametrize("family", ["sd", "sd3"])
def test_few_step_models_are_called_at_their_own_timesteps(family: str, cases: Callable[..., Case]) -> None:
    prior = cases(family, few_steps=4).prior
    t = torch.linspace(0, 1, 101)
    timesteps = prior.timestep(t).unique().tolist()
    assert timesteps == ([249, 499, 749, 999] if family == "sd" else [250, 500, 750, 1000])
    full = cases(family).prior
    at = torch.tensor([0.51])
    same = torch.tensor([499 / 999 if family == "sd" else 0.5])
    assert torch.equal(prior.sigma(at), full.sigma(same))
    x_t, cond = noise_like(prior), prior.encode_text(["a red mug"])
    with torch.no_grad():
        assert torch.equal(prior.predict(x_t, at, cond, None).x0, full.predict(x_t, same, cond, None).x0)
    assert cases("lcm").prior.timestep(t).unique().tolist() == list(range(19, 1000, 20))


@pytest.mark.parametrize(
    ("family", "named", "words", "steps"),
    [
        ("sd", "sd-turbo", "used at 4 timesteps", 4),
        ("sd3", "sd35-turbo", "guidance.scale=1", 0),
        ("flux schnell", "FLUX.1-schnell", "guidance.scale=1", 0),
        ("flux dev", "FLUX.1-dev", "no true unconditional branch", 0),
        ("sd", "sd", "", 0),
    ],
)
def test_unusual_models_are_named_in_a_line(
    family: str, named: str, words: str, steps: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prior = Case(family, tmp_path / named).prior
    assert prior.family.noising.steps == steps
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("sds3d")]
    assert [words in message for message in messages] == ([True] if words else [])


def test_the_embedded_guidance_of_flux_is_the_one_it_was_distilled_for():
    assert flow.FLUX_GUIDANCE == 3.5
