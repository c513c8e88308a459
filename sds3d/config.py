"""Configuration without side effects: frozen pydantic models, YAML, dotted overrides, helpful errors.

A configuration is built from layers of plain mappings: the model's defaults, a preset (a partial YAML file) and
overrides such as `guidance.scale=7.5`. Later layers replace values of earlier ones.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import textwrap
import types
from collections.abc import Iterator, Mapping, Sequence, Set
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from sds3d.files import NotPlainError, read_plain

Tree = dict[str, Any]
"""A nested mapping, as read from YAML."""


class ConfigError(ValueError):
    """A key or value that cannot be used: one line per problem, with the nearest valid key or value."""


class Config(BaseModel):
    """Base of all configuration models: frozen, without unknown keys; see `help_texts` for docstrings of settings."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


ConfigT = TypeVar("ConfigT", bound=Config)


def _without_null(name: str) -> str:
    if "\0" in name:
        raise ValueError(f"{name!r} is no file's name: it has a null byte")
    return name


FileName = Annotated[str, AfterValidator(_without_null)]
"""The path of a file, which may be empty for none."""


def _data_dir(name: str) -> Path:
    package = Path(__file__).resolve().parent
    installed = package / f"_{name}"  # inside the package in a wheel, next to it in a checkout
    return installed if installed.is_dir() else package.parent / name


def assets_dir() -> Path:
    """Return the folder of the shipped assets, such as the embedded prior, in a checkout or an installed wheel."""
    return _data_dir("assets")


def configs_dir() -> Path:
    """Return the folder of the presets, in a checkout or an installed wheel."""
    return _data_dir("configs")


def nearest(word: str, known: Sequence[str], n: int = 1) -> list[str]:
    """Return up to `n` known words that look like `word`, the nearest first."""
    return difflib.get_close_matches(word, known, n=n, cutoff=0.6)


def merge(base: Mapping[str, Any], patch: Mapping[str, Any]) -> Tree:
    """Return `base` with the values of `patch`, section by section.

    A section is replaced as a whole if its `name` changes, since its other keys belong to the former choice. Keys of a
    section without a name are kept. A plain word in place of a named section is its name: representation=gaussians.
    """
    merged = dict(base)
    for key, given in patch.items():
        old = merged.get(key)
        old = {"name": old} if isinstance(old, str) and isinstance(given, Mapping) else old
        value = {"name": given} if isinstance(old, Mapping) and "name" in old and isinstance(given, str) else given
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            renamed = "name" in value and value["name"] != old.get("name", value["name"])
            merged[key] = dict(value) if renamed else merge(old, value)
        else:
            merged[key] = value
    return merged


MAX_VALUE = 10_000
"""Longest text of a value in characters; the longest prompts have a thousand."""


