"""f-divergence distillation (f-distill, Xu et al. 2025, arXiv:2502.15681; Uni-Instruct, 2025, arXiv:2505.20755).

For D_f(p || q) = E_q f(p / q), with the prior's p and the renders' q noised alike, the gradient is VSD's with a weight
for each sample:

    G = w(t) h(r) / mean h(r) (eps_S - eps_phi),    h(r) = r^2 f''(r),    r = p_t(x_t) / q_t(x_t)

h is 1 for the reverse KL divergence, which seeks modes and is VSD. Divergences that cover modes give more weight to
renders that are likely under the prior. A discriminator D between pictures sampled from the prior and renders, both
noised, gives the ratio: r = D / (1 - D).

Ours: D sees one view at a time. Weights are divided by their mean over the batch, so with one view per step the rule is
VSD.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

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
from sds3d.guidance.cache import ViewCache
from sds3d.guidance.networks import ViewConv, channels_of
from sds3d.guidance.sampling import Conditions, sample, sampling_times
from sds3d.guidance.schedules import Schedule, UniformSchedule, draw, timesteps
from sds3d.guidance.variational import Learner, TrainedScore, TrainingConfig, VariationalConfig
from sds3d.priors.base import Prior, TrainableScore, add_noise, expand
from sds3d.states import part, prefixed

Divergence = Literal["reverse_kl", "forward_kl", "jeffreys", "jensen_shannon", "hellinger", "chi_square"]
RATIO = (1e-3, 1e3)

WEIGHTS: dict[Divergence, Callable[[Tensor], Tensor]] = {
    "reverse_kl": torch.ones_like,  # f = -log r
    "forward_kl": lambda r: r,  # r log r
    "jeffreys": lambda r: r + 1,  # (r - 1) log r
    "jensen_shannon": lambda r: r / (r + 1),  # r log r - (r + 1) log((r + 1) / 2)
    "hellinger": lambda r: r.sqrt() / 4,  # 1 - sqrt r
    "chi_square": lambda r: 2 * r**2,  # (r - 1)^2
}
"""h(r) = r^2 f''(r) of each divergence."""


class DiscriminatorConfig(TrainingConfig):
    """The network D between the prior's pictures and renders; its size is ours."""

    lr: float = Field(default=1e-3, gt=0)
    """Learning rate."""
    width: int = Field(default=32, ge=1, le=1024)
    """Channels of its hidden layers."""


class FDivergenceConfig(RuleConfig):
    """Settings of `FDivergence`."""

    name: Literal["fdivergence"] = "fdivergence"
    divergence: Divergence = "forward_kl"
    """f: reverse_kl (VSD), forward_kl, jeffreys, jensen_shannon, hellinger (squared) or chi_square."""
    scale: float = Field(default=7.5, ge=0.0)
    """Classifier-free guidance scale S in eps_null + S (eps_cond - eps_null), of the gradient and of the samples."""
    start: float = Field(default=0.1, ge=0.0, le=1.0)
    """Share of the run, at its start, in which all samples have the same weight while the discriminator learns."""
    refresh_every: int = Field(default=50, ge=1)
    """Steps between two draws of pictures from the prior, with the cameras of the step."""
    sampling_steps: int = Field(default=10, ge=1, le=1000)
    """DDIM steps of a draw."""
    cache: int = Field(default=4, ge=1, le=1000)
    """Number of draws that are kept."""
    weighting: Weighting = "sds"
    """w(t) of the gradient."""
    schedule: Schedule = UniformSchedule()
    """Timesteps."""
    variational: VariationalConfig = VariationalConfig()
    """The network phi."""
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    """The network D."""

    def make(self, prior: Prior) -> FDivergence:
        """Return the rule on this prior."""
        return FDivergence(self, prior)


class LogRatio(Protocol):
    """Gives log p_t(x_t) / q_t(x_t) of pictures."""

    def __call__(self, x_t: Tensor, t: Tensor, cameras: Cameras) -> Tensor:
        """Map x_t (B, C, h, w) at t (B,) of B cameras to (B,)."""
        ...


