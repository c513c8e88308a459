"""The folded encoder computes what AutoencoderTiny's own chain of convolutions does."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import AutoencoderTiny
from torch import nn

from sds3d.config import assets_dir
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.priors.linear_encoder import fold_linear_encoder


def patch_encoder(levels: int, latents: int) -> AutoencoderTiny:
    """Return an autoencoder whose encoder gathers patches of 2^levels pixels and multiplies them with random rows."""
    side = 2**levels
    count = 3 * side * side
    widths = (count,) * (levels + 1)
    vae = AutoencoderTiny(
        encoder_block_out_channels=widths,
        decoder_block_out_channels=(8,) * (levels + 1),
        num_encoder_blocks=(0,) * (levels + 1),
        num_decoder_blocks=(1,) * (levels + 1),
        latent_channels=latents,
    )
    first, *strided, last = (layer for layer in vae.encoder.modules() if isinstance(layer, nn.Conv2d))
    with torch.no_grad():
        for layer in (first, *strided):
            layer.weight.zero_()
        for color in range(3):
            first.weight[color, color, 1, 1] = 1.0
        for n, layer in enumerate(strided):
            for source in range(3 * 4**n):
                for corner in range(4):
                    layer.weight[4 * source + corner, source, 1 + corner // 2, 1 + corner % 2] = 1.0
        first.bias.zero_()  # type: ignore[union-attr]
        kept = last.weight[:, :, 1, 1].clone()
        last.weight.zero_()
        last.weight[:, :, 1, 1] = kept
    return vae.requires_grad_(False)


@pytest.mark.parametrize(("levels", "latents"), [(1, 4), (2, 12), (3, 32)])
def test_values_and_gradients_are_those_of_the_chain(levels: int, latents: int):
    torch.manual_seed(levels)
    vae = patch_encoder(levels, latents)
    folded = fold_linear_encoder(copy.deepcopy(vae))
    assert isinstance(folded.encoder, nn.Conv2d)
    assert folded.encoder.kernel_size == folded.encoder.stride == (2**levels, 2**levels)
    pictures = [torch.rand(2, 3, 32, 48, requires_grad=True) for _ in range(2)]
    with torch.no_grad():
        pictures[1].copy_(pictures[0])
    wanted, got = (v.encode(p, return_dict=False)[0] for v, p in zip((vae, folded), pictures, strict=True))
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    weights = torch.rand(wanted.shape)
    for latent in (wanted, got):
        (latent * weights).sum().backward()
    torch.testing.assert_close(pictures[1].grad, pictures[0].grad, rtol=1e-5, atol=1e-5)


def test_the_embedded_prior_is_folded_when_it_is_loaded():
    plain = AutoencoderTiny.from_pretrained(assets_dir() / "toybox" / "prior" / "vae").requires_grad_(False)
    prior = DiffusersConfig().load()
    assert isinstance(prior.vae.encoder, nn.Conv2d)  # type: ignore[attr-defined]
    picture = torch.rand(2, prior.image_size, prior.image_size, 3, generator=torch.Generator().manual_seed(0))
    wanted = plain.encode(2 * picture.permute(0, 3, 1, 2) - 1, return_dict=False)[0]
    torch.testing.assert_close(prior.encode_image(picture), wanted.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("change", ["neighbours", "blocks"])
def test_other_encoders_stay_as_they_are(change: str):
    torch.manual_seed(0)
    if change == "neighbours":  # latents also see pixels of other patches
        vae = patch_encoder(2, 4)
        vae.encoder.layers[-1].weight.normal_(std=0.1)  # type: ignore[union-attr, operator]
    else:
        vae = AutoencoderTiny(
            encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
            num_encoder_blocks=(0, 1), num_decoder_blocks=(1, 1),
        )  # fmt: skip
    before = vae.encoder
    assert fold_linear_encoder(vae).encoder is before
