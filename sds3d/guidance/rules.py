"""All guidance rules: the `RuleConfig` subclasses in this package, and those that other packages register.

Other packages use the entry-point group `sds3d.guidance`; see `sds3d.plugins`.
"""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from sds3d.guidance.base import RuleConfig
from sds3d.plugins import classes_in, from_other_packages


def rule_configs() -> tuple[type[RuleConfig], ...]:
    """The settings of every rule: ours in the alphabetical order of their files, then those of other packages."""
    ours = classes_in("sds3d.guidance", RuleConfig, without=__name__)
    return (*ours, *from_other_packages("sds3d.guidance").values())


if TYPE_CHECKING:
    GuidanceConfig = RuleConfig
else:
    GuidanceConfig = Annotated[reduce(or_, rule_configs()), Field(discriminator="name")]
