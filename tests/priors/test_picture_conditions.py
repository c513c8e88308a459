"""IP-Adapters and image variations against diffusers' own pipelines, on tiny random models saved and loaded offline."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    StableDiffusionImageVariationPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from sds3d.files import PriorError
from sds3d.priors.base import Prior
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.priors.pictures import Adapter, PictureEncoder
from sds3d.prompts.prompt import PromptConfig, encode_texts, prompt_texts
from tests.guidance.views import views_of
from tests.priors.test_lora import saved
from tests.priors.tiny import ddim, ddim_picture, tiny_pipeline, unet, vae

PICTURE = np.random.default_rng(3).integers(0, 256, (40, 56, 3), np.uint8)
"""A picture that is no square, so that it is resized and cropped."""
PIPELINES = {"sd": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}


def image_encoder(projection: int = 24) -> CLIPVisionModelWithProjection:
    torch.manual_seed(7)
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=20, intermediate_size=24, projection_dim=projection, num_hidden_layers=3, num_attention_heads=4,
            image_size=32, patch_size=8,
        )
    )  # fmt: skip


def adapter(network: Any, kind: str) -> dict[str, Tensor]:
    """Return a random IP-Adapter in the layout of the published files, for a U-Net."""
    width, draws = network.config["cross_attention_dim"], torch.Generator().manual_seed(5)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draws) / shape[-1] ** 0.5

    state = {}
    if kind == "plain":
        state = {"proj.weight": random(4 * width, 24), "proj.bias": random(4 * width)}
        state |= {"norm.weight": 1 + random(width), "norm.bias": random(width)}
        state["norm.weight"] = state["norm.weight"].abs()
    elif kind == "full":
        state = {"proj.0.weight": random(20, 20), "proj.0.bias": random(20), "proj.2.weight": random(width, 20)}
        state |= {"proj.2.bias": random(width), "proj.3.weight": random(width).abs(), "proj.3.bias": random(width)}
    else:
        hidden, layers = 64, 4
        state = {"latents": random(1, 6, hidden), "proj_in.weight": random(hidden, 20), "proj_in.bias": random(hidden)}
        state |= {"proj_out.weight": random(width, hidden), "proj_out.bias": random(width)}
        state |= {"norm_out.weight": random(width).abs(), "norm_out.bias": random(width)}
        for i in range(layers):
            for norm in ("0.norm1", "0.norm2", "1.0"):
                state |= {f"layers.{i}.{norm}.weight": random(hidden).abs(), f"layers.{i}.{norm}.bias": random(hidden)}
            state |= {
                f"layers.{i}.0.to_q.weight": random(64, hidden),
                f"layers.{i}.0.to_kv.weight": random(128, hidden),
            }
            state |= {f"layers.{i}.0.to_out.weight": random(hidden, 64), f"layers.{i}.1.1.weight": random(256, hidden)}
            state |= {f"layers.{i}.1.3.weight": random(hidden, 256)}
    named = {f"image_proj.{name}": value for name, value in state.items()}
    places = [name for name in network.attn_processors if name.endswith("attn2.processor")]
    for number, place in enumerate(places):
        layer = network.get_submodule(place.removesuffix(".processor"))
        for key in ("to_k", "to_v"):
            weight = getattr(layer, key).weight
            named[f"ip_adapter.{2 * number + 1}.{key}_ip.weight"] = random(*weight.shape)
    return named


def save_adapter(folder: Path, network: Any, kind: str) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(adapter(network, kind), folder / f"{kind}.safetensors")
    image_encoder().save_pretrained(folder / "image_encoder")
    return folder


@pytest.fixture(scope="module", params=["sd", "sdxl"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("family") / request.param
    tiny_pipeline(request.param).save_pretrained(path)
    return path


def rgb() -> Tensor:
    return torch.from_numpy(PICTURE)[None] / 255


def shown(prior: Prior, text: str, scale: float, noise: Tensor, pictures: Tensor | None, steps: int = 3) -> Tensor:
    """Return DDIM's picture at the evenly spaced timesteps of the pipelines here."""
    texts = prompt_texts(text, PromptConfig(view_dependent=False))
    views = views_of(prior, 1)
    views = type(views)(views.cameras, views.rgb, views.alpha, views.depth, encode_texts(prior, texts, pictures))
    return ddim_picture(prior, views, noise, steps, scale)


