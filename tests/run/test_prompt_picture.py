"""A picture beside the prompt, from the setting to the prior, with real models' classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sds3d.config import ConfigError, build, merge
from sds3d.priors.gaussian import GaussianPrior
from sds3d.prompts.prompt import PromptConfig
from sds3d.run.checks import prior_problems
from sds3d.run.config import RunConfig, new_run, read_config
from sds3d.run.drive import drive
from sds3d.run.folder import Run, read_checkpoint
from sds3d.run.inputs import check_inputs
from sds3d.run.prompt_picture import read_prompt_picture
from tests.priors.test_control import controlnet
from tests.priors.test_picture_conditions import PICTURE, save_adapter
from tests.priors.tiny import tiny_pipeline
from tests.run.tiny_runs import TINY, disc, tiny


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a tiny Stable Diffusion, an IP-Adapter and a ControlNet for it."""
    folder = tmp_path_factory.mktemp("models")
    pipeline = tiny_pipeline("sd")
    pipeline.save_pretrained(folder / "model")
    save_adapter(folder / "adapter", pipeline.unet, "plain")
    controlnet(pipeline.unet, 0).save_pretrained(folder / "depth")
    return folder


def settings(models: Path, picture: Path) -> RunConfig:
    controls = [{"model": str(models / "depth"), "kind": "depth"}]
    prior = {"model": str(models / "model"), "ip_adapter": str(models / "adapter"), "controlnets": controls}
    prompts = {"image": str(picture), "view_dependent": True}
    changes = {"prompt": "a red mug", "steps": 3, "prior": prior, "prompts": prompts, "export": {"formats": ["ply"]}}
    return build(RunConfig, merge(TINY, changes))


def saved(picture: np.ndarray, file: Path) -> Path:
    Image.fromarray(picture).save(file)
    return file


def density(run: Run) -> torch.Tensor:
    return torch.cat([value.float().flatten() for key, value in read_checkpoint(run.checkpoints[0]).items()
                      if key.startswith("scene/")])  # fmt: skip


def test_a_run_is_told_its_picture_and_structure_and_keeps_a_copy(models: Path, tmp_path: Path) -> None:
    file = saved(PICTURE, tmp_path / "style.png")
    config = settings(models, file)
    check_inputs(config)
    run = new_run(tmp_path / "runs", config)
    other = new_run(tmp_path / "runs", settings(models, saved(255 - PICTURE, tmp_path / "other.png")))
    assert run.folder != other.folder
    file.unlink()
    kept = Path(read_config(run).prompts.image)
    assert kept.is_relative_to(run.folder)
    for one in (run, other):
        assert [step.step for step in drive(one, threads=1)] == [1, 2, 3]
    assert not torch.equal(density(run), density(other))
    again = new_run(tmp_path / "again", settings(models, kept))
    list(drive(again, threads=1))
    assert torch.equal(density(run), density(again))


def test_a_picture_that_no_prior_takes_or_that_is_missing_is_refused() -> None:
    with pytest.raises(ConfigError, match="toybox takes no pictures: remove it, or give a prior that does"):
        prior_problems(tiny(prompts={"image": "style.png"}), [disc()])
    taker: GaussianPrior = disc()
    taker.takes_pictures = True
    with pytest.raises(ConfigError, match="takes a picture beside the text: set prompts"):
        prior_problems(tiny(), [taker])


def test_missing_files_are_found_before_a_run_is_queued(models: Path, tmp_path: Path) -> None:
    file = saved(PICTURE, tmp_path / "style.png")
    config = settings(models, file)
    for key, change in (
        ("prompts.image", {"prompts": {"image": str(tmp_path / "none.png")}}),
        ("prior.ip_adapter", {"prior": {"ip_adapter": str(tmp_path / "none")}}),
        ("prior.controlnets", {"prior": {"controlnets": [{"model": str(tmp_path), "kind": "canny"}]}}),
    ):
        with pytest.raises(ConfigError, match=key.replace(".", r"\.")):
            check_inputs(build(RunConfig, merge(config.model_dump(), change)))


def test_transparent_pixels_are_white(tmp_path: Path) -> None:
    picture = np.zeros((2, 2, 4), np.uint8)
    picture[0, 0] = (255, 0, 0, 255)
    Image.fromarray(picture).save(tmp_path / "picture.png")
    rgb = read_prompt_picture(PromptConfig(image=str(tmp_path / "picture.png")))
    assert rgb is not None
    expected = torch.ones(1, 2, 2, 3)
    expected[0, 0, 0] = torch.tensor([1.0, 0, 0])
    torch.testing.assert_close(rgb, expected)
