"""Variational distribution mapping (VDM in DreamMapping, Cai et al. 2024, arXiv:2409.05099).

The rule treats the render as a degraded picture of the prior. A small network M, trained together with the scene, maps
the clean estimate x0 = (x_t - sigma eps_cond) / alpha to the render; no gradient of a U-Net is needed. The noise that
leads from M(x0) to x_t approximates the score of the renders, with a coefficient a(t) (distribution coefficient
annealing):

    eps_M = (x_t - alpha M(x0)) / sigma
    G = w(t) [eps_S - (a(t) eps_M + (1 - a(t)) eps)]

With M(x0) = x the rule is SDS. With M the identity and a = 1, only guidance remains.

Reconstructed: the paper's network and its coefficient a(t) could not be checked. Here a is linear in t.
"""

from __future__ import annotations

from typing import Annotated, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from sds3d.cameras import Cameras
from sds3d.guidance.base import (
    Guidance,
    Guided,
    Number,
    RuleConfig,
    Views,
    Weighting,
    draw_noise,
    guided_prediction,
    weight,
)
from sds3d.guidance.networks import ViewConv
from sds3d.guidance.schedules import Schedule, UniformSchedule, timesteps
from sds3d.guidance.variational import Learner, TrainingConfig
from sds3d.priors.base import Prior, add_noise, expand, space_of
from sds3d.states import part, prefixed

Coefficient = Annotated[float, Field(ge=0.0, le=1.0)]


class MappingConfig(TrainingConfig):
    """The network M; its size is ours."""

    lr: float = Field(default=1e-3, gt=0)
    """Learning rate."""
    width: int = Field(default=32, ge=1, le=1024)
    """Channels of its hidden layers."""


class VDMConfig(RuleConfig):
    """Settings of `VDM`."""

    name: Literal["vdm"] = "vdm"
    scale: float = Field(default=7.5, ge=0.0)
    """Classifier-free guidance scale S in eps_null + S (eps_cond - eps_null)."""
    coefficient: tuple[Coefficient, Coefficient] = (1.0, 0.0)
    """a(t) at t = 0 and at t = 1, linear between. At high noise x0 says little about the render."""
    weighting: Weighting = "sds"
    """w(t) of the gradient."""
    schedule: Schedule = UniformSchedule()
    """Timesteps."""
    mapping: MappingConfig = MappingConfig()
    """The network M."""

    def make(self, prior: Prior) -> VDM:
        """Return the rule on this prior."""
        return VDM(self, prior)


class Mapping(Protocol):
    """Maps clean estimates to renders."""

    def __call__(self, x0: Tensor, t: Tensor, cameras: Cameras) -> Tensor:
        """Map x0 (B, C, h, w) at t (B,) of B cameras to a picture of the same shape."""
        ...


class VDM(Guidance):
    """Gradient w(t) [eps_S - (a eps_M + (1 - a) eps)], while M learns to map clean estimates to renders.

    mapping: M; None for a network that the rule trains.
    """

    def __init__(self, config: VDMConfig, prior: Prior, mapping: Mapping | None = None) -> None:
        self.config = config
        self.prior = prior
        self.learner: Learner | None = None
        self.network: ResidualMapping | None = None
        if mapping is None:
            channels, _, _ = space_of(prior)
            mapping = self.network = ResidualMapping(channels, config.mapping.width).to(prior.device)
            self.learner = Learner(list(self.network.parameters()), config.mapping)
        self.mapping = mapping

    def __call__(self, x: Tensor, views: Views, progress: float, generator: torch.Generator) -> Guided:
        """Do one step. x: (B, C, h, w) detached, in the prior's space. progress: in [0, 1]."""
        config, prior = self.config, self.prior
        t = timesteps(config.schedule, prior, x, progress, generator)  # (B,)
        eps = draw_noise(x, generator)
        x_t = add_noise(prior, x, eps, t)
        prediction = guided_prediction(prior, x_t, t, views, config.scale)
        estimate = prediction.positive.x0
        with torch.no_grad():
            mapped = self.mapping(estimate, t, views.cameras)  # (B, C, h, w)
        of_renders = (x_t - expand(prior.alpha(t), x) * mapped) / expand(prior.sigma(t), x)
        start, end = config.coefficient
        a = expand(start + (end - start) * t, x)
        direction = prediction.eps - (a * of_renders + (1 - a) * eps)
        gradient = expand(weight(prior, t, config.weighting), x) * direction
        metrics = {
            "t": t.mean(),
            "gradient_rms": gradient.square().mean().sqrt(),
        }

        def learn() -> dict[str, Number]:
            return {"mapping_loss": self._learn(estimate, x, t, views.cameras)}

        return Guided(t=t, gradient=gradient, x0=prediction.x0, metrics=metrics, learn=learn)

    def _learn(self, estimate: Tensor, x: Tensor, t: Tensor, cameras: Cameras) -> Number:
        """Update M towards the mean of x given the clean estimate. Returns the last mean squared error."""
        loss: Number = 0.0
        if self.learner is None:
            return loss
        for _ in range(self.config.mapping.updates):
            with torch.enable_grad():
                loss = self.learner.step((self.mapping(estimate, t, cameras) - x.detach()).square().mean())
        return loss

    def state_dict(self) -> dict[str, Tensor]:
        """Return the network M and its optimiser."""
        if self.network is None or self.learner is None:
            return {}
        weights = {name: value.clone() for name, value in self.network.state_dict().items()}
        return prefixed("mapping", weights) | prefixed("optimizer", self.learner.state_dict())

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        if self.network is not None and self.learner is not None:
            self.network.load_state_dict(part(state, "mapping"))
            self.learner.load_state_dict(part(state, "optimizer"))


class ResidualMapping(nn.Module):
    """M(x0) = x0 + a small network, which starts at zero."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.change = ViewConv(channels, width, channels, torch.Generator().manual_seed(0))

    def forward(self, x0: Tensor, t: Tensor, cameras: Cameras) -> Tensor:
        """See `Mapping`."""
        return x0 + self.change(x0, t, cameras)
