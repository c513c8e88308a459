"""A U-Net that is told the structure of a picture: its depth, normals and opacity, and maybe the light on it.

A small network turns the maps into features that are added to those of the U-Net's first convolution, as if the U-Net
had further input channels. Its last layer starts at zero (ControlNet, arXiv:2302.05543), so that training starts from
the plain model, and the U-Net keeps the layout of a stock one. Maps of zeros mean that the structure is not told.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from sds3d.priors.network import Ask
from sds3d.priors.network_files import load_network, save_network
from sds3d.prompts.conditioning import Conditioning, Structure
from sds3d.rendering.structure import LIGHT, resized, stacked

FOLDER = "structure_encoder"
CELLS = 4
"""Cells along a side of a latent pixel: the encoder sees the maps with so much detail."""
MAPS = 5
"""Depth, three components of the normal, opacity."""
LIT_MAPS = MAPS + LIGHT
"""These, and the light."""


class StructureEncoder(nn.Module):
    """Maps the structure of a picture to features that are added to those of a U-Net's first convolution.

    maps: channels of the structure that it takes, MAPS or LIT_MAPS. digest: of the weights of the prior that its
    training started from.
    """

    def __init__(self, width: int, maps: int = MAPS, digest: str = "") -> None:
        super().__init__()
        self.maps, self.digest = maps, digest
        self.first = nn.Conv2d(maps * CELLS**2, width, 3, padding=1)
        self.last = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, maps, 4 h, 4 w) of `planes` to features (B, width, h, w). Without a structure they are 0."""
        told = (maps != 0).flatten(1).any(dim=1).to(maps)[:, None, None, None]
        features = self.last(functional.silu(self.first(functional.pixel_unshuffle(maps, CELLS))))
        return told * features

    def save(self, folder: Path) -> None:
        """Write config.json, and the weights in fp16 as model.safetensors."""
        save_network(folder, self, {"width": self.last.out_channels, "maps": self.maps, "digest": self.digest})

    @classmethod
    def load(cls, folder: Path) -> StructureEncoder:
        """Read what `save` wrote, in float32. Files without `maps` are of encoders that take no light."""
        return load_network(cls, folder)


def planes(structure: Structure, side: int, maps: int = MAPS) -> Tensor:
    """Return the maps as (B, maps, 4 side, 4 side): depth, normal x, y, z, opacity, and the light if the encoder takes
    it, with zeros if it is not told. side: that of the latents."""
    found = stacked(resized(structure, CELLS * side))[:, :maps]
    return functional.pad(found, (0, 0, 0, 0, 0, maps - found.shape[1]))


def asking_with_structure(ask: Ask, encoder: StructureEncoder) -> Ask:
    """Return a function that calls a latent U-Net as `ask` does, and tells it the structure if there is one."""

    def asked(unet: Any, x_t: Tensor, timestep: Tensor, cond: Conditioning, n_views: int) -> Tensor:
        if cond.structure is None:
            return ask(unet, x_t, timestep, cond, n_views)
        features = encoder(planes(cond.structure, x_t.shape[-1], encoder.maps).float())
        with structure_features(unet, features):
            return ask(unet, x_t, timestep, cond, n_views)

    return asked


@contextmanager
def structure_features(unet: Any, features: Tensor) -> Iterator[None]:
    """Add features (B, width, h, w) to those of the U-Net's first convolution inside the `with` block."""
    hook = unet.conv_in.register_forward_hook(lambda module, args, output: output + features.to(output.dtype))
    try:
        yield
    finally:
        hook.remove()
