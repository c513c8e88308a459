"""Settings of the test processes, and readable ids for parametrised values.

Each process uses one thread, and waiting threads sleep: torch reads these variables when it is imported.
"""

import dataclasses
import os
from enum import Enum
from pathlib import PurePath
from typing import Any

import pytest
from pydantic import BaseModel

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

LONGEST_NAME = 60
PLAIN = (str, int, float, complex, type(None), Enum, PurePath)


def pytest_make_parametrize_id(val: object, argname: str) -> str:
    """Name a parametrised value. Fails for values such as bytes and arrays: the test names these with `ids=`."""
    try:
        text = name_of(val).encode("unicode_escape").decode()
    except TypeError:
        message = f"{argname} of type {type(val).__name__} has no readable id: name the parameters with ids="
        raise pytest.UsageError(message) from None
    return text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 3]}..."


def name_of(value: Any) -> str:
    """Return a short name of a value, the same in every process. Raises TypeError if the value's type has none."""
    if isinstance(value, PLAIN):
        return str(value) or "empty"
    if isinstance(value, type):
        return value.__name__
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {value}"
    if isinstance(value, BaseModel):
        settings = value.model_dump(exclude_unset=True)
        return f"{type(value).__name__}({name_of(settings) if settings else ''})"
    if dataclasses.is_dataclass(value):
        return name_of([getattr(value, field.name) for field in dataclasses.fields(value)])
    if isinstance(value, dict):
        return ",".join(f"{key}={name_of(item)}" for key, item in value.items()) or "empty"
    if isinstance(value, list | tuple):
        return ",".join(map(name_of, value)) or "empty"
    if str(value).startswith("torch."):  # a dtype
        return str(value).removeprefix("torch.")
    if getattr(value, "__name__", "<lambda>") != "<lambda>":  # a function
        return value.__name__
    raise TypeError
