"""Tiny random pipelines of diffusers' real classes, with a few hundred thousand parameters each."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    IFPipeline,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from sds3d.guidance.base import Views, guided_prediction
from sds3d.priors.base import Prior
from sds3d.toybox.diffusion import make_tokenizer

WORDS = ["a", "red", "blue", "mug", "chair"]
WEIGHTS = "diffusion_pytorch_model.safetensors"
LAYERS = 2
"""ResNet layers per block of the tiny MVDream."""
FAMILIES = ("sd", "sd v", "lcm", "sdxl", "sd3", "flux dev", "flux schnell", "if")


def tiny_pipeline(family: str) -> Any:
    """Return a pipeline of one of `FAMILIES`, with the same weights in every call."""
    torch.manual_seed(0)
    match family:
        case "sd" | "sd v":
            scheduler = ddim("v_prediction" if family == "sd v" else "epsilon")
            return StableDiffusionPipeline(
                vae(), clip(), make_tokenizer(WORDS), unet(), scheduler, None, None, requires_safety_checker=False
            )
        case "lcm":
            scheduler = LCMScheduler(
                beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False
            )
            return LatentConsistencyModelPipeline(
                vae(), clip(), make_tokenizer(WORDS), unet(time_cond_proj_dim=32), scheduler, None, None,
                requires_safety_checker=False,
            )  # fmt: skip
        case "sdxl":
            conditioned = unet(
                cross_attention_dim=64, addition_embed_type="text_time", addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=6 * 8 + 32, use_linear_projection=True,
            )  # fmt: skip
            tokenizers = make_tokenizer(WORDS), make_tokenizer(WORDS)
            return StableDiffusionXLPipeline(
                vae(), clip(), clip(projected=True), *tokenizers, conditioned, ddim("epsilon"), add_watermarker=False
            )
        case "sd3":
            transformer = SD3Transformer2DModel(
                sample_size=8, patch_size=2, in_channels=16, num_layers=2, attention_head_dim=8, num_attention_heads=4,
                joint_attention_dim=64, caption_projection_dim=32, pooled_projection_dim=64, out_channels=16,
                pos_embed_max_size=16,
            )  # fmt: skip
            scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
            return StableDiffusion3Pipeline(
                transformer, scheduler, vae(16), clip(projected=True), make_tokenizer(WORDS), clip(projected=True),
                make_tokenizer(WORDS), t5(64), t5_tokenizer(),
            )  # fmt: skip
        case "flux dev" | "flux schnell":
            dev = family == "flux dev"
            transformer = FluxTransformer2DModel(
                in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
                joint_attention_dim=32, pooled_projection_dim=32, guidance_embeds=dev, axes_dims_rope=(4, 6, 6),
            )  # fmt: skip
            scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0 if dev else 1.0, use_dynamic_shifting=dev)
            tokenizer = t5_tokenizer(24 if dev else 16)
            return FluxPipeline(scheduler, vae(16), clip(), make_tokenizer(WORDS), t5(32), tokenizer, transformer)
        case "if":
            pixels = UNet2DConditionModel(
                sample_size=16, in_channels=3, out_channels=6, layers_per_block=1, block_out_channels=(16, 32),
                norm_num_groups=8,
                down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
                mid_block_type="UNetMidBlock2DSimpleCrossAttn",
                up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
                cross_attention_dim=32, encoder_hid_dim=32, encoder_hid_dim_type="text_proj", attention_head_dim=8,
                addition_embed_type="text", addition_embed_type_num_heads=2, cross_attention_norm="group_norm",
                resnet_time_scale_shift="scale_shift", act_fn="gelu",
            )  # fmt: skip
            scheduler = DDPMScheduler(
                beta_schedule="squaredcos_cap_v2", variance_type="learned_range", clip_sample=False
            )
            return IFPipeline(
                t5_tokenizer(), t5(32), pixels, scheduler, None, None, None, requires_safety_checker=False
            )
        case _:
            raise ValueError(family)


def unet(**changes: Any) -> UNet2DConditionModel:
    """Return a latent U-Net for 8 x 8 latents with 4 channels."""
    options: dict[str, Any] = {
        "sample_size": 8, "block_out_channels": (16, 32), "norm_num_groups": 8, "layers_per_block": 1,
        "cross_attention_dim": 32,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "attention_head_dim": 8,
    }  # fmt: skip
    return UNet2DConditionModel(**options | changes)


def tiny_mvdream(folder: Path) -> Path:
    """Write a folder in the layout of a stock U-Net, with MVDream's camera network in `camera_proj`. Returns it."""
    tiny_pipeline("sd").save_pretrained(folder)
    torch.manual_seed(2)
    shutil.rmtree(folder / "unet")
    types = {
        "down_block_types": ("CrossAttnDownBlock2D",) * 2, "up_block_types": ("CrossAttnUpBlock2D",) * 2,
        "attention_head_dim": (2, 4), "block_out_channels": (32, 64), "norm_num_groups": 32,
        "use_linear_projection": True, "layers_per_block": LAYERS,
    }  # fmt: skip
    unet(**types).save_pretrained(folder / "unet")
    (folder / "camera_proj").mkdir()
    names = {"0": "linear_1", "2": "linear_2"}
    state = {f"{names[key[0]]}{key[1:]}": value for key, value in pose_network().state_dict().items()}
    save_file(state, folder / "camera_proj" / WEIGHTS)
    index = folder / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "_class_name": "MVDreamPipeline"}))
    return folder