@pytest.mark.parametrize("kind", ["plain", "plus", "full"])
def test_adapters_give_the_pictures_of_diffusers_pipelines(folder: Path, kind: str, tmp_path: Path) -> None:
    pipeline = PIPELINES[folder.name].from_pretrained(folder, local_files_only=True)
    files = save_adapter(tmp_path / "adapter", pipeline.unet, kind)
    prior = DiffusersConfig(model=str(folder), ip_adapter=str(files), ip_adapter_scale=0.6).load()
    assert prior.takes_pictures
    pictures = prior.encode_picture(rgb())
    assert pictures.shape == ((1, 1, 24) if kind == "plain" else (1, 17, 20))
    pipeline.load_ip_adapter(files, subfolder="", weight_name=f"{kind}.safetensors", local_files_only=True)
    pipeline.set_ip_adapter_scale(0.6)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    theirs = pipeline(
        "a red mug", ip_adapter_image=Image.fromarray(PICTURE), num_inference_steps=3, guidance_scale=5.0,
        latents=noise.clone(), output_type="np", height=16, width=16,
    ).images  # fmt: skip
    ours = shown(prior, "a red mug", 5.0, noise, pictures)
    np.testing.assert_allclose(ours.numpy(), theirs, atol=2e-5)
    assert (ours - shown(prior, "a red mug", 5.0, noise, None)).abs().max() > 1e-3


def test_a_scale_of_zero_is_the_model_without_an_adapter(folder: Path, tmp_path: Path) -> None:
    plain = DiffusersConfig(model=str(folder)).load()
    files = save_adapter(tmp_path / "adapter", plain.network, "plain")
    prior = DiffusersConfig(model=str(folder), ip_adapter=str(files), ip_adapter_scale=0).load()
    x, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2)), torch.tensor([0.4])
    expected = plain.predict(x, t, plain.encode_text(["a mug"]), None)
    torch.testing.assert_close(prior.predict(x, t, prior.encode_text(["a mug"]), None).eps, expected.eps)


def test_a_trainable_copy_starts_as_the_prior_with_its_picture(folder: Path, tmp_path: Path) -> None:
    plain = DiffusersConfig(model=str(folder)).load()
    prior = DiffusersConfig(
        model=str(folder), ip_adapter=str(save_adapter(tmp_path / "adapter", plain.network, "plain"))
    ).load()
    texts = prompt_texts("a mug", PromptConfig(view_dependent=False))
    told = encode_texts(prior, texts, prior.encode_picture(rgb())).plain
    x, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2)), torch.tensor([0.4])
    for rank in (2, 0):
        copy = prior.trainable_score(torch.Generator().manual_seed(0), rank)
        torch.testing.assert_close(copy.predict(x, t, told, None).eps, prior.predict(x, t, told, None).eps)
    with pytest.raises(PriorError, match="takes no pictures"):
        plain.predict(x, t, told, None)


def variation(folder: Path) -> Path:
    kind: Any = StableDiffusionImageVariationPipeline
    pipeline = kind(
        vae(), image_encoder(32), unet(), ddim("epsilon"), None,
        CLIPImageProcessor(size=32, crop_size=32), requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder)
    return folder


