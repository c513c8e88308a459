"""Training of a prior that is told the light of pictures and words for materials, beside their structure.

Objects have their usual shapes, materials, and random lamps. Their structure also has renders of known materials in the
light of each picture, see `rendering.structure.light_maps`. Words for materials are added to the tokenizer, and the
text encoder is trained as well. The structure is dropped for a part of the objects, and the light alone for another, so
that the prior also works without.
"""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import AddedToken

from sds3d.priors.structure import LIT_MAPS, MAPS
from sds3d.priors.unet_latent import DiffusersPrior
from sds3d.prompts.vocabulary import read_vocabulary
from sds3d.rendering.resizing import resize
from sds3d.rendering.structure import LIGHT
from sds3d.toybox import diffusion, materials
from sds3d.toybox.dataset import DataConfig
from sds3d.toybox.train_condition import ToldViews, per_object
from sds3d.toybox.train_structure import STRUCTURE, StructuredDenoiser, all_maps, with_maps

UNTOLD, UNLIT = 0.2, 0.4
"""Below the first of numbers that are uniform in [0, 1), objects are told nothing, below the second only the shape."""


class LitDenoiser(StructuredDenoiser):
    """The networks of a prior, of which the U-Net and the text encoder are trained, and the encoder of structures.

    The text encoder gets a new embedding for each word that the tokenizer has learned.
    """

    def __init__(self, prior: DiffusersPrior) -> None:
        super().__init__(prior, LIT_MAPS)
        text_encoder = self.denoiser.text_encoder
        text_encoder.resize_token_embeddings(len(prior.tokenizer), mean_resizing=False)
        text_encoder.train().requires_grad_()

    def save(self, folder: Path, digest: str) -> None:
        """Write U-Net, encoder, text encoder, tokenizer and vocabulary."""
        super().save(folder, digest)
        copy.deepcopy(self.denoiser.text_encoder).cpu().save_pretrained(folder / "text_encoder")
        shutil.copytree(folder.parent / "tokenizer", folder / "tokenizer", dirs_exist_ok=True)
        words = read_vocabulary(folder)
        assert words is not None
        replace(words, words=words.words | set(materials.WORDS)).write(folder)


def with_materials(folder: Path, prior: DiffusersPrior, data: DataConfig) -> DataConfig:
    """Teach the prior's tokenizer the words for materials, and write it into `folder`."""
    prior.tokenizer.add_tokens([AddedToken(word, single_word=True, normalized=True) for word in materials.WORDS])
    prior.tokenizer.save_pretrained(folder / "tokenizer")
    return replace(with_maps(folder, prior, data), tokenizer=str(folder), materials=True)


def some_light(views: ToldViews, batch: diffusion.Batch, generator: torch.Generator | None) -> Tensor:
    """Return the maps of a batch, (B, LIT_MAPS, M, M), with zeros for some objects, see `UNTOLD`."""
    u = per_object(batch, generator)
    told = torch.stack([u >= UNTOLD] * MAPS + [u >= UNLIT] * LIGHT, dim=1)  # (B, LIT_MAPS)
    return all_maps(views, batch.rows, batch.view) * told[..., None, None]


LIT = replace(
    STRUCTURE,
    name="light",
    sentence=(
        "An encoder of {millions:.2f}M parameters tells the U-Net depth, normals, opacity and light of each view. The "
        "objects have materials, which the captions name."
    ),
    shown="chrome in the light",
    data=with_materials,
    model=LitDenoiser,
    draw=some_light,
    telling=lambda views: torch.ones_like(views.told["varied"]),
    pictures=lambda told, size: resize(told[:, -3:].permute(0, 2, 3, 1), size),  # of the known materials, the last
    prompts=lambda file: file.prompts,
)
