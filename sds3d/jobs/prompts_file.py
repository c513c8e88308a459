"""Files of prompts for a batch: text, CSV or JSON lines, one prompt per line.

prompts.txt     a red mug
prompts.csv     prompt,seed,preset,guidance.scale      a header; further columns are settings
prompts.jsonl   {"prompt": "a red mug", "seed": 1, "preset": "splats", "overrides": {"guidance.scale": 5}}
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from sds3d.config import ConfigError, meant, nearest
from sds3d.files import NotPlainError, read_plain
from sds3d.presets import DEFAULT_PRESET
from sds3d.prompts.prompt import checked_prompt
from sds3d.run.config import NOT_IDENTITY, RunConfig, make_config

KEYS = ("prompt", "seed", "preset", "overrides")
"""Keys of a JSON line."""


@dataclass(frozen=True)
class Entry:
    """A line of the file, counted from 1, and the complete configuration that it requests."""

    line: int
    preset: str
    config: RunConfig


@dataclass(frozen=True)
class _Given:
    """The values of a line. seed: None: as in the settings."""

    prompt: str
    seed: int | None = None
    preset: str = ""
    overrides: tuple[str, ...] = ()


Lines = Iterator[tuple[int, Callable[[], _Given]]]
"""Line numbers, and functions that read the lines. They raise ConfigError for an invalid line."""


def read_prompts(path: Path, preset: str = DEFAULT_PRESET, overrides: Sequence[str] = ()) -> list[Entry]:
    """Read the prompts of a file, in order. preset, overrides: for lines that do not set them.

    Raises ConfigError that lists all problems of the file with their line numbers.
    """
    entries: list[Entry] = []
    problems: dict[str, list[int]] = {}
    known: dict[tuple[str, tuple[str, ...]], RunConfig] = {}
    for line, read in _lines(path):
        try:
            given = read()
            prompt = _checked(given.prompt)
            key = given.preset or preset, (*overrides, *given.overrides)
            if key not in known:  # thousands of lines share few settings
                known[key] = make_config(prompt, *key)
            changes = {"prompt": prompt} if given.seed is None else {"prompt": prompt, "seed": given.seed}
            entries.append(Entry(line, key[0], known[key].model_copy(update=changes)))
        except ConfigError as error:
            for problem in str(error).splitlines():
                problems.setdefault(problem, []).append(line)
    if problems:
        raise ConfigError("\n".join(_located(path, problem, lines) for problem, lines in problems.items()))
    if not entries:
        raise ConfigError(f"{path} has no prompts; write one per line, for example: a red mug")
    return entries


def same_runs(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Group entries with the same configuration, which share a run, in the order of their first lines."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.config.model_dump_json(exclude=set(NOT_IDENTITY)), []).append(entry)
    return list(groups.values())


def parse_shard(text: str) -> tuple[int, int]:
    """Parse "i/n", the i-th of n shards. Raises ConfigError."""
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text.strip())
    index, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= index <= count:
        raise ConfigError(f'--shard "{text}": give i/n with i from 1 to n, for example 2/4')
    return index, count


def _lines(path: Path) -> Lines:
    readers = {"": _text, ".txt": _text, ".csv": _csv, ".jsonl": _jsonl}
    if (suffix := path.suffix.lower()) not in readers:
        raise ConfigError(f'{path}: "{suffix}" is not a file of prompts; give a .txt, .csv or .jsonl file')
    try:
        data = read_plain(path, follow=True).removeprefix(codecs.BOM_UTF8)
    except NotPlainError as error:
        raise ConfigError(f"{error}; write the prompts into one, one per line") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: not UTF-8 text (byte 0x{data[error.start]:02x}); save it as UTF-8") from None
    return readers[suffix](path, text)


def _text(path: Path, text: str) -> Lines:
    for line, words in enumerate(io.StringIO(text, newline=None), start=1):
        if words.strip() and not words.lstrip().startswith("#"):
            yield line, partial(_Given, words)


def _jsonl(path: Path, text: str) -> Lines:
    for line, words in enumerate(io.StringIO(text, newline=None), start=1):
        if words.strip():
            yield line, partial(_of_json, words)


def _of_json(text: str) -> _Given:
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"not JSON: {error.msg} at character {error.colno}") from None
    except (ValueError, RecursionError) as error:  # a huge number, or deeply nested brackets
        raise ConfigError(f"not usable JSON: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError('not an object; write {"prompt": "a red mug"}')
    for key in values.keys() - set(KEYS):
        hint = meant(key, KEYS, otherwise='settings belong in "overrides"')
        raise ConfigError(f'unknown key "{key}"; {hint}')
    if "prompt" not in values:
        raise ConfigError('"prompt" is missing')
    for key in ("prompt", "preset"):
        if not isinstance(values.get(key, ""), str):
            raise ConfigError(f'"{key}" = {json.dumps(values[key])}: give a string')
    seed = values.get("seed")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or seed < 0):
        raise _wrong_seed(json.dumps(seed))
    return _Given(values["prompt"], seed, values.get("preset", ""), _overrides(values.get("overrides") or {}))


def _overrides(given: Any) -> tuple[str, ...]:
    """Return {"guidance.scale": 5} or ["guidance.scale=5"] as KEY=VALUE texts."""
    if isinstance(given, dict):  # JSON is valid YAML
        texts = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in given.items()]
    elif isinstance(given, list) and all(isinstance(text, str) for text in given):
        texts = given
    else:
        raise ConfigError('"overrides": give {"guidance.scale": 5} or ["guidance.scale=5"]')
    return tuple(_checked_setting(text) for text in texts)


def _csv(path: Path, text: str) -> Lines:
    # In some countries spreadsheets separate with semicolons.
    first = text.partition("\n")[0]
    separator = next((s for s in ",;\t" if "prompt" in [_bare(name) for name in first.split(s)]), ",")
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        header = [name.strip() for name in next(rows, [])]
        _check_header(path, header)
        before = rows.line_num
        for cells in rows:
            if any(cell.strip() for cell in cells):
                yield before + 1, partial(_of_cells, header, cells)
            before = rows.line_num
    except csv.Error as error:
        raise ConfigError(f"{path}:{rows.line_num}: not CSV: {error}") from None


def _bare(name: str) -> str:
    return name.strip().strip('"')


def _check_header(path: Path, header: list[str]) -> None:
    fields = ("prompt", "seed", "preset", *RunConfig.model_fields)
    if "prompt" not in header:
        hint = meant("prompt", header, otherwise="add it")
        raise ConfigError(f'{path}:1: the header has no column "prompt"; {hint}')
    for name in filter(None, header):
        if header.count(name) > 1:
            raise ConfigError(f'{path}:1: the header has the column "{name}" twice')
        if name.partition(".")[0] not in fields and nearest(name, fields):
            raise ConfigError(f'{path}:1: unknown column "{name}"; {meant(name, fields)}')


def _of_cells(header: list[str], cells: list[str]) -> _Given:
    if any(cell.strip() for cell in cells[len(header) :]):
        raise ConfigError(f"{len(cells)} cells under {len(header)} columns; put a prompt with a comma in quotes")
    values = {name: cell.strip() for name, cell in zip(header, cells, strict=False) if cell.strip()}
    if "" in values:
        raise ConfigError(f"{values['']!r} is in a column without a name")
    prompt, seed, preset = (values.pop(name, "") for name in ("prompt", "seed", "preset"))
    if seed and not re.fullmatch(r"[0-9]{1,1000}", seed):
        raise _wrong_seed(seed)
    settings = tuple(_checked_setting(f"{name}={value}") for name, value in values.items())
    return _Given(prompt, int(seed) if seed else None, preset, settings)


def _checked_setting(text: str) -> str:
    key = text.partition("=")[0].strip()
    if key in KEYS:
        raise ConfigError(f'"{key}" is not a setting; give it as a key or column, outside of overrides')
    return text


def _checked(prompt: str) -> str:
    try:
        return checked_prompt(prompt)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _wrong_seed(text: str) -> ConfigError:
    return ConfigError(f"seed = {text}: give a whole number, 0 or more")


def _located(path: Path, problem: str, lines: Sequence[int]) -> str:
    """Return a problem with its first line number, and the further lines that have it, as ranges."""
    runs = [[line for _, line in group] for _, group in groupby(enumerate(lines[1:]), lambda pair: pair[1] - pair[0])]
    ranges = [f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    more = f" (also in {'lines' if len(lines) > 2 else 'line'} {', '.join(ranges)})" if ranges else ""
    return f"{path}:{lines[0]}: {problem}{more}"
