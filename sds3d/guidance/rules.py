"""All guidance rules: the `RuleConfig` subclasses in this package and in other packages.

Other packages register theirs in the entry-point group `sds3d.guidance`; see `sds3d.plugins`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sds3d.guidance.base import RuleConfig
from sds3d.plugins import choices, union_of


def rule_configs() -> tuple[type[RuleConfig], ...]:
    """Return the settings of every rule: ours in the order of their files, then other packages'."""
    return choices("sds3d.guidance", RuleConfig, without=__name__)


if TYPE_CHECKING:
    GuidanceConfig = RuleConfig
else:
    GuidanceConfig = union_of(rule_configs())
