"""A transformer from text to triplanes, after Triplane-Transformer of ScaleDreamer (Ma et al. 2024, arXiv:2407.02040).

Learnt tokens stand for patches of the three planes. They attend to the text and to each other, and convolutions enlarge
them to planes. The paper's network has 12 layers 768 wide; this one is as small as the embedded prior's world allows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from sds3d.generators.base import Generator, GeneratorConfig
from sds3d.priors.base import Prior
from sds3d.prompts.conditioning import Conditioning
from sds3d.representations.triplane_nerf import TriplaneNerfConfig

_UPWARDS = 3  # doublings from patches to planes
_FREQUENCY = 2.0  # standard deviation of the waves, in radians from the middle of the cube to its faces


class TriplaneGeneratorConfig(GeneratorConfig):
    """A transformer to triplanes (ScaleDreamer's Triplane-Transformer)."""

    name: Literal["triplane"] = "triplane"
    seed_size: int = Field(default=8, ge=1, le=256)
    """Numbers in the seed that tells several objects of one text apart."""
    width: int = Field(default=128, ge=16, le=2048, multiple_of=16)
    """Channels of the tokens."""
    layers: int = Field(default=4, ge=1, le=48)
    """Blocks of attention to the text, attention among the planes' tokens, and an MLP."""
    heads: int = Field(default=4, ge=1, le=64)
    """Heads of each attention; they divide `width`."""
    norm: bool = True
    """Normalise the tokens before they become planes: without it, score distillation soon makes all objects vanish. The
    generator that ships was trained without it."""
    patches: int = Field(default=8, ge=1, le=64)
    """Tokens per side of a plane, which has eight times as many samples per side."""
    features: int = Field(default=16, ge=8, le=256, multiple_of=8)
    """Channels of the planes."""
    hidden: int = Field(default=32, ge=4, le=256)
    """Width of the small network that all texts share: from a point's features to density and colour."""

    @property
    def representation(self) -> TriplaneNerfConfig:
        """The settings of the triplanes."""
        size = self.patches << _UPWARDS
        return TriplaneNerfConfig(resolution=size, features=self.features, hidden=self.hidden, opacity=self.opacity)

    def make(self, width: int, prior: Prior, generator: torch.Generator) -> TriplaneGenerator:
        """Return a network with random weights."""
        return TriplaneGenerator(self, width, generator)


class TriplaneGenerator(Generator):
    """The transformer."""

    gives = frozenset({"planes"})

    def __init__(self, config: TriplaneGeneratorConfig, text_width: int, generator: torch.Generator) -> None:
        super().__init__(config, text_width, generator)
        d = config.width
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            self.places = nn.Parameter(smooth_places(config.patches, d))
            self.text = nn.Linear(text_width, d)
            self.seed = nn.Linear(config.seed_size, d)
            self.blocks = nn.ModuleList(Block(d, config.heads) for _ in range(config.layers))
            self.norm = nn.LayerNorm(d) if config.norm else nn.Identity()
            widths = [d, d // 2, d // 4, d // 4]
            self.upwards = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths))
            self.last = nn.Conv2d(widths[-1], config.features, 3, padding=1)
        self.patches, self.seed_size = config.patches, config.seed_size

    def forward(self, text: Conditioning, seed: Tensor) -> dict[str, Tensor]:
        """Return the planes (3, N, N, C)."""
        told = torch.cat([self.text(text.hidden[0]), self.seed(seed)[None]])[None]  # (1, L + 1, d)
        x = self.places[None]  # (1, 3 n^2, d)
        for block in self.blocks:
            x = block(x, told)
        maps = self.norm(x).reshape(3, self.patches, self.patches, -1).permute(0, 3, 1, 2)  # (3, d, n, n)
        return {"planes": self.last(enlarged(maps, self.upwards)).permute(0, 2, 3, 1).contiguous()}


def smooth_places(patches: int, width: int) -> Tensor:
    """Draw embeddings (3 patches^2, width) of the places of a triplane's tokens, by torch's global random numbers.

    They are random waves over the planes' points in space, so that neighbours are alike, and a network learns smooth
    functions of the place first (Fourier features, Tancik et al. 2020, arXiv:2006.10739). Phases differ by plane.
    """
    line = (torch.arange(patches) + 0.5) / patches * 2 - 1
    u, v = (part.flatten() for part in torch.meshgrid(line, line, indexing="ij"))
    zero = torch.zeros_like(u)
    places = torch.stack([torch.stack(c, -1) for c in ((u, v, zero), (u, zero, v), (zero, u, v))])  # (3, n^2, 3)
    waves = places @ (_FREQUENCY * torch.randn(3, width)) + 2 * math.pi * torch.rand(3, 1, width)
    return waves.cos().reshape(-1, width)


def enlarged(maps: Tensor, layers: Iterable[nn.Module]) -> Tensor:
    """Return maps (B, C, h, w) after convolutions, each of which follows a doubling of their height and width."""
    for layer in layers:
        maps = functional.silu(layer(functional.interpolate(maps, scale_factor=2, mode="bilinear")))
    return maps


class Block(nn.Module):
    """Attention to the text, attention among the tokens, and an MLP, each added to the tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.to_text = nn.MultiheadAttention(width, heads, batch_first=True)
        self.to_each_other = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """Return tokens (B, N, d). told: (B, L, d)."""
        first, second, third = self.norms
        x = x + self.to_text(first(x), told, told, need_weights=False)[0]
        own = second(x)
        x = x + self.to_each_other(own, own, own, need_weights=False)[0]
        return x + self.mlp(third(x))
