"""Copies of the files that settings name, so that a run's folder, or what was packed of it, is complete.

The copies are in `inputs/<start of the digest>/<name>`. Two kinds of sections name files: {name: file, file: PATH,
sha256: DIGEST}, where the file has its name alone in a run's settings, and {image: PATH, ...} for pictures, where the
path of the copy takes the place of the file's.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from sds3d.config import Config, ConfigError
from sds3d.files import RunError, read_plain

FOLDER = "inputs"
MOST_BYTES = 256_000_000
"""Size of the largest file that is copied."""
PICTURES = ("image", "mask", "depth", "normal")
"""Settings that name pictures, in a section with an `image`."""


def files_in(values: Any, key: str = "") -> Iterator[tuple[str, Path]]:
    """Yield the dotted key and the path of each file that settings name. values: dumped settings."""
    if isinstance(values, Mapping):
        if _names_a_file(values):
            yield f"{key}.file", Path(values["file"]).expanduser()
        for name, inner in values.items():
            yield from files_in(inner, f"{key}.{name}" if key else name)
    elif isinstance(values, (list, tuple)):
        for index, inner in enumerate(values):
            yield from files_in(inner, f"{key}.{index}")


def without_paths(config: Config) -> tuple[dict[str, Any] | None, dict[str, bytes]]:
    """Return the settings with the digest of each file in place of its folder, and the copies by their paths in the
    run's folder. None: no setting names a file. Raises RunError for a file that cannot be read.
    """
    copies: dict[str, bytes] = {}

    def copied(path: Path) -> tuple[str, str]:
        """Return the place of the copy and the digest of a file."""
        try:
            data = read_plain(path, MOST_BYTES, follow=True)
        except OSError as error:
            raise RunError(f"cannot copy {path}: {error.strerror or error}") from None
        digest = hashlib.sha256(data).hexdigest()
        copies[_place(path.name, digest)] = data
        return _place(path.name, digest), digest

    def named(section: Mapping[str, Any]) -> dict[str, Any]:
        if _names_a_file(section):
            path = Path(section["file"]).expanduser()
            return {**section, "file": path.name, "sha256": copied(path)[1]}
        return {**section, **{key: copied(Path(section[key]).expanduser())[0] for key in _pictures_in(section)}}

    values = _mapped(config.model_dump(), named)
    return (values if copies else None), copies


def with_paths(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the settings of a run with the paths of the copies in its folder.

    Raises ConfigError for a path in `inputs` that is no copy's, and for a link there.
    """
    return _located(values, lambda place, given: _copy(folder, place))


def with_places(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run with the paths of the copies as seen from its folder."""
    return _located(values, lambda place, given: place)


def beside(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return settings from a file with the paths of what is in its folder: copies as a run has them, and the file to
    start from, of which a run may know the name alone. Other paths stay.
    """

    def located(place: str, given: str) -> str:
        try:
            path = _copy(folder, place)
        except ConfigError:
            return given
        return path if Path(path).is_file() else given

    values = _located(values, located)
    start = str(values.get("start_from", ""))
    own = PurePath(start).name == start and (folder / start).is_file()
    return {**values, "start_from": str(folder / start)} if own else values


def _located(values: Mapping[str, Any], located: Callable[[str, str], str]) -> dict[str, Any]:
    """Return settings with other paths of the copies. located: of the place in a run's folder and the path given."""

    def found(section: Mapping[str, Any]) -> dict[str, Any]:
        copied = [key for key in _pictures_in(section) if PurePath(section[key]).parts[:1] == (FOLDER,)]
        section = {**section, **{key: located(section[key], section[key]) for key in copied}}
        digest = str(section.get("sha256", ""))
        if not (_names_a_file(section) and digest):
            return section
        return {**section, "file": located(_place(PurePath(section["file"]).name, digest), section["file"])}

    return _mapped(values, found)


def is_copy(place: str) -> bool:
    """Return whether a path is that of a copy, as seen from a run's folder."""
    parts = PurePath(place).parts
    named = len(parts) == 3 and parts[0] == FOLDER and parts[2] != ".." and "\0" not in place
    return named and re.fullmatch("[0-9a-f]{16}", parts[1]) is not None


def check_copies(config: Config, folder: Path) -> None:
    """Raise RunError if a copy in a run's folder cannot be read, or is another file than when the run was made."""

    def checked(section: Mapping[str, Any]) -> dict[str, Any]:
        names = [section["file"]] if _names_a_file(section) else [section[key] for key in _pictures_in(section)]
        for path in map(Path, names):
            if not path.is_relative_to(folder / FOLDER):
                continue
            try:
                digest = hashlib.sha256(read_plain(path, MOST_BYTES)).hexdigest()
            except OSError as error:
                raise RunError(f"cannot read {path}: {error.strerror or error}") from None
            if _place(path.name, digest) != path.relative_to(folder).as_posix():
                raise RunError(
                    f"{path} is not the file that the run was made with: put that one back, or make a new run"
                )
        return dict(section)

    _mapped(config.model_dump(), checked)


def _copy(folder: Path, place: str) -> str:
    """Return the path of a copy in a run's folder. Raises ConfigError if `place` is none, or a link is on the way."""
    parts = PurePath(place).parts
    if not is_copy(place):
        raise ConfigError(f"{place!r} is no copy in the run's folder: its form is {FOLDER}/<16 hex digits>/NAME")
    for path in (folder.joinpath(*parts[:n]) for n in (1, 2, 3)):
        if path.is_symlink():
            raise ConfigError(f"{path} is a symbolic link, which is not followed")
    return str(folder.joinpath(*parts))


def _place(name: str, digest: str) -> str:
    return f"{FOLDER}/{digest[:16]}/{name}"


def _names_a_file(section: Mapping[str, Any]) -> bool:
    return section.get("name") == "file" and isinstance(section.get("file"), str)


def _pictures_in(section: Mapping[str, Any]) -> list[str]:
    """Return the keys of the pictures that a section names."""
    if not isinstance(section.get("image"), str):
        return []
    return [key for key in PICTURES if isinstance(section.get(key), str) and section[key]]


def _mapped(values: Any, function: Callable[[Mapping[str, Any]], dict[str, Any]]) -> Any:
    """Return a copy of nested settings with `function` applied to all sections."""
    if isinstance(values, Mapping):
        values = function(values)
        return {name: _mapped(inner, function) for name, inner in values.items()}
    if isinstance(values, (list, tuple)):
        return [_mapped(inner, function) for inner in values]
    return values
