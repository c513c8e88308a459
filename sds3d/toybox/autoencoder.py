"""The embedded prior's autoencoder: a stock AutoencoderTiny with a linear encoder of 8 x 8 patches.

A latent holds the mean colour of its patch and, with less variance, the principal components of the rest. Such latents
are easy to denoise: at high noise they look like a picture of 16 x 16 pixels, and details come last. With latents
learned together with the decoder (8 channels of equal variance), a U-Net of the same size learned hardly any shapes in
90k views. Therefore only the decoder is learned.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderTiny
from torch import Tensor, nn

from sds3d.priors.linear_encoder import patch_convolution

SIZE = 128  # height and width of the pictures
LATENT_CHANNELS = 32
PATCH = 8
PATCH_VALUES = 3 * PATCH * PATCH
MEAN_GAIN = 2.0  # of a mean colour in [-1, 1]: toybox pictures then have a standard deviation of 0.7
WHITENING = 0.6  # 0 keeps a component's share of the variance, 1 gives all channels the same
DECODER_WIDTH = 32


def make_autoencoder(pictures: Tensor) -> AutoencoderTiny:
    """Make an autoencoder of 128 x 128 pixels and 32 x 16 x 16 latents.

    pictures: (N, 128, 128, 3) uint8, to which the encoder is fitted. The decoder has few blocks at full resolution,
    where a CPU is slow.
    """
    model = AutoencoderTiny(
        encoder_block_out_channels=(PATCH_VALUES,) * 4,
        decoder_block_out_channels=(DECODER_WIDTH,) * 4,
        num_encoder_blocks=(0, 0, 0, 0),  # only convolutions, so that it is linear
        num_decoder_blocks=(4, 3, 1, 0),
        latent_channels=LATENT_CHANNELS,
        scaling_factor=1.0,
    )
    write_patch_encoder(model.encoder, patch_transform(pictures))
    model.encoder.requires_grad_(False)
    return model


def patch_transform(pictures: Tensor) -> Tensor:
    """Return the matrix (LATENT_CHANNELS, 192) from a flattened patch (3, 8, 8) in [-1, 1] to its latent.

    Three rows are the mean colours. The others are the first principal components of the rest over uint8 pictures
    (N, 128, 128, 3), scaled towards equal variance by `WHITENING`.
    """
    patches = nn.functional.unfold(to_input(pictures), PATCH, stride=PATCH).transpose(1, 2)  # (N, 256, 192)
    colors = patches.reshape(-1, 3, PATCH * PATCH)
    means = colors.mean(dim=-1, keepdim=True)  # (N 256, 3, 1)
    rest = (colors - means).flatten(1)  # (N 256, 192)
    variances, vectors = torch.linalg.eigh(rest.T @ rest / len(rest))  # ascending
    n = LATENT_CHANNELS - 3
    deviations, components = variances[-n:].flip(0).sqrt(), vectors[:, -n:].flip(1).T  # (n,), (n, 192)
    largest = components.gather(1, components.abs().argmax(dim=1, keepdim=True))
    components = components * largest.sign()  # the sign of an eigenvector is arbitrary
    mean_rows = MEAN_GAIN / PATCH**2 * torch.eye(3).repeat_interleave(PATCH**2, dim=1)  # (3, 192)
    mean_deviation = PATCH * means.std()  # of the unit component, which is PATCH times the mean
    gains = MEAN_GAIN / PATCH * (mean_deviation / deviations.clamp(min=1e-6)) ** WHITENING  # (n,)
    return torch.cat([mean_rows, gains[:, None] * components])


def write_patch_encoder(encoder: nn.Module, transform: Tensor) -> None:
    """Set the weights of an EncoderTiny without blocks so that it applies `transform` (C, 192) to every patch.

    Three convolutions of stride 2 move the pixels of a patch into channels. The last convolution multiplies.
    """
    first, *strided, last = (layer for layer in encoder.modules() if isinstance(layer, nn.Conv2d))
    with torch.no_grad():
        for layer in (first, *strided, last):
            layer.weight.zero_()
            if layer.bias is not None:
                layer.bias.zero_()
        for c in range(3):
            first.weight[c, c, 1, 1] = 1.0
        held = [(c, 0, 0) for c in range(3)]  # the colour, row and column in the patch of the pixel in each channel
        for n, layer in enumerate(strided):
            after = []
            for c, (color, y, x) in enumerate(held):
                for dy in range(2):
                    for dx in range(2):  # output 4 c + 2 dy + dx takes pixel (2 y + dy, 2 x + dx)
                        layer.weight[4 * c + 2 * dy + dx, c, 1 + dy, 1 + dx] = 1.0
                        after.append((color, y + 2**n * dy, x + 2**n * dx))
            held = after
        order = torch.tensor([PATCH**2 * color + PATCH * y + x for color, y, x in held])
        last.weight[:, :, 1, 1] = 2 * transform[:, order]  # the encoder maps pictures to [0, 1] first
        last.bias.copy_(-transform.sum(dim=1))  # type: ignore[union-attr]


def patch_encoder(model: AutoencoderTiny) -> nn.Module:
    """Return the encoder as one convolution of patches, whose side its number of levels tells."""
    return patch_convolution(model.encoder, 3, 2 ** (len(model.config["encoder_block_out_channels"]) - 1))


def to_input(pictures: Tensor) -> Tensor:
    """Convert uint8 pictures (..., H, W, 3) to float (B, 3, H, W) in [-1, 1]."""
    x = pictures.reshape(-1, *pictures.shape[-3:]).permute(0, 3, 1, 2)
    return (x.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def reconstruction_loss(y: Tensor, x: Tensor) -> Tensor:
    """Sum absolute, squared and edge differences. The edges keep eyes and windows, which pixel losses blur."""

    def edges(z: Tensor) -> tuple[Tensor, Tensor]:
        return z.diff(dim=-1), z.diff(dim=-2)

    (yx, yy), (xx, xy) = edges(y), edges(x)
    return (y - x).abs().mean() + 4 * (y - x).square().mean() + 0.5 * ((yx - xx).abs().mean() + (yy - xy).abs().mean())


def train_step(model: AutoencoderTiny, encode: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
    """Return the loss of one batch (B, 3, H, W): its reconstruction from latents with up to 0.15 of noise.

    encode: the model's encoder, see `patch_encoder`.
    """
    with torch.no_grad():
        z = encode(x)
    level = 0.15 * torch.rand(len(z), 1, 1, 1, generator=generator, device=x.device)
    z = z + level * torch.randn(z.shape, generator=generator, device=x.device)
    with torch.autocast(x.device.type, torch.bfloat16, enabled=x.device.type == "cuda"):
        y = model.decode(z, return_dict=False)[0]
    return reconstruction_loss(y.float(), x)


@torch.no_grad()
def psnr(model: AutoencoderTiny, pictures: Tensor, batch: int = 64) -> float:
    """Return the mean PSNR in dB of reconstructions of uint8 pictures (N, H, W, 3)."""
    values = []
    for i in range(0, len(pictures), batch):
        x = to_input(pictures[i : i + batch].to(model.device))
        y = model.decode(model.encode(x, return_dict=False)[0], return_dict=False)[0].clamp(-1, 1)
        values.append(-10 * torch.log10(((y - x) / 2).square().mean(dim=(1, 2, 3))))
    return float(torch.cat(values).mean())
