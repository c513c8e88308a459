"""Training of the embedded prior: pictures, autoencoder, latents, U-Net, then a diffusers folder with its card.

Worker processes render pictures into files of the folder. The training begins when they have ended, or, if it has a
limit of time, soon, and takes up further pictures as they come. Every stage writes its result there and is skipped if
the result exists. The two training stages write checkpoints. After a kill at any instant, the same command resumes.
"""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Generic, Protocol, Self, TypeVar

import torch
import torch.distributed as dist
from diffusers import AutoencoderTiny, StableDiffusionPipeline
from torch import Tensor, nn
from transformers import CLIPTokenizer

from sds3d.formats.pictures import contact_sheet, png
from sds3d.guidance.sampling import sample_views
from sds3d.priors.noising import Diffusion
from sds3d.priors.unet_latent import DiffusersPrior, Networks
from sds3d.prompts.prompt import PromptConfig
from sds3d.prompts.vocabulary import Vocabulary
from sds3d.toybox import autoencoder, diffusion, scorer
from sds3d.toybox.captions import prompt
from sds3d.toybox.card import write_card
from sds3d.toybox.dataset import (
    OBJECTS,
    DataConfig,
    ObjectFile,
    Rendering,
    joined,
    load_tokenizer,
    read_objects,
    render_files,
)
from sds3d.toybox.fit import FitConfig, Report, fit, is_fitted, keep_settings
from sds3d.toybox.scope import scope_of, start_prior
from sds3d.toybox.train_config import TrainConfig
from sds3d.toybox.world import COLORS, HAS_FRONT, Spec

UNET_CHECKPOINT = "unet.ckpt.safetensors"

MAY_CHANGE = {
    "minutes", "autoencoder_steps", "unet_steps", "structure_steps", "pictures_steps", "reader_steps", "start_steps",
    "normals_steps", "scorer_steps", "samples", "checkpoint_every",
}  # fmt: skip
"""Settings that may differ when a training is resumed."""


def begin(folder: Path, config: TrainConfig, addition: str = "") -> None:
    """Create the folder and write its settings. Raises ValueError if it was begun with other settings.

    addition: what the training adds to a prior, structure, light or pictures.
    """
    path = folder / "config.json"
    if path.exists():
        written = json.loads(path.read_text())
        former = written.get("addition", "structure" if written.get("structure") else "")  # of an earlier version
        if former != addition:
            kind = f"with --{former}" if former else f"without --{addition}"
            raise ValueError(f"{folder} was begun {kind}: use another --out")
    settings, defaults = ({"addition": addition, **some.model_dump()} for some in (config, TrainConfig()))
    keep_settings(path, settings, MAY_CHANGE, defaults)


def train(folder: Path, config: TrainConfig, report: Report, device: torch.device | str = "cpu") -> Path:
    """Train the embedded prior in `folder` and return the diffusers folder `folder/prior`.

    From `config.start_from`, the training goes on with that prior's kinds of object and size of pictures. On a GPU, it
    runs in bfloat16. Raises ValueError if there is no prior to start from, or if the folder was begun with other
    settings.
    """
    scope = scope_of(config)
    begin(folder, config)
    device = torch.device(device)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    tokenizer = load_tokenizer(config.start_from)
    begun = time.monotonic()
    data = scope.training_data(config)
    with Rendering(folder / "pictures", data, config.workers) as rendering:
        held_out_paths = render_files(folder / "held-out", scope.held_out_data(config), 1, report)
        held_out = joined(held_out_paths)
        paths = first_files(rendering, config, begun, report)
        vae = train_autoencoder(folder, config, device, paths, held_out.pictures, report)
        held_out_latents = encode(vae, held_out_paths)

        def measure(average: diffusion.Denoiser) -> dict[str, float]:
            draw_samples(folder / "samples.png", average, vae, tokenizer, scope.kinds[: config.samples])
            return pose_gaps(average, held_out_latents)

        pictures = Incoming(rendering, partial(encode, vae), config, begun)
        with helpers(folder, config, data, device):
            model = train_denoiser(folder, config, pictures.views, tokenizer, measure, report, pictures.take)
        rendering.end()
    prior = write_prior(folder / "prior", model, vae, tokenizer, scope.words)
    report("card", 0, 1, {})
    write_card(folder, config, scope, model, vae, held_out, held_out_latents)
    return prior


