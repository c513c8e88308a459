"""LoRA files on a model: the same pictures as diffusers' own pipeline with the file loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import save_file
from transformers import T5EncoderModel

from sds3d.cameras import turntable
from sds3d.priors.base import PriorError
from sds3d.priors.diffusers import DiffusersConfig, load_prior
from sds3d.priors.flow import packed
from sds3d.priors.sampling import ddim
from tests.priors.tiny import tiny_pipeline


def random_updates(network: Any, targets: list[str]) -> dict[str, torch.Tensor]:
    inject_adapter_in_model(LoraConfig(r=2, lora_alpha=2, target_modules=targets), network)
    for name, parameter in network.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return get_peft_model_state_dict(network)


def saved(family: str, folder: Path) -> tuple[Path, Path]:
    """The folder of a pipeline, and a file of random updates of its networks."""
    tiny_pipeline(family).save_pretrained(folder / "model")
    pipeline = tiny_pipeline(family)  # to be updated
    torch.manual_seed(4)
    layers = {}
    for part in ("unet", "transformer", "text_encoder", "text_encoder_2"):
        if (network := getattr(pipeline, part, None)) is not None and not (family == "sd3" and "text" in part):
            targets = ["q_proj", "v_proj"] if "text" in part else ["to_q", "to_v"]
            if not isinstance(network, T5EncoderModel):  # FLUX's, which takes no updates
                layers[f"{part}_lora_layers"] = random_updates(network, targets)
    pipeline.save_lora_weights(folder, **layers)
    return folder / "model", folder / "pytorch_lora_weights.safetensors"


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux dev"])
def test_draws_what_the_pipeline_draws_with_the_file(family: str, tmp_path: Path) -> None:
    folder, file = saved(family, tmp_path)
    prior = load_prior(DiffusersConfig(model=str(folder), lora=str(file), lora_scale=0.7, image_size=16))
    plain = load_prior(DiffusersConfig(model=str(folder), image_size=16))
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
        return prior.decode(ddim(prior, noise, turntable(1), cond, null, scale=4.0, times=times)).numpy()

    np.testing.assert_allclose(drawn(prior), theirs, atol=2e-5)
    assert np.abs(drawn(plain) - theirs).max() > 1e-3
    if family == "sdxl":  # its text encoders are updated too
        ours, without = (one.encode_text(["a red mug"]) for one in (prior, plain))
        assert (ours.hidden - without.hidden).abs().amax(dim=(0, 1)).gt(1e-4).float().mean() > 0.9
    assert not any("lora" in name for name, _ in prior.network.named_parameters())


def test_unusable_files_are_said_in_one_line(tmp_path: Path) -> None:
    folder, file = saved("sd", tmp_path)
    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, other)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(file.read_bytes()[:200])
    tiny_pipeline("sdxl").save_pretrained(tmp_path / "xl")
    for name, model, reason in (
        ("missing.safetensors", folder, "there is no such file"),
        ("weights.bin", folder, "pickled ones are not read"),
        (str(other), folder, "LoRA"),
        (str(broken), folder, "can't load the LoRA"),
        (str(file), tmp_path / "xl", "another model"),
    ):
        with pytest.raises(PriorError, match=reason) as error:
            load_prior(DiffusersConfig(model=str(model), lora=name))
        assert "\n" not in str(error.value)
