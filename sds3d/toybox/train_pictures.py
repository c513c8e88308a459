"""Training of a prior that also reads a picture: one view of the object, from any of its sides, beside the text.

Only a `PictureAdapter` is trained, its reader first to name colours. The prior's own networks stay as they are, so
without a picture nothing changes, and pictures are never dropped. The captions leave colours open that the picture
tells. The target is what the prior itself predicts when it is told all colours: other than the true noise, it differs
from the prediction without a picture by nothing but what the picture tells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTokenizer

from sds3d.priors.picture_adapter import FOLDER, SIDE, TOKENS, PictureAdapter, picture_tokens
from sds3d.priors.unet_latent import DiffusersPrior, Networks
from sds3d.prompts.conditioning import Conditioning
from sds3d.rendering.resizing import resize, resize_planes
from sds3d.toybox import diffusion
from sds3d.toybox.captions import caption, category_prompt, prompt
from sds3d.toybox.dataset import CAPTIONS, ObjectFile
from sds3d.toybox.fit import FitConfig, Report, fit
from sds3d.toybox.scorer import labels
from sds3d.toybox.train_condition import Condition, ToldDenoiser, ToldViews, per_object
from sds3d.toybox.train_config import TrainConfig
from sds3d.toybox.world import COLORS

ZOOM = 0.25
"""Largest change of the logarithm of a picture's scale in training."""
SHIFT = 0.15
"""Largest shift in training, in halves of a picture's height."""
BATCH = 64
"""Pictures in a step of the reader's own training."""


def moved(pictures: Tensor, u: Tensor) -> Tensor:
    """Return pictures (B, 3, S, S) scaled and moved. u: (3, B) in [0, 1), which is drawn."""
    matrix = torch.zeros(len(pictures), 2, 3, device=u.device)
    matrix[:, 0, 0] = matrix[:, 1, 1] = ((2 * u[0] - 1) * ZOOM).exp()
    matrix[:, :, 2] = (2 * u[1:].T - 1) * SHIFT
    grid = functional.affine_grid(matrix, list(pictures.shape), align_corners=False)
    return functional.grid_sample(pictures, grid, padding_mode="border", align_corners=False)


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

    def pretrain(self, folder: Path, views: ToldViews, config: TrainConfig, report: Report) -> None:
        """Train the reader to name both colours of objects, by a linear layer that is not needed later."""
        count, device = 2 * len(COLORS), views.told["colors"].device
        head = nn.Linear(TOKENS * self.adapter.config["token_width"], count).to(device)
        namer = nn.Sequential(self.adapter.reader, nn.Flatten(), head)

        def step(generator: torch.Generator) -> Tensor:
            u = torch.rand(5, BATCH, generator=generator, device=device)
            rows = torch.minimum((u[0] * views.views.count).long(), views.views.count - 1)
            logits = namer(2 * moved(sides(views, rows, (4 * u[1]).long()), u[2:]) - 1).unflatten(1, (2, -1))
            return functional.cross_entropy(logits.transpose(1, 2), views.told["colors"][rows])

        loop = FitConfig(config.reader_steps, config.pictures_rate, config.checkpoint_every)
        path = folder / "reader.ckpt.safetensors"
        average = fit(path, "reader", namer, step, lambda average: {}, loop, config.seed, report)
        self.adapter.reader.load_state_dict(average[0].state_dict())

    def teacher(self, views: ToldViews, batch: diffusion.Batch) -> Callable[..., Tensor]:
        """Return the prior, told the full prompts, or what the model is told if that has words for the view."""
        tokens = torch.where(batch.viewed[:, None], batch.tokens, views.told["full"][batch.rows].long())

        def predict(x_t: Tensor, t: Tensor, *rest: Any) -> Tensor:
            return self.denoiser(x_t, t, tokens, *rest)

        return predict

    def networks(self, plain: Networks) -> Networks:
        """Add the adapter."""
        return replace(plain, picture_adapter=self.adapter)

    def conditions(self, told: Tensor, text: Conditioning, null: Conditioning) -> tuple[Conditioning, Conditioning]:
        """Return the texts, the prompt with the object's first picture."""
        return replace(text, pictures=self.adapter(told[:1]).expand(4, -1, -1)), null

    def save(self, folder: Path, digest: str) -> None:
        """Write the adapter in fp16."""
        self.adapter.config["digest"] = digest
        self.adapter.save(folder / FOLDER)


def pictures_of(file: ObjectFile, tokenizer: CLIPTokenizer) -> dict[str, Tensor]:
    """Return what is told of the objects of a file.

    pictures (n, 4, 3, SIDE, SIDE) uint8. accented (n,) bool: objects with an accent of a named colour. full (n, L)
    int16: the prompt that names all colours. colors (n, 2): the numbers of both. tokens (n, CAPTIONS, L) int16:
    captions that leave the accent's colour open, and for a quarter also the main colour.
    """
    planes = file.pictures.flatten(0, 1).permute(0, 3, 1, 2)
    pictures = resize_planes(planes.float(), SIDE).round().to(torch.uint8).unflatten(0, (-1, 4))
    accented = torch.tensor([spec.accent not in (None, spec.color) for spec in file.specs])
    full = diffusion.tokenize(tokenizer, [prompt(spec) for spec in file.specs]).short()
    colors = torch.stack(labels(file.specs, torch.zeros(len(file)))[1:3], dim=1)
    captions = []
    for i, spec in enumerate(file.specs):
        rng = np.random.default_rng([i, *file.tokens[i, 0].tolist()])
        plain = [category_prompt(spec)] * (CAPTIONS // 4)
        captions += plain + [caption(replace(spec, accent=None), rng) for _ in range(CAPTIONS - len(plain))]
    tokens = diffusion.tokenize(tokenizer, captions).reshape(file.tokens.shape).short()
    return {"pictures": pictures, "accented": accented, "full": full, "colors": colors, "tokens": tokens}


def prompts_without_accents(file: ObjectFile) -> list[str]:
    """Return the prompts of the objects of a file, which leave the accent's colour open."""
    return [prompt(replace(spec, accent=None)) for spec in file.specs]


def sides(views: ToldViews, rows: Tensor, view: Tensor) -> Tensor:
    """Return pictures of these views, (B, 3, SIDE, SIDE)."""
    return views.told["pictures"][rows, view].float() / 255


def any_side(views: ToldViews, batch: diffusion.Batch, generator: torch.Generator | None) -> Tensor:
    """Return a picture of any of an object's sides, moved and scaled, the same for all views of a group."""
    view, *u = (per_object(batch, generator) for _ in range(4))
    return moved(sides(views, batch.rows, (4 * view).long()), torch.stack(u))


def first_side(told: Tensor, size: int) -> Tensor:
    """Return the object's first picture, four times."""
    return resize(told[:1].permute(0, 2, 3, 1), size).expand(4, -1, -1, -1)


PICTURES = Condition(
    name="pictures",
    sentence="An adapter of {millions:.2f}M parameters reads a picture. The other networks kept their weights.",
    shown="picture",
    loop=lambda config: (config.pictures_steps, config.pictures_rate),
    data=lambda folder, prior, data: data,
    model=PictureDenoiser,
    told=pictures_of,
    draw=any_side,
    whole=sides,
    telling=lambda views: views.told["accented"],
    pictures=first_side,
    prompts=prompts_without_accents,
    together=0.25,
)
