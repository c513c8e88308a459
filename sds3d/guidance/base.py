"""The contract of guidance rules, and classifier-free guidance, which is always eps_null + S (eps_cond - eps_null)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, Self

import torch
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.config import Config
from sds3d.devices import seeded
from sds3d.priors.base import Prediction, Prior, TrainableScore, expand
from sds3d.prompts.conditioning import Conditioning, Structure
from sds3d.prompts.perp_neg import Neighbours
from sds3d.prompts.prompt import EncodedPrompt, PromptConfig, PromptTexts, prompt_texts

Number = float | Tensor
"""A scalar: a float, or a tensor without dimensions that is still on its device."""
Learn = Callable[[], Mapping[str, Number]]
Weighting = Literal["sds", "uniform", "fantasia3d", "lambda", "alpha", "velocity"]
"""Weights w(t) of a difference of noises: sigma^2 (DreamFusion), 1, alpha sigma^2 (Fantasia3D), sigma / alpha (the same
difference of clean estimates), alpha, 1 / alpha (the same difference of velocities, as in RFDS)."""

LEAST_ALPHA = 1e-3
"""Smallest divisor alpha: few-step flows and schedules with zero terminal SNR have a level without any signal."""


@dataclass(frozen=True)
class Views:
    """What a rule knows about the B renders of a step besides x.

    rgb: (B, H, W, 3) detached renders in [0, 1], composited on their background, at the prior's size.
    alpha, depth: (B, h', w', 1) detached, at the size of the render: the opacity, and the distance along the ray in
        metres, weighted by the opacity. With the cameras they locate the surface.
    prompt: the embeddings of all texts, from which `positive` and `negative` follow.
    structure: depth, normals and opacity of the renders, if the prior takes structure.
    """

    cameras: Cameras
    rgb: Tensor
    alpha: Tensor
    depth: Tensor
    prompt: EncodedPrompt
    structure: Structure | None = None

    def told(self, text: Conditioning) -> Conditioning:
        """Return what the prior is told of each view: the text, of one row or B rows, and the structure of the view."""
        rows = text if len(text) == len(self.cameras) else text.repeat(len(self.cameras))
        return replace(rows, structure=self.structure)

    @property
    def positive(self) -> Conditioning:
        """The text that each view is guided to, B rows."""
        return self.told(self.prompt.positive(self.cameras))

    @property
    def negative(self) -> Conditioning:
        """The text that each view is guided away from, B rows."""
        return self.told(self.prompt.negative)

    @property
    def neighbours(self) -> Neighbours:
        """The words of neighbouring views that each view is guided away from by Perp-Neg, if it is chosen."""
        found = self.prompt.neighbours(self.cameras)
        return replace(found, texts=tuple(map(self.told, found.texts)))


@dataclass(frozen=True)
class Guided:
    """The result of a rule's step.

    t: (B,) timesteps.
    gradient: (B, C, h, w) gradient of each sample with respect to x in the prior's space, or None if the rule works on
        pixels. The loop divides by B.
    image_target: (B, H, W, 3) pictures in [0, 1] that the renders are pulled to by 1/2 |rgb - target|^2, or None. The
        loop first composites the render on the target's border colour, so that fog does not imitate the background of
        the prior's pictures.
    image_weight: factor on that loss.
    x0: (B, C, h, w) the clean estimate, for previews. metrics: scalars to log; tensors among them are read later.
    learn: updates the rule's state, mostly its networks, and returns losses to log. The loop calls it after the scene's
        update. So a step that fails leaves the rule unchanged, and the graphs of the render and of a network are not in
        memory at the same time.
    """

    t: Tensor
    gradient: Tensor | None = None
    image_target: Tensor | None = None
    image_weight: float = 1.0
    x0: Tensor | None = None
    metrics: Mapping[str, Number] = field(default_factory=dict)
    learn: Learn | None = None

    def learned(self) -> Guided:
        """Call `learn`, and return the result with its losses among the metrics."""
        if self.learn is None:
            return self
        return replace(self, metrics={**self.metrics, **self.learn()}, learn=None)


class Guidance(ABC):
    """A score-distillation rule. A rule with networks or other memory returns them from `state_dict`."""

    @abstractmethod
    def __call__(self, x: Tensor, views: Views, progress: float, generator: torch.Generator) -> Guided:
        """Do one step. x: (B, C, h, w) detached. progress: 0 at the first step, 1 at the last."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return what a resumed run needs: the rule's networks and their optimisers; nothing for most rules."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:  # noqa: B027 (most rules have no state)
        """Restore what `state_dict` returned."""


