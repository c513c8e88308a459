"""Sample pictures from a prior by deterministic DDIM, through the `Prior` contract alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sds3d.cameras import Cameras, turntable
from sds3d.guidance.base import combine, predict_each
from sds3d.guidance.inversion import ddim
from sds3d.priors.base import Prediction, Prior
from sds3d.prompts.conditioning import Conditioning
from sds3d.prompts.prompt import EncodedPrompt, PromptConfig, encode_prompt


@dataclass(frozen=True)
class Conditions:
    """The conditions of B samples: cameras and texts, one row for each sample, and the guidance scale S.

    Rows are in view-fastest groups for a prior that denoises several views together.
    """

    cameras: Cameras
    positive: Conditioning
    negative: Conditioning
    scale: float = 5.0


@torch.no_grad()
def sample(prior: Prior, noise: Tensor, conditions: Conditions, times: Tensor) -> Tensor:
    """Draw samples (B, C, h, w) from noise of that shape by DDIM (Song et al. 2020, arXiv:2010.02502, eq. 12, eta = 0).

    On a rectified flow these are Euler's steps. times: falling timesteps, from that of the noise to the last one; 0
    gives clean samples.
    """

    def guided(x: Tensor, t: Tensor) -> Prediction:
        texts = [conditions.positive, conditions.negative]
        positive, negative = predict_each(prior, x, t, texts, conditions.cameras)
        return combine(positive, negative, conditions.scale)

    noisy = [t.expand(len(noise)).to(noise.device, non_blocking=True) for t in times if t > 0]  # (B,) each
    x = ddim(prior, noise, noisy, guided)
    return guided(x, noisy[-1]).x0 if times[-1] == 0 else x


def sampling_times(prior: Prior, steps: int) -> Tensor:
    """Return steps + 1 timesteps from 1 to 0, evenly spaced and then moved towards noise by the prior's shift."""
    even = torch.linspace(1.0, 0.0, steps + 1)
    return prior.shift * even / (1 + (prior.shift - 1) * even)


@torch.no_grad()
def sample_views(
    prior: Prior, prompt: str, config: PromptConfig, seed: int = 0, steps: int = 25, scale: float = 5.0
) -> Tensor:
    """Draw a prompt from the front, right, back and left by the prior alone: (4, S, S, 3) in [0, 1] on the CPU."""
    cameras = turntable(4, size=prior.image_size).to(prior.device)
    encoded = encode_prompt(prior, prompt, config)
    return prior.decode(sample_prompt(prior, encoded, cameras, seed, steps, scale)).cpu()


@torch.no_grad()
def sample_prompt(
    prior: Prior, encoded: EncodedPrompt, cameras: Cameras, seed: int = 0, steps: int = 25, scale: float = 5.0
) -> Tensor:
    """Draw clean x (B, C, h, w) of a prompt from B cameras on the prior's device."""
    views = len(cameras)
    like = prior.encode_image(torch.zeros(views, prior.image_size, prior.image_size, 3, device=prior.device))
    noise = torch.randn(like.shape, generator=torch.Generator().manual_seed(seed)).to(like)
    conditions = Conditions(cameras, encoded.positive(cameras), encoded.negative.repeat(views), scale)
    return sample(prior, noise, conditions, sampling_times(prior, steps))
