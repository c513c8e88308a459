"""Improved distribution matching distillation (DMD2, Yin et al. 2024, arXiv:2405.14867, sec. 4.3).

DMD (`dmd`) follows the difference of two scores, and inherits the errors of both. DMD2 adds a GAN's loss: a
discriminator D between pictures of the prior and renders, both noised, which the renders try to deceive:

    G = DMD's gradient + w C h w d/dx softplus(-D(x_t'))

D is a logit, at a timestep t' and noise of its own. C h w is the number of values of x: in the paper DMD's loss is a
mean over them, in sds3d a sum.

Compared with the released code. Ours: there D is a head on the features of phi and learns from photographs. Here it is
a small network, and learns from pictures sampled from the prior.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from sds3d.guidance.base import Guided, Views, draw_noise, guided_prediction
from sds3d.guidance.discriminator import AdversarialConfig, AdversarialRule, LogRatio
from sds3d.guidance.dmd import FakeScoreConfig, normalised
from sds3d.guidance.schedules import Schedule, UniformSchedule, draw, timesteps
from sds3d.priors.base import Prior, TrainableScore, add_noise


class DMD2Config(AdversarialConfig):
    """Settings of `DMD2`; scale and weight are the paper's, the scale for Stable Diffusion 1.5."""

    name: Literal["dmd2"] = "dmd2"
    scale: float = Field(default=1.75, ge=0.0)
    """Classifier-free guidance scale S in eps_null + S (eps_cond - eps_null), of the gradient and of the samples."""
    gan_weight: float = Field(default=5e-3, ge=0.0)
    """w: weight of the GAN's loss; 0 is DMD."""
    schedule: Schedule = UniformSchedule()
    """Timesteps of DMD's gradient."""
    variational: FakeScoreConfig = FakeScoreConfig()
    """The network phi."""

    def make(self, prior: Prior) -> DMD2:
        """Return the rule on this prior."""
        return DMD2(self, prior)


class DMD2(AdversarialRule):
    """DMD's gradient and that of softplus(-D), while phi and D learn.

    score, log_ratio: phi and D; None for networks that the rule trains.
    """

    def __init__(
        self,
        config: DMD2Config,
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
        x_t = add_noise(prior, x, draw_noise(x, generator), t)
        real = guided_prediction(prior, x_t, t, views, config.scale)
        matching = normalised(self.phi.predict(x_t, t, views).x0 - real.x0, x, real)  # (B, C, h, w)
        adversarial, loss = self._adversarial(x, views, generator)
        gradient = matching + config.gan_weight * x[0].numel() * adversarial
        metrics = {
            "t": t.mean(),
            "gradient_rms": gradient.square().mean().sqrt(),
            "gan_loss": loss,
        }
        learn = self.learning(x, views, generator)
        return Guided(t=t, gradient=gradient, x0=real.x0, metrics=metrics, learn=learn)

    def _adversarial(self, x: Tensor, views: Views, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the gradient of each sample's softplus(-D) with respect to x (B, C, h, w), and the mean loss."""
        t = draw((0.02, 0.98), len(x), 1, generator).to(x.device, non_blocking=True)  # (B,)
        eps = draw_noise(x, generator)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            losses = functional.softplus(-self.density.log_ratio(add_noise(self.prior, x, eps, t), t, views.cameras))
            (gradient,) = torch.autograd.grad(losses.sum(), x)
        return gradient, losses.detach().mean()
