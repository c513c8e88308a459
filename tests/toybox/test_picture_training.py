"""Training of a prior that reads pictures, end to end at toy sizes, and what it is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sds3d.cameras import turntable
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.priors.loading import toybox_folder
from sds3d.priors.picture_adapter import FOLDER, SIDE, PictureAdapter
from sds3d.prompts.conditioning import Conditioning
from sds3d.states import read_tensors
from sds3d.toybox import diffusion
from sds3d.toybox.captions import parse, prompt
from sds3d.toybox.dataset import ObjectFile, load_tokenizer
from sds3d.toybox.train_condition import ToldViews, train_condition
from sds3d.toybox.train_config import TrainConfig
from sds3d.toybox.train_pictures import PICTURES
from sds3d.toybox.world import Spec

TINY = TrainConfig(
    objects=16, held_out_objects=1, samples=1, workers=1, unet_objects=1, checkpoint_every=2, pictures_steps=2,
    reader_steps=2, start_from=str(toybox_folder()),
)  # fmt: skip
TOKENIZER = load_tokenizer(TINY.start_from)


def ignore(stage: str, step: int, total: int, figures: dict[str, float]) -> None:
    pass


@pytest.mark.slow
def test_the_trained_folder_reads_pictures_and_without_them_is_the_prior_that_it_started_from(tmp_path: Path):
    written = train_condition(tmp_path, PICTURES, TINY, ignore)
    trained, plain = DiffusersConfig(model=str(written)).load(), DiffusersConfig(model="toybox").load()
    assert (trained.takes_pictures, trained.takes_cameras, plain.takes_pictures) == (True, True, False)
    adapter, _ = read_tensors(written / FOLDER / "model.safetensors")
    assert adapter["values.0.weight"].abs().max() > 0
    assert "takes pictures" in (tmp_path / "CARD.md").read_text()
    assert PictureAdapter.load(written / FOLDER).config["digest"] == DiffusersConfig(model="toybox").digest()
    assert (tmp_path / "samples.png").stat().st_size > 1000
    x = plain.encode_image(torch.rand(4, 64, 64, 3, generator=torch.Generator().manual_seed(0)))
    text, t, cameras = plain.encode_text(["a red mug"] * 4), torch.full((4,), 0.8), turntable(4)
    expected = plain.predict(x, t, text, cameras).eps
    tokens = trained.encode_picture(torch.rand(1, 48, 80, 3)).expand(4, -1, -1)
    told = torch.cat([tokens[:2], 0 * tokens[2:]])  # zeros are no picture
    alone = Conditioning(text.hidden, pictures=0 * told)
    assert torch.equal(trained.predict(x, t, text, cameras).eps, expected)
    assert torch.equal(trained.predict(x, t, alone, cameras).eps, expected)
    changed = trained.predict(x, t, Conditioning(text.hidden, pictures=told), cameras).eps
    assert not torch.equal(changed, expected)  # by little: the values start at zero, and two steps were taken


def object_file(specs: list[Spec]) -> ObjectFile:
    """Objects whose pictures are of one grey each: 10 times their number and 1, 2 ... for the view."""
    n = len(specs)
    grey = 10 * torch.arange(n)[:, None] + torch.arange(4)  # (n, 4)
    pictures = grey[..., None, None, None].expand(-1, -1, 32, 32, 3).to(torch.uint8)
    tokens = torch.full((n, 8, diffusion.TEXT_LENGTH), 7, dtype=torch.int16)
    none = torch.zeros(n, 4, 5, 0, 0, dtype=torch.int8)
    varied, prompts = torch.zeros(n) > 0, [prompt(spec) for spec in specs]
    view_tokens = tokens[:, None].expand(-1, 4, -1, -1)
    return ObjectFile(pictures, torch.zeros(n, 4, 3), tokens, view_tokens, none, varied, specs, prompts)


def test_groups_are_told_one_picture_of_their_own_object_from_any_side():
    specs = [Spec("mug", "red", "blue"), Spec("duck", "yellow"), Spec("car", "green", "green")] * 3
    file = object_file(specs)
    views = diffusion.LatentViews.of(torch.zeros(9, 4, 1, 1, 1), file.angles, file.tokens, file.view_tokens)
    data = ToldViews(views, PICTURES.told(file, TOKENIZER), [""] * 9)
    assert PICTURES.telling(data).tolist() == [True, False, False] * 3
    generator = torch.Generator().manual_seed(0)
    batch = diffusion.draw_batch(views, torch.zeros(24, dtype=torch.int64), 40, generator)
    told = PICTURES.draw(data, batch, generator)
    assert told.shape == (len(batch.x), 3, SIDE, SIDE)
    grey = (255 * told[:, 0, 0, 0]).round().long()
    assert torch.equal(grey // 10, batch.rows)
    assert set((grey % 10).tolist()) == {0, 1, 2, 3}
    groups = grey[: len(grey) - batch.n_single].reshape(-1, 4)
    assert (groups == groups[:, :1]).all()


def test_captions_leave_the_accent_open_and_the_teacher_is_told_it():
    file = object_file([Spec("mug", "red", "blue")] * 6)
    tokens = PICTURES.told(file, TOKENIZER)["tokens"]
    texts = TOKENIZER.batch_decode(tokens.flatten(0, 1).long(), skip_special_tokens=True)
    assert not any("blue" in text for text in texts)
    assert np.mean([parse(text) == Spec("mug", "red") for text in texts]) > 0.6
    full = TOKENIZER.batch_decode(PICTURES.told(file, TOKENIZER)["full"].long(), skip_special_tokens=True)
    assert {parse(text) for text in full} == {Spec("mug", "red", "blue")}
    assert PICTURES.prompts(file)[0] == "a red mug"
