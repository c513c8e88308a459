"""Training that adds a condition to a prior of the toy world: from its weights, in less than an hour.

A `Condition` says what is added: structure (`train_structure`), light (`train_light`) or pictures (`train_pictures`).
Other networks of the prior keep their weights. After a kill at any instant, the same command resumes.
"""

from __future__ import annotations

import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from transformers import CLIPTokenizer

from sds3d.formats.pictures import contact_sheet, png
from sds3d.guidance.sampling import Conditions, sample, sampling_times
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.priors.noising import Diffusion
from sds3d.priors.unet_latent import DiffusersPrior, Networks
from sds3d.prompts.conditioning import Conditioning
from sds3d.states import read_metadata
from sds3d.toybox import diffusion
from sds3d.toybox.captions import prompt
from sds3d.toybox.card import machine
from sds3d.toybox.dataset import DataConfig, ObjectFile, Rendering, load_tokenizer, read_objects, render_files
from sds3d.toybox.fit import FitConfig, Report, fit
from sds3d.toybox.scope import Scope, start_prior
from sds3d.toybox.train import Incoming, begin, first_files
from sds3d.toybox.train_config import TrainConfig


@dataclass(frozen=True)
class ToldViews:
    """Encoded pictures of n objects, and what a prior is told of them besides texts and cameras.

    told: tensors (n, ...) by name, those of the condition. prompts: of the objects that are there from the start.
    """

    views: diffusion.LatentViews
    told: Mapping[str, Tensor]
    prompts: Sequence[str]

    def __len__(self) -> int:
        return len(self.views)

    def with_room(self, n: int) -> ToldViews:
        """Return a copy with room for n objects in all."""
        told = {name: values.new_empty(n, *values.shape[1:]) for name, values in self.told.items()}
        for name, values in self.told.items():
            told[name][: len(self)] = values
        return ToldViews(self.views.with_room(n), told, self.prompts)

    def append(self, views: ToldViews, at: int) -> None:
        """Write further objects, without prompts, into the room that begins at the first `at` objects."""
        for name, values in views.told.items():
            self.told[name][at : at + len(views)] = values
        self.views.append(views.views, at)


