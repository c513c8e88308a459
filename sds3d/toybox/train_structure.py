"""Training of a prior that is told the structure of pictures: from a prior of the toy world, in less than an hour.

Depth, normals and opacity of the true objects enter the U-Net by a `StructureEncoder`. Half of the objects have shapes
that their names do not tell, so that the prior follows the structure and not the usual shape. The structure of the
other half is dropped at times, so that the prior stays one of texts and cameras. The encoders of texts and cameras and
the autoencoder keep their weights. After a kill at any instant, the same command resumes.
"""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from sds3d.formats.pictures import contact_sheet, png
from sds3d.guidance.sampling import Conditions, sample, sampling_times
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.priors.noising import Diffusion
from sds3d.priors.structure import CELLS, FOLDER, StructureEncoder, structure_features
from sds3d.priors.unet_latent import DiffusersPrior, Networks
from sds3d.prompts.conditioning import Structure
from sds3d.prompts.vocabulary import Vocabulary
from sds3d.toybox import diffusion
from sds3d.toybox.captions import prompt
from sds3d.toybox.card import machine
from sds3d.toybox.dataset import DataConfig, Rendering, load_tokenizer, read_objects, render_files
from sds3d.toybox.fit import FitConfig, Report, fit, read_metadata
from sds3d.toybox.train import Incoming, begin, first_files
from sds3d.toybox.train_config import TrainConfig

DROPPED = 0.4
"""The share of objects of the usual shape whose structure is not told."""
CHECKPOINT = "structure.ckpt.safetensors"


class StructuredDenoiser(nn.Module):
    """The networks of a prior, of which the U-Net is trained, and the encoder of structures."""

    def __init__(self, prior: DiffusersPrior) -> None:
        super().__init__()
        self.denoiser = diffusion.Denoiser.of(prior)
        self.denoiser.unet.train().requires_grad_()
        self.encoder = prior.structure_encoder or StructureEncoder(prior.unet.conv_in.out_channels)
        self.encoder.train().requires_grad_()

    def forward(
        self, x_t: Tensor, t: Tensor, tokens: Tensor, angles: Tensor, with_camera: Tensor, n_single: int, maps: Tensor
    ) -> Tensor:
        """Return v as `Denoiser` does. maps: (B, 5, 4 h, 4 w), zeros where the structure is not told."""
        features = self.encoder(maps.to(self.encoder.last.weight.dtype))
        with structure_features(self.denoiser.unet, features):
            return self.denoiser(x_t, t, tokens, angles, with_camera, n_single)


