"""Surfaces that follow the normals which an estimator sees in their renders, as in the last stage of DreamPolish (Cheng
et al. 2024, arXiv:2411.01602).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.config import Config
from sds3d.files import PriorError
from sds3d.priors.estimators import MapEstimator, load_estimator
from sds3d.ramps import Ramp
from sds3d.representations.base import Rendering
from sds3d.run.references import facing_losses


class EstimatorConfig(Config):
    """An estimator of normals, whose answer to the renders the surface follows: 1 minus the cosine of the angle between
    its normals and the surface's, summed over a view's opaque pixels and averaged over the views.
    """

    model: str = Field(min_length=1)
    """A folder of Marigold's model for normals, or of a network by sds3d toybox train-normals."""
    weight: Annotated[Ramp, Field(ge=0)] = Ramp(0.1)
    """Weight of the loss, whose unit is that of 1/2 sum |rgb - target|^2 per view."""
    every: int = Field(default=1, ge=1)
    """Steps from one estimate to the next."""


@dataclass(frozen=True)
class NormalEstimator:
    """A loaded estimator."""

    config: EstimatorConfig
    model: MapEstimator

    def losses(self, rendering: Rendering, cameras: Cameras, step: int, progress: float) -> dict[str, Tensor]:
        """Return the weighted loss of B renders by name. step: from 0. progress: 0 to 1."""
        weight = self.config.weight.at(progress)
        if step % self.config.every or not weight:
            return {}
        seen = self.model(rendering.rgb.detach().clamp(0, 1), step)["normal"]
        opaque = (rendering.alpha.detach() > 0.5).to(seen)
        return {"estimated_normals": weight * facing_losses(rendering, seen, opaque, cameras).mean()}


def load_normal_estimators(configs: Sequence[EstimatorConfig], device: torch.device) -> tuple[NormalEstimator, ...]:
    """Load all estimators. Raises PriorError for a folder that cannot be used, or whose model estimates other maps."""
    loaded = []
    for config in configs:
        model = load_estimator(config.model, device)
        if "normal" not in model.maps:
            raise PriorError(f"{config.model} estimates {', '.join(model.maps)}, not normals: give another model")
        loaded.append(NormalEstimator(config, model))
    return tuple(loaded)
