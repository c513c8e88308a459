"""Exactly known scores that replace the networks of rules, and a test of resuming for all rules with networks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.guidance.base import Guidance, Views
from sds3d.priors.base import Prediction, Prior, expand
from sds3d.prompts.conditioning import Conditioning
from tests.guidance.exact import seeded

Denoiser = Callable[[Tensor, Tensor, Conditioning, Cameras | None], Prediction]


class Known:
    """A `TrainableScore` that needs no training: it returns what the function returns."""

    def __init__(self, denoise: Denoiser) -> None:
        self.denoise = denoise

    def predict(self, x_t: Tensor, t: Tensor, cond: Conditioning, cameras: Cameras | None) -> Prediction:
        return self.denoise(x_t, t, cond, cameras)

    def parameters(self) -> list[torch.nn.Parameter]:
        return []

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


class KnownTrainable(Known):
    """A `Known` that can be trained: its only weight, 0 at first, is added to the predicted noise."""

    def __init__(self, denoise: Denoiser) -> None:
        super().__init__(denoise)
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def predict(self, x_t: Tensor, t: Tensor, cond: Conditioning, cameras: Cameras | None) -> Prediction:
        known = super().predict(x_t, t, cond, cameras)
        return Prediction(known.eps + self.weight, known.x0)

    def parameters(self) -> list[torch.nn.Parameter]:
        return [self.weight]


def normal(prior: Prior, mean: Tensor | float, std: Tensor | float, x_t: Tensor, t: Tensor) -> Prediction:
    """Return the exact prediction for independent values of x from N(mean, std^2); std may be 0."""
    alpha, sigma = (expand(scale, x_t).to(x_t.dtype) for scale in (prior.alpha(t), prior.sigma(t)))
    variance = torch.as_tensor(std, dtype=x_t.dtype) ** 2
    whitened = (x_t - alpha * mean) / (alpha**2 * variance + sigma**2)
    return Prediction(sigma * whitened, mean + alpha * variance * whitened)


def of_points(prior: Prior, points: Tensor) -> Known:
    """Return the score of a point distribution per row: points (B, C, h, w)."""
    return Known(lambda x_t, t, cond, cameras: normal(prior, points, 0.0, x_t, t))


def resumes_bit_identically(make: Callable[[], Guidance], views: Views, x: Tensor, before: int = 3) -> bool:
    """Return whether a fresh rule that loads the state continues with the same gradients to the same final state."""

    def steps(rule: Guidance, generator: torch.Generator, count: int) -> list[Tensor]:
        gradients = [rule(x, views, i / 10, generator).learned().gradient for i in range(count)]
        return [gradient for gradient in gradients if gradient is not None]

    first, generator = make(), seeded()
    steps(first, generator, before)
    saved, stream = first.state_dict(), generator.get_state()
    assert saved
    assert all(isinstance(value, Tensor) for value in saved.values())
    second, again = make(), seeded(1)
    second.load_state_dict({name: value.clone() for name, value in saved.items()})
    again.set_state(stream)
    ours, theirs = steps(first, generator, 3), steps(second, again, 3)
    ends = first.state_dict(), second.state_dict()
    return (
        len(ours) == 3
        and all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
        and ends[0].keys() == ends[1].keys()
        and all(torch.equal(ends[0][name], value) for name, value in ends[1].items())
    )
