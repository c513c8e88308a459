"""Training of the embedded prior: pictures, autoencoder, latents, U-Net, then a diffusers folder with its card.

Every stage writes its result into the folder and is skipped if the result exists. The two training stages write
checkpoints. After a kill at any instant, the same command resumes.
"""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from diffusers import AutoencoderTiny, StableDiffusionPipeline
from torch import Tensor, nn
from transformers import CLIPTokenizer

from sds3d.cameras import orbit
from sds3d.formats.pictures import contact_sheet, png
from sds3d.guidance.sampling import sample_views
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.priors.noising import Diffusion
from sds3d.priors.unet_latent import DiffusersPrior, Networks
from sds3d.prompts.prompt import PromptConfig, view_name
from sds3d.toybox import autoencoder, diffusion, scorer
from sds3d.toybox.captions import VOCABULARY, WORLD, caption, prompt, sample_any_spec, sample_spec
from sds3d.toybox.card import write_card
from sds3d.toybox.fit import FitConfig, Report, fit, is_fitted, read_tensors, write_tensors
from sds3d.toybox.render import FOVY, SampleSpec, iterate_objects, stack
from sds3d.toybox.train_config import TrainConfig
from sds3d.toybox.world import CATEGORIES, COLORS, HAS_FRONT, Spec

CAPTIONS_PER_OBJECT = 8
TRAIN_LATENTS = "train-latents.safetensors"
UNET_CHECKPOINT = "unet.ckpt.safetensors"

MAY_CHANGE = {"autoencoder_steps", "unet_steps", "scorer_steps", "samples", "checkpoint_every"}
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


def train(folder: Path, config: TrainConfig, report: Report) -> Path:
    """Train the embedded prior in `folder` and return the diffusers folder `folder/prior`.

    Raises ValueError if the folder was begun with other settings.
    """
    begin(folder, config)
    prepared = prepare(folder, config, report)

    def measure(average: diffusion.Denoiser) -> dict[str, float]:
        draw_samples(folder / "samples.png", average, prepared.vae, prepared.tokenizer, config.samples)
        return pose_gaps(average, prepared.held_out_latents)

    with helpers(folder, config):
        model = train_denoiser(folder, config, prepared.latents, prepared.tokenizer, measure, report)
    prior = write_prior(folder / "prior", model, prepared.vae, prepared.tokenizer)
    report("card", 0, 1, {})
    held_out = prepared.held_out
    write_card(
        folder,
        config,
        model,
        prepared.vae,
        held_out["pictures"],
        held_out["specs"],
        prepared.held_out_latents,
    )
    return prior


@dataclass(frozen=True)
class Prepared:
    """The inputs of the U-Net's training. held_out: pictures (N, 4, 64, 64, 3) uint8, angles and specs."""

    vae: AutoencoderTiny
    tokenizer: CLIPTokenizer
    latents: diffusion.LatentViews
    held_out: dict[str, Any]
    held_out_latents: diffusion.LatentViews


def prepare(folder: Path, config: TrainConfig, report: Report) -> Prepared:
    """Prepare pictures, autoencoder and latents: read what the folder holds, and make the rest."""
    data = render_stage(folder / "train.safetensors", config.objects, config.seed, config.workers, report)
    held_out = render_stage(
        folder / "test.safetensors", config.held_out_objects, config.seed + 1, config.workers, report
    )
    vae = train_autoencoder(folder, config, data["pictures"], held_out["pictures"], report)
    tokenizer = diffusion.make_tokenizer(VOCABULARY)
    latents = encode_views(folder / TRAIN_LATENTS, vae, data, tokenizer, report)
    held_out_latents = encode_views(folder / "test-latents.safetensors", vae, held_out, tokenizer, report)
    return Prepared(vae, tokenizer, latents, held_out, held_out_latents)


@contextmanager
def helpers(folder: Path, config: TrainConfig) -> Iterator[None]:
    """Start workers - 1 processes that train the U-Net together with this one, with one thread each."""
    if config.workers == 1 or is_fitted(folder / UNET_CHECKPOINT, config.unet_steps):
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

    join_group(folder / "processes", rank, config.workers)
    latents = read_views(folder / TRAIN_LATENTS)
    train_denoiser(folder, config, latents, diffusion.make_tokenizer(VOCABULARY), never_asked, lambda *_: None)


