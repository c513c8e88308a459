"""A generator's folder: its settings, what it was trained with, and its weights in half precision."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from safetensors import SafetensorError

from sds3d.config import Config, build
from sds3d.files import RunError
from sds3d.generators.base import Generator
from sds3d.generators.hyper import HyperGeneratorConfig
from sds3d.generators.prd import PrdGeneratorConfig
from sds3d.generators.triplane import TriplaneGeneratorConfig
from sds3d.priors.base import Prior
from sds3d.priors.network_files import load_weights, read_settings, save_network

AnyGeneratorConfig = Annotated[
    TriplaneGeneratorConfig | HyperGeneratorConfig | PrdGeneratorConfig, Field(discriminator="name")
]
"""The settings of any generator, told apart by `name`."""
SETTINGS, WEIGHTS = "generator.json", "generator.safetensors"


class About(Config):
    """What a generator's folder says of it.

    text_width: size of a token's embedding by the text encoder that it was trained with. model, digest: that prior's
    name and the digest of its weights, if it has any. rule: what taught it.
    """

    generator: AnyGeneratorConfig
    text_width: int
    model: str
    digest: str
    rule: str


def save_generator(folder: Path, about: About, generator: Generator) -> None:
    """Write a generator into a folder."""
    save_network(folder, generator, about.model_dump(), SETTINGS, WEIGHTS)


def read_about(folder: Path) -> About:
    """Read what a generator's folder says of it. Raises RunError for another or a damaged folder, and ConfigError."""
    path = folder / SETTINGS
    if not path.is_file() or not (folder / WEIGHTS).is_file():
        raise RunError(f"{folder} has no {SETTINGS} and {WEIGHTS}: give the folder that sds3d generator train wrote")
    try:
        values = read_settings(folder, SETTINGS)
    except ValueError as error:
        raise RunError(f"{path} is damaged: {error}") from None
    return build(About, values)


def load_generator(folder: Path, prior: Prior) -> Generator:
    """Load a generator in float32 onto the device of its prior.

    Raises RunError and ConfigError as `read_about` does, and PriorError if the prior's network is of no use for it.
    """
    about = read_about(folder)
    generator = about.generator.make(about.text_width, prior, torch.Generator())
    try:
        load_weights(generator, folder, WEIGHTS)
    except (RuntimeError, OSError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"{folder / WEIGHTS} does not fit its {SETTINGS}: {reason}") from None
    return generator.to(prior.device).eval().requires_grad_(False)
