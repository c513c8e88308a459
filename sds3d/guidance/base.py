"""What every guidance rule takes and gives, and classifier-free guidance, in its one convention."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.priors.base import Conditioning, Prediction, Prior


@dataclass(frozen=True)
class Views:
    """The B renders of a step, beside their pixels in the prior's space.

    rgb: (B, H, W, 3) detached renders in [0, 1], composited on their background.
    positive, negative: conditioning of each view (view-dependent prompts differ between views).
    """

    cameras: Cameras
    rgb: Tensor
    positive: Conditioning
    negative: Conditioning


@dataclass(frozen=True)
class Guided:
    """What a rule says of a step.

    t: (B,) timesteps used.
    gradient: (B, C, h, w) per-sample gradient with respect to x in the prior's space, or None when the rule
        works on pixels. The loop divides by B.
    image_target: (B, H, W, 3) pictures in [0, 1] that the renders are pulled to by 1/2 |rgb - target|^2,
        or None. The loop composites the render on the target's own border colour first, so that a
        background the prior likes is not explained by fog.
    x0: (B, C, h, w) the clean estimate, for previews. metrics: scalars to log.
    """

    t: Tensor
    gradient: Tensor | None = None
    image_target: Tensor | None = None
    x0: Tensor | None = None
    metrics: dict[str, float] = field(default_factory=dict)


class Guidance(Protocol):
    """A score-distillation rule."""

    def __call__(self, x: Tensor, views: Views, progress: float, generator: torch.Generator) -> Guided:
        """One step: x (B, C, h, w) detached, progress 0 at the first step and 1 at the last."""
        ...

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...
