"""The latent prior against diffusers' own pipeline, on tiny random models saved to and loaded from disk."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from sds3d.cameras import turntable
from sds3d.files import PriorError
from sds3d.guidance.base import guided_prediction
from sds3d.guidance.sampling import Conditions, sample, sampling_times
from sds3d.priors.base import add_noise
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.priors.multiview import CameraEncoder
from sds3d.toybox.diffusion import make_tokenizer
from tests.guidance.views import views_of


def tiny_pipeline(prediction_type: str) -> StableDiffusionPipeline:
    torch.manual_seed(0)
    tokenizer = make_tokenizer(["a", "red", "blue", "mug", "chair"])
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=37,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=24,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=8,
    )
    vae = AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="linspace",
    )
    return StableDiffusionPipeline(
        vae, text_encoder, tokenizer, unet, scheduler, None, None, requires_safety_checker=False
    )


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    tiny_pipeline(request.param).save_pretrained(path)
    return path


def test_reproduces_the_pipelines_own_pictures(folder: Path) -> None:
    """DDIM on our predictions, at the pipeline's own timesteps, gives the picture of its `__call__`."""
    prior = DiffusersConfig(model=str(folder)).load()
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    views = views_of(prior, 1, "a red mug")
    pipeline.scheduler.set_timesteps(5)
    x = noise
    for timestep in pipeline.scheduler.timesteps.tolist():
        guided = guided_prediction(prior, x, torch.tensor([timestep / 999]), views, 7.5)
        following = timestep - 1000 // 5  # the scheduler's next timestep; after the last one there is no noise
        alpha_bar = prior.alpha(torch.tensor(following / 999)) ** 2 if following >= 0 else torch.tensor(1.0)
        x = alpha_bar.sqrt() * guided.x0 + (1 - alpha_bar).sqrt() * guided.eps
    theirs = pipeline("a red mug", num_inference_steps=5, guidance_scale=7.5, latents=noise, output_type="np").images
    np.testing.assert_allclose(prior.decode(x).numpy(), theirs, atol=2e-5)


def test_prediction_inverts_the_noising(folder: Path) -> None:
    prior = DiffusersConfig(model=str(folder)).load()
    x_t = torch.randn(2, 4, 16, 16)
    t = torch.tensor([0.3, 0.8])
    out = prior.predict(x_t, t, prior.encode_text(["a red mug", ""]), None)
    torch.testing.assert_close(add_noise(prior, out.x0, out.eps, t), x_t, atol=1e-4, rtol=1e-4)


def test_encoding_is_differentiable_and_deterministic(folder: Path) -> None:
    prior = DiffusersConfig(model=str(folder)).load()
    rgb = torch.rand(1, 32, 32, 3, requires_grad=True)
    x = prior.encode_image(rgb)
    assert x.shape == (1, 4, 16, 16)
    x.sum().backward()
    assert rgb.grad is not None
    assert rgb.grad.abs().sum() > 0
    torch.testing.assert_close(x, prior.encode_image(rgb))


def test_views_and_cameras_matter_only_in_a_multiview_folder(folder: Path, tmp_path: Path) -> None:
    multi = tmp_path / "multi"
    shutil.copytree(folder, multi)
    torch.manual_seed(1)
    unet_time_dim = 128  # 4 x the first block's channels
    CameraEncoder(unet_time_dim).save(multi / "camera_encoder")
    plain, joint = DiffusersConfig(model=str(folder)).load(), DiffusersConfig(model=str(multi)).load()
    assert (plain.n_views, joint.n_views) == (1, 4)
    x_t, t = torch.randn(4, 4, 16, 16), torch.full((4,), 0.5)
    cond = plain.encode_text(["a red mug"] * 4)
    cameras = turntable(4)
    base = plain.predict(x_t, t, cond, cameras).eps
    # Without cameras, the multi-view model equals the plain one.
    torch.testing.assert_close(joint.predict(x_t, t, cond, None).eps, base, atol=1e-5, rtol=1e-4)
    with_cameras = joint.predict(x_t, t, cond, cameras).eps
    assert (with_cameras - base).abs().max() > 1e-3
    # Views attend to each other: changing the last view changes the first one's prediction.
    other = x_t.clone()
    other[3] += 1
    assert (joint.predict(other, t, cond, cameras).eps[0] - with_cameras[0]).abs().max() > 1e-4
    torch.testing.assert_close(plain.predict(other, t, cond, cameras).eps[0], base[0], atol=1e-5, rtol=1e-4)
    # Loaded as a 2D model, it has one view.
    assert DiffusersConfig(model=str(multi), multiview=False).load().n_views == 1


def test_missing_and_truncated_weights_are_reported_in_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(PriorError, match="can't load the model"):
        DiffusersConfig(model=str(tmp_path)).load()
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    weights = broken / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(PriorError) as error:
        DiffusersConfig(model=str(broken)).load()
    assert "\n" not in str(error.value)
    scheduler = broken / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps({**json.loads(scheduler.read_text()), "prediction_type": "sample"}))
    shutil.copy(folder / "unet" / "diffusion_pytorch_model.safetensors", weights)
    with pytest.raises(PriorError, match="prediction type"):
        DiffusersConfig(model=str(broken)).load()


def test_ddim_of_a_multiview_prior_keeps_shapes(folder: Path) -> None:
    prior = DiffusersConfig(model=str(folder)).load()
    noise = torch.randn(2, 4, 16, 16)
    cond, null = prior.encode_text(["a red mug"] * 2), prior.encode_text([""] * 2)
    x = sample(prior, noise, Conditions(turntable(2), cond, null), sampling_times(prior, 3))
    assert x.shape == noise.shape
    assert torch.isfinite(x).all()
