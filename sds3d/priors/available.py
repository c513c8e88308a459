"""All kinds of priors: the `PriorConfig` subclasses in this package and in other packages.

Other packages register theirs in the entry-point group `sds3d.priors`; see `sds3d.plugins`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sds3d.plugins import choices, union_of
from sds3d.priors.base import PriorConfig


def prior_configs() -> tuple[type[PriorConfig], ...]:
    """Return the settings of every kind of prior: ours in the order of their files, then other packages'."""
    return choices("sds3d.priors", PriorConfig, without=__name__)


if TYPE_CHECKING:
    AnyPriorConfig = PriorConfig
else:
    AnyPriorConfig = union_of(prior_configs())
