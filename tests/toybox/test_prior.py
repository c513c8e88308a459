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
from sds3d.toybox import diffusion
from sds3d.toybox.autoencoder import psnr
from sds3d.toybox.captions import prompt, sample_spec
from sds3d.toybox.render import SampleSpec
from sds3d.toybox.scorer import Scorer, Scores, load_scorer, score
from sds3d.toybox.train import encode_views, render_stage
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
        views = sample_views(prior, prompt(spec), PromptConfig(view_dependent=False), steps=15)  # (4, 64, 64, 3)
        read = score(scorer, views)
        recognised += sum(
            c == spec.category and k == spec.color for c, k in zip(read.category, read.color, strict=True)
        )
        away = (read.azimuth - torch.tensor([0.0, 90.0, 180.0, 270.0]) + 180) % 360 - 180
        turned += (away.abs() < 45).sum().item()
    assert recognised >= 0.95 * 4 * len(specs)
    assert turned >= 0.85 * 4 * len(specs)


@pytest.mark.slow
def test_poses_are_known(prior: DiffusersPrior, known: SampleSpec, tmp_path: Path) -> None:
    data = render_stage(tmp_path / "views.safetensors", 32, 77, 1, ignore, known)
    views = encode_views(tmp_path / "latents.safetensors", prior.vae, data, prior.tokenizer, ignore)
    model = diffusion.Denoiser(prior.tokenizer).eval()
    model.load_prior(prior)
    alphas_bar = diffusion.make_scheduler().alphas_cumprod
    assert diffusion.pose_gap(model, views, alphas_bar, 180) > 0.45
    assert diffusion.pose_gap(model, views, alphas_bar, 90) > 0.6


def test_the_autoencoder_is_sharp(prior: DiffusersPrior, known: SampleSpec, tmp_path: Path) -> None:
    pictures = render_stage(tmp_path / "views.safetensors", 32, 78, 1, ignore, known)["pictures"]
    assert psnr(prior.vae, pictures.flatten(0, 1)) > 33


def test_texts_reach_the_encoder_in_the_words_of_the_training(prior: DiffusersPrior) -> None:
    texts = {
        "a red mug": ["a red cup", "two red mugs", "a red mug and a blue car"],
        "an orange car, side view": ["an orange automobile, side view"],
    }
    for known, others in texts.items():
        hidden = prior.encode_text([known]).hidden
        for other in others:
            torch.testing.assert_close(prior.encode_text([other]).hidden, hidden, rtol=0, atol=0)
    assert not torch.equal(prior.encode_text(["a red beaker"]).hidden, prior.encode_text(["a red mug"]).hidden)


def test_known_texts_are_encoded_as_they_are(prior: DiffusersPrior) -> None:
    text = "a photo of a toy duck that is yellow, and whose beak is orange"
    ids = prior.tokenizer(text, padding="max_length", return_tensors="pt").input_ids
    expected = prior.text_encoder(ids).last_hidden_state
    torch.testing.assert_close(prior.encode_text([text]).hidden, expected, rtol=0, atol=1e-6)
