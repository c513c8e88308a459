"""What every guidance rule takes and gives, and classifier-free guidance, in its one convention."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Self

import torch
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.config import Config
from sds3d.priors.base import Prediction, Prior, TrainableScore, expand
from sds3d.prompts.conditioning import Conditioning
from sds3d.prompts.prompt import EncodedPrompt, PromptConfig, PromptTexts, prompt_texts

Learn = Callable[[], dict[str, float]]
Weighting = Literal["sds", "uniform", "fantasia3d", "lambda", "alpha"]
"""Weights w(t): sigma^2 (DreamFusion), 1, alpha sigma^2 (Fantasia3D), sigma / alpha (x0 reconstruction), alpha."""

LEAST_ALPHA = 1e-3
"""Where alpha is a divisor: few-step flows and schedules of zero terminal SNR have a level without any signal."""


@dataclass(frozen=True)
class Views:
    """The B renders of a step, beside their pixels in the prior's space.

    rgb: (B, H, W, 3) detached renders in [0, 1], composited on their background, at the prior's size.
    alpha, depth: (B, h', w', 1) detached, at the render's own size: opacity, and the distance along the ray in metres,
        weighted by it. With the cameras they say where the surface is.
    prompt: all texts of the prompt, from which positive and negative (B rows each) follow.
    """

    cameras: Cameras
    rgb: Tensor
    alpha: Tensor
    depth: Tensor
    prompt: EncodedPrompt

    @property
    def positive(self) -> Conditioning:
        """What each view is guided to, B rows."""
        return self.prompt.positive(self.cameras)

    @property
    def negative(self) -> Conditioning:
        """What each view is guided away from, B rows."""
        return self.prompt.negative.repeat(len(self.cameras))


@dataclass(frozen=True)
class Guided:
    """What a rule says of a step.

    t: (B,) timesteps used.
    gradient: (B, C, h, w) per-sample gradient with respect to x in the prior's space, or None when the rule
        works on pixels. The loop divides by B.
    image_target: (B, H, W, 3) pictures in [0, 1] that the renders are pulled to by 1/2 |rgb - target|^2,
        or None. The loop composites the render on the target's own border colour first, so that a
        background the prior likes is not explained by fog.
    image_weight: factor on that loss.
    x0: (B, C, h, w) the clean estimate, for previews. metrics: scalars to log.
    learn: what the rule keeps of the step, updates of its own networks above all, which give losses to log. The loop
        calls it when the scene was updated: a step that fails leaves the rule as it was, and the graph of the render
        and that of a network are not in memory at once.
    """

    t: Tensor
    gradient: Tensor | None = None
    image_target: Tensor | None = None
    image_weight: float = 1.0
    x0: Tensor | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    learn: Learn | None = None

    def learned(self) -> Guided:
        """The same after `learn`, whose losses are among the metrics."""
        if self.learn is None:
            return self
        return replace(self, metrics=self.metrics | self.learn(), learn=None)


class Guidance(ABC):
    """A score-distillation rule. A rule with networks or other memory returns them from `state_dict`."""

    @abstractmethod
    def __call__(self, x: Tensor, views: Views, progress: float, generator: torch.Generator) -> Guided:
        """One step: x (B, C, h, w) detached, progress 0 at the first step and 1 at the last."""

    def state_dict(self) -> dict[str, Tensor]:
        """What a resumed run needs: the rule's networks and their optimisers; nothing for most rules."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:  # noqa: B027 (most rules have no state)
        """Restore what `state_dict` returned."""


class RuleConfig(Config, ABC):
    """Base of every rule's settings. A file in this package with a subclass that has a literal `name`, or such a
    subclass that another package registers under `sds3d.guidance`, is a rule that configurations can name.
    """

    @abstractmethod
    def make(self, prior: Prior) -> Guidance:
        """Return the rule on this prior."""

    def texts(self, prompt: str, config: PromptConfig) -> PromptTexts:
        """The texts that the prior is asked for. A rule that needs others replaces some, or adds to `extra`, where it
        finds their embeddings: `views.prompt.extra`.
        """
        return prompt_texts(prompt, config)

    def in_prior_space(self) -> Self:
        """The same rule without losses in decoded pixels, where it can do without."""
        return self


@dataclass(frozen=True)
class GuidedPrediction(Prediction):
    """A prediction under classifier-free guidance, with the two it was made of, each (B, C, h, w)."""

    positive: Prediction
    negative: Prediction


