"""Finds what can be plugged in: classes in a room of this package, and entry points of other installed packages.

A package that adds a guidance rule says so in its own pyproject.toml, and nothing here has to change:

    [project.entry-points."sds3d.guidance"]
    my_rule = "my_package.my_rule:MyRuleConfig"
"""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from importlib.metadata import entry_points
from typing import Any, TypeVar

T = TypeVar("T")


def classes_in(package: str, base: type[T], *, without: str) -> list[type[T]]:
    """Subclasses of `base` that are defined in the modules of `package`, in the order of the modules' names.

    without: the full name of the module that asks, which cannot import itself. `base` itself is left out.
    """
    folder = importlib.import_module(package).__path__
    names = sorted(f"{package}.{info.name}" for info in pkgutil.iter_modules(folder))
    found: list[type[T]] = []
    for name in names:
        if name == without:
            continue
        for member in vars(importlib.import_module(name)).values():
            if isinstance(member, type) and issubclass(member, base) and member is not base:
                found += [member] if member.__module__ == name else []
    return found


def from_other_packages(group: str) -> dict[str, Any]:
    """What installed packages register under an entry-point group, by the entry point's name.

    One that cannot be imported is left out with a warning that names it, so that a broken plug-in stops nothing else.
    """
    found: dict[str, Any] = {}
    for point in sorted(entry_points(group=group), key=lambda point: point.name):
        try:
            found[point.name] = point.load()
        except Exception as error:  # whatever a foreign module raises while it is imported
            source = point.dist.name if point.dist else point.value
            warnings.warn(f'the plug-in "{point.name}" of {source} cannot be loaded: {error}', stacklevel=2)
    return found
