"""Coupled score distillation (2025, arXiv:2505.04262).

The rule makes the views of an object likely under the prior in two ways: each view alone, by the words of the view, and
all views together, by their cameras. From KL(q || p_2D p_MV^lambda) follows, for each view v and with one timestep for
all views,

    G_v = w(t) [image (eps_2D - eps_phi) + coupling (eps_MV - eps_phi)]_v

where phi learns the joint score of the renders. The prior is queried twice: as a plain 2D model without cameras, and as
a multi-view model. A prior without cameras gives the same prediction twice, except for the text, and the rule is VSD
with the weight image + coupling.

Reconstructed from the paper's abstract, for a single prior that knows both. The authors' code has another form with two
models: VSD of the 2D model at one view and, with its own timestep and noise, lambda times SDS of the multi-view one at
this view and three others. Only the first term subtracts phi. That form is two teachers, SDS and VSD with `views: 1`.
A test compares them with the released losses, and the preset `coupled-mvdream` has the released values.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from sds3d.guidance.base import (
    Guided,
    GuidedPrediction,
    RuleConfig,
    Views,
    Weighting,
    combine,
    draw_noise,
    guided_prediction,
    predict_each,
    weight,
)
from sds3d.guidance.schedules import Schedule, UniformSchedule, timesteps
from sds3d.guidance.variational import VariationalConfig, VariationalRule
from sds3d.priors.base import Prior, TrainableScore, add_noise, expand


class CoupledConfig(RuleConfig):
    """Settings of `Coupled`; scale and timesteps are those of VSD."""

    name: Literal["coupled"] = "coupled"
    scale: float = Field(default=7.5, ge=0.0)
    """Classifier-free guidance scale S of both predictions in eps_null + S (eps_cond - eps_null)."""
    image: float = Field(default=1.0, ge=0.0)
    """Weight of each view alone, without cameras and with the words of the view."""
    coupling: float = Field(default=1.0, ge=0.0)
    """Weight lambda of the views together, with their cameras; the paper shows 0.1 to 2."""
    weighting: Weighting = "sds"
    """w(t) of the gradient."""
    schedule: Schedule = UniformSchedule()
    """Timesteps."""
    variational: VariationalConfig = VariationalConfig()
    """The network phi."""

    def make(self, prior: Prior) -> Coupled:
        """Return the rule on this prior."""
        return Coupled(self, prior)


class Coupled(VariationalRule):
    """Gradient w(t) [image (eps_2D - eps_phi) + coupling (eps_MV - eps_phi)].

    score: the network phi; None for a trainable copy of the prior.
    """

    def __init__(self, config: CoupledConfig, prior: Prior, score: TrainableScore | None = None) -> None:
        super().__init__(config.variational, prior, score)
        self.config = config

    def __call__(self, x: Tensor, views: Views, progress: float, generator: torch.Generator) -> Guided:
        """Do one step. x: (B, C, h, w) detached, in the prior's space. progress: in [0, 1]."""
        config, prior = self.config, self.prior
        t = timesteps(config.schedule, prior, x, progress, generator)  # (B,)
        x_t = add_noise(prior, x, draw_noise(x, generator), t)
        together = guided_prediction(prior, x_t, t, views, config.scale)
        alone = self._view_by_view(x_t, t, views)
        phi = self.phi.predict(x_t, t, views).eps  # (B, C, h, w)
        direction = config.image * (alone.eps - phi) + config.coupling * (together.eps - phi)
        gradient = expand(weight(prior, t, config.weighting), x) * direction
        metrics = {
            "t": t.mean(),
            "gradient_rms": gradient.square().mean().sqrt(),
        }
        learn = self.phi.learning(x, views, generator)
        return Guided(t=t, gradient=gradient, x0=together.x0, metrics=metrics, learn=learn)

    @torch.no_grad()
    def _view_by_view(self, x_t: Tensor, t: Tensor, views: Views) -> GuidedPrediction:
        """Return the guided prediction of the prior as a plain 2D model, which knows the view only from the text."""
        texts = [views.told(views.prompt.of_views(views.cameras)), views.negative]
        asked, null = predict_each(self.prior, x_t, t, texts, cameras=None)
        return combine(asked, null, self.config.scale)