class ToldDenoiser(nn.Module, ABC):
    """The networks of a prior and one that is told more. Its forward takes the inputs of `Denoiser` and one further."""

    def __init__(self, denoiser: diffusion.Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def pretrain(self, folder: Path, views: ToldViews, config: TrainConfig, report: Report) -> None:
        """Train a part of the networks before all are trained. Most have nothing to train before."""

    def teacher(self, views: ToldViews, batch: diffusion.Batch) -> Callable[..., Tensor] | None:
        """Return what is learned in place of the true v, see `diffusion.train_step`; None: the true v."""
        return None

    @abstractmethod
    def networks(self, plain: Networks) -> Networks:
        """Add the further network to those of a prior."""

    @abstractmethod
    def conditions(self, told: Tensor, text: Conditioning, null: Conditioning) -> tuple[Conditioning, Conditioning]:
        """Return the conditions of four samples, prompt and empty text, told what `Condition.whole` returned."""

    @abstractmethod
    def save(self, folder: Path, digest: str) -> None:
        """Write the trained networks into a copy of the folder of the prior that the training started from.

        digest: of that prior's weights, which the added network's settings record.
        """


Model = TypeVar("Model", bound=ToldDenoiser)


def usual_prompts(file: ObjectFile) -> list[str]:
    """Return the prompts of the objects of a file."""
    return [prompt(spec) for spec in file.specs]


@dataclass(frozen=True)
class Condition(Generic[Model]):
    """What a training adds to the texts and cameras that a prior is told.

    name: of the option of `sds3d toybox train`, the stage and the checkpoint.
    sentence: about the trained networks, for the card.
    shown: the heading of what the model is told in sheets of samples.
    loop: returns the number of steps and the learning rate.
    data: returns the set of objects in place of the usual one. It may prepare the prior, and write into the folder.
    model: makes the model that is trained of the networks of a prior.
    told: returns the tensors of `ToldViews.told` for the objects of a file, and maybe tokens (n, CAPTIONS, L) in place
        of those of the file.
    draw: returns what the model is told of a batch in training, (B, ...).
    whole: returns what it may be told of views (B,) of objects (B,), (B, ...). Zeros tell it nothing.
    telling: returns which objects (n,) bool have something to tell that their texts do not.
    pictures: returns what `whole` returned for four views as pictures (4, size, size, 3).
    prompts: returns the prompts of the objects of a file.
    together: the share of objects whose four views are denoised together.
    """

    name: str
    sentence: str
    shown: str
    loop: Callable[[TrainConfig], tuple[int, float]]
    data: Callable[[Path, DiffusersPrior, DataConfig], DataConfig]
    model: Callable[[DiffusersPrior], Model]
    told: Callable[[ObjectFile, CLIPTokenizer], dict[str, Tensor]]
    draw: Callable[[ToldViews, diffusion.Batch, torch.Generator | None], Tensor]
    whole: Callable[[ToldViews, Tensor, Tensor], Tensor]
    telling: Callable[[ToldViews], Tensor]
    pictures: Callable[[Tensor, int], Tensor]
    prompts: Callable[[ObjectFile], list[str]] = usual_prompts
    together: float = 0.7


def train_condition(
    folder: Path, condition: Condition[Model], config: TrainConfig, report: Report, device: torch.device | str = "cpu"
) -> Path:
    """Train in `folder`, and return the diffusers folder `folder/prior`.

    `config.start_from` is the prior that it starts from. Raises ValueError if there is none or if it is of another
    kind, or if the folder was begun with other settings.
    """
    if not config.start_from:
        raise ValueError(
            f"a prior that takes {condition.name} starts from another: give its folder, --start-from FOLDER"
        )
    prior, words = start_prior(config.start_from, device)
    begin(folder, config, condition.name)
    data = condition.data(folder, prior, Scope(prior.image_size, words).training_data(config))
    encode, begun = partial(encoded, condition, prior), time.monotonic()
    with Rendering(folder / "pictures", data, config.workers) as rendering:
        held_out = replace(data, objects=config.held_out_objects, seed=config.seed + 1)
        test = encode(render_files(folder / "held-out", held_out, 1, report))
        first_files(rendering, config, begun, report)
        incoming = Incoming(rendering, encode, config, begun)
        model = train_model(folder, condition, config, prior, incoming, test, report)
        rendering.end()
    written = folder / "prior"
    shutil.copytree(Path(config.start_from).expanduser(), written, dirs_exist_ok=True)
    digest = DiffusersConfig(model=config.start_from).digest()
    model.save(written, digest)
    report("card", 0, 1, {})
    write_card(folder, condition, config, model, test, digest)
    return written


@torch.no_grad()
def encoded(condition: Condition[Model], prior: DiffusersPrior, paths: Sequence[Path]) -> ToldViews:
    """Return the latents of all objects of files and what can be told of them, on the prior's device."""
    parts: list[dict[str, Tensor]] = []
    prompts: list[str] = []
    for path in paths:
        file = read_objects(path)
        rgb = file.pictures.flatten(0, 1).to(prior.device).float() / 255
        own = {"angles": file.angles, "tokens": file.tokens, "view_tokens": file.view_tokens}
        part = {name: values.to(prior.device) for name, values in (own | condition.told(file, prior.tokenizer)).items()}
        parts.append({"latents": prior.encode_image(rgb).unflatten(0, (-1, 4)).half(), **part})
        prompts += condition.prompts(file)
    told = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    plain = [told.pop(name) for name in ("latents", "angles", "tokens", "view_tokens")]
    return ToldViews(diffusion.LatentViews.of(*plain), told, prompts)


def train_model(
    folder: Path,
    condition: Condition[Model],
    config: TrainConfig,
    prior: DiffusersPrior,
    incoming: Incoming[ToldViews],
    test: ToldViews,
    report: Report,
) -> Model:
    """Train the model of a condition on the prior's device, and return its moving average."""
    device, views = prior.device, incoming.views
    torch.manual_seed(config.seed)
    model = condition.model(prior).to(device)
    if device.type == "cpu":
        diffusion.set_memory_format(model.denoiser.unet, torch.channels_last)
    model.pretrain(folder, views, config, report)
    alphas_bar = diffusion.make_scheduler().alphas_cumprod.to(device)
    null_tokens = diffusion.tokenize(prior.tokenizer, [""])[0].to(device)

    def step(generator: torch.Generator) -> Tensor:
        batch = diffusion.draw_batch(views.views, null_tokens, config.unet_objects, generator, condition.together)
        told, teacher = condition.draw(views, batch, generator), model.teacher(views, batch)
        return diffusion.train_step(model, batch, alphas_bar, generator, (told,), teacher)

    def measure(average: Model) -> dict[str, float]:
        draw_samples(folder / "samples.png", condition, prior, average, test, config.samples)
        return errors(condition, average, test, null_tokens)

    steps, rate = condition.loop(config)
    loop = FitConfig(steps, rate, config.checkpoint_every, config.minutes * (1 - config.waiting_share))
    path = checkpoint(folder, condition)
    return fit(path, condition.name, model, step, measure, loop, config.seed, report, incoming.take)


def checkpoint(folder: Path, condition: Condition[Model]) -> Path:
    """Return the file of a training's checkpoint."""
    return folder / f"{condition.name}.ckpt.safetensors"


def per_object(batch: diffusion.Batch, generator: torch.Generator | None) -> Tensor:
    """Draw numbers in [0, 1) for the views of a batch, the same for the four views of a group: (B,)."""
    groups = (len(batch.x) - batch.n_single) // 4
    u = torch.rand(groups + batch.n_single, generator=generator, device=batch.x.device)
    return torch.cat([u[:groups].repeat_interleave(4), u[groups:]])


@torch.no_grad()
def errors(
    condition: Condition[Model], model: Model, test: ToldViews, null_tokens: Tensor, batches: int = 4
) -> dict[str, float]:
    """Return the denoising loss on held-out objects: told more, told nothing, and told what belongs to another."""
    device = null_tokens.device
    alphas_bar = diffusion.make_scheduler().alphas_cumprod.to(device)
    sums: dict[str, float] = {"told": 0.0, "untold": 0.0, "another": 0.0}
    for number in range(batches):
        for name in sums:
            generator = torch.Generator(device).manual_seed(number)  # the same noise for each
            batch = diffusion.draw_batch(test.views, null_tokens, min(16, len(test)), generator)
            told = condition.whole(test, batch.rows, batch.view)
            told = {"told": told, "untold": 0 * told, "another": told.roll(4, dims=0)}[name]
            sums[name] += float(diffusion.train_step(model, batch, alphas_bar, generator, (told,))) / batches
    return sums


@torch.no_grad()
def draw_samples(
    path: Path, condition: Condition[Model], start: DiffusersPrior, model: Model, test: ToldViews, count: int
) -> None:
    """Write a contact sheet of held-out objects: the true pictures, what the model is told, samples, and samples that
    are not told.
    """
    if count == 0:
        return
    noising = Diffusion(diffusion.make_scheduler(), start.device)
    parts = model.denoiser
    plain = Networks(start.vae, start.tokenizer, parts.text_encoder, parts.unet, noising, parts.camera_encoder)
    prior = DiffusersPrior(model.networks(plain), start.device)
    rows = []
    for index in map(int, condition.telling(test).nonzero()[:count, 0].tolist() or [0]):
        cameras = diffusion.cameras_at(test.views.angles[index].float())
        truth = test.views.latents[index].float()
        told = condition.whole(test, torch.full((4,), index), torch.arange(4))
        text, null = prior.encode_text([test.prompts[index]] * 4), prior.encode_text([""] * 4)
        noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(index)).to(truth)
        pictures = [prior.decode(truth), condition.pictures(told, prior.image_size)]
        for texts in (model.conditions(told, text, null), (text, null)):
            samples = sample(prior, noise, Conditions(cameras, *texts), sampling_times(prior, 15))
            pictures.append(prior.decode(samples))
        rows.append((test.prompts[index], torch.cat(pictures).cpu().numpy()))
    titles = ["truth", "", "", "", condition.shown, "", "", "", "told", "", "", "", "not told", "", "", ""]
    path.write_bytes(png(contact_sheet(rows, titles, size=prior.image_size)))