def train_scorer(folder: Path, config: TrainConfig, report: Report) -> Path:
    """Train the scorer in `folder`, on renders that the prior never saw, and return `folder/scorer`.

    The renders include all combinations: the scorer must know those that the prior has never seen.
    """
    begin(folder, config)
    shown = (config.scorer_objects, config.seed + 1_000_003)
    hidden = (config.held_out_objects, config.seed + 2_000_003)
    data = render_stage(folder / "scorer-train.safetensors", *shown, config.workers, report, sample_any_spec)
    held_out = render_stage(folder / "scorer-test.safetensors", *hidden, config.workers, report, sample_any_spec)

    def targets_of(views: dict[str, Any]) -> tuple[list[Tensor], Tensor]:
        specs = [spec for spec in views["specs"] for _ in range(4)]
        has_front = torch.tensor([spec.category in HAS_FRONT for spec in specs]).float()
        return list(scorer.labels(specs, views["angles"][..., 0].flatten())), has_front

    (targets, has_front), (test_targets, test_front) = targets_of(data), targets_of(held_out)
    flat, test = data["pictures"].flatten(0, 1), held_out["pictures"].flatten(0, 1).float() / 255
    torch.manual_seed(config.seed)
    model = scorer.Scorer()

    def step(generator: torch.Generator) -> Tensor:
        index = torch.randint(len(flat), (config.scorer_batch,), generator=generator)
        x = scorer.augment(autoencoder.to_input(flat[index]), generator)
        return scorer.train_step(model, x, [target[index] for target in targets], has_front[index])

    def measure(average: scorer.Scorer) -> dict[str, float]:
        return scorer.accuracy(average, test, test_targets, test_front)

    loop = FitConfig(config.scorer_steps, 1e-3, config.checkpoint_every)
    path = folder / "scorer.ckpt.safetensors"
    average = fit(path, "scorer", model, step, measure, loop, config.seed, report)
    scorer.save_scorer(folder / "scorer", average, measure(average))
    return folder / "scorer"


def render_stage(
    path: Path, n_objects: int, seed: int, workers: int, report: Report, sample: SampleSpec = sample_spec
) -> dict[str, Any]:
    """Return pictures (N, 4, 64, 64, 3) uint8, their cameras and specs.

    They are read from the file, or rendered and written into it.
    """
    if not path.exists():
        objects = iterate_objects(n_objects, seed, workers, sample=sample)
        data = stack(objects, n_objects, progress=lambda done, total: report("pictures", done, total, {}))
        angles = np.stack(np.broadcast_arrays(data.azimuth, data.elevation[:, None], data.distance[:, None]), axis=-1)
        specs = [[spec.category, spec.color, spec.accent] for spec in data.specs]
        tensors = {"pictures": torch.from_numpy(data.pictures), "angles": torch.from_numpy(angles)}
        write_tensors(path, tensors, {"specs": json.dumps(specs)})
    tensors, metadata = read_tensors(path)
    return {**tensors, "specs": [Spec(*values) for values in json.loads(metadata["specs"])]}


