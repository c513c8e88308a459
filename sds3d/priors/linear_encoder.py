"""AutoencoderTiny's encoder as one matrix, if it is a linear map of patches, as that of the embedded prior.

An encoder without residual blocks is a chain of convolutions. If every latent depends on its own patch of pixels alone,
one matrix that is applied to every patch does the same, up to rounding, with a thousandth of the arithmetic.
"""

from __future__ import annotations

import copy

import torch
from diffusers import AutoencoderTiny
from torch import Tensor, nn

_CONTAINERS = ("EncoderTiny", "Sequential")


@torch.no_grad()
def fold_linear_encoder(vae: AutoencoderTiny) -> AutoencoderTiny:
    """Replace the encoder of `vae` by one matrix, in place, if that computes the same. Return `vae`."""
    inner = {type(module).__name__ for module in vae.encoder.modules()} - {*_CONTAINERS}
    if inner != {"Conv2d"}:
        return vae
    encoder = copy.deepcopy(vae.encoder).float()
    parameter = next(encoder.parameters())
    side = 2 ** (len(vae.config["encoder_block_out_channels"]) - 1)
    channels = int(vae.config["in_channels"])
    layer = patch_matrix(encoder, channels, side)
    generator = torch.Generator().manual_seed(0)
    # Latents at the border, at a corner and inside.
    picture = 2 * torch.rand(1, channels, 3 * side, 3 * side, generator=generator).to(parameter.device) - 1
    wanted, got = encoder(picture), layer(picture)
    if wanted.shape == got.shape and torch.allclose(wanted, got, atol=1e-4 * float(wanted.abs().max()), rtol=0):
        vae.encoder = layer.to(vae.dtype)  # type: ignore[assignment]
    return vae


@torch.no_grad()
def patch_matrix(encoder: nn.Module, channels: int, side: int) -> nn.Sequential:
    """Return the matrix that does to every patch (channels, side, side) what the encoder does to each alone.

    It is on the encoder's device. A convolution of this size and stride would be slower.
    """
    count = channels * side * side
    device = next(encoder.parameters()).device
    patches = torch.cat([torch.zeros(1, count), torch.eye(count)]).reshape(-1, channels, side, side)
    codes: Tensor = encoder(patches.to(device)).flatten(1)  # (1 + count, C)
    matrix = nn.Conv2d(count, codes.shape[1], 1, device=device).requires_grad_(False)
    matrix.weight.copy_((codes[1:] - codes[0]).T[:, :, None, None])
    matrix.bias.copy_(codes[0])  # type: ignore[union-attr]
    return nn.Sequential(nn.PixelUnshuffle(side), matrix)
