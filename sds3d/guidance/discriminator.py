"""A discriminator between pictures of the prior and renders, both noised, for rules that need the ratio of densities.

The optimal discriminator D gives r = p_t(x_t) / q_t(x_t) = D / (1 - D), so its logit is log r (Goodfellow et al. 2014,
arXiv:1406.2661, prop. 1). p: the prior's pictures, q: renders.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from sds3d.cameras import Cameras
from sds3d.guidance.base import Learn, Number, RuleConfig, Views, draw_noise
from sds3d.guidance.cache import ViewCache
from sds3d.guidance.networks import ViewConv
from sds3d.guidance.sampling import Conditions, sample, sampling_times
from sds3d.guidance.schedules import draw
from sds3d.guidance.variational import Learner, TrainingConfig, VariationalConfig, VariationalRule
from sds3d.priors.base import Prior, TrainableScore, add_noise, space_of
from sds3d.states import part, prefixed

RATIO = (1e-3, 1e3)
"""Bounds that ratios are clamped to."""


class DiscriminatorConfig(TrainingConfig):
    """The network D between the prior's pictures and renders; its size is ours."""

    lr: float = Field(default=1e-3, gt=0)
    """Learning rate."""
    width: int = Field(default=32, ge=1, le=1024)
    """Channels of its hidden layers."""


class AdversarialConfig(RuleConfig):
    """Base of the settings of rules with a discriminator."""

    scale: float = Field(default=7.5, ge=0.0)
    """Classifier-free guidance scale S in eps_null + S (eps_cond - eps_null), of the gradient and of the samples."""
    refresh_every: int = Field(default=50, ge=1)
    """Steps between two draws of pictures from the prior, with the cameras of the step."""
    sampling_steps: int = Field(default=10, ge=1, le=1000)
    """DDIM steps of a draw."""
    cache: int = Field(default=4, ge=1, le=1000)
    """Number of draws that are kept."""
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    """The network D."""


class LogRatio(Protocol):
    """Gives log p_t(x_t) / q_t(x_t) of pictures."""

    def __call__(self, x_t: Tensor, t: Tensor, cameras: Cameras) -> Tensor:
        """Return the logarithm for x_t (B, C, h, w) at t (B,) of B cameras: (B,)."""
        ...


class DensityRatio:
    """D, its optimiser, and the pictures of the prior that it learns from.

    log_ratio: the logit of D; None for a network that is trained here.
    """

    def __init__(self, config: AdversarialConfig, prior: Prior, log_ratio: LogRatio | None = None) -> None:
        self.config = config
        self.prior = prior
        self.cache = ViewCache(config.cache)
        self.step = 0
        self.network: Discriminator | None = None
        self.learner: Learner | None = None
        if log_ratio is None:
            channels, _, _ = space_of(prior)
            log_ratio = self.network = Discriminator(channels, config.discriminator.width).to(prior.device)
            self.learner = Learner(list(self.network.parameters()), config.discriminator)
        self.log_ratio = log_ratio

    @torch.no_grad()
    def ratio(self, x_t: Tensor, t: Tensor, cameras: Cameras) -> Tensor:
        """Return p_t(x_t) / q_t(x_t), within `RATIO`, for x_t (B, C, h, w) at t (B,): (B,)."""
        return self.log_ratio(x_t, t, cameras).exp().clamp(*RATIO)

    def train(self, x: Tensor, views: Views, generator: torch.Generator) -> Number:
        """Do a step's updates on renders x (B, C, h, w) and pictures of the prior, which are sampled at times.

        Returns the last loss.
        """
        loss: Number = 0.0
        if self.learner is not None:
            loss = self._train(self.learner, x, views, generator)
        self.step += 1
        return loss

    def _train(self, learner: Learner, x: Tensor, views: Views, generator: torch.Generator) -> Number:
        config, loss = self.config, 0.0
        if self.step % config.refresh_every == 0:
            noise = draw_noise(x, generator)
            conditions = Conditions(views.cameras, views.positive, views.negative, config.scale)
            real = sample(self.prior, noise, conditions, sampling_times(self.prior, config.sampling_steps))
            self.cache.add(real, views.cameras)
        for _ in range(config.discriminator.updates):
            real, cameras, _ = self.cache.draw(generator)
            rows = torch.arange(len(x), device=x.device) % len(real)  # they may be of a step with more or fewer views
            real, cameras = real[rows], cameras[rows]
            t = draw((0.02, 0.98), len(x), 1, generator).to(x.device, non_blocking=True)  # (B,)
            with torch.enable_grad():
                logits = [
                    self.log_ratio(add_noise(self.prior, picture, draw_noise(x, generator), t), t, seen)
                    for picture, seen in ((real, cameras), (x.detach(), views.cameras))
                ]
                # -log D of the prior's pictures, -log (1 - D) of renders
                loss = learner.step((functional.softplus(-logits[0]) + functional.softplus(logits[1])).mean())
        return loss

    def state_dict(self) -> dict[str, Tensor]:
        """Return the network with its optimiser, the prior's pictures, and the number of steps."""
        state = prefixed("cache", self.cache.state_dict())
        if self.network is not None and self.learner is not None:
            weights = {name: value.clone() for name, value in self.network.state_dict().items()}
            state |= prefixed("discriminator", weights) | prefixed("optimizer", self.learner.state_dict())
        return state | {"step": torch.tensor(self.step)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self.cache.load_state_dict(part(state, "cache"), self.prior.device)
        if self.network is not None and self.learner is not None:
            self.network.load_state_dict(part(state, "discriminator"))
            self.learner.load_state_dict(part(state, "optimizer"))
        self.step = int(state["step"])


class AdversarialRule(VariationalRule):
    """Base of rules whose state is the network phi and a discriminator.

    score, log_ratio: phi and the logit of D; None for networks that the rule trains.
    """

    def __init__(
        self,
        config: AdversarialConfig,
        variational: VariationalConfig,
        prior: Prior,
        score: TrainableScore | None = None,
        log_ratio: LogRatio | None = None,
    ) -> None:
        super().__init__(variational, prior, score)
        self.density = DensityRatio(config, prior, log_ratio)

    def learning(self, x: Tensor, views: Views, generator: torch.Generator) -> Learn:
        """Return a function that trains phi and then D on renders x (B, C, h, w), for `Guided.learn`."""
        return lambda: {
            "variational_loss": self.phi.train(x, views, generator),
            "discriminator_loss": self.density.train(x, views, generator),
        }

    def state_dict(self) -> dict[str, Tensor]:
        """Return both networks with their optimisers, and the prior's pictures."""
        return prefixed("phi", super().state_dict()) | self.density.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(part(state, "phi"))
        self.density.load_state_dict(state)


class Discriminator(nn.Module):
    """The logit of D: the mean of a convolutional network's output over a picture, 0 at first."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.places = ViewConv(channels, width, 1, torch.Generator().manual_seed(0))

    def forward(self, x_t: Tensor, t: Tensor, cameras: Cameras) -> Tensor:
        """See `LogRatio`."""
        return self.places(x_t, t, cameras).mean(dim=(1, 2, 3))
