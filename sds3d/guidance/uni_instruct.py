"""Uni-Instruct (Wang et al. 2025, arXiv:2505.20755): an f-divergence over all levels of noise.

The divergence of the prior's pictures from the renders is the integral over t of the mean of h(r) |s_p - s_q|^2, where
s_p and s_q are their scores at t, r the ratio of their densities, and h(r) = r^2 f''(r) as in f-distill
(`fdivergence`). With the clean estimates f of the prior and f_phi of a network that learns from the renders, the loss
of a sample is

    [ h d . (f_phi - x) + (h - h1) |d|^2 / 2 + (h1 - h2) (alpha / sigma)^2 (|d|^2 / 2) d . x ] / omega

with d = f - f_phi, h1 = r dh/dr, h2 = r dh1/dr and omega = mean |x - f|. The first two parts are differentiated through
both networks. In the third, which is the gradient of VSD with another size, d is held fixed, as h, h1, h2 and omega are
everywhere. The first part alone is SiD with a = 1, and so is the divergence of forward KL, weighted by r. Reverse KL is
SiD with a = 1/2. A discriminator gives r.

Compared with the released code, which has the same three weights, and has |d| in place of |d|^2 in the third part.
Derived here, as the mean over noise of the exact gradient of a render that moves without changing its shape; there is a
fourth part, 2 h1 (d . (f_phi - x)) d, whose mean is then 0, and which that code leaves out, too. Ours: the
discriminator is a network of its own, weights are divided by the mean of h over the batch, and the discriminator's own
loss is not added to that of the renders.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from sds3d.guidance.base import Guided, Views, draw_noise
from sds3d.guidance.discriminator import AdversarialConfig, AdversarialRule, LogRatio
from sds3d.guidance.fdivergence import WEIGHTS, Divergence
from sds3d.guidance.schedules import Schedule, UniformSchedule, timesteps
from sds3d.guidance.sid import clean_estimates
from sds3d.guidance.variational import VariationalConfig
from sds3d.priors.base import Prior, TrainableScore, add_noise, expand

SLOPES: dict[Divergence, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "reverse_kl": lambda r: (torch.zeros_like(r), torch.zeros_like(r)),
    "forward_kl": lambda r: (r, r),
    "jeffreys": lambda r: (r, r),
    "jensen_shannon": lambda r: (r / (r + 1) ** 2, r * (1 - r) / (r + 1) ** 3),
    "hellinger": lambda r: (r.sqrt() / 8, r.sqrt() / 16),
    "chi_square": lambda r: (4 * r**2, 8 * r**2),
}
"""h1 and h2 of each divergence: the first and second derivative of h by log r."""


class UniInstructConfig(AdversarialConfig):
    """Settings of `UniInstruct`."""

    name: Literal["uni_instruct"] = "uni_instruct"
    divergence: Divergence = "forward_kl"
    """f: reverse_kl, forward_kl (the paper's best), jeffreys, jensen_shannon, hellinger (squared) or chi_square."""
    start: float = Field(default=0.1, ge=0.0, le=1.0)
    """Share of the run, at its start, in which the rule is SiD with a = 1 while the discriminator learns."""
    schedule: Schedule = UniformSchedule()
    """Timesteps."""
    variational: VariationalConfig = VariationalConfig()
    """The network phi."""

    def make(self, prior: Prior) -> UniInstruct:
        """Return the rule on this prior."""
        return UniInstruct(self, prior)


class UniInstruct(AdversarialRule):
    """Gradient of the loss above with respect to x, while phi and the discriminator learn.

    score, log_ratio: phi and the logit of D; None for networks that the rule trains.
    """

    def __init__(
        self,
        config: UniInstructConfig,
        prior: Prior,
        score: TrainableScore | None = None,
        log_ratio: LogRatio | None = None,
    ) -> None:
        super().__init__(config, config.variational, prior, score, log_ratio)
        self.config = config

    def __call__(self, x: Tensor, views: Views, progress: float, generator: torch.Generator) -> Guided:
        """Do one step. x: (B, C, h, w) detached, in the prior's space. progress: in [0, 1]."""
        config, prior = self.config, self.prior
        t = timesteps(config.schedule, prior, x, progress, generator)  # (B,)
        eps = draw_noise(x, generator)
        ratio = self.density.ratio(add_noise(prior, x, eps, t), t, views.cameras)  # (B,)
        signal = (prior.alpha(t) / prior.sigma(t)).square()  # (B,)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            real, fake = clean_estimates(prior, self.phi, add_noise(prior, x, eps, t), t, views, config.scale)
            if progress >= config.start:
                losses = expanded_loss(config.divergence, x, real, fake, ratio, signal)  # (B,)
                losses = losses / WEIGHTS[config.divergence](ratio).mean()
            else:
                losses = expanded_loss("forward_kl", x, real, fake, torch.ones_like(ratio), signal)
            omega = (x - real).detach().abs().mean(dim=(1, 2, 3)).clamp_min(1e-5)  # (B,)
            (gradient,) = torch.autograd.grad((losses / omega).sum(), x)
        x = x.detach()
        metrics = {
            "t": t.mean(),
            "gradient_rms": gradient.square().mean().sqrt(),
            "ratio": ratio.mean(),
        }
        learn = self.learning(x, views, generator)
        return Guided(t=t, gradient=gradient, x0=real.detach(), metrics=metrics, learn=learn)


def expanded_loss(
    divergence: Divergence, x: Tensor, real: Tensor, fake: Tensor, ratio: Tensor, signal: Tensor
) -> Tensor:
    """Return the loss of each sample without omega (B,), whose gradient with respect to x is the rule's.

    x: (B, C, h, w). real, fake: f and f_phi, which depend on x. ratio: r (B,). signal: (alpha / sigma)^2 (B,).
    """
    h = WEIGHTS[divergence](ratio)
    first, second = SLOPES[divergence](ratio)  # (B,) both
    apart = real - fake  # (B, C, h, w), d
    length = apart.square().sum(dim=(1, 2, 3)) / 2  # (B,)
    scores = (apart * (fake - x)).sum(dim=(1, 2, 3))
    fixed = expand(length * signal, apart).detach() * apart.detach()
    return h * scores + (h - first) * length + (first - second) * (fixed * x).sum(dim=(1, 2, 3))
