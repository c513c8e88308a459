"""A new guidance rule, and a run with it.

Antithetic SDS: each step noises the render twice, with eps and with -eps, and averages the two gradients

    G = w(t) / 2 [(eps_S(x + eps) - eps) + (eps_S(x - eps) + eps)]

so that the contribution of the noise alone cancels to first order: less variance, for two calls of the prior.

A rule is a settings class and a class with `__call__`. To give it a name for `guidance=...`, put the file into
`sds3d/guidance/`, or register it from your own package; see Extending.
"""

import os
from typing import Literal

import torch
from torch import Tensor

from sds3d.formats.pictures import contact_sheet
from sds3d.guidance.base import Guidance, Guided, RuleConfig, Views, draw_noise, guided_prediction, weight
from sds3d.guidance.schedules import AnnealedSchedule, Schedule, timesteps
from sds3d.priors.base import Prior, add_noise, expand
from sds3d.run.config import make_config
from sds3d.run.drive import optimize_work, start_work

STEPS = int(os.environ.get("SDS3D_STEPS", "200"))


class AntitheticConfig(RuleConfig):
    """Settings of `Antithetic`."""

    name: Literal["antithetic"] = "antithetic"
    scale: float = 5.0
    """Classifier-free guidance scale S in eps_null + S (eps_cond - eps_null)."""
    schedule: Schedule = AnnealedSchedule(min=(0.6, 0.05), max=(0.98, 0.45), until=0.85)
    """Timesteps."""

    def make(self, prior: Prior) -> "Antithetic":
        """Return the rule on this prior."""
        return Antithetic(self, prior)


class Antithetic(Guidance):
    """The mean of two gradients of SDS, with opposite noise."""

    def __init__(self, config: AntitheticConfig, prior: Prior) -> None:
        self.config = config
        self.prior = prior

    def __call__(self, x: Tensor, views: Views, progress: float, generator: torch.Generator) -> Guided:
        """Do one step. x: (B, C, h, w) detached, in the prior's space. progress: in [0, 1]."""
        prior = self.prior
        t = timesteps(self.config.schedule, prior, x, progress, generator)  # (B,)
        eps = draw_noise(x, generator)
        plus = guided_prediction(prior, add_noise(prior, x, eps, t), t, views, self.config.scale)
        minus = guided_prediction(prior, add_noise(prior, x, -eps, t), t, views, self.config.scale)
        gradient = expand(weight(prior, t, "sds"), x) * 0.5 * (plus.eps + minus.eps)  # the two eps cancel
        return Guided(t=t, gradient=gradient, x0=plus.x0, metrics={"t": t.mean().item()})


if __name__ == "__main__":
    config = make_config("a red mug", "sjc", settings={"steps": STEPS})
    prior = config.prior.load()
    work = start_work(config, [prior])
    work.teachers[0].guidance = AntitheticConfig().make(prior)
    for step in optimize_work(work):
        if step.step % 20 == 0 or step.step == step.total:
            print(f"step {step.step} of {step.total}: t {step.guided.metrics['t']:.2f}, gradient {step.grad_norm:.3g}")
    rgb = step.rendering.rgb.clamp(0, 1).numpy()  # (4, H, W, 3), the last step's views
    contact_sheet([("antithetic SDS", rgb)], size=192).save("a-new-rule.png")
