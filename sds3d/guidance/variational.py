"""Networks that rules train while they guide: the score of the renders themselves (ProlificDreamer, Wang et al. 2023,
arXiv:2305.16213, eq. 9), and what every such network needs to be trained, saved and taken up again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from sds3d.cameras import Cameras
from sds3d.config import Config
from sds3d.guidance.base import Guidance, Learn, Views, draw_noise, predict_each
from sds3d.guidance.schedules import draw
from sds3d.priors.base import Prediction, Prior, TrainableScore, add_noise, expand
from sds3d.prompts.conditioning import Conditioning
from sds3d.states import load_optimizer_state, optimizer_state, part, prefixed


class TrainingConfig(Config):
    """AdamW (Loshchilov and Hutter 2017, arXiv:1711.05101) of a rule's own network."""

    lr: float = Field(default=1e-4, gt=0)
    """Learning rate; runs of a few hundred steps need more than the papers', about 1e-3."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the two moments."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Decoupled weight decay."""
    updates: int = Field(default=1, ge=0, le=1000)
    """Updates in each step of the scene; 0 leaves the network as it is."""


class VariationalConfig(TrainingConfig):
    """The network phi whose noise prediction is the score of the renders."""

    rank: int = Field(default=4, ge=0, le=1024)
    """Rank of the low-rank updates of the prior's copy (LoRA); 0 trains all weights of it."""
    camera_dropout: float = Field(default=0.1, ge=0, le=1)
    """How often a whole batch is learned from without its cameras."""
    text_dropout: float = Field(default=0.0, ge=0, le=1)
    """How often a whole batch is learned from with the empty text; above 0 where a rule asks phi for it."""


class Learner:
    """Parameters with their AdamW: what is trained, and all of it as flat tensors."""

    def __init__(self, parameters: Sequence[nn.Parameter], config: TrainingConfig) -> None:
        self.optimizer = torch.optim.AdamW(
            parameters, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay
        )

    def step(self, loss: Tensor) -> float:
        """One update down the gradient of a scalar loss, which is returned."""
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)  # as large as the parameters, and not needed until the next update
        return loss.item()

    def state_dict(self) -> dict[str, Tensor]:
        """Step counts and moments, "<parameter's index>/<name>"."""
        return {name: value.clone() for name, value in optimizer_state(self.optimizer).items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what `state_dict` gave."""
        load_optimizer_state(self.optimizer, {name: value.clone() for name, value in state.items()})


class TrainedScore:
    """A copy of the prior that learns what it is shown, and its optimiser.

    score: another network than the prior's own copy.
    """

    def __init__(self, config: VariationalConfig, prior: Prior, score: TrainableScore | None = None) -> None:
        self.config = config
        self.prior = prior
        # A fixed seed: low-rank updates begin at zero whatever is drawn, so that phi begins as the prior.
        self.score = score or prior.trainable_score(torch.Generator().manual_seed(0), config.rank)
        self.learner = Learner(self.score.parameters(), config) if config.updates else None

    @torch.no_grad()
    def predict(self, x_t: Tensor, t: Tensor, views: Views, *, camera: bool = True) -> Prediction:
        """What phi says of x_t (B, C, h, w) at t (B,), told the prompt without words of the view."""
        return self.score.predict(x_t, t, views.prompt.plain.repeat(len(x_t)), views.cameras if camera else None)

    @torch.no_grad()
    def predict_text_and_null(self, x_t: Tensor, t: Tensor, views: Views) -> tuple[Prediction, Prediction]:
        """`predict`, and the same with the empty text."""
        texts = [views.prompt.plain.repeat(len(x_t)), views.prompt.null.repeat(len(x_t))]
        with_text, without = predict_each(self.score, x_t, t, texts, views.cameras)
        return with_text, without

    def train(self, x: Tensor, views: Views, generator: torch.Generator) -> float:
        """A step's updates on x (B, C, h, w), told the prompt without words of the view; the last loss, or 0 of none.

        No gradient reaches x.
        """
        loss = 0.0
        for _ in range(self.config.updates):
            loss = self.update(x, views.cameras, views.prompt.plain.repeat(len(x)), views.prompt.null, generator)
        return loss

    def learning(self, x: Tensor, views: Views, generator: torch.Generator) -> Learn:
        """`train`, when its time has come."""
        return lambda: {"variational_loss": self.train(x, views, generator)}

    def update(
        self, x: Tensor, cameras: Cameras, cond: Conditioning, null: Conditioning, generator: torch.Generator
    ) -> float:
        """One update on x (B, C, h, w) with noise and timesteps of its own; returns its loss.

        The error is a mean square in the prior's own target. cond: B rows; null: the empty text's one.
        """
        assert self.learner is not None  # there are no updates without
        dropped = torch.rand(2, generator=generator)
        t = draw((0.0, 1.0), len(x), self.prior.n_views, generator).to(x.device)  # (B,)
        eps = draw_noise(x, generator)
        x_t = add_noise(self.prior, x.detach(), eps, t)
        told = null.repeat(len(x)) if dropped[0] < self.config.text_dropout else cond
        seen = None if dropped[1] < self.config.camera_dropout else cameras
        with torch.enable_grad():
            prediction = self.score.predict(x_t, t, told, seen)
            return self.learner.step(target_error(self.prior, prediction, x.detach(), eps, t))

    def state_dict(self) -> dict[str, Tensor]:
        """The trained weights, and the optimiser's moments."""
        state = {f"score/{name}": value.clone() for name, value in self.score.state_dict().items()}
        if self.learner is not None:
            state |= prefixed("optimizer", self.learner.state_dict())
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what `state_dict` gave."""
        self.score.load_state_dict(part(state, "score"))
        if self.learner is not None:
            self.learner.load_state_dict(part(state, "optimizer"))


class VariationalRule(Guidance):
    """A rule whose only memory is the network phi.

    score: another network for phi than the prior's trainable copy.
    """

    def __init__(self, variational: VariationalConfig, prior: Prior, score: TrainableScore | None = None) -> None:
        self.prior = prior
        self.phi = TrainedScore(variational, prior, score)

    def state_dict(self) -> dict[str, Tensor]:
        """The network phi and its optimiser."""
        return self.phi.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes back what `state_dict` gave."""
        self.phi.load_state_dict(state)


def target_error(prior: Prior, prediction: Prediction, x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """Mean squared error of a prediction for x, eps (B, C, h, w) at t (B,), in what the network gives: a scalar.

    With alpha, sigma = alpha(t), sigma(t), an error of v = alpha eps - sigma x (v-prediction) or of eps - x (rectified
    flows) is one of (alpha eps - sigma x0) / (alpha^2 + sigma^2) for both.
    """
    noise_error = prediction.eps - eps
    if prior.prediction_type == "epsilon":
        return noise_error.square().mean()
    alpha, sigma = expand(prior.alpha(t), x), expand(prior.sigma(t), x)
    error = (alpha * noise_error - sigma * (prediction.x0 - x)) / (alpha**2 + sigma**2)
    return error.square().mean()
