"""The autoencoder's encoder is a known linear map."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from sds3d.toybox import autoencoder
from sds3d.toybox.render import iterate_objects

PICTURES = torch.randint(256, (6, 128, 128, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def toybox_pictures() -> torch.Tensor:
    return torch.from_numpy(np.concatenate([views.pictures for views in iterate_objects(8, 0, 1, size=128)]))


def test_the_encoder_maps_every_patch_by_the_transform() -> None:
    transform = autoencoder.patch_transform(PICTURES)
    x = autoencoder.to_input(PICTURES)
    latents = autoencoder.make_autoencoder(PICTURES).encode(x, return_dict=False)[0]
    patches = nn.functional.unfold(x, 8, stride=8)  # (6, 192, 256)
    expected = torch.einsum("kd,ndp->nkp", transform, patches).unflatten(-1, (16, 16))
    torch.testing.assert_close(latents, expected, atol=1e-5, rtol=1e-5)


def test_the_first_channels_are_mean_colours() -> None:
    x = autoencoder.to_input(PICTURES)
    latents = autoencoder.make_autoencoder(PICTURES).encode(x, return_dict=False)[0]
    torch.testing.assert_close(latents[:, :3], 2.0 * nn.functional.avg_pool2d(x, 8), atol=1e-5, rtol=1e-5)


def test_no_linear_map_with_as_many_channels_loses_less_besides_the_means() -> None:
    pictures = toybox_pictures()
    patches = nn.functional.unfold(autoencoder.to_input(pictures), 8, stride=8).transpose(1, 2).reshape(-1, 192)
    means = patches.reshape(-1, 3, 64).mean(dim=-1).repeat_interleave(64, dim=1)
    rest = (patches - means).double().numpy()
    # Eckart-Young: the best approximation of rank 29 leaves the smaller singular values.
    best = (np.linalg.svd(rest, compute_uv=False)[29:] ** 2).sum()
    transform = autoencoder.patch_transform(pictures).double().numpy()
    linear_decoder = np.linalg.pinv(transform)
    lost = ((patches.double().numpy() @ transform.T @ linear_decoder.T - patches.double().numpy()) ** 2).sum()
    np.testing.assert_allclose(lost, best, rtol=1e-4)


def test_details_vary_less_than_colours() -> None:
    pictures = toybox_pictures()
    latents = autoencoder.make_autoencoder(pictures).encode(autoencoder.to_input(pictures), return_dict=False)[0]
    deviations = latents.std(dim=(0, 2, 3))
    assert deviations[:3].min() > deviations[3:].max()
    assert deviations[3:].min() > 0.15  # but not too little


def test_the_encoder_is_one_convolution() -> None:
    model = autoencoder.make_autoencoder(PICTURES)
    x = autoencoder.to_input(PICTURES)
    encode = autoencoder.patch_encoder(model)
    torch.testing.assert_close(encode(x), model.encode(x, return_dict=False)[0], atol=1e-5, rtol=1e-5)
    assert sum(p.numel() for p in encode.parameters()) == 32 * (3 * 8 * 8 + 1)


def test_training_does_not_change_the_encoder() -> None:
    model = autoencoder.make_autoencoder(PICTURES)
    encode, x = autoencoder.patch_encoder(model), autoencoder.to_input(PICTURES)
    autoencoder.train_step(model, encode, x, torch.Generator().manual_seed(0)).backward()
    assert all(p.grad is None for p in model.encoder.parameters())
    assert all(p.grad is not None for p in model.decoder.parameters())
