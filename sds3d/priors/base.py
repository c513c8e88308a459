"""The contract of frozen 2D diffusion priors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, Self
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.config import Config
from sds3d.files import PriorError
from sds3d.plugins import name_of
from sds3d.prompts.conditioning import Conditioning, TextEncoder
from sds3d.prompts.vocabulary import Vocabulary


@dataclass(frozen=True)
class Prediction:
    """A model's prediction for x_t: the noise and the clean estimate, each shaped like x_t (B, C, H, W)."""

    eps: Tensor
    x0: Tensor

    def __getitem__(self, index: slice) -> Prediction:
        return Prediction(self.eps[index], self.x0[index])

    @staticmethod
    def cat(parts: Sequence[Prediction]) -> Prediction:
        """Concatenate the batches of the parts."""
        return Prediction(torch.cat([part.eps for part in parts]), torch.cat([part.x0 for part in parts]))


PredictionType = Literal["epsilon", "v_prediction", "flow"]


class TrainableScore(Protocol):
    """A network that starts as a copy of a prior's network and learns another score: of renders (VSD's LoRA,
    arXiv:2305.16213), or of refined pictures (DreamBooth).
    """

    def predict(self, x_t: Tensor, t: Tensor, cond: Conditioning, cameras: Cameras | None) -> Prediction:
        """Predict as `Prior.predict` does, with gradients to `parameters`. cameras: None: predict without cameras."""
        ...

    def parameters(self) -> list[torch.nn.Parameter]:
        """Return the trained parameters, in float32."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Return the trained parameters by name."""
        ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        ...


class Prior(TextEncoder, Protocol):
    """A frozen diffusion model. Epsilon-, v- and flow-prediction differ only inside `predict`.

    x is in the prior's space: latents, pixels in [-1, 1], or anything else of shape (B, C, H, W).
    Timesteps t are floats in [0, 1]: 0 is clean, 1 is the most noise that the model was trained with.
    x_t = alpha(t) x + sigma(t) eps.
    """

    device: torch.device
    image_size: int
    """Height and width in pixels of the pictures that `encode_image` takes."""
    prediction_type: PredictionType
    """The target of the network: eps, v = alpha eps - sigma x, or eps - x of a rectified flow."""
    n_views: int
    """Views that the model denoises together; 1 for a plain 2D model. Batches consist of view-fastest groups."""
    takes_pictures: bool
    """Whether conditions may have `pictures`, made by `encode_picture`. For most models: False."""
    takes_structure: bool
    """Whether conditions may have the `structure` of renders, as for a ControlNet. For most models: False."""
    needs_structure: bool
    """Whether conditions must have it."""
    takes_light: bool
    """Whether the structure may have `light`, the light that the renders are seen in. For most models: False."""
    shift: float
    """Sampling moves evenly spaced timesteps t towards noise, to shift t / (1 + (shift - 1) t); 1: no shift."""

    def encode_image(self, rgb: Tensor) -> Tensor:
        """Map rgb (B, H, W, 3) in [0, 1] to x (B, C, h, w); differentiable."""
        ...

    def encode_picture(self, rgb: Tensor) -> Tensor:
        """Map pictures (B, H, W, 3) in [0, 1] of any size to `Conditioning.pictures` (B, T, D).

        Raises PriorError if the model takes no pictures.
        """
        ...

    def decode(self, x: Tensor) -> Tensor:
        """Map x (B, C, h, w) to rgb (B, H, W, 3) in [0, 1]; no gradient."""
        ...

    def alpha(self, t: Tensor) -> Tensor:
        """Return the signal scale at t, same shape as t."""
        ...

    def sigma(self, t: Tensor) -> Tensor:
        """Return the noise scale at t, same shape as t."""
        ...

    def predict(self, x_t: Tensor, t: Tensor, cond: Conditioning, cameras: Cameras | None) -> Prediction:
        """Predict noise and clean estimate of x_t (B, C, h, w) at t (B,). cameras: None: each view alone, no cameras.

        Differentiable in x_t, never in the frozen weights. Most rules call it under no_grad.
        """
        ...

    def trainable_score(self, generator: torch.Generator, rank: int = 4) -> TrainableScore:
        """Return a trainable copy that starts as this model and sees cameras, whether the model does or not.

        rank: rank of the low-rank updates (LoRA, arXiv:2106.09685); 0 trains all weights of a full copy. generator:
        draws the initial values on the CPU.
        """
        ...

    def joint_score(self, generator: torch.Generator, rank: int, maps: int) -> TrainableScore:
        """Return a trainable copy that starts as this model and denoises `maps` rows together, without cameras.

        The rows are maps of one object, such as the planes of a field. They attend to each other, and each has low-rank
        updates of its own, of this rank. generator: draws the initial values on the CPU. Raises PriorError if the
        model's network cannot be changed so.
        """
        ...


