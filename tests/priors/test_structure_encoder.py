"""A U-Net that is told the structure of renders by an encoder beside it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline

from sds3d.cameras import turntable
from sds3d.files import PriorError
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.priors.structure import CELLS, FOLDER, LIT_MAPS, StructureEncoder
from sds3d.priors.unet_latent import DiffusersPrior
from sds3d.prompts.conditioning import Conditioning, Structure
from sds3d.rendering.structure import LIGHT, lit_by
from tests.structured_prior import write_structured_prior

CAMERAS = turntable(4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_structured_prior(tmp_path_factory.mktemp("structure") / "prior")


@pytest.fixture(scope="module")
def plain() -> DiffusersPrior:
    prior = DiffusersConfig(model="toybox").load()
    assert isinstance(prior, DiffusersPrior)
    return prior


@pytest.fixture(scope="module")
def prior(folder: Path) -> DiffusersPrior:
    prior = DiffusersConfig(model=str(folder)).load()
    assert isinstance(prior, DiffusersPrior)
    return prior


def asked(prior: DiffusersPrior, structure: Structure | None, n: int = 4) -> torch.Tensor:
    x = prior.encode_image(torch.rand(n, 64, 64, 3, generator=torch.Generator().manual_seed(1)))
    cond = replace(prior.encode_text(["a red mug"] * n), structure=structure)
    with torch.no_grad():
        return prior.predict(x, torch.full((n,), 0.7), cond, CAMERAS).eps


def maps(size: int = 64, seed: int = 2) -> Structure:
    generator = torch.Generator().manual_seed(seed)
    depth, normal, alpha = (torch.rand(4, size, size, *end, generator=generator) for end in ((), (3,), ()))
    return Structure(depth, normal, alpha)


def test_without_structure_the_model_is_the_plain_one(prior: DiffusersPrior, plain: DiffusersPrior, folder: Path):
    assert (prior.takes_structure, prior.needs_structure, plain.takes_structure) == (True, False, False)
    expected = asked(plain, None)
    assert torch.equal(asked(prior, None), expected)
    nothing = Structure(torch.zeros(4, 64, 64), torch.zeros(4, 64, 64, 3), torch.zeros(4, 64, 64))
    assert torch.equal(asked(prior, nothing), expected)
    switched_off = DiffusersConfig(model=str(folder), structure=False).load()
    assert not switched_off.takes_structure
    with pytest.raises(PriorError, match="takes no depth or normals"):
        asked(plain, maps())


def test_a_new_encoder_changes_nothing(plain: DiffusersPrior):
    encoder = StructureEncoder(plain.unet.conv_in.out_channels)
    features = encoder(torch.rand(2, 5, CELLS * 16, CELLS * 16))
    assert features.shape == (2, plain.unet.conv_in.out_channels, 16, 16)
    assert features.abs().max() == 0


def test_features_are_further_input_channels(prior: DiffusersPrior):
    """The sum in the first convolution is that of one convolution of latents and features of the maps."""
    told = asked(prior, maps())
    encoder = StructureEncoder.load(toy := Path(prior_folder(prior)) / FOLDER)
    assert (toy / "config.json").read_text() == '{\n  "width": 48,\n  "maps": 5,\n  "digest": ""\n}\n'
    seen: list[torch.Tensor] = []
    first_block = prior.unet.down_blocks[0]
    hook = first_block.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["hidden_states"]), with_kwargs=True
    )
    try:
        asked(prior, maps())
        asked(prior, None)
    finally:
        hook.remove()
    with_structure, without = seen
    one = maps()
    planes = torch.stack([one.depth, *one.normal.unbind(-1), one.alpha], dim=1)
    cells = planes.reshape(4, 5, 16, CELLS, 16, CELLS).permute(0, 1, 3, 5, 2, 4).flatten(1, 3)  # (4, 80, 16, 16)
    expected = encoder.last(torch.nn.functional.silu(encoder.first(cells)))
    torch.testing.assert_close(with_structure - without, expected, atol=1e-4, rtol=1e-4)
    assert (told - asked(prior, maps(seed=3))).abs().max() > 1e-3


def prior_folder(prior: DiffusersPrior) -> str:
    return str(prior.unet.config["_name_or_path"]).removesuffix("/unet")


def test_maps_of_any_size_are_taken(prior: DiffusersPrior):
    large = maps(128)
    even = Structure(large.depth * 0 + 0.5, large.normal * 0 + 0.25, large.alpha * 0 + 1)
    small = Structure(even.depth[:, :64, :64], even.normal[:, :64, :64], even.alpha[:, :64, :64])
    torch.testing.assert_close(asked(prior, even), asked(prior, small), atol=1e-4, rtol=1e-4)


def test_trainable_copies_and_chunks_are_told_too(prior: DiffusersPrior):
    score = prior.trainable_score(torch.Generator().manual_seed(0))
    x = prior.encode_image(torch.rand(4, 64, 64, 3, generator=torch.Generator().manual_seed(1)))
    text: Conditioning = prior.encode_text(["a red mug"] * 4)
    t = torch.full((4,), 0.7)
    with torch.no_grad():
        told = score.predict(x, t, replace(text, structure=maps()), CAMERAS).eps
    torch.testing.assert_close(told, asked(prior, maps()), atol=1e-5, rtol=1e-5)  # the copy starts as the prior


def test_a_folder_says_whether_the_light_is_told(folder: Path, tmp_path: Path):
    """Folders written before encoders took light do not say it, and load; their encoders leave the light out."""
    folder_before = shutil.copytree(folder, tmp_path / "before")
    (folder_before / FOLDER / "config.json").write_text('{"width": 48}')
    before = DiffusersConfig(model=str(folder_before)).load()
    lit = DiffusersConfig(model=str(write_structured_prior(tmp_path / "lit", LIT_MAPS))).load()
    assert before.takes_structure
    assert not before.takes_light
    assert lit.takes_light
    assert isinstance(before, DiffusersPrior)
    assert isinstance(lit, DiffusersPrior)
    dark, light = maps(), torch.rand(4, 32, 32, LIGHT, generator=torch.Generator().manual_seed(3))
    bright = lit_by(dark, light)
    assert torch.equal(asked(before, bright), asked(before, dark))
    zeros = replace(dark, light=torch.zeros(4, 64, 64, LIGHT))
    assert torch.equal(asked(lit, zeros), asked(lit, dark))
    assert (asked(lit, bright) - asked(lit, dark)).abs().max() > 1e-3


def test_the_folder_stays_one_of_stable_diffusion(folder: Path):
    pipeline: Any = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    picture = pipeline("a red mug", num_inference_steps=2, height=64, width=64, output_type="np").images[0]
    assert picture.shape == (64, 64, 3)


def test_a_damaged_encoder_is_refused_in_a_line(folder: Path, tmp_path: Path):
    shutil.copytree(folder, tmp_path / "damaged")
    (tmp_path / "damaged" / FOLDER / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(PriorError, match="can't load the model"):
        DiffusersConfig(model=str(tmp_path / "damaged")).load()