class RuleConfig(Config, ABC):
    """Base of the settings of every rule.

    Each subclass with a literal `name` is a rule that configurations can choose, if it is in a file of this package or
    another package registers it under `sds3d.guidance`.
    """

    @abstractmethod
    def make(self, prior: Prior) -> Guidance:
        """Return the rule on this prior."""

    def texts(self, prompt: str, config: PromptConfig) -> PromptTexts:
        """Return the texts of a prompt. A rule that needs other texts overrides this: it replaces some, or adds to
        `extra`. Their embeddings are `views.prompt` and `views.prompt.extra`.
        """
        return prompt_texts(prompt, config)

    def in_prior_space(self) -> Self:
        """Return the form of the rule without losses in decoded pixels if it has one, otherwise the rule itself."""
        return self


@dataclass(frozen=True)
class GuidedPrediction(Prediction):
    """A prediction under classifier-free guidance, and the two predictions that it combines, each (B, C, h, w).

    With S = 1 only the positive one counts, and `negative` may be that, too.
    """

    positive: Prediction
    negative: Prediction


@dataclass(frozen=True)
class ByText:
    """Predictions for the same x_t, each (B, C, h, w).

    plain: under the text that each view is guided to. negative: under the text that each view is guided away from.
    others: under further texts. away: under the words of neighbouring views, with Perp-Neg. weights: (B, len(away)).
    """

    plain: Prediction
    negative: Prediction
    others: tuple[Prediction, ...]
    away: tuple[Prediction, ...]
    weights: Tensor

    @cached_property
    def positive(self) -> Prediction:
        """The plain prediction; with Perp-Neg, led away from the words of neighbouring views."""
        return repelled(self) if self.away else self.plain

    def guided(self, scale: float) -> GuidedPrediction:
        """Return the prediction under classifier-free guidance with the scale S."""
        if not self.away:
            return combine(self.plain, self.negative, scale)
        led = repelled(self, scale)
        return GuidedPrediction(led.eps, led.x0, self.positive, self.negative)


def predict_each(
    prior: Prior | TrainableScore, x_t: Tensor, t: Tensor, conditions: Sequence[Conditioning], cameras: Cameras | None
) -> list[Prediction]:
    """Predict the same x_t (B, C, h, w) under several conditions of B rows each, in one call of the model.

    Raises ValueError if t, cameras or a condition do not have one row for each of the B views.
    """
    batch, n = x_t.shape[0], len(conditions)
    sizes = {len(t), *map(len, conditions)} | (set() if cameras is None else {len(cameras)})
    if sizes != {batch}:
        raise ValueError(f"t, cameras and conditioning need one row for each of the {batch} views, got {sorted(sizes)}")
    if cameras is not None:
        cameras = cameras[torch.arange(batch, device=cameras.azimuth.device).repeat(n)]
    out = prior.predict(x_t.repeat(n, 1, 1, 1), t.repeat(n), Conditioning.cat(conditions), cameras)
    return [Prediction(*parts) for parts in zip(out.eps.split(batch), out.x0.split(batch), strict=True)]


def predict_texts(
    prior: Prior | TrainableScore, x_t: Tensor, t: Tensor, views: Views, others: Sequence[Conditioning] = ()
) -> ByText:
    """Predict x_t (B, C, h, w) at t (B,) under the texts of the views and under others, in one call of the model."""
    away = views.neighbours
    conditions = [views.positive, views.negative, *others, *away.texts]
    plain, negative, *rest = predict_each(prior, x_t, t, conditions, views.cameras)
    return ByText(plain, negative, tuple(rest[: len(others)]), tuple(rest[len(others) :]), away.weights)


def repelled(texts: ByText, scale: float = 1.0) -> Prediction:
    """Guide with the parts of directions perpendicular to the positive one (Perp-Neg, arXiv:2304.04968, eq. 6):

    negative + S (d + sum_i w_i (d_i - <d_i, d> / |d|^2 d)),    d = plain - negative, d_i = away_i - negative
    """
    plain, negative = texts.plain, texts.negative
    direction = (plain.eps - negative.eps).flatten(1)  # (B, E)
    length = direction.square().sum(dim=1).clamp_min(1e-6)  # (B,); without a direction nothing is projected away
    eps, x0, along = negative.eps, negative.x0, torch.ones_like(length)
    for other, w in zip(texts.away, texts.weights.to(eps).unbind(dim=1), strict=True):
        along = along - w * ((other.eps - negative.eps).flatten(1) * direction).sum(dim=1) / length
        eps = eps + expand(scale * w, eps) * (other.eps - negative.eps)
        x0 = x0 + expand(scale * w, x0) * (other.x0 - negative.x0)  # x0 is affine in eps, so it is combined alike
    eps = eps + expand(scale * along, eps) * (plain.eps - negative.eps)
    return Prediction(eps, x0 + expand(scale * along, x0) * (plain.x0 - negative.x0))


