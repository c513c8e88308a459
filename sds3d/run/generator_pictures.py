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
from sds3d.prompts.conditioning import Conditioning
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
    texts = {prompt: encoded(prior, prompt) for prompt in prompts}
    return objects_sheet(load_for(folder, prior, texts[prompts[0]]), texts, seed=seed, size=size)


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
    start, end = (encoded(prior, text).tensors() for text in (first, last))
    generator = load_for(folder, prior, Conditioning.of(start))
    numbers = random_seed(generator, seed)
    shares = (i / (count - 1) for i in range(count))
    mixed = (Conditioning.of({name: start[name].lerp(end[name], share) for name in start}) for share in shares)
    return np.concatenate([views_of(generator, text, numbers, [_ASIDE], size) for text in mixed])


def objects_sheet(
    generator: Generator, texts: Mapping[str, Conditioning], title: str = "", seed: int = 0, size: int = 64
) -> Image.Image:
    """Return a sheet of objects from four sides. texts: one row each, by prompt."""
    numbers = random_seed(generator, seed)
    rows = [(prompt, views_of(generator, text, numbers, SIDES, size)) for prompt, text in texts.items()]
    return contact_sheet(rows, [f"{azimuth:.0f}°" for azimuth in SIDES], title, size)


@torch.no_grad()
def views_of(
    generator: Generator,
    text: Conditioning,
    seed: Tensor,
    azimuths: Sequence[float],
    size: int,
    elevation: float = _ELEVATION,
    background: float = 1.0,
) -> FloatArray:
    """Return pictures (B, size, size, 3) in [0, 1] of what a generator makes of a text.

    text: one row. seed: (Z,), see `random_seed`. azimuths, elevation: in degrees. background: grey level in [0, 1].
    """
    scene = generate(generator, text, seed)
    behind = torch.full((3,), background, device=text.hidden.device)
    views = scene.render(orbit(list(azimuths), elevation, size=size), behind)
    return views.rgb.clamp(0, 1).cpu().numpy()


def encoded(prior: Prior, prompt: str) -> Conditioning:
    """Return the embeddings of a prompt, one row."""
    return encode_prompt(prior, prompt, PromptConfig()).plain
