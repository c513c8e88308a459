"""Training of the embedded prior: pictures, autoencoder, latents, U-Net, then a diffusers folder with its card.

Worker processes render pictures into files of the folder. Every stage writes its result there and is skipped if the
result exists. The two training stages write checkpoints. After a kill at any instant, the same command resumes.
"""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import cycle
from pathlib import Path

import torch
import torch.distributed as dist
from diffusers import AutoencoderTiny, StableDiffusionPipeline
from torch import Tensor, nn
from transformers import CLIPTokenizer

from sds3d.formats.pictures import contact_sheet, png
from sds3d.guidance.sampling import sample_views
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.priors.noising import Diffusion
from sds3d.priors.unet_latent import DiffusersPrior, Networks
from sds3d.prompts.prompt import PromptConfig
from sds3d.toybox import autoencoder, diffusion, scorer
from sds3d.toybox.captions import WORLD, prompt
from sds3d.toybox.card import write_card
from sds3d.toybox.dataset import CAPTIONS, DataConfig, DataSet, ObjectFile, joined, load_tokenizer, rendering
from sds3d.toybox.fit import FitConfig, Report, fit, is_fitted
from sds3d.toybox.train_config import TrainConfig
from sds3d.toybox.world import CATEGORIES, COLORS, HAS_FRONT, Spec

OBJECTS_TO_BEGIN = 256
"""Objects that must be there before training begins."""
UNET_CHECKPOINT = "unet.ckpt.safetensors"

MAY_CHANGE = {"minutes", "autoencoder_steps", "unet_steps", "scorer_steps", "samples", "checkpoint_every"}
"""Settings that may differ when a training is resumed."""


def begin(folder: Path, config: TrainConfig) -> None:
    """Create the folder and write its settings. Raises ValueError if it was begun with other settings."""
    folder.mkdir(parents=True, exist_ok=True)
    path, settings = folder / "config.json", config.model_dump()
    before = json.loads(path.read_text()) if path.exists() else settings
    changed = [f"{key}={before.get(key)}" for key in settings.keys() - MAY_CHANGE if before.get(key) != settings[key]]
    if changed:
        raise ValueError(f"{folder} was begun with {' '.join(sorted(changed))}: use these again, or another --out")
    path.write_text(json.dumps(settings, indent=2) + "\n")


def train(folder: Path, config: TrainConfig, report: Report, device: torch.device | str = "cpu") -> Path:
    """Train the embedded prior in `folder` and return the diffusers folder `folder/prior`.

    On a GPU, training runs in bfloat16 while worker processes render. Raises ValueError if the folder was begun with
    other settings.
    """
    begin(folder, config)
    device = torch.device(device)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    with (
        rendering(folder / "held-out", held_out_data(config), config.workers) as held_out_files,
        rendering(folder / "pictures", training_data(config), config.workers) as files,
    ):
        held_out = joined(list(held_out_files.wait(report)))
        room = Room(config, device, files)
        if config.minutes:
            room.first(OBJECTS_TO_BEGIN, report)
        else:
            for file in files.wait(report):
                room.add(file)
        vae = train_autoencoder(folder, config, room, held_out.pictures, report)
        tokenizer = load_tokenizer(config.start_from)
        held_out_latents = encode(vae, held_out)

        def measure(average: diffusion.Denoiser) -> dict[str, float]:
            draw_samples(folder / "samples.png", average, vae, tokenizer, config.samples)
            return pose_gaps(average, held_out_latents)

        with helpers(folder, config, device):
            model = train_denoiser(folder, config, room, tokenizer, measure, report)
    prior = write_prior(folder / "prior", model, vae, tokenizer)
    report("card", 0, 1, {})
    write_card(folder, config, model, vae, held_out, held_out_latents)
    return prior


def training_data(config: TrainConfig) -> DataConfig:
    """Return the set of objects for the training."""
    return DataConfig(config.objects, config.seed, autoencoder.SIZE, tokenizer=config.start_from)


def held_out_data(config: TrainConfig) -> DataConfig:
    """Return the set of further objects for figures."""
    return DataConfig(config.held_out_objects, config.seed + 1, autoencoder.SIZE, tokenizer=config.start_from)