class _PlainLoader(yaml.SafeLoader):
    """Refuses aliases: a few nested ones expand to gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias")
        return super().compose_node(parent, index)


def parse_value(text: str) -> Any:
    """Parse an untrusted value written as YAML.

    Raises ConfigError if it is not valid YAML, is too long or too deeply nested, or uses aliases.
    """
    if len(text) > MAX_VALUE:
        raise ConfigError(f"a value of {len(text)} characters is too long: {MAX_VALUE} at most")
    try:
        return yaml.load(text, Loader=_PlainLoader)
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: a date that does not exist
        raise ConfigError(f"{_clipped(text)!r} is not a YAML value") from None


def parse_override(text: str) -> Tree:
    """Parse `a.b=value` to {"a": {"b": value}}, with the value in YAML.

    Raises ConfigError if "=" is missing, the key is empty or the value is not YAML.
    """
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f'"{_clipped(text)}" is not KEY=VALUE, for example guidance.scale=7.5')
    try:
        tree: Any = parse_value(value)
    except ConfigError as error:
        raise ConfigError(f"{_clipped(key)}: {error}; put it in quotes") from error
    for part in reversed(parts):
        tree = {part: tree}
    return tree


def build(model: type[ConfigT], *layers: Mapping[str, Any]) -> ConfigT:
    """Build a configuration from the model's defaults and `layers`, of which the last has precedence.

    Raises ConfigError with one line per problem.
    """
    tree = completed(model, *layers)
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        # A union without a discriminator reports a problem once per variant.
        lines = dict.fromkeys(_explain(model, tree, problem) for problem in error.errors())
        raise ConfigError("\n".join(lines)) from None


def completed(model: type[BaseModel], *layers: Mapping[str, Any]) -> Tree:
    """Return the defaults of a model with `layers` on top, of which the last has precedence, without validation."""
    tree = dict(_defaults(model))
    for layer in layers:
        tree = _complete(model, merge(tree, layer))
    return tree


def parse_yaml(text: str) -> Tree:
    """Parse the untrusted text of a settings file. Raises ConfigError if it is no mapping, or uses aliases."""
    try:
        tree = yaml.load(text, Loader=_PlainLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"this is not YAML: {' '.join(str(error).split())}") from None
    except (ValueError, RecursionError):  # ValueError: a date that does not exist
        raise ConfigError("this is not YAML that settings can have") from None
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise ConfigError("this is no mapping of keys to values, such as  steps: 200")
    return tree


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, but not in every build of PyYAML


def load_yaml(path: Path, *, follow: bool = True) -> Tree:
    """Read the mapping in a YAML file. follow: also through a symbolic link.

    Raises ConfigError if it cannot be read or is not a mapping.
    """
    try:
        tree = yaml.load(read_plain(path, follow=follow).decode(), Loader=_LOADER)
    except NotPlainError as error:
        raise ConfigError(str(error)) from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} is not a mapping of keys to values")
    return tree


def dump_yaml(config: Config, *, include: Set[str] | None = None, exclude: Set[str] | None = None) -> str:
    """Return the configuration as YAML, in the order of its fields. include, exclude: names of fields, or None."""
    values = config.model_dump(mode="json", include=_names(include), exclude=_names(exclude))
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True) if values else ""


def _names(fields: Set[str] | None) -> set[str] | None:
    return None if fields is None else set(fields)


@cache
def _defaults(model: type[BaseModel]) -> Mapping[str, Any]:
    """Return the defaults of all fields, so that a layer may give a single key of a section. Nobody changes them."""
    tree: Tree = {}
    for name, info in model.model_fields.items():
        if not info.is_required():
            value = info.get_default(call_default_factory=True, validated_data={})
            tree[name] = value.model_dump() if isinstance(value, BaseModel) else value
    return tree


def _complete(model: type[BaseModel], tree: Mapping[str, Any]) -> Tree:
    """Return `tree` with the defaults of the sections that it gives in part, as chosen by their `name`."""
    full = merge(_defaults(model), tree)
    for name in model.model_fields:
        section = full.get(name)
        if isinstance(section, Mapping):
            chosen = chosen_model(model, name, section)
            full[name] = section if chosen is None else _complete(chosen, section)
    return full


def meant(word: str, known: Sequence[str], otherwise: str = "") -> str:
    """Return the end of an error message: the nearest known word or, if none is near, `otherwise`.

    otherwise: by default, a list of all known words.
    """
    close = nearest(word, known)
    return f'did you mean "{close[0]}"?' if close else otherwise or f"use one of: {', '.join(known)}"


def _variants(annotation: Any) -> Iterator[Any]:
    """Yield the members of a union, without `Annotated` and `Optional`."""
    if get_origin(annotation) is Annotated:
        yield from _variants(get_args(annotation)[0])
    elif get_origin(annotation) in {Union, types.UnionType}:
        for member in get_args(annotation):
            yield from _variants(member)
    else:
        yield annotation


def alternatives(model: type[BaseModel], field: str) -> list[type[BaseModel]]:
    """Return the models that a field may hold: several for a choice by `name`, none for a plain value."""
    return _models(model.model_fields[field].annotation)


def chosen_model(model: type[BaseModel], field: str, section: Mapping[str, Any]) -> type[BaseModel] | None:
    """Return the model that a section's `name` chooses for a field; None if it has no such choice."""
    models = alternatives(model, field)
    chosen = [m for m in models if len(models) == 1 or _called(m, str(section.get("name")))]
    return chosen[0] if chosen else None


@cache
def help_texts(model: type[BaseModel]) -> Mapping[str, str]:
    """Return the docstrings below a model's settings, by the settings' names; none where its source cannot be read.

    Pydantic's `use_attribute_docstrings` would read them for all models at their import, which delays every start.
    """
    texts: dict[str, str] = {}
    for owner in reversed(model.__mro__):
        if issubclass(owner, Config) and owner is not Config:
            for name, text in _documented(owner):
                texts.pop(name, None)
                texts |= {name: text} if text else {}
    return texts


