"""Sampling pictures from a prior: deterministic DDIM over the prior's own contract."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sds3d.cameras import Cameras, turntable
from sds3d.guidance import inversion
from sds3d.guidance.base import combine, predict_each
from sds3d.priors.base import Prediction, Prior
from sds3d.prompts.conditioning import Conditioning
from sds3d.prompts.prompt import PromptConfig, encode_prompt


@torch.no_grad()
def ddim(
    prior: Prior,
    x_T: Tensor,
    cameras: Cameras,
    positive: Conditioning,
    negative: Conditioning,
    steps: int = 25,
    scale: float = 5.0,
    times: Sequence[float] | None = None,
) -> Tensor:
    """Clean samples (B, C, h, w) from noise x_T by DDIM (Song et al., arXiv:2010.02502, eq. 12 with eta = 0).

    On a rectified flow these are Euler's steps. cameras, positive, negative: one row for each of the B samples,
    view-fastest for a multi-view prior. times: from the noise to 0, in place of `sampling_times`.
    """

    def guided(x: Tensor, t: Tensor) -> Prediction:
        asked, null = predict_each(prior, x, t, [positive, negative], cameras)
        return combine(asked, null, scale)

    path = sampling_times(prior, steps) if times is None else torch.tensor(times)
    noisy = [t.expand(len(x_T)) for t in path.to(x_T.device) if t > 0]  # (B,) each
    x = inversion.ddim(prior, x_T, noisy, guided)
    return guided(x, noisy[-1]).x0 if path[-1] == 0 else x


def sampling_times(prior: Prior, steps: int) -> Tensor:
    """steps + 1 timesteps from 1 to 0, even but for the prior's shift towards noise."""
    even = torch.linspace(1.0, 0.0, steps + 1)
    return prior.shift * even / (1 + (prior.shift - 1) * even)


@torch.no_grad()
def sample_views(
    prior: Prior, prompt: str, config: PromptConfig, seed: int = 0, steps: int = 25, scale: float = 5.0
) -> Tensor:
    """What the prior itself draws from the front, right, back and left: (4, S, S, 3) in [0, 1] on the CPU."""
    cameras = turntable(4, size=prior.image_size).to(prior.device)
    encoded = encode_prompt(prior, prompt, config)
    like = prior.encode_image(torch.zeros(4, prior.image_size, prior.image_size, 3, device=prior.device))
    noise = torch.randn(like.shape, generator=torch.Generator().manual_seed(seed)).to(like)
    positive, negative = encoded.positive(cameras), encoded.negative.repeat(4)
    return prior.decode(ddim(prior, noise, cameras, positive, negative, steps, scale)).cpu()
