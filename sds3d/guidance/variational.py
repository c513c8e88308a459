"""Networks that rules train while they guide: how they are trained, saved and resumed.

The most common one, phi, learns the score of the renders (ProlificDreamer, Wang et al. 2023, arXiv:2305.16213, eq. 9).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn

from sds3d.cameras import Cameras
from sds3d.config import Config
from sds3d.files import PriorError
from sds3d.guidance.base import Guidance, Learn, Number, Views, draw_noise, predict_each
from sds3d.guidance.schedules import draw
from sds3d.priors.base import Prediction, Prior, TrainableScore, add_noise, expand
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.priors.graphs import Graphs
from sds3d.priors.loading import Dtype
from sds3d.priors.network import DiffusionPrior
from sds3d.prompts.conditioning import Conditioning
from sds3d.states import load_optimizer_state, optimizer_state, part, prefixed
from sds3d.updates import flag, fused, skipped_if, update


class TrainingConfig(Config):
    """AdamW (Loshchilov and Hutter 2017, arXiv:1711.05101) for a network of a rule."""

    lr: float = Field(default=1e-4, gt=0)
    """Learning rate. Runs of a few hundred steps need about 1e-3, more than in the papers."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the two moments."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Decoupled weight decay."""
    updates: int = Field(default=1, ge=0, le=1000)
    """Updates per step of the scene; 0: the network is not trained."""


class VariationalConfig(TrainingConfig):
    """The network phi, which learns to predict the noise of noised renders."""

    model: str = ""
    """Another model that phi starts as, which gets the prior's text embeddings: a folder, short name or id as in
    `prior.model`. It needs the prior's latents, noise levels and text encoder, but may predict v instead of noise, such
    as Stable Diffusion 2.1 beside 2.1-base (ProlificDreamer). Empty: the prior."""
    offline: bool = False
    """Never use the network for `model`. An id must then be in the local cache."""
    rank: int = Field(default=4, ge=0, le=1024)
    """Rank of the low-rank updates of the prior's copy (LoRA); 0 trains all weights."""
    camera_dropout: float = Field(default=0.1, ge=0, le=1)
    """Probability that a batch is learned without its cameras."""
    text_dropout: float = Field(default=0.0, ge=0, le=1)
    """Probability that a batch is learned with the empty text; above 0 for rules that query phi with the empty text."""