class Room:
    """Pictures and latents of the training's objects, on its device, which grow while they are rendered.

    pictures: (n, S, S, 3) uint8 of at most `autoencoder_objects` objects. shown: () int64, how many there are. views:
    the latents.
    """

    def __init__(self, config: TrainConfig, device: torch.device, files: DataSet) -> None:
        self.device, self._files = device, files
        size, capacity = files.config.size, min(config.autoencoder_objects, config.objects)
        self.pictures = torch.zeros(4 * capacity, size, size, 3, dtype=torch.uint8, device=device)
        self.shown = torch.zeros((), dtype=torch.int64, device=device)
        self.views = diffusion.LatentViews(config.objects, CAPTIONS, device)
        self._shown = 0
        self._encode: nn.Module | None = None
        self._waiting: list[ObjectFile] = []
        self._stream = torch.cuda.Stream() if device.type == "cuda" else None

    def add(self, file: ObjectFile) -> None:
        """Take the objects of a file: their pictures as long as there is room, and latents once the encoder is known.

        On a GPU this happens on a stream of its own, beside the training.
        """
        with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            pictures = file.pictures.to(self.device)
            fits = pictures.flatten(0, 1)[: len(self.pictures) - self._shown]
            self.pictures[self._shown : self._shown + len(fits)] = fits
            self._shown += len(fits)
            self.shown.fill_(self._shown)
            if self._encode is None:
                self._waiting.append(file)
            else:
                self._add_latents(self._encode, pictures, file)

    def encode_with(self, encode: nn.Module) -> None:
        """Set the encoder. Encodes what has come so far."""
        self._encode = encode
        for file in self._waiting:
            self._add_latents(encode, file.pictures.to(self.device), file)
        self._waiting = []

    def _add_latents(self, encode: nn.Module, pictures: Tensor, file: ObjectFile) -> None:
        self.views.add(encode(autoencoder.to_input(pictures)), file.angles, file.tokens, file.view_tokens)

    def take(self) -> None:
        """Add the next file if it is ready."""
        if (file := self._files.ready()) is not None:
            self.add(file)

    def first(self, objects: int, report: Report) -> Tensor:
        """Wait until there are so many objects, and return their pictures (n, S, S, 3)."""
        wanted = min(4 * objects, len(self.pictures))
        files = self._files.wait(report)
        while self._shown < wanted:
            self.add(next(files))
        return self.pictures[:wanted]


def encode(vae: AutoencoderTiny, objects: ObjectFile) -> diffusion.LatentViews:
    """Return the latents of objects, on the autoencoder's device."""
    views = diffusion.LatentViews(len(objects), CAPTIONS, vae.device)
    layer = autoencoder.patch_encoder(vae)
    latents = [layer(autoencoder.to_input(part.to(vae.device))) for part in objects.pictures.split(64)]
    views.add(torch.cat(latents), objects.angles, objects.tokens, objects.view_tokens)
    return views


@contextmanager
def helpers(folder: Path, config: TrainConfig, device: torch.device) -> Iterator[None]:
    """On a CPU, start workers - 1 processes that train the U-Net together with this one, with one thread each."""
    alone = config.workers == 1 or config.minutes > 0 or device.type != "cpu"
    if alone or is_fitted(folder / UNET_CHECKPOINT, config.unet_steps):
        yield
        return
    context = multiprocessing.get_context("spawn")
    meeting = folder / "processes"
    meeting.unlink(missing_ok=True)
    others = [
        context.Process(target=_help, args=(rank, folder, config), daemon=True) for rank in range(1, config.workers)
    ]
    for process in others:
        process.start()
    threads = torch.get_num_threads()
    try:
        join_group(meeting, 0, config.workers)
        yield
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
        for process in others:
            process.terminate()
            process.join()
        torch.set_num_threads(threads)


def join_group(meeting: Path, rank: int, processes: int) -> None:
    """Join the process group that meets in a file."""
    # The loopback device, because gloo would otherwise look up its own host name.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{meeting.resolve()}", rank=rank, world_size=processes)