def train_autoencoder(
    folder: Path, config: TrainConfig, pictures: Tensor, held_out: Tensor, report: Report
) -> AutoencoderTiny:
    """Return the autoencoder with fitted encoder and trained decoder. It is read from `folder/vae` if that exists."""
    if (folder / "vae" / "config.json").exists():
        return AutoencoderTiny.from_pretrained(folder / "vae", local_files_only=True).eval()
    if config.start_from:
        kept = AutoencoderTiny.from_pretrained(config.start_from, subfolder="vae", local_files_only=True).eval()
        kept.save_pretrained(folder / "vae")
        return kept
    torch.manual_seed(config.seed)
    flat, test = pictures.flatten(0, 1), held_out.flatten(0, 1)
    model = autoencoder.make_autoencoder(pictures[:: max(1, len(pictures) // 1000)].flatten(0, 1))
    diffusion.set_memory_format(model, torch.channels_last)

    def step(generator: torch.Generator) -> Tensor:
        index = torch.randint(len(flat), (config.autoencoder_batch,), generator=generator)
        return autoencoder.train_step(model, autoencoder.to_input(flat[index]), generator)

    def measure(average: AutoencoderTiny) -> dict[str, float]:
        return {"psnr": autoencoder.psnr(average, test[::4][:64])}

    loop = FitConfig(config.autoencoder_steps, config.autoencoder_rate, config.checkpoint_every)
    path = folder / "vae.ckpt.safetensors"
    trained = fit(path, "autoencoder", model, step, measure, loop, config.seed, report)
    trained.save_pretrained(folder / "vae")
    return trained


@torch.no_grad()
def encode_views(
    path: Path, vae: AutoencoderTiny, data: dict[str, Any], tokenizer: CLIPTokenizer, report: Report
) -> diffusion.LatentViews:
    """Return latents of all pictures and tokens of CAPTIONS_PER_OBJECT captions per view.

    They are read from the file, or written into it.
    """
    pictures, angles, specs = data["pictures"], data["angles"], data["specs"]
    if not path.exists():
        latents = []
        for i in range(0, len(pictures), 32):
            z = vae.encode(autoencoder.to_input(pictures[i : i + 32]), return_dict=False)[0]
            latents.append((z * vae.config["scaling_factor"]).unflatten(0, (-1, 4)).half())
            report("latents", i, len(pictures), {})
        rng = np.random.default_rng(0)
        plain, viewed = [], []
        for spec, views in zip(specs, angles.tolist(), strict=True):
            captions = [caption(spec, rng, None) for _ in range(CAPTIONS_PER_OBJECT)]
            plain += captions * 4
            for azimuth, elevation, _ in views:
                viewed += [caption(spec, rng, view_name(azimuth, elevation)) for _ in captions]
        shape = (len(specs), 4, CAPTIONS_PER_OBJECT, -1)
        tokens, view_tokens = (tokenize(tokenizer, texts).reshape(shape) for texts in (plain, viewed))
        views = {"latents": torch.cat(latents), "angles": angles, "tokens": tokens, "view_tokens": view_tokens}
        write_tensors(path, views, {})
    return read_views(path)


def read_views(path: Path) -> diffusion.LatentViews:
    """Read what `encode_views` wrote."""
    tensors, _ = read_tensors(path)
    azimuth, elevation, distance = tensors["angles"].flatten(0, 1).unbind(-1)  # each (4 N,)
    cameras = orbit(azimuth, elevation, distance, FOVY)
    return diffusion.LatentViews(tensors["latents"], cameras, tensors["tokens"], tensors["view_tokens"])


def tokenize(tokenizer: CLIPTokenizer, prompts: Sequence[str]) -> Tensor:
    """Return padded and truncated token ids, (N, L) int64."""
    return tokenizer(
        list(prompts), padding="max_length", truncation=True, max_length=diffusion.TEXT_LENGTH, return_tensors="pt"
    ).input_ids


def train_denoiser(
    folder: Path,
    config: TrainConfig,
    latents: diffusion.LatentViews,
    tokenizer: CLIPTokenizer,
    measure: Callable[[diffusion.Denoiser], dict[str, float]],
    report: Report,
) -> diffusion.Denoiser:
    """Train text encoder, U-Net and camera encoder. `measure` is called from time to time."""
    torch.manual_seed(config.seed)
    model = diffusion.Denoiser(tokenizer)
    path = folder / UNET_CHECKPOINT
    if config.start_from and not path.exists():
        prior = DiffusersConfig(model=config.start_from).load()
        if not isinstance(prior, DiffusersPrior):
            raise ValueError(f"{config.start_from} is not a prior of this kind: it can't be trained further")
        model.load_prior(prior)
    alphas_bar = diffusion.make_scheduler().alphas_cumprod
    null_tokens = tokenize(tokenizer, [""])[0]

    def step(generator: torch.Generator) -> Tensor:
        batch = diffusion.draw_batch(latents, null_tokens, config.unet_objects, generator)
        return diffusion.train_step(model, batch, alphas_bar, generator)

    fitting = FitConfig(config.unet_steps, config.unet_rate, config.checkpoint_every)
    return fit(path, "unet", model, step, measure, fitting, config.seed, report)


def pose_gaps(model: diffusion.Denoiser, held_out: diffusion.LatentViews) -> dict[str, float]:
    """Return the pose gap at two angles, over the first 32 objects."""
    subset = diffusion.select(held_out, torch.arange(min(32, len(held_out))))
    alphas_bar = diffusion.make_scheduler().alphas_cumprod
    return {f"gap{offset}": diffusion.pose_gap(model, subset, alphas_bar, offset) for offset in (90, 180)}


def draw_samples(path: Path, model: diffusion.Denoiser, vae: AutoencoderTiny, tokenizer: CLIPTokenizer, n: int) -> None:
    """Write a contact sheet of samples: four views of one prompt for each of the first n categories."""
    if n == 0:
        return
    noising = Diffusion(diffusion.make_scheduler(), vae.device)
    networks = Networks(vae, tokenizer, model.text_encoder, model.unet, noising, model.camera_encoder)
    prior = DiffusersPrior(networks)
    prompts = [prompt(Spec(category, color)) for category, color in zip(CATEGORIES[:n], cycle(COLORS), strict=False)]
    settings = PromptConfig(view_dependent=False)
    rows = [(text, sample_views(prior, text, settings, steps=15).numpy()) for text in prompts]
    path.write_bytes(png(contact_sheet(rows, size=64)))


def write_prior(folder: Path, model: diffusion.Denoiser, vae: AutoencoderTiny, tokenizer: CLIPTokenizer) -> Path:
    """Write the networks in fp16 as a folder that StableDiffusionPipeline loads, with the camera encoder in it."""
    unet, vae = copy.deepcopy(model.unet), copy.deepcopy(vae)
    vae.register_to_config(_name_or_path="")  # without the folder of this training
    for network in (unet, vae):  # the text encoder stays float32: transformers loads weights in their stored dtype
        nn.Module.half(network)
        diffusion.set_memory_format(network, torch.contiguous_format)
    pipeline = StableDiffusionPipeline(
        vae=vae,  # type: ignore[arg-type]
        text_encoder=copy.deepcopy(model.text_encoder),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=diffusion.make_scheduler(),  # type: ignore[arg-type]
        safety_checker=None,  # type: ignore[arg-type]
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    WORLD.write(folder)
    copy.deepcopy(model.camera_encoder).half().save(folder / "camera_encoder")
    return folder
