"""Training of the network that reads normals from pictures of the toy world, on true objects of all kinds.

Half of the objects have unusual shapes, see `sds3d.toybox.varied`, so that the network reads the picture and not the
kind. Pictures are changed as distilled ones differ from true ones. After a kill at any instant, the same command
resumes.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from sds3d.priors.normals import SIZE, NormalsNetwork
from sds3d.states import read_metadata
from sds3d.toybox.autoencoder import to_input
from sds3d.toybox.card import machine
from sds3d.toybox.dataset import DataConfig, joined, render_files
from sds3d.toybox.fit import FitConfig, Report, fit
from sds3d.toybox.scorer import augment
from sds3d.toybox.train import begin
from sds3d.toybox.train_config import TrainConfig

CHECKPOINT = "normals.ckpt.safetensors"
_COVERED = 64  # of 127: a pixel that is half covered has a normal
_LUMPS = 0.12  # standard deviation of the factor on the light by which a surface seems lumpy


def train_normals(folder: Path, config: TrainConfig, report: Report, device: torch.device | str = "cpu") -> Path:
    """Train the network in `folder`, and return `folder/normals`.

    Raises ValueError if the folder was begun with other settings.
    """
    begin(folder, config)

    def rendered(name: str, objects: int, seed: int) -> tuple[Tensor, Tensor]:
        data = DataConfig(objects, config.seed + seed, SIZE, maps=SIZE)
        file = joined(render_files(folder / name, data, config.workers, report))
        return file.pictures.flatten(0, 1).to(device), file.structure.flatten(0, 1)[:, 1:].to(device)

    pictures, maps = rendered("normals-pictures", config.normals_objects, 3_000_003)
    seen, true = rendered("normals-held-out", config.held_out_objects, 4_000_003)
    torch.manual_seed(config.seed)
    model = NormalsNetwork().to(device)

    def step(generator: torch.Generator) -> Tensor:
        index = torch.randint(len(pictures), (config.normals_batch,), generator=generator, device=pictures.device)
        x = lumpy(augment(to_input(pictures[index]), generator), generator)
        wrong, covered = difference(model(x), maps[index])
        return wrong.sum() / covered.sum()

    def measure(average: NormalsNetwork) -> dict[str, float]:
        return {"degrees": error(average, seen, true)}

    loop = FitConfig(config.normals_steps, config.normals_rate, config.checkpoint_every, config.minutes)
    average = fit(folder / CHECKPOINT, "normals", model, step, measure, loop, config.seed, report)
    average.save(folder / "normals")
    write_card(folder, config, average, error(average, seen, true))
    return folder / "normals"


def difference(vectors: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return 1 - cos of the angle between vectors (B, 3, H, W) and true normals, and where these are, (B, H, W) each.

    maps: (B, 4, H, W) int8, normals and opacity, see `ObjectViews`. The difference is 0 where there is no normal.
    """
    covered = maps[:, 3] >= _COVERED
    return covered * (1 - functional.cosine_similarity(vectors, maps[:, :3].float(), dim=1, eps=1e-6)), covered


def lumpy(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return pictures (B, 3, H, W) in [-1, 1] in light that varies over the picture, as on an uneven surface."""
    waves = torch.zeros_like(x[:, :1])
    for cells in (6, 12):
        coarse = torch.randn(len(x), 1, cells, cells, generator=generator, device=x.device)
        waves = waves + functional.interpolate(coarse, x.shape[-2:], mode="bicubic", align_corners=False)
    strength = _LUMPS * torch.rand(len(x), 1, 1, 1, generator=generator, device=x.device)
    return ((x + 1) * (1 + strength * waves) - 1).clamp(-1, 1)


@torch.no_grad()
def error(model: NormalsNetwork, pictures: Tensor, maps: Tensor) -> float:
    """Return the mean angle in degrees between estimated and true normals. pictures: (N, H, W, 3) uint8."""
    angles, count = 0.0, 0
    for seen, true in zip(pictures.split(64), maps.split(64), strict=True):
        wrong, covered = difference(model(to_input(seen)), true)
        angles += float(torch.rad2deg(torch.acos((1 - wrong[covered]).clamp(-1, 1))).sum())
        count += int(covered.sum())
    return angles / count


def write_card(folder: Path, config: TrainConfig, model: NormalsNetwork, degrees: float) -> Path:
    """Write `folder/normals/CARD.md`. degrees: the error on held-out objects."""
    trained = read_metadata(folder / CHECKPOINT)
    steps, minutes = int(trained["step"]), float(trained["seconds"]) / 60
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    text = f"""# An estimator of normals in the toy world

Trained by `sds3d toybox train-normals`. It reads camera-space normals from a picture of {SIZE} x {SIZE} pixels.

| | |
|---|---|
| data | {config.normals_objects} procedural objects of all kinds, half of them in unusual shapes, four views each |
| parameters | {millions:.2f}M |
| training | {steps} steps of {config.normals_batch} pictures, {minutes:.1f} minutes |
| machine | {machine(False)} |
| mean error | {degrees:.1f} degrees on {config.held_out_objects} further objects |
"""
    path = folder / "normals" / "CARD.md"
    path.write_text(text)
    return path
