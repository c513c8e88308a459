"""The embedded prior: the scorer, which was not trained on its pictures, recognises its samples."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from sds3d.evaluation.asset_scores import bench_prompts
from sds3d.guidance.sampling import sample_views
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.priors.loading import toybox_folder
from sds3d.priors.unet_latent import DiffusersPrior
from sds3d.prompts.prompt import PromptConfig
from sds3d.prompts.vocabulary import read_vocabulary
from sds3d.toybox import diffusion
from sds3d.toybox.autoencoder import psnr
from sds3d.toybox.captions import prompt, sample_spec
from sds3d.toybox.dataset import DataConfig, ObjectFile, joined, render_files
from sds3d.toybox.render import SampleSpec, iterate_objects, stack
from sds3d.toybox.scorer import Scorer, Scores, load_scorer, score
from sds3d.toybox.world import HAS_FRONT, Spec


def ignore(stage: str, step: int, total: int, figures: dict[str, float]) -> None:
    pass


@pytest.fixture(scope="module")
def prior() -> DiffusersPrior:
    return DiffusersConfig().load()


@pytest.fixture(scope="module")
def known() -> SampleSpec:
    """Return a function that draws combinations of the kinds that the shipped prior knows."""
    vocabulary = DiffusersConfig().vocabulary()
    assert vocabulary is not None
    return partial(sample_spec, kinds=tuple(vocabulary.kinds))


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return load_scorer()


def right(read: Scores, specs: list[Spec]) -> int:
    """Return how many pictures are read as their true category and colour."""
    found = zip(read.category, read.color, strict=True)
    return sum(pair == (spec.category, spec.color) for pair, spec in zip(found, specs, strict=True))


@pytest.mark.slow
def test_the_stock_pipeline_draws_recognisable_pictures(scorer: Scorer) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(toybox_folder(), safety_checker=None, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    specs = bench_prompts(16, scorer.kinds)  # one combination per category that training never showed
    images = pipeline(
        [prompt(spec) for spec in specs],
        num_inference_steps=20,
        guidance_scale=5.0,
        height=64,
        width=64,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).images
    read = score(scorer, torch.from_numpy(images))
    right = [
        c == spec.category and k == spec.color for c, k, spec in zip(read.category, read.color, specs, strict=True)
    ]
    assert sum(right) >= 0.9 * len(specs), list(zip(specs, read.category, read.color, strict=True))


@pytest.mark.slow
def test_four_views_show_one_object_from_their_sides(prior: DiffusersPrior, scorer: Scorer) -> None:
    specs = [spec for spec in bench_prompts(16, scorer.kinds) if spec.category in HAS_FRONT]
    recognised = turned = 0
    for spec in specs:
        views = sample_views(prior, prompt(spec), PromptConfig(view_dependent=False), steps=8)  # (4, 64, 64, 3)
        read = score(scorer, views)
        recognised += sum(
            c == spec.category and k == spec.color for c, k in zip(read.category, read.color, strict=True)
        )
        away = (read.azimuth - torch.tensor([0.0, 90.0, 180.0, 270.0]) + 180) % 360 - 180
        turned += (away.abs() < 45).sum().item()
    assert recognised >= 0.95 * 4 * len(specs)
    assert turned >= 0.85 * 4 * len(specs)


def objects(folder: Path, size: int, seed: int) -> ObjectFile:
    return joined(render_files(folder, DataConfig(64, seed, size, tokenizer=str(toybox_folder())), 1, ignore))


def known_rows(data: ObjectFile) -> list[int]:
    """Indices of the objects of kinds that the shipped prior was trained on."""
    known = read_vocabulary(toybox_folder())
    assert known is not None
    return [i for i, spec in enumerate(data.specs) if spec.category in known.kinds]


@pytest.mark.slow
def test_poses_are_known(prior: DiffusersPrior, tmp_path: Path) -> None:
    data = objects(tmp_path, prior.image_size, 77)
    rows = known_rows(data)
    x = torch.cat([prior.encode_image(pictures / 255) for pictures in data.pictures[rows]])
    latents = x.unflatten(0, (-1, 4)).half()
    views = diffusion.LatentViews.of(latents, data.angles[rows], data.tokens[rows], data.view_tokens[rows])
    model = diffusion.Denoiser.of(prior)
    alphas_bar = diffusion.make_scheduler().alphas_cumprod
    for offset, least in ((180, 0.45), (90, 0.6)):
        right, turned = diffusion.pose_gaps(model, views, alphas_bar, offset).mean(dim=1)
        assert turned / right - 1 > least


def test_the_autoencoder_is_sharp(prior: DiffusersPrior) -> None:
    known = read_vocabulary(toybox_folder())
    assert known is not None
    objects = iterate_objects(32, 78, size=prior.image_size, sample=partial(sample_spec, kinds=tuple(known.kinds)))
    assert psnr(prior.vae, torch.from_numpy(stack(objects, 32).pictures).flatten(0, 1)) > 33
