"""Rectified-flow transformers: Stable Diffusion 3 and 3.5 (arXiv:2403.03206), and FLUX.1.

FLUX.1-dev is guidance-distilled: it takes a guidance scale (`embedded_guidance`, 3.5 by default) and predicts what a
guided model would predict. It has no true unconditional branch, because its prediction for the empty prompt is also
guided. Rules that compare with the empty prompt (classifier-free guidance, CSD, ASD) thus differ from their papers.
FLUX.1-schnell is a few-step student, used without guidance.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sds3d.priors.loading import ModelFiles
from sds3d.priors.network import Ask, DiffusionPrior, Family, frozen
from sds3d.priors.noising import Flow, shift_of
from sds3d.priors.pixels import Latents, vae_format
from sds3d.priors.texts import Encode, Texts, clip_embedding, t5_embedding, tokens_of
from sds3d.priors.unet_latent import image_size_of, load_vae
from sds3d.prompts.conditioning import Conditioning

SD3_TOKENS = 256
FLUX_TOKENS = 512
FLUX_GUIDANCE = 3.5
FLUX_SIZE = 128  # latents per side of the default 1024 px


def load_sd3(files: ModelFiles) -> DiffusionPrior:
    """Load a folder of Stable Diffusion 3 or 3.5. Without its T5 encoder, that part of the text is zeros."""
    from diffusers import SD3Transformer2DModel

    part = "transformer"
    if files.has(part) and files.config(part).get("sample_size", 0) is None:  # the embedding of positions needs it
        raise files.error('"sample_size" in transformer/config.json is null: write 128, or what it was trained with')
    transformer = frozen(files.denoiser(SD3Transformer2DModel, part), files.device)
    vae = frozen(load_vae(files), files.device, vae_format(files.device))
    config = transformer.config
    size = image_size_of(vae, files.image_size, config["sample_size"], config["patch_size"])
    width: int = config["joint_attention_dim"]
    texts = Texts(lambda: load_sd3_texts(files, width), files.device)
    family = Family(ask_sd3, Flow(files.steps, shift_of(files.scheduler())), Latents(vae), texts, size)
    return DiffusionPrior(family, transformer, files.device)


def ask_sd3(transformer: Any, x_t: Tensor, timestep: Tensor, cond: Conditioning, n_views: int) -> Tensor:
    """Return eps - x, shaped like x_t."""
    return transformer(x_t, cond.hidden, cond.pooled, timestep, return_dict=False)[0]


def load_sd3_texts(files: ModelFiles, width: int) -> Encode:
    """Return a function that encodes texts.

    hidden: two CLIP encoders side by side, padded to T5's width, followed by T5. pooled: CLIP's pooled output.
    """
    from transformers import (
        CLIPTextModelWithProjection,
        CLIPTokenizer,
        T5EncoderModel,
        T5TokenizerFast,  # type: ignore[attr-defined]
    )

    clips = [
        (files.plain(CLIPTokenizer, f"tokenizer{n}"), files.text_encoder(CLIPTextModelWithProjection, part))
        for n, part in (("", "text_encoder"), ("_2", "text_encoder_2"))
    ]
    t5 = None
    if (files.index().get("text_encoder_3") or [None])[0] is not None:
        t5 = files.plain(T5TokenizerFast, "tokenizer_3"), files.text_encoder(T5EncoderModel, "text_encoder_3")

    def encode(text: str) -> Conditioning:
        parts = [clip_embedding(*clip, text) for clip in clips]
        clip = torch.cat([hidden for hidden, _ in parts], dim=-1)
        clip = torch.nn.functional.pad(clip, (0, width - clip.shape[-1]))
        long = clip.new_zeros(1, SD3_TOKENS, width) if t5 is None else t5_embedding(*t5, text, SD3_TOKENS)
        return Conditioning(torch.cat([clip, long], dim=1), torch.cat([pooled for _, pooled in parts], dim=-1))

    return encode


def load_flux(files: ModelFiles) -> DiffusionPrior:
    """Load a folder of FLUX.1. The embedded guidance reaches the models that take it (dev), see above."""
    from diffusers import FluxTransformer2DModel

    transformer = frozen(files.denoiser(FluxTransformer2DModel, "transformer"), files.device)
    vae = frozen(load_vae(files), files.device, vae_format(files.device))
    guidance = None
    if transformer.config["guidance_embeds"]:
        guidance = FLUX_GUIDANCE if files.embedded_guidance is None else files.embedded_guidance
    size = image_size_of(vae, files.image_size, FLUX_SIZE, patch=2)
    texts = Texts(lambda: load_flux_texts(files), files.device)
    tokens = (size // 2 ** len(vae.config["block_out_channels"])) ** 2
    noising = Flow(files.steps, shift_of(files.scheduler(), tokens))
    return DiffusionPrior(Family(ask_flux(guidance), noising, Latents(vae), texts, size), transformer, files.device)


def ask_flux(guidance: float | None) -> Ask:
    """Return a function that calls FLUX for eps - x, shaped like x_t, by 2 x 2 patches with their rows and columns."""

    def ask(transformer: Any, x_t: Tensor, timestep: Tensor, cond: Conditioning, n_views: int) -> Tensor:
        batch, _, height, width = x_t.shape
        rows, columns = torch.arange(height // 2, device=x_t.device), torch.arange(width // 2, device=x_t.device)
        places = torch.cartesian_prod(torch.zeros_like(rows[:1]), rows, columns)  # (h w / 4, 3)
        out = transformer(
            hidden_states=packed(x_t),
            timestep=timestep / 1000,
            guidance=None if guidance is None else torch.full((batch,), guidance, device=x_t.device),
            pooled_projections=cond.pooled,
            encoder_hidden_states=cond.hidden,
            txt_ids=torch.zeros(cond.hidden.shape[1], 3, device=x_t.device, dtype=x_t.dtype),
            img_ids=places.to(x_t.dtype),
            return_dict=False,
        )[0]
        return unpacked(out, height, width)

    return ask


def packed(x: Tensor) -> Tensor:
    """Return latents (B, C, h, w) as tokens of 2 x 2 patches, (B, h w / 4, 4 C)."""
    batch, channels, height, width = x.shape
    patches = x.reshape(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(batch, height * width // 4, 4 * channels)


def unpacked(tokens: Tensor, height: int, width: int) -> Tensor:
    """Undo `packed` for latents of this height and width."""
    patches = tokens.unflatten(-1, (-1, 2, 2)).unflatten(1, (height // 2, width // 2))  # (B, h/2, w/2, C, 2, 2)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(len(tokens), -1, height, width)


def load_flux_texts(files: ModelFiles) -> Encode:
    """Return a function that encodes texts.

    hidden: T5's last hidden states, up to the length of the folder's tokenizer (dev 512, schnell 256). pooled: CLIP's
    pooled output.
    """
    from transformers import (
        CLIPTextModel,
        CLIPTokenizer,
        T5EncoderModel,
        T5TokenizerFast,  # type: ignore[attr-defined]
    )

    tokenizer, encoder = files.plain(CLIPTokenizer, "tokenizer"), files.text_encoder(CLIPTextModel, "text_encoder")
    t5 = files.plain(T5TokenizerFast, "tokenizer_2"), files.text_encoder(T5EncoderModel, "text_encoder_2")
    length = min(t5[0].model_max_length, FLUX_TOKENS)

    def encode(text: str) -> Conditioning:
        ids = tokens_of(tokenizer, text, tokenizer.model_max_length).input_ids
        return Conditioning(t5_embedding(*t5, text, length), encoder(ids.to(encoder.device)).pooler_output)

    return encode