class FDivergence(Guidance):
    """Gradient w(t) h(r) / mean h(r) (eps_S - eps_phi), while phi and the discriminator learn.

    score, log_ratio: phi and the logit of D; None for networks that the rule trains.
    """

    def __init__(
        self,
        config: FDivergenceConfig,
        prior: Prior,
        score: TrainableScore | None = None,
        log_ratio: LogRatio | None = None,
    ) -> None:
        self.config = config
        self.prior = prior
        self.phi = TrainedScore(config.variational, prior, score)
        self.cache = ViewCache(config.cache)
        self.step = 0
        self.network: Discriminator | None = None
        self.learner: Learner | None = None
        if log_ratio is None:
            log_ratio = self.network = Discriminator(channels_of(prior), config.discriminator.width).to(prior.device)
            self.learner = Learner(list(self.network.parameters()), config.discriminator)
        self.log_ratio = log_ratio

    def __call__(self, x: Tensor, views: Views, progress: float, generator: torch.Generator) -> Guided:
        """Do one step. x: (B, C, h, w) detached, in the prior's space. progress: in [0, 1]."""
        config, prior = self.config, self.prior
        t = timesteps(config.schedule, prior, x, progress, generator)  # (B,)
        x_t = add_noise(prior, x, draw_noise(x, generator), t)
        prediction = guided_prediction(prior, x_t, t, views, config.scale)
        with torch.no_grad():
            ratio = self.log_ratio(x_t, t, views.cameras).exp().clamp(*RATIO)  # (B,)
        h = WEIGHTS[config.divergence](ratio)
        h = h / h.mean() if progress >= config.start else torch.ones_like(h)
        direction = expand(h, x) * (prediction.eps - self.phi.predict(x_t, t, views).eps)
        gradient = expand(weight(prior, t, config.weighting), x) * direction
        metrics = {
            "t": t.mean(),
            "gradient_rms": gradient.square().mean().sqrt(),
            "ratio": ratio.mean(),
        }

        def learn() -> dict[str, Number]:
            losses = {
                "variational_loss": self.phi.train(x, views, generator),
                "discriminator_loss": self._discriminate(x, views, generator),
            }
            self.step += 1
            return losses

        return Guided(t=t, gradient=gradient, x0=prediction.x0, metrics=metrics, learn=learn)

    def _discriminate(self, x: Tensor, views: Views, generator: torch.Generator) -> Number:
        """Update D on renders and on pictures of the prior, which are sampled at times. Returns the last loss."""
        config = self.config
        loss: Number = 0.0
        if self.learner is None:
            return loss
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
                loss = self.learner.step((functional.softplus(-logits[0]) + functional.softplus(logits[1])).mean())
        return loss

    def state_dict(self) -> dict[str, Tensor]:
        """Return both networks with their optimisers, and the prior's pictures."""
        state = prefixed("phi", self.phi.state_dict()) | prefixed("cache", self.cache.state_dict())
        if self.network is not None and self.learner is not None:
            weights = {name: value.clone() for name, value in self.network.state_dict().items()}
            state |= prefixed("discriminator", weights) | prefixed("optimizer", self.learner.state_dict())
        return state | {"step": torch.tensor(self.step)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self.phi.load_state_dict(part(state, "phi"))
        self.cache.load_state_dict(part(state, "cache"), self.prior.device)
        if self.network is not None and self.learner is not None:
            self.network.load_state_dict(part(state, "discriminator"))
            self.learner.load_state_dict(part(state, "optimizer"))
        self.step = int(state["step"])


class Discriminator(nn.Module):
    """The logit of D: the mean of a convolutional network's output over a picture, 0 at first."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.places = ViewConv(channels, width, 1, torch.Generator().manual_seed(0))

    def forward(self, x_t: Tensor, t: Tensor, cameras: Cameras) -> Tensor:
        """See `LogRatio`."""
        return self.places(x_t, t, cameras).mean(dim=(1, 2, 3))
