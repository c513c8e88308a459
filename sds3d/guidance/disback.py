"""Distribution backtracking (DisBack, Zhang et al. 2024, arXiv:2408.15991).

At the start the renders are so unlike the prior's pictures that its score says little about them. DisBack first records
a path: it tunes a copy of the prior on the initial renders, and keeps snapshots of it. Then these snapshots teach the
scene, from the last, which knows such renders, to the first, and after them the prior itself. The gradient is that of
DMD (`dmd`) with the teacher T of the moment:

    G = (x0_phi - x0_T) / mean |x - x0_T|

Compared with the released code. Ours: the paper distils a generator and records the path before. Here the first steps
of a run record it, one snapshot each, from their renders, while the prior itself still teaches. The copy learns by
low-rank updates, and sometimes with the empty text, which it is asked with in guidance. The paper changes the teacher
every so many steps, here each has the same share of the run until `until`.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from sds3d.guidance.base import Guided, GuidedPrediction, Number, RuleConfig, Views, draw_noise, predict_texts
from sds3d.guidance.dmd import FakeScoreConfig, normalised
from sds3d.guidance.schedules import Schedule, UniformSchedule, timesteps
from sds3d.guidance.variational import TrainedScore, VariationalConfig, VariationalRule
from sds3d.priors.base import Prior, TrainableScore, add_noise
from sds3d.states import part, prefixed


class PathConfig(VariationalConfig):
    """The copy of the prior that is tuned on the initial renders."""

    lr: float = Field(default=1e-3, gt=0)
    """Learning rate."""
    updates: int = Field(default=5, ge=0, le=1000)
    """Updates before each snapshot. 0: there is no path, and the rule is DMD."""
    text_dropout: float = Field(default=0.1, ge=0, le=1)
    """Probability that a batch is learned with the empty text."""


class DisBackConfig(RuleConfig):
    """Settings of `DisBack`."""

    name: Literal["disback"] = "disback"
    scale: float = Field(default=8.0, ge=0.0)
    """Classifier-free guidance scale S of the teachers in eps_null + S (eps_cond - eps_null); phi has none."""
    snapshots: int = Field(default=5, ge=1, le=1000)
    """Number of snapshots of the path, and of steps at the start of the run, which record one each."""
    until: float = Field(default=0.3, gt=0.0, le=1.0)
    """Share of the run, at its start, in which snapshots teach."""
    schedule: Schedule = UniformSchedule()
    """Timesteps."""
    path: PathConfig = PathConfig()
    """The copy of the prior that records the path."""
    variational: FakeScoreConfig = FakeScoreConfig()
    """The network phi."""

    def make(self, prior: Prior) -> DisBack:
        """Return the rule on this prior."""
        return DisBack(self, prior)


class DisBack(VariationalRule):
    """Gradient (x0_phi - x0_T) / mean |x - x0_T| of each sample, with teachers from the renders back to the prior.

    score: the network phi; None for a trainable copy of the prior.
    """

    def __init__(self, config: DisBackConfig, prior: Prior, score: TrainableScore | None = None) -> None:
        super().__init__(config.variational, prior, score)
        self.config = config
        self.path = TrainedScore(config.path, prior)
        self.snapshots: list[dict[str, Tensor]] = []

    def __call__(self, x: Tensor, views: Views, progress: float, generator: torch.Generator) -> Guided:
        """Do one step. x: (B, C, h, w) detached, in the prior's space. progress: in [0, 1]."""
        t = timesteps(self.config.schedule, self.prior, x, progress, generator)  # (B,)
        x_t = add_noise(self.prior, x, draw_noise(x, generator), t)
        index = self.teacher_at(progress)
        real = self._taught(index, x_t, t, views)
        gradient = normalised(self.phi.predict(x_t, t, views).x0 - real.x0, x, real)  # (B, C, h, w)
        metrics = {
            "t": t.mean(),
            "gradient_rms": gradient.square().mean().sqrt(),
            "snapshot": float(-1 if index is None else index),
        }

        def learn() -> dict[str, Number]:
            losses = {"variational_loss": self.phi.train(x, views, generator)}
            if self.recording:
                losses["path_loss"] = self.path.train(x, views, generator)
                self.snapshots.append({name: value.clone() for name, value in self.path.score.state_dict().items()})
            return losses

        return Guided(t=t, gradient=gradient, x0=real.x0, metrics=metrics, learn=learn)

    @property
    def recording(self) -> bool:
        """Whether the path still lacks snapshots."""
        return self.config.path.updates > 0 and len(self.snapshots) < self.config.snapshots

    def teacher_at(self, progress: float) -> int | None:
        """Return the index of the snapshot that teaches at `progress` in [0, 1], or None for the prior itself."""
        if self.recording:
            return None
        passed = int(progress / self.config.until * len(self.snapshots))
        return len(self.snapshots) - 1 - passed if passed < len(self.snapshots) else None

    @torch.no_grad()
    def _taught(self, index: int | None, x_t: Tensor, t: Tensor, views: Views) -> GuidedPrediction:
        """Return the teacher's prediction under classifier-free guidance."""
        teacher = self.prior
        if index is not None:
            self.path.score.load_state_dict(self.snapshots[index])
            teacher = self.path.score
        return predict_texts(teacher, x_t, t, views).guided(self.config.scale)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the network phi with its optimiser, the snapshots, and the copy of the prior while it records them."""
        state = prefixed("phi", super().state_dict())
        if self.recording:
            state |= prefixed("path", self.path.state_dict())
        for index, snapshot in enumerate(self.snapshots):
            state |= prefixed(f"snapshot/{index}", {name: value.clone() for name, value in snapshot.items()})
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(part(state, "phi"))
        saved = part(state, "snapshot")
        self.snapshots = [part(saved, str(index)) for index in range(len({key.partition("/")[0] for key in saved}))]
        if self.recording:
            self.path.load_state_dict(part(state, "path"))
