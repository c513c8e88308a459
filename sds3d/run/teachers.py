"""The settings of a teacher: a frozen model, and the rule by which it guides the scene."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, model_validator

from sds3d.config import Config, completed
from sds3d.guidance.rules import GuidanceConfig
from sds3d.guidance.sds import SDSConfig
from sds3d.guidance.transforms import GradientTransform
from sds3d.priors.available import AnyPriorConfig
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.ramps import Ramp


class TeacherConfig(Config):
    """A teacher of the scene.

    It sees the renders at its own prior's size and has its own texts, random numbers and networks.
    """

    prior: AnyPriorConfig = DiffusersConfig()
    """The frozen diffusion model."""
    guidance: GuidanceConfig = SDSConfig()
    """The score-distillation rule."""
    gradient: tuple[GradientTransform, ...] = ()
    """Transforms of the rule's gradient, applied in this order, before the weight."""
    weight: Annotated[Ramp, Field(ge=0)] = Ramp(1.0)
    """Factor on the gradient, which is averaged over the views that the teacher sees. 0: it is not asked."""
    views: int | None = Field(default=None, ge=1)
    """How many of a step's views it sees, drawn anew in each step; null: all. Views that its prior denoises together
    stay together."""

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, given: Any) -> Any:
        """Add the defaults to sections that are given in part, as outside of a list."""
        return completed(cls, given) if isinstance(given, Mapping) else given


def with_own(
    prior: AnyPriorConfig,
    guidance: GuidanceConfig,
    gradient: tuple[GradientTransform, ...],
    further: Sequence[TeacherConfig],
) -> list[TeacherConfig]:
    """Return all teachers: the one that a configuration has of its own, and the further ones."""
    return [TeacherConfig.model_construct(prior=prior, guidance=guidance, gradient=gradient), *further]
