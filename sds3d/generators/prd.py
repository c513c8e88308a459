"""The prior's own network as a generator: Progressive Rendering Distillation (Ma et al. 2025, arXiv:2503.21694).

A copy of the prior's network with low-rank updates denoises six latents together, three planes for the shape and three
for the colours. A small decoder turns the clean latents into the planes of a field. In training, each step denoises K
times, at the falling timesteps of sampling:

    x_1 ~ N(0, 1),    x_i = alpha(t_i) z_(i-1) + sigma(t_i) eps,    z_i = the clean estimate of x_i at t_i

Every z_i is decoded, rendered and taught with the weight 1/K. No gradient goes from z_i to z_(i-1). In use, K steps of
DDIM lead from noise to the last estimate.

What differs from the published network, TriplaneTurbo: its convolutions have low-rank updates, too, and its
cross-attention has the same ones for all planes; its decoder is the model's own with low-rank updates; and it renders
signed distances.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from sds3d.generators.base import Generator, GeneratorConfig
from sds3d.generators.triplane import enlarged
from sds3d.guidance.inversion import ddim_step
from sds3d.guidance.sampling import sampling_times
from sds3d.priors.base import Prediction, Prior, add_noise, space_of
from sds3d.prompts.conditioning import Conditioning
from sds3d.representations.triplane_nerf import TriplaneNerfConfig

MAPS = 6
"""Latents of an object: three planes for the shape, and three for the colours."""


class PrdGeneratorConfig(GeneratorConfig):
    """The prior's network with low-rank updates, which denoises planes (PRD's TriplaneTurbo)."""

    name: Literal["prd"] = "prd"
    rank: int = Field(default=16, ge=1, le=512)
    """Rank of the updates of the attention layers, which each of the six latents has of its own."""
    steps: int = Field(default=4, ge=1, le=50)
    """K: steps of denoising. In training, every step renders and teaches the clean estimates of all K."""
    latents: int = Field(default=16, ge=2, le=256)
    """Height and width of the latents. The network must take this size: for Stable Diffusion a multiple of 8."""
    doublings: int = Field(default=2, ge=0, le=5)
    """How often the decoder doubles height and width: planes have `latents` times 2^doublings samples per side."""
    width: int = Field(default=64, ge=4, le=1024)
    """Channels of the decoder."""
    features: int = Field(default=32, ge=8, le=256, multiple_of=8)
    """Channels of the planes: half of them from the latents of the shape, half from those of the colours."""
    hidden: int = Field(default=32, ge=4, le=256)
    """Width of the two small networks that all texts share: from a point's features to density, and to colour."""

    @property
    def representation(self) -> TriplaneNerfConfig:
        """The settings of the triplanes."""
        size = self.latents << self.doublings
        return TriplaneNerfConfig(
            resolution=size, features=self.features, hidden=self.hidden, separate=True, opacity=self.opacity
        )

    def make(self, width: int, prior: Prior, generator: torch.Generator) -> PrdGenerator:
        """Return a generator that starts as the prior's network, with a random decoder."""
        return PrdGenerator(self, width, prior, generator)


class PrdGenerator(Generator):
    """The prior's network with low-rank updates, and a decoder to planes. Only these are parameters of the module."""

    gives = frozenset({"planes"})

    def __init__(self, config: PrdGeneratorConfig, text_width: int, prior: Prior, generator: torch.Generator) -> None:
        super().__init__(config, text_width, generator)
        self.prior, self.score = prior, prior.joint_score(generator, config.rank, MAPS)
        named = zip(self.score.state_dict(), self.score.parameters(), strict=True)
        self.updates = nn.ParameterDict({name.replace(".", "/"): parameter for name, parameter in named})
        self.times = sampling_times(prior, config.steps)[:-1]  # (K,), falling
        channels, _, _ = space_of(prior)
        self.shape = (MAPS, channels, config.latents, config.latents)
        self.parts, self.seed_size = config.steps, MAPS * channels * config.latents**2
        widths = [channels, *[config.width] * config.doublings]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            self.upwards = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths))
            self.last = nn.Conv2d(widths[-1], config.features // 2, 3, padding=1)

    def forward(self, text: Conditioning, seed: Tensor) -> dict[str, Tensor]:
        """Return the planes (3, N, N, C) after K steps of DDIM from noise (Z,)."""
        x = seed.reshape(self.shape)
        for t, to in pairwise(self.times):
            x = ddim_step(self.prior, self._predict(text, x, t), self._rows(t), self._rows(to))
        return self._decode(self._predict(text, x, self.times[-1]).x0)

    def estimates(self, text: Conditioning, random: torch.Generator) -> Iterator[dict[str, Tensor]]:
        """Yield the planes of the K clean estimates, each of the one before with new noise."""
        x = self._noise(text, random)
        for index, t in enumerate(self.times):
            z = self._predict(text, x, t).x0
            yield self._decode(z)
            if index + 1 < self.parts:
                x = add_noise(self.prior, z.detach(), self._noise(text, random), self._rows(self.times[index + 1]))

    def _predict(self, text: Conditioning, x: Tensor, t: Tensor) -> Prediction:
        return self.score.predict(x, self._rows(t), text.repeat(MAPS), None)

    def _decode(self, z: Tensor) -> dict[str, Tensor]:
        maps = self.last(enlarged(z, self.upwards))  # (6, C / 2, N, N)
        planes = torch.cat(maps.chunk(2), dim=1)  # (3, C, N, N)
        return {"planes": planes.permute(0, 2, 3, 1).contiguous()}

    def _noise(self, text: Conditioning, random: torch.Generator) -> Tensor:
        return self.draw_seed(random).to(text.hidden).reshape(self.shape)

    def _rows(self, t: Tensor) -> Tensor:
        return t.to(self.prior.device).expand(MAPS)
