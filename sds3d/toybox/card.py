"""The card of a training: the data, the time, the machine, and the quality of the prior."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch
from diffusers import AutoencoderTiny

from sds3d.priors.diffusers import DiffusersConfig
from sds3d.states import read_metadata
from sds3d.toybox import autoencoder, diffusion
from sds3d.toybox.dataset import ObjectFile
from sds3d.toybox.scope import Scope
from sds3d.toybox.train_config import TrainConfig
from sds3d.toybox.world import CATEGORIES, HAS_FRONT


def write_card(
    folder: Path,
    config: TrainConfig,
    scope: Scope,
    model: diffusion.Denoiser,
    vae: AutoencoderTiny,
    held_out: ObjectFile,
    latents: diffusion.LatentViews,
) -> Path:
    """Write `folder/CARD.md`. held_out, latents: of the same objects, which were not trained on."""
    gaps = pose_gaps(model, held_out, latents)
    rows = "\n".join(f"| {name} | {at_90:+.0%} | {at_180:+.0%} |" for name, (at_90, at_180) in gaps.items())

    trained = {name: read_metadata(folder / f"{name}.ckpt.safetensors") for name in ("vae", "unet")}
    steps = {name: int(metadata["step"]) for name, metadata in trained.items()}
    minutes = {name: float(metadata["seconds"]) / 60 for name, metadata in trained.items()}
    millions = {
        name: sum(p.numel() for p in part.parameters()) / 1e6
        for name, part in (("autoencoder", vae), ("U-Net", model.unet), ("text encoder", model.text_encoder))
    }
    psnr = autoencoder.psnr(vae, held_out.pictures.flatten(0, 1)[::2])
    on_gpu = latents.latents.device.type == "cuda"
    processes = 1 if on_gpu or config.minutes else config.workers
    views = steps["unet"] * config.unet_objects * 4 * processes
    begun = "trained from scratch"
    if config.start_from:
        begun = f"trained further from the weights {DiffusersConfig(model=config.start_from).digest()[:12]}"
    data = f"up to {config.objects} procedural objects, four orthogonal views each, {scope.size} px"
    sides = ", ".join(name for name in scope.kinds if name not in HAS_FRONT)
    text = f"""# The embedded prior

A latent diffusion model of the toy world, {begun} by `sds3d toybox train`.

| | |
|---|---|
| data | {data}; held-out combinations never shown |
| parameters | {", ".join(f"{name} {value:.1f}M" for name, value in millions.items())} |
| autoencoder | {steps["vae"]} steps of {config.autoencoder_batch} pictures, {minutes["vae"]:.1f} minutes |
| U-Net | {steps["unet"]} steps, {views} views, {minutes["unet"]:.1f} minutes |
| machine | {machine(on_gpu)} |
| PSNR of the autoencoder | {psnr:.1f} dB on held-out renders |

## Pose gate

The increase of the denoising loss on held-out objects when every camera is rotated. A prior that does not know poses
makes objects with two faces. These look much the same from all sides: {sides}.

| category | rotated by 90 degrees | by 180 degrees |
|---|---|---|
{rows}
"""
    path = folder / "CARD.md"
    path.write_text(text)
    return path


def machine(on_gpu: bool) -> str:
    """Return the GPU or the number of cores, and the version of torch."""
    name = torch.cuda.get_device_name() if on_gpu else f"{os.cpu_count()} cores ({platform.machine()})"
    return f"{name}, torch {torch.__version__}"


def pose_gaps(
    model: diffusion.Denoiser, objects: ObjectFile, latents: diffusion.LatentViews
) -> dict[str, tuple[float, float]]:
    """Return the relative increase of the error at 90 and 180 degrees for each category among the objects."""
    alphas_bar = diffusion.make_scheduler().alphas_cumprod.to(latents.latents.device)
    errors = [diffusion.pose_gaps(model, latents, alphas_bar, offset) for offset in (90.0, 180.0)]  # each (2, N)
    gaps = {}
    for category in CATEGORIES:
        rows = [i for i, spec in enumerate(objects.specs) if spec.category == category]
        if rows:
            gaps[category] = tuple(float(error[1, rows].sum() / error[0, rows].sum() - 1) for error in errors)
    return gaps