def predict_each(
    prior: Prior | TrainableScore, x_t: Tensor, t: Tensor, conditions: Sequence[Conditioning], cameras: Cameras | None
) -> list[Prediction]:
    """What the model says of the same x_t (B, C, h, w) under several conditions of B rows each, in one call of it.

    Raises ValueError when t, cameras or a condition have not one row for each of the B views.
    """
    batch, n = x_t.shape[0], len(conditions)
    sizes = {len(t), *map(len, conditions)} | (set() if cameras is None else {len(cameras)})
    if sizes != {batch}:
        raise ValueError(f"t, cameras and conditioning need one row for each of the {batch} views, got {sorted(sizes)}")
    if cameras is not None:
        cameras = cameras[torch.arange(batch, device=cameras.azimuth.device).repeat(n)]
    out = prior.predict(x_t.repeat(n, 1, 1, 1), t.repeat(n), Conditioning.cat(conditions), cameras)
    return [Prediction(*parts) for parts in zip(out.eps.split(batch), out.x0.split(batch), strict=True)]


@torch.no_grad()
def guided_prediction(
    prior: Prior, x_t: Tensor, t: Tensor, views: Views, scale: float, *, rescale: float = 0.0
) -> GuidedPrediction:
    """Classifier-free guidance eps_null + S (eps_cond - eps_null), in one call of the prior.

    x_t: (B, C, h, w), view-fastest groups of `prior.n_views`. t: (B,) in [0, 1]. scale: S; 1 is the plain
    conditional model. The negative branch drops the text and keeps the camera: what guidance amplifies is the
    text, never the pose.
    rescale: phi in [0, 1], the part of x0 whose standard deviation, over all views of an object, is put back to
    that of the conditional x0, against over-saturation (Lin et al. 2023, arXiv:2305.08891, sec. 3.4; on x0 in
    MVDream, arXiv:2308.16512). eps then follows x0, and sigma(t) has to be above 0.

    Raises ValueError when B is no multiple of the prior's views or differs between the arguments.
    """
    positive, negative = predict_each(prior, x_t, t, [views.positive, views.negative], views.cameras)
    guided = combine(positive, negative, scale)
    if rescale > 0:
        guided = rescaled(prior, guided, t, rescale)
    return guided


def combine(positive: Prediction, negative: Prediction, scale: float | Tensor) -> GuidedPrediction:
    """negative + S (positive - negative). scale: a number, or (B, 1, 1, 1)."""
    # x0 is affine in eps, so guiding it is guiding eps, and stays finite where alpha is 0.
    eps = negative.eps + scale * (positive.eps - negative.eps)
    x0 = negative.x0 + scale * (positive.x0 - negative.x0)
    return GuidedPrediction(eps, x0, positive, negative)


def rescaled(prior: Prior, guided: GuidedPrediction, t: Tensor, rescale: float) -> GuidedPrediction:
    """The part `rescale` of x0 with the standard deviation of the conditional x0; see `guided_prediction`."""
    factor = rescale_factor(guided.positive.x0, guided.x0, prior.n_views)  # (B,)
    x0 = guided.x0 * expand(1 + rescale * (factor - 1), guided.x0)
    eps = guided.eps + expand(prior.alpha(t) / prior.sigma(t), x0) * (guided.x0 - x0)
    return GuidedPrediction(eps, x0, guided.positive, guided.negative)


def rescale_factor(x0_positive: Tensor, x0_guided: Tensor, n_views: int) -> Tensor:
    """std(x0_positive) / std(x0_guided), jointly over each object's `n_views` views and all their values: (B,)."""
    objects = group_count(x0_guided.shape[0], n_views)
    target = x0_positive.reshape(objects, -1).std(dim=1)
    factor = target / x0_guided.reshape(objects, -1).std(dim=1).clamp_min(1e-8)
    return factor.repeat_interleave(n_views)


def group_count(batch: int, n_views: int) -> int:
    """Objects in a batch of views; ValueError when it does not divide into groups of `n_views`."""
    if batch % n_views:
        raise ValueError(
            f"the prior denoises {n_views} views together and got {batch}: make the number of views a multiple"
        )
    return batch // n_views


def weight(prior: Prior, t: Tensor, weighting: Weighting) -> Tensor:
    """w(t) for t (B,), same shape."""
    alpha, sigma = prior.alpha(t), prior.sigma(t)
    match weighting:
        case "sds":
            return sigma**2
        case "uniform":
            return torch.ones_like(sigma)
        case "fantasia3d":
            return alpha * sigma**2
        case "lambda":
            return sigma / alpha.clamp_min(LEAST_ALPHA)
        case "alpha":
            return alpha


def draw_noise(x: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise like x, drawn on the CPU so that one seed gives one result on every device."""
    return torch.randn(x.shape, generator=generator).to(x)
