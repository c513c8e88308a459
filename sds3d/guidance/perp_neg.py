"""Perp-Neg (Armandpour et al. 2023, arXiv:2304.04968): guidance away from the words of neighbouring views.

The positive text of a view is interpolated between the texts of its two neighbouring views, which are also the
negatives. Only the part of a negative direction that is perpendicular to the positive direction counts, so that what
both texts share is kept:

    eps = eps_null + S (d_pos + sum_i w_i (d_i - <d_i, d_pos> / |d_pos|^2 d_pos)),    d = eps_text - eps_null
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.guidance.base import GuidedPrediction, Views, predict_each
from sds3d.priors.base import Prior, expand
from sds3d.prompts.conditioning import Conditioning
from sds3d.prompts.prompt import VIEWS, EncodedPrompt

_FRONT, _SIDE, _BACK, _OVERHEAD = (VIEWS.index(view) for view in ("front", "side", "back", "overhead"))
_FLOOR = 1e-6  # of |d_pos|^2: without a positive direction nothing is projected away


@dataclass(frozen=True)
class PerpNegTexts:
    """The texts of B views: positive (B rows), two negatives (B rows each) and their weights (B, 2), at most 0 up to
    rounding."""

    positive: Conditioning
    negatives: tuple[Conditioning, Conditioning]
    weights: Tensor


def perp_neg_texts(prompt: EncodedPrompt, cameras: Cameras, overhead: float = 60.0) -> PerpNegTexts:
    """Return the interpolated texts and the weights of each view (sec. 4.3, with threestudio's constants).

    Between front (azimuth 0) and side (90) the negatives are front and side; between side and back (180) they are side
    and front. A weight is -(a exp(-b r) + c). Views from above `overhead` degrees have one word and no negatives.
    """
    away = (180.0 - (180.0 - cameras.azimuth) % 360.0).abs() / 90  # (B,) from the front, in quarter turns
    ahead, above = away < 1, cameras.elevation > overhead
    r = torch.where(ahead, 1 - away, 2 - away)  # 1 at the first view of a quarter, 0 at the second
    first = torch.where(ahead, _FRONT, _SIDE).masked_fill(above, _OVERHEAD)
    second = torch.where(ahead, _SIDE, _BACK).masked_fill(above, _OVERHEAD)
    device = prompt.views.hidden.device
    views = prompt.views
    positive = _between(views[first.to(device)], views[second.to(device)], r.to(device))
    negatives = views[first.to(device)], views[torch.where(ahead, _SIDE, _FRONT).to(device)]
    weights = torch.stack(
        [
            torch.where(ahead, _decay(r, 4.0, 0.5, -2.426), _decay(r, 1.0, 0.5, -0.606)),
            torch.where(ahead, _decay(1 - r, 4.0, 0.5, -2.426), _decay(r, 1.0, 0.5, 0.967)),
        ],
        dim=1,
    )
    return PerpNegTexts(positive, negatives, weights.masked_fill(above[:, None], 0.0).to(device))


@torch.no_grad()
def perp_neg_prediction(prior: Prior, x_t: Tensor, t: Tensor, views: Views, scale: float) -> GuidedPrediction:
    """Guide x_t (B, C, h, w) at t (B,) by Perp-Neg, in one call of the prior with four texts per view."""
    texts = perp_neg_texts(views.prompt, views.cameras, views.prompt.texts.overhead_threshold)
    conditions = [texts.positive, views.negative, *texts.negatives]
    positive, null, *others = predict_each(prior, x_t, t, conditions, views.cameras)
    direction = (positive.eps - null.eps).flatten(1)  # (B, E)
    length = direction.square().sum(dim=1).clamp_min(_FLOOR)  # (B,)
    # Guidance is linear in the predictions, so x0 is combined with the same factors as eps.
    eps, x0, along = null.eps, null.x0, torch.ones_like(length)
    for other, w in zip(others, texts.weights.to(x_t).unbind(dim=1), strict=True):
        along = along - w * ((other.eps - null.eps).flatten(1) * direction).sum(dim=1) / length
        eps = eps + expand(scale * w, eps) * (other.eps - null.eps)
        x0 = x0 + expand(scale * w, x0) * (other.x0 - null.x0)
    eps = eps + expand(scale * along, eps) * (positive.eps - null.eps)
    x0 = x0 + expand(scale * along, x0) * (positive.x0 - null.x0)
    return GuidedPrediction(eps, x0, positive, null)


def _between(first: Conditioning, second: Conditioning, share: Tensor) -> Conditioning:
    """Blend embeddings: share (B,) of the first, the rest of the second."""

    def blend(a: Tensor, b: Tensor) -> Tensor:
        return b + expand(share.to(a), a) * (a - b)

    pooled = None if first.pooled is None or second.pooled is None else blend(first.pooled, second.pooled)
    return Conditioning(blend(first.hidden, second.hidden), pooled)


def _decay(r: Tensor, a: float, b: float, c: float) -> Tensor:
    return -(a * torch.exp(-b * r) + c)
