"""Uniform score distillation (USD in RecDreamer, Zheng et al. 2025, arXiv:2502.12640).

A prior draws some poses, mostly the front, more often than others, and so every side of the scene becomes a front. USD
makes all poses c equally likely, by the density p(x) f(x) instead of p(x), where f = mean_c p(c | x) / p(c). The
gradient of -log f is added to that of VSD:

    G = sigma^2 [eps_S - eps_phi + m sum_c (w_c - p_c) eps_c],    w_c ~ p_c / mean p_c,    sum_c w_c = 1

Here p_c = p(c | x), and eps_c is the prior's prediction under the prompt with the words of a view: front, side, back.
The mean of p_c is a moving average over steps at about the same t. m is at most 1, and so small that the second part is
at most as long as VSD's.

Reconstructed: density, weights, average and limit were compared with the released code, but not its classifier. That
compares features of DINOv2 with sorted samples of the prior, and its gradient is taken through the prior. Here the
prior itself tells poses apart, p_c ~ exp(-|eps_c - eps|^2 / (2 T)) with the injected noise eps. The gradient of log p_c
is then a difference of scores, -eps_c / sigma, and needs no backward pass. Its effect on second faces is not measured;
with the embedded prior as a plain 2D model, one duck still had several.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from sds3d.guidance.base import Guided, Number, RuleConfig, Views, draw_noise, predict_texts
from sds3d.guidance.schedules import PiecewiseSchedule, Schedule, timesteps
from sds3d.guidance.variational import VariationalConfig, VariationalRule
from sds3d.priors.base import Prior, TrainableScore, add_noise, expand
from sds3d.prompts.prompt import VIEWS
from sds3d.states import part, prefixed

POSES = [VIEWS.index(view) for view in ("front", "side", "back")]
INTERVALS = 10
"""Intervals of t with an average of their own."""
Classifier = Callable[[Tensor, Tensor], Tensor]
"""Maps eps_c (B, poses, C, h, w) and the injected noise (B, C, h, w) to p_c (B, poses)."""


class USDConfig(RuleConfig):
    """Settings of `USD`."""

    name: Literal["usd"] = "usd"
    scale: float = Field(default=7.5, ge=0.0)
    """Classifier-free guidance scale S of the prior in eps_null + S (eps_cond - eps_null); phi has none."""
    temperature: float = Field(default=1.0, gt=0.0)
    """T: higher values make poses harder to tell apart. 1 suits a prior that has one picture of each pose."""
    decay: float = Field(default=0.95, ge=0.0, lt=1.0)
    """Share of the average of p_c that each step with its t keeps."""
    schedule: Schedule = PiecewiseSchedule()
    """Timesteps."""
    variational: VariationalConfig = VariationalConfig()
    """The network phi."""

    def make(self, prior: Prior) -> USD:
        """Return the rule on this prior."""
        return USD(self, prior)


class USD(VariationalRule):
    """Gradient sigma^2 [eps_S - eps_phi + m sum_c (w_c - p_c) eps_c].

    score: the network phi; None for a trainable copy of the prior. classifier: tells poses apart; None: the prior.
    """

    def __init__(
        self,
        config: USDConfig,
        prior: Prior,
        score: TrainableScore | None = None,
        classifier: Classifier | None = None,
    ) -> None:
        super().__init__(config.variational, prior, score)
        self.config = config
        self.classifier = classifier or self._told_apart
        self.average = torch.full((INTERVALS, len(POSES)), 1 / len(POSES), device=prior.device)

    def __call__(self, x: Tensor, views: Views, progress: float, generator: torch.Generator) -> Guided:
        """Do one step. x: (B, C, h, w) detached, in the prior's space. progress: in [0, 1]."""
        config, prior = self.config, self.prior
        t = timesteps(config.schedule, prior, x, progress, generator)  # (B,)
        eps = draw_noise(x, generator)
        x_t = add_noise(prior, x, eps, t)
        poses = [views.told(views.prompt.views[row : row + 1]) for row in POSES]
        with torch.no_grad():
            texts = predict_texts(prior, x_t, t, views, poses)
        of_poses = torch.stack([prediction.eps for prediction in texts.others], dim=1)  # (B, poses, C, h, w)
        prediction = texts.guided(config.scale)
        interval = (t * INTERVALS).long().clamp(max=INTERVALS - 1)  # (B,)
        shown = self.classifier(of_poses, eps)  # (B, poses), p_c
        wanted = shown / self.average[interval].to(shown)
        wanted = wanted / wanted.sum(dim=1, keepdim=True)
        sigma2 = expand(prior.sigma(t), x).square()
        matching = sigma2 * (prediction.eps - self.phi.predict(x_t, t, views).eps)  # (B, C, h, w)
        rectifying = sigma2 * ((wanted - shown)[:, :, None, None, None] * of_poses).sum(dim=1)
        most = matching.norm() / rectifying.norm().clamp_min(torch.finfo(x.dtype).tiny)
        gradient = matching + rectifying * most.clamp(max=1.0)
        metrics: dict[str, Number] = {"t": t.mean(), "gradient_rms": gradient.square().mean().sqrt()}
        metrics |= {VIEWS[row]: share for row, share in zip(POSES, shown.mean(dim=0), strict=True)}

        def learn() -> dict[str, Number]:
            self._follow(shown, interval)
            return {"variational_loss": self.phi.train(x, views, generator)}

        return Guided(t=t, gradient=gradient, x0=prediction.x0, metrics=metrics, learn=learn)

    def _told_apart(self, of_poses: Tensor, eps: Tensor) -> Tensor:
        """See `Classifier`."""
        errors = (of_poses - eps[:, None]).square().sum(dim=(2, 3, 4))  # (B, poses)
        return torch.softmax(-errors / (2 * self.config.temperature), dim=1)

    def _follow(self, shown: Tensor, interval: Tensor) -> None:
        """Move the averages of the intervals (B,) towards the mean of their p_c (B, poses)."""
        rows = torch.nn.functional.one_hot(interval, INTERVALS).to(self.average).T  # (intervals, B)
        count = rows.sum(dim=1, keepdim=True)  # (intervals, 1)
        mean = rows @ shown.to(self.average) / count.clamp_min(1.0)
        followed = self.config.decay * self.average + (1 - self.config.decay) * mean
        self.average = torch.where(count > 0, followed, self.average)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the network phi, its optimiser, and the averages."""
        return prefixed("phi", super().state_dict()) | {"average": self.average.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(part(state, "phi"))
        self.average = state["average"].to(self.average)
