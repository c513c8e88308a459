"""Training of the adapter by which a prior predicts under guidance in one call (`sds3d.priors.guidance_adapter`).

As in AGD (arXiv:2503.07274), it learns on trajectories of guided sampling, not on noised pictures: at each level the
prediction of the adapted network under the text alone is pulled to that of classifier-free guidance. After a kill at
any instant, the same command resumes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sds3d.cameras import CameraConfig, Cameras, sample_cameras
from sds3d.devices import seeded
from sds3d.guidance.base import combine, predict_each
from sds3d.guidance.inversion import ddim
from sds3d.guidance.sampling import sampling_times
from sds3d.guidance.variational import target_error
from sds3d.priors.base import Prediction
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.priors.guidance_adapter import GuidanceAdapter, asking_guided
from sds3d.priors.unet_latent import DiffusersPrior
from sds3d.prompts.conditioning import Conditioning
from sds3d.states import read_metadata, read_tensors, write_tensors
from sds3d.toybox.captions import prompt, sample_spec
from sds3d.toybox.card import machine
from sds3d.toybox.fit import FitConfig, Report, fit
from sds3d.toybox.train import begin
from sds3d.toybox.train_config import TrainConfig

SCALES = (1.0, 10.0)
"""Guidance scales of the trajectories."""
LEVELS = 12
"""Steps of a trajectory."""
CHECKPOINT = "guidance.ckpt.safetensors"


@dataclass(frozen=True)
class Points:
    """n points of guided trajectories, of V views each.

    x_t, eps, x0: (n, V, C, h, w), the noised views and the guided prediction. t, scale: (n,). text: (n, T, D).
    cameras: (n, 4, V) azimuth, elevation, distance and field of view.
    """

    x_t: Tensor
    eps: Tensor
    x0: Tensor
    t: Tensor
    scale: Tensor
    text: Tensor
    cameras: Tensor

    def __getitem__(self, rows: Tensor) -> Points:
        return Points(*(value[rows] for value in vars(self).values()))


def train_guidance(folder: Path, config: TrainConfig, report: Report, device: torch.device | str = "cpu") -> Path:
    """Train an adapter in `folder`, and return `folder/guidance`.

    `config.start_from` is the folder of the prior, the embedded one if empty. Raises ValueError if that is no latent
    U-Net, or if the folder was begun with other settings.
    """
    settings = DiffusersConfig(model=config.start_from or "toybox")
    prior = settings.load(device)
    if not isinstance(prior, DiffusersPrior):
        raise ValueError(f"{settings.model} is no U-Net of Stable Diffusion's kind: an adapter needs one")
    begin(folder, config)
    points = trajectories(folder / "trajectories", prior, config.guidance_objects, config.seed, report)
    test = trajectories(folder / "held-out", prior, max(config.guidance_objects // 16, 1), config.seed + 1, report)
    torch.manual_seed(config.seed)
    model = GuidanceAdapter.of(prior.unet, settings.digest()).to(prior.device)

    def step(generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(points.t), (config.guidance_batch,), generator=generator, device=points.t.device)
        return loss(prior, model, points[rows])

    @torch.no_grad()
    def measure(average: GuidanceAdapter) -> dict[str, float]:
        return {"error": relative_error(prior, average, test)}

    loop = FitConfig(config.guidance_steps, config.guidance_rate, config.checkpoint_every, config.minutes)
    average = fit(folder / CHECKPOINT, "guidance", model, step, measure, loop, config.seed, report)
    average.save(folder / "guidance")
    write_card(folder, config, average, measure(average)["error"])
    return folder / "guidance"


def write_card(folder: Path, config: TrainConfig, model: GuidanceAdapter, error: float) -> Path:
    """Write `folder/guidance/CARD.md`. error: see `relative_error`, on held-out trajectories."""
    trained = read_metadata(folder / CHECKPOINT)
    steps, minutes = int(trained["step"]), float(trained["seconds"]) / 60
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    on_gpu = next(model.parameters()).device.type == "cuda"
    text = f"""# An adapter for guidance in one call

Trained by `sds3d toybox train-guidance`. With it, a prior predicts in one call what it would under classifier-free
guidance. It belongs to the prior with the weights `{model.config["digest"][:12]}`.

