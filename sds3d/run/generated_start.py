"""A start from a generator: the object that it makes of the prompt in one pass."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from sds3d.config import ConfigError, assets_dir
from sds3d.files import PriorError, RunError
from sds3d.generators.base import Generator, generate
from sds3d.generators.files import SETTINGS, load_generator, read_about
from sds3d.priors.base import Prior, PriorConfig
from sds3d.prompts.conditioning import Conditioning
from sds3d.prompts.prompt import EncodedPrompt
from sds3d.representations.field_nerf import FieldNerfScene

SHIPPED = "instant"
"""The value of `start_from` that names the generator that ships with this package."""


def start_path(given: str) -> Path:
    """Return the file or folder that `start_from` names.

    Raises ConfigError if it is the generator that ships with this package, and none does.
    """
    if given != SHIPPED:
        return Path(given)
    folder = assets_dir() / SHIPPED
    if not is_generator(folder):
        raise ConfigError(
            f"no generator ships with this version, so start_from={SHIPPED} names nothing: train one with `sds3d "
            "generator train --out mine`, and give start_from=mine/generator"
        )
    return folder


def is_generator(path: Path) -> bool:
    """Return whether a path is a generator's folder."""
    return (path / SETTINGS).is_file()


def check_generator(folder: Path, prior: PriorConfig) -> None:
    """Check that a generator can be read and reads this prior's texts. Raises RunError, ConfigError or PriorError."""
    about = read_about(folder)
    if about.digest != prior.digest():
        raise PriorError(
            f"the generator in {folder} was trained with another prior, {about.model}: choose that one, or train a "
            "generator for yours with `sds3d generator train`"
        )


def generated_scene(folder: Path, prior: Prior, prompt: EncodedPrompt, seed: int) -> FieldNerfScene:
    """Return the scene that a generator makes of a prompt, on the prior's device. seed: tells its objects apart.

    Raises RunError for a damaged folder, or if the prior's embeddings have another size.
    """
    generator = load_for(folder, prior, prompt.plain)
    return generate(generator, prompt.plain, random_seed(generator, seed))


def load_for(folder: Path, prior: Prior, text: Conditioning) -> Generator:
    """Load a generator for texts like this one of its prior, on the prior's device.

    Raises RunError for a damaged folder, or if the texts' embeddings have another size, and PriorError.
    """
    generator = load_generator(folder, prior)
    width = generator.text_width
    if text.hidden.shape[-1] != width:
        raise RunError(f"the generator in {folder} takes texts of {width} numbers a token, not of another prior")
    return generator


def random_seed(generator: Generator, seed: int) -> Tensor:
    """Return the random numbers (Z,) by which a generator tells the objects of a prompt apart."""
    return generator.draw_seed(torch.Generator().manual_seed(seed))
