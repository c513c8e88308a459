"""Bootstrapped score distillation (DreamCraft3D, Sun et al. 2023, arXiv:2310.16818, sec. 3.3).

The prior refines renders: it noises and denoises them, which improves the texture and keeps object and view. A copy of
the prior is tuned on the refined renders (DreamBooth, arXiv:2208.12242) and guides the scene by VSD. Then new renders
are refined, and so on:

    G = w(t) (eps_S(x_t; y, t) of the tuned copy - eps_phi(x_t; c, t))

Ours: the paper stops the scene while it tunes, for 200 of each 1000 steps, and refines renders at every 25th of them.
Here the step that refines renders also does the updates that belong to them, so every step guides the scene. The
paper's phi is a full copy without a camera: rank 0 and camera_dropout 1.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from sds3d.guidance.base import (
    Guidance,
    Guided,
    GuidedPrediction,
    Number,
    RuleConfig,
    Views,
    Weighting,
    draw_noise,
    predict_texts,
    weight,
)
from sds3d.guidance.cache import ViewCache
from sds3d.guidance.sampling import Conditions, sample, sampling_times
from sds3d.guidance.schedules import AnnealedSchedule, Schedule, timesteps
from sds3d.guidance.variational import TrainedScore, VariationalConfig
from sds3d.priors.base import Prior, TrainableScore, add_noise, expand
from sds3d.states import part, prefixed


class FullCopyConfig(VariationalConfig):
    """A full copy of the prior."""

    rank: int = Field(default=0, ge=0, le=1024)
    """Rank of the low-rank updates (LoRA); 0 trains all weights."""
    lr: float = Field(default=1e-5, gt=0)
    """Learning rate."""


class TuningConfig(FullCopyConfig):
    """The copy of the prior that is tuned on refined renders."""

    updates: int = Field(default=25, ge=0, le=1000)
    """Updates after each refinement. 0: the copy stays equal to the prior, and nothing is refined."""
    camera_dropout: float = Field(default=0.0, ge=0, le=1)
    """Probability that a batch is learned without its cameras."""
    text_dropout: float = Field(default=0.1, ge=0, le=1)
    """Probability that a batch is learned with the empty text."""


class BootstrappedConfig(RuleConfig):
    """Settings of `Bootstrapped`; the defaults are the paper's, with its step counts as shares of the whole run."""

    name: Literal["bootstrapped"] = "bootstrapped"
    scale: float = Field(default=2.0, ge=0.0)
    """Classifier-free guidance scale S of the tuned copy in eps_null + S (eps_cond - eps_null)."""
    refine_every: int = Field(default=100, ge=1)
    """Steps between two refinements of the renders. `tuning.updates` updates of the tuned copy follow each."""
    refine_steps: int = Field(default=25, ge=1, le=1000)
    """DDIM steps of a refinement, which starts at the noisiest timestep of the schedule."""
    refine_scale: float = Field(default=7.5, ge=0.0)
    """Guidance scale of the prior in a refinement."""
    cache: int = Field(default=10, ge=1, le=1000)
    """Batches of refined renders that are kept."""
    weighting: Weighting = "sds"
    """w(t) of the gradient."""
    schedule: Schedule = AnnealedSchedule(min=(0.05, 0.05), max=(0.5, 0.2))
    """Timesteps."""
    tuning: TuningConfig = TuningConfig()
    """The copy of the prior that is tuned on refined renders."""
    variational: FullCopyConfig = FullCopyConfig()
    """The network phi, which learns from the renders before refinement."""

    def make(self, prior: Prior) -> Bootstrapped:
        """Return the rule on this prior."""
        return Bootstrapped(self, prior)


class Bootstrapped(Guidance):
    """Gradient w(t) (eps_S(x_t; y, t) of the tuned copy - eps_phi(x_t; c, t)).

    score: the network phi; None for a trainable copy of the prior.
    """

    def __init__(self, config: BootstrappedConfig, prior: Prior, score: TrainableScore | None = None) -> None:
        self.config = config
        self.prior = prior
        self.phi = TrainedScore(config.variational, prior, score)
        self.tuned = TrainedScore(config.tuning, prior)
        self.cache = ViewCache(config.cache)
        self.step = 0

    def __call__(self, x: Tensor, views: Views, progress: float, generator: torch.Generator) -> Guided:
        """Do one step. x: (B, C, h, w) detached, in the prior's space. progress: in [0, 1]."""
        config, prior = self.config, self.prior
        t = timesteps(config.schedule, prior, x, progress, generator)  # (B,)
        x_t = add_noise(prior, x, draw_noise(x, generator), t)
        prediction = self._guided(x_t, t, views)
        direction = prediction.eps - self.phi.predict(x_t, t, views).eps  # (B, C, h, w)
        gradient = expand(weight(prior, t, config.weighting), x) * direction
        metrics = {
            "t": t.mean(),
            "gradient_rms": gradient.square().mean().sqrt(),
        }

        def learn() -> dict[str, Number]:
            losses = {**self.phi.learning(x, views, generator)()}
            if config.tuning.updates and self.step % config.refine_every == 0:
                losses["tuning_loss"] = self._tune(x, views, progress, generator)
            self.step += 1
            return losses

        return Guided(t=t, gradient=gradient, x0=prediction.x0, metrics=metrics, learn=learn)

    @torch.no_grad()
    def _guided(self, x_t: Tensor, t: Tensor, views: Views) -> GuidedPrediction:
        """Return the prediction of the tuned copy under classifier-free guidance."""
        texts = predict_texts(self.tuned.score, x_t, t, views)
        return texts.guided(self.config.scale)

    def _tune(self, x: Tensor, views: Views, progress: float, generator: torch.Generator) -> Number:
        """Refine the renders x (B, C, h, w), and tune the copy on these and earlier ones. Returns the last loss."""
        config = self.config
        loss: Number = 0.0
        self.cache.add(self._refined(x, views, progress, generator), views.cameras, views.structure)
        for _ in range(config.tuning.updates):
            pictures, cameras, structure = self.cache.draw(generator)
            seen = replace(views, cameras=cameras, structure=structure)
            loss = self.tuned.update(pictures, cameras, seen.positive, seen.told(views.prompt.null), generator)
        return loss

    def _refined(self, x: Tensor, views: Views, progress: float, generator: torch.Generator) -> Tensor:
        """Noise the renders to the schedule's noisiest timestep and denoise them by the original prior (SDEdit)."""
        config, prior = self.config, self.prior
        start = config.schedule.window(progress)[1]
        x_t = add_noise(prior, x, draw_noise(x, generator), torch.full((len(x),), start, device=x.device))
        conditions = Conditions(views.cameras, views.positive, views.negative, config.refine_scale)
        return sample(prior, x_t, conditions, start * sampling_times(prior, config.refine_steps))

    def state_dict(self) -> dict[str, Tensor]:
        """Return both networks with their optimisers, the refined renders, and the number of steps."""
        parts = {"phi": self.phi, "tuned": self.tuned, "cache": self.cache}
        state = {key: value for name, one in parts.items() for key, value in prefixed(name, one.state_dict()).items()}
        return state | {"step": torch.tensor(self.step)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self.phi.load_state_dict(part(state, "phi"))
        self.tuned.load_state_dict(part(state, "tuned"))
        self.cache.load_state_dict(part(state, "cache"), self.prior.device)
        self.step = int(state["step"])
