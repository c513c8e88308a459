"""Settings from elsewhere: a command line, the text of a settings file, or the zip of a run."""

from __future__ import annotations

import shlex
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sds3d.app.edits import nested
from sds3d.app.guards import UPLOAD
from sds3d.app.recipes import ANY, Recipe, edits_of, nearest_preset, settings_of_presets
from sds3d.app.studio import Studio, one_line
from sds3d.config import ConfigError, Tree, parse_override, parse_yaml
from sds3d.files import read_plain
from sds3d.formats.table import EXTENSIONS
from sds3d.presets import current_name, preset_of
from sds3d.run.config import run_config
from sds3d.run.copies import beside, is_copy
from sds3d.run.reference_config import ReferenceConfig

SETTINGS = "settings.yaml"
"""The settings in the zip of a run, see `result_panel.pack_run`."""
LONGEST = 100_000
"""Longest settings in bytes; complete ones have a twentieth."""

_SHORT = {"--preset": "preset", "--seed": "seed", "--steps": "steps"}
_OF_A_MACHINE = ("--out", "--device", "--threads")
"""Options of the command that are no settings of the run."""


@dataclass(frozen=True)
class Brought:
    """Settings that the form can show.

    named: whether they have a prompt. file: the name of a file to start from, which is not among them; "": none.
    pictures: those that a zip has of the pictures that the run follows, with the paths of their files here. missing:
    the number of the others.
    """

    recipe: Recipe
    named: bool
    file: str = ""
    pictures: tuple[ReferenceConfig, ...] = ()
    missing: int = 0


def of_text(studio: Studio, text: str, default: str) -> Brought:
    """Read `sds3d generate ...`, `sds3d texture ...` or the contents of a settings file.

    default: the preset of a command line that names none. Raises ConfigError, which names every unknown key.
    """
    text = text.strip().removeprefix("$").strip()
    if not text:
        raise ConfigError("there is nothing to read: paste a command line or the text of a settings file")
    if len(text) > LONGEST:
        raise ConfigError(f"{len(text)} characters are too many: settings have {LONGEST} at most")
    if text.split(maxsplit=1)[0] == "sds3d":
        return _of_command(studio, text, default)
    return _of_settings(studio, text)


def _of_settings(studio: Studio, text: str, folder: Path | None = None) -> Brought:
    """Read the contents of a settings file. folder: has the copies of files that it names, if they were packed."""
    layers = preset_of(Path(SETTINGS), parse_yaml(text)).layers
    return _checked(studio, [beside(layer, folder) for layer in layers] if folder else layers, folder=folder)


def _are_within(picture: ReferenceConfig, folder: Path) -> bool:
    """Whether the files that are used of a picture are in a folder. Other paths are not the visitor's to choose."""
    return all(folder in Path(name).parents for name in (picture.image, picture.mask) if name)


def of_file(studio: Studio, path: Path, default: str, folder: Path) -> tuple[Brought, bytes]:
    """Read an uploaded file of settings. Return also the bytes of the file to start from, if a zip has it.

    folder: empty; gets the copies of pictures and lights that a zip has. Raises ConfigError, OSError.
    """
    if path.suffix != ".zip":
        return of_text(studio, read_plain(path, LONGEST).decode(errors="replace"), default), b""
    try:
        with zipfile.ZipFile(path) as archive:
            if SETTINGS not in archive.namelist():
                raise ConfigError(f"the zip has no {SETTINGS}: use one that the studio made of a run")
            _unpack_copies(archive, folder)
            brought = _of_settings(studio, _member(archive, SETTINGS, LONGEST).decode(errors="replace"), folder)
            has_file = Path(brought.file).suffix.lower() in EXTENSIONS and brought.file in archive.namelist()
            return brought, _member(archive, brought.file, UPLOAD) if has_file else b""
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise ConfigError(f"the zip cannot be read ({error}): pack it again") from None


def _unpack_copies(archive: zipfile.ZipFile, folder: Path) -> None:
    """Write the copies of a run's files into a folder, see `sds3d.run.copies`. Other members are left out."""
    left = UPLOAD
    for name in filter(is_copy, archive.namelist()):
        data = _member(archive, name, left)
        left -= len(data)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def _member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """Read a member of a zip, which may claim to be smaller than it is."""
    with archive.open(name) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ConfigError(f"{name} in the zip is larger than {most / 1e6:g} MB")
    return data


def _of_command(studio: Studio, text: str, default: str) -> Brought:
    """Read a command line."""
    try:
        words = shlex.split(text.replace("\\\n", " "), comments=True)
    except ValueError as error:
        raise ConfigError(f"the command line ends within quotes ({error})") from None
    command, given, preset, layers = words[1] if len(words) > 1 else "", [], "", []
    rest = iter(words[2:])
    for word in rest:
        option, equals, value = word.partition("=")
        if not word.startswith("--"):
            given.append(word)
            continue
        if option not in (*_SHORT, *_OF_A_MACHINE):
            raise ConfigError(f"the option {option} is unknown here: use {', '.join(_SHORT)} and KEY=VALUE")
        value = value if equals else next(rest, "")
        if option == "--preset":
            preset = value
        elif option in _SHORT:
            layers.append(parse_override(f"{_SHORT[option]}={value}"))
    if command == "texture" and given:
        layers.insert(0, {"start_from": given.pop(0)})
    elif command != "generate":
        raise ConfigError(f'"sds3d {command}" makes no object: paste "sds3d generate ..." or "sds3d texture ..."')
    if not given:
        raise ConfigError("the command line has no prompt")
    layers += [{"prompt": given[0]}, *(parse_override(word) for word in given[1:])]
    preset = preset or {"generate": default, "texture": "texture"}[command]
    return _checked(studio, layers, preset)


def _checked(studio: Studio, layers: Sequence[Tree], preset: str = "", folder: Path | None = None) -> Brought:
    """Return settings as differences from a preset, by default from the nearest. Raises ConfigError.

    folder: has files that they name.
    """
    named = [layer["prompt"] for layer in layers if layer.get("prompt")]
    prompt = one_line(str(named[-1] if named else ANY))
    layers = [*layers, {"prompt": prompt}]
    config = studio.own_config(prompt, preset, *layers) if preset else run_config(*layers)
    preset = current_name(preset) if preset else nearest_preset(config, settings_of_presets(studio))
    edits = edits_of(config, lambda edits: studio.own_config(ANY, preset, nested(edits)))
    file = str(edits.get("start_from", ""))  # a preset may name what ships with this package
    if not (studio.trusted and Path(file).is_absolute() and Path(file).exists()):
        edits.pop("start_from", None)  # a path of another machine, or of this one, which is not the visitor's
    else:
        file = ""
    edits.pop("reference", None)  # the form has its own field for them
    pictures = tuple(each for each in config.reference if folder and _are_within(each, folder))
    missing = len(config.reference) - len(pictures)
    config = studio.config(prompt, preset, nested(edits | {"seed": config.seed}))
    return Brought(Recipe(config, preset, edits), bool(named), Path(file.replace("\\", "/")).name, pictures, missing)