class PriorConfig(Config, ABC):
    """Base of the settings of every prior.

    Each subclass with a literal `name` is a prior that configurations can choose, if it is in a file of this package or
    another package registers it under `sds3d.priors`.
    """

    @abstractmethod
    def load(self, device: torch.device | str = "cpu") -> Prior:
        """Load the model. Raises PriorError if its files are missing or cannot be used."""

    @property
    def kind(self) -> str:
        """The word for this kind of prior in presets, see `RunConfig.made_for`."""
        return name_of(type(self))

    def vocabulary(self) -> Vocabulary | None:
        """Return the words that the prior was trained with if they are few. None: it may know any word."""
        return None

    def digest(self) -> str:
        """Return a digest of the weights, which what is trained from this prior records. "": they are not at hand."""
        return ""

    def in_less_memory(self) -> Self:
        """Return settings of the same prior with less memory: slower, with results equal up to float error."""
        return self

    def view_by_view(self) -> Self:
        """Return settings of the same prior without cameras, which denoises every picture alone."""
        return self


def refuse_untaken(prior: Prior, cond: Conditioning) -> None:
    """Raise PriorError if a condition has what the prior does not take, or lacks the structure that it needs."""
    if cond.pictures is not None and not prior.takes_pictures:
        raise PriorError("the prior takes no pictures: remove prompts.image, or use one that does (prior.ip_adapter)")
    if cond.structure is not None and not prior.takes_structure:
        raise PriorError("the prior takes no depth or normals of the render: ask it without structure")
    if cond.structure is None and prior.needs_structure:
        raise PriorError("the prior needs depth and normals of a render, and there is no render here: use one without")


def no_pictures(prior: object) -> PriorError:
    """Return the error of `Prior.encode_picture` for a prior that takes none."""
    return PriorError(f"{type(prior).__name__} takes no pictures: remove prompts.image, or use one that does")


_SPACES: WeakKeyDictionary[Prior, tuple[int, int, int]] = WeakKeyDictionary()


@torch.no_grad()
def space_of(prior: Prior) -> tuple[int, int, int]:
    """Return the shape (C, h, w) of a picture in the prior's space. It encodes one, once for each prior."""
    if prior not in _SPACES:
        picture = torch.zeros(1, prior.image_size, prior.image_size, 3, device=prior.device)
        _, channels, height, width = prior.encode_image(picture).shape
        _SPACES[prior] = channels, height, width
    return _SPACES[prior]


def expand(value: Tensor, like: Tensor) -> Tensor:
    """Return value (B,) in a shape that broadcasts against `like` (B, ...)."""
    return value.reshape(-1, *[1] * (like.dim() - 1))


def add_noise(prior: Prior, x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """Return x_t = alpha(t) x + sigma(t) eps for x, eps (B, C, H, W) and t (B,)."""
    return expand(prior.alpha(t), x) * x + expand(prior.sigma(t), x) * eps
