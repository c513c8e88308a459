"""The card of a training: the data, the time, the machine, and the quality of the prior."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from torch import Tensor

from sds3d.toybox import autoencoder, diffusion
from sds3d.toybox.fit import read_metadata
from sds3d.toybox.train_config import TrainConfig
from sds3d.toybox.world import CATEGORIES, Spec


def write_card(
    folder: Path,
    config: TrainConfig,
    model: diffusion.Denoiser,
    vae: AutoencoderTiny,
    pictures: Tensor,
    specs: Sequence[Spec],
    latents: diffusion.LatentViews,
) -> Path:
    """Write `folder/CARD.md`. pictures (N, 4, 64, 64, 3) uint8, specs and latents: of N held-out objects."""
    gaps = pose_gaps(model, specs, latents)
    rows = "\n".join(f"| {name} | {at_90:+.0%} | {at_180:+.0%} |" for name, (at_90, at_180) in gaps.items())

    def minutes(checkpoint: str) -> float:
        return float(read_metadata(folder / checkpoint)["seconds"]) / 60

    if config.start_from:
        autoencoder_row = "kept from the prior that this training continued"
    else:
        sizes = f"{config.autoencoder_steps} steps of {config.autoencoder_batch} pictures"
        autoencoder_row = f"{sizes}, {minutes('vae.ckpt.safetensors'):.0f} minutes"
    millions = {
        name: sum(p.numel() for p in part.parameters()) / 1e6
        for name, part in (("autoencoder", vae), ("U-Net", model.unet), ("text encoder", model.text_encoder))
    }
    psnr = autoencoder.psnr(vae, pictures.flatten(0, 1)[::2])
    views = config.unet_steps * config.unet_objects * 4 * config.workers
    machine = f"{os.cpu_count()} cores ({platform.machine()}), torch {torch.__version__}"
    text = f"""# The embedded prior

A latent diffusion model of the toy world, trained from scratch by `sds3d toybox train`.

| | |
|---|---|
| data | {config.objects} procedural objects, four orthogonal views each, 64 px; held-out combinations never shown |
| parameters | {", ".join(f"{name} {value:.1f}M" for name, value in millions.items())} |
| autoencoder | {autoencoder_row} |
| U-Net | {config.unet_steps} steps, {views} views, {minutes("unet.ckpt.safetensors"):.0f} minutes |
| machine | {machine} |
| PSNR of the autoencoder | {psnr:.1f} dB on held-out renders |

## Pose gate

The increase of the denoising loss on held-out objects when every camera is rotated. A prior that does not know poses
makes objects with two faces. Lamp, mushroom and tree look the same from all sides.

| category | rotated by 90 degrees | by 180 degrees |
|---|---|---|
{rows}
"""
    path = folder / "CARD.md"
    path.write_text(text)
    return path


def pose_gaps(
    model: diffusion.Denoiser, specs: Sequence[Spec], latents: diffusion.LatentViews
) -> dict[str, tuple[float, float]]:
    """Return `diffusion.pose_gap` at 90 and 180 degrees for each category among the specs."""
    alphas_bar = diffusion.make_scheduler().alphas_cumprod
    gaps = {}
    for category in CATEGORIES:
        objects = torch.tensor([i for i, spec in enumerate(specs) if spec.category == category], dtype=torch.int64)
        if len(objects):
            subset = diffusion.select(latents, objects)
            gaps[category] = tuple(diffusion.pose_gap(model, subset, alphas_bar, offset) for offset in (90.0, 180.0))
    return gaps
