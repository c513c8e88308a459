"""The embedded prior's autoencoder: a stock AutoencoderTiny, trained on toybox pictures."""

from __future__ import annotations

import torch
from diffusers import AutoencoderTiny
from torch import Tensor

LATENT_CHANNELS = 8
WIDTH = 32


def make_autoencoder() -> AutoencoderTiny:
    """64 x 64 pixels to 8 x 16 x 16 latents; few blocks at full resolution, where a CPU is slow."""
    return AutoencoderTiny(
        encoder_block_out_channels=(WIDTH,) * 3,
        decoder_block_out_channels=(WIDTH,) * 3,
        num_encoder_blocks=(0, 1, 3),
        num_decoder_blocks=(3, 2, 0),
        latent_channels=LATENT_CHANNELS,
    )


def to_input(pictures: Tensor) -> Tensor:
    """uint8 pictures (..., H, W, 3) as float (B, 3, H, W) in [-1, 1]."""
    x = pictures.reshape(-1, *pictures.shape[-3:]).permute(0, 3, 1, 2)
    return (x.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def reconstruction_loss(y: Tensor, x: Tensor) -> Tensor:
    """Absolute, squared and edge differences: edges keep eyes and windows, which pixel losses blur away."""

    def edges(z: Tensor) -> tuple[Tensor, Tensor]:
        return z.diff(dim=-1), z.diff(dim=-2)

    (yx, yy), (xx, xy) = edges(y), edges(x)
    return (y - x).abs().mean() + 4 * (y - x).square().mean() + 0.5 * ((yx - xx).abs().mean() + (yy - xy).abs().mean())


def train_step(model: AutoencoderTiny, x: Tensor, generator: torch.Generator) -> Tensor:
    """The loss of one batch (B, 3, H, W): reconstruction through slightly noisy, slightly shrunk latents."""
    z = model.encode(x, return_dict=False)[0]
    noisy = z + 0.05 * torch.randn(z.shape, generator=generator)
    y = model.decode(noisy, return_dict=False)[0]
    return reconstruction_loss(y, x) + 2e-3 * z.square().mean()


@torch.no_grad()
def psnr(model: AutoencoderTiny, pictures: Tensor, batch: int = 64) -> float:
    """Mean PSNR in dB of reconstructions of uint8 pictures (N, H, W, 3), peak 1."""
    values = []
    for i in range(0, len(pictures), batch):
        x = to_input(pictures[i : i + batch])
        y = model.decode(model.encode(x, return_dict=False)[0], return_dict=False)[0].clamp(-1, 1)
        values.append(-10 * torch.log10(((y - x) / 2).square().mean(dim=(1, 2, 3))))
    return float(torch.cat(values).mean())
