"""LoRA files: pictures equal those of diffusers' own pipeline with the file loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from transformers import T5EncoderModel

from sds3d.cameras import turntable
from sds3d.files import PriorError
from sds3d.guidance.sampling import Conditions, sample
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.priors.flow import packed
from sds3d.priors.network import Denoiser
from tests.priors.tiny import tiny_pipeline


def random_updates(network: Any, targets: list[str]) -> dict[str, torch.Tensor]:
    inject_adapter_in_model(LoraConfig(r=2, lora_alpha=2, target_modules=targets), network)
    for name, parameter in network.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return get_peft_model_state_dict(network)


def saved(family: str, folder: Path) -> tuple[Path, Path]:
    """Save a pipeline, and a LoRA file with random updates of its networks. Return folder and file."""
    tiny_pipeline(family).save_pretrained(folder / "model")
    pipeline = tiny_pipeline(family)  # gets the updates
    torch.manual_seed(4)
    layers = {}
    for part in ("unet", "transformer", "text_encoder", "text_encoder_2"):
        if (network := getattr(pipeline, part, None)) is not None and not (family == "sd3" and "text" in part):
            targets = ["q_proj", "v_proj", "out_proj"] if "text" in part else ["to_q", "to_v"]
            if not isinstance(network, T5EncoderModel):  # FLUX's T5, which has no LoRA layers
                layers[f"{part}_lora_layers"] = random_updates(network, targets)
    pipeline.save_lora_weights(folder, **layers)
    return folder / "model", folder / "pytorch_lora_weights.safetensors"


def as_kohya(file: Path, *, numbered: bool) -> Path:
    """Convert a LoRA file from diffusers' layout to kohya's, with an alpha for each layer.

    numbered: number SDXL's blocks consecutively, as in the original code. The tiny U-Net has one layer per block.
    """
    parts = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}
    names = {"lora_A": "lora_down", "lora_B": "lora_up", "lora.down": "lora_down", "lora.up": "lora_up"}
    blocks = {"down_blocks_1_attentions_0": "input_blocks_3_1", "mid_block_attentions_0": "middle_block_1"}
    blocks |= {f"up_blocks_0_attentions_{i}": f"output_blocks_{i}_1" for i in range(2)}
    renamed = {}
    for name, value in load_file(file).items():
        part, layer = name.split(".", 1)
        ((old, new),) = [pair for pair in names.items() if f".{pair[0]}." in layer]
        layer = layer.removesuffix(f".{old}.weight").replace(".", "_")
        if "text" in part:  # transformers dropped this level of CLIP's names, but the files keep it
            layer = f"text_model_{layer.removeprefix('text_model_')}"
        if numbered and part == "unet":
            ((block, number),) = [pair for pair in blocks.items() if layer.startswith(pair[0])]
            layer = layer.replace(block, number)
        renamed[f"{parts[part]}_{layer}.{new}.weight"] = value
        renamed[f"{parts[part]}_{layer}.alpha"] = torch.tensor(1.0)  # at rank 2, this scales the update by 1/2
    save_file(renamed, file.with_name("kohya.safetensors"))
    return file.with_name("kohya.safetensors")


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux dev", "sdxl, kohya's", "sdxl, kohya's numbers"])
def test_draws_what_the_pipeline_draws_with_the_file(family: str, tmp_path: Path) -> None:
    family, _, layout = family.partition(", ")
    folder, file = saved(family, tmp_path)
    if layout:
        file = as_kohya(file, numbered="numbers" in layout)
    prior = DiffusersConfig(model=str(folder), lora=str(file), lora_scale=0.7, image_size=16).load()
    plain = DiffusersConfig(model=str(folder), image_size=16).load()
    pipeline: Any = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(str(file))
    flow = family in ("sd3", "flux dev")
    noise = torch.randn(1, 16 if flow else 4, 8, 8, generator=torch.Generator().manual_seed(1))
    options: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 4.0, "output_type": "np", "latents": noise}
    options["joint_attention_kwargs" if flow else "cross_attention_kwargs"] = {"scale": 0.7}
    if family == "flux dev":
        options |= {"latents": packed(noise), "height": 16, "width": 16, "max_sequence_length": 24}
        options |= {"guidance_scale": 3.5, "true_cfg_scale": 4.0, "negative_prompt": ""}
    theirs = pipeline("a red mug", **options).images
    scheduler = pipeline.scheduler
    times = scheduler.sigmas.tolist() if flow else [*(scheduler.timesteps / 999).tolist(), 0.0]

    def drawn(prior: Any) -> np.ndarray:
        cond, null = prior.encode_text(["a red mug"]), prior.encode_text([""])
        return prior.decode(
            sample(prior, noise, Conditions(turntable(1), cond, null, 4.0), torch.tensor(times))
        ).numpy()

    np.testing.assert_allclose(drawn(prior), theirs, atol=2e-5)
    assert np.abs(drawn(plain) - theirs).max() > 1e-3
    if family == "sdxl":  # the file updates its text encoders too
        ours, without = (one.encode_text(["a red mug"]) for one in (prior, plain))
        assert (ours.hidden - without.hidden).abs().amax(dim=(0, 1)).gt(1e-4).float().mean() > 0.9
    assert not any("lora" in name for name, _ in prior.network.named_parameters())


@pytest.mark.parametrize("family", ["lcm", "if"])
def test_the_network_equals_the_pipelines_with_the_file(family: str, tmp_path: Path) -> None:
    """If models have their own samplers, the pipeline's network with the file loaded predicts the same."""
    folder, file = saved(family, tmp_path)
    prior = DiffusersConfig(model=str(folder), lora=str(file), lora_scale=0.7).load()
    plain = DiffusersConfig(model=str(folder)).load()
    pipeline: Any = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.load_lora_weights(str(file))
    pipeline.fuse_lora(components=["unet"], lora_scale=0.7)
    x = prior.encode_image(torch.rand(2, prior.image_size, prior.image_size, 3))
    t, cond = torch.tensor([0.3, 0.8]), plain.encode_text(["a red mug", ""])
    with torch.no_grad():
        ours, without = prior.predict(x, t, cond, None), plain.predict(x, t, cond, None)
        theirs = prior.predict_by(Denoiser(pipeline.unet, torch.float32), x, t, cond, None)
    torch.testing.assert_close(ours.eps, theirs.eps, atol=1e-5, rtol=1e-5)
    assert (ours.eps - without.eps).abs().max() > 1e-3


def test_unusable_files_are_reported_in_one_line(tmp_path: Path) -> None:
    folder, file = saved("sd", tmp_path)
    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, other)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(file.read_bytes()[:200])
    tiny_pipeline("sdxl").save_pretrained(tmp_path / "xl")
    for name, model, reason in (
        ("missing.safetensors", folder, "the file does not exist"),
        ("weights.bin", folder, "pickled ones are not read"),
        (str(other), folder, "LoRA"),
        (str(broken), folder, "can't load the LoRA"),
        (str(file), tmp_path / "xl", "another model"),
    ):
        with pytest.raises(PriorError, match=reason) as error:
            DiffusersConfig(model=str(model), lora=name).load()
        assert "\n" not in str(error.value)
