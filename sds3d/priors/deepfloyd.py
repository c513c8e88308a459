"""DeepFloyd IF's first stage: a U-Net on pixels at 64 px, conditioned on T5.

Three of its output channels are a learned variance, which only ancestral samplers use; they are dropped. Its sampler
clips bright estimates (dynamic thresholding); estimates here are not clipped.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sds3d.files import PriorError
from sds3d.priors.loading import ModelFiles
from sds3d.priors.network import DiffusionPrior, Family, frozen
from sds3d.priors.pixels import Pixels
from sds3d.priors.texts import Encode, Texts, t5_embedding
from sds3d.priors.unet_latent import load_noising, side_of
from sds3d.prompts.conditioning import Conditioning

TOKENS = 77


def load_deepfloyd(files: ModelFiles) -> DiffusionPrior:
    """Load a folder of IFPipeline."""
    from diffusers import UNet2DConditionModel

    unet = frozen(files.denoiser(UNet2DConditionModel, "unet"), files.device, torch.channels_last)
    size = files.image_size if unet.config["sample_size"] is None else 0
    size = size or side_of(unet.config["sample_size"])
    if files.image_size not in (0, size):
        raise PriorError(f"prior.image_size={files.image_size}: this model draws {size} pixels and nothing else")
    texts = Texts(lambda: load_texts(files), files.device)
    family = Family(ask_pixels, load_noising(files), Pixels(), texts, size, memory_format=torch.channels_last)
    return DiffusionPrior(family, unet, files.device)


def ask_pixels(unet: Any, x_t: Tensor, timestep: Tensor, cond: Conditioning, n_views: int) -> Tensor:
    """Return eps (B, 3, H, W)."""
    return unet(x_t, timestep, cond.hidden, return_dict=False)[0][:, : x_t.shape[1]]


def load_texts(files: ModelFiles) -> Encode:
    """Return a function that encodes texts, in lower case, by T5's last hidden states without attention to padding."""
    from transformers import (
        T5EncoderModel,
        T5TokenizerFast,  # type: ignore[attr-defined]
    )

    t5 = files.plain(T5TokenizerFast, "tokenizer"), files.text_encoder(T5EncoderModel, "text_encoder")
    return lambda text: Conditioning(t5_embedding(*t5, text.lower().strip(), TOKENS, masked=True))
