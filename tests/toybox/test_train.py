"""Training the embedded prior and the scorer, end to end at toy sizes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline
from torch.utils._python_dispatch import TorchDispatchMode

from sds3d.cameras import turntable
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.priors.loading import toybox_folder
from sds3d.states import read_metadata, read_tensors
from sds3d.toybox import autoencoder, diffusion, scorer
from sds3d.toybox.captions import VOCABULARY, WORLD
from sds3d.toybox.dataset import CAPTIONS
from sds3d.toybox.muon import Muon, split_parameters
from sds3d.toybox.scope import scope_of, start_prior
from sds3d.toybox.train import begin, train, train_scorer
from sds3d.toybox.train_config import TrainConfig
from sds3d.toybox.world import CATEGORIES, Spec

TINY = TrainConfig(
    objects=16, held_out_objects=1, samples=0, workers=1, autoencoder_steps=2, autoencoder_batch=2, unet_steps=2,
    unet_objects=1,
    scorer_objects=16, scorer_steps=2, scorer_batch=8, checkpoint_every=1,
)  # fmt: skip


class Killed(Exception):
    pass


def ignore(stage: str, step: int, total: int, figures: dict[str, float]) -> None:
    pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("train")
    train(path, TINY.model_copy(update={"samples": 1}), ignore)
    assert (path / "samples.png").stat().st_size > 1000
    return path


@pytest.mark.slow
def test_the_folder_is_an_ordinary_stable_diffusion_folder(folder: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(folder / "prior", safety_checker=None, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline("a red mug", num_inference_steps=2, height=128, width=128, output_type="np").images
    assert images.shape == (1, 128, 128, 3)
    assert np.isfinite(images).all()


@pytest.mark.slow
def test_our_loader_joins_views_and_cameras(folder: Path) -> None:
    prior = DiffusersConfig(model=str(folder / "prior")).load()
    assert (prior.n_views, prior.image_size) == (4, 128)
    x = prior.encode_image(torch.rand(4, 128, 128, 3))
    cond = prior.encode_text(["a red mug"] * 4)
    t = torch.full((4,), 0.9)
    with_camera = prior.predict(x, t, cond, turntable(4)).eps
    turned = prior.predict(x, t, cond, turntable(4)[torch.tensor([2, 3, 0, 1])]).eps
    assert (with_camera - turned).abs().max() > 0


@pytest.mark.slow
def test_weights_fit_the_size_limit(folder: Path) -> None:
    size = sum(path.stat().st_size for path in (folder / "prior").rglob("*") if path.is_file())
    assert size <= 40e6


@pytest.mark.slow
def test_a_training_killed_in_each_stage_ends_in_the_same_weights(folder: Path, tmp_path: Path) -> None:
    for pictures in ("pictures", "held-out"):
        shutil.copytree(folder / pictures, tmp_path / pictures)
    for stage in ("autoencoder", "unet"):

        def killer(name: str, step: int, total: int, figures: dict[str, float], stage: str = stage) -> None:
            # The report of step 2 comes before its checkpoint, so the run resumes from the checkpoint of step 1.
            if name == stage and step == 2:
                raise Killed

        with pytest.raises(Killed):
            train(tmp_path, TINY, killer)
    train(tmp_path, TINY, ignore)
    for path in sorted((folder / "prior").rglob("*.safetensors")):
        expected, _ = read_tensors(path)
        resumed, _ = read_tensors(tmp_path / path.relative_to(folder))
        for key, value in expected.items():
            assert torch.equal(value, resumed[key]), f"{path.name}: {key}"


@pytest.mark.slow
def test_two_processes_train_together_and_resume(folder: Path, tmp_path: Path) -> None:
    two = TINY.model_copy(update={"workers": 2})

    def killer(name: str, step: int, total: int, figures: dict[str, float]) -> None:
        if (name, step) == ("unet", 2):
            raise Killed

    def copy_of_the_stages(name: str) -> Path:
        shutil.copytree(folder, tmp_path / name, ignore=shutil.ignore_patterns("config.json", "unet.*", "prior"))
        return tmp_path / name

    whole, halves = copy_of_the_stages("whole"), copy_of_the_stages("halves")
    train(whole, two, ignore)
    with pytest.raises(Killed):
        train(halves, two, killer)
    train(halves, two, ignore)
    weights = "prior/unet/diffusion_pytorch_model.safetensors"
    alone, together, resumed = (read_tensors(path / weights)[0] for path in (folder, whole, halves))
    assert all(torch.equal(value, resumed[key]) for key, value in together.items())
    assert any(not torch.equal(value, alone[key]) for key, value in together.items())  # other batches


@pytest.mark.slow
def test_a_folder_begun_with_other_sizes_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"was begun with objects=16 seed=0: use these again, or another --out"):
        train(folder, TINY.model_copy(update={"objects": 20, "seed": 1, "unet_steps": 5}), ignore)


def test_a_folder_of_an_earlier_version_goes_on_with_the_defaults_of_later_settings(tmp_path: Path) -> None:
    later = {"addition", "structure_steps", "structure_rate", "pictures_steps", "pictures_rate", "reader_steps"}
    begin(tmp_path, TINY)
    before = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in before.items() if k not in later}))
    with pytest.raises(ValueError, match=r"was begun with structure_rate=0\.0004: use these again"):
        begin(tmp_path, TINY.model_copy(update={"structure_rate": 1e-3}))
    begin(tmp_path, TINY)
    assert json.loads((tmp_path / "config.json").read_text()) == before


def test_the_number_of_steps_may_change(tmp_path: Path) -> None:
    for name in ("autoencoder_steps", "unet_steps", "structure_steps", "scorer_steps"):
        begin(tmp_path, TINY.model_copy(update={name: 7}))
    assert json.loads((tmp_path / "config.json").read_text())["scorer_steps"] == 7


@pytest.mark.parametrize(
    ("first", "second", "begun"),
    [
        ("", "structure", "without --structure"),
        ("structure", "", "with --structure"),
        ("structure", "pictures", "with --structure"),
        ("", "pictures", "without --pictures"),
    ],
)
def test_a_folder_is_of_one_kind_of_training(first: str, second: str, begun: str, tmp_path: Path) -> None:
    begin(tmp_path, TINY, first)
    begin(tmp_path, TINY, first)
    with pytest.raises(ValueError, match=rf"was begun {begun}: use another --out"):
        begin(tmp_path, TINY, second)


def test_a_training_of_structure_by_an_earlier_version_goes_on(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"structure": True, **TINY.model_dump()}))
    with pytest.raises(ValueError, match="was begun with --structure"):
        begin(tmp_path, TINY)
    begin(tmp_path, TINY, "structure")


@pytest.mark.slow
def test_training_continues_from_a_prior(folder: Path, tmp_path: Path) -> None:
    still = {"unet_rate": 1e-12, "autoencoder_rate": 1e-12}
    further = TINY.model_copy(update={"start_from": str(folder / "prior"), **still})
    again = train(tmp_path, further, ignore)
    for path in sorted((folder / "prior").rglob("*.safetensors")):
        expected, _ = read_tensors(path)
        kept, _ = read_tensors(again / path.relative_to(folder / "prior"))
        for key, value in expected.items():
            torch.testing.assert_close(kept[key], value, msg=f"{path.name}: {key}")
    for network in ("unet", "vae"):
        assert str(folder) not in (again / network / "config.json").read_text()


def test_a_training_from_the_embedded_prior_has_its_size_kinds_and_latents() -> None:
    config = TrainConfig.model_validate({"objects": 16, "start_from": "toybox"})
    scope, settings = scope_of(config), DiffusersConfig(model="toybox")
    prior, words = settings.load(), settings.vocabulary()
    data = scope.training_data(config)
    assert words is not None
    assert (data.size, data.kinds, scope.words) == (prior.image_size, tuple(words.kinds), words)
    pictures = torch.randint(256, (1, 4, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    vae = AutoencoderTiny.from_pretrained(config.start_from, subfolder="vae", local_files_only=True)
    latents = autoencoder.patch_encoder(vae)(autoencoder.to_input(pictures))
    torch.testing.assert_close(latents, prior.encode_image(pictures[0] / 255), atol=1e-4, rtol=1e-4)


def test_a_start_without_a_file_of_words_knows_the_world_if_its_tokenizer_does(tmp_path: Path) -> None:
    shutil.copytree(toybox_folder(), tmp_path / "prior", ignore=shutil.ignore_patterns("toybox.json"))
    with pytest.raises(ValueError, match="prior is no prior of the toy world: train one"):
        start_prior(str(tmp_path / "prior"))
    diffusion.make_tokenizer(VOCABULARY).save_pretrained(tmp_path / "prior" / "tokenizer")
    assert start_prior(str(tmp_path / "prior"))[1] == WORLD


@pytest.mark.slow
def test_training_for_minutes_shares_them_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("dataset", "train"):  # files that are rendered in less time
        monkeypatch.setattr(f"sds3d.toybox.{module}.OBJECTS", 16)
    shares = {"waiting_share": 0.1, "autoencoder_share": 0.4, "rendering_share": 0.2}
    config = TINY.model_copy(update={"objects": 6400, "minutes": 0.05, **shares})

    def killer(name: str, step: int, total: int, figures: dict[str, float]) -> None:
        if name == "unet":
            raise Killed

    def rendered() -> int:
        return len(list((tmp_path / "pictures").glob("*.safetensors")))

    with pytest.raises(Killed):
        train(tmp_path, config, killer)
    files = rendered()
    assert 2 <= files < 400  # some of them while the networks were trained
    spent = float(read_metadata(tmp_path / "vae.ckpt.safetensors")["seconds"])
    assert 1.2 <= spent < 30
    train(tmp_path, config, ignore)
    files = rendered()
    train(tmp_path, config, ignore)
    assert rendered() == files  # the set keeps its size
    assert float(read_metadata(tmp_path / "vae.ckpt.safetensors")["seconds"]) == spent
    assert float(read_metadata(tmp_path / "unet.ckpt.safetensors")["seconds"]) >= 1.5
    assert DiffusersConfig(model=str(tmp_path / "prior")).load().image_size == 128


def step_without_values() -> tuple[torch.nn.Module, Callable[[], None]]:
    """A training step on tensors that have shapes but no values."""
    model = diffusion.Denoiser.new(diffusion.make_tokenizer(VOCABULARY)).to("meta")
    views = diffusion.LatentViews.of(
        torch.zeros(16, 4, 32, 16, 16, device="meta"),
        torch.zeros(16, 4, 3, device="meta"),
        torch.zeros(16, CAPTIONS, 24, dtype=torch.int16, device="meta"),
        torch.zeros(16, 4, CAPTIONS, 24, dtype=torch.int16, device="meta"),
    )
    null_tokens, alphas_bar = torch.zeros(24, dtype=torch.int64, device="meta"), torch.rand(1000, device="meta")
    matrices, others = split_parameters(model)
    muon = Muon(matrices, lr=torch.zeros((), device="meta"))

    def step() -> None:
        batch = diffusion.draw_batch(views, null_tokens, 8, None)
        diffusion.train_step(model, batch, alphas_bar, None).backward()
        torch.nn.utils.clip_grad_norm_([*matrices, *others], 1.0)
        muon.step()

    return model, step


def test_a_step_on_a_gpu_never_waits_for_the_device() -> None:
    # A CUDA graph records no decision and no copy that depends on values. Tensors without values refuse both.
    class OneDevice(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            devices = {x.device.type for x in args if isinstance(x, torch.Tensor) and x.ndim}
            assert len(devices) < 2, f"{func} mixes devices"
            return func(*args, **(kwargs or {}))

    model, step = step_without_values()
    with OneDevice():
        step()
    assert all(p.grad is not None for p in model.unet.parameters())  # type: ignore[union-attr]
    with pytest.raises(RuntimeError, match="meta"):
        torch.zeros((), device="meta").item()


def test_single_views_stand_alone_in_a_batch() -> None:
    torch.manual_seed(0)
    model = diffusion.Denoiser.new(diffusion.make_tokenizer(VOCABULARY)).eval()
    x, t = torch.randn(6, 32, 16, 16), torch.tensor([700] * 4 + [300, 500])
    tokens = diffusion.tokenize(diffusion.make_tokenizer(VOCABULARY), ["a red mug"] * 6)
    angles, on = torch.rand(6, 3) * 90, torch.ones(6)
    with torch.no_grad():
        joint = model(x, t, tokens, angles, on, 2)
        four = model(x[:4], t[:4], tokens[:4], angles[:4], on[:4])
        alone = [model(*(v[i : i + 1] for v in (x, t, tokens, angles, on)), 1) for i in (4, 5)]
    torch.testing.assert_close(joint, torch.cat([four, *alone]), atol=1e-5, rtol=1e-4)


def test_a_batch_has_groups_then_single_views() -> None:
    n = 6
    number = torch.arange(4 * n, dtype=torch.float32)
    latents = number.reshape(n, 4, 1, 1, 1).expand(-1, -1, 32, 16, 16)
    angles = number.reshape(n, 4, 1).expand(-1, -1, 3)
    words = torch.ones(n, CAPTIONS, 24, dtype=torch.int16)
    views = diffusion.LatentViews.of(latents, angles, words, 2 * torch.ones(n, 4, CAPTIONS, 24, dtype=torch.int16))
    batch = diffusion.draw_batch(views, torch.zeros(24, dtype=torch.int64), 200, torch.Generator().manual_seed(0))
    assert (len(batch.x), batch.n_single) == (800, 240)
    shown = batch.x[:, 0, 0, 0]
    assert torch.equal(shown, batch.angles[:, 0])  # each with its own camera
    groups = shown[:560].reshape(-1, 4)
    assert torch.equal(groups, groups[:, :1] + torch.arange(4))
    assert (groups[:, 0] % 4 == 0).all()
    assert set(shown.tolist()) == set(range(4 * n))
    assert (batch.tokens == batch.tokens[:, :1]).all()
    kinds = torch.stack([(batch.tokens[:, 0] == k).float() for k in range(3)])  # none, plain, with view words
    dropped = 1 - batch.with_camera
    assert kinds[0].mean() == pytest.approx(0.15, abs=0.06)
    assert dropped[:560].mean() == pytest.approx(0.1, abs=0.06)
    assert dropped[560:].mean() == pytest.approx(0.5, abs=0.1)


def test_every_word_is_one_token() -> None:
    tokenizer = diffusion.make_tokenizer(VOCABULARY)
    for word in VOCABULARY:
        if word.isalpha():
            assert len(tokenizer(word).input_ids) == 3, word  # start, word, end


def test_any_text_encodes() -> None:
    tokenizer = diffusion.make_tokenizer(VOCABULARY)
    assert len(tokenizer("Zebra-striped 象 \t mug!").input_ids) > 5


def test_loss_keeps_its_weight_at_high_noise() -> None:
    weights = diffusion.loss_weight(torch.tensor([0.999, 0.9, 0.75, 0.5, 0.0]))
    torch.testing.assert_close(weights, torch.tensor([0.004, 0.4, 1.0, 1.0, 1.0]))


def test_psnr_of_a_known_error() -> None:
    class Shifted(torch.nn.Module):
        device = torch.device("cpu")

        def encode(self, x: torch.Tensor, return_dict: bool) -> tuple[torch.Tensor]:
            return (x,)

        def decode(self, z: torch.Tensor, return_dict: bool) -> tuple[torch.Tensor]:
            return (z + 0.02,)

    pictures = torch.full((3, 8, 8, 3), 100, dtype=torch.uint8)
    assert autoencoder.psnr(Shifted(), pictures) == pytest.approx(40.0, abs=1e-3)  # an error of 0.01 of the peak


def test_scorer_trains_saves_and_loads(tmp_path: Path) -> None:
    folder = train_scorer(tmp_path, TINY, ignore)
    model = scorer.load_scorer(folder)
    read = scorer.score(model, torch.rand(5, 64, 64, 3))
    assert len(read.category) == len(read.color) == 5
    assert read.features.shape == (5, 8 * model.width)


def test_a_scorer_reads_only_its_own_kinds_and_any_size(tmp_path: Path) -> None:
    model = scorer.Scorer(("mug", "hat", "cat"), width=8, pixels=32)
    scorer.save_scorer(tmp_path, model, {"category": 0.5})
    loaded = scorer.load_scorer(tmp_path)
    assert (loaded.kinds, loaded.width, loaded.pixels) == (("mug", "hat", "cat"), 8, 32)
    pictures = torch.rand(3, 32, 32, 3)
    read = scorer.score(loaded, pictures)
    assert set(read.category) <= {"mug", "hat", "cat"}
    doubled = pictures.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
    torch.testing.assert_close(scorer.score(loaded, doubled).features, read.features)
    category, *_ = scorer.labels([Spec("hat", "red"), Spec("mug", "red")], torch.zeros(2), loaded.kinds)
    assert category.tolist() == [1, 0]


def test_the_shipped_scorer_tells_its_kinds() -> None:
    model = scorer.load_scorer()
    assert len(model.kinds) in (16, 76)
    assert model.kinds == CATEGORIES[: len(model.kinds)]


def test_a_scorer_without_kinds_is_refused(tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text("{}")
    with pytest.raises(ValueError, match=r"card\.json has no 'kinds': train it anew"):
        scorer.load_scorer(tmp_path)


def test_scorer_labels() -> None:
    azimuth = torch.tensor([0.0, 22.0, 23.0, 350.0, 180.0])
    category, color, accent, bins = scorer.labels([Spec("duck", "red")] * 5, azimuth)
    assert bins.tolist() == [0, 0, 1, 0, 4]
    assert len(set(category.tolist())) == len(set(color.tolist())) == len(set(accent.tolist())) == 1


def test_augmentation_paints_only_the_background() -> None:
    x = torch.zeros(64, 3, 16, 16)
    x[:, :, 4:12, 4:12] = 0.9
    out = scorer.augment(x, torch.Generator().manual_seed(0))
    middle = out[:, :, 6:10, 6:10].mean(dim=(1, 2, 3))
    assert middle.median() > 0.7  # 0.9 times at least 0.85, and noise
    assert (middle > 0.2).all()  # some become pale, none are painted over
    corner = out[:, :, :2, :2].mean(dim=(1, 2, 3))
    assert corner.std() > 0.2


def test_views_that_come_later_are_drawn_too() -> None:
    def views(numbers: list[int]) -> diffusion.LatentViews:
        n, number = len(numbers), torch.tensor(numbers, dtype=torch.float32).reshape(-1, 1, 1, 1, 1)
        words = torch.ones(n, CAPTIONS, 24, dtype=torch.int16)
        return diffusion.LatentViews.of(
            number.expand(-1, 4, 32, 16, 16), torch.zeros(n, 4, 3), words, words[:, None].expand(-1, 4, -1, -1)
        )

    def drawn() -> set[float]:
        null_tokens = torch.zeros(24, dtype=torch.int64)
        return set(diffusion.draw_batch(room, null_tokens, 200, None).x.unique().tolist())

    torch.manual_seed(0)
    room = views([1, 2]).with_room(5)
    assert drawn() == {1, 2}
    room.append(views([3]), 2)
    assert drawn() == {1, 2, 3}
    room.append(views([4, 5]), 3)
    assert drawn() == {1, 2, 3, 4, 5}