@dataclass(frozen=True)
class StructuredViews:
    """Encoded pictures of n objects with their structure.

    maps: (n, 4, 5, M, M) int8, 127 for 1. varied: (n,) bool, whether the shape is not the usual one. prompts: of the
    objects that are there from the start.
    """

    views: diffusion.LatentViews
    maps: Tensor
    varied: Tensor
    prompts: Sequence[str]

    def __len__(self) -> int:
        return len(self.varied)

    def with_room(self, n: int) -> StructuredViews:
        """Return a copy with room for n objects in all."""
        maps, varied = (values.new_empty(n, *values.shape[1:]) for values in (self.maps, self.varied))
        maps[: len(self)], varied[: len(self)] = self.maps, self.varied
        return StructuredViews(self.views.with_room(n), maps, varied, self.prompts)

    def append(self, views: StructuredViews, at: int) -> None:
        """Write further objects, without prompts, into the room that begins at the first `at` objects."""
        rows = slice(at, at + len(views))
        self.maps[rows], self.varied[rows] = views.maps, views.varied
        self.views.append(views.views, at)

    def told(self, batch: diffusion.Batch, generator: torch.Generator | None, dropped: float = DROPPED) -> Tensor:
        """Return the maps of a batch, (B, 5, M, M), with zeros for the share `dropped` of the usual objects."""
        grouped = len(batch.x) - batch.n_single
        u = torch.rand(grouped // 4 + batch.n_single, generator=generator, device=batch.x.device)
        u = torch.cat([u[: grouped // 4].repeat_interleave(4), u[grouped // 4 :]])  # (B,), the same in a group
        kept = (u >= dropped) | self.varied[batch.rows]
        return self.maps[batch.rows, batch.view].float() / 127 * kept[:, None, None, None]


def train_structure(folder: Path, config: TrainConfig, report: Report, device: torch.device | str = "cpu") -> Path:
    """Train a prior that takes structure in `folder`, and return the diffusers folder `folder/prior`.

    `config.start_from` is the prior that it starts from. Raises ValueError if there is none or if it is of another
    kind, or if the folder was begun with other settings.
    """
    if not config.start_from:
        raise ValueError("a prior that takes structure starts from another: give its folder, --start-from FOLDER")
    start = DiffusersConfig(model=config.start_from)
    prior, words = start.load(device), start.vocabulary()
    if not isinstance(prior, DiffusersPrior) or prior.camera_encoder is None or words is None:
        raise ValueError(f"{config.start_from} is no prior of the toy world: train one with `sds3d toybox train`")
    begin(folder, config, structure=True)
    sets, encode, begun = data_of(config, prior, words), partial(structured, prior), time.monotonic()
    with Rendering(folder / "pictures", sets["pictures"], config.workers) as rendering:
        test = encode(render_files(folder / "held-out", sets["held-out"], 1, report))
        first_files(rendering, config, begun, report)
        pictures = Incoming(rendering, encode, config, begun)
        model = train_denoiser(folder, config, prior, pictures.views, test, report, pictures.take)
        rendering.end()
    written = write_prior(folder / "prior", Path(config.start_from).expanduser(), model)
    report("card", 0, 1, {})
    write_card(folder, config, model, test)
    return written


def data_of(config: TrainConfig, prior: DiffusersPrior, words: Vocabulary) -> dict[str, DataConfig]:
    """Return the sets of objects by the names of their folders: for figures, and for the training."""
    maps, kinds = CELLS * prior.unet.config["sample_size"], tuple(words.kinds)

    def data(objects: int, seed: int) -> DataConfig:
        return DataConfig(objects, seed, prior.image_size, tokenizer=config.start_from, kinds=kinds, maps=maps)

    return {
        "held-out": data(config.held_out_objects, config.seed + 1),
        "pictures": data(config.objects, config.seed),
    }


@torch.no_grad()
def structured(prior: DiffusersPrior, paths: Sequence[Path]) -> StructuredViews:
    """Return the latents and maps of all objects of files, on the prior's device."""
    parts: list[list[Tensor]] = []
    prompts: list[str] = []
    for path in paths:
        file = read_objects(path)
        rgb = file.pictures.flatten(0, 1).to(prior.device).float() / 255
        latents = prior.encode_image(rgb).unflatten(0, (-1, 4)).half()
        others = (file.angles, file.tokens, file.view_tokens, file.structure, file.varied)
        parts.append([latents, *(values.to(prior.device) for values in others)])
        prompts += [prompt(spec) for spec in file.specs]
    *views, maps, varied = (torch.cat(values) for values in zip(*parts, strict=True))
    return StructuredViews(diffusion.LatentViews.of(*views), maps, varied, prompts)


def train_denoiser(
    folder: Path,
    config: TrainConfig,
    prior: DiffusersPrior,
    views: StructuredViews,
    test: StructuredViews,
    report: Report,
    meanwhile: Callable[[], None],
) -> StructuredDenoiser:
    """Train U-Net and encoder of structures, and return their moving average. meanwhile: called after each step."""
    device, tokenizer = prior.device, prior.tokenizer
    torch.manual_seed(config.seed)
    model = StructuredDenoiser(prior).to(device)
    if device.type == "cpu":
        diffusion.set_memory_format(model.denoiser.unet, torch.channels_last)
    alphas_bar = diffusion.make_scheduler().alphas_cumprod.to(device)
    null_tokens = diffusion.tokenize(tokenizer, [""])[0].to(device)

    def step(generator: torch.Generator) -> Tensor:
        batch = diffusion.draw_batch(views.views, null_tokens, config.unet_objects, generator)
        return diffusion.train_step(model, batch, alphas_bar, generator, (views.told(batch, generator),))

    def measure(average: StructuredDenoiser) -> dict[str, float]:
        draw_samples(folder / "samples.png", prior, average, test, config.samples)
        return errors(average, test, null_tokens)

    minutes = config.minutes * (1 - config.waiting_share)
    loop = FitConfig(config.structure_steps, config.structure_rate, config.checkpoint_every, minutes)
    return fit(folder / CHECKPOINT, "structure", model, step, measure, loop, config.seed, report, meanwhile)


@torch.no_grad()
def errors(model: StructuredDenoiser, test: StructuredViews, null_tokens: Tensor, batches: int = 4) -> dict[str, float]:
    """Return the denoising loss on held-out objects: told their structure, told none, and told that of another."""
    device = test.maps.device
    alphas_bar = diffusion.make_scheduler().alphas_cumprod.to(device)
    sums: dict[str, float] = {"told": 0.0, "untold": 0.0, "another": 0.0}
    for number in range(batches):
        for name in sums:
            generator = torch.Generator(device).manual_seed(number)  # the same noise for each
            batch = diffusion.draw_batch(test.views, null_tokens, min(16, len(test.varied)), generator)
            maps = test.maps[batch.rows, batch.view].float() / 127
            maps = {"told": maps, "untold": 0 * maps, "another": maps.roll(4, dims=0)}[name]
            sums[name] += float(diffusion.train_step(model, batch, alphas_bar, generator, (maps,))) / batches
    return sums


@torch.no_grad()
def draw_samples(
    path: Path, start: DiffusersPrior, model: StructuredDenoiser, test: StructuredViews, count: int
) -> None:
    """Write a contact sheet of held-out objects in unusual shapes: the true pictures and normals, samples, and samples
    without structure.
    """
    if count == 0:
        return
    noising = Diffusion(diffusion.make_scheduler(), start.device)
    parts = model.denoiser
    networks = Networks(
        start.vae, start.tokenizer, parts.text_encoder, parts.unet, noising, parts.camera_encoder, None, model.encoder
    )
    prior = DiffusersPrior(networks, start.device)
    unusual = test.varied.nonzero()[:count, 0].tolist() or [0]
    rows = []
    for index in map(int, unusual):
        cameras = diffusion.cameras_at(test.views.angles[index].float())
        truth = test.views.latents[index].float()
        maps = test.maps[index].float() / 127
        structure = Structure(maps[:, 0], maps[:, 1:4].permute(0, 2, 3, 1), maps[:, 4])
        text, null = prior.encode_text([test.prompts[index]] * 4), prior.encode_text([""] * 4)
        noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(index)).to(truth)
        pictures = [prior.decode(truth), shown_normals(structure, prior.image_size)]
        for told in (structure, None):
            conditions = Conditions(cameras, replace(text, structure=told), replace(null, structure=told))
            pictures.append(prior.decode(sample(prior, noise, conditions, sampling_times(prior, 15))))
        rows.append((test.prompts[index], torch.cat(pictures).cpu().numpy()))
    titles = ["truth", "", "", "", "normals", "", "", "", "told", "", "", "", "not told", "", "", ""]
    path.write_bytes(png(contact_sheet(rows, titles, size=64)))


def shown_normals(structure: Structure, size: int) -> Tensor:
    """Return the normals as colours (B, size, size, 3)."""
    planes = 0.5 * (structure.normal.permute(0, 3, 1, 2) + 1)
    return nn.functional.interpolate(planes, (size, size)).permute(0, 2, 3, 1)


def write_prior(folder: Path, start: Path, model: StructuredDenoiser) -> Path:
    """Write a copy of the folder `start` with the trained U-Net in fp16, and the encoder beside it."""
    shutil.copytree(start, folder, dirs_exist_ok=True)
    shutil.rmtree(folder / "unet")
    unet = copy.deepcopy(model.denoiser.unet).cpu()
    nn.Module.half(unet)
    diffusion.set_memory_format(unet, torch.contiguous_format)
    unet.save_pretrained(folder / "unet", safe_serialization=True)
    copy.deepcopy(model.encoder).cpu().half().save(folder / FOLDER)
    return folder


def write_card(folder: Path, config: TrainConfig, model: StructuredDenoiser, test: StructuredViews) -> Path:
    """Write `folder/CARD.md`."""
    null_tokens = diffusion.tokenize(load_tokenizer(config.start_from), [""])[0].to(test.maps.device)
    measured = errors(model, test, null_tokens)
    trained = read_metadata(folder / CHECKPOINT)
    steps, minutes = int(trained["step"]), float(trained["seconds"]) / 60
    views = steps * config.unet_objects * 4
    millions = sum(p.numel() for p in model.encoder.parameters()) / 1e6
    text = f"""# A prior of the toy world that takes structure

Trained by `sds3d toybox train --structure` from the weights of another prior. It is told depth, normals and opacity of
each view by an encoder of {millions:.2f}M parameters beside the U-Net, or nothing.

| | |
|---|---|
| data | up to {config.objects} procedural objects, half of them in unusual shapes; held-out combinations never shown |
| U-Net and encoder | {steps} steps, {views} views, {minutes:.1f} minutes |
| machine | {machine(test.maps.device.type == "cuda")} |

| told | denoising loss on held-out objects |
|---|---|
| their structure | {measured["told"]:.4f} |
| nothing | {measured["untold"]:.4f} |
| the structure of another object | {measured["another"]:.4f} |
"""
    path = folder / "CARD.md"
    path.write_text(text)
    return path
