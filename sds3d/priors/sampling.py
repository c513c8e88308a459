"""Sampling pictures from a prior: deterministic DDIM over the prior's own contract."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.guidance.base import Views, guided_prediction
from sds3d.priors.base import Conditioning, Prior, expand


@torch.no_grad()
def ddim(
    prior: Prior,
    x_T: Tensor,
    cameras: Cameras,
    positive: Conditioning,
    negative: Conditioning,
    steps: int = 25,
    scale: float = 5.0,
) -> Tensor:
    """Clean samples (B, C, h, w) from noise x_T by DDIM (Song et al., arXiv:2010.02502, eq. 12 with eta = 0).

    cameras, positive, negative: one row for each of the B samples, view-fastest for a multi-view prior.
    """
    views = Views(cameras, x_T.new_empty(0), positive, negative)
    x = x_T
    times = torch.linspace(1.0, 0.0, steps + 1, device=x.device)
    for now, then in pairwise(times):
        guided = guided_prediction(prior, x, now.expand(len(x)), views, scale)
        if then == 0:
            return guided.x0
        x = expand(prior.alpha(then[None]), x) * guided.x0 + expand(prior.sigma(then[None]), x) * guided.eps
    return x
