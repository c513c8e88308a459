"""Training of the network that makes starts: solids from the features of a prior's U-Net, which stays frozen.

The network sees true pictures of toy objects, encoded and noised, and learns which points in space are inside the
object, and the colours of its surface. After a kill at any instant, the same command resumes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sds3d.geometry.mesh import Mesh
from sds3d.geometry.sampling import mesh_colors, sample_surface
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.priors.starts import StartNetwork, view_features
from sds3d.priors.unet_latent import DiffusersPrior
from sds3d.rendering.volume import BOUND
from sds3d.representations.fields import trilinear
from sds3d.representations.isosurface import grid_points
from sds3d.representations.signed_distance import mesh_to_occupancy
from sds3d.states import read_metadata, read_tensors, write_tensors
from sds3d.toybox.captions import prompt, sample_spec
from sds3d.toybox.card import machine
from sds3d.toybox.dataset import OBJECTS, DataConfig, read_objects, render_files
from sds3d.toybox.diffusion import cameras_at
from sds3d.toybox.fit import FitConfig, Report, fit
from sds3d.toybox.objects import build
from sds3d.toybox.scope import start_prior
from sds3d.toybox.train import begin
from sds3d.toybox.train_config import TrainConfig

CHECKPOINT = "start.ckpt.safetensors"
GRID = 64
"""Samples per side of the grid that tells which points are inside an object, 1.7 cm apart."""
SURFACE = 2048
"""Points on the surface of each object, with their colours."""
POINTS = 512
"""Points of an object in a batch, once near its surface and once anywhere."""
_NEAR, _FAR = 0.01, 0.06  # metres, standard deviations of the distance of points near the surface
_COLORED = 0.02  # metres from the surface within which colours are learned


@dataclass(frozen=True)
class Solids:
    """Toy objects as a start is learned from them.

    features: (n, 4, C, h, w) float16 of their pictures, see `view_features`. angles: (n, 4, 3) azimuth and elevation in
    degrees, distance in metres. inside: (n, GRID, GRID, GRID / 8) uint8, a bit for each point of the grid. points: (n,
    SURFACE, 3) metres. colors: (n, SURFACE, 3) uint8 sRGB.
    """

    features: Tensor
    angles: Tensor
    inside: Tensor
    points: Tensor
    colors: Tensor

    def occupancy(self, index: int) -> Tensor:
        """Return whether the points of the grid are inside an object, (GRID, GRID, GRID) float32, 0 or 1."""
        bits = 2 ** torch.arange(7, -1, -1, dtype=torch.uint8)
        return ((self.inside[index][..., None] & bits) > 0).flatten(-2).float()


def train_start(folder: Path, config: TrainConfig, report: Report, device: torch.device | str = "cpu") -> Path:
    """Train a network of starts in `folder`, and return `folder/start`.

    `config.start_from` is the folder of the prior whose features it reads. device: of the prior; the network itself is
    small and trained on the CPU. Raises ValueError if that is no prior of the toy world, or if the folder was begun
    with other settings.
    """
    settings = DiffusersConfig(model=config.start_from or "toybox")
    prior, words = start_prior(settings.model, device)
    begin(folder, config)

    def rendered(name: str, objects: int, seed: int) -> Solids:
        tokenizer = "" if settings.model == "toybox" else settings.model
        data = DataConfig(objects, config.seed + seed, prior.image_size, tokenizer=tokenizer, kinds=tuple(words.kinds))
        pictures = render_files(folder / f"{name}-pictures", data, config.workers, report)
        return solids(prior, pictures, solid_files(folder / f"{name}-solids", data, report), report)

    data = rendered("start", config.start_objects, 0)
    test = rendered("start-held-out", max(config.held_out_objects // 16, 1), 1)
    torch.manual_seed(config.seed)
    model = StartNetwork(data.features.shape[2], settings.digest())

    def step(generator: torch.Generator) -> Tensor:
        index = torch.randint(len(data.features), (config.start_batch,), generator=generator)
        return loss(model, data, index, generator)

    def measure(average: StartNetwork) -> dict[str, float]:
        return {"iou": float(np.mean(overlaps(average, test)))}

    loop = FitConfig(config.start_steps, config.start_rate, config.checkpoint_every, config.minutes)
    average = fit(folder / CHECKPOINT, "start", model, step, measure, loop, config.seed, report)
    average.save(folder / "start")
    write_card(folder, config, average, overlaps(average, test))
    return folder / "start"


def solid_files(folder: Path, data: DataConfig, report: Report) -> list[Path]:
    """Write what is missing of the solids of a set of objects, as many in a file as in those of `render_files`."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:06d}.safetensors" for i in range(-(-data.objects // OBJECTS))]
    for i, path in enumerate(paths):
        numbers = range(i * OBJECTS, min((i + 1) * OBJECTS, data.objects))
        if not path.exists():
            parts = [solid_of(mesh_of(data, number), data.seed + number) for number in numbers]
            write_tensors(path, {name: torch.stack([part[name] for part in parts]) for name in parts[0]})
        report("solids", numbers.stop, data.objects, {})
    return paths


def mesh_of(data: DataConfig, number: int) -> Mesh:
    """Build object `number` of a set: the one in its pictures, see `iterate_objects`."""
    rng = np.random.default_rng([data.seed, number])
    return build(sample_spec(rng, kinds=data.kinds), rng)


def solid_of(mesh: Mesh, seed: int) -> dict[str, Tensor]:
    """Return the fields inside, points and colors of `Solids` for one mesh. seed: of the points."""
    shift = np.random.default_rng(seed).random(3)
    at = sample_surface(mesh, SURFACE, shift.tolist())
    colors = (255 * mesh_colors(mesh, at.face, at.weights)).round().astype(np.uint8)
    return {
        "inside": torch.from_numpy(np.packbits(mesh_to_occupancy(mesh, GRID), axis=-1)),
        "points": torch.from_numpy(at.points).half(),
        "colors": torch.from_numpy(colors),
    }


@torch.no_grad()
def solids(prior: DiffusersPrior, pictures: Sequence[Path], files: Sequence[Path], report: Report) -> Solids:
    """Read the solids of a set of objects, and the features of their pictures, told their prompts."""
    parts: list[dict[str, Tensor]] = []
    for number, (picture, solid) in enumerate(zip(pictures, files, strict=True)):
        file, generator = read_objects(picture), torch.Generator().manual_seed(number)
        features = []
        for rgb, angles, spec in zip(file.pictures, file.angles, file.specs, strict=True):
            x = prior.encode_image(rgb.to(prior.device).float() / 255)
            text = prior.encode_text([prompt(spec)] * 4)
            features.append(view_features(prior, x, text, cameras_at(angles).to(prior.device), generator).half().cpu())
        report("features", number + 1, len(files), {})
        parts.append({"features": torch.stack(features), "angles": file.angles, **read_tensors(solid)[0]})
    return Solids(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]})