| | |
|---|---|
| data | trajectories of {config.guidance_objects} prompts, {LEVELS} levels each |
| parameters | {millions:.2f}M |
| training | {steps} steps of {config.guidance_batch} points, {minutes:.1f} minutes |
| machine | {machine(on_gpu)} |
| error on held-out trajectories | {error:.3f} of that of the prior without guidance |
"""
    path = folder / "guidance" / "CARD.md"
    path.write_text(text)
    return path


def trajectories(folder: Path, prior: DiffusersPrior, objects: int, seed: int, report: Report) -> Points:
    """Write what is missing of the trajectories of toy objects, one file each, and return all points on the device."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for number in range(objects):
        path = folder / f"{number:06d}.safetensors"
        if not path.exists():
            write_tensors(path, trajectory(prior, number, seed))
        parts.append(read_tensors(path)[0])
        report("trajectories", number + 1, objects, {})
    return Points(*(torch.cat([part[name] for part in parts]).to(prior.device) for name in Points.__annotations__))


def trajectory(prior: DiffusersPrior, number: int, seed: int) -> dict[str, Tensor]:
    """Return the fields of `Points` along the guided sampling of one toy object, at `LEVELS` levels."""
    rng, generator = np.random.default_rng([seed, number]), seeded(seed * 1_000_003 + number, torch.device("cpu"))
    views, size = prior.n_views, prior.image_size
    cameras = sample_cameras(CameraConfig(views=views, size=size), generator).to(prior.device)
    text = prior.encode_text([prompt(sample_spec(rng))])
    scale = SCALES[0] + (SCALES[1] - SCALES[0]) * float(rng.random())
    latents = prior.encode_image(torch.zeros(views, size, size, 3, device=prior.device))
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    conditions = [text.repeat(views), prior.encode_text([""]).repeat(views)]
    seen: list[tuple[Tensor, Tensor, Prediction]] = []

    def guided(x: Tensor, t: Tensor) -> Prediction:
        positive, negative = predict_each(prior, x, t, conditions, cameras if prior.takes_cameras else None)
        seen.append((x, t, combine(positive, negative, scale)))
        return seen[-1][2]

    ddim(prior, noise, [t.expand(views).to(prior.device) for t in sampling_times(prior, LEVELS)], guided)
    angles = torch.stack([cameras.azimuth, cameras.elevation, cameras.distance, cameras.fovy])
    n = len(seen)
    return {
        "x_t": torch.stack([x for x, _, _ in seen]),
        "eps": torch.stack([prediction.eps for _, _, prediction in seen]),
        "x0": torch.stack([prediction.x0 for _, _, prediction in seen]),
        "t": torch.stack([t[0] for _, t, _ in seen]),
        "scale": torch.full((n,), scale),
        "text": text.hidden.expand(n, -1, -1).clone(),
        "cameras": angles.expand(n, -1, -1).clone(),
    }


def predicted(prior: DiffusersPrior, adapter: GuidanceAdapter, points: Points) -> Prediction:
    """Return the adapted network's prediction for n points of V views, (n V, C, h, w), in one call."""
    views = points.x_t.shape[1]
    ask = asking_guided(prior.family.ask, adapter, points.scale.repeat_interleave(views))
    azimuth, elevation, distance, fovy = points.cameras.transpose(0, 1).flatten(1)  # (n V,) each
    size = prior.image_size
    cameras = Cameras(azimuth, elevation, distance, fovy, size, size) if prior.takes_cameras else None
    cond = Conditioning(points.text.repeat_interleave(views, dim=0))
    t = points.t.repeat_interleave(views)
    return prior.predict_by(prior.denoiser, points.x_t.flatten(0, 1), t, cond, cameras, ask=ask)


def loss(prior: DiffusersPrior, adapter: GuidanceAdapter, points: Points) -> Tensor:
    """Return the mean squared error of the network's target, for the guided prediction."""
    views = points.x_t.shape[1]
    eps, x0, t = points.eps.flatten(0, 1), points.x0.flatten(0, 1), points.t.repeat_interleave(views)
    return target_error(prior, predicted(prior, adapter, points), x0, eps, t)


def relative_error(prior: DiffusersPrior, adapter: GuidanceAdapter, points: Points) -> float:
    """Return the mean squared error of the adapted network divided by that of the plain one."""
    plain = GuidanceAdapter.of(prior.unet).to(prior.device)  # adds nothing
    rows: Sequence[Tensor] = torch.arange(len(points.t), device=points.t.device).split(8)
    errors = [[float(loss(prior, model, points[part])) * len(part) for part in rows] for model in (adapter, plain)]
    return sum(errors[0]) / max(sum(errors[1]), 1e-12)
