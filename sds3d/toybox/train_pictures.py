"""Training of a prior that also reads a picture: one view of the object, from any of its sides, beside the text.

Only a `PictureAdapter` is trained. The prior's own networks stay as they are, so without a picture nothing changes, and
pictures are never dropped. Half of the captions leave the accent's colour open, so that the picture tells it.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTokenizer

from sds3d.priors.picture_adapter import FOLDER, SIDE, PictureAdapter, picture_tokens
from sds3d.priors.unet_latent import DiffusersPrior, Networks
from sds3d.prompts.conditioning import Conditioning
from sds3d.rendering.resizing import resize, resize_planes
from sds3d.toybox import diffusion
from sds3d.toybox.captions import caption, prompt
from sds3d.toybox.dataset import CAPTIONS, ObjectFile
from sds3d.toybox.train_addition import Addition, ToldDenoiser, ToldViews, per_object
from sds3d.toybox.train_config import TrainConfig
from sds3d.toybox.world import Spec

ZOOM = 0.25
"""Largest change of the logarithm of a picture's scale in training."""
SHIFT = 0.15
"""Largest shift in training, in halves of a picture's height."""


class PictureDenoiser(ToldDenoiser):
    """The frozen networks of a prior, and a picture adapter."""

    def __init__(self, prior: DiffusersPrior) -> None:
        super().__init__(diffusion.Denoiser.of(prior))
        self.denoiser.requires_grad_(False)
        self.adapter = prior.picture_adapter or PictureAdapter.of(prior.unet)
        self.adapter.train().requires_grad_()

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        tokens: Tensor,
        angles: Tensor,
        with_camera: Tensor,
        n_single: int,
        pictures: Tensor,
    ) -> Tensor:
        """Return v as `Denoiser` does. pictures: (B, 3, SIDE, SIDE), zeros for none."""
        told = (pictures != 0).flatten(1).any(dim=1)[:, None, None]
        read = self.adapter(pictures.to(self.adapter.to_time.weight.dtype))
        with picture_tokens(self.denoiser.unet, self.adapter, told * read):
            return self.denoiser(x_t, t, tokens, angles, with_camera, n_single)


class PictureAddition(Addition[PictureDenoiser]):
    """Pictures. told: pictures (n, 4, 3, SIDE, SIDE) uint8, and accented (n,) bool: objects with a named accent."""

    name = "pictures"
    sentence = "An adapter of {millions:.2f}M parameters reads a picture. The other networks kept their weights."
    shown = "picture"

    def loop(self, config: TrainConfig) -> tuple[int, float]:
        """Return the number of steps and the learning rate."""
        return config.pictures_steps, config.pictures_rate

    def model(self, prior: DiffusersPrior) -> PictureDenoiser:
        """Make the model of a prior's networks."""
        return PictureDenoiser(prior)

    def networks(self, model: PictureDenoiser, networks: Networks) -> Networks:
        """Add the adapter."""
        return replace(networks, picture_adapter=model.adapter)

    def told(self, file: ObjectFile) -> dict[str, Tensor]:
        """Return the pictures at the adapter's size, and which objects have an accent of a named colour."""
        planes = file.pictures.flatten(0, 1).permute(0, 3, 1, 2)
        pictures = resize_planes(planes.float(), SIDE).round().to(torch.uint8).unflatten(0, (-1, 4))
        accented = [spec.accent not in (None, spec.color) for spec in file.specs]
        return {"pictures": pictures, "accented": torch.tensor(accented)}

    def tokens(self, file: ObjectFile, tokenizer: CLIPTokenizer) -> Tensor:
        """Return the captions of a file, half of them replaced by ones that leave the accent's colour open."""
        plain, less = file.tokens.clone(), CAPTIONS // 2
        for i, spec in enumerate(file.specs):
            rng = np.random.default_rng([i, *file.tokens[i, 0].tolist()])
            captions = [caption(replace(spec, accent=None), rng) for _ in range(less)]
            plain[i, :less] = diffusion.tokenize(tokenizer, captions)
        return plain

    def prompt(self, spec: Spec) -> str:
        """Return the prompt without the accent."""
        return prompt(replace(spec, accent=None))

    def draw(self, views: ToldViews, batch: diffusion.Batch, generator: torch.Generator | None) -> Tensor:
        """Return a picture of any of an object's sides, moved and scaled, the same for all views of a group."""
        view, scale, *shift = (per_object(batch, generator) for _ in range(4))
        pictures = self.whole(views, batch.rows, (4 * view).long())
        moved = torch.zeros(len(scale), 2, 3, device=scale.device)
        moved[:, 0, 0] = moved[:, 1, 1] = ((2 * scale - 1) * ZOOM).exp()
        moved[:, :, 2] = (2 * torch.stack(shift, dim=1) - 1) * SHIFT
        grid = functional.affine_grid(moved, list(pictures.shape), align_corners=False)
        return functional.grid_sample(pictures, grid, padding_mode="border", align_corners=False)

    def whole(self, views: ToldViews, rows: Tensor, view: Tensor) -> Tensor:
        """Return these views, (B, 3, SIDE, SIDE)."""
        return views.told["pictures"][rows, view].float() / 255

    def conditions(
        self, model: PictureDenoiser, told: Tensor, text: Conditioning, null: Conditioning
    ) -> tuple[Conditioning, Conditioning]:
        """Return the texts, the prompt with the object's first picture."""
        return replace(text, pictures=model.adapter(told[:1]).expand(4, -1, -1)), null

    def pictures(self, told: Tensor, size: int) -> Tensor:
        """Return the object's first picture, four times."""
        return resize(told[:1].permute(0, 2, 3, 1), size).expand(4, -1, -1, -1)

    def telling(self, views: ToldViews) -> Tensor:
        """Return which objects have an accent of a named colour."""
        return views.told["accented"]

    def save(self, folder: Path, model: PictureDenoiser) -> None:
        """Write the adapter in fp16."""
        adapter = copy.deepcopy(model.adapter).cpu()
        nn.Module.half(adapter)
        adapter.save(folder / FOLDER)
