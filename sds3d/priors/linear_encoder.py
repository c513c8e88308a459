"""AutoencoderTiny's encoder as one convolution, if it is a linear map of patches, as that of the embedded prior.

An encoder without residual blocks is a chain of convolutions. If every latent depends on its own patch of pixels alone,
one convolution with the patch as kernel and stride does the same, up to rounding, with a thousandth of the arithmetic.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny

_CONTAINERS = ("EncoderTiny", "Sequential")


@torch.no_grad()
def fold_linear_encoder(vae: AutoencoderTiny) -> AutoencoderTiny:
    """Replace the encoder of `vae` by one convolution, in place, if that computes the same. Return `vae`."""
    inner = {type(module).__name__ for module in vae.encoder.modules()} - {*_CONTAINERS}
    if inner != {"Conv2d"}:
        return vae
    encoder = copy.deepcopy(vae.encoder).float()
    parameter = next(encoder.parameters())
    side = 2 ** (len(vae.config["encoder_block_out_channels"]) - 1)
    channels = int(vae.config["in_channels"])
    layer = patch_convolution(encoder, channels, side)
    generator = torch.Generator().manual_seed(0)
    # Latents at the border, at a corner and inside.
    picture = 2 * torch.rand(1, channels, 3 * side, 3 * side, generator=generator).to(parameter.device) - 1
    wanted, got = encoder(picture), layer(picture)
    if wanted.shape == got.shape and torch.allclose(wanted, got, atol=1e-4 * float(wanted.abs().max()), rtol=0):
        vae.encoder = layer.to(vae.dtype)  # type: ignore[assignment]
    return vae


@torch.no_grad()
def patch_convolution(encoder: nn.Module, channels: int, side: int) -> nn.Conv2d:
    """Return the convolution that does to patches (channels, side, side) what the encoder does to each alone.

    It is on the encoder's device.
    """
    count = channels * side * side
    patches = torch.cat([torch.zeros(1, count), torch.eye(count)]).reshape(-1, channels, side, side)
    codes: Tensor = encoder(patches.to(next(encoder.parameters()).device)).flatten(1)  # (1 + count, C)
    layer = nn.Conv2d(channels, codes.shape[1], side, side, device=codes.device).requires_grad_(False)
    layer.weight.copy_((codes[1:] - codes[0]).T.reshape(layer.weight.shape))
    layer.bias.copy_(codes[0])  # type: ignore[union-attr]
    return layer