def _help(rank: int, folder: Path, config: TrainConfig) -> None:
    def never_asked(average: diffusion.Denoiser) -> dict[str, float]:
        raise AssertionError("only the first process measures")

    def silent(*_: object) -> None:
        pass

    join_group(folder / "processes", rank, config.workers)
    vae = AutoencoderTiny.from_pretrained(folder / "vae", local_files_only=True)
    with rendering(folder / "pictures", training_data(config), 1) as files:
        room = Room(config, torch.device("cpu"), files)
        room.encode_with(autoencoder.patch_encoder(vae))
        for file in files.wait(silent):
            room.add(file)
        train_denoiser(folder, config, room, load_tokenizer(config.start_from), never_asked, silent)


def train_scorer(folder: Path, config: TrainConfig, report: Report, device: torch.device | str = "cpu") -> Path:
    """Train the scorer in `folder`, on renders that the prior never saw, and return `folder/scorer`.

    The renders include all combinations: the scorer must know those that the prior has never seen.
    """
    begin(folder, config)
    device = torch.device(device)

    def rendered(name: str, objects: int, seed: int) -> ObjectFile:
        data = DataConfig(objects, config.seed + seed, scorer.SIZE, all_combinations=True)
        with rendering(folder / name, data, config.workers) as files:
            return joined(list(files.wait(report)))

    def targets_of(views: ObjectFile) -> tuple[list[Tensor], Tensor]:
        specs = [spec for spec in views.specs for _ in range(4)]
        has_front = torch.tensor([spec.category in HAS_FRONT for spec in specs]).float()
        targets = scorer.labels(specs, views.angles[..., 0].flatten())
        return [target.to(device) for target in targets], has_front.to(device)

    data = rendered("scorer-pictures", config.scorer_objects, 1_000_003)
    held_out = rendered("scorer-held-out", config.held_out_objects, 2_000_003)
    (targets, has_front), (test_targets, test_front) = targets_of(data), targets_of(held_out)
    flat, test = data.pictures.flatten(0, 1).to(device), held_out.pictures.flatten(0, 1).to(device).float() / 255
    torch.manual_seed(config.seed)
    model = scorer.Scorer().to(device)

    def step(generator: torch.Generator) -> Tensor:
        index = torch.randint(len(flat), (config.scorer_batch,), generator=generator, device=device)
        x = scorer.augment(autoencoder.to_input(flat[index]), generator)
        return scorer.train_step(model, x, [target[index] for target in targets], has_front[index])

    def measure(average: scorer.Scorer) -> dict[str, float]:
        return scorer.accuracy(average, test, test_targets, test_front)

    loop = FitConfig(config.scorer_steps, 1e-3, config.checkpoint_every)
    path = folder / "scorer.ckpt.safetensors"
    average = fit(path, "scorer", model, step, measure, loop, config.seed, report)
    scorer.save_scorer(folder / "scorer", average, measure(average))
    return folder / "scorer"


def train_autoencoder(
    folder: Path, config: TrainConfig, room: Room, held_out: Tensor, report: Report
) -> AutoencoderTiny:
    """Return the autoencoder with fitted encoder and trained decoder, and let the room encode with it.

    It is read from `folder/vae` if that exists. held_out: pictures (N, 4, S, S, 3) uint8 for figures.
    """
    done = (folder / "vae" / "config.json").exists()
    if done or config.start_from:
        where = (folder / "vae", None) if done else (config.start_from, "vae")
        model = AutoencoderTiny.from_pretrained(where[0], subfolder=where[1], local_files_only=True)
        model.encoder.requires_grad_(False)
    else:
        torch.manual_seed(config.seed)
        model = autoencoder.make_autoencoder(room.first(1000, report).cpu())
    nn.Module.to(model, room.device)
    encode = autoencoder.patch_encoder(model)
    room.encode_with(encode)
    if done:
        return model.eval()
    if room.device.type == "cpu":
        diffusion.set_memory_format(model, torch.channels_last)
    test = held_out.flatten(0, 1)

    def step(generator: torch.Generator) -> Tensor:
        u = torch.rand(config.autoencoder_batch, generator=generator, device=room.device)
        pictures = room.pictures[(u * room.shown).long().clamp(max=room.shown - 1)]
        return autoencoder.train_step(model, encode, autoencoder.to_input(pictures), generator)

    def measure(average: AutoencoderTiny) -> dict[str, float]:
        return {"psnr": autoencoder.psnr(average, test[::4][:64])}

    minutes = config.minutes * config.autoencoder_share
    loop = FitConfig(config.autoencoder_steps, config.autoencoder_rate, config.checkpoint_every, minutes)
    path = folder / "vae.ckpt.safetensors"
    trained = fit(path, "autoencoder", model, step, measure, loop, config.seed, report, room.take)
    trained.save_pretrained(folder / "vae")
    return trained