def first_pictures(paths: Sequence[Path], objects: int) -> Tensor:
    """Return the pictures of the first objects, (4 n, S, S, 3) uint8, with n at most `objects`."""
    needed = paths[: -(-objects // OBJECTS)]
    return torch.cat([read_objects(path).pictures for path in needed])[:objects].flatten(0, 1)


def encode(vae: AutoencoderTiny, paths: Iterable[Path]) -> diffusion.LatentViews:
    """Return the latents of all objects of files, on the autoencoder's device."""
    layer = autoencoder.patch_encoder(vae)

    def encoded(file: ObjectFile) -> list[Tensor]:
        latents = layer(autoencoder.to_input(file.pictures.to(vae.device))).unflatten(0, (-1, 4)).half()
        return [latents, *(x.to(vae.device) for x in (file.angles, file.tokens, file.view_tokens))]

    parts = [encoded(read_objects(path)) for path in paths]
    return diffusion.LatentViews.of(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def first_files(rendering: Rendering, config: TrainConfig, begun: float, report: Report) -> list[Path]:
    """Wait for the pictures that a training begins with: all, or those of the first share of its minutes.

    begun: when the rendering began, in time.monotonic's seconds.
    """
    waiting = begun + 60 * config.minutes * config.waiting_share - time.monotonic()
    return rendering.wait(report, max(0.0, waiting) if config.minutes else None)


class Encoded(Protocol):
    """Encoded pictures of objects, to which others can be added."""

    def __len__(self) -> int: ...

    def with_room(self, n: int) -> Self:
        """Return a copy with room for n objects in all."""
        ...

    def append(self, views: Self, at: int) -> None:
        """Write further objects into the room that begins at the first `at` objects."""
        ...


Views = TypeVar("Views", bound=Encoded)


class Incoming(Generic[Views]):
    """The encoded pictures that are rendered while a network is trained, until the rendering's share is over.

    encode: encodes the objects of files. begun: when the rendering began, in time.monotonic's seconds.
    """

    def __init__(
        self, rendering: Rendering, encode: Callable[[Sequence[Path]], Views], config: TrainConfig, begun: float
    ) -> None:
        self._rendering, self._encode = rendering, encode
        self._end = begun + 60 * config.minutes * config.rendering_share
        paths = rendering.files()
        views = encode(paths)
        self._ended = config.minutes == 0
        self._files, self._objects = len(paths), len(views)
        self.views: Views = views if self._ended else views.with_room(max(config.objects, self._objects))

    def take(self) -> None:
        """Add the pictures of a further file, if there is one."""
        if self._ended:
            return
        paths = self._rendering.files()
        if len(paths) == self._files and time.monotonic() > self._end:
            paths = self._rendering.end()
            self._ended = len(paths) == self._files
        if len(paths) > self._files:
            views = self._encode([paths[self._files]])
            self.views.append(views, self._objects)
            self._files, self._objects = self._files + 1, self._objects + len(views)


@contextmanager
def helpers(folder: Path, config: TrainConfig, data: DataConfig, device: torch.device) -> Iterator[None]:
    """On a CPU, start workers - 1 processes that train the U-Net together with this one, with one thread each.

    data: the set of objects, all of them rendered.
    """
    alone = config.workers == 1 or config.minutes > 0 or device.type != "cpu"
    if alone or is_fitted(folder / UNET_CHECKPOINT, config.unet_steps):
        yield
        return
    context = multiprocessing.get_context("spawn")
    meeting = folder / "processes"
    meeting.unlink(missing_ok=True)
    others = [
        context.Process(target=_help, args=(rank, folder, config, data), daemon=True)
        for rank in range(1, config.workers)
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


def _help(rank: int, folder: Path, config: TrainConfig, data: DataConfig) -> None:
    def never_asked(average: diffusion.Denoiser) -> dict[str, float]:
        raise AssertionError("only the first process measures")

    def silent(*_: object) -> None:
        pass

    join_group(folder / "processes", rank, config.workers)
    vae = AutoencoderTiny.from_pretrained(folder / "vae", local_files_only=True)
    views = encode(vae, render_files(folder / "pictures", data, 1, silent))  # all are there
    train_denoiser(folder, config, views, load_tokenizer(config.start_from), never_asked, silent)


def train_scorer(folder: Path, config: TrainConfig, report: Report, device: torch.device | str = "cpu") -> Path:
    """Train the scorer in `folder`, on renders that the prior never saw, and return `folder/scorer`.

    The renders include all combinations: the scorer must know those that the prior has never seen.
    """
    begin(folder, config)
    device = torch.device(device)

    def rendered(name: str, objects: int, seed: int) -> ObjectFile:
        data = DataConfig(objects, config.seed + seed, scorer.SIZE, all_combinations=True)
        return joined(render_files(folder / name, data, config.workers, report))

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
    folder: Path, config: TrainConfig, device: torch.device, paths: Sequence[Path], held_out: Tensor, report: Report
) -> AutoencoderTiny:
    """Return the autoencoder of `folder/vae`. If that does not exist, train it first.

    paths: files of objects. held_out: pictures (N, 4, S, S, 3) uint8 for figures.
    """
    if not (folder / "vae" / "config.json").exists():
        fit_autoencoder(folder, config, device, paths, held_out, report).save_pretrained(folder / "vae")
    # Also after its training: the networks in memory differ in their memory format, and so in rounding.
    model = AutoencoderTiny.from_pretrained(folder / "vae", local_files_only=True).eval()
    nn.Module.to(model, device)
    return model


def fit_autoencoder(
    folder: Path, config: TrainConfig, device: torch.device, paths: Sequence[Path], held_out: Tensor, report: Report
) -> AutoencoderTiny:
    """Fit the encoder, unless the training starts from a prior, and train the decoder."""
    if config.start_from:
        model = AutoencoderTiny.from_pretrained(config.start_from, subfolder="vae", local_files_only=True)
        model.encoder.requires_grad_(False)
    else:
        torch.manual_seed(config.seed)
        model = autoencoder.make_autoencoder(first_pictures(paths, 1000))
    nn.Module.to(model, device)
    encoder = autoencoder.patch_encoder(model)
    if device.type == "cpu":
        diffusion.set_memory_format(model, torch.channels_last)
    test = held_out.flatten(0, 1)
    pictures = first_pictures(paths, config.autoencoder_objects).to(device)

    def step(generator: torch.Generator) -> Tensor:
        u = torch.rand(config.autoencoder_batch, generator=generator, device=device)
        index = (u * len(pictures)).long().clamp(max=len(pictures) - 1)
        return autoencoder.train_step(model, encoder, autoencoder.to_input(pictures[index]), generator)

    def measure(average: AutoencoderTiny) -> dict[str, float]:
        return {"psnr": autoencoder.psnr(average, test[::4][:64])}

    minutes = config.minutes * config.autoencoder_share
    loop = FitConfig(config.autoencoder_steps, config.autoencoder_rate, config.checkpoint_every, minutes)
    path = folder / "vae.ckpt.safetensors"
    return fit(path, "autoencoder", model, step, measure, loop, config.seed, report)


def train_denoiser(
    folder: Path,
    config: TrainConfig,
    views: diffusion.LatentViews,
    tokenizer: CLIPTokenizer,
    measure: Callable[[diffusion.Denoiser], dict[str, float]],
    report: Report,
    meanwhile: Callable[[], None] | None = None,
) -> diffusion.Denoiser:
    """Train text encoder, U-Net and camera encoder on the views' device.

    `measure` is called from time to time, `meanwhile` after each step.
    """
    device = views.latents.device
    torch.manual_seed(config.seed)
    if config.start_from:
        prior, _ = start_prior(config.start_from)
        model = diffusion.Denoiser.of(prior).train().requires_grad_()
    else:
        model = diffusion.Denoiser.new(tokenizer)
    model = model.to(device)
    path = folder / UNET_CHECKPOINT
    if device.type == "cpu":
        diffusion.set_memory_format(model.unet, torch.channels_last)
    alphas_bar = diffusion.make_scheduler().alphas_cumprod.to(device)
    null_tokens = diffusion.tokenize(tokenizer, [""])[0].to(device)

    def step(generator: torch.Generator) -> Tensor:
        batch = diffusion.draw_batch(views, null_tokens, config.unet_objects, generator)
        return diffusion.train_step(model, batch, alphas_bar, generator)

    minutes = config.minutes * (1 - config.waiting_share - config.autoencoder_share)
    loop = FitConfig(config.unet_steps, config.unet_rate, config.checkpoint_every, minutes)
    return fit(path, "unet", model, step, measure, loop, config.seed, report, meanwhile)


def pose_gaps(model: diffusion.Denoiser, held_out: diffusion.LatentViews) -> dict[str, float]:
    """Return the relative increase of the error at two angles, over all objects."""
    alphas_bar = diffusion.make_scheduler().alphas_cumprod.to(held_out.latents.device)
    gaps = {}
    for offset in (90, 180):
        right, turned = diffusion.pose_gaps(model, held_out, alphas_bar, offset).mean(dim=1).tolist()
        gaps[f"gap{offset}"] = turned / right - 1
    return gaps


def draw_samples(
    path: Path, model: diffusion.Denoiser, vae: AutoencoderTiny, tokenizer: CLIPTokenizer, kinds: Sequence[str]
) -> None:
    """Write a contact sheet of samples: four views of one prompt for each of these kinds of object, if any."""
    if not kinds:
        return
    noising = Diffusion(diffusion.make_scheduler(), vae.device)
    networks = Networks(vae, tokenizer, model.text_encoder, model.unet, noising, model.camera_encoder)
    prior = DiffusersPrior(networks, vae.device)
    prompts = [prompt(Spec(category, color)) for category, color in zip(kinds, cycle(COLORS), strict=False)]
    settings = PromptConfig(view_dependent=False)
    rows = [(text, sample_views(prior, text, settings, steps=15).numpy()) for text in prompts]
    path.write_bytes(png(contact_sheet(rows, size=prior.image_size)))


def write_prior(
    folder: Path, model: diffusion.Denoiser, vae: AutoencoderTiny, tokenizer: CLIPTokenizer, words: Vocabulary
) -> Path:
    """Write the networks in fp16 as a folder that StableDiffusionPipeline loads, with the camera encoder in it.

    words: those of the training, which the folder tells.
    """
    unet, vae = copy.deepcopy(model.unet).cpu(), copy.deepcopy(vae).cpu()
    for network in (unet, vae):  # the text encoder stays float32: transformers loads weights in their stored dtype
        network.register_to_config(_name_or_path="")  # without the folder of this training, or where it started
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
    words.write(folder)
    model.camera_encoder.save(folder / "camera_encoder")
    return folder
