"""Turns this project's docstrings into reStructuredText for autodoc.

They are plain prose with a few conventions: `name: text` describes a parameter or attribute, at the start of a line or
after a sentence; single backticks mark code; paragraphs that are indented further are equations or examples.
"""

import inspect
import re
import textwrap
from contextlib import suppress
from typing import Any

_SPECIAL = re.compile(r"([\\*|_<>])")


def connect(app: Any) -> None:
    """Register the hooks with Sphinx."""
    app.connect("autodoc-process-docstring", _docstring)
    app.connect("autodoc-process-signature", _signature)
    app.connect("autodoc-skip-member", _skip)


def _docstring(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = to_rst("\n".join(lines), names_of(obj)).split("\n")


def _signature(app: Any, what: str, name: str, obj: Any, *rest: Any) -> tuple[str, str] | None:
    # The settings of a configuration are listed one by one below it.
    return ("", "") if what == "class" and hasattr(obj, "model_fields") else None


def _skip(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    # Fields of a named tuple, which its own docstring describes, and pydantic's own attribute.
    hidden = name == "model_config" or str(getattr(obj, "__doc__", "")).startswith("Alias for field number")
    return True if hidden else None


def names_of(obj: Any) -> set[str]:
    """The names that a docstring may describe: parameters of a function; fields, attributes and methods of a class."""
    names: set[str] = set()
    if inspect.isclass(obj):
        for base in obj.__mro__[:-1]:
            names |= vars(base).get("__annotations__", {}).keys() | {n for n in vars(base) if not n.startswith("_")}
        obj = obj.__init__
    with suppress(TypeError, ValueError):  # a module or a constant is not callable
        names |= inspect.signature(obj).parameters.keys()
    return names - {"self"}


def to_rst(text: str, names: set[str]) -> str:
    """A docstring as reStructuredText. names: what `name: text` may describe."""
    blocks = []
    for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
        if paragraph.startswith("    "):
            body = textwrap.indent(textwrap.dedent(paragraph), "   ")
            blocks.append(f".. code-block:: text\n\n{body}")
        else:
            blocks.append(_paragraph(" ".join(paragraph.split()), names))
    return "\n\n".join(blocks)


def _paragraph(text: str, names: set[str]) -> str:
    """Prose, followed by a list of each `name: text` in it."""
    listed = "|".join(sorted(map(re.escape, names), key=len, reverse=True)) or r"(?!)"
    pattern = re.compile(rf"(?:^|(?<=[.;!?)]) )((?:{listed})(?:, (?:{listed}))*): ")
    prose, *rest = pattern.split(text)
    pairs = zip(rest[::2], rest[1::2], strict=True)
    items = [f"- {_literals(key)}: {inline(value.strip())}" for key, value in pairs]
    return "\n\n".join(filter(None, [inline(prose.strip()), "\n".join(items)]))


def _literals(names: str) -> str:
    return ", ".join(f"``{name}``" for name in names.split(", "))


def inline(text: str) -> str:
    """One line of prose: code in single backticks becomes literal, everything else stays as it is."""
    parts = text.split("`")
    if len(parts) % 2 == 0:  # an unpaired backtick
        return _SPECIAL.sub(r"\\\1", text.replace("`", "'"))
    # A literal must be separated from letters around it: `a`s becomes ``a``\ s.
    out = ""
    for i, part in enumerate(parts):
        if i % 2 == 0:
            out += ("\\ " if i and part[:1].isalnum() else "") + _SPECIAL.sub(r"\\\1", part)
        elif part:
            out += ("\\ " if out[-1:].isalnum() else "") + f"``{part.strip()}``"
    return out