def _documented(owner: type[Config]) -> Iterator[tuple[str, str]]:
    """Yield the settings that a class defines itself, each with its docstring or ""."""
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
    except (OSError, TypeError, SyntaxError):
        return
    assert isinstance(tree, ast.ClassDef)
    for line, below in pairwise([*tree.body, ast.Pass()]):
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            match below:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    yield line.target.id, inspect.cleandoc(text)
                case _:
                    yield line.target.id, ""


def _models(annotation: Any) -> list[type[BaseModel]]:
    return [v for v in _variants(annotation) if isinstance(v, type) and issubclass(v, BaseModel)]


def _item(annotation: Any) -> Any:
    """Return the type of the items of a list of any length, and any other type itself."""
    inner = get_args(annotation)
    return inner[0] if get_origin(annotation) is tuple and inner[1:] == (Ellipsis,) else annotation


def _called(model: type[BaseModel], tag: str) -> bool:
    """Return whether `tag` in a pydantic error location means this variant: its `name`, or its class."""
    name = model.model_fields.get("name")
    tags = get_args(name.annotation) if name is not None and get_origin(name.annotation) is Literal else ()
    return tag in tags or tag == model.__name__


def _locate(model: type[BaseModel], location: Sequence[int | str]) -> tuple[list[str], type[BaseModel] | None]:
    """Return the dotted key of a pydantic error location, as a user writes it, and the model of its last part."""
    path: list[str] = []
    owner: type[BaseModel] | None = None
    current: list[type[BaseModel]] = [model]
    for part in location:
        chosen = [m for m in current if _called(m, str(part))]
        if chosen and len(path) > 0 and part not in current[0].model_fields:
            current = chosen  # the tag of a union, which users do not write
            continue
        path.append(str(part))
        if isinstance(part, int):  # of a list, whose items are the models
            continue
        owner = current[0] if current else None
        fields = owner.model_fields if owner else {}
        current = _models(_item(fields[part].annotation)) if part in fields else []
    return path, owner


def valid_keys(model: type[BaseModel], tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield every valid dotted key, given the choices of unions in `tree`."""
    for name, info in model.model_fields.items():
        yield prefix + name
        section = tree.get(name)
        models = _models(info.annotation)
        if isinstance(section, Mapping) and models:
            tag = str(section.get("name"))
            chosen = next((m for m in models if _called(m, tag)), models[0])
            yield from valid_keys(chosen, section, f"{prefix}{name}.")


def _explain(model: type[BaseModel], tree: Mapping[str, Any], problem: Any) -> str:
    """Describe a pydantic error in one line."""
    path, owner = _locate(model, problem["loc"])
    key = ".".join(path)
    context = problem.get("ctx", {})
    match problem["type"]:
        case "extra_forbidden":
            siblings = list(owner.model_fields) if owner else []
            close = [".".join([*path[:-1], name]) for name in nearest(path[-1], siblings)]
            # No similar key: it may belong to another section ("scale" for "guidance.scale").
            if not close:
                leaves = {key.rpartition(".")[2]: key for key in reversed(list(valid_keys(model, tree)))}
                close = [leaves[name] for name in nearest(path[-1], list(leaves))]
            hint = f'did you mean "{close[0]}"?' if close else f"valid keys: {', '.join(siblings)}"
            return f'unknown key "{key}"; {hint}'
        case "missing":
            return f"{key} is missing"
        case "union_tag_invalid":
            known = [tag.strip().strip("'") for tag in str(context["expected_tags"]).split(",")]
            return f'{key}.name = "{context["tag"]}" is unknown; {meant(str(context["tag"]), known)}'
        case "literal_error":
            known = [str(value) for value in _literals(owner, path[-1])]
            given = problem["input"]
            return f"{key} = {_clipped(repr(given))} is unknown; {meant(_clipped(str(given)), known)}"
        case _:
            message = problem["msg"].removeprefix("Value error, ")
            given = _clipped(repr(problem["input"]))
            return f"{key} = {given}: {message[:1].lower()}{message[1:]}" if key else message


def _clipped(text: str, most: int = 120) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _literals(owner: type[BaseModel] | None, field: str) -> list[Any]:
    if owner is None or field not in owner.model_fields:
        return []
    variants = _variants(owner.model_fields[field].annotation)
    return [value for v in variants if get_origin(v) is Literal for value in get_args(v)]