def pose_network() -> nn.Sequential:
    """Return MVDream's camera network for the tiny U-Net."""
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(16, 128), nn.SiLU(), nn.Linear(128, 128))


def vae(channels: int = 4) -> AutoencoderKL:
    """Return an autoencoder that halves the size. With 16 channels, latents have the shift of SD3 and FLUX."""
    shift: dict[str, Any] = {"shift_factor": 0.0609, "scaling_factor": 1.5305, "use_quant_conv": False,
                             "use_post_quant_conv": False} if channels == 16 else {}  # fmt: skip
    return AutoencoderKL(
        block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=channels,
        up_block_types=("UpDecoderBlock2D",) * 2, **shift,
    )  # fmt: skip


def ddim(prediction_type: str) -> DDIMScheduler:
    """Return a scheduler with Stable Diffusion's noise levels that samples from the last one down."""
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction_type,
        clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing", steps_offset=1,
    )  # fmt: skip


def clip(*, projected: bool = False) -> Any:
    """Return a text encoder with 32 channels."""
    tokenizer = make_tokenizer(WORDS)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=24, projection_dim=32, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return CLIPTextModelWithProjection(config) if projected else CLIPTextModel(config)


def t5(width: int) -> T5EncoderModel:
    """Return a T5 encoder."""
    config = T5Config(
        vocab_size=len(t5_tokenizer()), d_model=width, d_ff=37, d_kv=8, num_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    return T5EncoderModel(config)


def t5_tokenizer(length: int = 512) -> T5TokenizerFast:
    """Return a tokenizer whose vocabulary is `WORDS`."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -10.0), *((f"▁{word}", -1.0) for word in WORDS), ("▁", -2.0)]
    return T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=length)


def ddim_picture(prior: Prior, views: Views, noise: Tensor, steps: int, scale: float) -> Tensor:
    """Return DDIM's picture from noise, at the evenly spaced timesteps of the pipelines here."""
    scheduler, x = ddim("epsilon"), noise
    scheduler.set_timesteps(steps)
    for timestep in scheduler.timesteps.tolist():
        guided = guided_prediction(prior, x, torch.tensor([timestep / 999]), views, scale)
        following = timestep - 1000 // steps
        alpha_bar = prior.alpha(torch.tensor(following / 999)) ** 2 if following >= 0 else torch.tensor(1.0)
        x = alpha_bar.sqrt() * guided.x0 + (1 - alpha_bar).sqrt() * guided.eps
    return prior.decode(x)