class Learner:
    """AdamW for some parameters; its state is a flat mapping of tensors."""

    def __init__(self, parameters: Sequence[nn.Parameter], config: TrainingConfig) -> None:
        self.optimizer = torch.optim.AdamW(
            parameters,
            lr=config.lr,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=fused(parameters[0].device),
        )

    def step(self, loss: Tensor) -> Tensor:
        """Do one update along the gradient of a scalar loss. Returns the loss, detached."""
        self.optimizer.zero_grad(set_to_none=True)  # a recording that failed may have left some
        loss.backward()
        update(self.optimizer)
        self.optimizer.zero_grad(set_to_none=True)  # gradients are as large as the parameters
        return loss.detach()

    def state_dict(self) -> dict[str, Tensor]:
        """Return step counts and moments as "<parameter's index>/<name>"."""
        return {name: value.clone() for name, value in optimizer_state(self.optimizer).items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        load_optimizer_state(self.optimizer, {name: value.clone() for name, value in state.items()})


class TrainedScore:
    """A network that learns a score, and its optimiser.

    score: the network; None for a trainable copy of the prior, or of `config.model`.
    """

    def __init__(self, config: VariationalConfig, prior: Prior, score: TrainableScore | None = None) -> None:
        self.config = config
        self.prior = prior
        self.model = model_of_phi(config, prior)
        # A fixed seed is enough: low-rank updates start at zero whatever is drawn, so phi starts as its model.
        self.score = score or self.model.trainable_score(torch.Generator().manual_seed(0), config.rank)
        self.learner = Learner(self.score.parameters(), config) if config.updates else None
        self._graphs = _graphs_of(self.score)

    @torch.no_grad()
    def predict(self, x_t: Tensor, t: Tensor, views: Views, *, camera: bool = True) -> Prediction:
        """Predict x_t (B, C, h, w) at t (B,) under the prompt without view words."""
        return self.score.predict(x_t, t, views.told(views.prompt.plain), views.cameras if camera else None)

    @torch.no_grad()
    def predict_text_and_null(self, x_t: Tensor, t: Tensor, views: Views) -> tuple[Prediction, Prediction]:
        """Return `predict`, and the same under the empty text."""
        texts = [views.told(views.prompt.plain), views.told(views.prompt.null)]
        with_text, without = predict_each(self.score, x_t, t, texts, views.cameras)
        return with_text, without

    def train(self, x: Tensor, views: Views, generator: torch.Generator) -> Number:
        """Do a step's updates on x (B, C, h, w) under the prompt without view words. Returns the last loss, 0 for none.

        No gradient reaches x.
        """
        loss: Number = 0.0
        texts = views.told(views.prompt.plain), views.told(views.prompt.null)
        for _ in range(self.config.updates):
            loss = self.update(x, views.cameras, *texts, generator)
        return loss

    def learning(self, x: Tensor, views: Views, generator: torch.Generator) -> Learn:
        """Return a function that calls `train`, for `Guided.learn`."""
        return lambda: {"variational_loss": self.train(x, views, generator)}

    def update(
        self, x: Tensor, cameras: Cameras, cond: Conditioning, null: Conditioning, generator: torch.Generator
    ) -> Tensor:
        """Do one update on x (B, C, h, w) with fresh noise and timesteps. Returns its loss.

        The loss is `target_error`. cond, null: the prompt and the empty text, B rows each. On CUDA, an update is one
        CUDA graph, whose inputs are all that differs from step to step.
        """
        assert self.learner is not None  # None only if there are no updates
        learner, model = self.learner, self.model
        dropped = torch.rand(2, generator=generator)
        t = draw((0.0, 1.0), len(x), self.prior.n_views, generator).to(x.device, non_blocking=True)  # (B,)
        text = null if dropped[0] < self.config.text_dropout else cond
        seen = None if dropped[1] < self.config.camera_dropout else cameras.to(x.device)
        given = {"x": x.detach(), "eps": draw_noise(x, generator), "t": t, **text.tensors()}
        given |= {} if seen is None else seen.tensors()
        given |= {} if (bad := flag()) is None else {"bad": bad}

        def learn(*values: Tensor) -> tuple[Tensor]:
            own = dict(zip(given, values, strict=True))
            x, eps, t = own["x"], own["eps"], own["t"]
            views = None if seen is None else replace(seen, **{name: own[name] for name in seen.tensors()})
            with torch.enable_grad(), skipped_if(own.get("bad")):
                prediction = self.score.predict(add_noise(self.prior, x, eps, t), t, Conditioning.of(own), views)
                return (learner.step(target_error(model, prediction, x, eps, t)),)

        with torch.no_grad():
            values = list(given.values())
            (loss,) = learn(*values) if self._graphs is None else self._graphs(learn, tuple(given), values)
        return loss

    def state_dict(self) -> dict[str, Tensor]:
        """Return the trained weights and the optimiser's state."""
        state = {f"score/{name}": value.clone() for name, value in self.score.state_dict().items()}
        if self.learner is not None:
            state |= prefixed("optimizer", self.learner.state_dict())
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self.score.load_state_dict(part(state, "score"))
        self._graphs = _graphs_of(self.score)  # the optimiser gets other tensors
        if self.learner is not None:
            self.learner.load_state_dict(part(state, "optimizer"))


class VariationalRule(Guidance):
    """Base of rules whose only state is the network phi.

    score: the network phi; None for a trainable copy of the prior.
    """

    def __init__(self, variational: VariationalConfig, prior: Prior, score: TrainableScore | None = None) -> None:
        self.prior = prior
        self.phi = TrainedScore(variational, prior, score)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the network phi and its optimiser."""
        return self.phi.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self.phi.load_state_dict(state)


def _graphs_of(score: TrainableScore) -> Graphs | None:
    """Return where updates of a network are recorded; None if that is not possible."""
    return Graphs("updates of phi") if getattr(score, "recordable", False) else None


def model_of_phi(config: VariationalConfig, prior: Prior) -> Prior:
    """Return the model that phi starts as, which is loaded once for a prior.

    Raises PriorError if it cannot be loaded, or does not fit to the prior.
    """
    if not config.model:
        return prior
    if not hasattr(prior, "family"):
        raise PriorError("guidance.variational.model needs a prior in diffusers' layout: leave it out for this one")
    prior = cast(DiffusionPrior, prior)
    dtype = cast(Dtype, str(prior.denoiser.dtype).removeprefix("torch."))
    other = DiffusersConfig(model=config.model, offline=config.offline, dtype=dtype, multiview=False)
    return prior.stand_in(other, lambda: other.load(prior.device))


def target_error(prior: Prior, prediction: Prediction, x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """Return the mean squared error of a prediction for x, eps (B, C, h, w) at t (B,) in the network's own target.

    For v-prediction, v = alpha eps - sigma x, and for rectified flows, eps - x, the error is that of
    (alpha eps - sigma x0) / (alpha^2 + sigma^2), with alpha and sigma at t.
    """
    noise_error = prediction.eps - eps
    if prior.prediction_type == "epsilon":
        return noise_error.square().mean()
    alpha, sigma = expand(prior.alpha(t), x), expand(prior.sigma(t), x)
    error = (alpha * noise_error - sigma * (prediction.x0 - x)) / (alpha**2 + sigma**2)
    return error.square().mean()
