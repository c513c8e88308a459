"""Settings of the test processes, readable ids for parametrised values, and no skipped tests in CI.

Each process uses one thread, and waiting threads sleep: torch reads these variables when it is imported.
"""

import dataclasses
import os
import re
from collections.abc import Generator
from enum import Enum
from pathlib import Path, PurePath
from typing import Any, TypeVar

import pytest
from pydantic import BaseModel

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

LONG = {"browser", "evaluation", "jobs", "run", "tests", "toybox"}
NO_GPU = "torch finds no GPU"
"""The only reason for which tests may be skipped in CI, those in tests/cuda."""
LONGEST_NAME, EMPTY = 60, "empty"
PLAIN = (str, int, float, complex, type(None), Enum, PurePath)


COLLECTED = pytest.StashKey[list[str]]()
WITH_SLOW_TESTS = pytest.StashKey[set[Path]]()

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


def may_have_slow_tests(path: Path) -> bool:
    """Whether a file of tests mentions a mark for slow ones."""
    return re.search(r"\bmark\.slow\b|\bslow_after\b", path.read_text(encoding="utf-8")) is not None


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """For the slow tests alone, import only files that have some: all others take every process many seconds."""
    other = config.option.markexpr == "slow" and collection_path.match("test_*.py")
    return True if other and not may_have_slow_tests(collection_path) else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put folders first whose files take long: no process may be left with one at the end."""
    items.sort(key=lambda item: item.path.parent.name not in LONG)
    config.stash[COLLECTED] = [item.nodeid for item in items]
    config.stash[WITH_SLOW_TESTS] = {item.path for item in items if item.get_closest_marker("slow")}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each file's tests to one process, and all tests with a browser to one: they visit one studio."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            folder, _, _ = nodeid.rpartition("/test_")
            return "browser" if folder == "tests/browser" else super()._split_scope(nodeid)

    return ByFile(config, log)


@pytest.fixture(scope="session")
def collected(pytestconfig: pytest.Config) -> list[str]:
    """The ids of all tests that this process has collected, also of those that it will not run."""
    return pytestconfig.stash[COLLECTED]


@pytest.fixture(scope="session")
def with_slow_tests(pytestconfig: pytest.Config) -> set[Path]:
    """The files whose collected tests include slow ones."""
    return pytestconfig.stash[WITH_SLOW_TESTS]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """See `without_skips`."""
    return without_skips((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """See `without_skips`."""
    return without_skips((yield))


def without_skips(report: Report) -> Report:
    """Turn a skip into a failure if CI=true: CI has everything that tests need, except a GPU."""
    without_gpu = report.nodeid.startswith("tests/cuda/") and NO_GPU in str(report.longrepr)
    if report.skipped and os.environ.get("CI", "").lower() == "true" and not without_gpu:
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} must not be skipped in CI: {report.longrepr}"
    return report


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
        text = str(value)
    elif isinstance(value, BaseException):
        text = f"{type(value).__name__}: {value}"
    elif isinstance(value, BaseModel):
        text = f"{type(value).__name__}({name_of(value.model_dump(exclude_unset=True)).removeprefix(EMPTY)})"
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        text = name_of([getattr(value, field.name) for field in dataclasses.fields(value)])
    elif isinstance(value, dict):
        text = ",".join(f"{key}={name_of(item)}" for key, item in value.items())
    elif isinstance(value, list | tuple):
        text = ",".join(map(name_of, value))
    elif str(value).startswith("torch."):  # a dtype
        text = str(value).removeprefix("torch.")
    else:
        text = getattr(value, "__name__", "<lambda>")  # of a class or a function
        if text == "<lambda>":
            raise TypeError
    return text or EMPTY