def write_card(
    folder: Path, condition: Condition[Model], config: TrainConfig, model: Model, test: ToldViews, digest: str
) -> Path:
    """Write `folder/CARD.md`. digest: of the weights that the training started from."""
    device = test.views.latents.device
    null_tokens = diffusion.tokenize(load_tokenizer(config.start_from), [""])[0].to(device)
    measured = errors(condition, model, test, null_tokens)
    trained = read_metadata(checkpoint(folder, condition))
    steps, minutes = int(trained["step"]), float(trained["seconds"]) / 60
    views = steps * config.unet_objects * 4
    millions = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("denoiser.")) / 1e6
    text = f"""# A prior of the toy world that takes {condition.name}

Trained by `sds3d toybox train --{condition.name}` from the prior with the weights
`{digest[:12]}`. {condition.sentence.format(millions=millions)}

| | |
|---|---|
| data | up to {config.objects} procedural objects; held-out combinations never shown |
| training | {steps} steps, {views} views, {minutes:.1f} minutes |
| machine | {machine(device.type == "cuda")} |

| told | denoising loss on held-out objects |
|---|---|
| their {condition.name} | {measured["told"]:.4f} |
| nothing | {measured["untold"]:.4f} |
| that of another object | {measured["another"]:.4f} |
"""
    path = folder / "CARD.md"
    path.write_text(text)
    return path
