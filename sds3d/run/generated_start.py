"""A start from a generator: the object that it makes of the prompt in one pass."""

from __future__ import annotations

from pathlib import Path

import torch

from sds3d.files import PriorError, RunError
from sds3d.generators.base import generate
from sds3d.generators.files import SETTINGS, load_generator, read_about
from sds3d.priors.base import Prior, PriorConfig
from sds3d.priors.digest import prior_digest
from sds3d.prompts.prompt import EncodedPrompt
from sds3d.representations.field_nerf import FieldNerfScene


def is_generator(path: Path) -> bool:
    """Return whether a path is a generator's folder."""
    return (path / SETTINGS).is_file()


def check_generator(folder: Path, prior: PriorConfig) -> None:
    """Check that a generator can be read and reads this prior's texts. Raises RunError, ConfigError or PriorError."""
    about = read_about(folder)
    if about.digest != prior_digest(prior):
        raise PriorError(
            f"the generator in {folder} was trained with another prior, {about.model}: choose that one, or train a "
            "generator for yours with `sds3d generator train`"
        )


def generated_scene(folder: Path, prior: Prior, prompt: EncodedPrompt, seed: int) -> FieldNerfScene:
    """Return the scene that a generator makes of a prompt, on the prior's device. seed: tells its objects apart.

    Raises RunError for a damaged folder, or if the prior's embeddings have another size.
    """
    generator = load_generator(folder, prior.device)
    hidden = prompt.plain.hidden[0]  # (L, W)
    if hidden.shape[1] != generator.text_width:
        raise RunError(
            f"the generator in {folder} takes texts of {generator.text_width} numbers a token, not of another prior"
        )
    numbers = torch.randn(generator.config.seed_size, generator=torch.Generator().manual_seed(seed))
    return generate(generator, hidden, numbers.to(prior.device))