def loss(model: StartNetwork, data: Solids, index: Tensor, generator: torch.Generator) -> Tensor:
    """Return the cross-entropy of being inside, at points near the surface and anywhere, and the error of colours.

    index: (B,) of objects.
    """
    batch = len(index)
    draw = partial(torch.randn, generator=generator)
    chosen = torch.randint(SURFACE, (batch, POINTS), generator=generator)
    near = torch.where(torch.arange(POINTS) % 2 == 0, _NEAR, _FAR)[:, None]
    offsets = near * draw(batch, POINTS, 3)
    surface = data.points[index[:, None], chosen].float() + offsets
    anywhere = BOUND * (2 * torch.rand(batch, POINTS, 3, generator=generator) - 1)
    points = torch.cat([surface, anywhere], dim=1)
    inside = torch.stack(
        [trilinear(data.occupancy(i)[..., None], part)[:, 0] for i, part in zip(index.tolist(), points, strict=True)]
    )
    cameras = cameras_at(data.angles[index].flatten(0, 1))
    logits, colors = model(data.features[index].flatten(0, 1).float(), cameras, points)
    close = (offsets.norm(dim=-1) < _COLORED)[..., None]
    wrong = (colors[:, :POINTS] - data.colors[index[:, None], chosen].float() / 255).abs()
    mean = (close * wrong).sum() / close.sum().clamp(min=1)
    return functional.binary_cross_entropy_with_logits(logits, inside) + mean


def overlaps(model: StartNetwork, data: Solids, resolution: int = 32) -> list[float]:
    """Return the IoU of the start made from the true pictures of each object with that very object, on a grid."""
    points = grid_points(resolution).reshape(-1, 3)
    values = []
    for i in range(len(data.features)):
        logits, _ = model.solid(data.features[i].float(), cameras_at(data.angles[i]), points)
        made, true = logits > 0, trilinear(data.occupancy(i)[..., None], points)[:, 0] > 0.5
        values.append(float((made & true).sum() / (made | true).sum().clamp(min=1)))
    return values


def write_card(folder: Path, config: TrainConfig, model: StartNetwork, values: Sequence[float]) -> Path:
    """Write `folder/start/CARD.md`. values: the IoUs of held-out objects."""
    trained = read_metadata(folder / CHECKPOINT)
    steps, minutes = int(trained["step"]), float(trained["seconds"]) / 60
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    text = f"""# A network of starts

Trained by `sds3d toybox train-start`. It reads features of the prior's U-Net from four views of an object, and says
which points in space are inside it, and their colours. It belongs to the prior with the weights `{model.digest[:12]}`.

| | |
|---|---|
| data | {config.start_objects} procedural objects; held-out combinations never shown |
| parameters | {millions:.2f}M |
| training | {steps} steps of {config.start_batch} objects, {minutes:.1f} minutes |
| machine | {machine(False)} |
| IoU with the object in the views | {np.mean(values):.3f}, least {min(values):.3f}, of {len(values)} held-out objects |
"""
    path = folder / "start" / "CARD.md"
    path.write_text(text)
    return path
