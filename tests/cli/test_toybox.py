"""Commands of the toy world."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from sds3d.priors.diffusers import DiffusersConfig
from sds3d.priors.digest import weights_digest
from sds3d.priors.loading import toybox_folder
from sds3d.prompts.vocabulary import Vocabulary, read_vocabulary
from sds3d.states import read_tensors
from sds3d.toybox import material_views
from sds3d.toybox.dataset import read_objects
from sds3d.toybox.train import begin
from sds3d.toybox.train_config import TrainConfig

Cli = Callable[..., tuple[int, str, str]]


def test_toybox_render_draws_true_views(cli: Cli, tmp_path: Path):
    code, _, stderr = cli("toybox", "render", "a red mug", "--out", str(tmp_path / "mug.png"))
    assert code == 0, stderr
    assert (tmp_path / "mug.png").stat().st_size > 1000
    code, _, stderr = cli("toybox", "render", "--objects", "2", "--out", str(tmp_path / "set"))
    assert code == 0, stderr
    assert len(list((tmp_path / "set").glob("*.png"))) == 8


def test_toybox_render_takes_no_option_that_it_would_ignore(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    code, _, stderr = cli("toybox", "render", "a red rubber mug", "--materials", "--out", str(tmp_path / "mug.png"))
    assert code == 2
    assert "--materials is for a data set" in stderr
    assert not list(tmp_path.iterdir())
    given: list[tuple[int, int, int]] = []

    def save(folder: Path, n: int, seed: int, workers: int, **_: object) -> int:
        given.append((n, seed, workers))
        return 4 * n

    monkeypatch.setattr(material_views, "save_lit_objects", save)
    options = ("--objects", "3", "--seed", "5", "--workers", "2", "--out", str(tmp_path))
    code, stdout, stderr = cli("toybox", "render", "--materials", *options)
    assert code == 0, stderr
    assert given == [(3, 5, 2)]
    assert "12 pictures with their maps" in stdout


def test_toybox_sample_draws_four_views(cli: Cli, model: Path, tmp_path: Path):
    path = tmp_path / "sample.png"
    code, _, stderr = cli("toybox", "sample", "a red mug", "--model", str(model), "--steps", "2", "--out", str(path))
    assert code == 0, stderr
    assert path.exists()


def test_toybox_words_lists_what_a_prior_knows(cli: Cli, tmp_path: Path):
    small = Vocabulary({"mug": "handle", "dragon": "tail"}, ("red", "blue"), frozenset(["mug", "dragon"]))
    small.write(tmp_path)
    _, stdout, _ = cli("toybox", "words", "--model", str(tmp_path))
    assert "2 kinds of object" in stdout
    assert "dragon tail" in stdout
    assert "2 colours: red, blue" in stdout
    _, stdout, _ = cli("toybox", "words", "--model", str(tmp_path), "--json")
    assert json.loads(stdout) == {"kinds": {"mug": "handle", "dragon": "tail"}, "colors": ["red", "blue"]}
    _, stdout, _ = cli("toybox", "words")
    assert "mug handle" in stdout


def test_toybox_sample_says_what_a_prior_makes_of_a_prompt(cli: Cli, tmp_path: Path):
    Vocabulary({"mug": "handle"}, ("red",), frozenset(["a", "red", "mug"])).write(tmp_path)
    code, _, stderr = cli("toybox", "sample", "two red cups on fire", "--model", str(tmp_path))
    assert code == 1  # the folder has no networks
    assert "One object is made at a time: “a red mug on fire”." in stderr.replace("\n", " ")
    assert "does not know: on, fire" in stderr


def test_toybox_words_refuses_other_models(cli: Cli, tmp_path: Path):
    code, _, stderr = cli("toybox", "words", "--model", str(tmp_path))
    assert code == 1
    assert "does not tell its words" in stderr.replace("\n", " ")


@pytest.mark.parametrize(
    "given", [["--start-from", "none"], ["start_from=none"], ["--start-from", "none", "start_from=x"]]
)
def test_toybox_train_starts_from_the_folder_that_is_given(given: list[str], cli: Cli, tmp_path: Path):
    code, _, stderr = cli("toybox", "train", "--structure", "--out", str(tmp_path / "told"), *given)
    assert code == 1
    assert "none" in stderr
    assert not (tmp_path / "told").exists()


@pytest.mark.slow
def test_toybox_train_goes_on_from_the_embedded_prior_at_its_own_size_and_with_its_own_kinds(cli: Cli, tmp_path: Path):
    data = ("objects=16", "held_out_objects=1", "workers=1", "samples=1")
    steps = ("autoencoder_steps=1", "unet_steps=2", "unet_objects=1")
    code, _, stderr = cli("toybox", "train", "--start-from", "toybox", "--out", str(tmp_path), *data, *steps)
    assert code == 0, stderr
    given, words = DiffusersConfig(model=str(tmp_path / "prior")), read_vocabulary(toybox_folder())
    assert words is not None
    assert given.vocabulary() == words
    assert given.load().image_size == 64
    trained, before = (
        read_tensors(folder / "unet/diffusion_pytorch_model.safetensors")[0]
        for folder in (tmp_path / "prior", toybox_folder())
    )
    assert trained.keys() == before.keys()
    assert 0 < max(float((trained[key] - value).abs().max()) for key, value in before.items()) < 0.01
    card = (tmp_path / "CARD.md").read_text()
    assert f"trained further from the weights {weights_digest(toybox_folder())[:12]}" in card
    psnr = re.search(r"autoencoder \| ([\d.]+) dB", card)
    assert psnr is not None
    assert float(psnr[1]) > 30  # the decoder still fits the encoder
    objects = read_objects(tmp_path / "pictures/000000.safetensors")
    assert objects.pictures.shape[2:] == (64, 64, 3)
    assert {spec.category for spec in objects.specs} <= words.kinds.keys()
    with Image.open(tmp_path / "samples.png") as sheet:
        assert 4 * 64 <= sheet.width < 8 * 64


@pytest.mark.parametrize("given", [["--structure"], ["--structure", "start_from=toybox"], ["--pictures"]])
def test_toybox_train_adds_to_the_embedded_prior_unless_told_otherwise(given: list[str], cli: Cli, tmp_path: Path):
    begin(tmp_path, TrainConfig(objects=20, start_from=str(toybox_folder())), given[0].removeprefix("--"))
    code, _, stderr = cli("toybox", "train", "--out", str(tmp_path), *given)
    assert code == 1
    assert "was begun with objects=20: use these again" in stderr.replace("\n", " ")
