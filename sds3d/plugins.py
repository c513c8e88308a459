"""Find rules, representations, priors and formats in this package and in other installed packages.

A package that adds a guidance rule registers it in its own pyproject.toml:

    [project.entry-points."sds3d.guidance"]
    my_rule = "my_package.my_rule:MyRuleConfig"

The other groups are `sds3d.priors`, `sds3d.representations` and `sds3d.formats`.
"""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from collections.abc import Iterable, Sequence
from functools import reduce
from importlib.metadata import EntryPoint, entry_points
from operator import or_
from typing import Annotated, Any, Literal, TypeVar, get_origin

from pydantic import BaseModel, Field

from sds3d.config import ConfigError

T = TypeVar("T")
ModelT = TypeVar("ModelT", bound=BaseModel)


def choices(room: str, base: type[ModelT], *, without: str) -> tuple[type[ModelT], ...]:
    """Return the subclasses of `base` with a literal `name`: ours in the order of their files, then other packages'.

    room: the package of this project that holds ours, whose name is also the entry-point group. without: the calling
    module, which cannot import itself. A registered object that is not such a subclass is left out with a warning.
    Raises ConfigError if two have the same name.
    """
    ours = [found for found in classes_in(room, base, without=without) if _is_named(found)]
    theirs = []
    for point, registered in from_other_packages(room).items():
        if isinstance(registered, type) and issubclass(registered, base) and _is_named(registered):
            theirs.append(registered)
        else:
            problem = f"is no {base.__name__} with a literal name and is left out"
            warnings.warn(f'the plug-in "{point}" of the group {room} {problem}', stacklevel=2)
    found = (*ours, *theirs)
    refuse_duplicates(room, [(name_of(one), f"{one.__module__}.{one.__qualname__}") for one in found])
    return found


def union_of(found: Sequence[type[BaseModel]]) -> Any:
    """Return the type of a setting that is one of these, chosen by `name`."""
    union = reduce(or_, found)
    return Annotated[union, Field(discriminator="name")] if len(found) > 1 else union


def name_of(config: type[BaseModel]) -> str:
    """Return the literal name of a choice."""
    return str(config.model_fields["name"].default)


def _is_named(config: type[BaseModel]) -> bool:
    return "name" in config.model_fields and get_origin(config.model_fields["name"].annotation) is Literal


def refuse_duplicates(group: str, found: Iterable[tuple[str, str]]) -> None:
    """Raise ConfigError if two of the (name, source) pairs have the same name and different sources."""
    sources: dict[str, str] = {}
    for name, source in found:
        first = sources.setdefault(name, source)
        if first != source:
            raise ConfigError(f'two of {group} are named "{name}": {first} and {source}; rename or uninstall one')


def classes_in(package: str, base: type[T], *, without: str) -> list[type[T]]:
    """Return the subclasses of `base` that the modules of `package` define, in the order of the modules' names.

    without: the full name of the calling module, which cannot import itself. `base` itself is left out.
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
    """Return what installed packages register in an entry-point group, by the entry point's name.

    An entry point that cannot be imported is left out with a warning, so that a broken plug-in does not affect others.
    Raises ConfigError if two packages register the same name.
    """
    points = sorted(entry_points(group=group), key=lambda point: (point.name, _package(point)))
    refuse_duplicates(group, [(point.name, f"{point.value} of {_package(point)}") for point in points])
    found: dict[str, Any] = {}
    for point in points:
        try:
            found[point.name] = point.load()
        except Exception as error:  # importing another package may raise anything
            warnings.warn(f'the plug-in "{point.name}" of {_package(point)} cannot be loaded: {error}', stacklevel=2)
    return found


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.value
