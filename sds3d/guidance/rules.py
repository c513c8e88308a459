"""All rules there are: every subclass of `RuleConfig` in a file of this package. A new rule is a new file."""

from __future__ import annotations

import importlib
import pkgutil
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

import sds3d.guidance
from sds3d.guidance.base import RuleConfig


def rule_configs() -> tuple[type[RuleConfig], ...]:
    """The settings of every rule, in the alphabetical order of their files."""
    found: list[type[RuleConfig]] = []
    for module in sorted(info.name for info in pkgutil.iter_modules(sds3d.guidance.__path__)):
        if module == "rules":
            continue
        members = vars(importlib.import_module(f"sds3d.guidance.{module}")).values()
        found += [
            member
            for member in members
            if isinstance(member, type) and issubclass(member, RuleConfig) and member is not RuleConfig
            and member.__module__ == f"sds3d.guidance.{module}"
        ]  # fmt: skip
    return tuple(found)


if TYPE_CHECKING:
    GuidanceConfig = RuleConfig
else:
    GuidanceConfig = Annotated[reduce(or_, rule_configs()), Field(discriminator="name")]