def test_a_variation_model_gives_the_pictures_of_its_pipeline(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    files = variation(tmp_path / "variation")
    prior = DiffusersConfig(model=str(files)).load()
    assert "reads the picture prompts.image and no text" in caplog.text
    kind: Any = StableDiffusionImageVariationPipeline
    pipeline = kind.from_pretrained(files, safety_checker=None, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    theirs = pipeline(
        Image.fromarray(PICTURE), num_inference_steps=3, guidance_scale=3.0, latents=noise.clone(), output_type="np",
        height=16, width=16,
    ).images  # fmt: skip
    ours = shown(prior, "any words", 3.0, noise, prior.encode_picture(rgb()))
    np.testing.assert_allclose(ours.numpy(), theirs, atol=2e-5)
    assert torch.equal(prior.encode_text(["a"]).hidden, torch.zeros(1, 1, 32))


def test_settings_of_an_adapter_that_is_not_there_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = tmp_path / "model"
    pipeline = tiny_pipeline("sd")
    pipeline.save_pretrained(model)
    files = save_adapter(tmp_path / "adapter", pipeline.unet, "plain")

    def warned(**given: Any) -> list[str]:
        caplog.clear()
        DiffusersConfig.model_validate({"model": str(model)} | given).load()
        return [record.getMessage() for record in caplog.records if record.name.startswith("sds3d")]

    encoder = {"image_encoder": str(files / "image_encoder"), "ip_adapter_scale": 0.6}
    assert warned(lora_scale=0.5, **encoder) == [
        f"{model}: prior.{name} has no effect without prior.{part}: set that, or remove the setting"
        for name, part in (("image_encoder", "ip_adapter"), ("ip_adapter_scale", "ip_adapter"), ("lora_scale", "lora"))
    ]
    assert warned(ip_adapter=str(files), **encoder) == warned() == []


def test_files_that_do_not_fit_are_refused_in_one_line(tmp_path: Path) -> None:
    model = tmp_path / "model"
    pipeline = tiny_pipeline("sd")
    pipeline.save_pretrained(model)
    good = save_adapter(tmp_path / "good", pipeline.unet, "plain")

    def refused(words: str, place: Path | str, **further: Any) -> None:
        with pytest.raises(PriorError) as caught:
            DiffusersConfig.model_validate({"model": str(model), "ip_adapter": str(place)} | further).load()
        message = str(caught.value)
        assert words in message
        assert "\n" not in message

    refused("no .safetensors file", tmp_path / "nowhere")
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(good / "plain.safetensors", alone)
    refused("there is no image encoder", alone)
    refused("has no config.json", alone, image_encoder=str(tmp_path))
    DiffusersConfig(model=str(model), ip_adapter=str(alone), image_encoder=str(good / "image_encoder")).load()
    shutil.copy(good / "plain.safetensors", good / "second.safetensors")
    refused("has 2 files", good)
    wide = save_adapter(tmp_path / "wide", tiny_pipeline("sdxl").unet, "plain")
    refused("a text width of 64, and this model's is 32", wide)
    other = tmp_path / "other"
    image_encoder(16).save_pretrained(other)
    refused("takes 24 values of an image encoder", alone, image_encoder=str(other))
    state = adapter(pipeline.unet, "plain")
    for name, change, words in (
        ("text", {key.replace("image_proj", "text"): value for key, value in state.items()}, "no layers named"),
        ("face", state | {"image_proj.perceiver_resampler.proj_in.weight": torch.zeros(1)}, "FaceID"),
    ):
        file = tmp_path / f"{name}.safetensors"
        save_file(change, file)
        refused(words, file)
    (tmp_path / "cut.safetensors").write_bytes((alone / "plain.safetensors").read_bytes()[:100])
    refused("truncated or damaged", tmp_path / "cut.safetensors")
    flow = tmp_path / "sd3"
    flow.mkdir()
    (flow / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusion3Pipeline"}))
    refused("StableDiffusion3Pipeline takes none", alone, model=str(flow))


def test_an_adapter_stands_beside_a_lora(tmp_path: Path) -> None:
    model, lora = saved("sd", tmp_path)
    kind: Any = StableDiffusionPipeline
    pipeline = kind.from_pretrained(model, safety_checker=None, local_files_only=True)
    files = save_adapter(tmp_path / "adapter", pipeline.unet, "plain")
    pipeline.load_ip_adapter(files, subfolder="", weight_name="plain.safetensors", local_files_only=True)
    pipeline.load_lora_weights(lora)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    theirs = pipeline(
        "a red mug", ip_adapter_image=Image.fromarray(PICTURE), num_inference_steps=3, guidance_scale=5.0,
        latents=noise.clone(), output_type="np", height=16, width=16,
    ).images  # fmt: skip
    prior = DiffusersConfig(model=str(model), ip_adapter=str(files), lora=str(lora)).load()
    ours = shown(prior, "a red mug", 5.0, noise, prior.encode_picture(rgb()))
    np.testing.assert_allclose(ours.numpy(), theirs, atol=2e-5)


def test_what_stands_for_no_picture_is_chosen_without_waiting_for_a_device() -> None:
    """Tensors on the meta device have no values, so that reading one of them would raise."""
    encoder = PictureEncoder(load=lambda: None, processor=None, tokens=True)
    adapter_of = Adapter(encoder, torch.zeros(1, 17, 20, device="meta"))
    (told,) = adapter_of.embeds(torch.zeros(3, 17, 20, device="meta"), 3, torch.float32)
    assert told.shape == (3, 1, 17, 20)