def train_denoiser(
    folder: Path,
    config: TrainConfig,
    room: Room,
    tokenizer: CLIPTokenizer,
    measure: Callable[[diffusion.Denoiser], dict[str, float]],
    report: Report,
) -> diffusion.Denoiser:
    """Train text encoder, U-Net and camera encoder. `measure` is called from time to time."""
    torch.manual_seed(config.seed)
    if config.start_from:
        prior = DiffusersConfig(model=config.start_from).load()
        if not isinstance(prior, DiffusersPrior):
            raise ValueError(f"{config.start_from} is not a prior of this kind: it can't be trained further")
        model = diffusion.Denoiser.of(prior).train().requires_grad_()
    else:
        model = diffusion.Denoiser.new(tokenizer)
    model = model.to(room.device)
    path = folder / UNET_CHECKPOINT
    if room.device.type == "cpu":
        diffusion.set_memory_format(model.unet, torch.channels_last)
    alphas_bar = diffusion.make_scheduler().alphas_cumprod.to(room.device)
    null_tokens = diffusion.tokenize(tokenizer, [""])[0].to(room.device)

    def step(generator: torch.Generator) -> Tensor:
        batch = diffusion.draw_batch(room.views, null_tokens, config.unet_objects, generator)
        return diffusion.train_step(model, batch, alphas_bar, generator)

    minutes = config.minutes * (1 - config.autoencoder_share)
    loop = FitConfig(config.unet_steps, config.unet_rate, config.checkpoint_every, minutes)
    return fit(path, "unet", model, step, measure, loop, config.seed, report, room.take)


def pose_gaps(model: diffusion.Denoiser, held_out: diffusion.LatentViews) -> dict[str, float]:
    """Return the relative increase of the error at two angles, over all objects."""
    alphas_bar = diffusion.make_scheduler().alphas_cumprod.to(held_out.latents.device)
    gaps = {}
    for offset in (90, 180):
        right, turned = diffusion.pose_gaps(model, held_out, alphas_bar, offset).mean(dim=1).tolist()
        gaps[f"gap{offset}"] = turned / right - 1
    return gaps


def draw_samples(path: Path, model: diffusion.Denoiser, vae: AutoencoderTiny, tokenizer: CLIPTokenizer, n: int) -> None:
    """Write a contact sheet of samples: four views of one prompt for each of the first n categories."""
    if n == 0:
        return
    noising = Diffusion(diffusion.make_scheduler(), vae.device)
    networks = Networks(vae, tokenizer, model.text_encoder, model.unet, noising, model.camera_encoder)
    prior = DiffusersPrior(networks, vae.device)
    prompts = [prompt(Spec(category, color)) for category, color in zip(CATEGORIES[:n], cycle(COLORS), strict=False)]
    settings = PromptConfig(view_dependent=False)
    rows = [(text, sample_views(prior, text, settings, steps=15).numpy()) for text in prompts]
    path.write_bytes(png(contact_sheet(rows, size=64)))


def write_prior(folder: Path, model: diffusion.Denoiser, vae: AutoencoderTiny, tokenizer: CLIPTokenizer) -> Path:
    """Write the networks in fp16 as a folder that StableDiffusionPipeline loads, with the camera encoder in it."""
    unet, vae = copy.deepcopy(model.unet).cpu(), copy.deepcopy(vae).cpu()
    vae.register_to_config(_name_or_path="")  # without the folder of this training
    for network in (unet, vae):  # the text encoder stays float32: transformers loads weights in their stored dtype
        nn.Module.half(network)
        diffusion.set_memory_format(network, torch.contiguous_format)
    pipeline = StableDiffusionPipeline(
        vae=vae,  # type: ignore[arg-type]
        text_encoder=copy.deepcopy(model.text_encoder).cpu(),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=diffusion.make_scheduler(),  # type: ignore[arg-type]
        safety_checker=None,  # type: ignore[arg-type]
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    WORLD.write(folder)
    copy.deepcopy(model.camera_encoder).cpu().half().save(folder / "camera_encoder")
    return folder
