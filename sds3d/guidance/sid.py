"""Score identity distillation (SiD, Zhou et al. 2024, arXiv:2404.04057, eq. 23).

With the clean estimates f of the prior and f_phi of a network that learns from the renders, the loss of a sample is

    (f - f_phi) . [(f - x) - a (f - f_phi)] / omega,        omega = mean |x - f|, held fixed

Its gradient is taken through x_t into both networks, whose Jacobians other rules drop. A step costs their backward
passes and memory. With a = 1 the loss is (f - f_phi) . (f_phi - x) / omega. Guidance is that of SiD-LSG
(arXiv:2406.01561).

Ours: the papers train a generator, here the rule optimises renders.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from sds3d.guidance.base import Guided, RuleConfig, Views, combine, draw_noise, predict_each, predict_texts
from sds3d.guidance.schedules import Schedule, UniformSchedule, timesteps
from sds3d.guidance.variational import TrainedScore, VariationalConfig, VariationalRule
from sds3d.priors.base import Prior, TrainableScore, add_noise


class SiDConfig(RuleConfig):
    """Settings of `SiD`; the scale is SiD-LSG's."""

    name: Literal["sid"] = "sid"
    scale: float = Field(default=2.0, ge=0.0)
    """Classifier-free guidance scale S of the prior in eps_null + S (eps_cond - eps_null)."""
    fake_scale: float = Field(default=1.0, ge=0.0)
    """Guidance scale of phi. SiD-LSG takes that of the prior and also trains phi with it, which is left out here. Any
    scale but 1 needs variational.text_dropout."""
    alpha: float = 1.0
    """Weight a of the squared difference; 0 is the plain loss, 1 the one of the paper's examples."""
    schedule: Schedule = UniformSchedule()
    """Timesteps."""
    variational: VariationalConfig = VariationalConfig()
    """The network phi."""

    @model_validator(mode="after")
    def _phi_learns_what_it_is_asked(self) -> Self:
        if self.fake_scale != 1 and self.variational.updates and not self.variational.text_dropout:
            raise ValueError("a fake_scale other than 1 queries phi without the text: give variational.text_dropout")
        return self

    def make(self, prior: Prior) -> SiD:
        """Return the rule on this prior."""
        return SiD(self, prior)


class SiD(VariationalRule):
    """Gradient of (f - f_phi) . [(f - x) - a (f - f_phi)] / omega with respect to x, through both networks.

    score: the network phi; None for a trainable copy of the prior.
    """

    def __init__(self, config: SiDConfig, prior: Prior, score: TrainableScore | None = None) -> None:
        super().__init__(config.variational, prior, score)
        self.config = config

    def __call__(self, x: Tensor, views: Views, progress: float, generator: torch.Generator) -> Guided:
        """Do one step. x: (B, C, h, w) detached, in the prior's space. progress: in [0, 1]."""
        config, prior = self.config, self.prior
        t = timesteps(config.schedule, prior, x, progress, generator)  # (B,)
        eps = draw_noise(x, generator)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            x_t = add_noise(prior, x, eps, t)
            real, fake = clean_estimates(prior, self.phi, x_t, t, views, config.scale, config.fake_scale)
            omega = (x - real).detach().abs().mean(dim=(1, 2, 3), keepdim=True).clamp_min(1e-5)  # (B, 1, 1, 1)
            loss = ((real - fake) * (real - x - config.alpha * (real - fake)) / omega).sum()
            (gradient,) = torch.autograd.grad(loss, x)
        metrics = {
            "t": t.mean(),
            "gradient_rms": gradient.square().mean().sqrt(),
            "loss": loss.detach() / x.numel(),
        }
        learn = self.phi.learning(x.detach(), views, generator)
        return Guided(t=t, gradient=gradient, x0=real.detach(), metrics=metrics, learn=learn)


def clean_estimates(
    prior: Prior, phi: TrainedScore, x_t: Tensor, t: Tensor, views: Views, scale: float, fake_scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return the clean estimates (B, C, h, w) of the prior and of phi, each with its guidance.

    They are differentiable in x_t (B, C, h, w), if the caller enables gradients.
    """
    real = predict_texts(prior, x_t, t, views).guided(scale).x0
    texts = [views.told(views.prompt.plain)]
    if fake_scale == 1:
        return real, predict_each(phi.score, x_t, t, texts, views.cameras)[0].x0
    texts.append(views.told(views.prompt.null))
    asked, null = predict_each(phi.score, x_t, t, texts, views.cameras)
    return real, combine(asked, null, fake_scale).x0
