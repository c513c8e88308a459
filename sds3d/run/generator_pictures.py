"""Pictures of what a generator makes: objects of prompts from four sides, and the way from one prompt to another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sds3d.cameras import orbit
from sds3d.formats.pictures import contact_sheet
from sds3d.generators.base import Generator, generate
from sds3d.geometry.mesh import FloatArray
from sds3d.priors.base import Prior
from sds3d.prompts.prompt import PromptConfig, encode_prompt
from sds3d.run.generated_start import load_for, random_seed

SIDES = (0.0, 90.0, 180.0, 270.0)
"""Azimuths of the views in degrees."""
_ASIDE = 30.0  # azimuth of the view of an interpolation, in degrees: it shows the front and a side
_ELEVATION = 15.0


def sample_sheet(folder: Path, prior: Prior, prompts: Sequence[str], seed: int = 0, size: int = 128) -> Image.Image:
    """Return a sheet with a row for each prompt: what a generator's folder makes of it, from four sides.

    prompts: at least one. seed: tells objects of one prompt apart. size: side of a picture in pixels. Raises as
    `load_for` does.
    """
    texts = {prompt: _hidden(prior, prompt) for prompt in prompts}
    generator = load_for(folder, texts[prompts[0]])
    numbers = random_seed(generator.config, seed).to(prior.device)
    return objects_sheet(generator, texts, numbers, size=size)


def between_strip(
    folder: Path, prior: Prior, first: str, last: str, count: int = 7, seed: int = 0, size: int = 128
) -> Image.Image:
    """Return the pictures of `views_between` as a strip, with the share of the second prompt above each."""
    views = views_between(folder, prior, first, last, count, seed, size)
    headings = [f"{i / (count - 1):.0%}" for i in range(count)]
    return contact_sheet([("", views)], headings, f"{first} to {last}", size)


def views_between(
    folder: Path, prior: Prior, first: str, last: str, count: int, seed: int = 0, size: int = 128
) -> FloatArray:
    """Return pictures (count, size, size, 3) in [0, 1] of objects on the way from one prompt to another.

    The embeddings of the prompts' tokens are mixed in equal steps. count: 2 or more. Otherwise like `sample_sheet`.
    """
    ends = _hidden(prior, first), _hidden(prior, last)
    generator = load_for(folder, ends[0])
    numbers = random_seed(generator.config, seed).to(prior.device)
    mixed = (torch.lerp(*ends, i / (count - 1)) for i in range(count))
    return np.concatenate([_views(generator, hidden, numbers, [_ASIDE], size) for hidden in mixed])


def objects_sheet(
    generator: Generator, texts: Mapping[str, Tensor], seed: Tensor, title: str = "", size: int = 64
) -> Image.Image:
    """Return a sheet of objects from four sides. texts: embeddings (L, W) of the tokens by prompt. seed: (Z,)."""
    rows = [(prompt, _views(generator, hidden, seed, SIDES, size)) for prompt, hidden in texts.items()]
    return contact_sheet(rows, [f"{azimuth:.0f}°" for azimuth in SIDES], title, size)


@torch.no_grad()
def _views(generator: Generator, hidden: Tensor, seed: Tensor, azimuths: Sequence[float], size: int) -> FloatArray:
    """Return pictures (B, size, size, 3) in [0, 1] over white of what a generator makes of a text."""
    scene = generate(generator, hidden, seed)
    views = scene.render(orbit(list(azimuths), _ELEVATION, size=size), torch.ones(3, device=hidden.device))
    return views.rgb.clamp(0, 1).cpu().numpy()


def _hidden(prior: Prior, prompt: str) -> Tensor:
    """Return the embeddings (L, W) of a prompt's tokens."""
    return encode_prompt(prior, prompt, PromptConfig()).plain.hidden[0]