@torch.no_grad()
def guided_prediction(
    prior: Prior, x_t: Tensor, t: Tensor, views: Views, scale: float, *, rescale: float = 0.0
) -> GuidedPrediction:
    """Predict by classifier-free guidance, eps_null + S (eps_cond - eps_null), in one call of the prior.

    With Perp-Neg (`prompts.perp_neg`), eps_cond is led away from the words of neighbouring views, see `repelled`.

    x_t: (B, C, h, w), view-fastest groups of `prior.n_views`. t: (B,) in [0, 1]. scale: S; 1 is the plain conditional
    model. The negative branch drops the text and keeps the camera: guidance amplifies the text, never the pose.
    rescale: share phi in [0, 1] of rescaled guidance, which prevents over-saturation (Lin et al. 2023,
    arXiv:2305.08891, sec. 3.4; on x0 in MVDream, arXiv:2308.16512). This share of x0 gets the standard deviation of the
    conditional x0, over all views of an object. eps then follows from x0, and sigma(t) must be above 0.

    Raises ValueError if B is not a multiple of the prior's views or differs between the arguments.
    """
    if scale == 1 and not views.neighbours.texts:  # half the work
        (plain,) = predict_each(prior, x_t, t, [views.positive], views.cameras)
        return GuidedPrediction(plain.eps, plain.x0, plain, plain)
    texts = predict_texts(prior, x_t, t, views)
    guided = texts.guided(scale)
    if rescale > 0:
        guided = rescaled(prior, guided, texts.plain, t, rescale)
    return guided


def combine(positive: Prediction, negative: Prediction, scale: float | Tensor) -> GuidedPrediction:
    """Return negative + S (positive - negative). scale: S, a number or (B, 1, 1, 1)."""
    # x0 is affine in eps, so both are guided alike; x0 stays finite where alpha is 0.
    eps = negative.eps + scale * (positive.eps - negative.eps)
    x0 = negative.x0 + scale * (positive.x0 - negative.x0)
    return GuidedPrediction(eps, x0, positive, negative)


def rescaled(prior: Prior, guided: GuidedPrediction, plain: Prediction, t: Tensor, rescale: float) -> GuidedPrediction:
    """Rescale the share `rescale` of x0 to the contrast of the `plain` one, see `guided_prediction`."""
    factor = rescale_factor(plain.x0, guided.x0, prior.n_views)  # (B,)
    x0 = guided.x0 * expand(1 + rescale * (factor - 1), guided.x0)
    eps = guided.eps + expand(prior.alpha(t) / prior.sigma(t), x0) * (guided.x0 - x0)
    return GuidedPrediction(eps, x0, guided.positive, guided.negative)


def rescale_factor(x0_positive: Tensor, x0_guided: Tensor, n_views: int) -> Tensor:
    """Return std(x0_positive) / std(x0_guided), over all values of each object's `n_views` views: (B,)."""
    objects = group_count(x0_guided.shape[0], n_views)
    target = x0_positive.reshape(objects, -1).std(dim=1)
    factor = target / x0_guided.reshape(objects, -1).std(dim=1).clamp_min(1e-8)
    return factor.repeat_interleave(n_views)


def group_count(batch: int, n_views: int) -> int:
    """Return the number of objects in a batch of views. Raises ValueError if it is not a multiple of `n_views`."""
    if batch % n_views:
        raise ValueError(
            f"the prior denoises {n_views} views together and got {batch}: make the number of views a multiple"
        )
    return batch // n_views


def weight(prior: Prior, t: Tensor, weighting: Weighting) -> Tensor:
    """Return w(t) for t (B,), same shape."""
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
        case "velocity":
            return 1 / alpha.clamp_min(LEAST_ALPHA)


def draw_noise(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return standard normal noise like x, drawn where x is. generator: on the CPU; elsewhere it draws only a seed.

    So the stream of a run stays on the CPU, and a resumed run draws the same noise on the same kind of device.
    """
    if x.device.type == "cpu":
        return torch.randn(x.shape, generator=generator).to(x)
    seed = int(torch.randint(2**62, (), generator=generator))
    return torch.randn(x.shape, generator=seeded(seed, x.device), device=x.device).to(x)
