"""Ids of tests do not repeat and can be read in a report; each file has a name of its own.

Nor may ids depend on the second, the process or the order of a set: pytest-xdist compares what its processes collect,
each with its own order of sets, and refuses to run otherwise ("Different tests were collected").
"""

import string
from pathlib import Path

import pytest

from tests.conftest import NO_GPU, may_have_slow_tests, without_skips

ROOT = Path(__file__).resolve().parents[1]
LONGEST_ID = 300
PRINTABLE = set(string.printable) - set("\t\n\r\x0b\x0c")


def test_ids_are_readable_and_their_own(collected: list[str]) -> None:
    assert len(set(collected)) == len(collected)
    assert [test for test in collected if len(test) > LONGEST_ID or not PRINTABLE.issuperset(test)] == []


def test_no_slow_test_is_left_out_where_only_these_are_collected(with_slow_tests: set[Path]) -> None:
    assert [path for path in with_slow_tests if not may_have_slow_tests(path)] == []


@pytest.mark.parametrize(
    ("nodeid", "reason", "outcome"),
    [
        ("tests/cuda/test_runs.py::test_a", NO_GPU, "skipped"),
        ("tests/cuda/test_runs.py::test_a", "no gsplat", "failed"),
        ("tests/run/test_runs.py::test_a", NO_GPU, "failed"),
    ],
)
def test_ci_accepts_one_reason_to_skip(nodeid: str, reason: str, outcome: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    where = nodeid.partition("::")[0]
    report = pytest.TestReport(nodeid, (where, 1, "test_a"), {}, "skipped", (where, 1, f"Skipped: {reason}"), "setup")
    assert without_skips(report).outcome == outcome


def test_files_of_tests_have_names_of_their_own() -> None:
    # Folders of tests are no packages: pytest refuses the second file of a name.
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) > 100
    assert sorted(names) == sorted(set(names))
