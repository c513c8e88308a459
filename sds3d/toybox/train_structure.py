"""Training of a prior that is told the structure of pictures: depth, normals and opacity of the true objects.

They enter the U-Net by a `StructureEncoder`, and both are trained. Half of the objects have shapes that their names do
not tell, so that the prior follows the structure and not the usual shape. The structure of the other half is dropped at
times, so that the prior stays one of texts and cameras.
"""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import CLIPTokenizer

from sds3d.priors.structure import FOLDER, MAPS, StructureEncoder, structure_features
from sds3d.priors.unet_latent import DiffusersPrior, Networks
from sds3d.prompts.conditioning import Conditioning
from sds3d.rendering.resizing import resize
from sds3d.rendering.structure import unstacked
from sds3d.toybox import diffusion
from sds3d.toybox.dataset import DataConfig, ObjectFile
from sds3d.toybox.train_condition import Condition, ToldDenoiser, ToldViews, per_object

DROPPED = 0.4
"""The share of objects of the usual shape whose structure is not told."""


class StructuredDenoiser(ToldDenoiser):
    """The networks of a prior, of which the U-Net is trained, and the encoder of structures.

    maps: channels of the structure. Raises ValueError if the prior is told a structure of others.
    """

    def __init__(self, prior: DiffusersPrior, maps: int = MAPS) -> None:
        super().__init__(diffusion.Denoiser.of(prior))
        self.denoiser.unet.train().requires_grad_()
        self.encoder = prior.structure_encoder or StructureEncoder(prior.unet.conv_in.out_channels, maps)
        if self.encoder.maps != maps:
            raise ValueError("the prior is told another structure: start from one that is told none, such as toybox")
        self.encoder.train().requires_grad_()

    def forward(
        self, x_t: Tensor, t: Tensor, tokens: Tensor, angles: Tensor, with_camera: Tensor, n_single: int, maps: Tensor
    ) -> Tensor:
        """Return v as `Denoiser` does. maps: (B, C, 4 h, 4 w), zeros where the structure is not told."""
        features = self.encoder(maps.to(self.encoder.last.weight.dtype))
        with structure_features(self.denoiser.unet, features):
            return self.denoiser(x_t, t, tokens, angles, with_camera, n_single)

    def networks(self, plain: Networks) -> Networks:
        """Add the encoder of structures."""
        return replace(plain, structure_encoder=self.encoder)

    def conditions(self, told: Tensor, text: Conditioning, null: Conditioning) -> tuple[Conditioning, Conditioning]:
        """Return both texts with the structure."""
        structure = unstacked(told)
        return replace(text, structure=structure), replace(null, structure=structure)

    def save(self, folder: Path, digest: str) -> None:
        """Write the U-Net in fp16, and the encoder beside it."""
        shutil.rmtree(folder / "unet")
        unet = copy.deepcopy(self.denoiser.unet).cpu()
        unet.register_to_config(_name_or_path="")  # without the folder that the training started from
        nn.Module.half(unet)
        diffusion.set_memory_format(unet, torch.contiguous_format)
        unet.save_pretrained(folder / "unet", safe_serialization=True)
        self.encoder.digest = digest
        self.encoder.save(folder / FOLDER)


def with_maps(folder: Path, prior: DiffusersPrior, data: DataConfig) -> DataConfig:
    """Return the set of objects with maps of their structure."""
    return replace(data, maps=prior.unet.config["sample_size"] * 4)


def maps_of(file: ObjectFile, tokenizer: CLIPTokenizer) -> dict[str, Tensor]:
    """Return maps (n, 4, C, M, M) int8, 127 for 1, and varied (n,) bool: which objects have unusual shapes."""
    return {"maps": file.structure, "varied": file.varied}


def all_maps(views: ToldViews, rows: Tensor, view: Tensor) -> Tensor:
    """Return all maps of these views, (B, C, M, M)."""
    return views.told["maps"][rows, view].float() / 127


def some_maps(views: ToldViews, batch: diffusion.Batch, generator: torch.Generator | None) -> Tensor:
    """Return the maps of a batch, (B, 5, M, M), with zeros for the share `DROPPED` of the usual objects."""
    kept = (per_object(batch, generator) >= DROPPED) | views.told["varied"][batch.rows]
    return all_maps(views, batch.rows, batch.view) * kept[:, None, None, None]


def normals(told: Tensor, size: int) -> Tensor:
    """Return the normals of maps as colours."""
    return resize(0.5 * (told[:, 1:4].permute(0, 2, 3, 1) + 1), size)


STRUCTURE = Condition(
    name="structure",
    sentence="An encoder of {millions:.2f}M parameters tells the U-Net depth, normals and opacity of each view.",
    shown="normals",
    loop=lambda config: (config.structure_steps, config.structure_rate),
    data=with_maps,
    model=StructuredDenoiser,
    told=maps_of,
    draw=some_maps,
    whole=all_maps,
    telling=lambda views: views.told["varied"],
    pictures=normals,
)
