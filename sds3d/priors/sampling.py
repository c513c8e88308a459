"""Sampling pictures from a prior: deterministic DDIM over the prior's own contract."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from sds3d.cameras import Cameras, turntable
from sds3d.guidance.base import combine, predict_each
from sds3d.priors.base import Conditioning, Prior, expand
from sds3d.prompts import PromptConfig, encode_prompt


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
    view-fastest for a multi-view prior. times: from the noise to 0, in place of `steps` even steps from 1 to 0.
    """
    x = x_T
    path = torch.linspace(1.0, 0.0, steps + 1) if times is None else torch.tensor(times)
    for now, then in pairwise(path.to(x.device)):
        asked, null = predict_each(prior, x, now.expand(len(x)), [positive, negative], cameras)
        guided = combine(asked, null, scale)
        if then == 0:
            return guided.x0
        x = expand(prior.alpha(then[None]), x) * guided.x0 + expand(prior.sigma(then[None]), x) * guided.eps
    return x


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
